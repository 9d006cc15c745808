//! What users pass instead of a model, or as one: each is found, or named with what to use instead.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::gguf::{GgufFile, Meta};
use common::{ODD, Shape, refused, safetensors};
use nanoinfer_packer::{Error, Input, Options, Quant, convert, describe};
use serde_json::{Value, json};
use tempfile::TempDir;

const SMALL: Shape =
    Shape { d: 20, ff: 30, heads: 2, kv: 1, head_dim: 6, vocab: 17, layers: 1, tied: false };
const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/v1\n\
    oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";
const HTML: &[u8] =
    b"\xef\xbb\xbf\n<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>";

fn model() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    SMALL.write(dir.path(), &SMALL.weights());
    dir
}

fn write(folder: &Path, files: &[(&str, &[u8])]) {
    for (name, bytes) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// A folder with these files.
fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), files);
    dir
}

/// Expects a one-line message with all of `parts`, for conversion and for `describe`.
#[track_caller]
fn named(path: &Path, parts: &[&str]) {
    let of_input = |input: &Input| {
        let out = tempfile::tempdir().unwrap();
        convert(input, &out.path().join("m.nano"), Options::new(Quant::Q8)).map(|_| ())
    };
    let error: Error = Input::detect(path).and_then(|input| of_input(&input)).expect_err(parts[0]);
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "{message:?} does not contain {part:?}");
    }
    assert!(!message.contains('\n') && message.contains("; "), "{message:?}");
    assert!(
        message.starts_with(path.to_str().unwrap()),
        "{message:?} does not begin with the path"
    );
}

#[test]
fn files_that_stand_for_another_in_every_role() {
    for (bytes, what) in [
        (
            POINTER,
            "is a Git LFS pointer to a file of 12345 bytes, not the file itself; run `git lfs",
        ),
        (HTML, "is a web page (HTML), not the file itself; download the file again"),
        (b"", "is empty; download it again"),
    ] {
        for role in [
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
            "generation_config.json",
            "chat_template.jinja",
        ] {
            let dir = model();
            fs::write(dir.path().join(role), bytes).unwrap();
            let expected = format!("{role}: {what}");
            refused(&Input::detect(dir.path()).unwrap(), &expected);
            assert!(
                describe(dir.path())
                    .map_or_else(|e| e.to_string(), |d| d.config.unwrap_err())
                    .contains(&expected)
            );
        }
        let dir = model();
        fs::remove_file(dir.path().join("model.safetensors")).unwrap();
        for name in ["pytorch_model.bin", "pytorch_model.bin.index.json"] {
            fs::write(dir.path().join(name), bytes).unwrap();
            refused(&Input::detect(dir.path()).unwrap(), &format!("{name}: {what}"));
            fs::remove_file(dir.path().join(name)).unwrap();
        }
        let dir = folder(&[("m.gguf", bytes), ("tokenizer.model", bytes)]);
        named(&dir.path().join("m.gguf"), &[what]);
        fs::write(dir.path().join("m.gguf"), GgufFile::of(&ODD, &ODD.weights()).bytes()).unwrap();
        Input::detect(&dir.path().join("m.gguf")).unwrap();
        SMALL.write(dir.path(), &SMALL.weights());
        named_inside(dir.path(), "tokenizer.model", what);
    }
}

#[track_caller]
fn named_inside(folder: &Path, file: &str, what: &str) {
    refused(&Input::detect(folder).unwrap(), &format!("{file}: {what}"));
}

