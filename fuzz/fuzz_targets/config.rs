#![no_main]
//! `config.json`, also as the shape of a model of random weights, and, after a zero byte, the index of the shards; the
//! only shard has one tensor.
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use nanoinfer_fuzz::Scratch;
use nanoinfer_packer::describe;
use nanoinfer_packer::synthetic::Shape;

const SHARD: &[u8] =
    b"\x40\0\0\0\0\0\0\0{\"model.norm.weight\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}0123456789abcdef";

struct Folder {
    config: Scratch,
    index: Scratch,
}

static FOLDER: LazyLock<Folder> = LazyLock::new(|| {
    let mut shard = ((SHARD.len() - 24) as u64).to_le_bytes().to_vec();
    shard.extend(&SHARD[8..]);
    Scratch::new("a.safetensors").write(&shard);
    Folder {
        config: Scratch::new("config.json"),
        index: Scratch::new("model.safetensors.index.json"),
    }
});

fuzz_target!(|bytes: &[u8]| {
    let at = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    let (config, index) = bytes.split_at(at);
    let path = FOLDER.config.write(config);
    FOLDER
        .index
        .write(index.strip_prefix(b"\0").unwrap_or(br#"{"weight_map":{"a":"a.safetensors"}}"#));
    let _ = describe(FOLDER.config.folder());
    if let Ok(shape) = Shape::read(path) {
        let _ = (shape.bytes(), shape.pass_bytes(), shape.parameters());
    }
});
