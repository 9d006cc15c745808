#![no_main]
//! A valid file with some fields changed and all hashes recomputed, to reach the code after the hash checks.
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use nanoinfer_format::{
    Config, DATA_ALIGN, Encoding, Generation, NanoFile, Quant, Role, SectionKind, TensorSpec, Writer,
};
use nanoinfer_fuzz::{Edge, Scratch};

#[derive(Debug, arbitrary::Arbitrary)]
struct Change {
    region: Region,
    at: u16,
    width: u8,
    value: Edge,
}

#[derive(Clone, Copy, Debug, arbitrary::Arbitrary)]
enum Region {
    Header,
    Sections,
    Tensors,
    Config,
    Generation,
    Data,
}

static FILE: LazyLock<Scratch> = LazyLock::new(|| Scratch::new("s.nano"));
static VALID: LazyLock<Vec<u8>> = LazyLock::new(valid);

/// A valid file with tensors of several encodings.
fn valid() -> Vec<u8> {
    let config = Config {
        quant: Quant::Q8,
        d_model: 64,
        d_ff: 64,
        n_heads: 1,
        n_kv_heads: 1,
        vocab_size: 16,
        context_length: 64,
        norm_eps: 1e-6,
        tied_embeddings: true,
        value_rotation: 64,
        ..Config::llama(1, 64)
    };
    let path = FILE.folder().join("valid.nano");
    let mut w = Writer::create(&path).unwrap();
    let turns =
        TensorSpec { encoding: Encoding::U64, ..TensorSpec::vector(Role::RopeTurns, None, 32, 32) };
    for spec in [
        TensorSpec::matrix(Role::TokenEmbd, None, Encoding::Q8Panel, 16, 64),
        turns,
        TensorSpec::vector(Role::AttnNorm, Some(0), 64, 64),
        TensorSpec::matrix(Role::FfnDown, Some(0), Encoding::Q8Panel, 64, 64),
        TensorSpec::matrix(Role::AttnOutput, Some(0), Encoding::Q4Panel, 16, 64),
        TensorSpec::matrix(Role::Output, None, Encoding::Q5Panel, 16, 64),
    ] {
        let bytes = vec![0; spec.stored_bytes().unwrap() as usize];
        w.begin(spec).unwrap();
        w.write(&bytes).unwrap();
        w.end().unwrap();
    }
    w.section(SectionKind::Tokenizer, b"{}".as_slice()).unwrap();
    w.section(SectionKind::ChatTemplate, b"x".as_slice()).unwrap();
    w.section(SectionKind::SelfCheck, b"{}".as_slice()).unwrap();
    w.finish(&config, &Generation::default()).unwrap().commit().unwrap();
    std::fs::read(path).unwrap()
}

fn number(bytes: &[u8], at: usize) -> usize {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize
}

/// The section table of the unchanged file: (position of the row, kind, offset, length).
fn rows() -> Vec<(usize, u32, usize, usize)> {
    let table = number(&VALID, 96);
    let row = |at: usize| {
        let kind = u32::from_le_bytes(VALID[at..at + 4].try_into().unwrap());
        (at, kind, number(&VALID, at + 8), number(&VALID, at + 16))
    };
    (table..VALID.len()).step_by(64).map(row).collect()
}

static ROWS: LazyLock<Vec<(usize, u32, usize, usize)>> = LazyLock::new(rows);

fn hash(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

fuzz_target!(|changes: Vec<Change>| {
    let mut file = VALID.clone();
    let of = |kind: SectionKind| ROWS.iter().find(|r| r.1 == kind as u32).unwrap();
    let table = number(&VALID, 96);
    for change in changes.iter().take(16) {
        let section = |kind| (of(kind).2, of(kind).3);
        let (start, len) = match change.region {
            Region::Header => (8, 112),
            Region::Sections => (table, VALID.len() - table),
            Region::Tensors => section(SectionKind::Tensors),
            Region::Config => section(SectionKind::Config),
            Region::Generation => section(SectionKind::Generation),
            Region::Data => (DATA_ALIGN as usize, 4096),
        };
        let width = [1, 2, 4, 8][usize::from(change.width % 4)];
        let at = start + usize::from(change.at) % len / width * width;
        let end = (at + width).min(start + len);
        file[at..end].copy_from_slice(&change.value.value().to_le_bytes()[..end - at]);
    }
    // The data's hash (from the tensor hashes), the other sections', the content id, the table's, the header's.
    let (tensors_at, tensors_len) = (of(SectionKind::Tensors).2, of(SectionKind::Tensors).3);
    let mut data = blake3::Hasher::new();
    for row in (tensors_at..tensors_at + tensors_len).step_by(192) {
        data.update(&file[row + 88..row + 120]);
    }
    for &(row, kind, offset, len) in ROWS.iter() {
        let hash = match kind == SectionKind::Data as u32 {
            true => *data.finalize().as_bytes(),
            false => hash(&file[offset..offset + len]),
        };
        file[row + 32..row + 64].copy_from_slice(&hash);
    }
    let mut id = blake3::Hasher::new();
    for kind in [
        SectionKind::Config,
        SectionKind::Tokenizer,
        SectionKind::ChatTemplate,
        SectionKind::Tensors,
        SectionKind::Data,
    ] {
        let row = of(kind).0;
        id.update(&file[row + 32..row + 64]);
    }
    file[120..152].copy_from_slice(id.finalize().as_bytes());
    let sections = hash(&file[table..]);
    file[152..184].copy_from_slice(&sections);
    let header = hash(&file[..224]);
    file[224..256].copy_from_slice(&header);
    if let Ok(nano) = NanoFile::open(FILE.write(&file)) {
        let _ = nano.verify();
        for tensor in nano.tensors() {
            let _ = (nano.bytes(tensor).len(), nano.f32s(tensor).len(), nano.u64s(tensor).len());
            let layout = tensor.spec.panels();
            for run in layout.iter().flat_map(|layout| layout.runs(0..layout.panels())) {
                let _ = nano.panels(tensor, &run);
            }
        }
    }
});
