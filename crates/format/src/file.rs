//! Opens a file and validates everything once, so that views cannot fail.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::config::Config;
use crate::encoding::{ActType, Encoding};
use crate::error::Error;
use crate::generation::Generation;
use crate::header::{HEADER_LEN, Header, HeaderError};
use crate::map::Map;
use crate::panels::{PanelRun, Panels};
use crate::role::Role;
use crate::section::{self, Section, SectionKind};
use crate::spec::TensorSpec;
use crate::tensor::{self, Tensor};
use crate::units::{ALIGN, DATA_ALIGN, LINE};

/// An open model file: the memory map and its validated tables.
pub struct NanoFile {
    path: PathBuf,
    map: Map,
    header: Header,
    config: Config,
    generation: Generation,
    rows: Vec<section::Row>,
    sections: Vec<Section>,
    tensors: Vec<Tensor>,
    index: HashMap<(Role, Option<u32>), usize>,
}

/// Maximum numbers of sections and tensors; a larger table indicates corruption.
const MAX_SECTIONS: u32 = 64;
const MAX_TENSORS: u64 = 1 << 20;

impl fmt::Debug for NanoFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NanoFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl NanoFile {
    /// Maps `path` and validates everything except tensor data.
    ///
    /// # Errors
    /// The file cannot be read, has an unsupported version, or is corrupt.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::open_by(path.as_ref(), Map::new, "cannot map")
    }

    /// Like [`Self::open`], but reads the whole file into memory instead of mapping it, for files that
    /// may change or be truncated while in use, such as files on network storage.
    ///
    /// # Errors
    /// Those of [`Self::open`].
    pub fn open_copy(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::open_by(path.as_ref(), Map::copy, "cannot read")
    }

    fn open_by(
        path: &Path,
        read: impl Fn(&File) -> std::io::Result<Map>,
        what: &'static str,
    ) -> Result<Self, Error> {
        let path = path.to_path_buf();
        let io = |what| {
            let path = path.clone();
            move |source| Error::Io { path, what, source }
        };
        let meta = path.metadata().map_err(io("cannot open"))?; // opening a pipe would block
        if !meta.is_file() {
            return Err(Error::NotNano { path, what: "not a regular file".into() });
        }
        if meta.len() < HEADER_LEN as u64 {
            return Err(Error::NotNano { path, what: format!("only {} bytes long", meta.len()) });
        }
        let file = File::open(&path).map_err(io("cannot open"))?;
        let map = read(&file).map_err(io(what))?;
        Self::from_map(path, map)
    }

    fn from_map(path: PathBuf, map: Map) -> Result<Self, Error> {
        let damaged = |what: String| Error::Damaged { path: path.clone(), what };
        let head: &[u8; HEADER_LEN] =
            map.first_chunk().ok_or_else(|| damaged("shorter than its header".into()))?;
        let header = Header::parse(head, map.len() as u64).map_err(|e| match e {
            HeaderError::Magic => Error::NotNano {
                path: path.clone(),
                what: format!("begins with {:02x?}", &head[..4]),
            },
            HeaderError::TooNew(what) => Error::TooNew { path: path.clone(), what },
            HeaderError::TooOld(what) => Error::TooOld { path: path.clone(), what },
            HeaderError::Damaged(what) => damaged(what),
        })?;
        let rows = parse_sections(&map, &header).map_err(damaged)?;
        let sections: Vec<Section> = rows.iter().filter_map(section::Row::known).collect();
        if content_id(&sections) != header.content_id {
            return Err(damaged("the content id does not match the section table".into()));
        }
        let bytes = |kind: SectionKind| -> Result<Option<&[u8]>, Error> {
            let Some(s) = sections.iter().find(|s| s.kind == kind) else { return Ok(None) };
            let bytes = view(&map, s.offset, s.len);
            if blake3::hash(bytes).as_bytes() != &s.hash {
                return Err(damaged(format!(
                    "the {} section does not match its hash",
                    kind.name()
                )));
            }
            Ok(Some(bytes))
        };
        let needed = |kind: SectionKind| {
            bytes(kind)?.ok_or_else(|| damaged(format!("the {} section is missing", kind.name())))
        };
        let invalid = |source| Error::Config { path: path.clone(), source };
        let config: Config =
            parse_json(SectionKind::Config, needed(SectionKind::Config)?).map_err(damaged)?;
        config.validate().map_err(invalid)?;
        if !header.agrees_with(&config) {
            return Err(damaged("header and config disagree on the architecture".into()));
        }
        let generation: Generation =
            parse_json(SectionKind::Generation, needed(SectionKind::Generation)?)
                .map_err(damaged)?;
        generation.validate(config.vocab_size).map_err(invalid)?;
        let data = sections
            .iter()
            .find(|s| s.kind == SectionKind::Data)
            .ok_or_else(|| damaged("the data section is missing".into()))?;
        if !data.offset.is_multiple_of(DATA_ALIGN) {
            return Err(damaged(format!("data at {} is not aligned to 64 KiB", data.offset)));
        }
        let range = data.offset..data.offset + data.len;
        let tensors = parse_tensors(needed(SectionKind::Tensors)?, range).map_err(damaged)?;
        let index = tensor::index(&tensors, config.n_layers).map_err(damaged)?;
        if tensor_hashes(&tensors) != data.hash {
            return Err(damaged("the data section's hash does not match its tensors".into()));
        }
        Ok(Self { path, map, header, config, generation, rows, sections, tensors, index })
    }

    /// The path the file was opened with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The architecture.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Defaults for generating text.
    pub fn generation(&self) -> &Generation {
        &self.generation
    }

    /// All sections of known kinds, in table order.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// A section's table row and bytes. The hash is checked only by [`Self::verify`].
    pub fn section(&self, kind: SectionKind) -> Option<(&Section, &[u8])> {
        let s = self.sections.iter().find(|s| s.kind == kind)?;
        Some((s, view(&self.map, s.offset, s.len)))
    }

    /// All tensors in execution order.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The tensor with this role, if it exists.
    pub fn tensor(&self, role: Role, layer: Option<u32>) -> Option<&Tensor> {
        self.tensor_index(role, layer).map(|i| &self.tensors[i])
    }

    /// The index of a tensor in [`Self::tensors`].
    pub fn tensor_index(&self, role: Role, layer: Option<u32>) -> Option<usize> {
        self.index.get(&(role, layer)).copied()
    }

    /// A tensor's bytes, as stored.
    pub fn bytes(&self, tensor: &Tensor) -> &[u8] {
        view(&self.map, tensor.offset, tensor.len)
    }

    /// A tensor's bytes as f32; empty unless all its encodings are `F32` or `F32Panel`.
    pub fn f32s(&self, tensor: &Tensor) -> &[f32] {
        let floats = |e| matches!(e, Encoding::F32 | Encoding::F32Panel);
        if !tensor.spec.encodings().all(floats) {
            return &[];
        }
        // Tensors are 64-byte aligned in a page-aligned map, so the cast cannot fail.
        bytemuck::cast_slice(self.bytes(tensor))
    }

    /// A run of a tensor's panels, as returned by its [`TensorSpec::panels`].
    ///
    /// # Panics
    /// If the run belongs to another tensor and ends beyond this one.
    pub fn panels(&self, tensor: &Tensor, run: &PanelRun) -> Panels<'_> {
        let bytes = &self.bytes(tensor)[run.bytes.clone()];
        match (run.encoding, run.encoding.trellis_bits()) {
            (_, Some(bits)) => Panels::Trellis(bits, bytes),
            (Encoding::Q8Panel, _) => Panels::Q8(bytes),
            // Panels are 64-byte aligned, like tensors.
            _ => Panels::F32(bytemuck::cast_slice(bytes)),
        }
    }

    /// A tensor's bytes as u64 (encoding `U64`); empty for other encodings.
    pub fn u64s(&self, tensor: &Tensor) -> &[u64] {
        match tensor.spec.encoding {
            Encoding::U64 => bytemuck::cast_slice(self.bytes(tensor)),
            _ => &[],
        }
    }

    /// Checks everything that `open` skips: all hashes, that floats are finite, and that padding between
    /// sections and tensors is zero.
    ///
    /// # Errors
    /// The first corrupt section or tensor.
    pub fn verify(&self) -> Result<(), Error> {
        let error = |what| Error::Damaged { path: self.path.clone(), what };
        self.verify_bytes().map_err(error)
    }

    fn verify_bytes(&self) -> Result<(), String> {
        let mut end = HEADER_LEN as u64;
        for row in &self.rows {
            if row.is_data() {
                for t in &self.tensors {
                    self.verify_gap(end, t.offset)?;
                    self.verify_tensor(t)?;
                    end = t.offset + t.len;
                }
                continue;
            }
            self.verify_gap(end, row.offset)?;
            if blake3::hash(view(&self.map, row.offset, row.len)) != row.hash {
                return Err(format!("{} does not match its hash", row.name()));
            }
            end = row.offset + row.len;
        }
        self.verify_gap(end, self.header.section_table_offset)
    }

    fn verify_tensor(&self, t: &Tensor) -> Result<(), String> {
        let bytes = self.bytes(t);
        if blake3::hash(bytes) != t.hash {
            return Err(format!("tensor {} does not match its hash", t.spec.label()));
        }
        if !is_finite(bytes, &t.spec) {
            return Err(format!("tensor {} contains a value that is not finite", t.spec.label()));
        }
        Ok(())
    }

    fn verify_gap(&self, start: u64, end: u64) -> Result<(), String> {
        let gap = view(&self.map, start, end - start);
        // Skip whole blocks first: the gap before the data is up to 64 KiB.
        const BLOCK: usize = 1024;
        let zeros = |block: &[u8]| block.iter().fold(0, |all, b| all | b) == 0;
        let block = gap.chunks(BLOCK).take_while(|block| zeros(block)).count() * BLOCK;
        match gap.iter().skip(block).position(|&b| b != 0) {
            Some(at) => {
                let at = start + (block + at) as u64;
                Err(format!("byte {at} is padding but not zero"))
            }
            None => Ok(()),
        }
    }
}

