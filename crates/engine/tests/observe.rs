//! The inputs of matrices that an observer sees, for models of every kind: those that the matrices were
//! multiplied by, however the tokens are divided into passes.

mod common;

use common::{data, model, tiny};
use nanoinfer_engine::{BatchToken, Engine, EngineOptions, Observed, PassId};
use nanoinfer_format::{Quant, Role};
use nanoinfer_kernels::pack::q8_row;
use nanoinfer_kernels::q8_panel_bytes;

/// What was seen of one token at one matrix.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    layer: Option<u32>,
    role: Role,
    input: Vec<f32>,
    residual: Option<f32>,
}

/// Runs all layers, for odd `chunk` in two parts if they have no states.
fn layers(
    engine: &mut Engine,
    batch: &[BatchToken],
    chunk: usize,
    observe: &mut (dyn FnMut(&Observed<'_>) + Send),
) -> PassId {
    let config = engine.model().config();
    let n = config.n_layers as usize;
    let mut residual = vec![f32::NAN; config.d_model_padded() * batch.len()];
    // A recurrent state cannot be rolled back by any number of tokens.
    if chunk.is_multiple_of(2) || config.recurrent.is_some() {
        return engine.forward_layers(batch, 0..n, &mut residual, observe).unwrap();
    }
    // The second part appends the same tokens again.
    let inner: Vec<_> = batch.iter().map(|&t| BatchToken { logits: false, ..t }).collect();
    let len = engine.len(batch[0].seq).unwrap();
    engine.forward_layers(&inner, 0..n / 2, &mut residual, observe).unwrap();
    engine.truncate(batch[0].seq, len).unwrap();
    engine.forward_layers(batch, n / 2..n, &mut residual, observe).unwrap()
}

/// The logits of all tokens, and what was seen of each, in passes of `chunk` tokens.
fn run(engine: &mut Engine, ids: &[u32], chunk: usize) -> (Vec<Vec<f32>>, Vec<Vec<Seen>>) {
    let seq = engine.open().unwrap();
    let (mut logits, mut all) = (Vec::new(), Vec::new());
    for ids in ids.chunks(chunk) {
        let token = |&token: &u32| BatchToken { seq, token, logits: true };
        let batch: Vec<_> = ids.iter().map(token).collect();
        let mut seen = vec![Vec::new(); ids.len()];
        let mut observe = |o: &Observed<'_>| {
            assert_eq!(o.m, batch.len());
            for (token, seen) in seen.iter_mut().enumerate() {
                let mut input = vec![0.0; o.k];
                o.read(token, &mut input);
                let residual = o.residual_mean_square(token);
                seen.push(Seen { layer: o.layer, role: o.role, input, residual });
            }
        };
        let pass = layers(engine, &batch, chunk, &mut observe);
        logits.extend((0..ids.len()).map(|i| engine.logits(pass, i).unwrap().to_vec()));
        all.extend(seen);
    }
    engine.close(seq).unwrap();
    (logits, all)
}

#[test]
fn every_division_into_passes_shows_the_same_inputs() {
    let ids: Vec<u32> = (0..20).map(|i| i * 37 % 97).collect();
    for name in tiny() {
        let model = std::sync::Arc::new(model(&data("tiny").join(&name), Quant::Q8));
        let [mut one, mut two] = [1, 2].map(|threads| {
            let logits_rows = ids.len();
            let options =
                EngineOptions { threads: Some(threads), logits_rows, ..Default::default() };
            Engine::new(model.clone(), &options).unwrap()
        });
        let expected = run(&mut one, &ids, 1);
        assert_eq!(
            common::logits(&mut two, &ids, 7),
            expected.0,
            "{name}: observing changes logits"
        );
        for (threads, chunk) in [(1, 20), (2, 17), (2, 3)] {
            let engine = if threads == 1 { &mut one } else { &mut two };
            assert!(run(engine, &ids, chunk) == expected, "{name}: passes of {chunk} differ");
        }
        let c = model.config();
        let sites: Vec<_> = expected.1[0].iter().map(|s| (s.layer, s.role)).collect();
        let expected_sites: Vec<_> = (0..c.n_layers)
            .flat_map(|layer| {
                let index = layer as usize;
                let experts = c.experts_of(index);
                let ffn: &[Role] = match experts.map(|e| e.shared.is_some()) {
                    None if !c.has_ffn(index) => &[],
                    None => &[Role::FfnGateUp, Role::FfnDown],
                    Some(false) => &[Role::FfnGateUpExperts],
                    Some(true) if experts.is_some_and(|e| e.separate_norms) => {
                        &[Role::FfnGateUp, Role::FfnGateUpExperts, Role::FfnDown]
                    }
                    Some(true) => &[Role::FfnGateUpExperts, Role::FfnGateUp, Role::FfnDown],
                };
                let mixer: &[Role] = match (c.attends(index), c.recurrent_of(index).is_some()) {
                    (false, false) => &[],
                    (true, false) if c.latent.as_ref().is_some_and(|l| l.q_rank == 0) => {
                        &[Role::AttnQkv, Role::AttnQB, Role::AttnOutput]
                    }
                    (true, false) => &[Role::AttnQkv, Role::AttnOutput],
                    (false, true) => &[Role::SsmIn, Role::SsmOut],
                    (true, true) => &[Role::AttnQkv, Role::SsmIn, Role::AttnOutput, Role::SsmOut],
                };
                let mut roles = [mixer, ffn].concat();
                if c.parallel {
                    roles.swap(1, 2); // gate and up have the inputs of attention
                }
                roles.into_iter().map(move |role| (Some(layer), role))
            })
            .chain([(None, Role::Output)])
            .collect();
        assert_eq!(sites, expected_sites, "{name}");
        for seen in expected.1.iter().flatten() {
            let added = matches!(seen.role, Role::AttnOutput | Role::SsmOut | Role::FfnDown);
            assert_eq!(seen.residual.is_some(), added);
            assert!(seen.residual.is_none_or(|r| r > 0.0 && r.is_finite()));
        }
    }
}

/// The output matrix times its inputs are the logits.
#[test]
fn products_of_the_inputs_are_the_outputs() {
    let mut engine = common::engine(model(&data("tiny/llama-gqa"), Quant::Q8), 2);
    let (logits, seen) = run(&mut engine, &[3, 1, 4], 3);
    let file = engine.model().file();
    let output = file.tensor(Role::Output, None).or(file.tensor(Role::TokenEmbd, None)).unwrap();
    for (logits, seen) in logits.iter().zip(&seen) {
        let input = &seen.last().unwrap().input;
        let mut row = vec![0.0; input.len()];
        for (id, logit) in logits.iter().enumerate() {
            let panel = &file.bytes(output)[id / 16 * q8_panel_bytes(row.len())..];
            q8_row(&panel[..q8_panel_bytes(row.len())], id % 16, &mut row);
            let dot: f32 = row.iter().zip(input).map(|(w, x)| w * x).sum();
            assert!((dot - logit).abs() <= 1e-4 * logit.abs().max(1.0), "{id}: {dot}, {logit}");
        }
    }
}
