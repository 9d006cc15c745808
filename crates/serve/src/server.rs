//! Starts, runs and drains a server.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nanoinfer_grammar::Grammars;
use nanoinfer_platform::local;
use nanoinfer_platform::service::Inherited;
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc as tokio_mpsc, oneshot, watch};

use crate::core::model::{Models, ServedModel, fingerprint};
use crate::core::read;
use crate::http::app::{App, unix_time};
use crate::http::listen::{Listener, accept};
use crate::http::routes::router;
use crate::inside::{Inside, Roof};
use crate::metrics::Metrics;
use crate::options::{Error, Listen, Options, Served};
use crate::problem::Problem;
use crate::room::Room;
use crate::runner::{self, Command, Delivery, Loading, Runner};
use crate::stream::{Link, distribute};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;
/// Time for last responses after the answers have ended.
pub(crate) const LAST_RESPONSES: Duration = Duration::from_secs(2);

/// The receiver of an engine's events, with the link that distributes them.
type Passes = (Arc<Link>, tokio_mpsc::UnboundedReceiver<Vec<Delivery>>);

/// An address on which to listen: connections wait until a server [serves](Self::serve) them.
pub struct Listening {
    runtime: Runtime,
    listener: Listener,
    address: String,
    options: Options,
}

impl std::fmt::Debug for Listening {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listening").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Listening {
    /// Listens where the options say. No thread is started yet.
    ///
    /// # Errors
    /// The address cannot be used, or other machines can reach it although there are no keys.
    pub fn bind(options: Options) -> Result<Self, Error> {
        options.check()?;
        let runtime = runtime()?;
        let (listener, address) = runtime.block_on(listen(&options))?;
        Ok(Self { runtime, listener, address, options })
    }

    /// Takes over a socket that listens already, in place of [`Options::listen`].
    ///
    /// # Errors
    /// It does not listen, or other machines can reach it although there are no keys.
    pub fn inherit(socket: Inherited, mut options: Options) -> Result<Self, Error> {
        let runtime = runtime()?;
        let failed = |source| Error::Listen { address: "the inherited socket".into(), source };
        let entered = runtime.enter(); // sockets belong to a runtime
        let (listener, address) = match socket {
            Inherited::Tcp(listener) => {
                let address = listener.local_addr().map_err(failed)?;
                listener.set_nonblocking(true).map_err(failed)?;
                options.listen = Listen::Tcp(address);
                let listener = TcpListener::from_std(listener).map_err(failed)?;
                (Listener::Tcp(listener), address.to_string())
            }
            Inherited::Local(listener) => {
                options.listen = Listen::Unix(PathBuf::new());
                let listener = local::Listener::inherit(listener).map_err(failed)?;
                (Listener::Local(listener), "the inherited socket".to_owned())
            }
        };
        drop(entered);
        options.check()?;
        Ok(Self { runtime, listener, address, options })
    }

    /// Starts a thread for each model's engine. Requests are answered once the server [runs](Server::run).
    ///
    /// # Errors
    /// There is no model, two have the same name, or a thread cannot be started.
    pub fn serve(self, models: Vec<Served>) -> Result<Server, Error> {
        let Self { runtime, listener, address, options } = self;
        let metrics = Metrics::new();
        let shared = Shared::new(&options);
        let (mut served, mut passes, mut engines) = (Vec::new(), Vec::new(), Vec::new());
        for model in models {
            if served.iter().any(|m: &Arc<ServedModel>| m.name == model.name) {
                let what = format!("two have the name {:?}", model.name);
                return Err(Error::Models { what });
            }
            let (model, receiver, engine) = start(model, &options, &metrics, &shared)?;
            engines.push(engine);
            passes.push((Arc::clone(&model.link), receiver));
            served.push(model);
        }
        if served.is_empty() {
            return Err(Error::Models { what: "there is none".into() });
        }
        let app = Arc::new(App::new(Models(served), options, Arc::new(metrics)));
        Ok(Server { runtime, listener, address, app, passes, engines })
    }
}

/// A server that is listening.
pub struct Server {
    runtime: Runtime,
    listener: Listener,
    address: String,
    app: Arc<App>,
    passes: Vec<Passes>,
    engines: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Controls a server from any thread.
#[derive(Clone)]
pub struct Handle {
    app: Arc<App>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

impl Handle {
    /// Lets the server end: it refuses new requests, finishes running ones within [`Options::drain`], and
    /// ends the others with an error.
    pub fn drain(&self) {
        self.app.begin_drain();
    }

    /// Sends a command to the engines.
    pub(crate) fn command(&self, command: impl Fn() -> Command) {
        self.app.models.0.iter().for_each(|m| m.link.send(command()));
    }
}

impl Server {
    /// Listens, and starts a thread for each model's engine. Requests are answered once it [runs](Self::run).
    ///
    /// # Errors
    /// Those of [`Listening::bind`] and [`Listening::serve`].
    pub fn bind(models: Vec<Served>, options: Options) -> Result<Self, Error> {
        Listening::bind(options)?.serve(models)
    }

    /// Where it listens: an address with its port, or `unix:` and a path.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A handle to end the server.
    pub fn handle(&self) -> Handle {
        Handle { app: Arc::clone(&self.app) }
    }

