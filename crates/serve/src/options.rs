//! What a server is told at its start.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nanoinfer_engine::{BatchOptions, Engines};

use crate::keys::Keys;

/// Why a server cannot start or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another program uses the address, or it is not one of this machine.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address or path.
        address: String,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// Without keys, only this machine may connect.
    #[error(
        "{address} can be reached from other machines, which requires keys; listen on this machine only, or \
         use keys"
    )]
    Open {
        /// The address.
        address: SocketAddr,
    },
    /// No model, or two with the same name.
    #[error("models: {what}")]
    Models {
        /// The reason.
        what: String,
    },
    /// A thread or the event loop cannot be started.
    #[error("cannot start: {0}")]
    Start(std::io::Error),
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// An address and port; port 0 is any free one.
    Tcp(SocketAddr),
    /// A Unix socket, which only this user can open.
    Unix(PathBuf),
}

/// A model to serve.
#[derive(Debug)]
pub struct Served {
    /// Its name in requests.
    pub name: String,
    /// The engine, with its accelerators.
    pub engines: Engines,
    /// Makes the engine again after it was unloaded; without it, it never is.
    pub load: Option<Load>,
    /// How requests share it.
    pub batch: BatchOptions,
}

/// Makes an engine, without opening its model's file again.
#[derive(Clone)]
pub struct Load(Arc<LoadFn>);

type LoadFn = dyn Fn() -> Result<Engines, String> + Send + Sync;

impl Load {
    /// Calls `load` on the thread that runs the engine. Its error is shown to clients.
    pub fn new(load: impl Fn() -> Result<Engines, String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(load))
    }

    pub(crate) fn call(&self) -> Result<Engines, String> {
        (self.0)()
    }
}

impl fmt::Debug for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Load")
    }
}

/// Measures the memory bandwidth of a number of threads, in bytes per second.
#[derive(Clone)]
pub struct Bandwidth(Arc<dyn Fn(usize) -> Option<f64> + Send + Sync>);

impl Bandwidth {
    /// Calls `measure` once, when a page shows the inside of the server and no request is answered.
    pub fn new(measure: impl Fn(usize) -> Option<f64> + Send + Sync + 'static) -> Self {
        Self(Arc::new(measure))
    }

    pub(crate) fn measure(&self, threads: usize) -> Option<f64> {
        (self.0)(threads)
    }
}

impl fmt::Debug for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bandwidth")
    }
}

/// Limits on connections and requests.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Maximum number of connections; further ones wait.
    pub connections: usize,
    /// Maximum size of a request's head, in bytes.
    pub head: usize,
    /// Maximum size of a request's body, in bytes.
    pub body: usize,
    /// Time for a request's head, and between two parts of its body.
    pub read: Duration,
    /// Time for which a client may not read its answer before the connection is closed.
    pub write: Duration,
    /// Longest silence of a stream: a comment is sent instead.
    pub silence: Duration,
    /// Time without a sign of an engine's thread, which shows itself every second and after each pass, until the
    /// server calls itself unhealthy.
    pub engine: Duration,
    /// Number of unread events of an answer at which its generation pauses.
    pub unread: usize,
    /// Size of a connection's send buffer; by default, that of the operating system.
    pub send_buffer: Option<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            head: 64 << 10,
            body: 32 << 20,
            read: Duration::from_secs(30),
            write: Duration::from_secs(30),
            silence: Duration::from_secs(1),
            engine: Duration::from_secs(10),
            unread: 64,
            send_buffer: None,
        }
    }
}

/// Receives log lines, which contain no text of requests or answers.
#[derive(Clone)]
pub struct Log(Arc<dyn Fn(&str) + Send + Sync>);

impl Log {
    /// Calls `write` with each line.
    pub fn new(write: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(write))
    }

    pub(crate) fn line(&self, line: &str) {
        (self.0)(line);
    }
}

impl Default for Log {
    fn default() -> Self {
        Self::new(|_| {})
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Log")
    }
}

/// Options of a server.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen.
    pub listen: Listen,
    /// Who may send requests; `None` = everybody on this machine.
    pub keys: Option<Keys>,
    /// Whether requests with different keys reuse each other's contexts: faster, but the time of an answer, and
    /// its count of cached tokens, show what others asked.
    pub share_prefixes: bool,
    /// Whether `/metrics` needs no key, as for routers that choose a server by its figures.
    pub public_metrics: bool,
    /// Time without requests after which an engine is unloaded; the next request loads it again.
    pub idle: Option<Duration>,
    /// Maximum memory of loaded models, in bytes: see [`Engines::memory`]. A request for another one waits until
    /// the answers of an idle or less recently requested one have ended, which is then unloaded.
    pub memory: Option<u64>,
    /// For the page.
    pub bandwidth: Option<Bandwidth>,
    /// Time for running answers after a request to end.
    pub drain: Duration,
    /// Maximum time for an answer.
    pub max_time: Option<Duration>,
    /// Limits on connections and requests.
    pub limits: Limits,
    /// Where log lines go.
    pub log: Log,
}

impl Options {
    /// The defaults, for this address.
    pub fn new(listen: Listen) -> Self {
        Self {
            listen,
            keys: None,
            share_prefixes: false,
            public_metrics: false,
            idle: None,
            memory: None,
            bandwidth: None,
            drain: Duration::from_secs(30),
            max_time: None,
            limits: Limits::default(),
            log: Log::default(),
        }
    }

    /// Checks what needs no model.
    ///
    /// # Errors
    /// Other machines could connect, although there are no keys.
    pub fn check(&self) -> Result<(), Error> {
        match self.listen {
            Listen::Tcp(address) if self.keys.is_none() && !address.ip().is_loopback() => {
                Err(Error::Open { address })
            }
            _ => Ok(()),
        }
    }
}
