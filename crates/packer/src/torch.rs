//! `pytorch_model.bin`: a zip archive of one pickle and uncompressed storages.
//!
//! ```text
//! NAME/data.pkl      the state dict, see [`pickle`]
//! NAME/byteorder     "little", in newer files
//! NAME/data/0        values of a storage
//! NAME/data/1 …
//! ```
//!
//! Storages are not compressed, so tensors are read at their offsets, as in a safetensors file.

mod pickle;

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use zip::{CompressionMethod, ZipArchive};

use crate::dequant::Dtype;
use crate::source::checks::is_ignored;
use crate::source::{FileTensor, SourceFile};
use crate::{Error, quantized};
use pickle::TensorRef;

/// The first bytes of a file in the format used before PyTorch 1.6: a pickled number.
const LEGACY: [u8; 14] =
    [0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// Opens a file and returns its tensors, whose byte ranges lie within the file. Tied tensors may
/// share a byte range.
pub(crate) fn open(path: &Path) -> Result<Vec<FileTensor>, Error> {
    let file = Arc::new(SourceFile::open(path)?);
    let mut begin = [0; LEGACY.len()];
    if file.len >= begin.len() as u64 {
        file.read_at(0, &mut begin)?;
    }
    if begin == LEGACY {
        let what = "the file format of PyTorch before 1.6".into();
        let next = "load it with a current PyTorch and save it again, or use safetensors".into();
        return Err(Error::Unsupported { path: path.into(), what, next });
    }
    let damaged = |what: String| Error::source(path, format!("damaged PyTorch file: {what}"));
    let incomplete = |what: String| damaged(format!("{what}; is it complete?"));
    let mut archive = Archive::read(&file).map_err(incomplete)?;
    if archive.read_file("byteorder", 16).map_err(damaged)?.is_some_and(|order| order != b"little")
    {
        let (what, next) = ("big-endian data".into(), "save it on a little-endian machine".into());
        return Err(Error::Unsupported { path: path.into(), what, next });
    }
    let pickle = archive.read_file("data.pkl", pickle::MAX_LEN).map_err(damaged)?;
    let pickle = pickle.ok_or_else(|| damaged("it contains no data.pkl".into()))?;
    let mut tensors: Vec<FileTensor> = Vec::new();
    for (name, tensor) in pickle::tensors(&pickle).map_err(|what| Error::source(path, what))? {
        quantized::refuse_part(path, &name)?;
        if !is_ignored(&name) {
            tensors.push(archive.tensor(&file, &name, &tensor)?);
        }
    }
    Ok(tensors)
}

/// The zip archive and an index of its files, by name without their common folder.
struct Archive {
    zip: ZipArchive<std::fs::File>,
    index: HashMap<String, usize>,
}

impl Archive {
    fn read(file: &SourceFile) -> Result<Self, String> {
        let reader = file.reader().map_err(|e| e.to_string())?;
        let zip = ZipArchive::new(reader).map_err(|e| e.to_string())?;
        let mut index = HashMap::new();
        for (i, name) in zip.file_names().enumerate() {
            let name = name.map_err(|e| e.to_string())?;
            let inner = name.split_once('/').map_or(&*name, |(_, inner)| inner);
            if index.insert(inner.to_owned(), i).is_some() {
                return Err(format!("{inner:?} appears twice in the archive"));
            }
        }
        // `file_names` iterates in index order.
        Ok(Self { zip, index })
    }

    /// Offset and length of an uncompressed file in the archive.
    fn extent(&mut self, name: &str) -> Result<Option<(u64, u64)>, String> {
        let Some(&i) = self.index.get(name) else { return Ok(None) };
        let entry = self.zip.by_index_raw(i).map_err(|e| format!("{name}: {e}"))?;
        if entry.compression() != CompressionMethod::Stored || entry.encrypted() {
            return Err(format!(
                "{name} is compressed or encrypted, unlike in files written by torch.save"
            ));
        }
        let start = entry.data_start().ok_or_else(|| format!("{name} has no data offset"))?;
        Ok(Some((start, entry.size())))
    }

    /// The contents of a file of at most `limit` bytes.
    fn read_file(&mut self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, String> {
        let Some((_, len)) = self.extent(name)? else { return Ok(None) };
        if len > limit {
            return Err(format!("{name} has {len} bytes, expected at most {limit}"));
        }
        let entry = self.zip.by_index_raw(self.index[name]).map_err(|e| format!("{name}: {e}"))?;
        let mut bytes = Vec::new();
        entry.take(limit).read_to_end(&mut bytes).map_err(|e| format!("{name}: {e}"))?;
        Ok(Some(bytes))
    }

    fn tensor(
        &mut self,
        file: &Arc<SourceFile>,
        name: &str,
        t: &TensorRef,
    ) -> Result<FileTensor, Error> {
        let fail =
            |what: String| Error::Tensor { path: file.path.clone(), tensor: name.into(), what };
        let dtype = match t.class {
            "FloatStorage" => Dtype::F32,
            "HalfStorage" => Dtype::F16,
            "BFloat16Storage" => Dtype::BF16,
            "DoubleStorage" => Dtype::F64,
            other => {
                let what = format!("is a {other}, expected float32, float16, bfloat16 or float64");
                return Err(fail(what));
            }
        };
        let size = dtype.bytes() as u64;
        let storage = format!("data/{}", t.key);
        let found = self.extent(&storage).map_err(fail)?;
        let (start, len) = found.ok_or_else(|| fail(format!("the archive has no {storage}")))?;
        let end =
            end_in_storage(t).ok_or_else(|| fail(format!("shape {:?} overflows", t.shape)))?;
        if t.numel.checked_mul(size) != Some(len) || end > t.numel {
            let what =
                format!("ends at value {end} of {} in {storage}, which has {len} bytes", t.numel);
            return Err(fail(what));
        }
        if !is_contiguous(t) {
            return Err(fail("is not contiguous; save the model with contiguous tensors".into()));
        }
        let offset = start.checked_add(t.offset * size); // less than `len`, as checked above
        let offset = offset.ok_or_else(|| fail("lies beyond the end of the file".into()))?;
        FileTensor::new(file, name, dtype, &t.shape, offset, None)
    }
}

/// The end of the tensor, in values from the start of its storage.
fn end_in_storage(t: &TensorRef) -> Option<u64> {
    let values = t.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d))?;
    t.offset.checked_add(values)
}

