//! GGUF models split into several files, `NAME-00001-of-00003.gguf` and so on.
//!
//! The first file contains the metadata; each file contains some of the tensors (llama.cpp's
//! `gguf-split`). Files are found by name; their keys `split.no`, `split.count` and
//! `split.tensors.count` must confirm that they belong together.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::file::Gguf;
use super::metadata::Metadata;
use crate::Error;
use crate::source::TensorSource;

/// `(NAME, number of files)` from a file name like `NAME-00001-of-00003.gguf`.
fn parse(name: &str) -> Option<(&str, u32)> {
    let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let five = |digits: &str| {
        let right = digits.len() == 5 && digits.bytes().all(|b| b.is_ascii_digit());
        right.then(|| digits.parse::<u32>().ok()).flatten()
    };
    let (number, count) = (five(number)?, five(count)?);
    (1..=count).contains(&number).then_some((stem, count))
}

/// The files of the GGUF model that `path` belongs to, derived from the file name; only `path` if
/// the model is not split.
pub fn files(path: &Path) -> Vec<PathBuf> {
    let name = path.file_name().and_then(|n| n.to_str()).and_then(parse);
    let Some((stem, count)) = name else { return vec![path.into()] };
    let part = |i| path.with_file_name(format!("{stem}-{i:05}-of-{count:05}.gguf"));
    (1..=count).map(part).collect()
}

/// Opens a model, including all its files if it is split; `path` can be any of them.
pub(crate) fn open(path: &Path) -> Result<Gguf, Error> {
    let files = files(path);
    let mut whole = Gguf::open(&files[0])?;
    let count = whole.metadata.u32("split.count")?.unwrap_or(1).max(1);
    if count as usize != files.len() {
        let what = format!(
            "is {count}, but the file name implies {}; keep the names under which the files were \
             published, such as NAME-00001-of-{count:05}.gguf",
            files.len()
        );
        return Err(whole.metadata.error("split.count", what));
    }
    for (i, file) in files.iter().enumerate().skip(1) {
        let part = Gguf::open(file)?;
        check(&part.metadata, "split.count", count)?;
        check(&part.metadata, "split.no", i as u32)?;
        whole.tensors.extend(part.tensors);
    }
    if count > 1 {
        check(&whole.metadata, "split.no", 0)?;
        check(&whole.metadata, "split.tensors.count", whole.tensors.len() as u32)?;
    }
    let mut names = HashSet::new();
    if let Some(twice) = whole.tensors.iter().map(TensorSource::name).find(|n| !names.insert(n.1)) {
        let what = "appears in two files of the model".into();
        return Err(Error::Tensor { path: twice.0.into(), tensor: twice.1.into(), what });
    }
    whole.files = files;
    Ok(whole)
}

/// Checks a key that identifies a file as part of the model.
fn check(part: &Metadata, key: &str, expected: u32) -> Result<(), Error> {
    match part.u32(key)? {
        Some(v) if v == expected => Ok(()),
        Some(v) => Err(part
            .error(key, format!("is {v}, expected {expected}; the files do not belong together"))),
        None => Err(part.error(key, "is missing; the files do not belong together")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_split_files() {
        let all = files(Path::new("/x/a-b-00002-of-00003.gguf"));
        let names =
            ["a-b-00001-of-00003.gguf", "a-b-00002-of-00003.gguf", "a-b-00003-of-00003.gguf"];
        assert_eq!(all, names.map(|n| Path::new("/x").join(n)));
        for other in [
            "a.gguf",
            "a-00001-of-00003",
            "a-00000-of-00003.gguf",
            "a-00004-of-00003.gguf",
            "a-1-of-3.gguf",
            "a-+0001-of-00003.gguf",
            "-of-.gguf",
            "00001-of-00001.gguf",
        ] {
            assert_eq!(files(Path::new(other)), [Path::new(other)], "{other}");
        }
    }
}