#[test]
fn single_files() {
    let dir = folder(&[]);
    let zip = |name: &str| {
        let len = (name.len() as u16).to_le_bytes();
        [&b"PK\x03\x04"[..], &[0; 22], &len, &[0, 0], name.as_bytes(), &[0; 99]].concat()
    };
    let mut tar = vec![0; 600];
    tar[257..262].copy_from_slice(b"ustar");
    let torch = zip("archive/data.pkl");
    for (name, bytes, what) in [
        (
            "m.onnx",
            &b"\x08\x07\x12\x07pytorch"[..],
            "is an ONNX model; use the model's Hugging Face folder",
        ),
        ("tf_model.h5", b"\x89HDF\r\n\x1a\n....", "is a TensorFlow or Keras file"),
        ("m.tflite", b"\x1c\0\0\0TFL3", "is a TensorFlow Lite model"),
        ("flax_model.msgpack", b"\x81\xa5model", "is a Flax model"),
        ("m.mlmodel", b"\x08\x04", "is a Core ML model"),
        ("weights.npz", b"PK\x03\x04", "is an MLX model in NumPy's format"),
        ("ggml-model-q4_0.bin", b"tjgg\x03\0\0\0", "is a GGML file, the format before GGUF"),
        ("m.tar", &tar, "is a tar archive; extract it"),
        ("m.tar.gz", b"\x1f\x8b\x08\0", "is a gzip archive; extract it"),
        ("m.zip", &zip("config.json"), "is a zip archive; extract it"),
        ("m.llamafile", b"MZqFpD='\n", "is a llamafile; pass the GGUF file in it"),
        ("renamed.txt", b"\x93NANO\r\n\x1a", "is a .nano file, which is already converted"),
        (
            "model.safetensors",
            &safetensors(&SMALL.weights()),
            "is only the weights of a model (safetensors)",
        ),
        (
            "pytorch_model.bin",
            &torch,
            "is only the weights of a model (PyTorch); pass the model's folder",
        ),
        ("consolidated.00.pth", &torch, "is only the weights of a model (PyTorch)"),
        ("anything", &torch, "is only the weights of a model (PyTorch)"),
        ("old.pt", b"\x80\x02\x8a\x0a\x6c\xfc", "is only the weights of a model (PyTorch)"),
        ("tokenizer.json", b"\xef\xbb\xbf{\"version\": 1}", "is only one file of a model (JSON)"),
    ] {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        named(&path, &[what]);
        fs::remove_file(path).unwrap();
    }
    let dir = model();
    let shown = format!("pass its folder, {:?}", dir.path().to_str().unwrap());
    named(&dir.path().join("model.safetensors"), &[&shown]);
    named(&dir.path().join("config.json"), &[&shown]);
}

#[test]
fn folders_of_other_kinds() {
    let adapter = br#"{"peft_type": "LORA", "base_model_name_or_path": "acme/base"}"#;
    let config = SMALL.config().to_string();
    let config = config.as_bytes();
    for (files, parts) in [
        (
            &[("adapter_config.json", &adapter[..]), ("adapter_model.safetensors", b"x")][..],
            &["is a LoRA adapter for \"acme/base\", not a model; convert its base model"][..],
        ),
        (
            &[("adapter_config.json", adapter), ("config.json", config), ("tokenizer.json", b"{}")],
            &["is a LoRA adapter for \"acme/base\""],
        ),
        (&[("model_index.json", b"{}"), ("unet/config.json", b"{}")], &["is a diffusion pipeline"]),
        (&[("params.json", b"{}"), ("consolidated.00.pth", b"x")], &["its author's own format"]),
        (
            &[("params.json", b"{}"), ("consolidated.safetensors", b"x"), ("tekken.json", b"{}")],
            &["its author's own format (params.json, consolidated.*)"],
        ),
        (&[("config.json", config), ("tf_model.h5", b"x")], &["holds a TensorFlow model"]),
        (&[("saved_model.pb", b"x"), ("variables/a", b"")], &["holds a TensorFlow model"]),
        (&[("config.json", config), ("flax_model.msgpack", b"x")], &["holds a Flax model"]),
        (&[("config.json", config), ("onnx/model.onnx", b"x")], &["holds an ONNX model"]),
        (&[("config.json", config), ("openvino_model.xml", b"x")], &["holds an OpenVINO model"]),
        (&[("m.mlpackage/Manifest.json", b"{}")], &["holds a Core ML model"]),
        (&[("config.json", config), ("weights.npz", b"x")], &["holds an MLX model"]),
        (
            &[("quantize_config.json", b"{}"), ("gptq_model-4bit-128g.safetensors", b"x")],
            &["quantized with GPTQ or AWQ, but no model.safetensors; rename its file"],
        ),
        (
            &[("config.json", config), ("model-00001-of-00002.safetensors", b"x")],
            &["in parts without model.safetensors.index.json; download that"],
        ),
        (
            &[("config.json", config), ("pytorch_model-00001-of-00002.bin", b"x")],
            &["in parts without pytorch_model.bin.index.json"],
        ),
        (
            &[("checkpoint-10/config.json", config), ("checkpoint-20/config.json", config)],
            &["pass one of them: checkpoint-10, checkpoint-20"],
        ),
        (
            &[("models--a--b/refs/main", b"x"), ("models--c--d/refs/main", b"y")],
            &["is a cache of models; pass one of them: models--a--b, models--c--d"],
        ),
    ] {
        let dir = folder(files);
        named(dir.path(), parts);
    }
}