/// Whether all floats of a tensor (weights, or scales of quantized weights) are finite: a single non-finite
/// value would contaminate every later result.
fn is_finite(bytes: &[u8], spec: &TensorSpec) -> bool {
    let finite =
        |bytes: &[u8]| bytemuck::cast_slice::<u8, f32>(bytes).iter().all(|x| x.is_finite());
    let Some(layout) = spec.panels() else {
        return spec.encoding == Encoding::U64 || finite(bytes);
    };
    layout.runs(0..layout.panels()).all(|run| {
        let panels = &bytes[run.bytes];
        match run.encoding.act_type() {
            Some(ActType::Int8) => panels
                .chunks_exact(panels.len() / run.panels.len())
                .all(|panel| finite(&panel[..LINE])),
            _ => finite(panels),
        }
    })
}

/// Parses JSON. Replaces a hostile file's control characters in the one-line error message.
fn parse_json<T: DeserializeOwned>(kind: SectionKind, bytes: &[u8]) -> Result<T, String> {
    if bytes.first() != Some(&b'{') {
        return Err(format!("{}: not a JSON object", kind.name()));
    }
    serde_json::from_slice(bytes)
        .map_err(|e| format!("{}: {e}", kind.name()).replace(char::is_control, "\u{fffd}"))
}

