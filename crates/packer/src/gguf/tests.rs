//! Tests with a file written by the `gguf` Python package (see tests/fixtures/make_gguf_types.py).

use std::path::{Path, PathBuf};

use super::file::Gguf;
use super::open_file as open;
use crate::Error;
use crate::source::TensorSource;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf-types.gguf")
}

fn rows(g: &Gguf, name: &str) -> Vec<f32> {
    let tensor = g.tensors.iter().find(|t| t.name().1 == name).unwrap();
    let [n, k] = tensor.shape();
    let mut out = vec![0.0; n * k];
    // Row by row, so that row offsets are tested too.
    for (r, row) in out.chunks_exact_mut(k).enumerate() {
        tensor.read_rows(r..r + 1, row).unwrap();
    }
    out
}

#[test]
fn every_format_dequantizes_bit_for_bit() {
    let g = open(&fixture()).unwrap();
    let names: Vec<_> = g.tensors.iter().map(|t| t.name().1.to_owned()).collect();
    let formats: Vec<_> = names.iter().filter(|n| !n.ends_with(".expected")).collect();
    assert_eq!(formats.len(), 28);
    for name in formats {
        let (got, expected) = (rows(&g, name), rows(&g, &format!("{name}.expected")));
        let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&got), bits(&expected), "{name}");
    }
}

#[test]
fn metadata_of_every_type() {
    let g = open(&fixture()).unwrap();
    assert_eq!(g.metadata.str("general.architecture").unwrap(), Some("none"));
    assert_eq!(g.metadata.str("test.string").unwrap(), Some("naïve"));
    assert_eq!(g.metadata.strings("test.strings").unwrap().unwrap(), ["a", "", "ü"]);
    assert_eq!(g.metadata.ints("test.ints").unwrap().unwrap(), [-1, 2, 3]);
    let floats = g.metadata.floats("test.floats").unwrap().unwrap();
    assert_eq!(*floats, [0.5, -2.0]);
    assert_eq!(g.metadata.bool("test.bool").unwrap(), Some(true));
    assert_eq!(g.metadata.f64("test.f64").unwrap(), Some(0.1));
    assert_eq!(g.metadata.u32("test.absent").unwrap(), None);
    let error = |e: Error| e.to_string();
    assert!(error(g.metadata.u32("test.u64").unwrap_err()).contains("test.u64 is 1099511627776"));
    assert!(
        error(g.metadata.bool("test.string").unwrap_err())
            .contains("test.string is not true or false")
    );
}

/// Writes these bytes to a file and opens it.
fn reopen(bytes: &[u8]) -> Result<Gguf, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    std::fs::write(&path, bytes).unwrap();
    open(&path)
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = std::fs::read(fixture()).unwrap();
    // Cutting off only the final alignment padding is not an error.
    for len in (0..bytes.len() - 32).step_by(97) {
        let error = reopen(&bytes[..len]).err().unwrap().to_string();
        assert!(!error.contains('\n'), "{error}");
    }
}

/// A file with this version, these numbers of tensors and keys, and `rest`.
fn head(version: u32, tensors: u64, keys: u64, rest: &[u8]) -> Vec<u8> {
    let mut b = b"GGUF".to_vec();
    b.extend(version.to_le_bytes());
    b.extend(tensors.to_le_bytes());
    b.extend(keys.to_le_bytes());
    b.extend(rest);
    b
}

fn string(s: &str) -> Vec<u8> {
    [&(s.len() as u64).to_le_bytes(), s.as_bytes()].concat()
}

/// A tensor info entry.
fn info(name: &str, dims: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let mut b = string(name);
    b.extend((dims.len() as u32).to_le_bytes());
    b.extend(dims.iter().flat_map(|d| d.to_le_bytes()));
    b.extend(kind.to_le_bytes());
    b.extend(offset.to_le_bytes());
    b
}

