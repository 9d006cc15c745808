//! Weights as rows of f32, whatever the file format.
//!
//! Files are never mapped, but read a few rows at a time with positioned reads: the memory use of a
//! conversion depends on the widest matrix rather than on the model size, and a source that shrinks
//! during the conversion causes an error rather than a signal.

pub(crate) mod checks;
pub(crate) mod derived;
pub(crate) mod stacks;

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nanoinfer_platform::file::{another_handle, read_exact_at};

use crate::dequant::Dtype;
use crate::{Error, foreign};

/// A matrix that can be read in row ranges. A vector of n values is a matrix with n rows and 1
/// input.
pub trait TensorSource: Send + Sync {
    /// File and name, for error messages.
    fn name(&self) -> (&Path, &str);

    /// `[rows, inputs]`.
    fn shape(&self) -> [usize; 2];

    /// Reads `rows` as f32, row-major, into `out` of `rows.len() * inputs` values.
    ///
    /// # Errors
    /// The file cannot be read.
    fn read_rows(&self, rows: Range<usize>, out: &mut [f32]) -> Result<(), Error>;

    /// Name of the number format of the stored values and its bits per value, if known.
    fn format(&self) -> Option<(&'static str, f64)> {
        None
    }
}

/// Computes the values of a weight that is stored as several tensors.
pub(crate) trait Dequantize: Send + Sync {
    /// Name of the format, and bits per value with all scales.
    fn format(&self) -> (&'static str, f64);

    /// Reads `rows` as f32 into `out` of `rows.len() * inputs` values.
    fn read_rows(&self, rows: Range<usize>, out: &mut [f32]) -> Result<(), Error>;
}

/// An open source file of known length.
#[derive(Debug)]
pub(crate) struct SourceFile {
    pub(crate) path: PathBuf,
    pub(crate) len: u64,
    file: File,
}

impl SourceFile {
    /// Opens a file, unless it only stands for another one (see [`foreign::refuse_placeholder`]).
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        // Checked first, because opening a pipe without a writer would block.
        let meta = std::fs::metadata(path).map_err(Error::io(path, "cannot open"))?;
        if !meta.is_file() {
            return Err(Error::source(path, "is not a regular file"));
        }
        let file = File::open(path).map_err(Error::io(path, "cannot open"))?;
        let file = Self { path: path.into(), len: meta.len(), file };
        foreign::refuse_placeholder(path, &file.head()?, file.len)?;
        Ok(file)
    }

    /// The first bytes, which identify the file.
    pub(crate) fn head(&self) -> Result<Vec<u8>, Error> {
        let mut head = vec![0; self.len.min(foreign::HEAD as u64) as usize];
        self.read_at(0, &mut head)?;
        Ok(head)
    }

    /// Reads exactly `out.len()` bytes at `offset`.
    pub(crate) fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let what = format!("cannot read {} bytes at {offset}", out.len());
        read_exact_at(&self.file, out, offset).map_err(Error::io(&self.path, &what))
    }

    /// Another handle for a library that does its own reads; positioned reads are not affected.
    pub(crate) fn reader(&self) -> std::io::Result<File> {
        another_handle(&self.file, &self.path)
    }

    /// BLAKE3 hash of the whole file, or `None` once `stop` returns true.
    pub(crate) fn hash(&self, stop: impl Fn() -> bool) -> Result<Option<blake3::Hash>, Error> {
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; 1 << 20];
        let mut at = 0;
        while at < self.len {
            if stop() {
                return Ok(None);
            }
            let n = (self.len - at).min(buffer.len() as u64) as usize;
            self.read_at(at, &mut buffer[..n])?;
            hasher.update(&buffer[..n]);
            at += n as u64;
        }
        Ok(Some(hasher.finalize()))
    }
}

/// A tensor stored contiguously, row after row, in a file; or a weight that is computed from several such
/// tensors as its rows are read.
#[derive(Clone)]
pub(crate) struct FileTensor {
    file: Arc<SourceFile>,
    name: String,
    shape: [usize; 2],
    experts: Option<usize>,
    /// The number format and the bytes in the file; of a weight with several parts, those of its codes.
    dtype: Dtype,
    offset: u64,
    bytes: u64,
    /// What computes the values of a weight with several parts.
    values: Option<Arc<dyn Dequantize>>,
}

