//! What an answer must follow: from the options to a constraint.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use nanoinfer_engine::{FinishReason, Session};
use nanoinfer_grammar::{Error, Grammars, Source};

use crate::args::FollowArgs;
use crate::input::TextSource;
use crate::status::say;

/// A schema or grammar from a file.
pub(crate) struct Follow {
    source: Source,
    file: PathBuf,
    grammars: Option<Grammars>,
}

impl Follow {
    /// Reads and checks the file that the options name, if any.
    pub(crate) fn read(args: &FollowArgs) -> Result<Option<Self>> {
        let (file, source) = match (&args.json_schema, &args.grammar) {
            (Some(file), _) => (file, Source::schema(&text(file)?)),
            (None, Some(file)) => (file, Ok(Source::grammar(&text(file)?))),
            (None, None) => return Ok(None),
        };
        let checked = source.and_then(|source| source.check().map(|()| source));
        let source = named(file, checked)?;
        Ok(Some(Self { source, file: file.clone(), grammars: None }))
    }

    /// Starts to prepare the model's vocabulary in the background.
    pub(crate) fn prepare(&mut self, session: &Session) {
        let grammars = Grammars::new(Arc::clone(session.engine().model()));
        grammars.prepare();
        self.grammars = Some(grammars);
    }

    /// Makes the session's answer follow the source. Call this after its start.
    pub(crate) fn constrain(&self, session: &mut Session, answer_follows: bool) -> Result<()> {
        let Some(grammars) = &self.grammars else { return Ok(()) };
        let grammar = named(&self.file, grammars.compile(&self.source))?;
        session.set_constraint(grammar.constraint(answer_follows));
        Ok(())
    }

    /// Says so if the answer ended before it was complete.
    pub(crate) fn say_cut(&self, reason: FinishReason) {
        let advice = match reason {
            FinishReason::Length => "use a larger --max-tokens",
            FinishReason::Context => "use a larger --ctx",
            _ => return,
        };
        say(&format!("note: the answer is incomplete; {advice}"));
    }
}

fn text(file: &Path) -> Result<String> {
    TextSource::open(file)?.read()
}

/// Adds the file's name to an error about its content.
fn named<T>(file: &Path, result: Result<T, Error>) -> Result<T> {
    match result {
        Err(e) if e.place().is_some() => Err(e).with_context(|| file.display().to_string()),
        other => Ok(other?),
    }
}
