//! Writes a file: streams tensors to a temporary file next to the target, then renames it.

use std::fmt;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use nanoinfer_platform::file::{held_temp, reclaim, sync_folder};
use nanoinfer_platform::pages::LARGE;
use tempfile::NamedTempFile;

use crate::config::Config;
use crate::error::Error;
use crate::file::{content_id, tensor_hashes};
use crate::generation::Generation;
use crate::header::Header;
use crate::section::{Section, SectionKind};
use crate::spec::TensorSpec;
use crate::tensor::Tensor;
use crate::units::{ALIGN, DATA_ALIGN};

/// Bytes per request to the system, at multiples of this size: whole large pages, so that the system keeps the file in
/// such pages, and maps it as such, right after it was written.
const BLOCK: usize = 2 * LARGE;

/// Writes a `.nano` file. Dropping it before [`Staged::commit`] leaves nothing behind.
///
/// ```no_run
/// # use nanoinfer_format::*;
/// # fn demo(config: Config, spec: TensorSpec, bytes: &[u8]) -> Result<(), Error> {
/// let mut w = Writer::create("model.nano")?;
/// w.begin(spec)?; // followed by its bytes, in any number of pieces
/// w.write(bytes)?;
/// w.end()?;
/// w.section(SectionKind::Tokenizer, b"{}")?;
/// w.finish(&config, &Generation::default())?.commit()
/// # }
/// ```
pub struct Writer {
    target: PathBuf,
    out: BufWriter<NamedTempFile>,
    at: u64,
    open: Option<(TensorSpec, u64, blake3::Hasher)>,
    tensors: Vec<Tensor>,
    pending: Vec<(SectionKind, Vec<u8>)>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("target", &self.target).finish_non_exhaustive()
    }
}

impl Writer {
    /// Creates a temporary file in the folder of `target`.
    ///
    /// # Errors
    /// `target` is a folder or has no file name, or the file cannot be created.
    pub fn create(target: impl AsRef<Path>) -> Result<Self, Error> {
        let target = target.as_ref().to_path_buf();
        let io = |what| {
            let path = target.clone();
            move |source| Error::Io { path, what, source }
        };
        let name = target.file_name().ok_or_else(|| Error::Misuse {
            path: target.clone(),
            what: "the output needs a file name".into(),
        })?;
        if target.is_dir() {
            return Err(Error::Misuse { path: target, what: "the output is a folder".into() });
        }
        // The finished file would replace a device or pipe.
        if target.exists() && !target.is_file() {
            let what = "the output is not a regular file; choose another path";
            return Err(Error::Misuse { path: target, what: what.into() });
        }
        let prefix = format!(".{}.tmp-", name.to_string_lossy());
        reclaim(folder(&target), &prefix);
        let temp = held_temp(folder(&target), &prefix)
            .map_err(io("cannot create a file in its folder"))?;
        let out = BufWriter::with_capacity(BLOCK + 1, temp); // a full buffer would be written early
        let (tensors, pending) = (Vec::new(), Vec::new());
        let mut writer = Self { target, out, at: 0, open: None, tensors, pending };
        // The header is written last, when offsets and hashes are known; until then the file is invalid.
        writer.put(&vec![0; DATA_ALIGN as usize])?;
        Ok(writer)
    }

    fn misuse(&self, what: impl Into<String>) -> Error {
        Error::Misuse { path: self.target.clone(), what: what.into() }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.put_blocks(bytes).map_err(|source| Error::Io {
            path: self.target.clone(),
            what: "cannot write",
            source,
        })
    }

