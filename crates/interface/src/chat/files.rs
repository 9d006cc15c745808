//! Files of saved conversations.

use std::path::Path;

use super::messages;

/// Maximum size of a file for `/load`, in bytes.
const MAX_FILE: u64 = 64 << 20;

pub(crate) fn read(path: &Path) -> Result<String, String> {
    let meta = std::fs::metadata(path).map_err(|e| e.to_string())?;
    if meta.len() > MAX_FILE {
        return Err(messages::file_too_long(MAX_FILE >> 20));
    }
    std::fs::read_to_string(path).map_err(|e| e.to_string())
}
