//! Sockets that only programs on this machine can open: Unix sockets, where they exist.

use std::io;
use std::path::{Path, PathBuf};

/// Listens on a path.
#[derive(Debug)]
pub struct Listener {
    #[cfg(unix)]
    listener: tokio::net::UnixListener,
    /// The socket's file, unless it belongs to somebody else.
    path: Option<PathBuf>,
}

/// A connection.
#[cfg(unix)]
pub type Stream = tokio::net::UnixStream;

/// A connection; this system has none.
#[cfg(not(unix))]
pub type Stream = tokio::net::TcpStream;

impl Listener {
    /// Listens on a path, which only this user can open. A socket that a killed process left behind is
    /// replaced. Call this within a runtime of tokio.
    ///
    /// # Errors
    /// The path exists, its folder does not, or this system has no such sockets.
    #[cfg(unix)]
    pub fn bind(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::{FileTypeExt, PermissionsExt};
        use std::os::unix::net::UnixStream;

        let is_socket = path.symlink_metadata().is_ok_and(|m| m.file_type().is_socket());
        if is_socket {
            match UnixStream::connect(path) {
                Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path)?
                }
                Err(e) => return Err(e),
            }
        }
        let listener = tokio::net::UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path: Some(path.to_path_buf()) })
    }

    /// Fails: this system has no such sockets.
    ///
    /// # Errors
    /// Always.
    #[cfg(not(unix))]
    pub fn bind(_path: &Path) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Takes over a socket that a [service manager](crate::service) keeps. Call this within a runtime of tokio.
    ///
    /// # Errors
    /// It is no socket that listens.
    #[cfg(all(unix, feature = "service"))]
    pub fn inherit(listener: crate::service::LocalListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { listener: tokio::net::UnixListener::from_std(listener)?, path: None })
    }

    /// Never called, as there are no such sockets.
    ///
    /// # Errors
    /// None.
    #[cfg(all(not(unix), feature = "service"))]
    pub fn inherit(listener: crate::service::LocalListener) -> io::Result<Self> {
        match listener {}
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    /// Those of the operating system, such as too many open files.
    #[cfg(unix)]
    pub async fn accept(&self) -> io::Result<Stream> {
        Ok(self.listener.accept().await?.0)
    }

    /// Fails: this system has no such sockets.
    ///
    /// # Errors
    /// Always.
    #[cfg(not(unix))]
    pub async fn accept(&self) -> io::Result<Stream> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // Of no use to anybody else. Fails in a sandbox; then the next server replaces it.
            let _ = std::fs::remove_file(path);
        }
    }
}
