//! What crosses the border: errors out, texts and buffers in.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::Value;

thread_local! {
    static ERROR: RefCell<CString> = RefCell::default();
}

/// Runs a function. Its error, or a panic, is kept for [`error_text`], and `failed` is returned.
pub(crate) fn guard<T>(failed: T, run: impl FnOnce() -> Result<T, String>) -> T {
    // After a panic, only the engine's own state could be broken, and it refuses to run then.
    let output = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| Err(bug(&panic)));
    output.unwrap_or_else(|error| {
        let error = CString::new(error.replace('\0', "\u{fffd}")).unwrap_or_default();
        ERROR.with(|last| *last.borrow_mut() = error);
        failed
    })
}

fn bug(panic: &Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("a bug in NanoInfer: {}", text.unwrap_or("it has no message"))
}

/// The last error on this thread.
pub(crate) fn error_text() -> *const c_char {
    ERROR.with(|last| last.borrow().as_ptr())
}

/// An error in words.
pub(crate) fn message(error: impl Display) -> String {
    error.to_string()
}

/// A text of the caller.
///
/// # Safety
/// It is null, or ends with a zero byte and outlives the call.
pub(crate) unsafe fn text<'a>(text: *const c_char, name: &str) -> Result<&'a str, String> {
    if text.is_null() {
        return Err(format!("{name}: is NULL"));
    }
    // SAFETY: stated above.
    unsafe { CStr::from_ptr(text) }.to_str().map_err(|e| format!("{name}: {e}"))
}

/// JSON of the caller.
///
/// # Safety
/// As for [`text`].
pub(crate) unsafe fn json(json: *const c_char, name: &str) -> Result<Value, String> {
    // SAFETY: stated above.
    let json = unsafe { text(json, name)? };
    serde_json::from_str(json).map_err(|e| format!("{name}: not JSON: {e}"))
}

/// Values of the caller.
///
/// # Safety
/// Null, or `n` values that outlive the call.
pub(crate) unsafe fn slice<'a, T>(values: *const T, n: usize) -> &'a [T] {
    if values.is_null() || n == 0 {
        return &[];
    }
    // SAFETY: stated above.
    unsafe { std::slice::from_raw_parts(values, n) }
}

/// Space of the caller.
///
/// # Safety
/// Null, or `n` values that outlive the call and that nobody else uses.
pub(crate) unsafe fn buffer<'a, T>(values: *mut T, n: usize) -> &'a mut [T] {
    if values.is_null() || n == 0 {
        return &mut [];
    }
    // SAFETY: stated above.
    unsafe { std::slice::from_raw_parts_mut(values, n) }
}
