//! `nanoinfer serve`: the HTTP server.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nanoinfer_engine::{
    BatchOptions, Cores, Engine, EngineOptions, Engines, KvType, Model, PrefixStore,
};
use nanoinfer_platform::ending::{self, Ending};
use nanoinfer_platform::sandbox::{self, Restriction, Sandbox};
use nanoinfer_platform::service::{self, Manager};
use nanoinfer_serve::{
    Bandwidth, Error, Handle, Keys, Listen, Listening, Load, Log, Options, Served,
};

use crate::args::{NamedModel, Serve};
use crate::limits::memory_bandwidth;
use crate::status::say;
use crate::template::Form;
use crate::{local, model};

/// Maximum number of requests of a key that wait.
const QUEUE_PER_KEY: usize = 16;

pub(crate) fn run(args: Serve) -> Result<ExitCode> {
    // Before the models, so that an incorrect option fails at once.
    let keys = args.keys.as_deref().map(Keys::read).transpose().context("--keys")?;
    let options = Options {
        keys,
        drain: Duration::from_secs(args.drain),
        max_time: args.max_seconds.map(Duration::from_secs),
        share_prefixes: args.share_prefixes,
        public_metrics: args.public_metrics,
        idle: args.idle_seconds.map(Duration::from_secs),
        memory: args.models_mb.map(|mb| mb.saturating_mul(1 << 20)),
        bandwidth: Some(Bandwidth::new(|threads| memory_bandwidth(threads).ok())),
        log: Log::new(say),
        ..Options::new(listen(&args)?)
    };
    options.check().map_err(with_advice)?;
    let form = Form::find(args.chat_template.as_deref(), None)?;
    let inherited = service::inherited().context("LISTEN_FDS")?;
    let manager = Arc::new(Manager::connect().context("NOTIFY_SOCKET")?);
    let models = args.model.iter().map(|name| {
        let NamedModel { name, source } = NamedModel::parse(name);
        Ok((name, model::open(&source, args.quant, &form)?))
    });
    let models: Vec<(String, Model)> = models.collect::<Result<_>>()?;
    let store = args.cache_dir.as_deref().map(|dir| store(dir, args.cache_size)).transpose()?;
    let listening = match inherited {
        Some(socket) => Listening::inherit(socket, options),
        None => Listening::bind(options),
    };
    let listening = listening.map_err(with_advice)?;
    // All threads are started later, so that they inherit the restrictions.
    say(&restrict(&args, &models));
    let share = models.len() as u64;
    let models =
        models.into_iter().map(|(name, model)| served(&args, name, model, share, store.clone()));
    let server = listening.serve(models.collect::<Result<_>>()?)?;
    end_on_signals(server.handle(), Arc::clone(&manager))?;
    let scheme = if server.address().parse::<SocketAddr>().is_ok() { "http://" } else { "" };
    let listening = format!("listening on {scheme}{}", server.address());
    say(&listening);
    notify(&manager, &format!("READY=1\nSTATUS={listening}"));
    server.run()?;
    Ok(ExitCode::SUCCESS)
}

fn with_advice(error: Error) -> anyhow::Error {
    match error {
        Error::Open { .. } => anyhow!("{error}: --host 127.0.0.1, or --keys FILE"),
        error => error.into(),
    }
}

fn store(folder: &Path, megabytes: u64) -> Result<PrefixStore> {
    let store = PrefixStore::open(folder, megabytes.saturating_mul(1 << 20));
    store.with_context(|| format!("--cache-dir {}: cannot create", folder.display()))
}