impl FileTensor {
    /// Checks that a tensor of this shape (`[rows, inputs]`, `[n]`, `[]`, `[experts, rows, inputs]`, or, of
    /// bytes, `[experts, rows, groups, n]`) matches its size and lies within the file. `len` is its size in bytes,
    /// if the file states it.
    pub(crate) fn new(
        file: &Arc<SourceFile>,
        name: &str,
        dtype: Dtype,
        shape: &[u64],
        offset: u64,
        len: Option<u64>,
    ) -> Result<Self, Error> {
        let fail = |what: String| {
            Err(Error::Tensor { path: file.path.clone(), tensor: name.into(), what })
        };
        let (experts, n, k) = match *shape {
            [] => (None, Some(1), 1),
            [n] => (None, Some(n), 1),
            [n, k] => (None, Some(n), k),
            [experts, n, k] => (Some(experts as usize), n.checked_mul(experts), k),
            [experts, n, groups, k] if dtype == Dtype::U8 => {
                let Some(k) = groups.checked_mul(k) else {
                    return fail(format!("shape {shape:?} overflows"));
                };
                (Some(experts as usize), n.checked_mul(experts), k)
            }
            _ => return fail(format!("has {} dimensions, expected at most 3", shape.len())),
        };
        let Some(n) = n else { return fail(format!("shape {shape:?} overflows")) };
        if n == 0 || k == 0 {
            return fail(format!("has the empty shape {shape:?}"));
        }
        if !k.is_multiple_of(dtype.block() as u64) {
            return fail(format!(
                "has rows of {k} values, expected a multiple of the {} block size {}",
                dtype.name(),
                dtype.block()
            ));
        }
        let Some(bytes) = (k / dtype.block() as u64)
            .checked_mul(dtype.bytes() as u64)
            .and_then(|r| r.checked_mul(n))
        else {
            return fail(format!("shape {shape:?} overflows"));
        };
        if len.is_some_and(|l| l != bytes) {
            return fail(format!(
                "has {} bytes, which does not match shape {shape:?} of type {}",
                len.unwrap_or(0),
                dtype.name()
            ));
        }
        if offset.checked_add(bytes).is_none_or(|end| end > file.len) {
            return fail(format!(
                "has {bytes} bytes at offset {offset}, beyond the end of the file ({} bytes); is the file \
                 complete?",
                file.len
            ));
        }
        // The values are bounded by the file's length, so the casts are lossless on 64-bit
        // machines.
        let shape = [n as usize, k as usize];
        let (file, name) = (Arc::clone(file), name.into());
        Ok(Self { file, name, shape, experts, dtype, offset, bytes, values: None })
    }

    /// A weight of this name and shape, whose values `values` computes from these codes and other tensors.
    pub(crate) fn quantized(
        self,
        name: String,
        shape: [usize; 2],
        values: Arc<dyn Dequantize>,
    ) -> Self {
        Self { name, shape, experts: None, ..self.computed(values) }
    }

    /// The same tensor with values that `values` computes.
    pub(crate) fn computed(self, values: Arc<dyn Dequantize>) -> Self {
        Self { values: Some(values), ..self }
    }

    /// The same tensor as matrices of so many experts.
    pub(crate) fn with_experts(self, experts: Option<usize>) -> Self {
        Self { experts, ..self }
    }

    /// Whether the values are computed from several tensors.
    pub(crate) fn is_computed(&self) -> bool {
        self.values.is_some()
    }

    /// The number of matrices stacked in a three-dimensional tensor; its rows are the rows of all
    /// these matrices.
    pub(crate) fn experts(&self) -> Option<usize> {
        self.experts
    }

    /// A vector of the same values, if they are not stored in blocks.
    pub(crate) fn flattened(self) -> Self {
        let [n, k] = self.shape;
        let plain = self.dtype.block() == 1 && self.values.is_none();
        if plain { Self { shape: [n * k, 1], ..self } } else { self }
    }

