//! `nanoinfer generate`: one prompt, one answer.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use nanoinfer_engine::{Canceller, Event, FinishReason, Session};
use nanoinfer_platform::ending::{self, Ending};
use serde_json::json;

use crate::args::{Generate, Think};
use crate::clock::Clock;
use crate::follow::Follow;
use crate::model;
use crate::output::{draft_stats, print_json, stdout};
use crate::prompt::{Prompt, Source};
use crate::status::Reporter;
use crate::template::Form;

const NO_PROMPT: &str =
    "no prompt; specify --prompt or --prompt-file, or pipe text to standard input";

pub(crate) fn run(args: Generate, clock: Clock) -> Result<ExitCode> {
    // Before the model, so that an incorrect option fails at once.
    let file = args.prompt_file.as_deref();
    let source = Source::new(args.prompt.as_deref(), file, &args.form, NO_PROMPT)?;
    let mut follow = Follow::read(&args.follow)?;
    let form = Form::find(args.form.chat_template.as_deref(), args.form.think)?;
    let mut session = model::session(&args.model, &form, &args.drafts, &args.cache)?;
    let load = clock.elapsed();
    follow.iter_mut().for_each(|follow| follow.prepare(&session));
    model::warn_beyond_training(session.engine());
    if args.form.chat {
        session.engine().model().template()?; // fails now rather than after a slow pipe
    }
    let prompt = Prompt::read(source, &args.form, session.engine().model())?;
    prompt.set(&mut session)?;
    let model = session.engine().model();
    let mut options = model::generate_options(model, &args.sampling, args.n.0, &args.drafts);
    options.stop_tokens.extend(prompt.ends(model));
    options.max_reasoning = args.form.think.and_then(Think::most);
    let seed = options.sampling.seed;
    session.start(options)?;
    if let Some(follow) = &follow {
        follow.constrain(&mut session, prompt.is_chat())?;
    }
    cancel_on_ctrl_c(session.canceller())?;
    model::say_notes(&mut session);
    let (text, reason) = answer(&mut session, &args)?;
    follow.iter().for_each(|follow| follow.say_cut(reason));
    session.remember();
    model::say_notes(&mut session);
    if args.json {
        let mut object = object(&session, &text, reason, load);
        object["seed"] = seed.into();
        print_json(&object)?;
    }
    let cancelled = reason == FinishReason::Cancelled;
    Ok(if cancelled { ExitCode::from(Ending::Interrupt.exit_code()) } else { ExitCode::SUCCESS })
}

/// The first Ctrl-C ends the answer; the second ends the process.
fn cancel_on_ctrl_c(canceller: Canceller) -> Result<()> {
    static PRESSED: AtomicBool = AtomicBool::new(false);
    ending::listen(&[Ending::Interrupt], move |ending| {
        if PRESSED.swap(true, Ordering::Relaxed) {
            std::process::exit(ending.exit_code().into());
        }
        canceller.cancel();
    })
    .context("cannot listen for Ctrl-C")
}

/// Generates the answer: streams text to standard output, or collects it for `--json`.
fn answer(session: &mut Session, args: &Generate) -> Result<(String, FinishReason)> {
    let (mut out, mut reporter) = (stdout(), Reporter::default());
    let (mut all, mut ended) = (String::new(), FinishReason::Cancelled);
    while let Some(event) = session.next()? {
        match event {
            Event::Prefill { done, total } if done < total => {
                reporter.progress(done as u64, total as u64);
            }
            Event::Prefill { .. } => reporter.clear(),
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
        "drafts": draft_stats(&stats.drafts),
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
