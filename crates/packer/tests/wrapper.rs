//! Models that also see images: their part for text, with its settings and weights inside those of the whole.

mod common;

use common::{Weights, golden, packed, read_folder, safetensors};
use nanoinfer_packer::Quant;
use serde_json::{Value, json};

#[test]
fn the_part_for_text_is_the_model_alone() {
    for (name, wrapper, note) in [
        ("qwen3-5", "qwen3_5", "the vision tower and the layers that only draft (MTP)"),
        ("qwen3-5-experts", "qwen3_5_moe", "the vision tower and the layers that only draft (MTP)"),
        ("gemma4-e", "gemma4", "the vision tower and the audio tower"),
    ] {
        let config = std::fs::read_to_string(golden(name).join("config.json")).unwrap();
        let mut text: Value = serde_json::from_str(&config).unwrap();
        text["mtp_num_hidden_layers"] = 1.into();
        let mut config = json!({
            "model_type": wrapper, "text_config": text, "vision_config": {"depth": 1},
            "tie_word_embeddings": false,
        });
        if wrapper == "gemma4" {
            config["audio_config"] = json!({"depth": 1});
        }
        let inside = |name: String| match name.strip_prefix("model.") {
            Some(rest) => format!("model.language_model.{rest}"),
            None => name,
        };
        let weights = read_folder(&golden(name)).into_iter();
        let mut weights: Weights = weights.map(|(name, plain)| (inside(name), plain)).collect();
        // Of more dimensions than any weight of a text model.
        let patches = (vec![2, 3, 1, 2, 2], vec![0.5; 24]);
        for part in ["visual", "vision_tower", "audio_tower", "embed_vision"] {
            weights.insert(format!("model.{part}.patch_embed.proj.weight"), patches.clone());
        }
        weights.insert("mtp.fc.weight".into(), (vec![2, 4], vec![0.5; 8]));
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        std::fs::write(dir.path().join("model.safetensors"), safetensors(&weights)).unwrap();
        let (_, whole) = packed(dir.path(), &dir.path().join("w.nano"), Quant::Q8, 2);
        let (_, alone) = packed(&golden(name), &dir.path().join("a.nano"), Quant::Q8, 2);
        assert_eq!(whole.content_id, alone.content_id, "{name}");
        let note = format!("converted without {note}");
        assert!(whole.notes.contains(&note), "{name}: {:?}", whole.notes);
    }
}
