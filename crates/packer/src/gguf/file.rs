//! A validating reader for GGUF files, versions 2 and 3.
//!
//! Every count and length is compared with the remaining bytes of the file before memory is
//! allocated, so that no file can make the reader allocate more than the file's own size.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::metadata::{Metadata, Value};
use crate::Error;
use crate::dequant::Dtype;
use crate::source::checks::check_overlaps;
use crate::source::{FileTensor, SourceFile, TensorSource};

/// Maximum length of a metadata array: the largest vocabulary that the `.nano` format allows.
const MAX_ARRAY: u64 = 1 << 24;
/// Real files have about 40 keys; the largest split models have about 2,000 tensors.
const MAX_KEYS: u64 = 1 << 16;
const MAX_TENSORS: u64 = 1 << 20;

/// An open GGUF file: its metadata and its tensors, whose byte ranges lie within the file.
pub(crate) struct Gguf {
    pub(crate) metadata: Metadata,
    pub(crate) tensors: Vec<FileTensor>,
    /// All files of the model, which may be split.
    pub(crate) files: Vec<PathBuf>,
}

impl Gguf {
    /// Opens one file.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let file = Arc::new(SourceFile::open(path)?);
        let mut r = Reader { file: &file, at: 0, buffer: Vec::new(), buffer_at: 0 };
        let (n_tensors, n_keys) = head(&mut r)?;
        let mut metadata = HashMap::new();
        for _ in 0..n_keys {
            let key = r.string("a metadata key")?;
            let kind = r.u32()?;
            let value = r.value(kind, &key)?;
            if metadata.contains_key(&key) {
                return Err(r.damaged(format!("metadata key {key:?} appears twice")));
            }
            metadata.insert(key, value);
        }
        let mut infos = HashMap::new();
        for _ in 0..n_tensors {
            let (name, info) = tensor_info(&mut r)?;
            if infos.contains_key(&name) {
                return Err(r.damaged(format!("tensor {name:?} appears twice")));
            }
            infos.insert(name, info);
        }
        let alignment = match metadata.get("general.alignment") {
            None => 32,
            Some(&Value::Int(a)) if (1..=1 << 20).contains(&a) => a as u64,
            Some(a) => {
                return Err(
                    r.damaged(format!("general.alignment is {a:?}, expected 1 to {}", 1 << 20))
                );
            }
        };
        let data = r.at.next_multiple_of(alignment);
        let mut tensors = Vec::with_capacity(infos.len());
        for (name, info) in infos {
            tensors.push(info.tensor(&file, &name, data, alignment)?);
        }
        tensors
            .sort_by(|a, b| a.extent().start.cmp(&b.extent().start).then(a.name().cmp(&b.name())));
        check_overlaps(path, tensors.iter())?;
        Ok(Self { metadata: Metadata::new(path, metadata), tensors, files: vec![path.into()] })
    }
}

/// Checks magic and version; returns the number of tensors and the number of metadata keys.
fn head(r: &mut Reader) -> Result<(u64, u64), Error> {
    let path = &r.file.path;
    if r.file.len < 24 {
        return Err(Error::source(
            path,
            format!("not a GGUF file: only {} bytes long", r.file.len),
        ));
    }
    if r.bytes::<4>()? != *b"GGUF" {
        return Err(Error::source(path, "not a GGUF file: it does not begin with GGUF"));
    }
    let version = r.u32()?;
    if version != 2 && version != 3 {
        let next = "supported: 2 and 3, little-endian; convert the original model again".into();
        let what = format!("GGUF version {version:#x}");
        return Err(Error::Unsupported { path: path.clone(), what, next });
    }
    let (n_tensors, n_keys) = (r.u64()?, r.u64()?);
    // Minimum sizes: name length, rank, type and offset of a tensor; length, type and value of a
    // key.
    r.count(n_tensors, 24, MAX_TENSORS, "tensors")?;
    r.count(n_keys, 13, MAX_KEYS, "metadata keys")?;
    Ok((n_tensors, n_keys))
}

/// Formats that no weights are stored in: intermediate results of ggml, and integers.
const UNSUPPORTED: [(u32, &str); 6] =
    [(9, "Q8_1"), (15, "Q8_K"), (24, "I8"), (25, "I16"), (26, "I32"), (27, "I64")];

struct Info {
    dims: Vec<u64>,
    kind: u32,
    offset: u64,
}

/// Reads a tensor info entry.
fn tensor_info(r: &mut Reader) -> Result<(String, Info), Error> {
    let name = r.string("a tensor name")?;
    let rank = r.u32()?;
    if rank == 0 || rank > 4 {
        return Err(r.damaged(format!("tensor {name:?} has {rank} dimensions, expected 1 to 4")));
    }
    let dims = (0..rank).map(|_| r.u64()).collect::<Result<_, _>>()?;
    Ok((name, Info { dims, kind: r.u32()?, offset: r.u64()? }))
}