    fn put_blocks(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = BLOCK - self.at as usize % BLOCK;
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.out.write_all(now)?;
            self.at += now.len() as u64;
            if now.len() == room {
                self.out.flush()?;
            }
            bytes = later;
        }
        Ok(())
    }

    fn align(&mut self, to: u64) -> Result<(), Error> {
        let gap = self.at.next_multiple_of(to) - self.at;
        self.put(&vec![0; gap as usize])
    }

    /// Begins a tensor, whose bytes are passed to [`Self::write`].
    ///
    /// # Errors
    /// Another tensor is open, the description is inconsistent, or writing fails.
    pub fn begin(&mut self, spec: TensorSpec) -> Result<(), Error> {
        if self.open.is_some() {
            return Err(self.misuse("a tensor is still open"));
        }
        spec.check().map_err(|what| self.misuse(format!("{}: {what}", spec.label())))?;
        self.align(ALIGN)?;
        self.open = Some((spec, self.at, blake3::Hasher::new()));
        Ok(())
    }

    /// Appends bytes to the open tensor.
    ///
    /// # Errors
    /// No tensor is open, or writing fails.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let Some((_, _, hasher)) = &mut self.open else {
            return Err(self.misuse("no tensor is open"));
        };
        hasher.update(bytes);
        self.put(bytes)
    }

    /// Ends the open tensor and checks that it is complete.
    ///
    /// # Errors
    /// No tensor is open, or its length does not match its stored shape.
    pub fn end(&mut self) -> Result<(), Error> {
        let Some((spec, offset, hasher)) = self.open.take() else {
            return Err(self.misuse("no tensor is open"));
        };
        let len = self.at - offset;
        if spec.stored_bytes() != Some(len) {
            return Err(self.misuse(format!(
                "{} got {len} bytes, which does not match its stored shape {:?}",
                spec.label(),
                spec.stored
            )));
        }
        self.tensors.push(Tensor { spec, offset, len, hash: *hasher.finalize().as_bytes() });
        Ok(())
    }

    /// Writes a whole f32 vector, zero-padded to its stored length.
    ///
    /// # Errors
    /// Those of [`Self::begin`], [`Self::write`] and [`Self::end`].
    pub fn vector(&mut self, spec: TensorSpec, values: &[f32]) -> Result<(), Error> {
        let stored = spec.stored[2] as usize;
        self.begin(spec)?;
        self.write(bytemuck::cast_slice(values))?;
        self.write(&vec![0; stored.saturating_sub(values.len()) * 4])?;
        self.end()
    }

    /// Adds a section, to be written after the data. Config, generation defaults, tensor table and data
    /// cannot be added: [`Self::finish`] writes them.
    ///
    /// # Errors
    /// The section cannot be added or was already added.
    pub fn section(&mut self, kind: SectionKind, bytes: impl Into<Vec<u8>>) -> Result<(), Error> {
        use SectionKind::{Config, Data, Generation, Tensors};
        if matches!(kind, Config | Generation | Tensors | Data) {
            return Err(self.misuse(format!("the {} section cannot be added", kind.name())));
        }
        if self.pending.iter().any(|(k, _)| *k == kind) {
            return Err(self.misuse(format!("the {} section was already added", kind.name())));
        }
        self.pending.push((kind, bytes.into()));
        Ok(())
    }

    /// Writes sections, tables and header. The result is complete but not yet renamed to its target.
    ///
    /// # Errors
    /// A tensor is open, a config is invalid, tensors are inconsistent, or writing fails.
    pub fn finish(mut self, config: &Config, generation: &Generation) -> Result<Staged, Error> {
        if self.open.is_some() {
            return Err(self.misuse("a tensor is still open"));
        }
        config
            .validate()
            .and_then(|()| generation.validate(config.vocab_size))
            .map_err(|source| Error::Config { path: self.target.clone(), source })?;
        crate::tensor::index(&self.tensors, config.n_layers).map_err(|what| self.misuse(what))?;
        let data = Section {
            kind: SectionKind::Data,
            offset: DATA_ALIGN,
            len: self.at - DATA_ALIGN,
            hash: tensor_hashes(&self.tensors),
        };
        let table: Vec<u8> = self.tensors.iter().flat_map(Tensor::to_row).collect();
        let mut pending = std::mem::take(&mut self.pending);
        pending.push((SectionKind::Config, json(config)));
        pending.push((SectionKind::Generation, json(generation)));
        pending.push((SectionKind::Tensors, table));
        let mut sections = vec![data];
        pending.sort_by_key(|(kind, _)| *kind as u32); // makes the file independent of call order
        for (kind, bytes) in pending {
            self.align(ALIGN)?;
            let hash = *blake3::hash(&bytes).as_bytes();
            sections.push(Section { kind, offset: self.at, len: bytes.len() as u64, hash });
            self.put(&bytes)?;
        }
        self.align(ALIGN)?;
        let mut header = Header::for_config(config);
        header.content_id = content_id(&sections);
        let table: Vec<u8> = sections.iter().flat_map(Section::to_row).collect();
        header.section_table_offset = self.at;
        header.section_count = sections.len() as u32;
        header.section_table_hash = *blake3::hash(&table).as_bytes();
        self.put(&table)?;
        header.file_len = self.at;
        let (target, content_id) = (self.target.clone(), header.content_id);
        let temp = self.close(&header).map_err(|source| Error::Io {
            path: target.clone(),
            what: "cannot write",
            source,
        })?;
        Ok(Staged { target, temp, content_id, header, sections })
    }

    fn close(self, header: &Header) -> io::Result<NamedTempFile> {
        let mut temp = self.out.into_inner().map_err(io::IntoInnerError::into_error)?;
        temp.seek(SeekFrom::Start(0))?;
        temp.write_all(&header.to_bytes())?;
        temp.as_file().sync_all()?;
        Ok(temp)
    }
}

