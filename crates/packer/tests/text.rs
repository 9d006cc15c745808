//! What a source says about text only by the texts of its tokens, or in more than one place.

mod common;

use common::gguf::{GgufFile, Meta};
use common::{Shape, byte_level};
use nanoinfer_format::{Generation, NanoFile, SectionKind};
use nanoinfer_packer::{Input, OUTPUT_VERSION, Options, Quant, convert};
use nanoinfer_text::{Specials, Tokenizer};
use serde_json::{Value, json};

const SMALL: Shape =
    Shape { d: 20, ff: 30, heads: 2, kv: 1, head_dim: 6, vocab: 17, layers: 2, tied: false };

/// A converted model and the notes about its conversion.
struct Made {
    nano: NanoFile,
    notes: Vec<String>,
}

impl Made {
    fn by(convert_to: impl FnOnce(&std::path::Path) -> Input) -> Result<Self, String> {
        let dir = tempfile::tempdir().unwrap();
        let input = convert_to(dir.path());
        let out = dir.path().join("m.nano");
        let made = convert(&input, &out, Options::new(Quant::Q8)).map_err(|e| e.to_string())?;
        let nano = NanoFile::open(&out).unwrap();
        nano.verify().unwrap();
        Ok(Self { nano, notes: made.notes })
    }

    fn generation(&self) -> &Generation {
        self.nano.generation()
    }

    fn tokenizer(&self) -> Tokenizer {
        let section = |kind| self.nano.section(kind).unwrap();
        let (row, json) = section(SectionKind::Tokenizer);
        let native = Some(section(SectionKind::NativeTokenizer).1);
        Tokenizer::load(json, &row.hash, native).unwrap()
    }
}

/// The keys of a GGUF vocabulary; the scores descend.
fn vocabulary(f: &mut GgufFile, model: &str, tokens: &[(&str, i32)]) {
    f.set("tokenizer.ggml.model", Meta::Str(model.into()));
    f.set("tokenizer.ggml.tokens", Meta::Strs(tokens.iter().map(|t| t.0.to_owned()).collect()));
    f.set("tokenizer.ggml.token_type", Meta::I32s(tokens.iter().map(|t| t.1).collect()));
    f.set("tokenizer.ggml.scores", Meta::F32s((0..tokens.len()).map(|i| -(i as f32)).collect()));
    if model == "gpt2" {
        f.set("tokenizer.ggml.merges", Meta::Strs(vec!["a b".into()]));
    }
}

fn try_gguf(change: impl FnOnce(&mut GgufFile)) -> Result<Made, String> {
    Made::by(|dir| {
        let mut file = GgufFile::of(&SMALL, &SMALL.weights());
        change(&mut file);
        std::fs::write(dir.join("m.gguf"), file.bytes()).unwrap();
        Input::Gguf(dir.join("m.gguf"))
    })
}

#[track_caller]
fn gguf(change: impl FnOnce(&mut GgufFile)) -> Made {
    try_gguf(change).unwrap()
}

const CHATML: [(&str, i32); 5] =
    [("<|endoftext|>", 3), ("<|im_end|>", 3), ("a", 1), ("b", 1), ("ab", 1)];
const LLAMA: [(&str, i32); 5] = [("<unk>", 2), ("<s>", 3), ("</s>", 3), ("▁", 1), ("a", 1)];

#[test]
fn tokens_that_end_an_answer() {
    let made = gguf(|f| {
        vocabulary(f, "gpt2", &CHATML);
        f.set("tokenizer.ggml.pre", Meta::Str("qwen2".into()));
        f.set("tokenizer.ggml.eos_token_id", Meta::U32(0));
    });
    assert_eq!(made.generation().eos, [0, 1]);
    assert_eq!(made.notes, [""; 0]);
    let made = gguf(|f| {
        vocabulary(f, "gpt2", &CHATML);
        f.set("tokenizer.ggml.pre", Meta::Str("qwen2".into()));
        f.set("tokenizer.ggml.eom_token_id", Meta::U32(2));
        f.set("tokenizer.ggml.fim_sep_token_id", Meta::U32(3));
    });
    assert_eq!(made.generation().eos, [2, 0, 1, 3]);
}

