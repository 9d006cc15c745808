//! Linux reports its state in text files, most of them with `name: value` lines.

use std::fs;
use std::path::Path;

/// The contents of a file under `/proc` or `/sys`; `None` on other systems.
pub(crate) fn read(path: impl AsRef<Path>) -> Option<String> {
    if cfg!(target_os = "linux") { fs::read_to_string(path).ok() } else { None }
}

/// The trimmed value of the first line `name: value`.
pub(crate) fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
}

/// The value of a `name: value` line, converted to bytes from kB, which means KiB here.
pub(crate) fn bytes(text: &str, name: &str) -> Option<u64> {
    field(text, name)?.strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_fields_from_the_kernel() {
        let text = "processor\t: 0\nmodel name\t: A: B\nmodel name\t: C\nMemTotal:  5 kB\n";
        assert_eq!(field(text, "model name"), Some("A: B"));
        assert_eq!(field(text, "MemTotal"), Some("5 kB"));
        assert_eq!(field(text, "model"), None);
        assert_eq!(bytes(text, "MemTotal"), Some(5 << 10));
        assert_eq!(bytes(text, "model name"), None);
        assert_eq!(bytes("MemTotal: 18446744073709551615 kB", "MemTotal"), None);
    }
}
