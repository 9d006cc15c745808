//! What a process may still do in a sandbox. A sandbox cannot be left, so each test runs in a process of its own:
//! this program, started again for a single test.
#![cfg(all(target_os = "linux", feature = "service"))]

use std::fs::{self, File, Permissions};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::SystemTime;

use nanoinfer_platform::sandbox::{Restriction, Sandbox, enter};
use nanoinfer_platform::{cpu, memory};

const INSIDE: &str = "TEST_IN_SANDBOX";

/// The folder of the test if this is the process for the sandbox.
fn inside() -> Option<PathBuf> {
    std::env::var_os(INSIDE).map(PathBuf::from)
}

/// Starts this program again, for one test.
fn start(test: &str, folder: &std::path::Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(INSIDE, folder);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

fn assert_passes(child: Child) {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// Fails unless a restriction is in force; `false` with a note if the kernel has none.
fn is_in_force(restriction: &Restriction) -> bool {
    if let Restriction::None(reason) = restriction {
        eprintln!("not tested: {reason}");
    }
    !matches!(restriction, Restriction::None(_))
}

fn assert_denied<T: std::fmt::Debug>(result: io::Result<T>) {
    assert_eq!(result.unwrap_err().kind(), ErrorKind::PermissionDenied);
}

#[test]
fn only_the_given_files_can_be_opened() {
    let Some(folder) = inside() else {
        let folder = tempfile::tempdir().unwrap();
        for name in ["model", "secret", "cache/entry"] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        return assert_passes(start("only_the_given_files_can_be_opened", folder.path()));
    };
    let [model, secret, cache] = ["model", "secret", "cache"].map(|name| folder.join(name));
    let mut open = File::open(&secret).unwrap();
    let sandbox = enter(std::slice::from_ref(&model), std::slice::from_ref(&cache));
    if !is_in_force(&sandbox.files) {
        return;
    }
    // On a thread that is started later, as an engine's are.
    let tries = std::thread::spawn(move || {
        assert_eq!(fs::read_to_string(&model).unwrap(), "model");
        assert_denied(File::options().write(true).open(&model));
        assert_denied(fs::remove_file(&model));
        for other in [secret.as_path(), "/etc/passwd".as_ref(), "/proc/1/status".as_ref()] {
            assert_denied(File::open(other));
        }
        assert_denied(fs::read_dir(&folder));
        assert_denied(File::create(folder.join("new")));
        assert_denied(fs::create_dir(folder.join("folder")));
        assert_denied(fs::rename(cache.join("entry"), folder.join("entry")));
        assert_denied(std::os::unix::fs::symlink(&secret, cache.join("link")));
        // What a store of contexts does.
        assert_eq!(fs::read_dir(&cache).unwrap().count(), 1);
        let mut temp = tempfile::NamedTempFile::new_in(&cache).unwrap();
        temp.write_all(b"new").unwrap();
        temp.as_file().set_modified(SystemTime::now()).unwrap();
        temp.as_file().sync_all().unwrap();
        temp.persist(cache.join("entry")).unwrap();
        assert_eq!(fs::read_to_string(cache.join("entry")).unwrap(), "new");
        fs::remove_file(cache.join("entry")).unwrap();
        // What an engine asks of the machine.
        assert!(memory::available().is_some() && memory::resident().is_some());
        assert!(cpu::Cores::available().threads() > 0);
    });
    tries.join().unwrap();
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "secret");
}

#[test]
fn no_program_can_be_started_and_no_connection_opened() {
    let Some(folder) = inside() else {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        let mut child = start("no_program_can_be_started_and_no_connection_opened", folder.path());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let address = lines.find_map(|line| Some(line.split_once("listening on ")?.1.to_owned()));
        let mut text = String::new();
        TcpStream::connect(address.unwrap()).unwrap().read_to_string(&mut text).unwrap();
        let rest: Vec<String> = lines.collect();
        assert!(child.wait().unwrap().success() && text == "hello", "{text:?}, {rest:?}");
        return;
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let Sandbox { calls, .. } = enter(&[], &[folder.clone(), "/bin".into(), "/usr/bin".into()]);
    println!("listening on {address}");
    let mut accepted = listener.accept().unwrap().0;
    accepted.write_all(b"hello").unwrap();
    drop(accepted);
    if !is_in_force(&calls) {
        return;
    }
    assert_denied(Command::new("/bin/true").status());
    assert_denied(TcpStream::connect(address));
    assert_denied(TcpListener::bind("127.0.0.1:0"));
    assert_denied(UnixStream::connect(folder.join("socket")));
    assert_denied(fs::set_permissions(folder.join("file"), Permissions::from_mode(0o777)));
    // Threads are no processes.
    assert_eq!(std::thread::spawn(|| 1 + 1).join().unwrap(), 2);
    let status = fs::read_to_string("/proc/self/status").unwrap();
    assert!(status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2"), "{status}");
}
