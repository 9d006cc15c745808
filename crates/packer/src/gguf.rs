//! A checked reader of GGUF files, versions 2 and 3
//! (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>).
//!
//! Every count and length is compared to the bytes the file still has before anything is
//! allocated, so a file can claim anything and cost no more than its own size.

mod keys;
mod split;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use keys::Keys;
pub use split::files;
pub(crate) use split::open;

use crate::Error;
use crate::dequant::Dtype;
use crate::source::{FileTensor, SourceFile, TensorSource};
use crate::weights::check_overlaps;

/// Entries of one metadata array: as many as the largest vocabulary the format allows.
const MAX_ARRAY: u64 = 1 << 24;
/// Real files have some 40 keys; split files of the largest models some 2,000 tensors.
const MAX_KEYS: u64 = 1 << 16;
const MAX_TENSORS: u64 = 1 << 20;

/// A metadata value. Integers of all widths are widened.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Int(i128),
    Float(f64),
    Bool(bool),
    String(String),
    Strings(Vec<String>),
    Ints(Vec<i64>),
    Floats(Vec<f32>),
}

/// An open GGUF file: its metadata and its tensors, each within the file.
pub(crate) struct Gguf {
    pub(crate) path: PathBuf,
    metadata: HashMap<String, Value>,
    pub(crate) tensors: Vec<FileTensor>,
    /// All files, where the model was split into several.
    pub(crate) files: Vec<PathBuf>,
}

impl Gguf {
    /// Opens one file.
    fn open_file(path: &Path) -> Result<Self, Error> {
        let file = Arc::new(SourceFile::open(path)?);
        let mut r = Reader { file: &file, at: 0, buffer: Vec::new(), buffer_at: 0 };
        let (n_tensors, n_keys) = head(&mut r)?;
        let mut metadata = HashMap::new();
        for _ in 0..n_keys {
            let key = r.string("a metadata key")?;
            let kind = r.u32()?;
            let value = r.value(kind, &key)?;
            if metadata.contains_key(&key) {
                return Err(r.damaged(format!("metadata key {key:?} is there twice")));
            }
            metadata.insert(key, value);
        }
        let mut infos = HashMap::new();
        for _ in 0..n_tensors {
            let (name, info) = tensor_info(&mut r)?;
            if infos.contains_key(&name) {
                return Err(r.damaged(format!("tensor {name:?} is there twice")));
            }
            infos.insert(name, info);
        }
        let alignment = match metadata.get("general.alignment") {
            None => 32,
            Some(&Value::Int(a)) if (1..=1 << 20).contains(&a) => a as u64,
            Some(a) => return Err(r.damaged(format!("general.alignment is {a:?}"))),
        };
        let data = r.at.next_multiple_of(alignment);
        let mut tensors = Vec::with_capacity(infos.len());
        for (name, info) in infos {
            tensors.push(info.tensor(&file, &name, data, alignment)?);
        }
        tensors
            .sort_by(|a, b| a.extent().start.cmp(&b.extent().start).then(a.name().cmp(&b.name())));
        check_overlaps(path, tensors.iter())?;
        Ok(Self { path: path.into(), metadata, tensors, files: vec![path.into()] })
    }

    /// All metadata, by name.
    pub(crate) fn metadata(&self) -> Vec<(&str, &Value)> {
        let mut all: Vec<_> = self.metadata.iter().map(|(k, v)| (k.as_str(), v)).collect();
        all.sort_by_key(|(k, _)| *k);
        all
    }

    /// An error about a metadata key; `what` follows its name.
    pub(crate) fn error(&self, key: &str, what: impl Into<String>) -> Error {
        Error::Setting { path: self.path.clone(), field: key.into(), what: what.into() }
    }

    fn wrong<T>(&self, key: &str, expected: &str) -> Result<Option<T>, Error> {
        Err(self.error(key, format!("is not {expected}")))
    }

