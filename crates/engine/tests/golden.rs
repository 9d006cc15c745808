//! Logits and greedy continuations of published implementations (see tests/data/tiny/README.md).

mod common;

use common::{data, engine, greedy, logits, max_diff, mean_kl, model};
use nanoinfer_format::Quant;

const GOLDENS: [&str; 10] = [
    "llama-gqa",
    "llama-tied-bf16",
    "llama3-rope",
    "llama-sharded-f16",
    "mistral-swa",
    "qwen2-bias",
    "qwen3-qknorm",
    "phi3-fused",
    "granite",
    "gemma3-text",
];

struct Golden {
    prompt: Vec<u32>,
    greedy: Vec<u32>,
    logits: Vec<Vec<f32>>,
}

fn golden(name: &str) -> Golden {
    let folder = data("tiny").join(name);
    let json = std::fs::read(folder.join("golden.json")).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let ids = |key: &str| serde_json::from_value(json[key].clone()).unwrap();
    let bytes = std::fs::read(folder.join("golden.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensor = tensors.tensor("logits").unwrap();
    let values: Vec<f32> =
        tensor.data().chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    let rows = values.chunks(tensor.shape()[1]).map(<[f32]>::to_vec).collect();
    Golden { prompt: ids("prompt"), greedy: ids("greedy"), logits: rows }
}

#[test]
fn f32_agrees_with_published_logits_and_greedy_ids() {
    for name in GOLDENS {
        let golden = golden(name);
        let mut engine = engine(model(&data("tiny").join(name), Quant::F32), 2);
        let ours = logits(&mut engine, &golden.prompt, 16);
        let diff = max_diff(&ours, &golden.logits);
        println!("{name} f32: max |Δlogit| {diff:.1e}");
        assert!(diff <= 5e-4, "{name}: {diff}");
        assert_eq!(greedy(&mut engine, &golden.prompt, 24), golden.greedy, "{name}");
    }
}

#[test]
fn q8_stays_near_the_published_logits() {
    for name in GOLDENS {
        let golden = golden(name);
        let mut engine = engine(model(&data("tiny").join(name), Quant::Q8), 2);
        let ours = logits(&mut engine, &golden.prompt, 16);
        let (kl, diff) = (mean_kl(&golden.logits, &ours), max_diff(&ours, &golden.logits));
        println!("{name} q8: mean KL {kl:.5}, max |Δlogit| {diff:.3}");
        assert!(kl <= 0.002, "{name}: {kl}");
        assert!(diff <= 0.3, "{name}: {diff}");
    }
}
