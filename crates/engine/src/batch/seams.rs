//! Tokens of past answers, for clients that send a conversation back as text.
//!
//! The text of an answer may tokenize differently from the tokens that the model chose, and then nothing
//! after it would be found in the cache. So the tokens of answers are kept by the prompt that they answer.
//! When a conversation comes back, text is tokenized only between the answers that are known:
//!
//! ```text
//! text    <|user|>Hi <|assistant|>│Hello!│<|end|><|user|>And? <|assistant|>│Fine.│<|end|>…
//! tokens         tokenized        ┼ kept ┼        tokenized               ┼ kept ┼ tokenized
//! ```

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nanoinfer_text::{ChatInput, ChatText, Message, Tokenizer};

use super::request::Request;
use crate::{Error, Model, Namespace};

/// Bytes of answers and their tokens to keep.
const LIMIT: usize = 4 << 20;

/// The answers of a [`crate::Batch`] to conversations of a namespace. Clones share their content, so prompts
/// can be tokenized on any thread.
#[derive(Clone, Default)]
pub struct Seams {
    namespace: Namespace,
    table: Arc<Mutex<Table>>,
}

#[derive(Default)]
struct Table {
    /// Least recently used first.
    answers: Vec<Answer>,
    bytes: usize,
}

struct Answer {
    namespace: Namespace,
    /// Length of the prompt's text, its hash, and the ranges in which no control token is parsed.
    len: usize,
    hash: blake3::Hash,
    protected: Vec<Range<usize>>,
    text: String,
    tokens: Vec<u32>,
}

impl Answer {
    fn bytes(&self) -> usize {
        size_of::<Self>()
            + self.text.len()
            + size_of_val(&self.tokens[..])
            + size_of_val(&self.protected[..])
    }

    /// Length of the answer in `rest`, the text after the prompt. Templates may trim answers.
    fn shown(&self, rest: &str) -> Option<usize> {
        let forms = [self.text.as_str(), self.text.trim_end(), self.text.trim()];
        forms.into_iter().find(|a| !a.is_empty() && rest.starts_with(a)).map(str::len)
    }
}

impl Seams {
    /// The answers to conversations of another namespace, in the same table.
    pub fn of(&self, namespace: Namespace) -> Self {
        Self { namespace, table: Arc::clone(&self.table) }
    }

    /// A request for the answer to a conversation.
    ///
    /// # Errors
    /// The model has no chat template, or the template rejects the conversation.
    pub fn request(&self, model: &Model, messages: &[Message]) -> Result<Request, Error> {
        self.request_chat(model, &ChatInput::from_messages(messages, true))
    }

    /// A request for the answer to a conversation that may have tools.
    ///
    /// # Errors
    /// As for [`Self::request`].
    pub fn request_chat(&self, model: &Model, input: &ChatInput) -> Result<Request, Error> {
        let text = model.render_chat(input)?;
        let prompt = self.encode(model.tokenizer()?, &text);
        let (namespace, answer_follows) = (self.namespace, true);
        Ok(Request { prompt, answer_follows, chat: Some(text), namespace, ..Request::default() })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner) // every update leaves it whole
    }

    /// Tokenizes a conversation, with the tokens of the answers in it that are known.
    fn encode(&self, tokenizer: &Tokenizer, text: &ChatText) -> Vec<u32> {
        let (mut ids, mut at) = (Vec::new(), 0);
        let known = self.table().find(self.namespace, text);
        for (prompt, tokens, end) in known {
            ids.extend(text.prefix(prompt).encode_from(tokenizer, at));
            ids.extend(tokens);
            at = end;
        }
        ids.extend(text.encode_from(tokenizer, at));
        ids
    }

    /// Records the answer to a conversation.
    pub(super) fn record(&self, prompt: &ChatText, text: String, tokens: &[u32]) {
        if text.is_empty() || tokens.is_empty() {
            return;
        }
        let answer = Answer {
            namespace: self.namespace,
            len: prompt.text().len(),
            hash: blake3::hash(prompt.text().as_bytes()),
            protected: prompt.protected().to_vec(),
            text,
            tokens: tokens.to_vec(),
        };
        self.table().add(answer);
    }
}

