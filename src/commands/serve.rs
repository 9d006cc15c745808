//! `nanoinfer serve`: the HTTP server.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use nanoinfer_engine::{
    BatchOptions, Engine, EngineOptions, Engines, KvType, Model, PrefixStore, available_memory,
};
use nanoinfer_platform::ending::{self, Ending};
use nanoinfer_serve::{Bandwidth, Handle, Keys, Listen, Load, Log, Options, Served, Server};

use crate::args::{NamedModel, Serve};
use crate::limits::memory_bandwidth;
use crate::model;
use crate::status::say;
use crate::template::Template;

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
        idle: args.idle_seconds.map(Duration::from_secs),
        memory: args.models_mb.map(|mb| mb.saturating_mul(1 << 20)),
        bandwidth: Some(Bandwidth::new(|threads| memory_bandwidth(threads).ok())),
        log: Log::new(say),
        ..Options::new(listen(&args)?)
    };
    options.check().map_err(|e| anyhow::anyhow!("{e}: --host 127.0.0.1, or --keys FILE"))?;
    let template = args.chat_template.as_deref().map(Template::find).transpose()?;
    let share = args.model.len() as u64;
    let models = args.model.iter().map(|name| {
        let NamedModel { name, source } = NamedModel::parse(name);
        let model = model::open(&source, args.quant, template.as_ref())?;
        served(&args, name, model, share)
    });
    let models: Vec<Served> = models.collect::<Result<_>>()?;
    let server = Server::bind(models, options)?;
    end_on_signals(server.handle())?;
    let scheme = if args.listen.is_some() { "" } else { "http://" };
    say(&format!("listening on {scheme}{}", server.address()));
    server.run()?;
    Ok(ExitCode::SUCCESS)
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
fn served(args: &Serve, name: String, model: Model, share: u64) -> Result<Served> {
    let trained = model.config().context_length as usize;
    let sequences = args.sequences as usize;
    let bytes = model.file().header().file_len;
    let quarter = || available_memory().map(|free| free.saturating_sub(bytes) / 4 / share);
    let options = EngineOptions {
        threads: args.threads.map(|n| n as usize),
        ctx: Some(args.ctx.map_or(trained, |n| n as usize)),
        kv: args.kv.map(KvType::from),
        sequences,
        kv_bytes: args.kv_mb.map(|mb| mb.saturating_mul(1 << 20)).or_else(quarter),
        isa: model::forced_isa()?,
        logits_rows: sequences.max(16),
        ..EngineOptions::default()
    };
    let (model, folder) = (Arc::new(model), args.cache_dir.clone());
    let limit = args.cache_size.saturating_mul(1 << 20);
    // The file stays mapped, so that an engine can be made again.
    let make = move || make(&model, &options, folder.as_deref().map(|folder| (folder, limit)));
    let engines = make()?;
    let engine = &engines.target;
    model::warn_beyond_training(engine);
    let (blocks, positions) = (engine.kv_blocks().0 as u64, 64);
    let cache = blocks * positions * engine.kv_bytes_per_position();
    let ctx = engine.ctx().min((blocks * positions) as usize);
    say(&format!(
        "{name}: {ctx} tokens per context, {} MB for the keys and values of {} tokens, {} threads",
        cache >> 20,
        blocks * positions,
        engine.threads()
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

/// Makes an engine, with a store in a folder of limited size.
fn make(
    model: &Arc<Model>,
    options: &EngineOptions,
    store: Option<(&Path, u64)>,
) -> Result<Engines> {
    let mut engines = Engines::from(Engine::new(Arc::clone(model), options)?);
    if let Some((folder, limit)) = store {
        let store = PrefixStore::open(folder, limit);
        let context = || format!("--cache-dir {}: cannot create", folder.display());
        engines.store = Some(store.with_context(context)?);
    }
    Ok(engines)
}

/// The first signal lets running answers end; the second ends the process.
fn end_on_signals(server: Handle) -> Result<()> {
    static DRAINING: AtomicBool = AtomicBool::new(false);
    ending::listen(&[Ending::Interrupt, Ending::Terminate], move |ending| {
        if DRAINING.swap(true, Ordering::Relaxed) {
            std::process::exit(ending.exit_code().into());
        }
        say("ending: running answers may finish");
        server.drain();
    })
    .context("cannot listen for signals")
}
