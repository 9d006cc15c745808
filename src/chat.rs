//! `nanoinfer chat`: a conversation on the whole screen, or line by line through pipes.

use std::io::{IsTerminal, stderr, stdin};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use etcetera::BaseStrategy;
use nanoinfer_interface::chat::{Ended, Setup};
use nanoinfer_interface::line;
use nanoinfer_platform::ending::Ending;
use nanoinfer_platform::terminal::can_draw;

use crate::args::{Chat, ModelArgs};

pub(crate) fn run(args: Chat) -> Result<ExitCode> {
    if args.plain || !can_draw() { lines(&args) } else { screen(args) }
}

fn lines(args: &Chat) -> Result<ExitCode> {
    let mut session = crate::run::session(&args.model, &args.drafts, &args.cache)?;
    let options = args.sampling.options(session.engine().model(), args.n, &args.drafts);
    let system = crate::run::system(args.system.clone(), session.engine().model());
    let interactive = stdin().is_terminal();
    if interactive {
        crate::report::say("type a message; `exit` or Ctrl-C quits");
    }
    let talked = line::run(
        &mut session,
        system.as_deref(),
        &options,
        stdin().lock(),
        &mut crate::run::stdout(),
        stderr(),
        interactive,
    );
    match talked {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(line::Error::Io(e)) => Err(e.into()), // `main` has to see a closed pipe as such
        Err(e) => Err(e.into()),
    }
}

fn screen(args: Chat) -> Result<ExitCode> {
    let session = crate::run::session(&args.model, &args.drafts, &args.cache)?;
    let options = args.sampling.options(session.engine().model(), args.n, &args.drafts);
    let name = args.model.model.clone();
    let (model, mut drafts, cache) = (args.model, args.drafts, args.cache);
    drafts.draft = None; // it was meant for this model, not for others that are opened later
    let setup = Setup {
        name,
        system: crate::run::system(args.system, session.engine().model()),
        options,
        history: history(),
        color: std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
        open: Box::new(move |name, tell| {
            let args = ModelArgs { model: name.to_owned(), revision: None, ..model.clone() };
            crate::run::session_told(&args, &drafts, &cache, tell).map_err(|e| format!("{e:#}"))
        }),
        bandwidth: Some(Box::new(|threads| crate::bench::memory_bandwidth(threads).ok())),
    };
    let ended = nanoinfer_interface::chat::run(session, setup).context("the terminal")?;
    Ok(match ended {
        Ended::Asked => ExitCode::SUCCESS,
        Ended::Ending(ending) => ExitCode::from(ending.exit_code()),
        Ended::Closed => ExitCode::from(Ending::HangUp.exit_code()), // as if it had been heard
    })
}

/// Where sent messages are kept: `NANOINFER_HISTORY` (empty: nowhere), else a file in the
/// platform's folder for state.
fn history() -> Option<PathBuf> {
    if let Some(file) = std::env::var_os("NANOINFER_HISTORY") {
        return Some(PathBuf::from(file)).filter(|f| !f.as_os_str().is_empty());
    }
    let base = etcetera::choose_base_strategy().ok()?;
    let state = base.state_dir().unwrap_or_else(|| base.data_dir());
    Some(state.join("nanoinfer").join("chat-history"))
}
