//! Models with experts: one tensor per expert in folders, one tensor for all experts in GGUF.

mod common;

use common::gguf::{GgufFile, Meta};
use common::{ODD, Plain, Shape, Weights, packed, random, refused, safetensors};
use nanoinfer_format::{Encoding, NanoFile, Role, RouterSoftmax};
use nanoinfer_packer::{Input, Options, Quant, convert, describe};
use serde_json::json;
use std::path::Path;
use tempfile::TempDir;

/// Widths that are not multiples of a panel or a group.
const SHAPE: Shape = Shape { d: 20, ff: 30, heads: 2, kv: 1, head_dim: 6, vocab: 17, ..ODD };
const EXPERTS: usize = 3;
const PARTS: [(&str, &str); 3] = [("gate_proj", "w1"), ("up_proj", "w3"), ("down_proj", "w2")];

fn dense_name(layer: usize, part: &str) -> String {
    format!("model.layers.{layer}.mlp.{part}.weight")
}

fn expert_name(layer: usize, expert: usize, w: &str) -> String {
    format!("model.layers.{layer}.block_sparse_moe.experts.{expert}.{w}.weight")
}

/// A Mixtral and, for each expert, a dense model with that expert as its feed-forward part.
fn mixtral() -> (Weights, Vec<Weights>) {
    let mut seed = 11;
    let mut sparse = SHAPE.weights();
    let mut dense = vec![sparse.clone(); EXPERTS];
    for layer in 0..SHAPE.layers {
        for (part, w) in PARTS {
            let (shape, values) = sparse.remove(&dense_name(layer, part)).unwrap();
            for (expert, dense) in dense.iter_mut().enumerate() {
                let plain = (shape.clone(), random(&mut seed, values.len()));
                dense.insert(dense_name(layer, part), plain.clone());
                sparse.insert(expert_name(layer, expert, w), plain);
            }
        }
        let router = (vec![EXPERTS, SHAPE.d], random(&mut seed, EXPERTS * SHAPE.d));
        sparse.insert(format!("model.layers.{layer}.block_sparse_moe.gate.weight"), router);
    }
    (sparse, dense)
}

fn write_mixtral(folder: &Path, weights: &Weights) {
    let mut config = SHAPE.config();
    config["model_type"] = "mixtral".into();
    config["num_local_experts"] = EXPERTS.into();
    config["num_experts_per_tok"] = 2.into();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    std::fs::write(folder.join("model.safetensors"), safetensors(weights)).unwrap();
}

/// The same model as GGUF, with the matrices of all experts in one tensor.
fn gguf(weights: &Weights) -> GgufFile {
    let mut stacked = weights.clone();
    stacked.retain(|name, _| !name.contains("block_sparse_moe"));
    for layer in 0..SHAPE.layers {
        for (part, w) in PARTS {
            let experts = (0..EXPERTS).map(|e| &weights[&expert_name(layer, e, w)]);
            let [n, k] = experts.clone().next().unwrap().0[..] else { unreachable!() };
            let values = experts.flat_map(|(_, values)| values.clone()).collect();
            let name = format!("model.layers.{layer}.mlp.{}_exps.weight", &part[..part.len() - 5]);
            stacked.insert(name, (vec![EXPERTS, n, k], values));
        }
        let router = &weights[&format!("model.layers.{layer}.block_sparse_moe.gate.weight")];
        stacked.insert(format!("model.layers.{layer}.mlp.gate_inp.weight"), router.clone());
    }
    let mut file = GgufFile::of(&SHAPE, &stacked);
    file.set("llama.expert_count", Meta::U32(EXPERTS as u32));
    file.set("llama.expert_used_count", Meta::U32(2));
    file
}

fn write(file: &GgufFile) -> (TempDir, Input) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    std::fs::write(&path, file.bytes()).unwrap();
    (dir, Input::detect(&path).unwrap())
}

fn bytes(nano: &NanoFile, role: Role, layer: u32) -> &[u8] {
    nano.bytes(nano.tensor(role, Some(layer)).unwrap())
}

