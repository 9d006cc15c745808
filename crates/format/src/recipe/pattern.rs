//! Exceptions to a recipe, by name.
//!
//! ```text
//! # the first layer and all values
//! layers.0.*   q5
//! *.attn_v     q8
//! output       q8
//! ```
//!
//! A line is a pattern and an encoding, in which `*` stands for any text; later lines win. Names are
//! those of roles, with `layers.N.` before those of a layer; `output` and `token_embd` both name a matrix
//! that is both.

use super::{MatrixShape, Recipe, RecipeError, label, matrices};
use crate::config::{Config, Quant};
use crate::role::Role;

impl Recipe {
    /// Changes encodings as the lines of `text` state.
    ///
    /// # Errors
    /// A line is not a pattern and an encoding, or its pattern matches no matrix of this model.
    pub fn apply(&mut self, text: &str, c: &Config) -> Result<(), RecipeError> {
        let mut encodings = self.encodings.clone();
        for (line, content) in (1..).zip(text.lines()) {
            let fail = |what: String| Err(RecipeError::Line { line, what });
            let content = content.split('#').next().unwrap_or("");
            let mut words = content.split_whitespace();
            let (pattern, name) = match (words.next(), words.next(), words.next()) {
                (None, ..) => continue,
                (Some(pattern), Some(name), None) => (pattern, name),
                _ => {
                    return fail(
                        "expected a pattern and an encoding, such as `*.attn_v q8`".into(),
                    );
                }
            };
            let Some(quant) = Quant::ALL.into_iter().find(|q| q.name() == name) else {
                let what = format!("unknown encoding {name:?}; use q8, q5, q4, q3, q2 or f32");
                return fail(what);
            };
            let matching = |m: &MatrixShape| names(m, c).iter().any(|n| matches(pattern, n));
            let mut found = false;
            for m in matrices(c).filter(matching) {
                encodings.insert((m.layer, m.role), quant.own_encoding());
                found = true;
            }
            if !found {
                return fail(format!("no matrix is named {pattern:?}; {}", examples(c)));
            }
        }
        if encodings != self.encodings {
            self.quant = label(c, &encodings);
            self.encodings = encodings;
        }
        Ok(())
    }
}

/// The names of a matrix.
fn names(m: &MatrixShape, c: &Config) -> Vec<String> {
    match m.layer {
        Some(layer) => vec![format!("layers.{layer}.{}", m.role.name())],
        None if c.tied_embeddings => {
            vec![Role::TokenEmbd.name().into(), Role::Output.name().into()]
        }
        None => vec![m.role.name().into()],
    }
}

/// What a pattern could have named.
fn examples(c: &Config) -> String {
    let mut roles: Vec<&str> = Vec::new();
    for m in matrices(c).filter(|m| m.layer.is_some()) {
        if !roles.contains(&m.role.name()) {
            roles.push(m.role.name());
        }
    }
    let layers = c.n_layers.saturating_sub(1);
    format!(
        "this model has token_embd, output, and in layers.0 to layers.{layers} {}",
        roles.join(", ")
    )
}

/// Whether `pattern`, in which `*` stands for any text, matches all of `name`.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(start) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let end = parts.pop().unwrap_or("");
    // The first place for each part in the middle leaves the most for those after it.
    for part in parts {
        let Some(at) = name.find(part) else { return false };
        name = &name[at + part.len()..];
    }
    name.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, name, expected) in [
            ("output", "output", true),
            ("output", "attn_output", false),
            ("*", "", true),
            ("*", "layers.0.attn_v", true),
            ("*.attn_v", "layers.11.attn_v", true),
            ("*.attn_v", "attn_v", false),
            ("layers.1*.ffn_*", "layers.12.ffn_up", true),
            ("layers.1.*", "layers.12.ffn_up", false),
            ("a*b*a", "aba", true),
            ("a*b*a", "ab", false),
            ("a*a", "a", false),
            ("**x**", "x", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
