//! GGUF models: the same weights yield the same tensors as from a folder; also settings, tokenizer
//! and split files.

mod common;

use common::gguf::{GgufFile, Meta};
use common::{ODD, Shape, check, packed, refused};
use nanoinfer_format::{Generation, NanoFile, SectionKind};
use nanoinfer_packer::{Input, Options, Quant, convert};
use tempfile::TempDir;

const SMALL: Shape =
    Shape { d: 20, ff: 30, heads: 2, kv: 1, head_dim: 6, vocab: 17, layers: 1, tied: false };

fn write(file: &GgufFile) -> (TempDir, Input) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    std::fs::write(&path, file.bytes()).unwrap();
    (dir, Input::detect(&path).unwrap())
}

fn converted(file: &GgufFile, quant: Quant) -> NanoFile {
    let (dir, input) = write(file);
    let out = dir.path().join("m.nano");
    convert(&input, &out, Options::new(quant)).unwrap();
    NanoFile::open(&out).unwrap()
}

/// A small valid model, modified by `change`.
fn small(change: impl FnOnce(&mut GgufFile)) -> GgufFile {
    let mut file = GgufFile::of(&SMALL, &SMALL.weights());
    change(&mut file);
    file
}

#[test]
fn query_and_key_rows_are_restored_to_their_original_order() {
    for shape in [ODD, Shape { tied: true, heads: 4, kv: 2, ..ODD }] {
        let mut weights = shape.weights();
        for (name, heads) in [("q", shape.heads), ("k", shape.kv), ("v", shape.kv)] {
            let bias = common::random(&mut 9, heads * shape.head_dim);
            let name = format!("model.layers.1.self_attn.{name}_proj.bias");
            weights.insert(name, (vec![bias.len()], bias));
        }
        let folder = tempfile::tempdir().unwrap();
        shape.write(folder.path(), &weights);
        for quant in [Quant::F32, Quant::Q8] {
            let (hf, _) = packed(folder.path(), &folder.path().join("m.nano"), quant, 2);
            let gguf = converted(&GgufFile::of(&shape, &weights), quant);
            check(&gguf, &weights);
            let hashes = |n: &NanoFile| n.tensors().iter().map(|t| t.hash).collect::<Vec<_>>();
            assert_eq!(hashes(&hf), hashes(&gguf));
            // GGUF stores epsilon as f32; everything else is equal.
            let mut config = gguf.config().clone();
            assert_eq!(config.norm_eps, f64::from(1e-5f32));
            config.norm_eps = hf.config().norm_eps;
            assert_eq!(&config, hf.config());
        }
    }
}

#[test]
fn rope_scaling() {
    let turns = |change: &dyn Fn(&mut GgufFile)| {
        let nano = converted(&small(change), Quant::F32);
        let tensor = nano.tensors().iter().find(|t| t.spec.role.name() == "rope_turns").unwrap();
        nano.u64s(tensor).to_vec()
    };
    let plain = turns(&|_| ());
    // 1, 10000^(-1/3) and 10000^(-2/3) radians per position, as fractions of a turn.
    for (t, radians) in plain.iter().zip([1.0, 0.046415888336127774, 0.002154434690031882]) {
        let got = *t as f64 / 2f64.powi(64) * std::f64::consts::TAU;
        assert!((got - radians).abs() < 1e-15, "{got}, expected {radians}");
    }
    let set = |key: &'static str, v: f32| move |f: &mut GgufFile| f.set(key, Meta::F32(v));
    let half: Vec<_> = plain.iter().map(|t| t / 2).collect();
    let near = |a: &[u64], b: &[u64]| a.iter().zip(b).all(|(a, b)| a.abs_diff(*b) <= 1024);
    assert!(near(&turns(&set("llama.rope.scaling.factor", 2.0)), &half));
    assert!(near(&turns(&set("llama.rope.scale_linear", 2.0)), &half));
    assert_eq!(turns(&set("llama.rope.scaling.factor", 0.0)), plain);
    let off = |f: &mut GgufFile| {
        f.set("llama.rope.scaling.factor", Meta::F32(2.0));
        f.set("llama.rope.scaling.type", Meta::Str("none".into()));
    };
    assert_eq!(turns(&off), plain);
    let factors = |values: &[f32]| {
        let entry = ("rope_freqs.weight".to_owned(), vec![values.len() as u64], values.to_vec());
        move |f: &mut GgufFile| f.tensors.push(entry.clone())
    };
    let by = turns(&factors(&[1.0, 2.0, 4.0]));
    assert!(near(&by, &[plain[0], plain[1] / 2, plain[2] / 4]));
    for (values, expected) in [
        (&[1.0, 2.0][..], "rope_freqs.weight\": has shape [2, 1]"),
        (&[1.0, 0.0, 1.0], "contains 0, expected positive factors"),
        (&[1.0, f32::NAN, 1.0], "contains NaN"),
    ] {
        refused(&write(&small(factors(values))).1, expected);
    }
}