    pub(crate) fn u32(&self, key: &str) -> Result<Option<u32>, Error> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Int(v)) => match u32::try_from(*v) {
                Ok(v) => Ok(Some(v)),
                Err(_) => Err(self.error(key, format!("is {v}, expected 0 to {}", u32::MAX))),
            },
            Some(_) => self.wrong(key, "a whole number"),
        }
    }

    pub(crate) fn f64(&self, key: &str) -> Result<Option<f64>, Error> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Float(v)) => Ok(Some(*v)),
            Some(_) => self.wrong(key, "a floating-point number"),
        }
    }

    pub(crate) fn bool(&self, key: &str) -> Result<Option<bool>, Error> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Bool(v)) => Ok(Some(*v)),
            Some(_) => self.wrong(key, "true or false"),
        }
    }

    pub(crate) fn str(&self, key: &str) -> Result<Option<&str>, Error> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::String(v)) => Ok(Some(v)),
            Some(_) => self.wrong(key, "a string"),
        }
    }

    pub(crate) fn strings(&self, key: &str) -> Result<Option<&[String]>, Error> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Strings(v)) => Ok(Some(v)),
            Some(_) => self.wrong(key, "a list of strings"),
        }
    }

    pub(crate) fn ints(&self, key: &str) -> Result<Option<&[i64]>, Error> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Ints(v)) => Ok(Some(v)),
            Some(_) => self.wrong(key, "a list of whole numbers"),
        }
    }

    pub(crate) fn floats(&self, key: &str) -> Result<Option<&[f32]>, Error> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Floats(v)) => Ok(Some(v)),
            Some(_) => self.wrong(key, "a list of floating-point numbers"),
        }
    }
}

/// Magic, version and the two counts.
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
        let next = "versions 2 and 3, little-endian, are; convert the original model again".into();
        let what = format!("GGUF version {version:#x}");
        return Err(Error::Unsupported { path: path.clone(), what, next });
    }
    let (n_tensors, n_keys) = (r.u64()?, r.u64()?);
    // Shortest possible: a tensor has name length, rank, type and offset; a key length, type, value.
    r.count(n_tensors, 24, MAX_TENSORS, "tensors")?;
    r.count(n_keys, 13, MAX_KEYS, "metadata keys")?;
    Ok((n_tensors, n_keys))
}

/// Formats that exist but are not read: below 4 bits by lattice or ternary, and ggml's own.
const UNSUPPORTED: [(u32, &str); 15] = [
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
];

struct Info {
    dims: Vec<u64>,
    kind: u32,
    offset: u64,
}

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
            let next = format!("supported: {}", Dtype::all_names());
            return Err(Error::Unsupported { path, what, next });
        };
        self.dims.reverse(); // GGUF states the innermost dimension first
        let offset =
            data.checked_add(self.offset).filter(|_| self.offset.is_multiple_of(alignment));
        let Some(offset) = offset else {
            let what = format!("has offset {}, expected a multiple of {alignment}", self.offset);
            return Err(Error::Tensor { path, tensor: name.into(), what });
        };
        FileTensor::new(file, name, dtype, &self.dims, offset, None)
    }
}

/// Reads the file in order, checking each step against its length.
struct Reader<'a> {
    file: &'a SourceFile,
    at: u64,
    /// Bytes read ahead, from `buffer_at` of the file.
    buffer: Vec<u8>,
    buffer_at: u64,
}

impl Reader<'_> {
    fn damaged(&self, what: impl std::fmt::Display) -> Error {
        Error::source(&self.file.path, format!("damaged GGUF file at byte {}: {what}", self.at))
    }

    /// Refuses `n` items of at least `min_bytes` each where the file has no room for them.
    fn count(&self, n: u64, min_bytes: u64, max: u64, of: &str) -> Result<(), Error> {
        let room = (self.file.len - self.at) / min_bytes;
        if n > max || n > room {
            return Err(self.damaged(format!("{n} {of}, at most {} fit", max.min(room))));
        }
        Ok(())
    }

    /// The next `n` bytes; `n` has been compared to the file's length.
    fn take(&mut self, n: usize) -> Result<&[u8], Error> {
        const AHEAD: u64 = 1 << 18;
        let left = self.file.len - self.at;
        if n as u64 > left {
            return Err(self.damaged(format!("{n} bytes expected, {left} left")));
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

    /// A scalar number as integer or float; the specification numbers the types.
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
            _ => return Err(self.damaged(format!("{key:?} has value type {kind}"))),
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
            _ => return Err(self.damaged(format!("{key:?} is a list of value type {kind}"))),
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
                // Only a u64 above i64::MAX, which no list of token data holds, saturates.
                Value::Int(v) => ints.push(v.try_into().unwrap_or(i64::MAX)),
                _ => unreachable!("numbers only"),
            }
        }
        Ok(if matches!(kind, 6 | 12) { Value::Floats(floats) } else { Value::Ints(ints) })
    }
}

#[cfg(test)]
mod tests;
