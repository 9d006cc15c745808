//! Helpers shared by the tests of this crate: a small valid file, and a way to damage it and recompute
//! its hashes, so that the checks after those of the hashes are reached.
#![allow(dead_code)] // each test binary uses only some of them

use std::path::PathBuf;

use nanoinfer_format::*;
use tempfile::TempDir;

/// Offsets of header fields.
pub(crate) const FILE_LEN: usize = 16;
pub(crate) const SECTION_TABLE: usize = 96;
pub(crate) const SECTION_COUNT: usize = 104;
/// Offsets within a section table row.
pub(crate) const S_OFFSET: usize = 8;
pub(crate) const S_LEN: usize = 16;
pub(crate) const S_HASH: usize = 32;
/// Offsets within a tensor table row, and its length.
pub(crate) const T_OFFSET: usize = 72;
pub(crate) const T_LEN: usize = 80;
pub(crate) const T_HASH: usize = 88;
pub(crate) const T_PART_ENCODINGS: usize = 184;
pub(crate) const T_ROW: usize = 192;

/// Two query heads of size 8 share one key/value head; every padding rule applies.
pub(crate) fn config() -> Config {
    Config {
        quant: Quant::Q8,
        d_model: 32,
        d_ff: 48,
        n_heads: 2,
        n_kv_heads: 1,
        vocab_size: 20,
        context_length: 64,
        attention_scale: 0.5,
        tied_embeddings: true,
        value_rotation: 8,
        windows: vec![0, 16],
        ..Config::llama(2, 8)
    }
}

/// Generation defaults with every field set, except the texts that only some models need.
pub(crate) fn generation() -> Generation {
    Generation {
        bos: Some(1),
        add_bos: true,
        eos: vec![2, 3],
        temperature: Some(0.5),
        top_k: Some(40),
        top_p: Some(0.9),
        min_p: Some(0.05),
        repetition_penalty: Some(1.1),
        ..Generation::default()
    }
}

/// Some tensors of such a model, with every encoding, parts, input blocks, with and without a layer.
pub(crate) fn specs() -> Vec<TensorSpec> {
    let encoding = Encoding::Q8Panel;
    let part = |role, count| Part { role, n: 8 * count, count, rows: 8, encoding };
    let mut qkv = TensorSpec::matrix(Role::AttnQkv, Some(0), Encoding::Q8Panel, 32, 32);
    qkv.stored[1] = 64;
    qkv.parts = vec![part(Role::AttnQ, 2), part(Role::AttnK, 1), part(Role::AttnV, 1)];
    let mut output = TensorSpec::matrix(Role::AttnOutput, Some(0), Encoding::Q8Panel, 32, 16);
    output.rotation = 8;
    output.k_unit = (8, 16);
    vec![
        TensorSpec::matrix(Role::TokenEmbd, None, Encoding::Q8Panel, 20, 32),
        TensorSpec { encoding: Encoding::U64, ..TensorSpec::vector(Role::RopeTurns, None, 4, 4) },
        TensorSpec::vector(Role::AttnNorm, Some(0), 32, 64),
        qkv,
        output,
        TensorSpec::matrix(Role::FfnDown, Some(1), Encoding::F32Panel, 32, 48),
        TensorSpec::vector(Role::OutputNorm, None, 32, 64),
    ]
}

/// Content of a tensor of [`specs`]: small finite floats in every encoding.
pub(crate) fn content(spec: &TensorSpec) -> Vec<u8> {
    let len = spec.stored_bytes().expect("small") as usize;
    let floats = (0..len / 4).flat_map(|i| ((i % 13) as f32 - 6.0).to_le_bytes());
    floats.collect()
}

/// Writes the small file.
pub(crate) fn write(target: &std::path::Path) -> Staged {
    let mut w = Writer::create(target).expect("a temporary file");
    for spec in specs() {
        let bytes = content(&spec);
        w.begin(spec).expect("a valid spec");
        bytes.chunks(1000).for_each(|piece| w.write(piece).expect("written"));
        w.end().expect("complete");
    }
    w.section(SectionKind::Provenance, "{}").expect("not added before");
    w.section(SectionKind::ChatTemplate, "{{ messages }}").expect("not added before");
    w.section(SectionKind::Tokenizer, "{}").expect("not added before");
    w.finish(&config(), &generation()).expect("complete")
}

/// A temporary folder and helpers to open files in it.
pub(crate) struct Scratch(TempDir);

impl Scratch {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Names of all files in the folder.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).expect("readable");
        let name = |e: std::io::Result<std::fs::DirEntry>| e.expect("readable").file_name();
        let mut names: Vec<_> = entries.map(|e| name(e).to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// The small file.
    pub(crate) fn small(&self) -> Image {
        let path = self.path("small.nano");
        write(&path).commit().expect("committed");
        Image(std::fs::read(path).expect("readable"))
    }

    pub(crate) fn open(&self, bytes: &[u8]) -> Result<NanoFile, Error> {
        let path = self.path("tried.nano");
        std::fs::write(&path, bytes).expect("written");
        NanoFile::open(path)
    }

    /// The error message for bytes that `open` rejects: one line that names the file.
    pub(crate) fn rejected(&self, bytes: &[u8], what: &str) -> String {
        match self.open(bytes) {
            Ok(_) => panic!("{what}: opened"),
            Err(e) => one_line(&e, what),
        }
    }

    /// Like [`Self::rejected`], for bytes that `open` accepts and `verify` rejects.
    pub(crate) fn unverified(&self, bytes: &[u8], what: &str) -> String {
        let file = self.open(bytes).unwrap_or_else(|e| panic!("{what}: {e}"));
        one_line(&file.verify().expect_err(what), what)
    }
}