/// llama.cpp's defaults for SentencePiece, and its treatment of ids that do not exist.
#[test]
fn special_tokens_without_keys() {
    let made = gguf(|f| vocabulary(f, "llama", &LLAMA));
    let expected =
        Generation { bos: Some(1), add_bos: true, eos: vec![2], ..Generation::default() };
    assert_eq!(made.generation(), &expected);
    assert_eq!(made.tokenizer().encode("b", Specials::Plain), [3, 0]);
    // Lists of another type, and longer than the vocabulary.
    let made = gguf(|f| {
        vocabulary(f, "llama", &LLAMA);
        f.set("tokenizer.ggml.scores", Meta::I32s(vec![0, 0, 0, -1, -2, -3]));
        f.set("tokenizer.ggml.token_type", Meta::I32s(vec![2, 3, 3, 1, 1, 1]));
    });
    assert_eq!(made.generation(), &expected);
    let made = gguf(|f| {
        vocabulary(f, "llama", &LLAMA);
        f.set("tokenizer.ggml.bos_token_id", Meta::U32(5));
        f.set("tokenizer.ggml.eos_token_id", Meta::U32(u32::MAX));
    });
    assert_eq!(made.generation(), &expected);
    let ignored =
        "tokenizer.ggml.eos_token_id is 4294967295, but there are 5 tokens; it is ignored";
    assert!(made.notes.iter().any(|note| note == ignored), "{:?}", made.notes);
}

#[test]
fn bos_and_notes_by_pre_tokenizer() {
    for (pre, add_bos, noted) in [
        (Some("llama-bpe"), true, false),
        (Some("falcon3"), true, false),
        (Some("tekken"), true, false),
        (Some("qwen2"), false, false),
        (Some("default"), false, true),
        (None, false, true),
    ] {
        let made = gguf(|f| {
            vocabulary(f, "gpt2", &CHATML);
            f.set("tokenizer.ggml.bos_token_id", Meta::U32(0));
            if let Some(pre) = pre {
                f.set("tokenizer.ggml.pre", Meta::Str(pre.into()));
            }
        });
        assert_eq!(made.generation().add_bos, add_bos, "{pre:?}");
        let prefix = made.tokenizer().prompt_prefix().to_vec();
        assert_eq!(prefix, vec![0; usize::from(add_bos)], "{pre:?}");
        let notes = made.notes.iter().filter(|note| note.contains("token ids may differ"));
        assert_eq!(notes.count(), usize::from(noted), "{pre:?}");
    }
    // SentencePiece has no pre-tokenizer, although converters write this name.
    let made = gguf(|f| {
        vocabulary(f, "llama", &LLAMA);
        f.set("tokenizer.ggml.pre", Meta::Str("default".into()));
    });
    assert_eq!(made.notes, [""; 0]);
}

/// Models for embeddings have it, such as Qwen3-Embedding.
#[test]
fn an_eos_token_follows_texts_if_the_file_says_so() {
    let made = |model: &str, tokens: &[(&str, i32)], keys: &[(&str, Meta)]| {
        gguf(|f| {
            vocabulary(f, model, tokens);
            if model == "gpt2" {
                f.set("tokenizer.ggml.pre", Meta::Str("qwen2".into()));
            }
            for (key, value) in keys {
                f.set(&format!("tokenizer.ggml.{key}"), value.clone());
            }
        })
    };
    let [adds, adds_not] = [true, false].map(|adds| ("add_eos_token", Meta::Bool(adds)));
    let around = |made: &Made| {
        let tokenizer = made.tokenizer();
        (tokenizer.prompt_prefix().to_vec(), tokenizer.suffix())
    };
    let eos = |id| ("eos_token_id", Meta::U32(id));
    let qwen = made("gpt2", &CHATML, &[eos(0), ("eot_token_id", Meta::U32(1)), adds.clone()]);
    assert_eq!((around(&qwen), &qwen.generation().eos), ((vec![], vec![0]), &vec![0, 1]));
    let (bos, adds_bos) = (("bos_token_id", Meta::U32(0)), ("add_bos_token", Meta::Bool(true)));
    let both = made("gpt2", &CHATML, &[bos, adds_bos, eos(1), adds.clone()]);
    assert_eq!(around(&both), (vec![0], vec![1]));
    for keys in
        [&[eos(0)][..], &[eos(0), adds_not], std::slice::from_ref(&adds), &[eos(9), adds.clone()]]
    {
        assert_eq!(around(&made("gpt2", &CHATML, keys)), (vec![], vec![]));
    }
    let usual = made("llama", &LLAMA, &[adds]);
    assert_eq!(around(&usual), (vec![1], vec![2]));
}

