//! The encodings of a file's matrices, by role.

use std::collections::BTreeMap;
use std::io::Write;

use nanoinfer_format::{NanoFile, Quant, matrices};
use serde_json::{Value, json};

/// The matrices of one role.
struct ByRole {
    role: &'static str,
    weights: u64,
    bytes: u64,
    /// Number of matrices in each encoding.
    encodings: BTreeMap<&'static str, usize>,
}

impl ByRole {
    /// Scales and padding included.
    fn bits(&self) -> f64 {
        8.0 * self.bytes as f64 / self.weights.max(1) as f64
    }
}

/// In file order.
fn by_role(file: &NanoFile) -> Vec<ByRole> {
    let (recipe, mut roles) = (file.recipe(), Vec::<ByRole>::new());
    for m in matrices(file.config()) {
        let (role, encoding) = (m.role.name(), recipe.encoding(m.layer, m.role));
        let at = roles.iter().position(|r| r.role == role).unwrap_or_else(|| {
            roles.push(ByRole { role, weights: 0, bytes: 0, encodings: BTreeMap::new() });
            roles.len() - 1
        });
        let entry = &mut roles[at];
        entry.weights += m.weights;
        entry.bytes += m.bytes(encoding);
        *entry
            .encodings
            .entry(Quant::of_encoding(encoding).map_or("?", Quant::name))
            .or_default() += 1;
    }
    roles
}

/// The fields that describe encodings.
pub(super) fn object(file: &NanoFile) -> Value {
    let bits = file.recipe().bits(file.config());
    let role = |r: ByRole| {
        let bits = r.bits();
        json!({ "role": r.role, "weights": r.weights, "bytes": r.bytes, "bits": bits,
                "encodings": r.encodings })
    };
    json!({
        "precision": file.precision(),
        "bits": { "layers": bits.layers, "read": bits.read },
        "calibrated": file.calibrated(),
        "source_weights": file.source_weights(),
        "matrices": by_role(file).into_iter().map(role).collect::<Vec<_>>(),
    })
}

/// The lines of a summary.
pub(super) fn summary(file: &NanoFile, out: &mut impl Write) -> std::io::Result<()> {
    let (recipe, safe) = (file.recipe(), nanoinfer_text::terminal_safe);
    let bits = recipe.bits(file.config());
    let precision = file.precision();
    writeln!(
        out,
        "precision     {}: {:.2} bits per weight in layers, {:.2} of all that a pass reads",
        safe(&precision),
        bits.layers,
        bits.read
    )?;
    if recipe.is_coded() {
        let text = file.calibrated();
        writeln!(out, "calibrated    {}", text.as_deref().map_or("no".into(), safe))?;
    }
    if let Some(format) = file.source_weights() {
        writeln!(out, "rounded       twice: the source has weights in {}", safe(&format))?;
    }
    Ok(())
}

/// A table of the roles.
pub(super) fn table(file: &NanoFile, out: &mut impl Write) -> std::io::Result<()> {
    writeln!(out, "\n{:<22} {:>12} {:>6}   encoding", "matrix", "weights", "bits")?;
    for r in by_role(file) {
        let several = r.encodings.len() > 1;
        let count = |(name, n): (&&str, &usize)| match several {
            true => format!("{name} ({n})"),
            false => (*name).to_owned(),
        };
        let encodings: Vec<String> = r.encodings.iter().map(count).collect();
        let (role, weights, bits) = (r.role, r.weights, r.bits());
        writeln!(out, "{role:<22} {weights:>12} {bits:>6.2}   {}", encodings.join(", "))?;
    }
    Ok(())
}
