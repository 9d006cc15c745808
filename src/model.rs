//! Opens the engine or session for `--model`.

use std::ffi::OsStr;
use std::str::FromStr;

use anyhow::{Context, Result, anyhow};
use nanoinfer_engine::{
    Drafting, Engine, EngineOptions, GenerateOptions, KvType, Model, PrefixStore, Sampling, Session,
};
use nanoinfer_format::Precision;
use nanoinfer_hub::{Online, Status};
use nanoinfer_interface::random_seed;
use nanoinfer_kernels::Isa;

use crate::Loader;
use crate::args::{CacheArgs, DraftArgs, ModelArgs, SamplingArgs, Seed};
use crate::smaller::smaller;
use crate::status::{Reporter, say};
use crate::template::Form;

/// A model without an engine, for work on text.
pub(crate) fn open(name: &OsStr, quant: Precision, form: &Form) -> Result<Model> {
    let mut reporter = Reporter::for_model(name);
    let mut status = |status: Status<'_>| reporter.status(status);
    let mut model = loader(name, quant).status(&mut status).model()?;
    if let Some(note) = outdated(name, &model) {
        say(&note);
    }
    form.set(&mut model)?;
    Ok(model)
}

fn loader<'a>(model: &OsStr, quant: Precision) -> Loader<'a> {
    Loader::new(model).quant(quant).fetch(&Online)
}

/// An engine configured by the options. Warns about a context that the model was not trained for.
pub(crate) fn engine(args: &ModelArgs) -> Result<Engine> {
    let mut reporter = Reporter::for_model(&args.model);
    let engine = open_engine(args, &Form::default(), &mut |status| reporter.status(status))?;
    warn_beyond_training(&engine);
    Ok(engine)
}

/// Prints a warning if the context is longer than the model was trained for.
pub(crate) fn warn_beyond_training(engine: &Engine) {
    let (ctx, trained) = (engine.ctx(), engine.model().config().context_length as usize);
    if ctx > trained {
        say(&format!(
            "warning: the model was trained for {trained} tokens, and text beyond them is usually \
             useless; use --ctx {trained} or less"
        ));
    }
}