#[test]
fn phi3_is_recognised_by_its_name() {
    for (name, expected) in [("Phi-3", [1, 3, 4]), ("phi3", [1, 3, 4]), ("Phi 3.5 Mini", [1, 3, 4])]
    {
        let made = gguf(|f| {
            vocabulary(
                f,
                "llama",
                &[("<unk>", 2), ("<|user|>", 3), ("</s>", 3), ("▁", 1), ("a", 1)],
            );
            f.set("general.name", Meta::Str(name.into()));
        });
        assert_eq!(made.tokenizer().encode("<|user|>\n a", Specials::Parse), expected, "{name}");
    }
}

#[test]
fn sampling_defaults() {
    let none = gguf(|_| ());
    assert_eq!(none.generation(), &Generation::default());
    let made = gguf(|f| {
        for (key, value) in
            [("temp", 0.6), ("top_p", 0.95), ("min_p", -0.5), ("penalty_repeat", 1.1)]
        {
            f.set(&format!("general.sampling.{key}"), Meta::F32(value));
        }
        f.set("general.sampling.top_k", Meta::U32(20));
        f.set("general.sampling.mirostat", Meta::U32(2));
        f.set("general.sampling.xtc_probability", Meta::F32(0.0));
        f.set("general.sampling.penalty_last_n", Meta::U32(64));
    });
    let expected = Generation {
        temperature: Some(0.6),
        top_k: Some(20),
        top_p: Some(0.95),
        min_p: Some(0.0),
        repetition_penalty: Some(1.1),
        ..Generation::default()
    };
    assert_eq!(made.generation(), &expected);
    let ignored = "sampling defaults not supported here: general.sampling.penalty_last_n, \
        general.sampling.mirostat";
    assert_eq!(made.notes, [ignored]);
    let bare = gguf(|f| f.set("general.sampling.top_k", Meta::U32(64)));
    let expected = Generation { temperature: Some(1.0), top_k: Some(64), ..Generation::default() };
    assert_eq!(bare.generation(), &expected);
    let error = try_gguf(|f| f.set("general.sampling.temp", Meta::F32(f32::INFINITY))).err();
    assert!(error.unwrap().contains("temperature is inf"));
}

/// A tokenizer may have tokens without an embedding, if text cannot yield them.
#[test]
fn more_tokens_than_embeddings() {
    let mut tokens = LLAMA.to_vec();
    let fillers: Vec<String> = (5..17).map(|i| format!("[{i}]")).collect();
    tokens.extend(fillers.iter().map(|text| (text.as_str(), 5)));
    let with = |last: (&'static str, i32)| {
        let mut tokens = tokens.clone();
        tokens.push(last);
        try_gguf(|f| {
            vocabulary(f, "llama", &tokens);
            f.set("tokenizer.ggml.eot_token_id", Meta::U32(17));
        })
    };
    for kind in [3, 4] {
        let made = with(("[PAD]", kind)).unwrap();
        assert_eq!(made.generation().eos, [2]);
        assert!(made.tokenizer().max_id() < 17);
        assert_eq!(made.tokenizer().encode("a[PAD]", Specials::Parse), [3, 4, 0]);
        let note = "the token \"[PAD]\" is left out: the model has only 17 embeddings";
        assert_eq!(made.notes, [note]);
    }
    let error = with(("▁a", 1)).err().unwrap();
    assert!(error.contains("token \"▁a\" has id 17, but the model has 17 rows"), "{error}");
    let error = with(("z", 1)).err().unwrap();
    assert!(error.contains("token \"z\" has id 17"), "{error}");
}

#[test]
fn settings_listed_layer_by_layer() {
    let list = |key: &str, values: &[i32]| {
        try_gguf(|f| f.set(&format!("llama.{key}"), Meta::I32s(values.to_vec())))
    };
    for (key, value) in
        [("attention.head_count", 2), ("attention.head_count_kv", 1), ("feed_forward_length", 30)]
    {
        let plain = gguf(|_| ());
        let listed = list(key, &[value; 2]).unwrap();
        assert_eq!(listed.nano.config(), plain.nano.config(), "{key}");
        for (values, expected) in [
            (&[value, 7][..], format!("llama.{key} is {value} in layer 0, but 7 in layer 1")),
            (&[value; 3], format!("llama.{key} has 3 values, expected one for each of 2 layers")),
            (&[-1; 2], format!("llama.{key} is -1, expected 0 to")),
        ] {
            let error = list(key, values).err().unwrap();
            assert!(error.contains(&expected), "{error}");
        }
    }
}

