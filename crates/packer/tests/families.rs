//! The reference models as llama.cpp's `convert_hf_to_gguf.py` writes them: every tensor and
//! setting must equal its counterpart from the Hugging Face folder. The `gguf.json` in a model's
//! folder specifies how the converter spells it (see tests/data/tiny/README.md).

mod common;

use std::collections::BTreeMap;

use common::gguf::{GgufFile, Meta, NAMES, permuted};
use common::{delta, stacks};
use common::{golden, packed, read_folder};
use nanoinfer_format::NanoFile;
use nanoinfer_packer::{Input, Options, Quant, convert};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// `gguf.json`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Spelling {
    architecture: String,
    #[serde(default)]
    rope_type: RopeType,
    /// Added to the weights of norms.
    #[serde(default)]
    norm_offset: f32,
    /// Parts of tensor names that differ from [`NAMES`].
    #[serde(default)]
    names: BTreeMap<String, String>,
    /// Factors that the converter applies to a weight, by parts of its name: rows and their factor, until all rows
    /// are covered.
    #[serde(default)]
    factors: BTreeMap<String, Vec<(usize, f32)>>,
    /// Vectors that the converter adds.
    #[serde(default)]
    tensors: BTreeMap<String, Vec<f32>>,
    /// Keys other than those that all architectures have.
    #[serde(default)]
    keys: Map<String, Value>,
    /// Settings without a GGUF key, with the values that llama.cpp assumes.
    #[serde(default)]
    settings: Map<String, Value>,
}

#[derive(Default, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum RopeType {
    /// The converter permutes Q and K.
    Norm,
    #[default]
    Neox,
}

/// A value in `gguf.json`; a number without a decimal point is an integer.
fn meta(value: &Value) -> Meta {
    match value {
        Value::Bool(v) => Meta::Bool(*v),
        Value::Number(v) if v.is_f64() => Meta::F32(v.as_f64().unwrap() as f32),
        Value::Number(v) => Meta::U32(v.as_u64().unwrap().try_into().unwrap()),
        Value::String(v) => Meta::Str(v.clone()),
        Value::Array(_) => Meta::I32s(serde_json::from_value(value.clone()).unwrap()),
        other => panic!("{other} has no GGUF type here"),
    }
}

/// A tensor: name, dimensions (innermost first), values.
type Tensor = (String, Vec<u64>, Vec<f32>);

/// Merges `blk.L.ffn_experts.E.PART.weight` of all experts E into `blk.L.ffn_PART_exps.weight`.
fn stack_experts(tensors: Vec<Tensor>) -> Vec<Tensor> {
    let mut stacks = BTreeMap::<String, BTreeMap<u32, (Vec<u64>, Vec<f32>)>>::new();
    let mut out = Vec::new();
    for (name, dims, values) in tensors {
        let Some((layer, rest)) = name.split_once("ffn_experts.") else {
            out.push((name, dims, values));
            continue;
        };
        let (expert, part) = rest.split_once('.').unwrap();
        let stack = format!("{layer}ffn_{}_exps.weight", part.strip_suffix(".weight").unwrap());
        stacks.entry(stack).or_default().insert(expert.parse().unwrap(), (dims, values));
    }
    for (name, experts) in stacks {
        let mut dims = experts[&0].0.clone();
        dims.push(experts.len() as u64);
        out.push((name, dims, experts.into_values().flat_map(|(_, values)| values).collect()));
    }
    out
}

/// Stacks `NAME.norms.H.weight` of all heads H into `NAME.weight`.
fn stack_norms(tensors: Vec<Tensor>) -> Vec<Tensor> {
    let mut stacks = BTreeMap::<String, BTreeMap<u32, Vec<f32>>>::new();
    let mut out = Vec::new();
    for (name, dims, values) in tensors {
        match name.trim_end_matches(".weight").split_once(".norms.") {
            None => out.push((name, dims, values)),
            Some((norm, head)) => {
                let stack = stacks.entry(format!("{norm}.weight")).or_default();
                stack.insert(head.parse().unwrap(), values);
            }
        }
    }
    for (name, heads) in stacks {
        let dims = vec![heads[&0].len() as u64, heads.len() as u64];
        out.push((name, dims, heads.into_values().flatten().collect()));
    }
    out
}

