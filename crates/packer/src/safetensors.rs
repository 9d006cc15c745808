//! A validating reader for safetensors headers (<https://github.com/huggingface/safetensors>).
//!
//! File layout: the length of a JSON header as u64, the header, then the tensors' bytes without
//! gaps. The published crate needs the whole file in memory and silently keeps the last of two
//! tensors with the same name; this reader needs only the header and rejects duplicates.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::Error;
use crate::dequant::Dtype;
use crate::source::checks::{check_overlaps, is_ignored};
use crate::source::{FileTensor, SourceFile, TensorSource};

/// Maximum header length, as in the published crate.
const MAX_HEADER: u64 = 100_000_000;

#[derive(Deserialize)]
struct Info {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// The header's entries in file order, including duplicates.
struct Entries(Vec<(String, Info)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        entries.push((name, map.next_value()?));
                    }
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(V)
    }
}

/// Opens a file and returns its tensors, whose byte ranges lie within the file and do not overlap.
pub(crate) fn open(path: &Path) -> Result<Vec<FileTensor>, Error> {
    let file = Arc::new(SourceFile::open(path)?);
    let damaged = |what: String| Error::source(path, format!("damaged safetensors file: {what}"));
    if file.len < 8 {
        return Err(damaged(format!("only {} bytes long; is it complete?", file.len)));
    }
    let mut length = [0; 8];
    file.read_at(0, &mut length)?;
    let header_len = u64::from_le_bytes(length);
    if header_len > MAX_HEADER || header_len > file.len - 8 {
        let what = format!("a header of {header_len} bytes in a file of {}", file.len);
        return Err(damaged(format!("{what}; is it complete?")));
    }
    let mut header = vec![0; header_len as usize];
    file.read_at(8, &mut header)?;
    let Entries(entries) =
        serde_json::from_slice(&header).map_err(|e| damaged(format!("header: {e}")))?;
    let data = 8 + header_len;
    let mut tensors = Vec::with_capacity(entries.len());
    for (name, info) in &entries {
        if !is_ignored(name) {
            tensors.push(tensor(&file, name, info, data)?);
        }
    }
    check_overlaps(path, tensors.iter())?;
    let mut names: Vec<_> = tensors.iter().map(|t| t.name().1).collect();
    names.sort_unstable();
    match names.windows(2).find(|w| w[0] == w[1]) {
        Some(w) => Err(damaged(format!("tensor {:?} appears twice", w[0]))),
        None => Ok(tensors),
    }
}

fn tensor(file: &Arc<SourceFile>, name: &str, info: &Info, data: u64) -> Result<FileTensor, Error> {
    let fail = |what: String| Error::Tensor { path: file.path.clone(), tensor: name.into(), what };
    let dtype = Dtype::from_safetensors(&info.dtype).ok_or_else(|| {
        fail(format!("has type {:?}, expected F32, F16, BF16 or F64", info.dtype))
    })?;
    let (begin, end) = info.data_offsets;
    let (Some(len), Some(offset)) = (end.checked_sub(begin), data.checked_add(begin)) else {
        return Err(fail(format!("has the invalid byte range {begin}..{end}")));
    };
    FileTensor::new(file, name, dtype, &info.shape, offset, Some(len))
}
