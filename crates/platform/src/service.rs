//! Services: telling systemd, or another manager that speaks its protocol, how far a process is, and taking over
//! a socket on which the manager listens already.

use std::io;

/// A connection to the manager that started this process.
#[derive(Debug)]
pub struct Manager {
    #[cfg(unix)]
    socket: std::os::unix::net::UnixDatagram,
}

impl Manager {
    /// The manager named by `NOTIFY_SOCKET`; `None` if this process has none. Messages can also be sent from a
    /// [sandbox](crate::sandbox) that is entered later.
    ///
    /// # Errors
    /// The manager's socket cannot be reached.
    #[cfg(unix)]
    pub fn connect() -> io::Result<Option<Self>> {
        let name = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty());
        name.map(|name| Self::at(&name)).transpose()
    }

    /// None: this system has no such managers.
    ///
    /// # Errors
    /// None.
    #[cfg(not(unix))]
    pub fn connect() -> io::Result<Option<Self>> {
        Ok(None)
    }

    /// A name that begins with `@` is abstract: not that of a file.
    #[cfg(unix)]
    fn at(name: &std::ffi::OsStr) -> io::Result<Self> {
        use std::os::unix::ffi::OsStrExt;
        let socket = std::os::unix::net::UnixDatagram::unbound()?;
        match name.as_bytes().strip_prefix(b"@") {
            #[cfg(target_os = "linux")]
            Some(name) => {
                use std::os::linux::net::SocketAddrExt;
                let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
                socket.connect_addr(&address)?;
            }
            _ => socket.connect(name)?,
        }
        Ok(Self { socket })
    }

    /// Reports a state, such as `READY=1`; several are separated by line ends.
    ///
    /// # Errors
    /// The manager is gone.
    #[cfg(unix)]
    pub fn notify(&self, state: &str) -> io::Result<()> {
        self.socket.send(state.as_bytes()).map(drop)
    }

    /// Does nothing.
    ///
    /// # Errors
    /// None.
    #[cfg(not(unix))]
    pub fn notify(&self, _state: &str) -> io::Result<()> {
        Ok(())
    }
}

/// A socket on which a manager listens for this process.
#[derive(Debug)]
pub enum Inherited {
    /// For an address.
    Tcp(std::net::TcpListener),
    /// For a path.
    Local(LocalListener),
}

/// A listening local socket.
#[cfg(unix)]
pub type LocalListener = std::os::unix::net::UnixListener;

/// A listening local socket; this system has none.
#[cfg(not(unix))]
pub type LocalListener = std::convert::Infallible;

/// The socket that the manager passed on by `LISTEN_FDS`, if there is one.
///
/// # Errors
/// There are several, or it is no socket that listens for streams.
#[cfg(unix)]
pub fn inherited() -> io::Result<Option<Inherited>> {
    let mut sockets = listenfd::ListenFd::from_env();
    match sockets.len() {
        0 => return Ok(None),
        1 => {}
        _ => return Err(io::Error::other("more than one socket was passed on")),
    }
    if let Ok(Some(listener)) = sockets.take_unix_listener(0) {
        return Ok(Some(Inherited::Local(listener)));
    }
    Ok(sockets.take_tcp_listener(0)?.map(Inherited::Tcp))
}

/// None: this system has no such managers.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn inherited() -> io::Result<Option<Inherited>> {
    Ok(None)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    fn hears(manager: &UnixDatagram, name: &std::ffi::OsStr) {
        Manager::at(name).unwrap().notify("READY=1\nSTATUS=here").unwrap();
        let mut message = [0; 64];
        let n = manager.recv(&mut message).unwrap();
        assert_eq!(&message[..n], b"READY=1\nSTATUS=here");
    }

    #[test]
    fn states_are_sent_to_a_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        hears(&UnixDatagram::bind(&path).unwrap(), path.as_os_str());
        assert!(Manager::at(folder.path().join("none").as_os_str()).is_err());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn states_are_sent_to_an_abstract_name() {
        use std::os::linux::net::SocketAddrExt;
        let name = format!("nanoinfer-test-{}", std::process::id());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        hears(&manager, std::ffi::OsStr::new(&format!("@{name}")));
    }
}
