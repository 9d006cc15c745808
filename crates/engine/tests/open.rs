//! Valid files whose parts do not belong together.

mod common;

use common::{data, with_text};
use nanoinfer_engine::{Message, Model};
use nanoinfer_format::{NanoFile, Quant, Role, TensorSpec, Writer};
use nanoinfer_packer::{Input, Options, convert};
use nanoinfer_text::build_vocab;
use serde_json::json;

/// A tokenizer with two tokens, `a` with id 0 and `b` with id `max`.
fn tokenizer(max: u32) -> Vec<u8> {
    serde_json::to_vec(&json!({
        "added_tokens": [],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": max}, "merges": []},
    }))
    .unwrap()
}

#[test]
fn the_tokenizer_must_match_the_embeddings() {
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("plain.nano");
    let source = Input::Folder(data("tiny/llama-gqa"));
    convert(&source, &plain, Options::new(Quant::Q8)).unwrap();
    let plain = NanoFile::open(&plain).unwrap();
    assert_eq!(plain.config().vocab_size, 320);
    let file = folder.path().join("m.nano");
    let open = |max: u32, entries: usize| {
        let json = tokenizer(max);
        let vocabulary = build_vocab(&json, entries).unwrap();
        with_text(&plain, &file, json, vocabulary, plain.generation());
        Model::open(&file).map_err(|e| e.to_string())
    };
    let matching = open(319, 320).unwrap();
    assert_eq!(matching.encode("ab").unwrap(), [0, 319]);
    for (max, entries, message) in [
        (320, 321, "the tokenizer has id 320, but the model has 320 tokens"),
        (319, 321, "the vocabulary table has 321 tokens, but the model has 320"),
        (100, 101, "the vocabulary table has 101 tokens, but the model has 320"),
    ] {
        let error = open(max, entries).expect_err(message);
        assert!(error.contains("m.nano: ") && error.contains(message), "{error}");
        assert!(error.contains("convert the model again") && !error.contains('\n'), "{error}");
    }
}

/// Even a text that is not among the tokens: the source decides what the template sees.
#[test]
fn templates_get_the_texts_that_the_source_states() {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(data("tiny/llama-gqa")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer(319)).unwrap();
    let template = "[{{ bos_token }}|{{ eos_token }}|{{ pad_token }}]";
    for (tokens, expected) in [
        (json!({}), "[||]"),
        (
            json!({"bos_token": "<x>", "eos_token": {"content": "b"}, "pad_token": "<p>"}),
            "[<x>|b|<p>]",
        ),
        (json!({"bos_token": null, "pad_token": null}), "[||]"),
    ] {
        let mut config = tokens;
        config["chat_template"] = json!(template);
        let path = folder.path().join("tokenizer_config.json");
        std::fs::write(path, config.to_string()).unwrap();
        let out = folder.path().join("m.nano");
        convert(&Input::Folder(folder.path().into()), &out, Options::new(Quant::Q8)).unwrap();
        let model = Model::open(&out).unwrap();
        let messages = [Message::new("user", "x")];
        assert_eq!(model.template().unwrap().render(&messages, true).unwrap(), expected);
    }
}

/// For example, a bias for an RMSNorm would otherwise be ignored silently.
#[test]
fn a_tensor_that_the_architecture_lacks_is_rejected() {
    let folder = tempfile::tempdir().unwrap();
    let (plain, file) = (folder.path().join("plain.nano"), folder.path().join("m.nano"));
    convert(&Input::Folder(data("tiny/llama-gqa")), &plain, Options::new(Quant::Q8)).unwrap();
    let plain = NanoFile::open(&plain).unwrap();
    let d = plain.config().d_model as usize;
    for (role, layer, label) in [
        (Role::AttnNormBias, Some(1), "attn_norm.bias of layer 1"),
        (Role::OutputNormBias, None, "output_norm.bias"),
        (Role::AttnPostNorm, Some(0), "attn_post_norm of layer 0"),
    ] {
        let mut writer = Writer::create(&file).unwrap();
        for tensor in plain.tensors() {
            writer.begin(tensor.spec.clone()).unwrap();
            writer.write(plain.bytes(tensor)).unwrap();
            writer.end().unwrap();
        }
        let spec = TensorSpec::vector(role, layer, d, plain.config().d_model_padded());
        writer.vector(spec, &vec![1.0; d]).unwrap();
        writer.finish(plain.config(), plain.generation()).unwrap().commit().unwrap();
        NanoFile::open(&file).unwrap().verify().unwrap();
        let error = Model::open(&file).expect_err(label).to_string();
        let message = format!("{label} does not belong to this architecture");
        assert!(error.contains(&message), "{error}");
    }
}
