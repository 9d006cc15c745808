//! Finds the model that a path refers to.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::hf::{self, Settings};
use crate::source::SourceFile;
use crate::{Error, foreign, gguf_files};

/// Checks that a file is a GGUF file, or at least claims to be one: its reader reports what is damaged.
///
/// # Errors
/// The file is of another kind, which the error names.
pub(crate) fn file(path: &Path) -> Result<(), Error> {
    let file = SourceFile::open(path)?;
    let head = file.head()?;
    if head.starts_with(b"GGUF") {
        return Ok(());
    }
    match foreign::file(path, &head) {
        Some(what) => Err(Error::source(path, what)),
        None if is_gguf(path) => Ok(()),
        None => {
            let what = "is neither a Hugging Face model folder nor a GGUF file";
            Err(Error::source(path, what))
        }
    }
}

/// The snapshot of `main` if `path` is a model's folder in the hub's cache, or the `snapshots` in it;
/// without a `main`, the only snapshot.
pub(crate) fn snapshot(path: &Path) -> Result<Option<PathBuf>, Error> {
    if path.join("config.json").exists() {
        return Ok(None);
    }
    let model = match path.file_name() {
        Some(name) if name == "snapshots" => path.parent().unwrap_or(path),
        _ => path,
    };
    let snapshots = model.join("snapshots");
    if !snapshots.is_dir() {
        return Ok(None);
    }
    if let Some(commit) = commit(&model.join("refs/main"))
        && snapshots.join(&commit).is_dir()
    {
        return Ok(Some(snapshots.join(commit)));
    }
    match names_in(&snapshots)?.as_slice() {
        [only] => Ok(Some(snapshots.join(only))),
        [] => {
            let what =
                "is a folder of the hub's cache without a snapshot; download the model again";
            Err(Error::source(path, what))
        }
        several => {
            let what =
                "is a folder of the hub's cache with several snapshots, none of which is main";
            let what = format!("{what}; pass one of them: {}", foreign::list(several));
            Err(Error::source(&snapshots, what))
        }
    }
}

/// The commit in a file of `refs`, if it can be the name of a folder.
fn commit(reference: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(reference).ok()?.take(200).read_to_string(&mut text).ok()?;
    let commit = text.trim();
    let bare = !commit.is_empty() && commit.bytes().all(|b| b.is_ascii_alphanumeric());
    bare.then(|| commit.to_owned())
}

/// The GGUF model in a folder without another model; `None` if the folder may be a Hugging Face folder.
///
/// # Errors
/// The folder holds several GGUF models, or is of another kind, which the error names.
pub(crate) fn gguf_in(folder: &Path) -> Result<Option<PathBuf>, Error> {
    if hf::has_weights(folder) && folder.join("config.json").exists() {
        return Ok(None);
    }
    let names = names_in(folder)?;
    let adapter = folder.join("adapter_config.json");
    if adapter.exists() {
        let base = Settings::read(&adapter)?.str("base_model_name_or_path")?.map(str::to_owned);
        return Err(Error::Adapter { path: folder.into(), base });
    }
    let ggufs = names.iter().map(|name| folder.join(name)).filter(|p| is_gguf(p));
    let firsts: BTreeSet<PathBuf> = ggufs.map(|path| gguf_files(&path).swap_remove(0)).collect();
    // A vision encoder is stored beside the model that it belongs to.
    let (encoders, models): (Vec<_>, Vec<_>) = firsts
        .into_iter()
        .partition(|p| p.file_name().is_some_and(|n| n.to_string_lossy().contains("mmproj")));
    let models = if models.is_empty() { encoders } else { models };
    let named =
        |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match models.as_slice() {
        [one] => return Ok(Some(one.clone())),
        [] => {}
        several => {
            let names: Vec<String> = several.iter().map(named).collect();
            let (n, names) = (names.len(), foreign::list(&names));
            let what = format!("holds {n} GGUF models; pass one of them: {names}");
            return Err(Error::source(folder, what));
        }
    }
    let caches: Vec<&String> = names.iter().filter(|n| n.starts_with("models--")).collect();
    if !caches.is_empty() {
        let what = format!("is a cache of models; pass one of them: {}", foreign::list(&caches));
        return Err(Error::source(folder, what));
    }
    match foreign::folder(folder, &names) {
        Some(what) => Err(Error::source(folder, what)),
        None => Ok(None),
    }
}

fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"))
}

/// The names of all entries of a folder, sorted.
fn names_in(folder: &Path) -> Result<Vec<String>, Error> {
    let entries = fs::read_dir(folder).map_err(Error::io(folder, "cannot list"))?;
    let names = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
    names.sort();
    Ok(names)
}
