//! Opening a file: validate once, then hand out views that cannot fail.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use crate::header::HeaderError;
use crate::map::Map;
use crate::{
    Config, DATA_ALIGN, Encoding, Error, Generation, HEADER_LEN, Header, Role, Section,
    SectionKind, Tensor, section, tensor,
};

/// An open model file: the map and its validated tables.
pub struct NanoFile {
    path: PathBuf,
    map: Map,
    header: Header,
    config: Config,
    generation: Generation,
    sections: Vec<Section>,
    tensors: Vec<Tensor>,
    index: HashMap<(Role, Option<u32>), usize>,
}

/// Most sections and tensors a file may have; a table beyond is damage, not a model.
const MAX_SECTIONS: u32 = 64;
const MAX_TENSORS: u64 = 1 << 20;

impl NanoFile {
    /// Maps `path` and validates everything but the tensors' data.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref().to_path_buf();
        let io = |what| {
            let path = path.clone();
            move |source| Error::Io { path, what, source }
        };
        let file = File::open(&path).map_err(io("cannot open"))?;
        let meta = file.metadata().map_err(io("cannot read its size"))?;
        if !meta.is_file() {
            return Err(Error::NotNano { path, what: "not a regular file".into() });
        }
        if meta.len() < HEADER_LEN as u64 {
            return Err(Error::NotNano { path, what: format!("only {} bytes long", meta.len()) });
        }
        let map = Map::new(&file).map_err(io("cannot map"))?;
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
            HeaderError::Damaged(what) => damaged(what),
        })?;
        let sections = parse_sections(&map, &header).map_err(damaged)?;
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
            bytes(kind)?.ok_or_else(|| damaged(format!("it has no {} section", kind.name())))
        };
        let json_error =
            |kind: SectionKind, e: serde_json::Error| damaged(format!("{}: {e}", kind.name()));
        let config: Config = serde_json::from_slice(needed(SectionKind::Config)?)
            .map_err(|e| json_error(SectionKind::Config, e))?;
        config.validate().map_err(|source| Error::Config { path: path.clone(), source })?;
        if !header.agrees_with(&config) {
            return Err(damaged("header and config disagree on the architecture".into()));
        }
        let generation: Generation = serde_json::from_slice(needed(SectionKind::Generation)?)
            .map_err(|e| json_error(SectionKind::Generation, e))?;
        let data = sections
            .iter()
            .find(|s| s.kind == SectionKind::Data)
            .ok_or_else(|| damaged("it has no data section".into()))?;
        if !data.offset.is_multiple_of(DATA_ALIGN) {
            return Err(damaged(format!("data at {} is not aligned to 64 KiB", data.offset)));
        }
        let range = data.offset..data.offset + data.len;
        let tensors = parse_tensors(needed(SectionKind::Tensors)?, range).map_err(damaged)?;
        let index: HashMap<_, _> =
            tensors.iter().enumerate().map(|(i, t)| ((t.spec.role, t.spec.layer), i)).collect();
        if index.len() != tensors.len() {
            return Err(damaged("two tensors have the same role and layer".into()));
        }
        Ok(Self { path, map, header, config, generation, sections, tensors, index })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its header.
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

    /// All sections this crate knows, in table order.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// A section's table row and bytes. Its hash is not checked here; `verify` does.
    pub fn section(&self, kind: SectionKind) -> Option<(&Section, &[u8])> {
        let s = self.sections.iter().find(|s| s.kind == kind)?;
        Some((s, view(&self.map, s.offset, s.len)))
    }

    /// All tensors in execution order.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The tensor with this role, if the model has it.
    pub fn tensor(&self, role: Role, layer: Option<u32>) -> Option<&Tensor> {
        self.tensor_index(role, layer).map(|i| &self.tensors[i])
    }

    /// Its place in [`Self::tensors`].
    pub fn tensor_index(&self, role: Role, layer: Option<u32>) -> Option<usize> {
        self.index.get(&(role, layer)).copied()
    }

    /// A tensor's bytes, as stored.
    pub fn bytes(&self, tensor: &Tensor) -> &[u8] {
        view(&self.map, tensor.offset, tensor.len)
    }

    /// A tensor's bytes as f32 (encodings `F32` and `F32Panel`); empty for other encodings.
    pub fn f32s(&self, tensor: &Tensor) -> &[f32] {
        match tensor.spec.encoding {
            // Tensors are 64-byte aligned in a page-aligned map, so the cast cannot fail.
            Encoding::F32 | Encoding::F32Panel => bytemuck::cast_slice(self.bytes(tensor)),
            _ => &[],
        }
    }

    /// A tensor's bytes as u64 (encoding `U64`); empty for other encodings.
    pub fn u64s(&self, tensor: &Tensor) -> &[u64] {
        match tensor.spec.encoding {
            Encoding::U64 => bytemuck::cast_slice(self.bytes(tensor)),
            _ => &[],
        }
    }

    /// Checks every hash in the file, data included; the error names the first part that differs.
    pub fn verify(&self) -> Result<(), Error> {
        let damaged = |what: String| Err(Error::Damaged { path: self.path.clone(), what });
        for s in &self.sections {
            let actual = match s.kind {
                SectionKind::Data => tensor_hashes(&self.tensors),
                _ => *blake3::hash(view(&self.map, s.offset, s.len)).as_bytes(),
            };
            if actual != s.hash {
                return damaged(format!("the {} section does not match its hash", s.kind.name()));
            }
        }
        for t in &self.tensors {
            if blake3::hash(self.bytes(t)).as_bytes() != &t.hash {
                let layer = t.spec.layer.map_or(String::new(), |l| format!(" of layer {l}"));
                return damaged(format!(
                    "tensor {}{layer} does not match its hash",
                    t.spec.role.name()
                ));
            }
        }
        if self.content_id() != self.header.content_id {
            return damaged("the content id does not match the contents".into());
        }
        Ok(())
    }

    fn content_id(&self) -> [u8; 32] {
        content_id(&self.sections)
    }
}