/// Whether rows follow each other without gaps. The stride of a dimension of size 1 does not matter.
fn is_contiguous(t: &TensorRef) -> bool {
    let mut expected = 1u64;
    t.shape.iter().zip(&t.strides).rev().all(|(&n, &stride)| {
        let matches = n == 1 || stride == expected;
        expected = expected.saturating_mul(n);
        matches
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::TensorSource;

    /// A file written by PyTorch (see tests/fixtures/make_torch_types.py).
    #[test]
    fn reads_a_file_written_by_pytorch() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/torch-types.bin");
        let tensors = open(&path).unwrap();
        let expected: [(&str, [usize; 2], usize); 6] = [
            ("f32", [6, 4], 0),
            ("f16", [3, 5], 0),
            ("bf16", [7, 1], 0),
            ("tied", [6, 4], 0),
            ("rows", [3, 4], 8),
            ("parameter", [2, 2], 0),
        ];
        assert_eq!(tensors.len(), expected.len(), "inv_freq is not a weight");
        for (tensor, (name, shape, first)) in tensors.iter().zip(expected) {
            assert_eq!((tensor.name().1, tensor.shape()), (name, shape));
            let n = shape[0] * shape[1];
            let mut got = vec![0.0; n];
            tensor.read_rows(0..shape[0], &mut got).unwrap();
            let value = |i: usize| (first + i) as f32 / 8.0 - 1.0;
            assert_eq!(got, (0..n).map(value).collect::<Vec<_>>(), "{name}");
        }
    }
}
