//! What ends a program from outside: Ctrl-C, a request to end, a terminal that hangs up.
//!
//! On Unix these are SIGINT, SIGTERM and SIGHUP. Elsewhere only Ctrl-C is heard.

use std::io;

/// Why the program is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Ctrl-C.
    Interrupt,
    /// The system, or another program, wants it to end.
    Terminate,
    /// The terminal is gone.
    HangUp,
}

impl Ending {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Interrupt, Self::Terminate, Self::HangUp];

    /// The exit code of a program that ended because of it: 128 and the number of the signal, as
    /// shells have it.
    pub fn exit_code(self) -> u8 {
        128 + self.signal()
    }

    /// The same number on every Unix: POSIX fixes it.
    fn signal(self) -> u8 {
        match self {
            Self::HangUp => 1,
            Self::Interrupt => 2,
            Self::Terminate => 15,
        }
    }
}

/// Calls `then`, in a thread of its own, each time one of `endings` comes; its default action no
/// longer takes place. To be called once per process.
///
/// # Errors
/// The system installs no handler or starts no thread.
#[cfg(unix)]
pub fn listen(
    endings: &'static [Ending],
    mut then: impl FnMut(Ending) + Send + 'static,
) -> io::Result<()> {
    let numbers = endings.iter().map(|ending| i32::from(ending.signal()));
    let mut signals = signal_hook::iterator::Signals::new(numbers)?;
    let name = "endings".to_owned();
    std::thread::Builder::new().name(name).spawn(move || {
        for number in signals.forever() {
            let came = endings.iter().find(|ending| i32::from(ending.signal()) == number);
            came.copied().into_iter().for_each(&mut then);
        }
    })?;
    Ok(())
}

/// Calls `then`, in a thread of its own, each time Ctrl-C is pressed, if it is one of `endings`; the
/// others are not heard on this system. To be called once per process.
///
/// # Errors
/// The system installs no handler, or starts no thread.
#[cfg(not(unix))]
pub fn listen(
    endings: &'static [Ending],
    mut then: impl FnMut(Ending) + Send + 'static,
) -> io::Result<()> {
    if !endings.contains(&Ending::Interrupt) {
        return Ok(());
    }
    ctrlc::set_handler(move || then(Ending::Interrupt)).map_err(io::Error::other)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn each_signal_is_its_ending() {
        assert_eq!(signal_hook::consts::SIGHUP, i32::from(Ending::HangUp.signal()));
        assert_eq!(signal_hook::consts::SIGINT, i32::from(Ending::Interrupt.signal()));
        assert_eq!(signal_hook::consts::SIGTERM, i32::from(Ending::Terminate.signal()));
        assert_eq!(Ending::ALL.map(Ending::exit_code), [130, 143, 129]);
    }

    #[test]
    fn endings_arrive_one_after_the_other() {
        let (sender, received) = mpsc::channel();
        listen(&Ending::ALL, move |ending| sender.send(ending).unwrap()).unwrap();
        for ending in [Ending::Terminate, Ending::Interrupt, Ending::HangUp, Ending::Interrupt] {
            signal_hook::low_level::raise(ending.signal().into()).unwrap();
            assert_eq!(received.recv(), Ok(ending));
        }
    }
}
