//! What the cache knows of its entries besides their contents: the source, and the last use.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nanoinfer_format::{NanoFile, Precision, SectionKind};
use nanoinfer_platform::file::{Readers, temp_in};
use serde::{Deserialize, Serialize};

use super::Store;

/// A file in `uses`; its modification time is the time of the last use.
#[derive(Serialize, Deserialize)]
struct Use {
    source: String,
}

/// The part of a `.nano` file's provenance that is read here.
#[derive(Deserialize)]
struct Provenance {
    source: Option<String>,
}

impl Store {
    fn use_of(&self, nano: &Path) -> PathBuf {
        self.root.join("uses").join(nano.file_name().unwrap_or_default()).with_extension("json")
    }

    /// Records that an entry is used now, and its source. A failure is harmless: the folder may be
    /// read-only.
    pub(super) fn record_use(&self, nano: &Path, source: Option<&str>) {
        let path = self.use_of(nano);
        let known = File::options().write(true).open(&path);
        match (known, source) {
            (Ok(file), _) => _ = file.set_modified(SystemTime::now()),
            (Err(_), Some(source)) => _ = create(&path, source),
            (Err(_), None) => {}
        }
    }

    /// The source of an entry, if it is known: entries of earlier versions state only where a published
    /// model was downloaded from.
    pub(super) fn source_of(&self, nano: &Path) -> Option<String> {
        let bytes = fs::read(self.use_of(nano)).ok();
        if let Some(known) = bytes.and_then(|b| serde_json::from_slice::<Use>(&b).ok()) {
            return Some(known.source);
        }
        let nano = NanoFile::open(nano).ok()?;
        let (_, json) = nano.section(SectionKind::Provenance)?;
        let origin = serde_json::from_slice::<Provenance>(json).ok()?.source?;
        Some(origin.rsplit_once('@').map_or(origin.as_str(), |(id, _)| id).to_owned())
    }

    /// The time of an entry's last use, if one was recorded.
    pub(super) fn last_use(&self, nano: &Path) -> Option<SystemTime> {
        fs::metadata(self.use_of(nano)).ok()?.modified().ok()
    }

    pub(super) fn forget(&self, nano: &Path) {
        let _ = fs::remove_file(self.use_of(nano));
    }

    /// Removes the conversions of earlier versions of a source. A process that has one mapped keeps it;
    /// where such a file cannot be removed, it remains.
    pub(super) fn remove_earlier(&self, nano: &Path, source: &str, quant: Precision) {
        let quant = quant.to_string();
        for entry in self.list().unwrap_or_default() {
            let earlier = entry.source == source && entry.kind == quant && entry.path != nano;
            if earlier && fs::remove_file(&entry.path).is_ok() {
                self.forget(&entry.path);
            }
        }
    }
}

fn create(path: &Path, source: &str) -> std::io::Result<()> {
    let folder = path.parent().expect("a file in a folder");
    fs::create_dir_all(folder)?;
    let mut temp = temp_in(folder, ".use-", Readers::Umask)?;
    temp.write_all(&serde_json::to_vec(&Use { source: source.to_owned() })?)?;
    temp.persist(path)?;
    Ok(())
}
