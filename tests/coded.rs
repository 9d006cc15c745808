//! Conversions to 5, 4, 3 and 2 bits with the real binary.

mod common;

use std::path::Path;

use common::{assert_fails, json, nanoinfer, stderr, stdout, talking, temp};

/// Converts `model` in `folder`; returns the file's bytes and the messages.
fn convert(folder: &Path, model: &Path, options: &[&str]) -> (Vec<u8>, String) {
    let out = folder.join("out.nano");
    let mut command = nanoinfer(&folder.join("home"));
    command.arg("convert").arg("--model").arg(model).arg("--out").arg(&out).args(options);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    (std::fs::read(&out).unwrap(), stderr(&output))
}

#[test]
fn fewer_bits_make_smaller_files_that_answer() {
    let folder = temp();
    let model = talking(folder.path(), None);
    let mut sizes = Vec::new();
    for quant in ["q8", "q5", "q4", "q3", "q2"] {
        let options = ["--quant", quant, "--calibrate", "none"];
        let options = if quant == "q8" { &options[..2] } else { &options[..] };
        sizes.push(convert(folder.path(), &model, options).0.len());
        let run = |arguments: &[&str]| {
            let mut command = nanoinfer(&folder.path().join("home"));
            command.args(arguments).output().unwrap()
        };
        let out = folder.path().join("out.nano");
        let out = out.to_str().unwrap();
        let verified = run(&["verify", out]);
        assert!(verified.status.success(), "{quant}: {}", stderr(&verified));
        let answer =
            json(&run(&["generate", "--model", out, "--prompt", "a", "-n", "5", "--json"]));
        assert_eq!(answer["tokens"].as_array().unwrap().len(), 5, "{quant}");
        let shown = stdout(&run(&["inspect", out]));
        assert!(shown.contains(quant), "{shown}");
    }
    assert!(sizes.is_sorted_by(|a, b| a > b), "{sizes:?}");
}

#[test]
fn text_for_calibration_can_be_given() {
    let folder = temp();
    let model = talking(folder.path(), None);
    let text = folder.path().join("text.txt");
    std::fs::write(&text, "The quick brown fox jumps over the lazy dog. ".repeat(30)).unwrap();
    let text = text.to_str().unwrap();
    let q4 = |calibrate| {
        let options = ["--quant", "q4", "--calibrate", calibrate];
        convert(folder.path(), &model, &options)
    };
    let (calibrated, messages) = q4(text);
    assert!(messages.contains("calibrating on the given text"), "{messages}");
    let (plain, messages) = q4("none");
    assert!(!messages.contains("calibrat"), "{messages}");
    assert!(calibrated != plain && calibrated == q4(text).0);
}

#[test]
fn unsuitable_texts_for_calibration_are_errors() {
    let folder = temp();
    let model = talking(folder.path(), None);
    let empty = folder.path().join("empty.txt");
    std::fs::write(&empty, " \n").unwrap();
    let missing = folder.path().join("missing.txt");
    let empty = empty.to_str().unwrap();
    for (options, part) in [
        (["--quant", "q4", "--calibrate", empty], "is empty"),
        (["--quant", "q4", "--calibrate", missing.to_str().unwrap()], "cannot open"),
        (["--quant", "q8", "--calibrate", "none"], "q5, q4, q3 and q2 only"),
    ] {
        let mut command = nanoinfer(&folder.path().join("home"));
        command.arg("convert").arg("--model").arg(&model).args(options);
        let output = command.arg("--out").arg(folder.path().join("m.nano")).output().unwrap();
        assert_fails(&output, 1, &[part]);
        assert!(!folder.path().join("m.nano").exists());
    }
}