/// The encoding of a dense feed-forward part is tested elsewhere, element by element.
#[test]
fn each_expert_is_stored_like_a_dense_feed_forward_part() {
    let (sparse, dense) = mixtral();
    let dir = tempfile::tempdir().unwrap();
    write_mixtral(dir.path(), &sparse);
    for quant in [Quant::F32, Quant::Q8] {
        let (nano, _) = packed(dir.path(), &dir.path().join("m.nano"), quant, 2);
        nano.verify().unwrap();
        let experts = nano.config().experts.clone().unwrap();
        assert_eq!((experts.n_experts, experts.experts_per_token, experts.d_ff), (3, 2, 30));
        assert_eq!(experts.router_softmax, RouterSoftmax::Chosen);
        assert_eq!(experts.layers, [true; 2]);
        for (e, weights) in dense.iter().enumerate() {
            let folder = tempfile::tempdir().unwrap();
            SHAPE.write(folder.path(), weights);
            let (alone, _) = packed(folder.path(), &folder.path().join("m.nano"), quant, 2);
            for layer in 0..2 {
                for (stacked, single) in [
                    (Role::FfnGateUpExperts, Role::FfnGateUp),
                    (Role::FfnDownExperts, Role::FfnDown),
                ] {
                    let want = bytes(&alone, single, layer);
                    let all = bytes(&nano, stacked, layer);
                    assert_eq!(all.len(), EXPERTS * want.len());
                    assert!(all.chunks(want.len()).nth(e).unwrap() == want, "expert {e}");
                }
            }
        }
        let router = nano.tensor(Role::FfnRouter, Some(1)).unwrap();
        assert_eq!(router.spec.encoding, Encoding::F32Panel);
        let (_, want) = &sparse["model.layers.1.block_sparse_moe.gate.weight"];
        let panel = nano.f32s(router);
        for (i, want) in want.iter().enumerate() {
            assert_eq!(panel[i % SHAPE.d * 16 + i / SHAPE.d], *want);
        }
    }
}

#[test]
fn gguf_and_folder_yield_the_same_tensors() {
    let (sparse, _) = mixtral();
    let dir = tempfile::tempdir().unwrap();
    write_mixtral(dir.path(), &sparse);
    // Before April 2024, GGUF had one tensor per expert.
    let mut old = gguf(&sparse);
    let stacked = old.tensors.extract_if(.., |(name, ..)| name.contains("_exps"));
    let alone = stacked.collect::<Vec<_>>().into_iter().flat_map(|(name, dims, values)| {
        let (name, dims) = (name.replace("_exps.weight", ""), dims[..2].to_vec());
        let one = values.len() / EXPERTS;
        let expert = move |e| {
            (format!("{name}.{e}.weight"), dims.clone(), values[e * one..][..one].to_vec())
        };
        (0..EXPERTS).map(expert)
    });
    let alone: Vec<_> = alone.collect();
    old.tensors.extend(alone);
    for quant in [Quant::F32, Quant::Q8] {
        let (hf, _) = packed(dir.path(), &dir.path().join("m.nano"), quant, 2);
        for file in [
            gguf(&sparse),
            GgufFile { metadata: old.metadata.clone(), tensors: old.tensors.clone() },
        ] {
            let (from, input) = write(&file);
            let out = from.path().join("m.nano");
            convert(&input, &out, Options::new(quant)).unwrap();
            let nano = NanoFile::open(&out).unwrap();
            let hashes = |n: &NanoFile| n.tensors().iter().map(|t| t.hash).collect::<Vec<_>>();
            assert_eq!(hashes(&hf), hashes(&nano));
            assert_eq!(nano.config().experts, hf.config().experts);
        }
    }
}

#[test]
fn a_listing_shows_stacks() {
    let (dir, _) = write(&gguf(&mixtral().0));
    let listing = describe(&dir.path().join("m.gguf")).unwrap();
    let of = |name: &str| listing.tensors.iter().find(|t| t.name == name).unwrap();
    let (stack, plain) = (of("blk.0.ffn_down_exps.weight"), of("blk.0.ffn_norm.weight"));
    assert_eq!((stack.experts, stack.shape), (3, [20, 30]));
    assert_eq!((plain.experts, plain.shape), (1, [20, 1]));
    assert_eq!(listing.config.unwrap().experts.unwrap().n_experts, 3);
}