#[test]
fn invalid_and_unsupported_keys_are_named() {
    let cases: [(&str, Meta, &str); 15] = [
        (
            "general.architecture",
            Meta::Str("gemma".into()),
            "architecture \"gemma\" is not supported; supported: llama, mistral3, qwen2",
        ),
        ("llama.expert_count", Meta::U32(8), "llama.expert_used_count is missing"),
        ("llama.rope.scaling.type", Meta::Str("ntk".into()), "RoPE scaling \"ntk\""),
        ("llama.rope.scaling.factor", Meta::F32(-1.0), "factor is -1"),
        ("llama.rope.freq_base", Meta::F32(f32::NAN), "freq_base is NaN"),
        ("llama.rope.dimension_count", Meta::U32(7), "rotary_dim is 7"),
        ("llama.attention.value_length", Meta::U32(8), "value_length is 8"),
        ("llama.attention.key_length", Meta::U32(0), "expected"),
        (
            "llama.attention.head_count_kv",
            Meta::I32s(vec![0]),
            "is 0 in layer 0, which needs attention",
        ),
        ("llama.block_count", Meta::U32(0), "n_layers is 0"),
        ("llama.block_count", Meta::U32(2), "\"blk.1.attn_norm.weight\": is missing"),
        ("llama.block_count", Meta::Str("1".into()), "llama.block_count is not a whole number"),
        ("llama.attention.layer_norm_rms_epsilon", Meta::F32(0.0), "norm_eps is 0"),
        ("tokenizer.ggml.eos_token_id", Meta::U32(17), "eos_token_id is 17"),
        ("tokenizer.ggml.model", Meta::Str("llama".into()), "tokenizer.ggml.tokens is missing"),
    ];
    for (key, value, expected) in cases {
        let (_dir, input) = write(&small(|f| f.set(key, value)));
        refused(&input, expected);
    }
}

/// A norm under the name of another one, as in an architecture that is not the stated one.
#[test]
fn a_missing_tensor_is_reported_with_an_unexpected_one() {
    let file = small(|f| {
        let norm = f.tensors.iter_mut().find(|t| t.0 == "blk.0.ffn_norm.weight").unwrap();
        norm.0 = "blk.0.post_attention_norm.weight".into();
    });
    let expected = "\"blk.0.ffn_norm.weight\": is missing, and \
        \"blk.0.post_attention_norm.weight\" is unexpected";
    let (_dir, input) = write(&file);
    refused(&input, expected);
}

#[test]
fn windows_and_attention_scale_are_read() {
    let file = small(|f| {
        f.set("llama.attention.sliding_window", Meta::U32(12));
        f.set("llama.attention.scale", Meta::F32(0.25));
    });
    let nano = converted(&file, Quant::Q8);
    assert_eq!(nano.config().windows, [12]);
    assert_eq!(nano.config().attention_scale, 0.25);
}

/// A SentencePiece vocabulary in the metadata becomes the tokenizer's three sections.
#[test]
fn tokenizer_template_and_special_tokens() {
    let tokens = ["<unk>", "<s>", "</s>", "▁", "a", "b", "ab", "▁ab"].map(String::from).to_vec();
    let file = small(|f| {
        f.set("tokenizer.ggml.model", Meta::Str("llama".into()));
        f.set("tokenizer.ggml.scores", Meta::F32s((0..8).map(|i| -i as f32).collect()));
        f.set("tokenizer.ggml.token_type", Meta::I32s(vec![2, 3, 3, 1, 1, 1, 1, 1]));
        f.set("tokenizer.ggml.tokens", Meta::Strs(tokens));
        f.set("tokenizer.ggml.bos_token_id", Meta::U32(1));
        f.set("tokenizer.ggml.eos_token_id", Meta::U32(2));
        f.set("tokenizer.ggml.eot_token_id", Meta::U32(3));
        f.set("tokenizer.chat_template", Meta::Str("{{ messages }}".into()));
    });
    let nano = converted(&file, Quant::Q8);
    let expected =
        Generation { bos: Some(1), add_bos: true, eos: vec![2, 3], ..Generation::default() };
    assert_eq!(nano.generation(), &expected);
    let section = |kind| nano.section(kind).unwrap().1;
    assert_eq!(section(SectionKind::ChatTemplate), b"{{ messages }}");
    let json = section(SectionKind::Tokenizer);
    let native = Some(section(SectionKind::NativeTokenizer));
    let hash = blake3::hash(json);
    let tokenizer = nanoinfer_text::Tokenizer::load(json, hash.as_bytes(), native).unwrap();
    assert_eq!(tokenizer.encode("ab", nanoinfer_text::Specials::Parse), [7]);
    let vocab = nanoinfer_text::Vocab::parse(section(SectionKind::Vocabulary)).unwrap();
    assert_eq!(vocab.bytes(7), b" ab");

    let mut file = file;
    file.set("tokenizer.ggml.add_bos_token", Meta::Bool(false));
    assert!(!converted(&file, Quant::Q8).generation().add_bos);
}