/// Moves the parameters of xIELU from tensors of each layer to metadata.
fn list_activations(file: &mut GgufFile) {
    let mut keys = BTreeMap::<String, BTreeMap<u32, f32>>::new();
    file.tensors.retain(|(name, _, values)| {
        let Some((layer, key)) = name.split_once(".ffn_act_fn.") else { return true };
        let layer = layer.trim_start_matches("blk.").parse().unwrap();
        keys.entry(format!("xielu.{key}")).or_default().insert(layer, values[0]);
        false
    });
    for (key, layers) in keys {
        file.set(&key, Meta::F32s(layers.into_values().collect()));
    }
}

/// The keys that the converter writes for all architectures.
fn common_keys(s: &Value) -> Vec<(&'static str, Meta)> {
    let u32 = |key: &str| Meta::U32(s[key].as_u64().unwrap() as u32);
    let f32 = |value: &Value| Meta::F32(value.as_f64().unwrap() as f32);
    let of_layers = ["norm_epsilon", "layer_norm_eps"].into_iter().find(|key| s[*key].is_number());
    let epsilon = if let Some(key) = of_layers {
        ("attention.layer_norm_epsilon", f32(&s[key]))
    } else {
        let stated = ["rms_norm_eps", "norm_eps", "layer_norm_epsilon"]
            .into_iter()
            .find(|key| s[*key].is_number());
        ("attention.layer_norm_rms_epsilon", f32(&s[stated.unwrap()]))
    };
    let theta = &s["rope_parameters"]["rope_theta"];
    let theta = if theta.is_number() { theta } else { &s["rope_theta"] };
    let mut keys = vec![
        ("context_length", u32("max_position_embeddings")),
        ("embedding_length", u32("hidden_size")),
        ("block_count", u32("num_hidden_layers")),
        ("attention.head_count", u32("num_attention_heads")),
        ("attention.head_count_kv", u32("num_key_value_heads")),
        ("attention.key_length", Meta::U32(head_dim(s) as u32)),
        ("attention.value_length", Meta::U32(head_dim(s) as u32)),
        ("rope.freq_base", f32(theta)),
        epsilon,
    ];
    // Absent in models with experts on every layer.
    keys.extend(
        s["intermediate_size"].as_u64().map(|n| ("feed_forward_length", Meta::U32(n as u32))),
    );
    keys
}

fn size(s: &Value, key: &str) -> usize {
    s[key].as_u64().unwrap() as usize
}

fn head_dim(s: &Value) -> usize {
    match s["head_dim"].as_u64() {
        Some(stated) => stated as usize,
        None => size(s, "hidden_size") / size(s, "num_attention_heads"),
    }
}

/// Applies the factors of a weight.
fn scale(spelling: &Spelling, name: &str, dims: &[usize], values: &mut [f32]) {
    let Some((_, factors)) = spelling.factors.iter().find(|(part, _)| name.contains(*part)) else {
        return;
    };
    let mut rows = values.chunks_mut(dims[1]);
    for &(n, factor) in factors {
        rows.by_ref().take(n).flatten().for_each(|w| *w *= factor);
    }
    assert_eq!(rows.len(), 0, "{name}");
}