#[test]
fn mismatches_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let folder = |change: &dyn Fn(&mut Weights), expected: &str| {
        let (mut sparse, _) = mixtral();
        change(&mut sparse);
        write_mixtral(dir.path(), &sparse);
        refused(&Input::Folder(dir.path().into()), expected);
    };
    let second = expert_name(1, 1, "w2");
    folder(&|w| drop(w.remove(&second)), &format!("{second:?}: is missing"));
    folder(&|w| drop(w.remove(&expert_name(0, 0, "w1"))), "experts.0.w1.weight\": is missing");
    let plain = |shape: &[usize]| -> Plain { (shape.into(), vec![0.0; shape.iter().product()]) };
    let set = |name: String, shape: &'static [usize]| {
        move |w: &mut Weights| drop(w.insert(name.clone(), plain(shape)))
    };
    folder(&set(expert_name(0, 3, "w1"), &[30, 20]), "experts.3.w1.weight\": is unexpected");
    folder(
        &set(expert_name(0, 2, "w1"), &[20, 30]),
        "has shape [20, 30], but the model's config requires [30, 20]",
    );
    folder(&set(expert_name(0, 2, "w1"), &[1, 30, 20]), "has 3 dimensions");
    folder(&set(dense_name(0, "up_proj"), &[30, 20]), "mlp.up_proj.weight\": is unexpected");

    let file = |change: &dyn Fn(&mut GgufFile), expected: &str| {
        let mut file = gguf(&mixtral().0);
        change(&mut file);
        let (_dir, input) = write(&file);
        refused(&input, expected);
    };
    let count = |n| move |f: &mut GgufFile| f.set("llama.expert_count", Meta::U32(n));
    file(&count(4), "has shape [3, 20], but the model's config requires [4, 20]");
    file(&count(0), "blk.0.ffn_gate.weight\": is missing");
    file(&count(5000), "n_experts is 5000, expected 1 to 4096");
    let used = |n| move |f: &mut GgufFile| f.set("llama.expert_used_count", Meta::U32(n));
    file(&used(0), "experts_per_token is 0");
    file(&used(4), "experts_per_token is 4, expected");
    file(
        &|f| f.tensors.iter_mut().find(|t| t.0.contains("up_exps")).unwrap().1 = vec![20, 90],
        "is not a stack of matrices",
    );
    file(
        &|f| f.tensors.iter_mut().find(|t| t.0.contains("attn_q")).unwrap().1 = vec![20, 6, 2],
        "has 3 dimensions",
    );
}

/// An adapter for one expert's matrix changes only that expert.
#[test]
fn an_adapter_can_change_an_expert() {
    let (mut sparse, _) = mixtral();
    let (dir, adapter) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_mixtral(dir.path(), &sparse);
    let name = expert_name(0, 1, "w1");
    let prefix = format!("base_model.model.{}", name.strip_suffix(".weight").unwrap());
    let lora = Weights::from([
        (format!("{prefix}.lora_A.weight"), (vec![1, 20], vec![0.5; 20])),
        (format!("{prefix}.lora_B.weight"), (vec![30, 1], vec![2.0; 30])),
    ]);
    std::fs::write(adapter.path().join("adapter_model.safetensors"), safetensors(&lora)).unwrap();
    let settings = json!({"peft_type": "LORA", "r": 1, "lora_alpha": 1});
    std::fs::write(adapter.path().join("adapter_config.json"), settings.to_string()).unwrap();
    let out = dir.path().join("m.nano");
    let mut options = Options::new(Quant::F32);
    let folder = adapter.path().into();
    options.loras = vec![nanoinfer_packer::Lora { folder, scale: 1.0 }];
    convert(&Input::Folder(dir.path().into()), &out, options).unwrap();
    let merged = NanoFile::open(&out).unwrap();
    sparse.get_mut(&name).unwrap().1.iter_mut().for_each(|w| *w += 1.0);
    write_mixtral(dir.path(), &sparse);
    let (want, _) = packed(dir.path(), &dir.path().join("w.nano"), Quant::F32, 1);
    let hashes = |n: &NanoFile| n.tensors().iter().map(|t| t.hash).collect::<Vec<_>>();
    assert_eq!(hashes(&merged), hashes(&want));
}
