#![no_main]
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use nanoinfer_fuzz::Scratch;
use nanoinfer_packer::describe;

static FILE: LazyLock<Scratch> = LazyLock::new(|| Scratch::new("m.safetensors"));

fuzz_target!(|bytes: &[u8]| {
    let _ = describe(FILE.write(bytes));
});