/// A byte-level tokenizer with one added token, `<s>`.
fn tokenizer_json() -> Value {
    let vocab = json!({"a": 0, "<s>": 1, "b": 2, "ab": 3, "<end>": 4, "<": 5, ">": 6});
    byte_level(vocab, json!([["a", "b"]]))
}

fn try_folder(files: &[(&str, Value)]) -> Result<Made, String> {
    Made::by(|dir| {
        SMALL.write(dir, &SMALL.weights());
        let mut config = SMALL.config();
        (config["bos_token_id"], config["eos_token_id"]) = (json!(1), json!(1));
        std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
        std::fs::write(dir.join("tokenizer.json"), tokenizer_json().to_string()).unwrap();
        for (name, json) in files {
            std::fs::write(dir.join(name), json.to_string()).unwrap();
        }
        Input::Folder(dir.into())
    })
}

#[track_caller]
fn folder(files: &[(&str, Value)]) -> Made {
    try_folder(files).unwrap()
}

fn config(json: Value) -> (&'static str, Value) {
    ("tokenizer_config.json", json)
}

#[test]
fn the_tokenizer_config_names_special_tokens() {
    let plain = folder(&[]);
    let usual = Generation { bos: Some(1), eos: vec![1], ..Generation::default() };
    assert_eq!(plain.generation(), &usual);
    // What follows from the ids is not recorded, and the tokenizer is unchanged.
    let same = json!({"bos_token": "<s>", "eos_token": {"content": "<s>", "lstrip": false}, "pad_token": "<s>"});
    let same = folder(&[config(same)]);
    assert_eq!(same.generation(), &usual);
    assert_eq!(same.nano.header().content_id, plain.nano.header().content_id);

    for eos in [json!("<end>"), json!({"__type": "AddedToken", "content": "<end>"})] {
        let made = folder(&[config(json!({"bos_token": null, "eos_token": eos}))]);
        let expected = Generation {
            eos: vec![1, 4],
            bos_token: Some(String::new()),
            eos_token: Some("<end>".into()),
            ..usual.clone()
        };
        assert_eq!(made.generation(), &expected);
        // It was an ordinary token of the vocabulary.
        assert_eq!(made.tokenizer().encode("a<end>", Specials::Parse), [0, 4]);
        assert_eq!(plain.tokenizer().encode("a<end>", Specials::Parse), [0, 5, 6]);
    }
    let template = |t: &str| config(json!({"chat_template": t, "pad_token": "<end>"}));
    assert_eq!(folder(&[template("{{ bos_token }}")]).generation(), &usual);
    let made = folder(&[template("{{ pad_token }}")]);
    assert_eq!(made.generation().pad_token.as_deref(), Some("<end>"));
    let older = folder(&[("special_tokens_map.json", json!({"eos_token": "<end>"}))]);
    assert_eq!(older.generation().eos, [1, 4]);
    let error = try_folder(&[config(json!({"eos_token": 3}))]).err().unwrap();
    assert!(error.contains("eos_token is neither a text nor an object"), "{error}");
}

