//! Wakes an event loop that waits for a file descriptor.

use std::io;

/// A descriptor that becomes readable when it is [signalled](Signal::signal), from any thread.
#[derive(Debug)]
pub struct Signal {
    #[cfg(unix)]
    pair: (std::os::unix::net::UnixStream, std::os::unix::net::UnixStream),
}

#[cfg(unix)]
impl Signal {
    /// A signal that was not given yet; `None` if this system has no such descriptors.
    ///
    /// # Errors
    /// The process has too many descriptors.
    pub fn new() -> io::Result<Option<Self>> {
        let pair = std::os::unix::net::UnixStream::pair()?;
        pair.0.set_nonblocking(true)?;
        pair.1.set_nonblocking(true)?;
        Ok(Some(Self { pair }))
    }

    /// The descriptor to wait for.
    pub fn descriptor(&self) -> i32 {
        std::os::fd::AsRawFd::as_raw_fd(&self.pair.0)
    }

    /// Makes the descriptor readable.
    pub fn signal(&self) {
        // Fails if many signals were given and none was taken, in which case it is readable already.
        let _ = io::Write::write(&mut &self.pair.1, &[0]);
    }

    /// Takes all signals that were given, so that the descriptor is no longer readable.
    pub fn take(&self) {
        let mut bytes = [0; 64];
        while io::Read::read(&mut &self.pair.0, &mut bytes).is_ok_and(|n| n == bytes.len()) {}
    }
}

#[cfg(not(unix))]
impl Signal {
    /// `None`: this system has no such descriptors.
    ///
    /// # Errors
    /// Never.
    pub fn new() -> io::Result<Option<Self>> {
        Ok(None)
    }

    /// No descriptor.
    pub fn descriptor(&self) -> i32 {
        -1
    }

    /// Does nothing.
    pub fn signal(&self) {}

    /// Does nothing.
    pub fn take(&self) {}
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn many_signals_are_taken_at_once() {
        let signal = Signal::new().unwrap().unwrap();
        signal.take();
        (0..100_000).for_each(|_| signal.signal()); // more than a socket holds
        signal.take();
        let mut byte = [0];
        let next = io::Read::read(&mut &signal.pair.0, &mut byte);
        assert_eq!(next.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        signal.signal();
        assert_eq!(io::Read::read(&mut &signal.pair.0, &mut byte).unwrap(), 1);
    }
}
