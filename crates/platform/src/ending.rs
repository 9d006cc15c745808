//! External requests to end the program: Ctrl-C, termination, terminal hangup.
//!
//! On Unix these are SIGINT, SIGTERM and SIGHUP. Elsewhere only Ctrl-C is handled.

use std::io;

/// Reason for ending the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Ctrl-C.
    Interrupt,
    /// A termination request from the system or another program.
    Terminate,
    /// The terminal was closed.
    HangUp,
}

impl Ending {
    /// All endings.
    pub const ALL: [Self; 3] = [Self::Interrupt, Self::Terminate, Self::HangUp];

    /// Exit code of a program that ended for this reason: 128 plus the signal number, as in shells.
    pub fn exit_code(self) -> u8 {
        128 + self.signal()
    }

    /// The signal number, which POSIX fixes for every Unix.
    fn signal(self) -> u8 {
        match self {
            Self::HangUp => 1,
            Self::Interrupt => 2,
            Self::Terminate => 15,
        }
    }
}

/// Calls `then` on a dedicated thread whenever one of `endings` arrives, instead of the default action.
/// Call this at most once per process.
///
/// # Errors
/// The handler cannot be installed or the thread cannot be started.
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
            let ending = endings.iter().find(|ending| i32::from(ending.signal()) == number);
            if let Some(&ending) = ending {
                then(ending);
            }
        }
    })?;
    Ok(())
}

/// Calls `then` on a dedicated thread each time Ctrl-C is pressed, if `endings` contains it; this system
/// reports no other endings. Call this at most once per process.
///
/// # Errors
/// The handler cannot be installed or the thread cannot be started.
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
    fn endings_map_to_signals_and_exit_codes() {
        assert_eq!(signal_hook::consts::SIGHUP, i32::from(Ending::HangUp.signal()));
        assert_eq!(signal_hook::consts::SIGINT, i32::from(Ending::Interrupt.signal()));
        assert_eq!(signal_hook::consts::SIGTERM, i32::from(Ending::Terminate.signal()));
        assert_eq!(Ending::ALL.map(Ending::exit_code), [130, 143, 129]);
    }

    #[test]
    fn endings_arrive_in_order() {
        let (sender, received) = mpsc::channel();
        listen(&Ending::ALL, move |ending| sender.send(ending).unwrap()).unwrap();
        for ending in [Ending::Terminate, Ending::Interrupt, Ending::HangUp, Ending::Interrupt] {
            signal_hook::low_level::raise(ending.signal().into()).unwrap();
            assert_eq!(received.recv(), Ok(ending));
        }
    }
}