impl Info {
    fn tensor(
        mut self,
        file: &Arc<SourceFile>,
        name: &str,
        data: u64,
        alignment: u64,
    ) -> Result<FileTensor, Error> {
        let path = file.path.clone();
        let Some(dtype) = Dtype::from_ggml(self.kind) else {
            let known = UNSUPPORTED.iter().find(|t| t.0 == self.kind);
            let known = known.map_or(String::new(), |t| format!(" ({})", t.1));
            let what = format!("tensor {name:?} of ggml type {}{known}", self.kind);
            let next = format!("supported: {}", Dtype::ggml_names());
            return Err(Error::Unsupported { path, what, next });
        };
        self.dims.reverse(); // GGUF lists the innermost dimension first
        let offset =
            data.checked_add(self.offset).filter(|_| self.offset.is_multiple_of(alignment));
        let Some(offset) = offset else {
            let what = format!("has offset {}, expected a multiple of {alignment}", self.offset);
            return Err(Error::Tensor { path, tensor: name.into(), what });
        };
        FileTensor::new(file, name, dtype, &self.dims, offset, None)
    }
}

/// Reads the file sequentially; every read is checked against the file's length.
struct Reader<'a> {
    file: &'a SourceFile,
    at: u64,
    /// Read-ahead bytes; the first is at `buffer_at` in the file.
    buffer: Vec<u8>,
    buffer_at: u64,
}

impl Reader<'_> {
    fn damaged(&self, what: impl std::fmt::Display) -> Error {
        Error::source(&self.file.path, format!("damaged GGUF file at byte {}: {what}", self.at))
    }

    /// Rejects a count of `n` items of at least `min_bytes` each that cannot fit in the rest of the
    /// file.
    fn count(&self, n: u64, min_bytes: u64, max: u64, of: &str) -> Result<(), Error> {
        let room = (self.file.len - self.at) / min_bytes;
        if n > max || n > room {
            return Err(self
                .damaged(format!("claims {n} {of}, but at most {} are possible", max.min(room))));
        }
        Ok(())
    }

    /// The next `n` bytes.
    fn take(&mut self, n: usize) -> Result<&[u8], Error> {
        const AHEAD: u64 = 1 << 18;
        let left = self.file.len - self.at;
        if n as u64 > left {
            return Err(
                self.damaged(format!("expected {n} more bytes, found {left}; is it complete?"))
            );
        }
        if self.at + n as u64 > self.buffer_at + self.buffer.len() as u64 {
            self.buffer.resize(left.min(AHEAD.max(n as u64)) as usize, 0);
            self.buffer_at = self.at;
            self.file.read_at(self.at, &mut self.buffer)?;
        }
        let start = (self.at - self.buffer_at) as usize;
        self.at += n as u64;
        Ok(&self.buffer[start..start + n])
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        Ok(self.take(N)?.try_into().expect("N bytes"))
    }

    fn u32(&mut self) -> Result<u32, Error> {
        self.bytes().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Error> {
        self.bytes().map(u64::from_le_bytes)
    }

    fn string(&mut self, what: &str) -> Result<String, Error> {
        let n = self.u64()?;
        self.count(n, 1, u64::MAX, &format!("bytes of {what}"))?;
        let bytes = self.take(n as usize)?.to_vec();
        String::from_utf8(bytes).map_err(|_| self.damaged(format!("{what} is not UTF-8")))
    }

    /// Reads a scalar; `kind` is the specification's type number.
    fn number(&mut self, kind: u32, key: &str) -> Result<Value, Error> {
        Ok(match kind {
            0 => Value::Int(u8::from_le_bytes(self.bytes()?).into()),
            1 => Value::Int(i8::from_le_bytes(self.bytes()?).into()),
            2 => Value::Int(u16::from_le_bytes(self.bytes()?).into()),
            3 => Value::Int(i16::from_le_bytes(self.bytes()?).into()),
            4 => Value::Int(self.u32()?.into()),
            5 => Value::Int(i32::from_le_bytes(self.bytes()?).into()),
            6 => Value::Float(f32::from_le_bytes(self.bytes()?).into()),
            7 => match self.bytes()? {
                [b @ 0..=1] => Value::Bool(b == 1),
                [b] => return Err(self.damaged(format!("{key:?} is {b}, expected true or false"))),
            },
            10 => Value::Int(self.u64()?.into()),
            11 => Value::Int(i64::from_le_bytes(self.bytes()?).into()),
            12 => Value::Float(f64::from_le_bytes(self.bytes()?)),
            _ => return Err(self.damaged(format!("{key:?} has unknown value type {kind}"))),
        })
    }

    fn value(&mut self, kind: u32, key: &str) -> Result<Value, Error> {
        match kind {
            8 => self.string("a metadata value").map(Value::String),
            9 => self.array(key),
            _ => self.number(kind, key),
        }
    }

    fn array(&mut self, key: &str) -> Result<Value, Error> {
        let (kind, n) = (self.u32()?, self.u64()?);
        let bytes = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            _ => {
                return Err(
                    self.damaged(format!("{key:?} is a list with unsupported value type {kind}"))
                );
            }
        };
        self.count(n, bytes, MAX_ARRAY, &format!("entries of {key:?}"))?;
        if kind == 8 {
            return (0..n)
                .map(|_| self.string("a listed string"))
                .collect::<Result<_, _>>()
                .map(Value::Strings);
        }
        let (mut ints, mut floats) = (Vec::new(), Vec::new());
        for _ in 0..n {
            match self.number(kind, key)? {
                Value::Float(v) => floats.push(v as f32),
                Value::Bool(v) => ints.push(v.into()),
                // Saturates only for a u64 above i64::MAX, which lists of token data never contain.
                Value::Int(v) => ints.push(v.try_into().unwrap_or(i64::MAX)),
                _ => unreachable!("numbers only"),
            }
        }
        Ok(if matches!(kind, 6 | 12) { Value::Floats(floats) } else { Value::Ints(ints) })
    }
}