/// BLAKE3 over the tensors' hashes in table order: the data section's hash.
pub(crate) fn tensor_hashes(tensors: &[Tensor]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for t in tensors {
        hasher.update(&t.hash);
    }
    *hasher.finalize().as_bytes()
}

/// The model's identity: BLAKE3 over the hashes of config, tokenizer, chat template, tensor table
/// and data, 32 zero bytes for one that is absent.
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
    // Bounds were validated at open; on 64-bit targets the casts are lossless.
    &map[offset as usize..(offset + len) as usize]
}

fn parse_sections(map: &[u8], header: &Header) -> Result<Vec<Section>, String> {
    if header.section_count > MAX_SECTIONS {
        return Err(format!("{} sections, at most {MAX_SECTIONS} allowed", header.section_count));
    }
    let len = u64::from(header.section_count) * section::ROW as u64;
    let at = header.section_table_offset;
    if at < HEADER_LEN as u64 || at.checked_add(len).is_none_or(|end| end > map.len() as u64) {
        return Err(format!("the section table lies at {at} + {len}, outside the file"));
    }
    let table = view(map, at, len);
    if blake3::hash(table).as_bytes() != &header.section_table_hash {
        return Err("the section table does not match its hash".into());
    }
    let mut sections = Vec::with_capacity(header.section_count as usize);
    let mut seen = HashSet::new();
    for row in table.as_chunks::<{ section::ROW }>().0 {
        if let Some(s) = Section::from_row(row, header.file_len)? {
            if s.offset < HEADER_LEN as u64 {
                return Err(format!("the {} section overlaps the header", s.kind.name()));
            }
            if !seen.insert(s.kind) {
                return Err(format!("two {} sections", s.kind.name()));
            }
            sections.push(s);
        }
    }
    Ok(sections)
}

fn parse_tensors(table: &[u8], data: std::ops::Range<u64>) -> Result<Vec<Tensor>, String> {
    let (rows, rest) = table.as_chunks::<{ tensor::ROW }>();
    if !rest.is_empty() || rows.len() as u64 > MAX_TENSORS {
        return Err(format!("a tensor table of {} bytes", table.len()));
    }
    let mut tensors: Vec<Tensor> = Vec::with_capacity(rows.len());
    let mut end = data.start;
    for (i, row) in rows.iter().enumerate() {
        let t = Tensor::from_row(row, data.clone()).map_err(|e| format!("tensor {i}: {e}"))?;
        if t.offset < end {
            return Err(format!("tensor {i} overlaps the one before it"));
        }
        end = t.offset + t.len;
        tensors.push(t);
    }
    Ok(tensors)
}