impl Table {
    fn add(&mut self, answer: Answer) {
        let same = |a: &Answer| {
            (a.namespace, a.hash, &a.text) == (answer.namespace, answer.hash, &answer.text)
        };
        if let Some(at) = self.answers.iter().position(same) {
            self.bytes -= self.answers.remove(at).bytes();
        }
        self.bytes += answer.bytes();
        self.answers.push(answer);
        let mut bytes = self.bytes;
        let excess = self.answers.iter().take_while(|a| {
            let over = bytes > LIMIT;
            bytes -= if over { a.bytes() } else { 0 };
            over
        });
        let n = excess.count();
        self.answers.drain(..n);
        self.bytes = bytes;
    }

    /// The known answers in a conversation: where the prompt ends, the tokens, and where the answer ends.
    fn find(&mut self, namespace: Namespace, text: &ChatText) -> Vec<(usize, Vec<u32>, usize)> {
        let all = text.text();
        let mut order: Vec<usize> = (0..self.answers.len()).collect();
        let is_own = |a: &Answer| a.namespace == namespace && a.len < all.len();
        order.retain(|&i| is_own(&self.answers[i]));
        order.sort_by_key(|&i| self.answers[i].len);
        let (mut hasher, mut hashed, mut end) = (blake3::Hasher::new(), 0, 0);
        let (mut found, mut used) = (Vec::new(), Vec::new());
        for group in order.chunk_by(|&a, &b| self.answers[a].len == self.answers[b].len) {
            let len = self.answers[group[0]].len;
            if len < end || !all.is_char_boundary(len) {
                continue;
            }
            hasher.update(&all.as_bytes()[hashed..len]);
            hashed = len;
            let hash = hasher.finalize();
            let known = |&i: &usize| {
                let answer = &self.answers[i];
                let same = answer.hash == hash && answer.protected == text.prefix(len).protected();
                Some((answer.shown(&all[len..]).filter(|_| same)?, i))
            };
            if let Some((shown, i)) = group.iter().filter_map(known).max() {
                end = len + shown;
                found.push((len, self.answers[i].tokens.clone(), end));
                used.push(i);
            }
        }
        self.touch(used);
        found
    }

    /// Marks answers as the most recently used. In place: the table may have megabytes, every thread that
    /// tokenizes does this, and the allocator would keep a copy for each.
    fn touch(&mut self, mut used: Vec<usize>) {
        used.sort_unstable();
        for (moved, index) in used.into_iter().enumerate() {
            self.answers[index - moved..].rotate_left(1);
        }
    }
}

impl fmt::Debug for Seams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.table();
        let n = table.answers.len();
        f.debug_struct("Seams")
            .field("namespace", &self.namespace)
            .field("answers", &n)
            .field("bytes", &table.bytes)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(id: u32, bytes: usize) -> Answer {
        Answer {
            namespace: Namespace::COMMON,
            len: 1,
            hash: blake3::hash(&id.to_le_bytes()),
            protected: Vec::new(),
            text: "x".repeat(bytes),
            tokens: vec![id],
        }
    }

    #[test]
    fn the_least_recently_used_answers_are_dropped() {
        let mut table = Table::default();
        for id in 0..10 {
            table.add(answer(id, LIMIT / 4));
            if id >= 2 {
                table.touch(vec![0]); // the oldest
            }
        }
        let ids = |table: &Table| table.answers.iter().map(|a| a.tokens[0]).collect::<Vec<_>>();
        assert_eq!(table.answers.len(), 3);
        assert_eq!(table.bytes, table.answers.iter().map(Answer::bytes).sum::<usize>());
        let before = ids(&table);
        table.add(answer(before[1], LIMIT / 4));
        assert_eq!(ids(&table), [before[0], before[2], before[1]], "the same answer again");
        table.add(answer(99, 2 * LIMIT));
        assert!(table.answers.is_empty() && table.bytes == 0, "too large to keep");
    }

    #[test]
    fn used_answers_become_the_latest_in_place() {
        let mut table = Table::default();
        (0..5).for_each(|id| table.add(answer(id, 10)));
        let place = table.answers.as_ptr();
        table.touch(vec![3, 0]);
        let ids: Vec<u32> = table.answers.iter().map(|a| a.tokens[0]).collect();
        assert_eq!(ids, [1, 2, 4, 0, 3]);
        table.touch(Vec::new());
        assert_eq!((table.answers.as_ptr(), table.answers[0].tokens[0]), (place, 1));
    }
}