#[test]
fn truncated_models() {
    let bytes = small(|_| ()).bytes();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    for len in (4..bytes.len() - 32).step_by(997) {
        std::fs::write(&path, &bytes[..len]).unwrap();
        refused(&Input::Gguf(path.clone()), "m.gguf: ");
    }
}

/// Writes the file to `dir` in `n` parts, as `gguf-split` does.
fn write_split(file: &GgufFile, dir: &std::path::Path, n: usize) -> Vec<std::path::PathBuf> {
    let total = file.tensors.len();
    let part = |i: usize| {
        let metadata = if i == 0 { file.metadata.clone() } else { Vec::new() };
        let tensors = file.tensors[i * total / n..(i + 1) * total / n].to_vec();
        let mut part = GgufFile { metadata, tensors };
        part.set("split.no", Meta::U32(i as u32));
        part.set("split.count", Meta::U32(n as u32));
        part.set("split.tensors.count", Meta::U32(total as u32));
        let path = dir.join(format!("m-{:05}-of-{n:05}.gguf", i + 1));
        std::fs::write(&path, part.bytes()).unwrap();
        path
    };
    (0..n).map(part).collect()
}

#[test]
fn split_files_are_one_model() {
    let file = small(|_| ());
    let whole = converted(&file, Quant::Q8);
    let dir = tempfile::tempdir().unwrap();
    let parts = write_split(&file, dir.path(), 3);
    for given in &parts {
        let out = dir.path().join("m.nano");
        let input = Input::detect(given).unwrap();
        convert(&input, &out, Options::new(Quant::Q8)).unwrap();
        let nano = NanoFile::open(&out).unwrap();
        assert_eq!(nano.header().content_id, whole.header().content_id);
        let provenance = String::from_utf8_lossy(nano.section(SectionKind::Provenance).unwrap().1);
        assert_eq!(provenance.matches("of-00003.gguf").count(), 3, "{provenance}");
        let error = convert(&input, &parts[1], Options::new(Quant::Q8)).unwrap_err().to_string();
        assert!(error.contains("is a file of the source"), "{error}");
    }
}

#[test]
fn split_files_that_do_not_belong_together() {
    let dir = tempfile::tempdir().unwrap();
    let parts = write_split(&small(|_| ()), dir.path(), 2);
    let again = |change: &dyn Fn(&mut GgufFile), expected: &str| {
        let file = small(change);
        write_split(&file, dir.path(), 2);
        refused(&Input::Gguf(parts[0].clone()), expected);
    };
    // The second part of another model, which has an additional tensor.
    let second = std::fs::read(&parts[1]).unwrap();
    let more = |f: &mut GgufFile| f.tensors.push(("x.weight".into(), vec![1], vec![0.0]));
    write_split(&small(more), dir.path(), 2);
    std::fs::write(&parts[1], &second).unwrap();
    refused(&Input::Gguf(parts[0].clone()), "split.tensors.count is 13, expected 1");
    again(&|f| f.tensors[11].0 = f.tensors[0].0.clone(), "appears in two files");
    std::fs::copy(&parts[0], &parts[1]).unwrap();
    refused(&Input::Gguf(parts[0].clone()), "split.no is 0, expected 1");
    std::fs::remove_file(&parts[1]).unwrap();
    refused(&Input::Gguf(parts[0].clone()), "m-00002-of-00002.gguf: cannot open");
    let renamed = dir.path().join("renamed.gguf");
    std::fs::rename(&parts[0], &renamed).unwrap();
    refused(&Input::Gguf(renamed), "split.count is 2, but the file name implies 1");
}
