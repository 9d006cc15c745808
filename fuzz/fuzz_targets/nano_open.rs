#![no_main]
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use nanoinfer_format::NanoFile;
use nanoinfer_fuzz::Scratch;

static FILE: LazyLock<Scratch> = LazyLock::new(|| Scratch::new("m.nano"));

fuzz_target!(|bytes: &[u8]| {
    if let Ok(file) = NanoFile::open(FILE.write(bytes)) {
        let _ = file.verify();
    }
});