/// Hash of the data section: BLAKE3 over the tensors' hashes in table order.
pub(crate) fn tensor_hashes(tensors: &[Tensor]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for t in tensors {
        hasher.update(&t.hash);
    }
    *hasher.finalize().as_bytes()
}

/// The model's identity: BLAKE3 over the hashes of config, tokenizer, chat template, tensor table and
/// data, with 32 zero bytes for a missing section.
pub(crate) fn content_id(sections: &[Section]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for kind in [
        SectionKind::Config,
        SectionKind::Tokenizer,
        SectionKind::ChatTemplate,
        SectionKind::Tensors,
        SectionKind::Data,
    ] {
        hasher.update(&sections.iter().find(|s| s.kind == kind).map_or([0; 32], |s| s.hash));
    }
    *hasher.finalize().as_bytes()
}

fn view(map: &[u8], offset: u64, len: u64) -> &[u8] {
    // Bounds were validated when the file was opened; on 64-bit targets the casts are lossless.
    &map[offset as usize..(offset + len) as usize]
}

/// Parses the section table. Sections lie between header and table in ascending order without overlap,
/// and the table extends to the end of the file, so no byte belongs to two of these.
fn parse_sections(map: &[u8], header: &Header) -> Result<Vec<section::Row>, String> {
    let Header { section_count: n, section_table_offset: at, file_len, .. } = *header;
    if n > MAX_SECTIONS {
        return Err(format!("{n} sections, at most {MAX_SECTIONS} allowed"));
    }
    let len = u64::from(n) * section::ROW as u64;
    if at < HEADER_LEN as u64 || !at.is_multiple_of(ALIGN) || at.checked_add(len) != Some(file_len)
    {
        return Err(format!(
            "the section table at {at}, {len} bytes long, must begin at a multiple of {ALIGN} \
             and extend to the end of the file"
        ));
    }
    let table = view(map, at, len);
    if blake3::hash(table) != header.section_table_hash {
        return Err("the section table does not match its hash".into());
    }
    let mut rows: Vec<section::Row> = Vec::with_capacity(n as usize);
    let mut end = HEADER_LEN as u64;
    for row in table.as_chunks::<{ section::ROW }>().0 {
        let row = section::Row::parse(row, end..at)?;
        if rows.iter().any(|r| r.number == row.number) {
            return Err(format!("{} appears twice", row.name()));
        }
        end = row.offset + row.len;
        rows.push(row);
    }
    Ok(rows)
}

fn parse_tensors(table: &[u8], data: std::ops::Range<u64>) -> Result<Vec<Tensor>, String> {
    let (rows, rest) = table.as_chunks::<{ tensor::ROW }>();
    if !rest.is_empty() || rows.len() as u64 > MAX_TENSORS {
        return Err(format!("the tensor table has an invalid length of {} bytes", table.len()));
    }
    let mut tensors: Vec<Tensor> = Vec::with_capacity(rows.len());
    let mut end = data.start;
    for (i, row) in rows.iter().enumerate() {
        let t = Tensor::from_row(row, data.clone()).map_err(|e| format!("tensor {i}: {e}"))?;
        if t.offset < end {
            return Err(format!("tensor {i} overlaps the preceding tensor"));
        }
        end = t.offset + t.len;
        tensors.push(t);
    }
    Ok(tensors)
}
