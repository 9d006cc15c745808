//! Compares logits and greedy continuations with those of published implementations (see
//! tests/data/tiny/README.md).

mod common;

use common::{data, greedy, logits, max_diff, mean_kl, model, tiny};
use nanoinfer_engine::{Engine, EngineOptions, KvType};
use nanoinfer_format::Quant;

struct Golden {
    prompt: Vec<u32>,
    greedy: Vec<u32>,
    logits: Vec<Vec<f32>>,
    /// Context size, if RoPE frequencies depend on it.
    capacity: Option<usize>,
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
    let capacity = json["capacity"].as_u64().map(|n| n as usize);
    Golden { prompt: ids("prompt"), greedy: ids("greedy"), logits: rows, capacity }
}

fn engine(name: &str, golden: &Golden, quant: Quant, kv: Option<KvType>) -> Engine {
    let options =
        EngineOptions { threads: Some(2), ctx: golden.capacity, kv, ..EngineOptions::default() };
    Engine::new(model(&data("tiny").join(name), quant), &options).expect("an engine")
}

#[test]
fn f32_agrees_with_published_logits_and_greedy_ids() {
    for name in tiny() {
        let golden = golden(&name);
        let mut engine = engine(&name, &golden, Quant::F32, None);
        let ours = logits(&mut engine, &golden.prompt, 16);
        let diff = max_diff(&ours, &golden.logits);
        println!("{name} f32: max |Δlogit| {diff:.1e}");
        assert!(diff <= 5e-4, "{name}: {diff}");
        assert_eq!(greedy(&mut engine, &golden.prompt, 24), golden.greedy, "{name}");
    }
}

#[test]
fn q8_stays_close_to_the_published_logits_with_every_cache() {
    for name in tiny() {
        let golden = golden(&name);
        for kv in KvType::ALL {
            let mut engine = engine(&name, &golden, Quant::Q8, Some(kv));
            let ours = logits(&mut engine, &golden.prompt, 16);
            let (kl, diff) = (mean_kl(&golden.logits, &ours), max_diff(&ours, &golden.logits));
            let kv = kv.name();
            println!("{name} q8, {kv} cache: mean KL {kl:.5}, max |Δlogit| {diff:.3}");
            assert!(kl <= 0.002, "{name} {kv}: {kl}");
            assert!(diff <= 0.3, "{name} {kv}: {diff}");
        }
    }
}