/// A complete file under a temporary name. Open [`Self::path`] to test it, then [`Self::commit`] it.
pub struct Staged {
    target: PathBuf,
    temp: NamedTempFile,
    content_id: [u8; 32],
    header: Header,
    sections: Vec<Section>,
}

impl fmt::Debug for Staged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Staged").field("target", &self.target).finish_non_exhaustive()
    }
}

impl Staged {
    /// The temporary path.
    pub fn path(&self) -> &Path {
        self.temp.path()
    }

    /// The model's content id.
    pub fn content_id(&self) -> [u8; 32] {
        self.content_id
    }

    /// Adds a section computed from the finished file, such as the self-check. Sections that are part of
    /// the model's identity cannot be added.
    ///
    /// # Errors
    /// The section cannot be added or already exists, or writing fails.
    pub fn add_section(&mut self, kind: SectionKind, bytes: &[u8]) -> Result<(), Error> {
        let misuse = |what| Err(Error::Misuse { path: self.target.clone(), what });
        let name = kind.name();
        if !matches!(
            kind,
            SectionKind::SelfCheck | SectionKind::NativeTokenizer | SectionKind::BakedPrompt
        ) {
            return misuse(format!("the {name} section cannot be added to a finished file"));
        }
        if self.sections.iter().any(|s| s.kind == kind) {
            return misuse(format!("the file already has a {name} section"));
        }
        self.put(kind, bytes)
    }

    /// Multiplies the logits of the model by a factor, which changes its identity.
    ///
    /// # Errors
    /// The scale of the logits is then invalid, or writing fails.
    pub fn scale_logits(&mut self, config: &Config, factor: f64) -> Result<(), Error> {
        let config = Config { logit_scale: config.logit_scale * factor, ..config.clone() };
        let invalid = |source| Error::Config { path: self.target.clone(), source };
        config.validate().map_err(invalid)?;
        self.put(SectionKind::Config, &json(&config))
    }

    fn put(&mut self, kind: SectionKind, bytes: &[u8]) -> Result<(), Error> {
        self.replace(kind, bytes).map_err(|source| Error::Io {
            path: self.target.clone(),
            what: "cannot write",
            source,
        })
    }

    /// Inserts the section in order of kind, or replaces it, and rewrites the rest of the file.
    fn replace(&mut self, kind: SectionKind, bytes: &[u8]) -> io::Result<()> {
        let behind = |s: &Section| s.kind != SectionKind::Data && s.kind as u32 >= kind as u32;
        let at = self.sections.iter().position(behind).unwrap_or(self.sections.len());
        let mut moved = self.sections.split_off(at);
        let start = moved.first().map_or(self.header.section_table_offset, |s| s.offset);
        moved.retain(|s| s.kind != kind);
        let mut parts = vec![(kind, bytes.to_vec())];
        for section in &moved {
            let mut bytes = vec![0; section.len as usize];
            self.temp.seek(SeekFrom::Start(section.offset))?;
            self.temp.read_exact(&mut bytes)?;
            parts.push((section.kind, bytes));
        }
        let mut image = Vec::new();
        for (kind, bytes) in parts {
            let (offset, len) = (start + image.len() as u64, bytes.len() as u64);
            let hash = *blake3::hash(&bytes).as_bytes();
            self.sections.push(Section { kind, offset, len, hash });
            image.extend(bytes);
            image.resize(image.len().next_multiple_of(ALIGN as usize), 0);
        }
        let table: Vec<u8> = self.sections.iter().flat_map(Section::to_row).collect();
        self.content_id = content_id(&self.sections);
        self.header.content_id = self.content_id;
        self.header.section_table_offset = start + image.len() as u64;
        self.header.section_count = self.sections.len() as u32;
        self.header.section_table_hash = *blake3::hash(&table).as_bytes();
        image.extend(table);
        self.header.file_len = start + image.len() as u64;
        self.temp.seek(SeekFrom::Start(start))?;
        self.temp.write_all(&image)?;
        self.temp.as_file().set_len(self.header.file_len)?;
        self.temp.seek(SeekFrom::Start(0))?;
        self.temp.write_all(&self.header.to_bytes())?;
        self.temp.as_file().sync_all()
    }

    /// Renames the file to its target and makes the folder entry durable.
    ///
    /// # Errors
    /// Renaming or syncing the folder fails.
    pub fn commit(self) -> Result<(), Error> {
        let target = self.target;
        let io = |what| {
            let path = target.clone();
            move |source| Error::Io { path, what, source }
        };
        self.temp
            .persist(&target)
            .map_err(|e| io("cannot rename the finished file to this name")(e.error))?;
        sync_folder(folder(&target)).map_err(io("cannot sync its folder"))
    }
}

fn folder(target: &Path) -> &Path {
    match target.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain structs always serialize")
}
