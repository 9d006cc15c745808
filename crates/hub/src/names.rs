//! Checks and conversions of external names that become part of a local path.

/// Converts a display name to part of a file name: `org/name:a.gguf` becomes `org--name_a.gguf`.
pub(crate) fn safe_name(name: &str) -> String {
    let safe = |c: char| if is_name_char(c) { c } else { '_' };
    name.replace('/', "--").chars().take(80).map(safe).collect()
}

/// Whether `name` is safe as a path component: 1 to 200 ASCII letters, digits, `.`, `_` or `-`, and no
/// dot at the start.
pub(crate) fn is_bare_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 200
        && !name.starts_with('.')
        && name.chars().all(is_name_char)
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

/// Formats bytes as lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
