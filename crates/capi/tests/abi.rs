//! What is wrong is an error with a sentence, on the thread that caused it.

use std::ffi::{CStr, CString};
use std::ptr::{null, null_mut};
use std::thread;

use nanoinfer_c::*;

#[allow(unsafe_code)]
fn error() -> String {
    // SAFETY: it is a text until the next call.
    unsafe { CStr::from_ptr(nanoinfer_error()) }.to_str().unwrap().to_owned()
}

#[test]
#[allow(unsafe_code)]
fn wrong_arguments_are_errors() {
    let text = |text: &str| CString::new(text).unwrap();
    // SAFETY: null is allowed everywhere, and texts live until the end of their statements.
    unsafe {
        assert!(nanoinfer_open(null(), null()).is_null());
        assert_eq!(error(), "name: is NULL");
        assert!(nanoinfer_open(text("missing.nano").as_ptr(), null()).is_null());
        assert!(error().starts_with(r#"model "missing.nano": no such file"#), "{}", error());
        for (options, what) in [
            ("{", "options: not JSON: EOF while parsing an object at line 1 column 1"),
            (r#"{"thread": 1}"#, "options: unknown field `thread`"),
            (r#"{"threads": 0}"#, "threads: expected a number from 1 to 1024, not 0"),
        ] {
            let model = nanoinfer_open(text("missing.nano").as_ptr(), text(options).as_ptr());
            assert!(model.is_null() && error().starts_with(what), "{}", error());
        }
        let invalid = CString::new([b'a', 0xff]).unwrap();
        assert!(nanoinfer_open(invalid.as_ptr(), null()).is_null());
        assert!(error().starts_with("name: invalid utf-8"), "{}", error());
        let mut piece = null();
        assert!(nanoinfer_chat(null(), text("{}").as_ptr()).is_null());
        assert_eq!(error(), "the model is NULL");
        assert_eq!(nanoinfer_next(null_mut(), &mut piece), -1);
        assert_eq!(error(), "the answer or the piece is NULL");
        assert!(nanoinfer_result(null()).is_null());
        assert_eq!(nanoinfer_tokenize(null(), null(), true, true, null_mut(), 7), -1);
        assert_eq!(nanoinfer_embed(null(), null(), null_mut(), 0), -1);
        assert_eq!(nanoinfer_logits(null(), null(), 0, null_mut(), 0), -1);
        assert!(nanoinfer_detokenize(null(), null(), 0).is_null());
        assert_eq!(error(), "the model is NULL");
        thread::spawn(|| assert_eq!(error(), "")).join().unwrap();
        // Nothing to free.
        nanoinfer_close(null_mut());
        nanoinfer_free(null_mut());
        nanoinfer_cancel(null());
        nanoinfer_string_free(null_mut());
    }
    assert_eq!(nanoinfer_abi(), ABI);
}
