//! Models that also see images: their part for text, with its settings and weights inside those of the whole.

mod common;

use common::{Weights, golden, packed, read_folder, refused, safetensors};
use nanoinfer_packer::{Input, Quant};
use serde_json::{Value, json};

/// A model whose part for text is the reference model `name`, with these settings beside it. `prefixed` names its
/// weights, and `others` are those of its other parts.
fn wrapped(
    name: &str,
    (wrapper, text): (&str, Value),
    prefixed: impl Fn(String) -> String,
    others: &[&str],
) -> (Value, Weights) {
    let config = json!({
        "model_type": wrapper, "text_config": text, "vision_config": {"depth": 1},
        "tie_word_embeddings": false,
    });
    let weights = read_folder(&golden(name)).into_iter();
    let mut weights: Weights = weights.map(|(name, plain)| (prefixed(name), plain)).collect();
    // Of more dimensions than any weight of a text model.
    let patches = (vec![2, 3, 1, 2, 2], vec![0.5; 24]);
    weights.extend(others.iter().map(|name| ((*name).to_owned(), patches.clone())));
    (config, weights)
}

/// Converts both, and expects the same model with this note.
fn assert_same(name: &str, (config, weights): (Value, Weights), note: &str) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    std::fs::write(dir.path().join("model.safetensors"), safetensors(&weights)).unwrap();
    let (_, whole) = packed(dir.path(), &dir.path().join("w.nano"), Quant::Q8, 2);
    let (_, alone) = packed(&golden(name), &dir.path().join("a.nano"), Quant::Q8, 2);
    assert_eq!(whole.content_id, alone.content_id, "{name}");
    assert!(whole.notes.iter().any(|n| n == note), "{name}: {:?}", whole.notes);
}

fn settings(name: &str) -> Value {
    let config = std::fs::read_to_string(golden(name).join("config.json")).unwrap();
    serde_json::from_str(&config).unwrap()
}

/// As transformers writes them since version 5.
fn inside(name: String) -> String {
    match name.strip_prefix("model.") {
        Some(rest) => format!("model.language_model.{rest}"),
        None => name,
    }
}

#[test]
fn the_part_for_text_is_the_model_alone() {
    for (name, wrapper) in [("qwen3-5", "qwen3_5"), ("qwen3-5-experts", "qwen3_5_moe")] {
        let mut text = settings(name);
        text["mtp_num_hidden_layers"] = 1.into();
        let others = ["model.visual.patch_embed.proj.weight", "mtp.fc.weight"];
        let note = "converted without the vision tower and the layers that only draft (MTP)";
        assert_same(name, wrapped(name, (wrapper, text), inside, &others), note);
    }
}

#[test]
fn the_parts_that_see_and_hear() {
    let others = ["vision_tower", "audio_tower", "embed_vision", "embed_audio"];
    let others = others.map(|part| format!("model.{part}.patch_embed.proj.weight"));
    let others = others.each_ref().map(String::as_str);
    let kind = ("gemma4", settings("gemma4-e"));
    let (mut config, weights) = wrapped("gemma4-e", kind, inside, &others);
    config["audio_config"] = json!({"depth": 1});
    let note = "converted without the vision tower and the audio tower";
    assert_same("gemma4-e", (config, weights), note);
}

#[test]
fn either_prefix_and_any_known_part() {
    let before = |name: String| format!("language_model.{name}");
    let models = [
        ("gemma3-text", "gemma3"),
        ("ministral3", "mistral3"),
        ("mistral-swa", "mistral3"),
        ("llama4", "llama4"),
        ("gemma4-experts", "gemma4"),
    ];
    for (name, wrapper) in models {
        let kind = (wrapper, settings(name));
        let note = "converted without the vision tower";
        let others = [
            "vision_tower.conv.weight",
            "vision_model.patch_embedding.linear.weight",
            "multi_modal_projector.linear.weight",
        ];
        assert_same(name, wrapped(name, kind.clone(), before, &others), note);
        let others = others.map(|name| format!("model.{name}"));
        let others = others.each_ref().map(String::as_str);
        assert_same(name, wrapped(name, kind, inside, &others), note);
    }
}

/// `[experts, inputs, rows]` as a tensor for each matrix.
fn unstacked((name, (dims, values)): (String, (Vec<usize>, Vec<f32>))) -> Weights {
    let Some((layer, part)) = name.split_once("experts.") else {
        return [(name, (dims, values))].into();
    };
    let [_, k, n] = dims[..] else { unreachable!() };
    let parts = match part {
        "gate_up_proj" => vec![("gate_proj", 0..n / 2), ("up_proj", n / 2..n)],
        _ => vec![(part, 0..n)],
    };
    let mut out = Weights::new();
    for (expert, matrix) in values.chunks(k * n).enumerate() {
        for (part, rows) in &parts {
            let row = |row: usize| matrix.iter().skip(row).step_by(n).copied();
            let own = rows.clone().flat_map(row).collect();
            let name = format!("{layer}experts.{expert}.{part}.weight");
            out.insert(name, (vec![rows.len(), k], own));
        }
    }
    out
}

/// As in quantized checkpoints of Llama 4; and its older settings.
#[test]
fn experts_in_tensors_of_their_own() {
    let mut text = settings("llama4");
    for derived in ["layer_types", "moe_layers"] {
        text.as_object_mut().unwrap().remove(derived);
    }
    text["no_rope_layers"] = json!([]);
    text["attn_temperature_tuning"] = 4.into();
    let before = |name: String| format!("language_model.{name}");
    let (config, weights) = wrapped("llama4", ("llama4", text), before, &[]);
    let weights = weights.into_iter().flat_map(unstacked).collect();
    assert_same("llama4", (config, weights), "converted without the vision tower");
}

#[test]
fn sizes_that_a_wrapper_omits() {
    let mut text = settings("gemma3-text");
    let omitted = ["num_attention_heads", "num_key_value_heads", "max_position_embeddings"];
    omitted.iter().for_each(|key| drop(text.as_object_mut().unwrap().remove(*key)));
    let (config, weights) = wrapped("gemma3-text", ("gemma3", text), inside, &[]);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    std::fs::write(dir.path().join("model.safetensors"), safetensors(&weights)).unwrap();
    // The defaults are those of a larger model.
    refused(&Input::Folder(dir.path().into()), "requires [256, 128]");
}

#[test]
fn parts_that_are_not_supported() {
    let mut text = settings("ministral3");
    text["model_type"] = "mistral4".into();
    let (config, weights) = wrapped("ministral3", ("mistral3", text), inside, &[]);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    std::fs::write(dir.path().join("model.safetensors"), safetensors(&weights)).unwrap();
    refused(&Input::Folder(dir.path().into()), "architecture \"mistral4\" is not supported");
}
