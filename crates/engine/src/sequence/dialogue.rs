//! Maps the text of a conversation to the tokens of the context.
//!
//! Retokenizing a conversation on each turn is wasteful. It can also be incorrect: the text of an answer
//! may tokenize differently from the tokens that the model chose, in which case everything after it would
//! have to be recomputed. So existing tokens are kept. The template is rendered in full, because it may
//! change any part of its output, but only the text after the last *seam* is tokenized:
//!
//! ```text
//! text    <|system|>… <|user|>Hi <|assistant|>│Hello!│<|end|><|user|>And? <|assistant|>│
//! tokens  ─────────── kept ───────────────────┼ kept ┼────────── tokenized now ────────┼ answer …
//!                                            seam   seam                             seam
//! ```

use nanoinfer_text::{ChatText, Tokenizer};

/// The first `text` bytes of the rendered conversation correspond to the first `tokens` of the context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seam {
    text: usize,
    tokens: usize,
}

/// The conversation in a sequence's context.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dialogue {
    /// The conversation as last rendered.
    text: ChatText,
    /// The ends of prompts and answers, ascending.
    seams: Vec<Seam>,
}

impl Dialogue {
    /// The next prompt: the number of context tokens to keep, and the tokens to append.
    ///
    /// `answer` is the text of the tokens after the last prompt, and `end` the index in the context at
    /// which it ends. If the template renders the answer differently (omits it, or omits its reasoning),
    /// only the common part is kept.
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

    /// Records a new prompt, with which the context has `tokens` tokens.
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

    /// The seam after the answer, if the new text continues the prompt and the answer. Templates may trim
    /// the answer.
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
