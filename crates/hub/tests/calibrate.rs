//! Conversions with calibration, from source to file.

use std::path::{Path, PathBuf};

use nanoinfer_hub::calibrate::{OwnText, Text};
use nanoinfer_hub::{ConvertOptions, ModelRef, Quant, Status, Store};

fn tiny(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/tiny").join(name)
}

/// The bytes of a converted model, and the messages.
fn convert(name: &str, quant: Quant, calibrate: Option<Text>) -> (Vec<u8>, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("model.nano");
    let mut options = ConvertOptions::new(quant);
    options.calibrate = calibrate;
    let mut messages = Vec::new();
    let mut status = |status: Status<'_>| {
        if let Status::Message(message) = status {
            messages.push(message.to_owned());
        }
    };
    let model = ModelRef::parse(tiny(name).to_str().unwrap()).unwrap();
    let store = Store::at(folder.path().join("cache"));
    store.convert(&model, &out, &options, None, &mut status).unwrap();
    let files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap()).collect();
    assert!(files.iter().all(|f| !f.file_name().to_str().unwrap().contains("tmp")), "{files:?}");
    (std::fs::read(&out).unwrap(), messages)
}

#[test]
fn a_calibrated_file_differs_only_by_its_text_and_seed() {
    let text = |seed| Some(Text::Own(OwnText { texts: 2, seed }));
    // Tied embeddings, an output matrix of its own, experts.
    for name in ["llama-gqa", "qwen2-bias", "mixtral-experts"] {
        let (calibrated, messages) = convert(name, Quant::Q4, text(0));
        assert!(messages.iter().any(|m| m.contains("calibrating")), "{messages:?}");
        assert!(calibrated == convert(name, Quant::Q4, text(0)).0, "{name}");
        let (plain, messages) = convert(name, Quant::Q4, None);
        assert!(!messages.iter().any(|m| m.contains("calibra")), "{messages:?}");
        // Codes have the same size; the description of the text is a line of its own.
        let said = b"\"calibrated\":\"2 texts written by the model, seed 0\"";
        let says = |file: &[u8]| file.windows(said.len()).any(|w| w == said);
        assert!(says(&calibrated) && !says(&plain), "{name}");
        assert!((0..=128).contains(&(calibrated.len() - plain.len())), "{name}");
        assert!(calibrated != plain && calibrated != convert(name, Quant::Q4, text(1)).0, "{name}");
    }
}

#[test]
fn eight_bits_need_no_calibration() {
    let (calibrated, messages) =
        convert("llama-gqa", Quant::Q8, Some(Text::Own(OwnText::default())));
    assert!(!messages.iter().any(|m| m.contains("calibra")), "{messages:?}");
    assert!(calibrated == convert("llama-gqa", Quant::Q8, None).0);
}

/// With 3 bits, layers see the errors of those before: a temporary model has one of them, whatever its kind.
#[test]
fn layers_of_any_kind_are_calibrated_behind_quantized_ones() {
    let text = || Some(Text::Own(OwnText { texts: 2, seed: 0 }));
    let hybrids = ["granite4-hybrid", "lfm2", "qwen3-next", "nemotron-h-experts", "falcon-h1"];
    let lists_by_layer = ["apertus", "ministral3", "cohere2", "mixtral-experts"];
    for name in hybrids.into_iter().chain(lists_by_layer) {
        let (calibrated, _) = convert(name, Quant::Q3, text());
        assert!(calibrated == convert(name, Quant::Q3, text()).0, "{name}");
        assert!(calibrated != convert(name, Quant::Q3, None).0, "{name}");
    }
}
