//! FORMAT.md suffices to write a reader: `tools/read_nano.py`, which shares no code with this project,
//! finds the same differences between a file and its source as `inspect --against`.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{json, nanoinfer, stderr, temp, tiny};

/// Relative errors of a tensor's weights, by its name and layer.
type Errors = BTreeMap<String, f64>;

#[test]
fn an_independent_reader_finds_the_same_weights() {
    let folder = temp();
    let source = tiny("llama-gqa");
    for (quant, least, most) in [
        ("f32", 0.0, 0.0),
        ("q8", 0.005, 0.01),
        ("q5", 0.005, 0.045),
        ("q4", 0.03, 0.09),
        ("q3", 0.03, 0.17),
        ("q2", 0.03, 0.33),
    ] {
        let file = folder.path().join(format!("{quant}.nano"));
        let mut convert = nanoinfer(&folder.path().join("home"));
        convert.arg("convert").arg("--model").arg(&source).arg("--out").arg(&file);
        convert.args(["--quant", quant]);
        if !["f32", "q8"].contains(&quant) {
            convert.args(["--calibrate", "none"]);
        }
        let output = convert.output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));

        let (read, expected) = (read(&file, &source), inspect(&file, &source));
        assert!(read.keys().eq(expected.keys()), "{read:?} {expected:?}");
        for (name, error) in &read {
            assert!((least..=most).contains(error), "{quant}, {name}: {error}");
            // The reader computes in f64, the engine in f32.
            let difference = (error - expected[name]).abs();
            assert!(difference <= 1e-5 * error, "{quant}, {name}: {error} {}", expected[name]);
        }
    }
}

fn read(file: &Path, source: &Path) -> Errors {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/read_nano.py");
    let mut python = std::process::Command::new("python3");
    let output = python.arg(script).arg(file).arg(source.join("model.safetensors")).output();
    let output = output.expect("python3 is installed");
    assert!(output.status.success(), "{}", stderr(&output));
    serde_json::from_value(json(&output)).unwrap()
}

fn inspect(file: &Path, source: &Path) -> Errors {
    let mut command = nanoinfer(file.parent().unwrap());
    command.arg("inspect").arg(file).arg("--against").arg(source).arg("--json");
    let shown = json(&command.output().unwrap());
    let mut errors = Errors::new();
    for tensor in shown["tensors"].as_array().unwrap() {
        if let Some(error) = tensor["relative_error"].as_f64() {
            let role = tensor["role"].as_str().unwrap();
            let layer = tensor["layer"].as_u64();
            errors.insert(layer.map_or(role.to_owned(), |layer| format!("{role} {layer}")), error);
        }
    }
    errors
}
