//! The JSON files of a Hugging Face folder, in old and new formats.

mod common;

use common::{Shape, byte_level, refused};
use nanoinfer_format::{Generation, NanoFile, Role, SectionKind};
use nanoinfer_packer::{Input, Options, Quant, convert};
use serde_json::{Value, json};
use tempfile::TempDir;

const SMALL: Shape =
    Shape { d: 20, ff: 30, heads: 2, kv: 1, head_dim: 6, vocab: 17, layers: 2, tied: false };

/// A valid folder with additional `files` and some settings of `config.json` replaced, or deleted
/// if the new value is "removed".
fn folder(settings: Value, files: &[(&str, String)]) -> (TempDir, Input) {
    let dir = tempfile::tempdir().unwrap();
    SMALL.write(dir.path(), &SMALL.weights());
    let mut config = SMALL.config();
    for (key, value) in settings.as_object().unwrap() {
        config[key] = value.clone();
    }
    config.as_object_mut().unwrap().retain(|_, v| v != "removed");
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let input = Input::Folder(dir.path().into());
    (dir, input)
}

fn converted(settings: Value, files: &[(&str, String)]) -> NanoFile {
    let (dir, input) = folder(settings, files);
    let out = dir.path().join("m.nano");
    convert(&input, &out, Options::new(Quant::Q8)).unwrap();
    let nano = NanoFile::open(&out).unwrap();
    nano.verify().unwrap();
    nano
}

fn turns(nano: &NanoFile) -> Vec<u64> {
    nano.u64s(nano.tensor(Role::RopeTurns, None).unwrap()).to_vec()
}