#[test]
fn tokens_that_only_other_files_define() {
    let token = |content: &str, special: bool| {
        json!({"content": content, "special": special, "lstrip": false, "rstrip": special,
            "single_word": false, "normalized": false})
    };
    let decoder = json!({
        "1": token("<s>", true), "7": token("<tool>", true), "8": token("word", false),
    });
    let made = folder(&[
        config(json!({"added_tokens_decoder": decoder})),
        ("added_tokens.json", json!({"<unused>": 9})),
    ]);
    let encode = |specials| made.tokenizer().encode("<tool> aword<unused>", specials);
    assert_eq!(encode(Specials::Parse), [7, 0, 8, 5, 6]);
    assert_eq!(encode(Specials::Plain), [5, 6, 0, 8, 5, 6]);

    let older = folder(&[
        ("added_tokens.json", json!({"<tool>": 7, "word": 8, "<s>": 11, "a": 0, "taken": 2})),
        config(json!({"additional_special_tokens": ["<tool>", "<unknown>"]})),
    ]);
    let encode = |specials| older.tokenizer().encode("<tool>word<s>a", specials);
    assert_eq!(encode(Specials::Parse), [7, 8, 1, 0]);
    assert_eq!(encode(Specials::Plain), [5, 6, 8, 5, 6, 0]);
    assert_eq!(
        older.notes,
        ["the id of the added token \"taken\" belongs to another token: the former is left out"]
    );

    let made = folder(&[config(json!({"added_tokens_decoder": {"17": token("[PAD]", true)}}))]);
    assert_eq!(made.notes, ["the token \"[PAD]\" is left out: the model has only 17 embeddings"]);
    for (bad, expected) in [
        (json!({"x": token("a", true)}), "has the key \"x\", not a token id"),
        (json!({"7": {"lstrip": true}}), "is neither a text nor an object"),
        (json!([]), "added_tokens_decoder is not an object"),
    ] {
        let error = try_folder(&[config(json!({"added_tokens_decoder": bad}))]).err().unwrap();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn the_version_of_the_packer_is_recorded() {
    assert_eq!(gguf(|_| ()).nano.packer_version(), OUTPUT_VERSION);
    assert_eq!(folder(&[]).nano.packer_version(), OUTPUT_VERSION);
    assert!(nanoinfer_packer::missed_by(2).is_some());
    assert_eq!(nanoinfer_packer::missed_by(OUTPUT_VERSION), None);
}

#[test]
fn encoders_have_tokenizers_of_their_own() {
    let t5 = [("<pad>", 3), ("</s>", 3), ("<unk>", 2), ("▁a", 1), ("b", 1), ("▁", 1)];
    let made = |keys: &[(&str, Meta)]| {
        try_gguf(|f| {
            vocabulary(f, "t5", &t5);
            for (key, value) in keys {
                f.set(&format!("tokenizer.ggml.{key}"), value.clone());
            }
        })
    };
    let ids = |made: &Made, text| made.tokenizer().encode(text, Specials::Plain);
    // Without keys, text stays as it is, and a token follows it.
    let plain = made(&[]).unwrap();
    assert_eq!(ids(&plain, "b  a"), [4, 5, 3]);
    assert_eq!((plain.tokenizer().prompt_prefix(), plain.tokenizer().suffix()), (&[][..], vec![1]));
    assert_eq!((&plain.generation().eos, plain.generation().add_bos), (&vec![1], false));
    let flags = [
        ("add_space_prefix", Meta::Bool(true)),
        ("remove_extra_whitespaces", Meta::Bool(true)),
        ("add_eos_token", Meta::Bool(false)),
    ];
    let words = made(&flags).unwrap();
    assert_eq!((ids(&words, " b  a é"), words.tokenizer().suffix()), (vec![5, 4, 3, 5, 2], vec![]));
    for (rules, expected) in [
        (vec![1, 2, 300], "tokenizer.ggml.precompiled_charsmap contains 300, expected a byte"),
        (vec![-1, -1], "normalizer.precompiled_charsmap: is too short"),
    ] {
        let error = made(&[("precompiled_charsmap", Meta::I32s(rules))]).map(|_| ()).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    let bert = [("[CLS]", 3), ("[UNK]", 3), ("[SEP]", 3), ("▁a", 1), ("b", 1), ("▁é", 1)];
    let made = |keys: &[(&str, Meta)]| {
        gguf(|f| {
            vocabulary(f, "bert", &bert);
            for (key, id) in [("cls", 0), ("unknown", 1), ("seperator", 2)] {
                f.set(&format!("tokenizer.ggml.{key}_token_id"), Meta::U32(id));
            }
            for (key, value) in keys {
                f.set(&format!("tokenizer.ggml.{key}"), value.clone());
            }
        })
    };
    let uncased = made(&[]);
    assert_eq!(ids(&uncased, "AB a é"), [3, 4, 3, 1]);
    let tokenizer = uncased.tokenizer();
    assert_eq!((tokenizer.prompt_prefix(), tokenizer.suffix()), (&[0][..], vec![2]));
    assert!(uncased.generation().eos.is_empty());
    let accents = [
        ("normalizer.strip_accents", Meta::Bool(false)),
        ("add_sep_token", Meta::Bool(false)),
        ("add_bos_token", Meta::Bool(false)),
    ];
    let accents = made(&accents);
    assert_eq!(ids(&accents, "AB a é"), [3, 4, 3, 5]);
    let tokenizer = accents.tokenizer();
    assert_eq!((tokenizer.prompt_prefix(), tokenizer.suffix()), (&[][..], vec![]));
    let cased = made(&[("normalizer.lowercase", Meta::Bool(false))]);
    assert_eq!(ids(&cased, "AB ab"), [1, 3, 4]);
}