    /// A matrix of one row, if the tensor is a vector.
    pub(crate) fn row(self) -> Self {
        let [n, k] = self.shape;
        if k == 1 { Self { shape: [1, n], ..self } } else { self }
    }

    /// The tensor's number format.
    pub(crate) fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The tensor's byte range in the file.
    pub(crate) fn extent(&self) -> Range<u64> {
        self.offset..self.offset + self.bytes
    }

    /// The tensor's size in the file.
    pub(crate) fn stored_bytes(&self) -> u64 {
        self.bytes
    }

    /// The stored bytes of some rows.
    pub(crate) fn bytes(&self, rows: Range<usize>) -> Result<Vec<u8>, Error> {
        let row = self.row_bytes();
        self.flat_bytes((rows.start as u64 * row) as usize..(rows.end as u64 * row) as usize)
    }

    /// Some of the stored bytes.
    pub(crate) fn flat_bytes(&self, range: Range<usize>) -> Result<Vec<u8>, Error> {
        let mut raw = vec![0; range.len()];
        self.file.read_at(self.offset + range.start as u64, &mut raw)?;
        Ok(raw)
    }

    /// The stored bytes of some columns of some rows, row after row.
    pub(crate) fn block_bytes(
        &self,
        rows: Range<usize>,
        columns: Range<usize>,
    ) -> Result<Vec<u8>, Error> {
        let (row, value) = (self.row_bytes(), self.dtype.bytes());
        let mut raw = vec![0; rows.len() * columns.len() * value];
        let at = self.offset + (columns.start * value) as u64;
        for (r, raw) in rows.zip(raw.chunks_exact_mut(columns.len() * value)) {
            self.file.read_at(at + r as u64 * row, raw)?;
        }
        Ok(raw)
    }

    /// The values of some columns of some rows, row after row.
    pub(crate) fn block(
        &self,
        rows: Range<usize>,
        columns: Range<usize>,
    ) -> Result<Vec<f32>, Error> {
        let mut values = vec![0.0; rows.len() * columns.len()];
        self.dtype.dequantize(&self.block_bytes(rows, columns)?, &mut values);
        Ok(values)
    }

    /// Whether two tensors have the same shape and values. Both are read a few rows at a time, up to the
    /// first difference; tensors that share their bytes are not read.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(crate) fn equals(&self, other: &Self) -> Result<bool, Error> {
        const VALUES: usize = 1 << 16;
        if self.shape != other.shape {
            return Ok(false);
        }
        let stored = |t: &Self| (Arc::as_ptr(&t.file), t.offset, t.dtype);
        if stored(self) == stored(other) {
            return Ok(true);
        }
        let [n, k] = self.shape;
        let step = (VALUES / k).max(1);
        let (mut a, mut b) = (vec![0.0; step * k], vec![0.0; step * k]);
        for first in (0..n).step_by(step) {
            let rows = first..n.min(first + step);
            let len = rows.len() * k;
            self.read_rows(rows.clone(), &mut a[..len])?;
            other.read_rows(rows, &mut b[..len])?;
            if a[..len] != b[..len] {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn row_bytes(&self) -> u64 {
        (self.shape[1] / self.dtype.block() * self.dtype.bytes()) as u64
    }
}

impl TensorSource for FileTensor {
    fn name(&self) -> (&Path, &str) {
        (&self.file.path, &self.name)
    }

    fn shape(&self) -> [usize; 2] {
        self.shape
    }

    fn read_rows(&self, rows: Range<usize>, out: &mut [f32]) -> Result<(), Error> {
        match &self.values {
            Some(values) => values.read_rows(rows, out)?,
            None => self.dtype.dequantize(&self.bytes(rows)?, out),
        }
        Ok(())
    }

    fn format(&self) -> Option<(&'static str, f64)> {
        if let Some(values) = &self.values {
            return Some(values.format());
        }
        let bits = 8.0 * self.dtype.bytes() as f64 / self.dtype.block() as f64;
        Some((self.dtype.name(), bits))
    }
}