fn open_engine(
    args: &ModelArgs,
    form: &Form,
    status: &mut dyn FnMut(Status<'_>),
) -> Result<Engine> {
    let options = EngineOptions {
        threads: args.threads.map(|n| n as usize),
        ctx: args.ctx.map(|n| n as usize),
        kv: args.kv.map(KvType::from),
        overflow: args.overflow.into(),
        isa: forced_isa()?,
        ..EngineOptions::default()
    };
    let loader = loader(&args.model, args.quant).in_memory(args.no_mmap);
    let loader = match &args.revision {
        Some(revision) => loader.revision(revision),
        None => loader,
    };
    let mut model = loader.status(&mut *status).model()?;
    if let Some(note) = outdated(&args.model, &model) {
        status(Status::Message(&note));
    }
    form.set(&mut model)?;
    Ok(Engine::new(model, &options)?)
}

/// A note if the file was converted by an older version. Cached conversions are made anew, so this is a
/// file that the user named.
fn outdated(name: &OsStr, model: &Model) -> Option<String> {
    let missed = nanoinfer_packer::missed_by(model.file().packer_version())?;
    model.tokenizer().ok()?;
    let (name, next) = (name.display(), "convert its source again");
    Some(format!("note: {name} was converted by an older version: {missed}; {next}"))
}

/// A session with an empty context; progress goes to standard error.
pub(crate) fn session(
    args: &ModelArgs,
    form: &Form,
    drafts: &DraftArgs,
    cache: &CacheArgs,
) -> Result<Session> {
    let mut reporter = Reporter::for_model(&args.model);
    open_session(args, form, drafts, cache, &mut |status| reporter.status(status))
}

/// Like [`session`], but passes status messages to `status`, because a full-screen chat owns the
/// terminal.
pub(crate) fn session_with_status(
    args: &ModelArgs,
    drafts: &DraftArgs,
    cache: &CacheArgs,
    status: &dyn Fn(String),
) -> Result<Session> {
    open_session(args, &Form::default(), drafts, cache, &mut |event| {
        let message = match event {
            Status::Message(message) => Some(message.to_owned()),
            Status::Cached(path) => smaller(&args.model, path),
            Status::Bytes { .. } | Status::Steps { .. } => None,
        };
        if let Some(message) = message {
            status(nanoinfer_text::terminal_safe(&message).into_owned());
        }
    })
}

fn open_session(
    args: &ModelArgs,
    form: &Form,
    drafts: &DraftArgs,
    cache: &CacheArgs,
    status: &mut dyn FnMut(Status<'_>),
) -> Result<Session> {
    let mut session = Session::new(open_engine(args, form, status)?)?;
    if let Some(model) = &drafts.draft {
        let args = ModelArgs {
            model: model.clone(),
            revision: None,
            quant: Precision::Auto,
            ctx: Some(session.engine().ctx() as u64),
            kv: None,
            ..args.clone()
        };
        session.set_draft_model(open_engine(&args, &Form::default(), status)?)?;
    }
    if let Some(folder) = &cache.cache_dir {
        let store = PrefixStore::open(folder, cache.cache_size.saturating_mul(1 << 20));
        let context = || format!("--cache-dir {}: cannot create", folder.display());
        session.set_store(Some(store.with_context(context)?));
    }
    Ok(session)
}

/// Prints why a stored prefix was ignored or a new one was not stored.
pub(crate) fn say_notes(session: &mut Session) {
    for note in session.take_notes() {
        say(&note);
    }
}

/// The given system message, or else the one baked into the model's file.
pub(crate) fn system(given: Option<String>, model: &Model) -> Option<String> {
    given.or_else(|| model.baked_prompt())
}

/// The instruction set that `NANOINFER_ISA` forces.
pub(crate) fn forced_isa() -> Result<Option<Isa>> {
    let Some(name) = std::env::var_os("NANOINFER_ISA").filter(|v| !v.is_empty()) else {
        return Ok(None);
    };
    let isa = Isa::from_str(&name.to_string_lossy());
    Ok(Some(isa.map_err(|e| anyhow!("NANOINFER_ISA: {e}"))?))
}

/// The model's own sampling defaults, overridden by the given options. Prints the seed if it is random.
pub(crate) fn generate_options(
    model: &Model,
    args: &SamplingArgs,
    max_tokens: Option<usize>,
    drafts: &DraftArgs,
) -> GenerateOptions {
    let defaults = Sampling::of(model.generation());
    let sampling = Sampling {
        temperature: args.temp.unwrap_or(defaults.temperature),
        top_k: args.top_k.unwrap_or(defaults.top_k),
        top_p: args.top_p.unwrap_or(defaults.top_p),
        min_p: args.min_p.unwrap_or(defaults.min_p),
        repetition_penalty: args.repeat_penalty.unwrap_or(defaults.repetition_penalty),
        presence_penalty: args.presence_penalty.unwrap_or(defaults.presence_penalty),
        frequency_penalty: args.frequency_penalty.unwrap_or(defaults.frequency_penalty),
        seed: match args.seed {
            Some(Seed::Given(seed)) => seed,
            Some(Seed::Random) => random_seed(),
            None => defaults.seed,
        },
    };
    if let Some(Seed::Random) = args.seed {
        say(&format!("seed {}", sampling.seed));
    }
    let named = |text: &String| model.tokenizer().ok()?.added_token(text);
    GenerateOptions {
        max_tokens,
        sampling,
        stop: args.stop.clone(),
        stop_tokens: args.stop.iter().filter_map(named).collect(),
        ignore_eos: args.ignore_eos,
        drafting: if drafts.no_draft {
            Drafting::OFF
        } else {
            Drafting { fixed: drafts.draft_length, ..Drafting::default() }
        },
        ..GenerateOptions::default()
    }
}
