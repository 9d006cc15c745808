//! Chat templates: a conversation to the text a model was trained on.

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Value, context};

use crate::{Error, jinja};

/// What a template may do, in the template engine's units (an instruction, or 64 bytes made): some
/// tens of milliseconds and megabytes. Published templates take about 100 for a short chat.
const FUEL: u64 = 200_000;
/// More for every message, and one more for each of its bytes: templates copy contents around.
const FUEL_PER_MESSAGE: u64 = 2_000;

/// Stack for rendering, in bytes.
const STACK: usize = 2 << 20;
/// More for each unit of fuel. Lists nested in a loop until the fuel is gone needed less than 16
/// (and more than 4).
const STACK_PER_FUEL: usize = 64;

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
/// models from strangers, so time, memory and stack are limited. One way to waste time is left: the
/// template engine does not meter comparing or joining lists that hold a list many times over.
pub struct ChatTemplate {
    env: Environment<'static>,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    /// Compiles a template. `bos` and `eos` are the texts of the model's tokens, or empty.
    ///
    /// # Errors
    /// [`Error::Template`] with the place of a syntax error.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self, Error> {
        let mut env = Environment::new();
        // As Hugging Face sets Jinja up.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        env.set_syntax(syntax.map_err(one_line)?);
        // Plain text: nothing is escaped for HTML.
        env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        jinja::install(&mut env);
        env.add_template_owned("chat", jinja::drop_generation_tags(source)).map_err(one_line)?;
        Ok(Self { env, bos: bos.to_owned(), eos: eos.to_owned() })
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
        // Freeing a list in a list in a list takes stack for every level, and a template can make
        // as many levels as it has fuel for: more than a usual thread survives. Untouched stack
        // costs nothing.
        let stack = STACK + STACK_PER_FUEL * fuel as usize;
        std::thread::scope(|scope| {
            let render = || self.render_within(fuel, messages, add_generation_prompt);
            let thread = std::thread::Builder::new().stack_size(stack).spawn_scoped(scope, render);
            let thread = thread.map_err(|e| Error::Template(format!("no thread for it: {e}")))?;
            thread
                .join()
                .unwrap_or_else(|_| Err(Error::Template("broke the template engine".into())))
        })
    }

    fn render_within(
        &self,
        fuel: u64,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, Error> {
        let mut env = self.env.clone();
        env.set_fuel(Some(fuel));
        let template = env.get_template("chat").map_err(one_line)?;
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
        template.render(values).map_err(one_line)
    }
}

fn one_line(error: minijinja::Error) -> Error {
    Error::Template(error.to_string().split_whitespace().collect::<Vec<_>>().join(" "))
}