/// What the converter does with the weights of recurrent layers, and with fused networks and experts.
fn recurrent(
    spelling: &Spelling,
    name: String,
    mut dims: Vec<usize>,
    mut values: Vec<f32>,
) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    match name.split('.').nth_back(1).unwrap_or_default() {
        "conv1d" | "conv" if dims.len() == 3 => drop(dims.remove(1)),
        "input_linear" => {
            let stacked = dims.len() == 3;
            let shared = spelling.keys.contains_key("expert_count");
            let suffix = if stacked {
                "_exps"
            } else if shared {
                "_shexp"
            } else {
                ""
            };
            let fused =
                if stacked { "block_sparse_moe.input_linear" } else { "shared_mlp.input_linear" };
            let half = dims[dims.len() - 2..].iter().product::<usize>() / 2;
            let rows = dims.len() - 2;
            dims[rows] /= 2;
            let part = |part, second: usize| {
                let own = values.chunks(half).skip(second).step_by(2).flatten().copied().collect();
                (name.replace(fused, &format!("mlp.{part}{suffix}")), dims.clone(), own)
            };
            return vec![part("gate", 0), part("up", 1)];
        }
        "norm" if name.contains("mamba.norm") || name.contains("mixer.norm") => {
            let groups = spelling.keys["ssm.group_count"].as_u64().unwrap() as usize;
            dims = vec![groups, dims[0] / groups];
        }
        "mamba" | "mixer" if name.ends_with(".A_log") || name.ends_with(".D") => {
            dims.push(1);
            if name.ends_with(".A_log") {
                values.iter_mut().for_each(|x| *x = -f64::from(*x).exp() as f32);
            }
        }
        _ => {}
    }
    vec![(name, dims, values)]
}

/// The projection of keys and values of each head, which the converter divides for some architectures.
fn latent(
    architecture: &str,
    s: &Value,
    (name, dims, values): (String, Vec<usize>, Vec<f32>),
) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    if architecture != "deepseek2" || !name.contains("kv_b_proj") {
        return vec![(name, dims, values)];
    }
    let (heads, rank) = (size(s, "num_attention_heads"), dims[1]);
    let (nope, value) = (size(s, "qk_nope_head_dim"), size(s, "v_head_dim"));
    let (mut keys, mut own) = (Vec::new(), Vec::new());
    for head in values.chunks((nope + value) * rank) {
        let (key, rest) = head.split_at(nope * rank);
        keys.extend((0..rank).flat_map(|column| key.iter().skip(column).step_by(rank)));
        own.extend_from_slice(rest);
    }
    let keys = keys.into_iter().copied().collect();
    vec![
        (name.replace("kv_b", "k_b"), vec![heads, rank, nope], keys),
        (name.replace("kv_b", "v_b"), vec![heads, value, rank], own),
    ]
}

/// The model in the folder `name`, with settings `s`, as the converter writes it.
fn gguf(name: &str, spelling: &Spelling, s: &Value) -> GgufFile {
    let architecture = &spelling.architecture;
    let mut file = GgufFile { metadata: Vec::new(), tensors: Vec::new() };
    file.set("general.architecture", Meta::Str(architecture.clone()));
    for (key, value) in common_keys(s) {
        file.set(&format!("{architecture}.{key}"), value);
    }
    for (key, value) in &spelling.keys {
        file.set(&format!("{architecture}.{key}"), meta(value));
    }
    for (name, (dims, mut values)) in read_folder(&golden(name)) {
        scale(spelling, &name, &dims, &mut values);
        if name.ends_with("norm.weight") && !name.ends_with("linear_attn.norm.weight") {
            values.iter_mut().for_each(|w| *w += spelling.norm_offset);
        }
        for (part, heads) in [("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads")]
        {
            if spelling.rope_type == RopeType::Norm && name.contains(part) {
                values = permuted(&values, size(s, heads), head_dim(s));
            }
        }
        let split = latent(architecture, s, (name, dims, values)).into_iter();
        let tensors = split.flat_map(|tensor| stacks::converted(architecture, tensor));
        let tensors = tensors.flat_map(|tensor| delta::converted(architecture, s, tensor));
        for (name, dims, values) in tensors.flat_map(|(n, d, v)| recurrent(spelling, n, d, v)) {
            let own = spelling.names.iter().map(|(from, to)| (from.as_str(), to.as_str()));
            let name = own.chain(NAMES).fold(name, |name, (from, to)| name.replace(from, to));
            file.tensors.push((name, dims.iter().rev().map(|&d| d as u64).collect(), values));
        }
    }
    for (key, name) in [("short_factor", "short"), ("long_factor", "long")] {
        if let Some(factors) = s["rope_parameters"][key].as_array() {
            let values: Vec<_> = factors.iter().map(|v| v.as_f64().unwrap() as f32).collect();
            let name = format!("rope_factors_{name}.weight");
            file.tensors.push((name, vec![values.len() as u64], values));
        }
    }
    for (name, values) in &spelling.tensors {
        file.tensors.push((name.clone(), vec![values.len() as u64], values.clone()));
    }
    file.tensors = stack_norms(stack_experts(file.tensors));
    list_activations(&mut file);
    file
}

