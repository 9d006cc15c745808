//! `nanoinfer generate`: one prompt, one answer.

use std::fs::File;
use std::io::{IsTerminal, Read, stdin};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nanoinfer_engine::{Canceller, DraftStats, Drafted, Event, FinishReason, Message, Session};
use nanoinfer_platform::ending::{self, Ending};
use serde_json::json;

use crate::args::Generate;
use crate::clock::Clock;
use crate::report::Reporter;

/// Longest prompt read; more than any model's context holds.
const MAX_PROMPT: u64 = 64 << 20;

pub(crate) fn run(args: Generate, clock: Clock) -> Result<ExitCode> {
    let source = Source::open(&args)?;
    let mut session = crate::run::session(&args.model, &args.drafts, &args.cache)?;
    let load = clock.elapsed();
    let prompt = source.read()?;
    if args.chat {
        let system = crate::run::system(args.system.clone(), session.engine().model());
        let system = system.map(|s| Message::new("system", s));
        let messages: Vec<_> = system.into_iter().chain([Message::new("user", prompt)]).collect();
        session.prompt_chat(&messages)?;
    } else {
        session.prompt_text(&prompt)?;
    }
    let options = args.sampling.options(session.engine().model(), Some(args.n), &args.drafts);
    session.start(options)?;
    cancel_on_ctrl_c(session.canceller())?;
    crate::run::say_notes(&mut session);
    let (text, reason) = answer(&mut session, &args)?;
    session.remember();
    crate::run::say_notes(&mut session);
    if args.json {
        crate::run::print_json(&object(&session, &text, reason, load))?;
    }
    let cancelled = reason == FinishReason::Cancelled;
    Ok(if cancelled { ExitCode::from(Ending::Interrupt.exit_code()) } else { ExitCode::SUCCESS })
}

/// Where the prompt comes from: opened before the model is loaded, so that a wrong name is told
/// at once, and read after it, because a pipe may be slow.
enum Source {
    Text(String),
    File(File, String),
    Stdin,
}

impl Source {
    fn open(args: &Generate) -> Result<Self> {
        if let Some(text) = &args.prompt {
            return Ok(Self::Text(text.clone()));
        }
        if let Some(path) = &args.prompt_file {
            let name = path.display().to_string();
            let file = File::open(path).with_context(|| format!("{name}: cannot open"))?;
            return Ok(Self::File(file, name));
        }
        if stdin().is_terminal() {
            bail!("there is no prompt: give --prompt, --prompt-file, or text on standard input");
        }
        Ok(Self::Stdin)
    }

    fn read(self) -> Result<String> {
        match self {
            Self::Text(text) => Ok(text),
            Self::File(file, name) => read_text(file, &name),
            Self::Stdin => read_text(stdin().lock(), "standard input"),
        }
    }
}

pub(crate) fn read_text(source: impl Read, name: &str) -> Result<String> {
    let mut bytes = Vec::new();
    source
        .take(MAX_PROMPT + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("{name}: cannot read"))?;
    if bytes.len() as u64 > MAX_PROMPT {
        bail!("{name}: longer than {} MB; give a shorter one", MAX_PROMPT >> 20);
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        anyhow::anyhow!("{name}: byte {at} is not UTF-8; convert the text to UTF-8")
    })
}

/// The first Ctrl-C ends the answer, the second the process.
fn cancel_on_ctrl_c(canceller: Canceller) -> Result<()> {
    static ASKED: AtomicBool = AtomicBool::new(false);
    ending::listen(&[Ending::Interrupt], move |ending| {
        if ASKED.swap(true, Ordering::Relaxed) {
            std::process::exit(ending.exit_code().into());
        }
        canceller.cancel();
    })
    .context("cannot listen for Ctrl-C")
}

/// Generates, with text to standard output as it comes unless it is collected for JSON.
fn answer(session: &mut Session, args: &Generate) -> Result<(String, FinishReason)> {
    let (mut out, mut reporter) = (crate::run::stdout(), Reporter::default());
    let (mut all, mut ended) = (String::new(), FinishReason::Cancelled);
    while let Some(event) = session.next()? {
        match event {
            Event::Prefill { done, total } if done < total => {
                reporter.progress(done as u64, total as u64);
            }
            Event::Prefill { .. } => reporter.end(),
            Event::Token { text, .. } | Event::Finished { text, .. } if args.json => {
                all.push_str(text);
            }
            Event::Token { text, bytes, .. } | Event::Finished { text, bytes, .. } => {
                out.piece(text, bytes)?;
            }
            _ => {}
        }
        if let Event::Finished { reason, .. } = event {
            ended = reason;
        }
    }
    if out.is_terminal() && !args.json {
        out.newline()?;
    }
    Ok((all, ended))
}

/// As programs read it.
pub(crate) fn drafts(stats: &DraftStats) -> serde_json::Value {
    let source = |d: Drafted| json!({ "drafted": d.drafted, "accepted": d.accepted, "acceptance": d.acceptance() });
    let mut all = source(stats.all());
    all["passes"] = stats.passes.into();
    all["tokens_per_pass"] = stats.tokens_per_pass().into();
    all["lookup"] = source(stats.lookup);
    all["model"] = source(stats.model);
    all
}

fn object(
    session: &Session,
    text: &str,
    reason: FinishReason,
    load: Duration,
) -> serde_json::Value {
    let stats = session.stats();
    let ms = |d: Duration| (d.as_secs_f64() * 1e6).round() / 1e3;
    json!({
        "prompt_tokens": &session.tokens()[..stats.prompt_tokens],
        "tokens": session.generated(),
        "text": text,
        "finish_reason": reason.name(),
        "reused_tokens": stats.reused_tokens,
        "overflow": session.engine().overflow().name(),
        "evicted_tokens": session.evicted(),
        "drafts": drafts(&stats.drafts),
        "timings": {
            "load_ms": ms(load),
            "prefill_ms": ms(stats.prefill),
            "prefill_tps": stats.prefill_tps(),
            "decode_tps": stats.decode_tps(),
            "ttft_ms": ms(stats.first_token),
        },
        "isa": session.engine().isa().name(),
        "threads": session.engine().threads(),
    })
}
