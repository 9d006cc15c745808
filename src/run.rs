//! What the commands that run a model share: from `--model` to an engine.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, anyhow};
use nanoinfer_engine::{
    Drafting, Engine, EngineOptions, GenerateOptions, KvType, Model, Overflow, PrefixStore,
    Sampling, Session,
};
use nanoinfer_format::Quant;
use nanoinfer_hub::{ModelRef, Online, Status, StatusFn, Store};
use nanoinfer_interface::terminal;
use nanoinfer_kernels::Isa;

use crate::args::{self, CacheArgs, DraftArgs, Kv, ModelArgs, SamplingArgs};
use crate::report::Reporter;

/// The `.nano` file for what was given as `--model`, made now if it has to be.
pub(crate) fn nano_file(model: &str) -> Result<PathBuf> {
    let mut reporter = Reporter::default();
    resolve(model, None, &mut |status| reporter.status(status))
}

/// The same for a revision of a hub model.
fn resolve(model: &str, revision: Option<&str>, status: &mut StatusFn<'_>) -> Result<PathBuf> {
    let model = ModelRef::parse(model)?.at_revision(revision)?;
    Ok(Store::open()?.resolve(&model, Quant::Q8, Some(&Online), status)?)
}

/// The model, mapped, with threads and buffers.
pub(crate) fn engine(args: &ModelArgs) -> Result<Engine> {
    let mut reporter = Reporter::default();
    engine_told(args, &mut |status| reporter.status(status))
}

fn engine_told(args: &ModelArgs, status: &mut StatusFn<'_>) -> Result<Engine> {
    let file = resolve(&args.model, args.revision.as_deref(), status)?;
    let model = if args.no_mmap { Model::open_copy(file)? } else { Model::open(file)? };
    let options = EngineOptions {
        threads: args.threads.map(|n| n as usize),
        ctx: args.ctx.map(|n| n as usize),
        kv: args.kv.map(KvType::from),
        overflow: match args.overflow {
            args::Overflow::Stop => Overflow::Stop,
            args::Overflow::Slide => Overflow::Slide,
        },
        isa: forced_isa()?,
        ..EngineOptions::default()
    };
    Ok(Engine::new(model, &options)?)
}

/// A session with an empty context, ready to take tokens.
pub(crate) fn session(args: &ModelArgs, drafts: &DraftArgs, cache: &CacheArgs) -> Result<Session> {
    let mut reporter = Reporter::default();
    session_reported(args, drafts, cache, &mut |status| reporter.status(status))
}

fn session_reported(
    args: &ModelArgs,
    drafts: &DraftArgs,
    cache: &CacheArgs,
    status: &mut StatusFn<'_>,
) -> Result<Session> {
    let mut session = Session::new(engine_told(args, status)?)?;
    if let Some(model) = &drafts.draft {
        let args = ModelArgs {
            model: model.clone(),
            revision: None,
            ctx: Some(session.engine().ctx() as u64),
            kv: None,
            ..args.clone()
        };
        session.set_draft_model(engine_told(&args, status)?)?;
    }
    if let Some(folder) = &cache.cache_dir {
        let store = PrefixStore::open(folder, cache.cache_size.saturating_mul(1 << 20));
        let what = || format!("--cache-dir {}: cannot be made", folder.display());
        session.set_store(Some(store.with_context(what)?));
    }
    Ok(session)
}

/// The same where standard error is not to be written to: what it does goes to `tell`.
pub(crate) fn session_told(
    args: &ModelArgs,
    drafts: &DraftArgs,
    cache: &CacheArgs,
    tell: &dyn Fn(String),
) -> Result<Session> {
    session_reported(args, drafts, cache, &mut |status| {
        if let Status::Message(message) = status {
            tell(nanoinfer_text::terminal_safe(message).into_owned());
        }
    })
}

/// Says why something that was stored was of no use.
pub(crate) fn say_notes(session: &mut Session) {
    session.take_notes().iter().for_each(|note| crate::report::say(note));
}

/// What a conversation begins with: the message given, else the one in the model's file.
pub(crate) fn system(given: Option<String>, model: &Model) -> Option<String> {
    given.or_else(|| model.baked_prompt())
}

pub(crate) fn forced_isa() -> Result<Option<Isa>> {
    let Some(name) = std::env::var_os("NANOINFER_ISA").filter(|v| !v.is_empty()) else {
        return Ok(None);
    };
    let isa = Isa::from_str(&name.to_string_lossy());
    Ok(Some(isa.map_err(|e| anyhow!("NANOINFER_ISA: {e}"))?))
}

impl From<Kv> for KvType {
    fn from(kv: Kv) -> Self {
        match kv {
            Kv::Q8 => Self::Q8,
            Kv::F16 => Self::F16,
            Kv::F32 => Self::F32,
        }
    }
}

impl SamplingArgs {
    /// The model's own way of choosing tokens, overridden by what was typed.
    pub(crate) fn options(
        &self,
        model: &Model,
        max_tokens: Option<usize>,
        drafts: &DraftArgs,
    ) -> GenerateOptions {
        let d = Sampling::of(model.generation());
        let sampling = Sampling {
            temperature: self.temp.unwrap_or(d.temperature),
            top_k: self.top_k.unwrap_or(d.top_k),
            top_p: self.top_p.unwrap_or(d.top_p),
            min_p: self.min_p.unwrap_or(d.min_p),
            repetition_penalty: self.repeat_penalty.unwrap_or(d.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(d.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(d.frequency_penalty),
            seed: self.seed.unwrap_or(d.seed),
        };
        GenerateOptions {
            max_tokens,
            sampling,
            stop: self.stop.clone(),
            ignore_eos: self.ignore_eos,
            drafting: if drafts.no_draft {
                Drafting::OFF
            } else {
                Drafting { fixed: drafts.draft_length, ..Drafting::default() }
            },
        }
    }
}

/// Standard output for model text: exact bytes into a pipe, harmless text onto a terminal.
pub(crate) fn stdout() -> terminal::Output<io::StdoutLock<'static>> {
    let out = io::stdout().lock();
    let is_terminal = out.is_terminal();
    terminal::Output::new(out, is_terminal)
}

/// One JSON value and a line end.
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let mut out = io::stdout().lock();
    let text = serde_json::to_string(value)?;
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}