#[test]
fn a_folder_with_gguf_files() {
    let gguf = GgufFile::of(&ODD, &ODD.weights()).bytes();
    let config = SMALL.config().to_string();
    let dir = folder(&[("a.gguf", &gguf), ("README.md", b"x"), ("config.json", config.as_bytes())]);
    assert_eq!(Input::detect(dir.path()).unwrap(), Input::Gguf(dir.path().join("a.gguf")));
    assert_eq!(describe(dir.path()).unwrap().kind, "gguf");
    // A vision encoder belongs to the model beside it; a split model is one model.
    write(dir.path(), &[("mmproj-a.gguf", b"GGUF")]);
    assert_eq!(Input::detect(dir.path()).unwrap(), Input::Gguf(dir.path().join("a.gguf")));
    write(dir.path(), &[("b-00001-of-00002.gguf", b"GGUF"), ("b-00002-of-00002.gguf", b"GGUF")]);
    named(dir.path(), &["holds 2 GGUF models; pass one of them: a.gguf, b-00001-of-00002.gguf"]);
    fs::remove_file(dir.path().join("a.gguf")).unwrap();
    let first = dir.path().join("b-00001-of-00002.gguf");
    assert_eq!(Input::detect(dir.path()).unwrap(), Input::Gguf(first));
    // A complete Hugging Face model comes first.
    SMALL.write(dir.path(), &SMALL.weights());
    assert_eq!(Input::detect(dir.path()).unwrap(), Input::Folder(dir.path().into()));
}

/// A model's folder in the hub's cache, with these snapshots, and `main` pointing to one of them.
fn hub_cache(snapshots: &[&str], main: Option<&str>) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let repo = dir.path().join("models--acme--tiny");
    for commit in snapshots {
        let snapshot = repo.join("snapshots").join(commit);
        fs::create_dir_all(&snapshot).unwrap();
        SMALL.write(&snapshot, &SMALL.weights());
    }
    if let Some(commit) = main {
        write(&repo, &[("refs/main", commit.as_bytes())]);
    }
    (dir, repo)
}

#[test]
fn folders_of_the_hub_cache_are_models() {
    for (snapshots, main, expected) in [
        (&["aaa", "bbb"][..], Some("bbb\n"), "bbb"),
        (&["aaa"], Some("gone"), "aaa"),
        (&["aaa"], Some("../../x"), "aaa"),
        (&["aaa"], None, "aaa"),
    ] {
        let (_dir, repo) = hub_cache(snapshots, main);
        let expected = Input::Folder(repo.join("snapshots").join(expected));
        assert_eq!(Input::detect(&repo).unwrap(), expected);
        assert_eq!(Input::detect(&repo.join("snapshots")).unwrap(), expected);
        let out = repo.join("m.nano");
        convert(&expected, &out, Options::new(Quant::Q8)).unwrap();
    }
    let (_dir, repo) = hub_cache(&["aaa", "bbb"], None);
    let message = Input::detect(&repo).unwrap_err().to_string();
    assert!(
        message.contains("several snapshots, none of which is main; pass one of them: aaa, bbb"),
        "{message}"
    );
    let (_dir, repo) = hub_cache(&[], Some("aaa"));
    fs::create_dir_all(repo.join("snapshots")).unwrap();
    named(&repo, &["without a snapshot; download the model again"]);
    let gguf = GgufFile::of(&ODD, &ODD.weights()).bytes();
    let (_dir, repo) = hub_cache(&[], Some("aaa"));
    write(&repo, &[("snapshots/aaa/m.gguf", &gguf)]);
    assert_eq!(Input::detect(&repo).unwrap(), Input::Gguf(repo.join("snapshots/aaa/m.gguf")));
}

#[track_caller]
fn refused_config(settings: Value, expected: &str) {
    let dir = model();
    let mut config = SMALL.config();
    for (key, value) in settings.as_object().unwrap() {
        config[key] = value.clone();
    }
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    refused(&Input::detect(dir.path()).unwrap(), expected);
}