/// Gives up what the server does not need. Returns a line that says what is in force.
fn restrict(args: &Serve, models: &[(String, Model)]) -> String {
    if args.no_sandbox {
        return "sandbox: none, as --no-sandbox is set".to_owned();
    }
    // The models stay mapped. Of the program, only its symbols are read, for the trace of a panic.
    let models = models.iter().map(|(_, model)| model.file().path().to_path_buf());
    let read: Vec<PathBuf> = models.chain(std::env::current_exe()).collect();
    let write: Vec<PathBuf> = args.cache_dir.iter().cloned().collect();
    let Sandbox { files, calls } = sandbox::enter(&read, &write);
    let state = |what, restriction| match restriction {
        Restriction::Full => format!("{what} restricted"),
        Restriction::Partial => format!("{what} restricted as far as this kernel can"),
        Restriction::None(reason) => format!("{what} not restricted: {reason}"),
    };
    format!("sandbox: {}; {}", state("files", files), state("system calls", calls))
}

/// Tells the service manager, if there is one.
fn notify(manager: &Option<Manager>, state: &str) {
    if let Some(Err(error)) = manager.as_ref().map(|manager| manager.notify(state)) {
        say(&format!("NOTIFY_SOCKET: cannot send: {error}"));
    }
}

fn listen(args: &Serve) -> Result<Listen> {
    if let Some(path) = &args.listen {
        return Ok(Listen::Unix(path.clone()));
    }
    let addresses = (args.host.as_str(), args.port).to_socket_addrs();
    let address: Option<SocketAddr> =
        addresses.with_context(|| format!("--host {}", args.host))?.next();
    let address = address.with_context(|| format!("--host {}: no address", args.host))?;
    Ok(Listen::Tcp(address))
}

/// The engine of one of `share` models.
fn served(
    args: &Serve,
    name: String,
    model: Model,
    share: u64,
    store: Option<PrefixStore>,
) -> Result<Served> {
    let kv_bytes = args.kv_mb.map(|mb| mb.saturating_mul(1 << 20));
    let sequences = (args.sequences as usize, share);
    let options = EngineOptions {
        threads: args.threads.map(|n| n as usize),
        kv: args.kv.map(KvType::from),
        isa: model::forced_isa()?,
        ..local::shared(&model, sequences, args.ctx.map(|n| n as usize), kv_bytes)
    };
    let model = Arc::new(model);
    // The file stays mapped, so that an engine can be made again.
    let make = move || -> Result<Engines> {
        let mut engines = Engines::from(Engine::new(Arc::clone(&model), &options)?);
        engines.store.clone_from(&store);
        Ok(engines)
    };
    let engines = make()?;
    let engine = &engines.target;
    model::warn_beyond_training(engine);
    let (blocks, positions) = (engine.kv_blocks().0 as u64, 64);
    let cache = blocks * positions * engine.kv_bytes_per_position();
    let ctx = engine.ctx().min((blocks * positions) as usize);
    let quota = args.threads.is_none() && Cores::available().is_limited_by_quota();
    say(&format!(
        "{name}: {ctx} tokens per context, {} MB for the keys and values of {} tokens, threads: {}{}",
        cache >> 20,
        blocks * positions,
        engine.threads(),
        if quota { ", by the CPU quota of this process's cgroup" } else { "" }
    ));
    let batch = BatchOptions {
        pass_ms: args.pass_ms as f64,
        queue: args.queue as usize,
        // Without keys, all requests have the same.
        queue_per_key: if args.keys.is_some() { QUEUE_PER_KEY } else { args.queue as usize },
        ..BatchOptions::default()
    };
    let load = Some(Load::new(move || make().map_err(|e| format!("{e:#}"))));
    Ok(Served { name, engines, load, batch })
}

/// The first signal lets running answers end; the second ends the process.
fn end_on_signals(server: Handle, manager: Arc<Option<Manager>>) -> Result<()> {
    static DRAINING: AtomicBool = AtomicBool::new(false);
    ending::listen(&[Ending::Interrupt, Ending::Terminate], move |ending| {
        if DRAINING.swap(true, Ordering::Relaxed) {
            std::process::exit(ending.exit_code().into());
        }
        say("ending: running answers may finish");
        server.drain();
        notify(&manager, "STOPPING=1\nSTATUS=running answers may finish");
    })
    .context("cannot listen for signals")
}
