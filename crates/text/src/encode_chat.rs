//! A conversation to token ids, with no way for what is typed to pose as a control token.
//!
//! Rendering and then parsing control tokens, as is common, lets a pasted `<|im_end|>` end the
//! user's turn. Encoding contents on their own instead breaks templates that trim, split or join
//! them, and gives other ids where a merge spans the seam. So the template runs on contents in
//! which only the danger is masked:
//!
//! 1. In every content, the first character of each control-token string is swapped for a
//!    private-use character. Contents without such strings, nearly all, are untouched.
//! 2. The template renders. Its text is final but for the masks, which are taken off again; the
//!    places where they were are remembered, and no control token is parsed that touches one.
//! 3. A template could still build a control token out of harmless parts (`'<' + content + '>'`, or
//!    a `replace` that removes the middle of `<|im_<x>end|>`). To rule that out it renders once
//!    more with *every* content character masked that occurs in any control token. Whatever control
//!    tokens this text has are the template's own; if those of step 2 differ, this text is used.
//!
//! Where no content holds a control-token string, step 2 works on the plain rendered text, so the
//! ids are those of rendering and parsing the whole.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;

use crate::added::Policy;
use crate::{ChatTemplate, Error, Message, Tokenizer};

/// Renders a conversation and encodes it; see [`ChatTemplate::render`] for
/// `add_generation_prompt`. Control tokens come from the template only, never from contents.
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

/// A conversation as its template renders it, with the places that stay text whatever they spell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChatText {
    text: String,
    masked: Vec<Range<usize>>, // ascending
}

impl ChatText {
    /// Renders a conversation; see [`ChatTemplate::render`] for `add_generation_prompt`.
    ///
    /// # Errors
    /// [`Error::Template`] as for rendering, and [`Error::Message`] if a role holds the string of
    /// a control token or contents use up the private-use characters.
    pub fn render(
        tokenizer: &Tokenizer,
        template: &ChatTemplate,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<Self, Error> {
        let specials: Vec<&str> = tokenizer.specials().collect();
        let names_control = |m: &Message| specials.iter().any(|s| m.role.contains(s));
        if let Some(index) = messages.iter().position(names_control) {
            return Err(Error::Message { index, what: "the role holds a control token" });
        }
        let masks = Masks::new(&specials, messages)?;
        let render = |mask: &dyn Fn(&str) -> String| {
            let masked: Vec<Message> =
                messages.iter().map(|m| Message::new(&*m.role, mask(&m.content))).collect();
            template.render(&masked, add_generation_prompt)
        };
        let mut text = render(&|content| masks.mask_first(content, &specials))?;
        let safe = render(&|content| masks.mask_all(content))?;
        if tokenizer.control_tokens(&text) != tokenizer.control_tokens(&safe) {
            text = safe;
        }
        let (text, masked) = masks.unmask(&text);
        Ok(Self { text, masked })
    }

    /// The rendered text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether both begin with the same `len` bytes, the same of them protected: then the tokens
    /// of one stand for the beginning of the other too.
    pub fn same_start(&self, other: &Self, len: usize) -> bool {
        let before = |t: &Self| -> Vec<Range<usize>> {
            let starts = t.masked.iter().take_while(|r| r.start < len);
            starts.map(|r| r.start..r.end.min(len)).collect()
        };
        let (a, b) = (self.text.as_bytes().get(..len), other.text.as_bytes().get(..len));
        a.is_some() && a == b && before(self) == before(other)
    }

    /// The ids of the text from byte `at` on, a character boundary, as the continuation of what
    /// stands before.
    pub fn encode_from(&self, tokenizer: &Tokenizer, at: usize) -> Vec<u32> {
        let rest = self.masked.iter().filter(|r| r.end > at);
        let rest: Vec<_> = rest.map(|r| r.start.saturating_sub(at)..r.end - at).collect();
        tokenizer.encode_part(&self.text[at..], at == 0, Policy::Protect(&rest))
    }
}

/// A private-use stand-in for every character that control tokens are made of.
struct Masks {
    masks: HashMap<char, char>,
    back: HashMap<char, char>,
    firsts: HashSet<char>, // what control tokens begin with
}

impl Masks {
    fn new(specials: &[&str], messages: &[Message]) -> Result<Self, Error> {
        // Blanks stay, or templates could not trim; a control token has other characters too.
        let chars = specials.iter().flat_map(|s| s.chars()).filter(|c| !c.is_whitespace());
        let chars: BTreeSet<char> = chars.collect();
        let private = |c: &char| matches!(c, '\u{f0000}'..='\u{10ffff}');
        let used: BTreeSet<char> = messages
            .iter()
            .flat_map(|m| m.content.chars())
            .chain(chars.iter().copied())
            .filter(private)
            .collect();
        let mut free = ('\u{f0000}'..='\u{ffffd}').filter(|c| !used.contains(c));
        let masks: HashMap<char, char> = chars.iter().copied().zip(&mut free).collect();
        if masks.len() < chars.len() {
            let what = "too many private-use characters in the conversation";
            return Err(Error::Message { index: 0, what });
        }
        let back = masks.iter().map(|(c, mask)| (*mask, *c)).collect();
        let firsts = specials.iter().filter_map(|s| s.chars().next()).collect();
        Ok(Self { masks, back, firsts })
    }

    fn mask(&self, c: char) -> char {
        self.masks.get(&c).copied().unwrap_or(c)
    }

    fn mask_all(&self, content: &str) -> String {
        content.chars().map(|c| self.mask(c)).collect()
    }

    fn mask_first(&self, content: &str, specials: &[&str]) -> String {
        let mut out = String::with_capacity(content.len() + 8);
        for (at, c) in content.char_indices() {
            let here = &content[at..];
            let begins = self.firsts.contains(&c) && specials.iter().any(|s| here.starts_with(s));
            out.push(if begins { self.mask(c) } else { c });
        }
        out
    }

    /// Takes the masks off; also the byte ranges where they were, ascending.
    fn unmask(&self, text: &str) -> (String, Vec<Range<usize>>) {
        let mut out = String::with_capacity(text.len());
        let mut masked: Vec<Range<usize>> = Vec::new();
        for c in text.chars() {
            let start = out.len();
            let back = self.back.get(&c);
            out.push(*back.unwrap_or(&c));
            if back.is_some() {
                match masked.last_mut() {
                    Some(last) if last.end == start => last.end = out.len(),
                    _ => masked.push(start..out.len()),
                }
            }
        }
        (out, masked)
    }
}
