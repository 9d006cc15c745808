//! The header is what cbindgen makes of the sources. NANOINFER_BLESS=1 writes it.

use std::path::Path;

#[test]
fn the_header_is_current() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(folder.join("cbindgen.toml")).unwrap();
    let bindings = cbindgen::Builder::new().with_crate(folder).with_config(config).generate();
    let mut made = Vec::new();
    bindings.unwrap().write(&mut made);
    let path = folder.join("include/nanoinfer.h");
    if std::env::var_os("NANOINFER_BLESS").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(kept, String::from_utf8(made).unwrap(), "run this test with NANOINFER_BLESS=1");
}
