//! What a calibrated conversion to fewer bits would gain.

use std::ffi::OsStr;
use std::path::Path;

use nanoinfer_engine::default_threads;
use nanoinfer_format::{Config, Encoding, NanoFile, Quant, Recipe, matrices};
use nanoinfer_kernels::{Isa, Kernels};

/// Seconds to search the codes of a weight, and the same per input of its row.
const SEARCH: [f64; 2] = [2.0e-7, 1.0e-10];
/// Seconds per weight and token of calibration: writing, passing it twice, and summing what it multiplies.
const PASS: f64 = 2.6e-11;
/// Texts of the default calibration, in tokens.
const TOKENS: f64 = 64.0 * 512.0;

/// What `convert --quant q4` would gain over `file`, a conversion of the model that the user calls `name`, and
/// about how long it would take here. `None` if it gains nothing.
pub(crate) fn smaller(name: &OsStr, file: &Path) -> Option<String> {
    let file = NanoFile::open(file).ok()?;
    let (config, stored) = (file.config(), file.recipe());
    let q4 = Recipe::of(Quant::Q4, config);
    let [now, then] = [&stored, &q4].map(|recipe| recipe.bytes(config));
    let gain = if then < now / 10 * 9 {
        let percent = 100 - 100 * then / now.max(1);
        format!("a file {percent} % smaller, which is faster and nearly as accurate")
    } else if stored.is_coded() && file.calibrated().is_none() {
        "one with smaller errors, by calibration".to_owned()
    } else {
        return None;
    };
    let time = minutes(seconds(config, &q4));
    Some(format!(
        "`nanoinfer convert --model {} --quant q4 --out FILE.nano` makes {gain}, in about {time}",
        name.display()
    ))
}

/// Expected duration of a calibrated conversion, from measurements with AVX-512.
fn seconds(config: &Config, recipe: &Recipe) -> f64 {
    let (mut search, mut weights) = (0.0, 0.0);
    for m in matrices(config) {
        weights += m.weights as f64;
        if recipe.encoding(m.layer, m.role) != Encoding::Q8Panel {
            search += m.weights as f64 * (SEARCH[0] + SEARCH[1] * m.k as f64);
        }
    }
    let slower = match Kernels::best().isa() {
        Isa::Scalar => 20.0,
        Isa::Avx2 | Isa::AvxVnni => 2.0,
        _ => 1.0,
    };
    (search + weights * TOKENS * PASS) * slower / default_threads() as f64
}

/// A duration in words.
fn minutes(seconds: f64) -> String {
    match (seconds / 60.0).ceil() as u64 {
        0 | 1 => "a minute".into(),
        minutes @ 2..=90 => format!("{minutes} minutes"),
        minutes => format!("{} hours", minutes.div_ceil(60)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_rounded_up() {
        for (seconds, words) in
            [(0.0, "a minute"), (61.0, "2 minutes"), (5400.0, "90 minutes"), (5500.0, "2 hours")]
        {
            assert_eq!(minutes(seconds), words);
        }
    }
}