/// Changes the small file, rehashes it, and expects an error message containing `expected`.
pub(crate) fn attack(
    scratch: &Scratch,
    small: &Image,
    what: &str,
    expected: &str,
    change: impl FnOnce(&mut Image),
) {
    let mut image = small.clone();
    change(&mut image);
    image.rehash();
    let message = scratch.rejected(&image.0, what);
    assert!(message.contains(expected), "{what}: {message}, expected {expected:?}");
}

fn one_line(e: &Error, what: &str) -> String {
    let message = e.to_string();
    assert!(!message.contains(char::is_control), "{what}: {message:?}");
    assert!(message.contains("tried.nano: "), "{what}: {message}");
    message
}

/// The bytes of a file, for modification.
#[derive(Clone)]
pub(crate) struct Image(pub(crate) Vec<u8>);

impl Image {
    pub(crate) fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.0[at..at + 4].try_into().expect("4 bytes"))
    }

    pub(crate) fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.0[at..at + 8].try_into().expect("8 bytes"))
    }

    /// Overwrites the bytes at `at`.
    pub(crate) fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Offsets of the section table's rows.
    pub(crate) fn rows(&self) -> Vec<usize> {
        let (at, n) = (self.u64(SECTION_TABLE) as usize, self.u32(SECTION_COUNT) as usize);
        (0..n).map(|i| at + 64 * i).collect()
    }

    /// Offset of a section's table row.
    pub(crate) fn row(&self, kind: SectionKind) -> usize {
        let of_kind = |&row: &usize| self.u32(row) == kind as u32;
        self.rows().into_iter().find(of_kind).expect("has this section")
    }

    /// Byte range of a section.
    pub(crate) fn section(&self, kind: SectionKind) -> std::ops::Range<usize> {
        let row = self.row(kind);
        let start = self.u64(row + S_OFFSET) as usize;
        start..start + self.u64(row + S_LEN) as usize
    }

    /// Offsets of the tensor table's rows.
    pub(crate) fn tensors(&self) -> Vec<usize> {
        self.section(SectionKind::Tensors).step_by(T_ROW).collect()
    }

    /// Recomputes all hashes except those of tensors, provided that the bytes they cover exist.
    pub(crate) fn rehash(&mut self) {
        let hash = |bytes: &[u8]| *blake3::hash(bytes).as_bytes();
        for row in self.rows() {
            let sum = match self.u32(row) {
                10 => self.tensor_hashes(),
                _ => self.bytes_of(row).map_or([0; 32], hash),
            };
            self.put(row + S_HASH, &sum);
        }
        self.rehash_tables();
    }

    /// The bytes to which a section table row refers, if they exist.
    fn bytes_of(&self, row: usize) -> Option<&[u8]> {
        let (start, len) = (self.u64(row + S_OFFSET), self.u64(row + S_LEN));
        self.0.get(start as usize..start.checked_add(len)? as usize)
    }

    /// Hash of the tensors' hashes.
    fn tensor_hashes(&self) -> [u8; 32] {
        let mut rows = self.rows().into_iter();
        let row = rows.find(|&row| self.u32(row) == SectionKind::Tensors as u32);
        let table = row.and_then(|row| self.bytes_of(row)).unwrap_or_default();
        let mut hasher = blake3::Hasher::new();
        for row in table.chunks_exact(T_ROW) {
            hasher.update(&row[T_HASH..T_HASH + 32]);
        }
        *hasher.finalize().as_bytes()
    }

    /// Recomputes the content id and the hashes of section table and header.
    pub(crate) fn rehash_tables(&mut self) {
        let hash = |bytes: &[u8]| *blake3::hash(bytes).as_bytes();
        let of_kind = |kind: u32| {
            let row = self.rows().into_iter().find(|&row| self.u32(row) == kind);
            row.map_or(vec![0; 32], |row| self.0[row + S_HASH..row + 64].to_vec())
        };
        let id: Vec<u8> = [1, 2, 4, 6, 10].into_iter().flat_map(of_kind).collect();
        self.put(120, &hash(&id));
        let table = self.u64(SECTION_TABLE) as usize;
        let end = table + 64 * self.rows().len();
        self.put(152, &hash(&self.0[table..end]));
        self.rehash_header();
    }

    /// Recomputes the header's hash.
    pub(crate) fn rehash_header(&mut self) {
        let sum = blake3::hash(&self.0[..224]);
        self.put(224, sum.as_bytes());
    }

    /// Replaces the content of a section, moves the rest, and rehashes.
    pub(crate) fn replace(&mut self, kind: SectionKind, bytes: &[u8]) {
        let old = self.section(kind);
        let row = self.row(kind);
        self.put(row + S_LEN, &(bytes.len() as u64).to_le_bytes());
        let (from, to) =
            (old.end.next_multiple_of(64), (old.start + bytes.len()).next_multiple_of(64));
        for row in self.rows() {
            let at = self.u64(row + S_OFFSET);
            if at >= from as u64 {
                self.put(row + S_OFFSET, &(at + to as u64 - from as u64).to_le_bytes());
            }
        }
        let table = self.u64(SECTION_TABLE) + to as u64 - from as u64;
        self.put(SECTION_TABLE, &table.to_le_bytes());
        let mut section = bytes.to_vec();
        section.resize(to - old.start, 0);
        self.0.splice(old.start..from, section);
        self.put(FILE_LEN, &(self.0.len() as u64).to_le_bytes());
        self.rehash();
    }
}
