//! Encodes a conversation such that user input cannot forge a control token.
//!
//! The common approach of rendering and then parsing control tokens lets a pasted `<|im_end|>` end the
//! user's turn. Encoding contents separately breaks templates that trim, split or join them, and yields
//! different ids where a merge spans the boundary. The template therefore runs on contents in which only
//! the dangerous characters are masked:
//!
//! 1. In each content, the first character of each control-token string is replaced by a private-use
//!    character. Nearly all contents have no such strings and are unchanged.
//! 2. The template is rendered and the masks are removed. Their positions are recorded, and a control
//!    token that overlaps one of them is not parsed.
//! 3. A template could still assemble a control token from harmless parts (`'<' + content + '>'`, or a
//!    `replace` that removes the middle of `<|im_<x>end|>`). To rule that out, the template is rendered
//!    again with a mask for *every* content character that occurs in any control token. The control
//!    tokens of that text are the template's own; if those of step 2 differ, that text is used instead.
//!
//! If no content contains a control-token string, step 2 works on the plain rendered text, so the ids
//! equal those of the common approach.

use std::ops::Range;

use crate::added::Policy;
use crate::masks::Masks;
use crate::{ChatInput, ChatTemplate, Error, Message, Tokenizer};

/// Renders and encodes a conversation; see [`ChatTemplate::render`] for `add_generation_prompt`.
/// Control tokens come only from the template, never from contents.
///
/// # Errors
/// As for [`ChatText::render`].
pub fn encode_chat(
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    messages: &[Message],
    add_generation_prompt: bool,
) -> Result<Vec<u32>, Error> {
    let text = ChatText::render(tokenizer, template, messages, add_generation_prompt)?;
    Ok(text.encode_from(tokenizer, 0))
}

/// A rendered conversation, with the ranges in which no control token is parsed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChatText {
    text: String,
    masked: Vec<Range<usize>>, // ascending
    system_moved: bool,
}

impl ChatText {
    /// Renders a conversation; see [`ChatTemplate::render`] for `add_generation_prompt`.
    ///
    /// # Errors
    /// As for [`ChatText::render_input`].
    pub fn render(
        tokenizer: &Tokenizer,
        template: &ChatTemplate,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<Self, Error> {
        let input = ChatInput::from_messages(messages, add_generation_prompt);
        Self::render_input(tokenizer, template, &input)
    }

    /// Renders an input, adapted to the template as by [`ChatTemplate::render`]. Single words are not masked
    /// where templates compare them: in roles, types, keys and the values of variables.
    ///
    /// # Errors
    /// [`Error::Template`] as for rendering, and [`Error::Message`] if a role, type, key or variable
    /// contains a control-token string or the texts leave too few private-use characters unused.
    pub fn render_input(
        tokenizer: &Tokenizer,
        template: &ChatTemplate,
        input: &ChatInput,
    ) -> Result<Self, Error> {
        let specials: Vec<&str> = tokenizer.specials().collect();
        let is_control = |name: &str| specials.iter().any(|s| name.contains(s));
        if let Some(index) = input.find_name(&is_control) {
            return Err(Error::Message { index, what: "a role or name contains a control token" });
        }
        let system_moved = input.has_system() && !template.has_system_role();
        let input = template.adapt(input);
        let masks = Masks::new(&specials, &input)?;
        let render = |mask: &dyn Fn(&str) -> String| template.render_input(&input.map_texts(mask));
        let mut text = render(&|content| masks.mask_first(content, &specials))?;
        let safe = render(&|content| masks.mask_all(content))?;
        if tokenizer.control_tokens(&text) != tokenizer.control_tokens(&safe) {
            text = safe;
        }
        let (text, masked) = masks.unmask(&text);
        Ok(Self { text, masked, system_moved })
    }

    /// The rendered text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether system messages were put before user messages because the template has no system role.
    pub const fn system_moved(&self) -> bool {
        self.system_moved
    }

    /// Whether the first `len` bytes and their protected ranges are equal, so that both share the tokens
    /// of that prefix.
    pub fn same_start(&self, other: &Self, len: usize) -> bool {
        let before = |t: &Self| -> Vec<Range<usize>> {
            let starts = t.masked.iter().take_while(|r| r.start < len);
            starts.map(|r| r.start..r.end.min(len)).collect()
        };
        let (a, b) = (self.text.as_bytes().get(..len), other.text.as_bytes().get(..len));
        a.is_some() && a == b && before(self) == before(other)
    }

    /// The ranges in which no control token is parsed, ascending.
    pub fn protected(&self) -> &[Range<usize>] {
        &self.masked
    }

    /// The first `len` bytes, which must end at a character boundary.
    #[must_use]
    pub fn prefix(&self, len: usize) -> Self {
        let before = self.masked.iter().filter(|r| r.start < len);
        let masked = before.map(|r| r.start..r.end.min(len)).collect();
        Self { text: self.text[..len].to_owned(), masked, system_moved: self.system_moved }
    }

    /// Encodes the text from byte `at`, which must be a character boundary, as a continuation of the
    /// text before it.
    pub fn encode_from(&self, tokenizer: &Tokenizer, at: usize) -> Vec<u32> {
        let rest = self.masked.iter().filter(|r| r.end > at);
        let rest: Vec<_> = rest.map(|r| r.start.saturating_sub(at)..r.end - at).collect();
        tokenizer.encode_part(&self.text[at..], at == 0, Policy::Protect(&rest))
    }
}
