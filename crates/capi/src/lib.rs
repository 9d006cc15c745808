//! The C interface of NanoInfer: [`nanoinfer::local`] behind opaque handles. `include/nanoinfer.h` is made of this
//! file, and `examples/c` uses it.
//!
//! No panic crosses the border: it becomes an error. Errors are kept per thread, so that they need not be freed.
//!
//! # Safety
//!
//! Code outside Rust cannot be checked, so every function trusts its caller in what the header says: pointers are
//! null where that is allowed, or else point to what their types say, and texts end with a zero byte; a handle is one
//! that was returned and not yet freed; and the rules about threads hold. Each function dereferences only its
//! arguments, through `text`, `slice` and `buffer`.
#![allow(unsafe_code)]
#![allow(clippy::missing_safety_doc)] // it is above, for all functions

mod answer;
mod border;

use std::ffi::{CString, c_char};

pub use answer::Answer;
use answer::{embedded, result};
use border::{buffer, error_text, guard, json, message, slice, text};
use nanoinfer::local::{Api, Local, OpenOptions, open, wait};

/// Version of the binary interface. It changes when a program has to be compiled again.
pub const ABI: u32 = 1;

/// An open model.
#[derive(Debug)]
pub struct Model {
    local: Local,
}

/// The version of the binary interface of this library, to be compared with NANOINFER_ABI.
#[unsafe(no_mangle)]
pub extern "C" fn nanoinfer_abi() -> u32 {
    ABI
}

/// Why the last call on this thread failed, until the next call on this thread. Empty if none has.
#[unsafe(no_mangle)]
pub extern "C" fn nanoinfer_error() -> *const c_char {
    error_text()
}

/// Opens a model: a .nano file, a GGUF file, a Hugging Face folder, a hub id, or "smollm2". `options` is NULL or a
/// JSON object, with: quant, revision, offline, in_memory, threads, ctx, sequences, kv, kv_mb, pass_ms, queue.
/// nanoinfer_close() frees it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nanoinfer_open(name: *const c_char, options: *const c_char) -> *mut Model {
    guard(std::ptr::null_mut(), || {
        // SAFETY: the caller gives texts, or null for the options.
        let (name, options) = unsafe { (text(name, "name")?, options_of(options)?) };
        let local = open(name, &options, &mut |_| {}).map_err(message)?;
        Ok(Box::into_raw(Box::new(Model { local })))
    })
}

unsafe fn options_of(options: *const c_char) -> Result<OpenOptions, String> {
    if options.is_null() {
        return Ok(OpenOptions::default());
    }
    // SAFETY: it is not null.
    let value = unsafe { json(options, "options")? };
    serde_json::from_value(value).map_err(|e| format!("options: {e}"))
}

/// Closes a model, and ends its answers with an error. Does nothing with NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nanoinfer_close(model: *mut Model) {
    if !model.is_null() {
        guard((), || {
            // SAFETY: the caller gives a model that was returned, for the last time.
            drop(unsafe { Box::from_raw(model) });
            Ok(())
        });
    }
}

/// Answers a conversation. `request` has the fields of OpenAI's chat completions: {"messages": [...], ...}.
/// nanoinfer_free() frees the answer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nanoinfer_chat(
    model: *const Model,
    request: *const c_char,
) -> *mut Answer {
    // SAFETY: the caller gives what is needed.
    unsafe { ask(model, request, Api::Chat) }
}

/// Continues a text. `request` has the fields of OpenAI's completions: {"prompt": "...", "max_tokens": 100, ...}.
/// nanoinfer_free() frees the answer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nanoinfer_complete(
    model: *const Model,
    request: *const c_char,
) -> *mut Answer {
    // SAFETY: the caller gives what is needed.
    unsafe { ask(model, request, Api::Completions) }
}

unsafe fn ask(model: *const Model, request: *const c_char, api: Api) -> *mut Answer {
    guard(std::ptr::null_mut(), || {
        // SAFETY: stated above.
        let (model, request) = unsafe { (handle(model)?, json(request, "request")?) };
        let answers = model.local.ask(api, &request).map_err(message)?;
        if answers.prompts().len() > 1 {
            return Err("expected one prompt and n: 1; ask once for each answer".to_owned());
        }
        Ok(Box::into_raw(Box::new(Answer::new(answers))))
    })
}

unsafe fn handle<'a>(model: *const Model) -> Result<&'a Model, String> {
    // SAFETY: stated above.
    unsafe { model.as_ref() }.ok_or_else(|| "the model is NULL".to_owned())
}

