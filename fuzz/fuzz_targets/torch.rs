#![no_main]
//! The input is the pickle; the archive around it is valid and has a storage of 64 bytes.
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use nanoinfer_fuzz::Scratch;
use nanoinfer_packer::describe;

static FILE: LazyLock<Scratch> = LazyLock::new(|| Scratch::new("m.bin"));

/// A zip archive of uncompressed files.
fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in files {
        let (at, len) = (out.len() as u32, bytes.len() as u32);
        let mut common = vec![20, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        common.extend([crc(bytes), len, len].iter().flat_map(|v| v.to_le_bytes()));
        common.extend((name.len() as u16).to_le_bytes());
        common.extend([0, 0]);
        out.extend(b"PK\x03\x04");
        out.extend(&common);
        out.extend(name.as_bytes());
        out.extend(*bytes);
        directory.extend(b"PK\x01\x02\x14\0");
        directory.extend(&common);
        directory.extend([0; 10]);
        directory.extend(at.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let (at, n) = (out.len() as u32, files.len() as u16);
    out.extend(&directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend([n, n].iter().flat_map(|v| v.to_le_bytes()));
    out.extend([directory.len() as u32, at].iter().flat_map(|v| v.to_le_bytes()));
    out.extend([0, 0]);
    out
}

fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &b| {
        (0..8).fold(crc ^ u32::from(b), |c, _| (c >> 1) ^ (0xedb8_8320 & (c & 1).wrapping_neg()))
    })
}

fuzz_target!(|pickle: &[u8]| {
    let archive = zip(&[("m/data.pkl", pickle), ("m/data/0", &[0; 64]), ("m/version", b"3\n")]);
    let _ = describe(FILE.write(&archive));
});
