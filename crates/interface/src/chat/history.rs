//! History of sent messages, kept in a file between runs.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;

use nanoinfer_platform::file::for_owner;

/// Number of messages kept when the file is trimmed.
const KEPT: usize = 1000;

/// Sent messages, newest last.
#[derive(Debug, Default)]
pub(crate) struct History {
    entries: Vec<String>,
    file: Option<PathBuf>,
    /// Index of the entry shown in the input, and the draft it replaced.
    browsing: Option<(usize, String)>,
}

impl History {
    /// Reads the file, one JSON string per line; invalid lines are skipped. Without a file, the
    /// history lasts only as long as the process.
    pub(crate) fn open(file: Option<PathBuf>) -> Self {
        let text = file.as_ref().and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
        let entries = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Self { entries, file, browsing: None }
    }

    /// Adds a message, unless it equals the previous one.
    ///
    /// # Errors
    /// The file cannot be written; the entry is still kept for this run.
    pub(crate) fn push(&mut self, text: &str) -> io::Result<()> {
        self.browsing = None;
        if self.entries.last().is_some_and(|last| last == text) {
            return Ok(());
        }
        self.entries.push(text.to_owned());
        let Some(path) = &self.file else { return Ok(()) };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        // Rewritten only at twice the limit, so that most messages are appended.
        let grown = self.entries.len() > 2 * KEPT;
        if grown {
            self.entries.drain(..self.entries.len() - KEPT);
        }
        let lines = if grown { &self.entries[..] } else { &self.entries[self.entries.len() - 1..] };
        let mut options = OpenOptions::new();
        options.create(true).append(!grown).write(true).truncate(grown);
        let mut text = String::new();
        for line in lines {
            text.push_str(&serde_json::to_string(line)?);
            text.push('\n');
        }
        for_owner(&mut options).open(path)?.write_all(text.as_bytes())
    }

    /// The entry before the one shown; `draft` is the current input.
    pub(crate) fn older(&mut self, draft: &str) -> Option<&str> {
        let at = self.browsing.as_ref().map_or(self.entries.len(), |(at, _)| *at).checked_sub(1)?;
        let draft = self.browsing.take().map_or_else(|| draft.to_owned(), |(_, draft)| draft);
        self.browsing = Some((at, draft));
        self.entries.get(at).map(String::as_str)
    }

    /// The entry after the one shown, or the draft after the newest entry.
    pub(crate) fn newer(&mut self) -> Option<String> {
        let (at, draft) = self.browsing.take()?;
        match self.entries.get(at + 1) {
            Some(entry) => {
                self.browsing = Some((at + 1, draft));
                Some(entry.clone())
            }
            None => Some(draft),
        }
    }

    /// The newest entry before index `before` that contains `query`, ignoring case.
    pub(crate) fn search(&self, query: &str, before: usize) -> Option<(usize, &str)> {
        let query = query.to_lowercase();
        let older = self.entries[..before.min(self.entries.len())].iter().enumerate().rev();
        let found = older.into_iter().find(|(_, entry)| entry.to_lowercase().contains(&query));
        found.map(|(at, entry)| (at, entry.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_persists_and_is_bounded() {
        let folder = std::env::temp_dir().join(format!("nanoinfer-history-{}", std::process::id()));
        let file = folder.join("deep/history");
        let mut history = History::open(Some(file.clone()));
        history.push("first\nline two").unwrap();
        history.push("second").unwrap();
        history.push("second").unwrap();
        let again = History::open(Some(file.clone()));
        assert_eq!(again.entries, ["first\nline two", "second"]);
        let mut history = again;
        for i in 0..2 * KEPT {
            history.push(&format!("entry {i}")).unwrap();
        }
        let entries = History::open(Some(file)).entries;
        assert!((KEPT..=2 * KEPT).contains(&entries.len()));
        assert_eq!(entries.last().unwrap(), &format!("entry {}", 2 * KEPT - 1));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn browsing_returns_to_the_draft() {
        let mut history = History::default();
        assert_eq!(history.older("draft"), None);
        history.push("a").unwrap();
        history.push("b").unwrap();
        assert_eq!(history.older("draft"), Some("b"));
        assert_eq!(history.older("b"), Some("a"));
        assert_eq!(history.older("a"), None);
        assert_eq!(history.newer().as_deref(), Some("b"));
        assert_eq!(history.newer().as_deref(), Some("draft"));
        assert_eq!(history.newer(), None);
    }

    #[test]
    fn search_finds_the_newest_match_first() {
        let mut history = History::default();
        for text in ["Why is the sky blue?", "Hello", "why not"] {
            history.push(text).unwrap();
        }
        assert_eq!(history.search("why", usize::MAX), Some((2, "why not")));
        assert_eq!(history.search("WHY", 2), Some((0, "Why is the sky blue?")));
        assert_eq!(history.search("why", 0), None);
        assert_eq!(history.search("none", usize::MAX), None);
    }
}
