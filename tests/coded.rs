//! Conversions to less than 8 bits with the real binary.

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
        (["--quant", "q8", "--calibrate", "none"], "applies to less than 8 bits"),
    ] {
        let mut command = nanoinfer(&folder.path().join("home"));
        command.arg("convert").arg("--model").arg(&model).args(options);
        let output = command.arg("--out").arg(folder.path().join("m.nano")).output().unwrap();
        assert_fails(&output, 1, &[part]);
        assert!(!folder.path().join("m.nano").exists());
    }
}

fn bits(inspected: &serde_json::Value) -> f64 {
    inspected["bits"]["read"].as_f64().unwrap()
}

fn inspect(folder: &Path) -> serde_json::Value {
    let mut command = nanoinfer(&folder.join("home"));
    json(&command.args(["inspect", "--json"]).arg(folder.join("out.nano")).output().unwrap())
}

#[test]
fn a_number_of_bits_is_an_upper_limit() {
    let folder = temp();
    let model = talking(folder.path(), None);
    let mut last = 0.0;
    for asked in ["3.6", "4.5", "5.25", "7"] {
        let options = ["--quant", asked, "--calibrate", "none"];
        let (_, messages) = convert(folder.path(), &model, &options);
        assert!(
            messages.contains(&format!("to {:.2}", asked.parse::<f64>().unwrap())),
            "{messages}"
        );
        let shown = inspect(folder.path());
        assert!(bits(&shown) <= asked.parse().unwrap() && bits(&shown) > last, "{asked}: {shown}");
        assert_eq!(shown["precision"], format!("{:.2}", asked.parse::<f64>().unwrap()));
        last = bits(&shown);
    }
    let mut command = nanoinfer(&folder.path().join("home"));
    command.arg("convert").arg("--model").arg(&model).args(["--quant", "1.25", "--out"]);
    let output = command.arg(folder.path().join("none.nano")).output().unwrap();
    assert_fails(&output, 1, &["1.25 bits per weight: this model can have "]);
}

#[test]
fn a_recipe_changes_single_matrices() {
    let folder = temp();
    let model = talking(folder.path(), None);
    let recipe = folder.path().join("recipe.txt");
    let write = |text: &str| std::fs::write(&recipe, text).unwrap();
    write("# values\n*.attn_v f32\nlayers.0.ffn_up q5\n");
    let path = recipe.to_str().unwrap();
    let options = ["--quant", "q4", "--calibrate", "none", "--recipe", path];
    let (with, messages) = convert(folder.path(), &model, &options);
    assert!(messages.contains("to q4 with exceptions"), "{messages}");
    let shown = inspect(folder.path());
    assert_eq!((&shown["precision"], &shown["config"]["quant"]), (&"recipe".into(), &"q4".into()));
    let encodings = |role: &str| {
        let tensors = shown["tensors"].as_array().unwrap().iter();
        let parts = tensors.flat_map(|t| t["parts"].as_array().unwrap());
        let parts = parts.filter(|p| p["role"] == role);
        parts.map(|p| p["encoding"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert!(encodings("attn_v").iter().all(|e| e == "f32 panel"), "{shown}");
    assert_eq!(encodings("ffn_up")[..2], ["q5 panel", "q4 panel"]);
    let out = folder.path().join("out.nano");
    let verified = nanoinfer(&folder.path().join("home")).arg("verify").arg(&out).output().unwrap();
    assert!(verified.status.success(), "{}", stderr(&verified));

    // A recipe that changes nothing yields the same file as none.
    write("*.attn_v q5\n");
    let same = convert(folder.path(), &model, &options).0;
    assert!(same == convert(folder.path(), &model, &options[..4]).0 && same != with);

    write("*.attn_v q8\n*.attn_w q8\n");
    let mut command = nanoinfer(&folder.path().join("home"));
    command.arg("convert").arg("--model").arg(&model).args(options).arg("--out").arg(&out);
    let output = command.output().unwrap();
    assert_fails(&output, 1, &["recipe.txt: line 2: no matrix is named \"*.attn_w\""]);
}

/// The kinds of the conversions in the cache.
fn cached(home: &Path) -> Vec<String> {
    let list = json(&nanoinfer(home).args(["models", "--json"]).output().unwrap());
    let mut kinds: Vec<_> =
        list.as_array().unwrap().iter().map(|e| e["kind"].as_str().unwrap().to_owned()).collect();
    kinds.sort();
    kinds
}

#[test]
fn commands_choose_among_cached_precisions() {
    let folder = temp();
    let (home, model) = (folder.path().join("home"), talking(folder.path(), None));
    let generate = |options: &[&str]| {
        let mut command = nanoinfer(&home);
        command.args(["generate", "--prompt", "a", "-n", "2", "--model"]).arg(&model);
        command.args(options).output().unwrap()
    };
    let converts = |options: &[&str]| {
        let output = generate(options);
        assert!(output.status.success(), "{}", stderr(&output));
        stderr(&output).contains("converting")
    };
    // What is there is used, until another precision is asked for.
    assert!(converts(&["--quant", "q4"]));
    assert!(!converts(&[]) && !converts(&["--quant", "q4"]) && !converts(&["--quant", "auto"]));
    assert!(converts(&["--quant", "4.50"]) && !converts(&["--quant", "4.5"]));
    assert_eq!(cached(&home), ["4.50", "q4"]);
    let output = generate(&["--quant", "q8"]);
    let hint = format!("convert --model {} --quant q4", model.display());
    assert!(stderr(&output).contains(&hint), "{}", stderr(&output));
    assert_eq!(cached(&home), ["4.50", "q4", "q8"]);
    assert!(!converts(&[]));

    let mut command = nanoinfer(&home);
    command.args(["tokenize", "--text", "a", "--quant", "q3", "--model"]).arg(&model);
    assert!(command.output().unwrap().status.success());
    assert_eq!(cached(&home), ["4.50", "q3", "q4", "q8"]);
    for bad in ["q7", "0", "4,5"] {
        assert_fails(&generate(&["--quant", bad]), 2, &["--quant", "such as 4.25"]);
    }
}

#[test]
fn a_file_of_another_precision_is_an_error() {
    let folder = temp();
    let model = talking(folder.path(), None);
    convert(folder.path(), &model, &["--quant", "q5", "--calibrate", "none"]);
    let out = folder.path().join("out.nano");
    for (precision, fits) in [("auto", true), ("q5", true), ("q8", false), ("5", false)] {
        let mut command = nanoinfer(&folder.path().join("home"));
        command.args(["generate", "--prompt", "a", "-n", "2", "--quant", precision, "--model"]);
        let output = command.arg(&out).output().unwrap();
        if fits {
            assert!(output.status.success(), "{}", stderr(&output));
        } else {
            assert_fails(&output, 1, &["has the precision q5, not ", "--quant"]);
        }
    }
}
