//! Compares logits and greedy continuations with those of published implementations (see
//! tests/data/tiny/README.md).

mod common;

use common::{data, greedy, logits, max_diff, mean_kl, model, tiny};
use nanoinfer_engine::{Engine, EngineOptions, KvType, Model};
use nanoinfer_format::Quant;
use nanoinfer_hub::calibrate::{OwnText, Text};
use nanoinfer_hub::{ConvertOptions, ModelRef, Store};
use nanoinfer_packer::synthetic::{Shape, build};

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
            // A state keeps the errors of earlier tokens, so single logits differ by more.
            let most = if engine.model().config().recurrent.is_some() { 0.6 } else { 0.3 };
            let (max_kl, max_diff) = if kv == "q4" { (0.05, 1.5) } else { (0.002, most) };
            assert!(kl <= max_kl, "{name} {kv}: {kl}");
            assert!(diff <= max_diff, "{name} {kv}: {diff}");
        }
    }
}

/// Rounding to 4 or 5 bits leaves a squared error of ε², relative to the weights: -21.7 and -27.4 dB for
/// Gaussian weights, which rotation makes of any. Each of the n matrices on the way from a token to the
/// logits adds at most a share ε² of the variance σ² of the logits, and twice that if attention and
/// gates multiply two such terms. A small error of variance v has a divergence of v/2, so the bound is
/// n·ε²·σ². (Ungated, untied, with experts or post-norms: fewer terms, not more.) A recurrent layer multiplies
/// queries, keys, values and gates, keys twice, so its nine uses of matrices, with the feed-forward ones, count
/// twice.
#[test]
fn q5_and_q4_stay_within_the_error_of_their_codes() {
    for name in tiny() {
        let golden = golden(&name);
        let variance =
            golden.logits.iter().map(|row| variance(row)).sum::<f64>() / golden.logits.len() as f64;
        for (quant, decibels) in [(Quant::Q5, 27.4), (Quant::Q4, 21.7)] {
            let mut engine = engine(&name, &golden, quant, None);
            let ours = logits(&mut engine, &golden.prompt, 16);
            let config = engine.model().config();
            let of = |layer| if config.recurrent_of(layer).is_some() { 18 } else { 7 };
            // Q, K, V, O, gate, up, down; both ends
            let n = (0..config.n_layers as usize).map(of).sum::<u32>() + 2;
            let bound = f64::from(n) * 10f64.powf(-decibels / 10.0) * variance;
            let kl = mean_kl(&golden.logits, &ours);
            println!("{name} {}: mean KL {kl:.5}, bound {bound:.5}", quant.name());
            assert!(kl <= bound, "{name} {}: {kl}, bound {bound}", quant.name());
        }
    }
}

/// Of models with recurrent layers; text that a random model writes says little, so single ones may lose.
#[test]
fn calibration_includes_recurrent_layers() {
    let (mut sums, folder) = ([0.0; 2], tempfile::tempdir().unwrap());
    let store = Store::at(folder.path().join("cache"));
    for name in tiny() {
        let golden = golden(&name);
        let source = data("tiny").join(&name);
        if engine(&name, &golden, Quant::Q8, None).model().config().recurrent.is_none() {
            continue;
        }
        let kl = |quant: Quant, calibrate: Option<Text>| {
            let file = folder.path().join("model.nano");
            let mut options = ConvertOptions::new(quant);
            options.calibrate = calibrate;
            let source = ModelRef::parse(source.to_str().unwrap()).unwrap();
            store.convert(&source, &file, &options, None, &mut |_| {}).unwrap();
            let options = EngineOptions { ctx: golden.capacity, ..EngineOptions::default() };
            let mut engine = Engine::new(Model::open(&file).unwrap(), &options).unwrap();
            mean_kl(&golden.logits, &logits(&mut engine, &golden.prompt, 16))
        };
        for quant in [Quant::Q5, Quant::Q4] {
            let text = || Some(Text::Own(OwnText { texts: 16, seed: 0 }));
            let both = [kl(quant, None), kl(quant, text())];
            println!("{name} {}: mean KL {:.5}, calibrated {:.5}", quant.name(), both[0], both[1]);
            assert!(both[1] < 1.5 * both[0], "{name} {}", quant.name());
            sums.iter_mut().zip(both).for_each(|(sum, kl)| *sum += kl);
        }
    }
    assert!(0.0 < sums[1] && sums[1] < sums[0], "{sums:?}");
}

fn variance(row: &[f32]) -> f64 {
    let n = row.len() as f64;
    let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
    row.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n
}

/// As `bench` does to measure the speed of a model that was not downloaded.
#[test]
fn a_model_with_random_weights_in_the_shape_of_each_runs() {
    for (name, quant) in tiny()
        .into_iter()
        .flat_map(|name| [Quant::Q8, Quant::Q4].map(|quant| (name.clone(), quant)))
    {
        let config = data("tiny").join(&name).join("config.json");
        let shape = Shape::read(&config).unwrap().with_quant(quant);
        let folder = tempfile::tempdir().unwrap();
        let staged = build(&shape, folder.path(), &mut |_| {}).unwrap();
        let options = EngineOptions { threads: Some(2), ..EngineOptions::default() };
        let mut engine = Engine::new(Model::open(staged.path()).unwrap(), &options).unwrap();
        let prompt: Vec<u32> = (0..60).collect();
        let rows = logits(&mut engine, &prompt, 32);
        assert!(rows.iter().flatten().all(|x| x.is_finite()), "{name}");
        assert!(rows[59].iter().any(|x| *x != rows[59][0]), "{name}: all logits are alike");
    }
}
