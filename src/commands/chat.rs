//! `nanoinfer chat`: a conversation, full-screen or line by line through pipes.

use std::io::{IsTerminal, stderr, stdin};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use etcetera::BaseStrategy;
use nanoinfer_engine::{GenerateOptions, Model, Session};
use nanoinfer_format::Precision;
use nanoinfer_interface::chat::{Ended, Setup};
use nanoinfer_interface::line;
use nanoinfer_platform::ending::Ending;
use nanoinfer_platform::terminal::can_draw;

use crate::advice::engine_message;
use crate::args::{Chat, ModelArgs, Think};
use crate::limits::memory_bandwidth;
use crate::model;
use crate::output::stdout;
use crate::status::{error_message, say};
use crate::template::Form;

pub(crate) fn run(args: Chat) -> Result<ExitCode> {
    if args.plain || !can_draw() { line_by_line(&args) } else { full_screen(args) }
}

fn line_by_line(args: &Chat) -> Result<ExitCode> {
    let mut session = open(args)?;
    let model = session.engine().model();
    let interactive = stdin().is_terminal();
    let setup = line::Setup {
        system: model::system(args.system.clone(), model),
        options: options(model, args),
        interactive,
        describe: engine_message,
    };
    model::warn_beyond_training(session.engine());
    if interactive {
        say("type a message; /help lists commands, `exit` or Ctrl-C quits");
    }
    match line::run(&mut session, setup, stdin().lock(), &mut stdout(), stderr()) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        // Unwrapped because the error printer and the closed-pipe check look for the inner types.
        Err(line::Error::Io(e)) => Err(e.into()),
        Err(line::Error::Engine(e)) => Err(e.into()),
        Err(e) => Err(e.into()),
    }
}

fn options(model: &Model, args: &Chat) -> GenerateOptions {
    let options = model::generate_options(model, &args.sampling, args.n.0, &args.drafts);
    GenerateOptions { max_reasoning: args.think.and_then(Think::most), ..options }
}

/// A session with a model that can chat.
fn open(args: &Chat) -> Result<Session> {
    let form = Form::find(args.chat_template.as_deref(), args.think)?;
    let session = model::session(&args.model, &form, &args.drafts, &args.cache)?;
    session.engine().model().template()?; // fails now rather than after the first message
    Ok(session)
}

fn full_screen(args: Chat) -> Result<ExitCode> {
    let session = open(&args)?;
    let model = session.engine().model();
    let options = options(model, &args);
    let system = model::system(args.system, model);
    let name = args.model.model.display().to_string();
    let model_args = args.model;
    let cache = args.cache;
    let mut drafts = args.drafts;
    drafts.draft = None; // chosen for this model, not for models opened with /model
    let setup = Setup {
        name,
        system,
        options,
        history: history(),
        color: std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
        open: Box::new(move |name, status| {
            let args = ModelArgs {
                model: name.into(),
                revision: None,
                quant: Precision::Auto,
                ..model_args.clone()
            };
            model::session_with_status(&args, &drafts, &cache, status)
                .map_err(|e| error_message(&e))
        }),
        describe: engine_message,
        bandwidth: Some(Box::new(|threads| memory_bandwidth(threads).ok())),
    };
    let ended =
        nanoinfer_interface::chat::run(session, setup).context("cannot use the terminal")?;
    Ok(match ended {
        Ended::Quit => ExitCode::SUCCESS,
        Ended::Ending(ending) => ExitCode::from(ending.exit_code()),
        Ended::Closed => ExitCode::from(Ending::HangUp.exit_code()), // even if no SIGHUP arrived
    })
}

/// The file for sent messages: `NANOINFER_HISTORY` (no file if empty), or else a file in the
/// platform's state folder.
fn history() -> Option<PathBuf> {
    if let Some(file) = std::env::var_os("NANOINFER_HISTORY") {
        return Some(PathBuf::from(file)).filter(|f| !f.as_os_str().is_empty());
    }
    let base = etcetera::choose_base_strategy().ok()?;
    let state = base.state_dir().unwrap_or_else(|| base.data_dir());
    Some(state.join("nanoinfer").join("chat-history"))
}