#[test]
fn absurd_claims_are_errors() {
    let array = |kind: u32, n: u64| {
        [string("k"), 9u32.to_le_bytes().into(), kind.to_le_bytes().into(), n.to_le_bytes().into()]
            .concat()
    };
    let long_key = [u64::MAX.to_le_bytes(), [0; 8]].concat();
    let pad = vec![0; 200];
    let tensor = |dims: &[u64], kind, offset| [info("t", dims, kind, offset), pad.clone()].concat();
    let twice = [info("t", &[1], 0, 0), info("t", &[1], 0, 32), pad.clone()].concat();
    let over = [info("t", &[16], 0, 0), info("u", &[16], 0, 32), pad.clone()].concat();
    for (bytes, expected) in [
        (b"GGML".repeat(10), "does not begin with GGUF"),
        (head(1, 0, 0, &[]), "version 0x1 is not supported"),
        (head(3 << 24, 0, 0, &[]), "version 0x3000000 is not supported"),
        (head(3, u64::MAX, 0, &[]), "18446744073709551615 tensors"),
        (head(3, 0, u64::MAX, &[]), "18446744073709551615 metadata keys"),
        (head(3, 0, 1, &long_key), "18446744073709551615 bytes of a metadata key"),
        (head(3, 0, 1, &array(8, u64::MAX)), "18446744073709551615 entries of \"k\""),
        (head(3, 0, 1, &array(4, 1 << 60)), "1152921504606846976 entries"),
        (head(3, 0, 1, &array(9, 1)), "list with unsupported value type 9"),
        (head(3, 0, 1, &[string("k"), vec![99, 0, 0, 0]].concat()), "unknown value type 99"),
        (head(3, 1, 0, &tensor(&[], 0, 0)), "0 dimensions"),
        (head(3, 1, 0, &tensor(&[1; 5], 0, 0)), "5 dimensions"),
        (head(3, 1, 0, &tensor(&[1 << 40, 1 << 40], 0, 0)), "overflows"),
        (head(3, 1, 0, &tensor(&[u64::MAX], 0, 0)), "overflows"),
        (head(3, 1, 0, &tensor(&[0], 0, 0)), "empty shape"),
        (head(3, 1, 0, &tensor(&[1000], 0, 0)), "beyond the end of the file"),
        (head(3, 1, 0, &tensor(&[1], 0, u64::MAX - 31)), "offset 18446744073709551584"),
        (head(3, 1, 0, &tensor(&[1], 0, 7)), "a multiple of 32"),
        (head(3, 1, 0, &tensor(&[33], 2, 0)), "a multiple of the Q4_0 block size 32"),
        (head(3, 1, 0, &tensor(&[256], 15, 0)), "ggml type 15 (Q8_K) is not supported"),
        (head(3, 1, 0, &tensor(&[32], 999, 0)), "ggml type 999 is not supported"),
        (head(3, 2, 0, &twice), "\"t\" appears twice"),
        (head(3, 2, 0, &over), "starts at byte 128, inside \"t\""),
    ] {
        let error = reopen(&bytes).err().expect(expected).to_string();
        assert!(error.contains(expected), "{error:?} does not contain {expected:?}");
        assert!(!error.contains('\n'));
    }
}

#[test]
fn scales_of_whole_weights_are_applied() {
    // Two experts of one row each: blocks with the scale 2 (0x40) and the values 1 (code 2).
    let block = [vec![0x40; 4], vec![0x22; 32]].concat();
    let folder = tempfile::tempdir().unwrap();
    let file = |scales: &[f32], kind| {
        let infos = [
            info("blk.0.ffn_up_exps.weight", &[64, 1, 2], 40, 0),
            info("blk.0.ffn_up_exps.scale", &[scales.len() as u64], kind, 96),
            info("blk.0.ffn_up_exps.input_scale", &[1], 0, 128),
            info("blk.0.ffn_gate_inp.scale", &[1], 0, 160),
            info("blk.0.ffn_gate_inp.weight", &[1], 0, 192),
        ];
        let mut bytes = head(3, 5, 0, &infos.concat());
        let data = bytes.len().next_multiple_of(32);
        bytes.resize(data, 0);
        bytes.extend([block.clone(), block.clone(), vec![0; 24]].concat());
        bytes.extend(scales.iter().flat_map(|v| v.to_le_bytes()));
        bytes.resize(data + 224, 0);
        let path = folder.path().join("m.gguf");
        std::fs::write(&path, bytes).unwrap();
        super::scales::apply(open(&path)?.tensors)
    };
    let tensors = file(&[0.5, -3.0], 0).unwrap();
    let names: Vec<_> = tensors.iter().map(|t| t.name().1).collect();
    let up = "blk.0.ffn_up_exps.weight";
    assert_eq!(names, [up, "blk.0.ffn_gate_inp.scale", "blk.0.ffn_gate_inp.weight"]);
    assert_eq!((tensors[0].experts(), tensors[0].format().unwrap().0), (Some(2), "NVFP4"));
    let mut out = [0.0; 64];
    for (row, expected) in [(1, -6.0), (0, 1.0)] {
        tensors[0].read_rows(row..row + 1, &mut out).unwrap();
        assert_eq!(out, [expected; 64]);
    }
    for (scales, kind) in [(&[0.5][..], 0), (&[1.0, 1.0, 1.0], 0), (&[1.0, 1.0], 30)] {
        let error = file(scales, kind).err().unwrap().to_string();
        assert!(error.contains("ffn_up_exps.scale\": has "), "{error}");
        assert!(error.contains("expected 2 of type F32"), "{error}");
    }
}
