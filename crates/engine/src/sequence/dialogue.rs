//! Which tokens of the context stand for which text of a conversation.
//!
//! Tokenizing a conversation anew for each turn is wasteful, and wrong in one way: the text of an
//! answer may have other tokens than those the model chose, and everything from there on would
//! have to be computed again. So the tokens of the past stay as they are. A template is rendered
//! whole, because only it knows what it writes, but only what follows the last *seam* is
//! tokenized:
//!
//! ```text
//! text    <|system|>… <|user|>Hi <|assistant|>│Hello!│<|end|><|user|>And? <|assistant|>│
//! tokens  ─────────── kept ───────────────────┼ kept ┼────────── tokenized now ────────┼ answer …
//!                                            seam   seam                             seam
//! ```

use nanoinfer_text::{ChatText, Tokenizer};

/// The first `text` bytes of the rendered conversation are the first `tokens` of the context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seam {
    text: usize,
    tokens: usize,
}

/// What a session knows of the conversation in its context.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dialogue {
    /// The conversation as last rendered.
    text: ChatText,
    /// Where prompts and answers ended, ascending.
    seams: Vec<Seam>,
}

impl Dialogue {
    /// Tokens of the next prompt: how many of the context's stay, and what follows them.
    ///
    /// `answer` is the text of the context's tokens after the last prompt, and `end` where in the
    /// context it ends. A template that shows an answer otherwise than it was (none of it, or
    /// without its reasoning) makes a text that does not go on from there; what is common is kept.
    pub(crate) fn next(
        &self,
        tokenizer: &Tokenizer,
        next: &ChatText,
        answer: &str,
        end: usize,
    ) -> (usize, Vec<u32>) {
        let seam = self.after_answer(next, answer, end).or_else(|| self.last_common(next));
        let seam = seam.unwrap_or(Seam { text: 0, tokens: 0 });
        (seam.tokens, next.encode_from(tokenizer, seam.text))
    }

    /// Remembers the prompt that the context, now of `tokens` tokens, was made from.
    pub(crate) fn advance(&mut self, next: ChatText, answer: &str, end: usize, tokens: usize) {
        let answered = self.after_answer(&next, answer, end);
        self.seams.retain(|s| next.same_start(&self.text, s.text));
        self.seams.extend(answered);
        let seam = Seam { text: next.text().len(), tokens };
        if self.seams.last() != Some(&seam) {
            self.seams.push(seam);
        }
        self.text = next;
    }

    /// The seam after the answer, if the text goes on from prompt and answer. Templates may trim.
    fn after_answer(&self, next: &ChatText, answer: &str, end: usize) -> Option<Seam> {
        let prompt = self.text.text().len();
        if prompt == 0 || !next.same_start(&self.text, prompt) {
            return None;
        }
        let rest = &next.text()[prompt..];
        let forms = [answer, answer.trim_end(), answer.trim()];
        let shown = forms.into_iter().find(|a| !a.is_empty() && rest.starts_with(a))?;
        Some(Seam { text: prompt + shown.len(), tokens: end })
    }

    fn last_common(&self, next: &ChatText) -> Option<Seam> {
        self.seams.iter().rev().find(|s| next.same_start(&self.text, s.text)).copied()
    }
}
