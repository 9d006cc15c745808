//! `nanoinfer chat`: a conversation on the terminal or through pipes.

use std::io::{IsTerminal, stderr, stdin};
use std::process::ExitCode;

use anyhow::Result;

use crate::args::Chat;

pub(crate) fn run(args: Chat) -> Result<ExitCode> {
    let mut session = crate::run::session(&args.model)?;
    let options = args.sampling.options(session.engine().model(), args.n);
    let interactive = stdin().is_terminal();
    if interactive {
        crate::report::say("type a message; `exit` or Ctrl-C quits");
    }
    nanoinfer_interface::chat::run(
        &mut session,
        args.system.as_deref(),
        &options,
        stdin().lock(),
        &mut crate::run::stdout(),
        stderr(),
        interactive,
    )?;
    Ok(ExitCode::SUCCESS)
}