    /// Answers requests until the server is [drained](Handle::drain).
    ///
    /// # Errors
    /// Currently none.
    pub fn run(self) -> Result<(), Error> {
        let Self { runtime, listener, app, passes, engines, .. } = self;
        let (close, closing) = watch::channel(false);
        runtime.block_on(async {
            for (link, receiver) in passes {
                tokio::spawn(distribute(link, receiver));
            }
            let accepting = accept(Arc::clone(&app), listener, router(Arc::clone(&app)), closing);
            let accepting = tokio::spawn(accepting);
            app.drain.notified().await;
            drain(&app).await;
            accepting.abort();
            close.send_replace(true);
            // Ends at the latest when the last connection drops its receiver.
            let _ = tokio::time::timeout(LAST_RESPONSES, close.closed()).await;
        });
        app.models.0.iter().for_each(|m| m.link.send(Command::Stop));
        runtime.shutdown_timeout(LAST_RESPONSES);
        // They still write the last entry of the store. A panic in one has been reported.
        engines.into_iter().for_each(|engine| drop(engine.join()));
        Ok(())
    }
}

/// What drives connections: one thread, with a few more for work that takes longer than a moment.
pub(crate) fn runtime() -> Result<Runtime, Error> {
    Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .thread_keep_alive(Duration::from_secs(60))
        .build()
        .map_err(Error::Start)
}

/// Listens where the options say.
pub(crate) async fn listen(options: &Options) -> Result<(Listener, String), Error> {
    let (name, listening) = match &options.listen {
        Listen::Tcp(address) => {
            let listening = listen_tcp(*address, options.limits.send_buffer);
            (
                address.to_string(),
                listening.map(|(l, address)| (Listener::Tcp(l), address.to_string())),
            )
        }
        Listen::Unix(path) => {
            let name = format!("unix:{}", path.display());
            (name.clone(), local::Listener::bind(path).map(|l| (Listener::Local(l), name)))
        }
    };
    listening.map_err(|source| Error::Listen { address: name, source })
}

fn listen_tcp(
    address: SocketAddr,
    send_buffer: Option<u32>,
) -> std::io::Result<(TcpListener, SocketAddr)> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    if let Some(bytes) = send_buffer {
        socket.set_send_buffer_size(bytes)?;
    }
    socket.bind(address)?;
    let listener = socket.listen(BACKLOG)?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

pub(crate) type Started =
    (Arc<ServedModel>, tokio_mpsc::UnboundedReceiver<Vec<Delivery>>, JoinHandle<()>);

/// What the threads of engines share.
pub(crate) struct Shared {
    room: Arc<Room>,
    roof: Arc<Roof>,
}

impl Shared {
    pub(crate) fn new(options: &Options) -> Self {
        let roof = Arc::new(Roof::new(options.bandwidth.clone()));
        Self { room: Arc::new(Room::new(options.memory)), roof }
    }
}

/// Starts the thread of a model's engine.
pub(crate) fn start(
    served: Served,
    options: &Options,
    metrics: &Metrics,
    shared: &Shared,
) -> Result<Started, Error> {
    let Served { name, engines, load, batch } = served;
    let metrics = Arc::new(metrics.engine(&name));
    let log = options.log.clone();
    let (commands, receiver) = mpsc::channel();
    let (sender, passes) = tokio_mpsc::unbounded_channel();
    let at_once = read::at_once(&batch);
    let link = Arc::new(Link::new(commands, options.limits.unread, Arc::clone(&metrics)));
    let weak = Arc::downgrade(&link);
    let wake = move || {
        if let Some(link) = weak.upgrade() {
            link.send(Command::Wake);
        }
    };
    let (bytes, is_fixed) = (engines.memory(), options.memory.is_some() && load.is_none());
    let place = shared.room.add(bytes, wake).filter(|_| !is_fixed).ok_or_else(|| {
        let (mb, most) = (bytes >> 20, options.memory.unwrap_or(0) >> 20);
        let what = format!("{name:?} needs {mb} MB, but loaded models may have {most} MB");
        Error::Models { what }
    })?;
    let inside = Arc::new(Inside::new(Arc::clone(&shared.roof)));
    let (seen, idle, loaded_name) = (Arc::clone(&inside), options.idle, name.clone());
    // The engine's calling thread is one of its workers, so the batch is made where it runs.
    let (made, model) = oneshot::channel();
    let run = move || {
        let options = batch;
        let batch = runner::batch(engines, options, None);
        let engine = batch.engine();
        let about = (engine.model().clone(), batch.seams(), fingerprint(engine), batch.limit());
        let loading = Loading::new((loaded_name, load), (options, batch.seams()), place, idle);
        let mut runner = Runner::new((batch, loading), receiver, sender, (metrics, seen, log));
        runner.begin(); // before the next model is made, so that the first ones are loaded
        if made.send(about).is_ok() {
            runner.run();
        }
    };
    let thread = thread::Builder::new().name("engine".into()).spawn(run).map_err(Error::Start)?;
    let (model, seams, fingerprint, ctx) = model
        .blocking_recv()
        .map_err(|_| Error::Models { what: format!("the engine of {name:?} cannot be started") })?;
    let created = unix_time();
    let (grammars, format) = (Grammars::new(Arc::clone(&model)), OnceLock::new());
    let served = ServedModel {
        name,
        model,
        seams,
        grammars,
        format,
        link,
        inside,
        fingerprint,
        ctx,
        at_once,
        memory: bytes,
        created,
    };
    Ok((Arc::new(served), passes, thread))
}

/// Waits for the running answers, at most for [`Options::drain`], and ends the others.
async fn drain(app: &App) {
    let idle = async {
        for model in &app.models.0 {
            loop {
                let idle = model.link.idle.notified();
                if model.link.answers() == 0 {
                    break;
                }
                idle.await;
            }
        }
    };
    if tokio::time::timeout(app.options.drain, idle).await.is_err() {
        app.models.0.iter().for_each(|m| m.link.end_all(&Problem::draining()));
    }
}