#[test]
fn models_that_generate_no_text_say_what_they_are_for() {
    let class = |name: &str| json!({"architectures": [name]});
    for (settings, expected) in [
        (
            class("LlamaModel"),
            "LlamaModel, a model without an output layer, which computes embeddings, is",
        ),
        (
            class("LlamaForSequenceClassification"),
            "a classifier, is not supported; use a model for text",
        ),
        (class("LlamaForTokenClassification"), "a classifier of tokens"),
        (class("LlamaForRewardModel"), "a model that scores answers"),
        (
            json!({"model_type": "bert", "architectures": ["BertModel"]}),
            "\"bert\" (BertModel, a model without an output layer, which computes embeddings) is not",
        ),
        (
            json!({"model_type": "roberta", "architectures": ["RobertaForMaskedLM"]}),
            "fills in masked words",
        ),
        (
            json!({"model_type": "t5", "is_encoder_decoder": true}),
            "\"t5\" (an encoder-decoder model) is not",
        ),
        (
            json!({"model_type": "qwen2_vl", "vision_config": {}}),
            "\"qwen2_vl\" (a model for images and text)",
        ),
        (
            json!({"model_type": "vit", "architectures": ["ViTForImageClassification"]}),
            "a classifier of images",
        ),
        (json!({"quantization": {"group_size": 64, "bits": 4}}), "a model quantized with \"MLX\""),
    ] {
        refused_config(settings, expected);
    }
    let dir = model();
    let mut config = SMALL.config();
    for accepted in ["LlamaForCausalLM", "GPT2LMHeadModel"] {
        config["architectures"] = json!([accepted]);
        fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let input = Input::detect(dir.path()).unwrap();
        convert(&input, &dir.path().join("m.nano"), Options::new(Quant::Q8)).unwrap();
    }
}

#[test]
fn gguf_files_that_are_not_models_for_text() {
    let dir = folder(&[]);
    for (key, value, expected) in [
        (
            "general.type",
            "adapter",
            "a LoRA adapter is not supported; merge the adapter's original",
        ),
        (
            "general.type",
            "mmproj",
            "the image encoder of a model is not supported; use the model's",
        ),
        ("general.architecture", "bert", "\"bert\" (an encoder, which computes embeddings) is not"),
        ("general.architecture", "clip", "\"clip\" (an image encoder) is not supported"),
        ("general.architecture", "t5encoder", "(an encoder-decoder model)"),
        ("general.architecture", "flux", "(a model that generates images)"),
    ] {
        let mut gguf = GgufFile::of(&ODD, &ODD.weights());
        gguf.set(key, Meta::Str(value.into()));
        let path = dir.path().join("m.gguf");
        fs::write(&path, gguf.bytes()).unwrap();
        refused(&Input::Gguf(path), expected);
    }
}

/// Embedding models are saved without the prefix that a language model's names have.
#[test]
fn a_model_without_its_head() {
    let dir = tempfile::tempdir().unwrap();
    let mut weights = SMALL.weights();
    weights.remove("lm_head.weight");
    let bare = weights.into_iter().map(|(n, w)| (n.strip_prefix("model.").unwrap().to_owned(), w));
    SMALL.write(dir.path(), &bare.collect());
    refused(
        &Input::Folder(dir.path().into()),
        "such as an embedding model, which cannot generate text",
    );
}

#[test]
fn a_byte_order_mark_is_accepted_in_json() {
    let dir = model();
    for name in ["config.json", "generation_config.json", "tokenizer_config.json"] {
        let path = dir.path().join(name);
        let json = fs::read(&path).unwrap_or_else(|_| b"{}".to_vec());
        fs::write(&path, [&b"\xef\xbb\xbf"[..], &json].concat()).unwrap();
    }
    let input = Input::detect(dir.path()).unwrap();
    convert(&input, &dir.path().join("m.nano"), Options::new(Quant::Q8)).unwrap();
    let utf16: Vec<u8> = "\u{feff}{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    fs::write(dir.path().join("tokenizer_config.json"), utf16).unwrap();
    refused(&input, "tokenizer_config.json: is UTF-16 text, expected UTF-8; save it as UTF-8");
}
