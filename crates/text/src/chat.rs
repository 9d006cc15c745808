//! Chat templates, which render a conversation in the format that a model was trained on.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{AutoEscape, Environment, Value};

use crate::instrument::instrument;
use crate::{ChatInput, Error, Message, jinja, meter};

/// Fuel for a template, in minijinja's units (one instruction, or 64 bytes produced). Published templates use
/// about 100 for a short chat. A template that weighs the largest values as often as it can takes about a
/// second to run out, and longer in a conversation of thousands of messages.
const FUEL: u64 = 200_000;
/// Additional fuel per item of the input, plus one per byte, as templates copy contents. A plain message has
/// five items: itself and two members.
const FUEL_PER_ITEM: u64 = 400;
/// Fuel for finding out what a template supports, with conversations of two short messages.
const PROBE_FUEL: u64 = 20_000;

/// Maximum number of items in a value, including nested items, in addition to twice those of the input.
const ITEMS: usize = 1_000;

/// Stack for compiling and rendering, in bytes. Half a megabyte was enough for recursive macros up to
/// minijinja's recursion limit.
const STACK: usize = 8 << 20;

/// The variables by which published templates turn reasoning on and off, the most specific first.
const SWITCHES: [&str; 4] = ["enable_thinking", "thinking", "thinking_budget", "reasoning_effort"];

/// The template's name in error messages.
const NAME: &str = "chat";

/// A Jinja chat template in the format of Hugging Face models.
///
/// Templates have access to `messages`, `tools`, `documents`, `bos_token`, `eos_token`,
/// `pad_token`, `add_generation_prompt`, the variables of the input, and the functions `raise_exception` and
/// `strftime_now` (UTC). They are untrusted, so time, memory and stack are limited. The limits are counts
/// rather than timeouts, so that all machines reject the same templates.
#[derive(Debug)]
pub struct ChatTemplate {
    source: String,
    bos: String,
    eos: String,
    pad: Option<String>,
    traits: Traits,
    /// The variable that turns reasoning on and off.
    switch: Option<&'static str>,
}

/// What a template does with messages, found by rendering some.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Traits {
    /// Refuses or omits system messages.
    lacks_system: bool,
    /// Omits contents that are strings, but not those that are lists of parts.
    wants_parts: bool,
    /// Looks for tools in the system message, as Phi-4-mini's does.
    has_tools_in_system: bool,
}

impl ChatTemplate {
    /// Compiles a template. `bos` and `eos` are the strings of the model's BOS and EOS tokens, or empty.
    ///
    /// # Errors
    /// [`Error::Template`] with the line of a syntax error.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self, Error> {
        // Jinja ends all lines in the same way.
        let source = instrument(&source.replace("\r\n", "\n").replace('\r', "\n"))?;
        let traits = Traits::default();
        let mut template = Self {
            source,
            bos: bos.to_owned(),
            eos: eos.to_owned(),
            pad: None,
            traits,
            switch: None,
        };
        (template.traits, template.switch) = on_large_stack(|| {
            let environment = environment()?;
            let compiled = environment.template_from_named_str(NAME, &template.source);
            let variables = compiled.map_err(one_line)?.undeclared_variables(false);
            let switch = SWITCHES.into_iter().find(|name| variables.contains(*name));
            Ok((template.probe(), switch))
        })?;
        Ok(template)
    }

    /// Sets `pad_token`, which is undefined by default.
    pub fn with_pad_token(self, pad: Option<&str>) -> Self {
        Self { pad: pad.map(str::to_owned), ..self }
    }

    /// The template, as it is run.
    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    /// The variable that turns reasoning on and off, if there is one.
    pub(crate) const fn switch(&self) -> Option<&'static str> {
        self.switch
    }

    /// Whether the template renders system messages. If it refuses or omits them, [`render`](Self::render)
    /// puts them before the content of the next user message.
    pub const fn has_system_role(&self) -> bool {
        !self.traits.lacks_system
    }

    /// Renders a conversation; with `add_generation_prompt`, up to the start of the model's answer. The
    /// messages are adapted to templates without a system role, and to those that accept only lists of
    /// parts as contents.
    ///
    /// # Errors
    /// [`Error::Template`] if the template raises an exception or exceeds its limits.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, Error> {
        self.render_input(&self.adapt(&ChatInput::from_messages(messages, add_generation_prompt)))
    }

    /// Renders an input as it is.
    ///
    /// # Errors
    /// [`Error::Template`] if the template raises an exception or exceeds its limits.
    pub fn render_input(&self, input: &ChatInput) -> Result<String, Error> {
        let size = input.size();
        let fuel = FUEL + FUEL_PER_ITEM * size.items as u64 + size.bytes as u64;
        on_large_stack(|| self.render_within(fuel, ITEMS + 2 * size.items, input))
    }

    /// The input with its messages in the form that the template accepts.
    pub(crate) fn adapt(&self, input: &ChatInput) -> ChatInput {
        let mut input = input.clone();
        if self.traits.has_tools_in_system && input.tools.kind() == ValueKind::Seq {
            input.move_tools();
        }
        if self.traits.lacks_system && input.has_system() {
            input.move_system();
        }
        if self.traits.wants_parts {
            input.split_into_parts();
        }
        input
    }

    fn render_within(&self, fuel: u64, items: usize, input: &ChatInput) -> Result<String, Error> {
        let mut env = environment()?;
        jinja::install(&mut env, input.now);
        meter::install(&mut env, items);
        env.set_fuel(Some(fuel));
        let template = env.template_from_named_str(NAME, &self.source).map_err(one_line)?;
        let variables = input.variables.iter().map(|(name, value)| (name.as_str(), value.clone()));
        let pad = self.pad.as_deref().map(|pad| ("pad_token", Value::from(pad)));
        let values = Value::from_pairs(pad.into_iter().chain(variables).chain([
            ("messages", Value::from(input.messages.clone())),
            ("tools", input.tools.clone()),
            ("documents", input.documents.clone()),
            ("bos_token", Value::from(self.bos.as_str())),
            ("eos_token", Value::from(self.eos.as_str())),
            ("add_generation_prompt", Value::from(input.add_generation_prompt)),
        ]));
        template.render(values).map_err(one_line)
    }

    /// Renders two conversations to find out what the template supports. A template that fails on a
    /// single user message says nothing about either trait.
    fn probe(&self) -> Traits {
        const SYSTEM: &str = "a system message";
        const USER: &str = "a user message";
        let user = [Message::new("user", USER)];
        let system = [Message::new("system", SYSTEM), user[0].clone()];
        let render = |messages: &[Message], wants_parts| {
            let mut input = ChatInput::from_messages(messages, true);
            if wants_parts {
                input.split_into_parts();
            }
            self.render_within(PROBE_FUEL, ITEMS, &input).ok()
        };
        let shows =
            |text: Option<&String>, part: &str| text.is_some_and(|text| text.contains(part));

        let mut alone = render(&user, false);
        let mut wants_parts = false;
        if !shows(alone.as_ref(), USER) {
            let with_parts = render(&user, true);
            wants_parts = shows(with_parts.as_ref(), USER);
            alone = with_parts.filter(|_| wants_parts).or(alone);
        }
        let lacks_system = match (alone, render(&system, wants_parts)) {
            (Some(_), None) => true,
            (Some(alone), Some(both)) => alone.contains(USER) && !both.contains(SYSTEM),
            (None, _) => false,
        };
        let has_tools_in_system = self.source.contains("message['tools']");
        Traits { lacks_system, wants_parts, has_tools_in_system }
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