#[test]
fn rope_settings_in_both_formats() {
    let scaled = |kind: &str| {
        json!({kind: "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64})
    };
    let old = converted(json!({"rope_theta": 5e5, "rope_scaling": scaled("type")}), &[]);
    let mut parameters = scaled("rope_type");
    parameters["rope_theta"] = json!(5e5);
    let new = converted(json!({"rope_theta": "removed", "rope_parameters": parameters}), &[]);
    assert_eq!(turns(&old), turns(&new));
    assert_eq!((old.config().rope_theta, new.config().rope_theta), (5e5, 5e5));
    let plain = converted(json!({"rope_theta": 5e5, "rope_scaling": null}), &[]);
    assert_eq!(turns(&old)[0], turns(&plain)[0], "high frequencies are kept");
    assert_eq!(turns(&old)[2], turns(&plain)[2] / 8, "low frequencies are divided");
    let linear = json!({"rope_scaling": {"rope_type": "linear", "factor": 2.0}});
    assert_eq!(turns(&converted(linear, &[]))[0], turns(&plain)[0] / 2);
    let default = converted(json!({"rope_theta": "removed"}), &[]);
    assert_eq!(default.config().rope_theta, 10000.0);
}

#[test]
fn defaults_match_transformers() {
    let absent = json!({
        "rms_norm_eps": "removed", "tie_word_embeddings": "removed", "hidden_act": "removed",
        "num_key_value_heads": 1, "rope_theta": null,
    });
    let c = converted(absent, &[]).config().clone();
    assert_eq!((c.norm_eps, c.tied_embeddings, c.rope_theta), (1e-6, false, 1e4));
    assert_eq!(c.attention_scale, 1.0 / 6f64.sqrt());
    assert_eq!(c.value_rotation, 2);
    for (window, expected) in [(json!(8), 8), (json!(null), 0), (json!("removed"), 4096)] {
        let settings = json!({"model_type": "mistral", "sliding_window": window});
        assert_eq!(converted(settings, &[]).config().windows, [expected; 2]);
    }
    let llama = json!({"sliding_window": 8});
    assert_eq!(converted(llama, &[]).config().windows, [0, 0]);
    // These must round-trip through the file's JSON bit for bit.
    let odd = json!({"rms_norm_eps": 9.999999747378752e-6, "rope_theta": 123456.78901234567});
    let c = converted(odd, &[]).config().clone();
    assert_eq!((c.norm_eps, c.rope_theta), (9.999999747378752e-6, 123456.78901234567));
}

fn generation(settings: Value, files: &[(&str, Value)]) -> Generation {
    let files: Vec<_> = files.iter().map(|(name, json)| (*name, json.to_string())).collect();
    converted(settings, &files).generation().clone()
}

#[test]
fn generation_defaults() {
    let none = Generation::default();
    assert_eq!(generation(json!({}), &[]), none);
    let config = json!({"bos_token_id": 1, "eos_token_id": [2, 3]});
    let expected = Generation { bos: Some(1), eos: vec![2, 3], ..none.clone() };
    assert_eq!(generation(config.clone(), &[]), expected);

    let sampled = json!({"eos_token_id": 5, "do_sample": true, "temperature": 0.6, "top_k": 20,
        "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.1, "max_length": 4096});
    let expected = Generation {
        bos: Some(1),
        eos: vec![5],
        temperature: Some(0.6),
        top_k: Some(20),
        top_p: Some(0.9),
        min_p: Some(0.05),
        repetition_penalty: Some(1.1),
        ..none.clone()
    };
    assert_eq!(
        generation(config.clone(), &[("generation_config.json", sampled.clone())]),
        expected
    );

    // Without do_sample the model decodes greedily, whatever else is set.
    let mut greedy = sampled;
    greedy["do_sample"] = json!(false);
    let expected = Generation { bos: Some(1), eos: vec![5], ..none.clone() };
    assert_eq!(generation(config.clone(), &[("generation_config.json", greedy)]), expected);

    let bare = json!({"do_sample": true, "top_k": 0});
    let expected = Generation { temperature: Some(1.0), ..none };
    assert_eq!(generation(json!({}), &[("generation_config.json", bare)]), expected);

    for (bad, expected) in [
        (json!({"do_sample": true, "temperature": -1}), "temperature is -1, expected 0 to"),
        (json!({"do_sample": true, "top_p": 2}), "top_p is 2, expected 0 to 1"),
        (json!({"do_sample": "yes"}), "do_sample is \"yes\", expected true or false"),
        (json!({"eos_token_id": 17}), "eos_token_id is 17"),
        (json!([]), "generation_config.json: is not a JSON object"),
    ] {
        let (_dir, input) = folder(json!({}), &[("generation_config.json", bad.to_string())]);
        refused(&input, expected);
    }
}

/// A byte-level tokenizer with three tokens, whose post-processor prepends the second.
fn tokenizer_json() -> Value {
    let mut tokenizer = byte_level(json!({"a": 0, "<s>": 1, "b": 2}), json!([]));
    tokenizer["post_processor"] = json!({"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}});
    tokenizer
}

#[test]
fn the_bos_token() {
    let tokenizer = ("tokenizer.json", tokenizer_json());
    let g = generation(json!({}), std::slice::from_ref(&tokenizer));
    assert_eq!((g.bos, g.add_bos), (Some(1), true), "the post-processor adds it");
    let stated = |add: Value| ("tokenizer_config.json", json!({"add_bos_token": add}));
    let g = generation(json!({}), &[tokenizer.clone(), stated(json!(false))]);
    assert_eq!((g.bos, g.add_bos), (Some(1), false), "the setting takes precedence");
    let g = generation(json!({"bos_token_id": 2}), &[stated(json!(true))]);
    assert_eq!((g.bos, g.add_bos), (Some(2), true));
    let g = generation(json!({}), &[stated(json!(true))]);
    assert_eq!((g.bos, g.add_bos), (None, false), "the model has none");
}

#[test]
fn the_tokenizer_sections() {
    let json = tokenizer_json().to_string();
    let nano = converted(json!({}), &[("tokenizer.json", json.clone())]);
    assert_eq!(nano.section(SectionKind::Tokenizer).unwrap().1, json.as_bytes());
    let vocab = nano.section(SectionKind::Vocabulary).unwrap().1;
    let vocab = nanoinfer_text::Vocab::parse(vocab).unwrap();
    assert_eq!((vocab.len(), vocab.bytes(2), vocab.is_special(1)), (17, &b"b"[..], true));
    assert!(nano.section(SectionKind::NativeTokenizer).is_some());
    let (_dir, input) = folder(json!({}), &[("tokenizer.json", "{}".into())]);
    refused(&input, "tokenizer.json: tokenizer.json");
}

#[test]
fn newer_chat_template_files_take_precedence() {
    let template = |files: &[(&str, String)]| {
        let nano = converted(json!({}), files);
        nano.section(SectionKind::ChatTemplate).map(|(_, t)| String::from_utf8(t.into()).unwrap())
    };
    let jinja = ("chat_template.jinja", "from jinja".to_owned());
    let own = ("chat_template.json", json!({"chat_template": "from json"}).to_string());
    let config = |t: Value| ("tokenizer_config.json", json!({"chat_template": t}).to_string());
    let named = json!([
        {"name": "tool_use", "template": "no"}, {"name": "default", "template": "from list"}
    ]);
    let string = config(json!("from string"));
    assert_eq!(template(&[]), None);
    assert_eq!(template(std::slice::from_ref(&string)).as_deref(), Some("from string"));
    assert_eq!(template(&[config(named)]).as_deref(), Some("from list"));
    assert_eq!(template(&[config(json!([]))]), None);
    assert_eq!(template(&[string.clone(), own.clone()]).as_deref(), Some("from json"));
    assert_eq!(template(&[string, own, jinja]).as_deref(), Some("from jinja"));
    let (_dir, input) = folder(json!({}), &[config(json!(3))]);
    refused(&input, "chat_template is neither a string nor a list");
}
