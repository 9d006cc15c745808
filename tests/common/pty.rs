//! The real binary in a pseudo-terminal, with a terminal emulator that captures its screen.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::common::std_with_default_model;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

/// Timeout in case the program hangs, long enough for the slowest machine.
const TIMEOUT: Duration = Duration::from_secs(600);
/// Written to the terminal by the test after the program has ended. Emulators ignore it, and the program
/// never writes it.
const MARK: u8 = 0x06;

pub(crate) struct Pty {
    pub(crate) child: Child,
    terminal: Option<File>,
    /// Keeps the terminal's settings readable after the program has ended.
    line: Option<OwnedFd>,
    emulator: Arc<Mutex<vt100::Parser>>,
    /// Tells the reader to close the terminal.
    closing: Arc<AtomicBool>,
    /// Whether the reader has seen the mark.
    marked: Arc<AtomicBool>,
}

impl Pty {
    /// Starts `nanoinfer` with these arguments on a terminal of `columns` × `rows`.
    pub(crate) fn start(args: &[&str], columns: u16, rows: u16, env: &[(&str, &str)]) -> Self {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC);
        let terminal = terminal.expect("a pseudo-terminal");
        grantpt(&terminal).expect("granted");
        unlockpt(&terminal).expect("unlocked");
        let name = ptsname(&terminal, Vec::new()).expect("a name");
        let name = name.into_string().expect("UTF-8");
        let open = || File::options().read(true).write(true).open(&name).expect("opens");
        resize(&terminal, columns, rows);
        // `setsid --ctty` makes it the controlling terminal, so that closing it sends SIGHUP.
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(std_with_default_model().get_program()).args(args);
        command.env("TERM", "xterm-256color").env("NANOINFER_HISTORY", "").env_remove("NO_COLOR");
        command.env_remove("NANOINFER_ISA").env("RUST_BACKTRACE", "0").envs(env.iter().copied());
        command.stdin(open()).stdout(open()).stderr(open());
        let child = command.spawn().expect("setsid from util-linux");
        rustix::io::ioctl_fionbio(&terminal, true).expect("non-blocking");
        let terminal = File::from(terminal);
        let emulator = Arc::new(Mutex::new(emulator(columns, rows)));
        let closing = Arc::new(AtomicBool::new(false));
        let reader = terminal.try_clone().expect("a copy");
        let marked = Arc::new(AtomicBool::new(false));
        let (shown, stop, mark) =
            (Arc::clone(&emulator), Arc::clone(&closing), Arc::clone(&marked));
        std::thread::spawn(move || show(reader, &shown, &stop, &mark));
        let (terminal, line) = (Some(terminal), Some(open().into()));
        Self { child, terminal, line, emulator, closing, marked }
    }

    /// Types `keys`.
    pub(crate) fn send(&mut self, keys: &str) {
        let terminal = self.terminal.as_mut().expect("open");
        let mut rest = keys.as_bytes();
        while !rest.is_empty() {
            match terminal.write(rest) {
                Ok(n) => rest = &rest[n..],
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(e) => panic!("cannot type: {e}"),
            }
        }
    }

    pub(crate) fn resize(&mut self, columns: u16, rows: u16) {
        // Locked throughout, so that no output for the new size reaches the old emulator: programs
        // redraw only changes.
        let mut shown = self.emulator.lock().expect("the emulator");
        resize(self.terminal.as_ref().expect("open"), columns, rows);
        *shown = emulator(columns, rows);
    }

    /// The screen's text.
    pub(crate) fn screen(&self) -> String {
        self.emulator.lock().expect("the emulator").screen().contents()
    }

    /// Waits until `matches` accepts the screen, and returns it.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, matches: impl Fn(&str) -> bool) -> String {
        let start = Instant::now();
        loop {
            let screen = self.screen();
            if matches(&screen) {
                return screen;
            }
            let ended = self.child.try_wait().expect("a child");
            assert!(ended.is_none(), "ended with {ended:?}; the screen shows:\n{screen}");
            assert!(start.elapsed() < TIMEOUT, "not shown:\n{screen}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[track_caller]
    pub(crate) fn wait_for_text(&mut self, text: &str) -> String {
        self.wait_for(|screen| screen.contains(text))
    }

    #[cfg(target_os = "linux")]
    pub(crate) fn kill(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("signalled");
    }

    /// Closes the terminal.
    pub(crate) fn close(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
        self.line = None;
        self.terminal = None;
    }

    /// Waits for the program to end, and for all its output to reach the emulator.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        let mut ended = None;
        loop {
            if ended.is_none() {
                ended = self.child.try_wait().expect("a child");
                if let (Some(_), Some(line)) = (ended, &self.line) {
                    rustix::io::write(line, &[MARK])
                        .expect("written after the program's last byte");
                }
            }
            if let Some(status) = ended
                && (self.line.is_none() || self.marked.load(Ordering::Acquire))
            {
                return status;
            }
            assert!(start.elapsed() < TIMEOUT, "still running:\n{}", self.screen());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Asserts that the terminal is restored.
    #[track_caller]
    pub(crate) fn assert_restored(&self) {
        let emulator = self.emulator.lock().expect("the emulator");
        let screen = emulator.screen();
        assert!(!screen.alternate_screen(), "still on the alternate screen");
        assert!(!screen.hide_cursor(), "the cursor is hidden");
        assert!(!screen.bracketed_paste(), "pastes are still bracketed");
        assert_eq!(screen.mouse_protocol_mode(), vt100::MouseProtocolMode::None);
        let modes = tcgetattr(self.line.as_ref().expect("open")).expect("a terminal").local_modes;
        assert!(modes.contains(LocalModes::ICANON | LocalModes::ECHO), "raw: {modes:?}");
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        let _ = self.child.kill(); // may have ended already
        let _ = self.child.wait();
    }
}

/// Feeds the emulator until either side closes the terminal.
fn show(
    mut terminal: File,
    emulator: &Mutex<vt100::Parser>,
    closing: &AtomicBool,
    marked: &AtomicBool,
) {
    let mut bytes = [0; 65536];
    while !closing.load(Ordering::Relaxed) {
        match terminal.read(&mut bytes) {
            Ok(n @ 1..) => {
                emulator.lock().expect("the emulator").process(&bytes[..n]);
                if bytes[..n].contains(&MARK) {
                    marked.store(true, Ordering::Release);
                }
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(2));
            }
            _ => return,
        }
    }
}

fn resize(terminal: impl std::os::fd::AsFd, columns: u16, rows: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).expect("resized");
}

fn emulator(columns: u16, rows: u16) -> vt100::Parser {
    let size = |n| NonZeroU16::new(n).expect("not zero");
    vt100::Parser::new(size(rows), size(columns), 0)
}
