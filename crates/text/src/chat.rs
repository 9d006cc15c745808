//! Chat templates, which render a conversation in the format that a model was trained on.

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Value, context};

use crate::instrument::instrument;
use crate::meter::BYTES_PER_ITEM;
use crate::{Error, jinja, meter};

/// Fuel for a template, in minijinja's units (one instruction, or 64 bytes produced). Published templates use
/// about 100 for a short chat. A template that weighs the largest values as often as it can takes about a
/// second to run out, and longer in a conversation of thousands of messages.
const FUEL: u64 = 200_000;
/// Additional fuel per message, plus one per byte, as templates copy contents.
const FUEL_PER_MESSAGE: u64 = 2_000;

/// Maximum number of items in a value, including nested items.
const ITEMS: usize = 1_000;
/// Additional items per message: twice the number in a message.
const ITEMS_PER_MESSAGE: usize = 8;

/// Stack for compiling and rendering, in bytes. Half a megabyte was enough for recursive macros up to
/// minijinja's recursion limit.
const STACK: usize = 8 << 20;

/// The template's name in error messages.
const NAME: &str = "chat";

/// A message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user`, `assistant` or any other role that the template supports.
    pub role: String,
    /// The text.
    pub content: String,
}

impl Message {
    /// Creates a message.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// A Jinja chat template in the format of Hugging Face models.
///
/// Templates have access to `messages`, `bos_token`, `eos_token`, `pad_token`, `add_generation_prompt`,
/// empty `tools` and `documents`, and the functions `raise_exception` and `strftime_now` (UTC). They are
/// untrusted, so time, memory and stack are limited. The limits are counts rather than timeouts, so that
/// all machines reject the same templates.
#[derive(Debug)]
pub struct ChatTemplate {
    source: String,
    bos: String,
    eos: String,
    pad: Option<String>,
}

impl ChatTemplate {
    /// Compiles a template. `bos` and `eos` are the strings of the model's BOS and EOS tokens, or empty.
    ///
    /// # Errors
    /// [`Error::Template`] with the line of a syntax error.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self, Error> {
        let source = instrument(source)?;
        let compiled = on_large_stack(|| {
            environment()?.template_from_named_str(NAME, &source).map(drop).map_err(one_line)
        });
        compiled?;
        Ok(Self { source, bos: bos.to_owned(), eos: eos.to_owned(), pad: None })
    }

    /// Sets `pad_token`, which is undefined by default.
    pub fn with_pad_token(self, pad: Option<&str>) -> Self {
        Self { pad: pad.map(str::to_owned), ..self }
    }

    /// Renders a conversation; with `add_generation_prompt`, up to the start of the model's answer.
    ///
    /// # Errors
    /// [`Error::Template`] if the template raises an exception or exceeds its limits.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, Error> {
        let bytes: usize = messages.iter().map(|m| m.content.len()).sum();
        let fuel = FUEL + FUEL_PER_MESSAGE * messages.len() as u64 + bytes as u64;
        let items = ITEMS + ITEMS_PER_MESSAGE * messages.len() + 2 * bytes / BYTES_PER_ITEM;
        on_large_stack(|| self.render_within(fuel, items, messages, add_generation_prompt))
    }

    fn render_within(
        &self,
        fuel: u64,
        items: usize,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, Error> {
        let mut env = environment()?;
        jinja::install(&mut env);
        meter::install(&mut env, items);
        env.set_fuel(Some(fuel));
        let template = env.template_from_named_str(NAME, &self.source).map_err(one_line)?;
        let messages = messages.iter().map(|m| {
            Value::from_pairs([("role", m.role.as_str()), ("content", m.content.as_str())])
        });
        let values = context! {
            messages => messages.collect::<Value>(),
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
            pad_token => self.pad.as_deref().map_or(Value::UNDEFINED, Value::from),
            add_generation_prompt => add_generation_prompt,
            tools => (),
            documents => (),
        };
        template.render(values).map_err(one_line)
    }
}

/// Jinja as configured by Hugging Face, without HTML escaping.
fn environment<'s>() -> Result<Environment<'s>, Error> {
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    let mut env = Environment::new();
    env.set_syntax(syntax.map_err(one_line)?);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    Ok(env)
}

/// Runs on a thread with a stack of known size, as the caller's stack may be small. Untouched stack
/// pages cost nothing.
fn on_large_stack<T: Send>(run: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, run);
        let thread =
            thread.map_err(|e| Error::Template(format!("cannot start a thread to run it: {e}")))?;
        thread
            .join()
            .unwrap_or_else(|_| Err(Error::Template("the template engine panicked".into())))
    })
}

fn one_line(error: minijinja::Error) -> Error {
    Error::Template(error.to_string().split_whitespace().collect::<Vec<_>>().join(" "))
}