/// Waits for the next piece of an answer's text. Returns 1 with a piece, which may be empty and is valid until the
/// next call with this answer; 0 at the end; and -1 if the answer failed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nanoinfer_next(answer: *mut Answer, piece: *mut *const c_char) -> i32 {
    guard(-1, || {
        // SAFETY: the caller gives an answer that no other thread uses but to cancel it, and a place.
        let (answer, piece) = unsafe { (answer.as_ref(), piece.as_mut()) };
        let (Some(answer), Some(piece)) = (answer, piece) else {
            return Err("the answer or the piece is NULL".to_owned());
        };
        let next = answer.next()?;
        *piece = next.unwrap_or(std::ptr::null());
        Ok(i32::from(next.is_some()))
    })
}

/// All of an answer so far, as a JSON object with: text, reasoning, tool_calls, tokens, finish_reason, stop, seed,
/// stats. nanoinfer_string_free() frees it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nanoinfer_result(answer: *const Answer) -> *mut c_char {
    guard(std::ptr::null_mut(), || {
        // SAFETY: the caller gives an answer that no other thread uses but to cancel it.
        let answer = unsafe { answer.as_ref() }.ok_or("the answer is NULL")?;
        owned(result(answer))
    })
}

/// Ends an answer early, from any thread. Its thread then finds the end within a twentieth of a second.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nanoinfer_cancel(answer: *const Answer) {
    // SAFETY: the caller gives an answer that is not freed yet.
    if let Some(answer) = unsafe { answer.as_ref() } {
        answer.cancel();
    }
}

/// Frees an answer, and cancels it if it has not ended. Does nothing with NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nanoinfer_free(answer: *mut Answer) {
    if !answer.is_null() {
        guard((), || {
            // SAFETY: the caller gives an answer that was returned, for the last time.
            drop(unsafe { Box::from_raw(answer) });
            Ok(())
        });
    }
}

/// Writes the tokens of a text, at most `capacity`, and returns how many it has, or -1. With `bos`, they begin with
/// the token that begins every prompt, if the model has one; with `special`, names of control tokens are control
/// tokens.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nanoinfer_tokenize(
    model: *const Model,
    content: *const c_char,
    bos: bool,
    special: bool,
    tokens: *mut u32,
    capacity: usize,
) -> i64 {
    guard(-1, || {
        // SAFETY: the caller gives what is needed.
        let (model, content) = unsafe { (handle(model)?, text(content, "text")?) };
        let ids = model.local.encode(content, bos, special).map_err(message)?;
        // SAFETY: the caller gives as much space.
        let tokens = unsafe { buffer(tokens, capacity) };
        tokens.iter_mut().zip(&ids).for_each(|(to, id)| *to = *id);
        Ok(ids.len() as i64)
    })
}

/// The text of tokens, with the names of control tokens. Zero bytes in it become U+FFFD. nanoinfer_string_free()
/// frees it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nanoinfer_detokenize(
    model: *const Model,
    tokens: *const u32,
    n: usize,
) -> *mut c_char {
    guard(std::ptr::null_mut(), || {
        // SAFETY: the caller gives so many tokens.
        let (model, tokens) = unsafe { (handle(model)?, slice(tokens, n)) };
        owned(model.local.decode(tokens))
    })
}

/// Writes the vectors of texts, one after the other, at most `capacity` numbers, and returns how many there are, or
/// -1. `request` has the fields of OpenAI's embeddings: {"input": ["...", ...]}.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nanoinfer_embed(
    model: *const Model,
    request: *const c_char,
    values: *mut f32,
    capacity: usize,
) -> i64 {
    guard(-1, || {
        // SAFETY: the caller gives what is needed.
        let (model, request) = unsafe { (handle(model)?, json(request, "request")?) };
        // SAFETY: the caller gives as much space.
        Ok(embedded(&model.local, &request, unsafe { buffer(values, capacity) })? as i64)
    })
}

/// Writes the logits after each of `n` tokens, as many for each as the vocabulary has tokens, at most `capacity`
/// numbers, and returns how many there are, or -1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nanoinfer_logits(
    model: *const Model,
    tokens: *const u32,
    n: usize,
    values: *mut f32,
    capacity: usize,
) -> i64 {
    guard(-1, || {
        // SAFETY: the caller gives so many tokens, and as much space.
        let (model, tokens, values) =
            unsafe { (handle(model)?, slice(tokens, n), buffer(values, capacity)) };
        let pending = model.local.logits(tokens.to_vec()).map_err(message)?;
        let all = wait(pending, None).ok_or("the wait was ended")?.map_err(message)?;
        values.iter_mut().zip(&all).for_each(|(to, value)| *to = *value);
        Ok(all.len() as i64)
    })
}

/// Frees a text that a function returned for it. Does nothing with NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nanoinfer_string_free(string: *mut c_char) {
    if !string.is_null() {
        // SAFETY: it is from `owned`, for the last time.
        drop(unsafe { CString::from_raw(string) });
    }
}

/// A text for the caller, which frees it.
fn owned(text: String) -> Result<*mut c_char, String> {
    let text = CString::new(text.replace('\0', "\u{fffd}"));
    text.map(CString::into_raw).map_err(|e| e.to_string())
}
