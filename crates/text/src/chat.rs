//! Chat templates: a conversation to the text a model was trained on.

use minijinja::machinery::{self, CompiledTemplate, TemplateConfig};
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Value, context};
use std::sync::Arc;

use crate::meter::BYTES_PER_ITEM;
use crate::{Error, jinja, meter};

/// What a template may do, in the template engine's units (an instruction, or 64 bytes made): some
/// tens of milliseconds and megabytes. Published templates take about 100 for a short chat.
const FUEL: u64 = 200_000;
/// More for every message, and one more for each of its bytes: templates copy contents around.
const FUEL_PER_MESSAGE: u64 = 2_000;

/// Items that a list or map may hold, those of lists within it counted as if written out.
const ITEMS: usize = 1_000;
/// More for every message: twice what a message is.
const ITEMS_PER_MESSAGE: usize = 8;

/// Stack for rendering, in bytes. Half a megabyte was enough for macros that call themselves until
/// the engine stops them.
const STACK: usize = 8 << 20;

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant` or what else the template knows.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// A Jinja chat template as Hugging Face models carry it.
///
/// Templates see `messages`, `bos_token`, `eos_token`, `add_generation_prompt`, empty `tools` and
/// `documents`, and the functions `raise_exception` and `strftime_now` (UTC). They come with
/// models from strangers, so time, memory and stack are limited, by counting and not by a clock: what
/// is refused is refused on every machine.
pub struct ChatTemplate {
    source: String,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    /// Compiles a template. `bos` and `eos` are the texts of the model's tokens, or empty.
    ///
    /// # Errors
    /// [`Error::Template`] with the place of a syntax error.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self, Error> {
        let source = jinja::drop_generation_tags(source);
        compile(&source)?;
        Ok(Self { source, bos: bos.to_owned(), eos: eos.to_owned() })
    }

    /// The text of a conversation; with `add_generation_prompt`, up to where the model speaks.
    ///
    /// # Errors
    /// [`Error::Template`] if the template raises an exception or runs past its limits.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, Error> {
        let bytes: usize = messages.iter().map(|m| m.content.len()).sum();
        let fuel = FUEL + FUEL_PER_MESSAGE * messages.len() as u64 + bytes as u64;
        let items = ITEMS + ITEMS_PER_MESSAGE * messages.len() + 2 * bytes / BYTES_PER_ITEM;
        // Not on the caller's stack, of which nothing is known. Untouched stack costs nothing.
        std::thread::scope(|scope| {
            let render = || self.render_within(fuel, items, messages, add_generation_prompt);
            let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, render);
            let thread = thread.map_err(|e| Error::Template(format!("no thread for it: {e}")))?;
            thread
                .join()
                .unwrap_or_else(|_| Err(Error::Template("broke the template engine".into())))
        })
    }

    fn render_within(
        &self,
        fuel: u64,
        items: usize,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, Error> {
        let mut env = Environment::new();
        jinja::install(&mut env);
        meter::install(&mut env, items);
        env.set_fuel(Some(fuel));
        let template = compile(&self.source)?;
        let messages = messages.iter().map(|m| {
            Value::from_pairs([("role", m.role.as_str()), ("content", m.content.as_str())])
        });
        let values = context! {
            messages => messages.collect::<Value>(),
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
            add_generation_prompt => add_generation_prompt,
            tools => (),
            documents => (),
        };
        let mut text = String::with_capacity(template.buffer_size_hint);
        let (code, blocks) = (&template.instructions, &template.blocks);
        let mut out = machinery::make_string_output(&mut text);
        let plain = AutoEscape::None; // nothing is escaped for HTML
        machinery::eval(&env, code, values, blocks, &mut out, plain).map_err(one_line)?;
        Ok(text)
    }
}

/// Compiles a template as Hugging Face sets Jinja up, with its values weighed.
fn compile(source: &str) -> Result<CompiledTemplate<'_>, Error> {
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    let config = TemplateConfig {
        syntax_config: syntax.map_err(one_line)?,
        default_auto_escape: Arc::new(|_| AutoEscape::None),
    };
    let mut template = CompiledTemplate::new("chat", source, &config).map_err(one_line)?;
    meter::instrument(&mut template);
    Ok(template)
}

fn one_line(error: minijinja::Error) -> Error {
    Error::Template(error.to_string().split_whitespace().collect::<Vec<_>>().join(" "))
}
