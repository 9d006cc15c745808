//! The prompt of `generate` and `tokenize`: where its text comes from, and how it becomes tokens.

use std::path::Path;

use anyhow::Result;
use nanoinfer_engine::{Message, Model, Session};
use nanoinfer_text::Specials;

use crate::args::PromptArgs;
use crate::input::TextSource;
use crate::model;

/// The sources of a prompt's text.
pub(crate) enum Source {
    Text(TextSource),
    /// The texts before and after the gap to fill.
    Infill(String, String),
}

impl Source {
    /// The source that the options name, else standard input, or else an error with the message
    /// `missing`.
    pub(crate) fn new(
        text: Option<&str>,
        file: Option<&Path>,
        args: &PromptArgs,
        missing: &'static str,
    ) -> Result<Self> {
        if args.fim_prefix.is_some() || args.fim_suffix.is_some() {
            let text = |option: &Option<String>| option.clone().unwrap_or_default();
            return Ok(Self::Infill(text(&args.fim_prefix), text(&args.fim_suffix)));
        }
        Ok(Self::Text(match (text, file) {
            (Some(text), _) => TextSource::Literal(text.to_owned()),
            (None, Some(path)) => TextSource::open(path)?,
            (None, None) => TextSource::piped(missing)?,
        }))
    }
}

/// A prompt for a model.
pub(crate) enum Prompt {
    Text(String, Specials),
    Infill { prefix: String, suffix: String, specials: Specials },
    Chat(Vec<Message>),
}

impl Prompt {
    pub(crate) fn read(source: Source, args: &PromptArgs, model: &Model) -> Result<Self> {
        let specials = if args.special { Specials::Parse } else { Specials::Plain };
        let text = match source {
            Source::Infill(prefix, suffix) => {
                return Ok(Self::Infill { prefix, suffix, specials });
            }
            Source::Text(source) => source.read_prompt(args.keep_newline)?,
        };
        if !args.chat {
            return Ok(Self::Text(text, specials));
        }
        let system = model::system(args.system.clone(), model);
        let system = system.map(|s| Message::new("system", s));
        Ok(Self::Chat(system.into_iter().chain([Message::new("user", text)]).collect()))
    }

    pub(crate) fn ids(&self, model: &Model) -> Result<Vec<u32>> {
        Ok(match self {
            Self::Text(text, specials) => model.encode_with(text, *specials)?,
            Self::Infill { prefix, suffix, specials } => {
                model.encode_infill(prefix, suffix, *specials)?
            }
            Self::Chat(messages) => model.encode_chat(messages)?,
        })
    }

    /// Makes this the session's context.
    pub(crate) fn set(&self, session: &mut Session) -> Result<()> {
        match self {
            Self::Chat(messages) => session.prompt_chat(messages)?,
            _ => {
                let ids = self.ids(session.engine().model())?;
                session.prompt_tokens(&ids)?;
            }
        }
        Ok(())
    }

    /// Whether the answer is a new text rather than the continuation of the prompt.
    pub(crate) fn is_chat(&self) -> bool {
        matches!(self, Self::Chat(_))
    }

    /// Tokens that end the answer to this kind of prompt, besides the model's own.
    pub(crate) fn ends(&self, model: &Model) -> Vec<u32> {
        if matches!(self, Self::Infill { .. }) { model.infill_ends() } else { Vec::new() }
    }
}
