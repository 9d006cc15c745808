//! An answer while it is generated.

use std::ffi::{CString, c_char};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nanoinfer::local::{Answers, Chunk, End, Local, Part, Update, wait};
use serde_json::{Value, json};

use crate::border::message;

/// How long a cancellation may take to be noticed.
const SLICE: Duration = Duration::from_millis(50);

/// An answer while it is generated.
#[derive(Debug)]
pub struct Answer {
    state: Mutex<State>,
    is_cancelled: AtomicBool,
}

#[derive(Debug)]
struct State {
    /// Until the end.
    answers: Option<Answers>,
    /// What the caller was given last.
    piece: CString,
    seed: u64,
    text: String,
    reasoning: String,
    calls: Vec<Call>,
    tokens: Vec<u32>,
    end: Option<Value>,
}

#[derive(Debug)]
struct Call {
    id: String,
    name: String,
    arguments: String,
}

impl Answer {
    pub(crate) fn new(answers: Answers) -> Self {
        let state = State {
            seed: answers.seed(),
            answers: Some(answers),
            piece: CString::default(),
            text: String::new(),
            reasoning: String::new(),
            calls: Vec::new(),
            tokens: Vec::new(),
            end: None,
        };
        Self { state: Mutex::new(state), is_cancelled: AtomicBool::new(false) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Relaxed);
    }

    /// The next piece of the text; `None` at the end.
    pub(crate) fn next(&self) -> Result<Option<*const c_char>, String> {
        let mut state = self.state();
        loop {
            if self.is_cancelled.load(Ordering::Relaxed) && state.answers.take().is_some() {
                state.end = Some(json!({"finish_reason": "cancelled"}));
            }
            let Some(answers) = &mut state.answers else { return Ok(None) };
            match wait(answers.next(), Some(SLICE)) {
                None | Some(Some(Update::Prefill { .. } | Update::Prompt { .. })) => {}
                Some(Some(Update::Chunk(chunk))) => return Ok(Some(state.add(chunk))),
                Some(Some(Update::End(end))) => state.finish(&end),
                Some(Some(Update::Failed(problem))) => {
                    state.answers = None;
                    return Err(message(problem));
                }
                Some(None) => state.answers = None,
            }
        }
    }
}

impl State {
    fn add(&mut self, chunk: Chunk) -> *const c_char {
        let piece = chunk.text().replace('\0', "\u{fffd}");
        let tokens = self.answers.as_ref().map(|answers| answers.tokens(chunk.choice));
        let tokens = tokens.and_then(|tokens| tokens.get(self.tokens.len()..chunk.count));
        self.tokens.extend_from_slice(tokens.unwrap_or_default());
        for part in chunk.parts {
            match part {
                Part::Text(text) => self.text.push_str(&text),
                Part::Reasoning(text) => self.reasoning.push_str(&text),
                Part::Call { id, name, .. } => {
                    self.calls.push(Call { id, name, arguments: String::new() });
                }
                Part::Arguments { text, .. } => {
                    if let Some(call) = self.calls.last_mut() {
                        call.arguments.push_str(&text);
                    }
                }
                Part::CallEnd { .. } => {}
            }
        }
        self.piece = CString::new(piece).unwrap_or_default(); // it has no zero bytes
        self.piece.as_ptr()
    }

    fn finish(&mut self, end: &End) {
        let tokens = self.answers.as_ref().map(|answers| answers.tokens(end.choice));
        self.tokens = tokens.unwrap_or_default().to_vec();
        self.end = Some(json!({
            "finish_reason": end.reason.name(),
            "stop": end.stop,
            "stats": {
                "prompt_tokens": end.stats.prompt_tokens,
                "cached_tokens": end.stats.reused_tokens,
                "generated_tokens": end.stats.generated,
            },
        }));
    }
}

/// All of an answer so far, as JSON.
pub(crate) fn result(answer: &Answer) -> String {
    let state = answer.state();
    let call = |call: &Call| {
        json!({
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        })
    };
    let mut all = json!({
        "text": state.text,
        "reasoning": state.reasoning,
        "tool_calls": state.calls.iter().map(call).collect::<Vec<_>>(),
        "tokens": state.tokens,
        "seed": state.seed,
        "finish_reason": null,
    });
    if let (Some(all), Some(Value::Object(end))) = (all.as_object_mut(), &state.end) {
        all.extend(end.clone());
    }
    all.to_string()
}

/// Writes the vectors of a request, and returns the number of all their values.
pub(crate) fn embedded(
    local: &Local,
    request: &Value,
    values: &mut [f32],
) -> Result<usize, String> {
    let vectors = wait(local.embed(request).map_err(message)?, None);
    let vectors = vectors.ok_or("the wait was ended")?.map_err(message)?.concat();
    values.iter_mut().zip(&vectors).for_each(|(to, value)| *to = *value);
    Ok(vectors.len())
}