/// A config without its architecture, with numbers rounded to GGUF's precision.
fn comparable(nano: &NanoFile) -> Value {
    fn round(value: &mut Value) {
        match value {
            Value::Array(list) => list.iter_mut().for_each(round),
            Value::Object(map) => map.values_mut().for_each(round),
            Value::Number(n) if n.is_f64() => *value = json!(n.as_f64().unwrap() as f32),
            _ => {}
        }
    }
    let mut config = serde_json::to_value(nano.config()).unwrap();
    round(&mut config);
    config["architecture"] = Value::Null; // `gemma3_text` in Hugging Face is `gemma3` in GGUF
    config
}

fn assert_same_model(name: &str, hf: &NanoFile, gguf: &NanoFile) {
    assert_eq!(comparable(hf), comparable(gguf), "{name}");
    assert_eq!(hf.tensors().len(), gguf.tensors().len(), "{name}");
    for (a, b) in hf.tensors().iter().zip(gguf.tensors()) {
        let role = a.spec.role.name();
        assert_eq!(a.spec, b.spec, "{name}");
        if role == "rope_turns" {
            // Frequency factors and YaRN's bounds are f32 in GGUF.
            for (a, b) in hf.u64s(a).iter().zip(gguf.u64s(b)) {
                assert!(a.abs_diff(*b) <= a >> 20, "{name} {a} {b}");
            }
        } else if role == "ssm_a" {
            // −exp(A_log) in GGUF; that of the packer has the same bits on every machine, but not those of torch.
            for (a, b) in hf.f32s(a).iter().zip(gguf.f32s(b)) {
                assert!((a - b).abs() <= a.abs() * f32::EPSILON, "{name}: {role} {a} {b}");
            }
        } else {
            assert_eq!(a.hash, b.hash, "{name}: {role} {:?}", a.spec.layer);
        }
    }
}

/// The names and `gguf.json` of all reference models that llama.cpp can convert.
fn spelled() -> Vec<(String, Spelling)> {
    let folders = std::fs::read_dir(golden("")).unwrap().map(|e| e.unwrap().path());
    let read = |folder: std::path::PathBuf| {
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let json = std::fs::read(folder.join("gguf.json")).ok()?;
        let spelling = serde_json::from_slice(&json).unwrap_or_else(|e| panic!("{name}: {e}"));
        Some((name, spelling))
    };
    let mut all: Vec<(String, Spelling)> = folders.filter_map(read).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(all.len() >= 16, "models are missing: {} found", all.len());
    all
}

#[test]
fn gguf_yields_the_same_model_as_the_folder() {
    for (name, spelling) in spelled() {
        let text = std::fs::read_to_string(golden(&name).join("config.json")).unwrap();
        let mut settings: Value = serde_json::from_str(&text).unwrap();
        settings.as_object_mut().unwrap().extend(spelling.settings.clone());
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), settings.to_string()).unwrap();
        let weights = golden(&name).join("model.safetensors");
        std::fs::copy(weights, folder.path().join("model.safetensors")).unwrap();
        let path = folder.path().join("m.gguf");
        std::fs::write(&path, gguf(&name, &spelling, &settings).bytes()).unwrap();
        for quant in [Quant::F32, Quant::Q8] {
            let (hf, _) = packed(folder.path(), &folder.path().join("hf.nano"), quant, 2);
            let out = folder.path().join("gguf.nano");
            let input = Input::detect(&path).unwrap();
            convert(&input, &out, Options::new(quant)).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_same_model(&name, &hf, &NanoFile::open(&out).unwrap());
        }
    }
}
