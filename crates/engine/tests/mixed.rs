//! Files with tensors whose parts have different encodings open, verify, and produce the model's
//! results.

mod common;

use std::path::Path;

use common::{data, max_diff, mean_kl, model, tiny};
use nanoinfer_engine::{BatchToken, Engine, EngineOptions, KvType, Model};
use nanoinfer_format::{
    ActType, Encoding, LANES, NanoFile, Panels, Part, Quant, Role, Section, SectionKind, Tensor,
    TensorSpec, Writer, schema,
};
use nanoinfer_kernels::pack::hadamard;
use nanoinfer_packer::{Input, compare};

/// Chooses the encoding of a matrix or part, by role and layer.
type Recipe = fn(Role, Option<u32>) -> Encoding;

/// F32 for V (last in its unit), gate (first in its unit) and the attention output.
fn some(role: Role, _: Option<u32>) -> Encoding {
    match role {
        Role::AttnV | Role::FfnGate | Role::FfnGateExperts | Role::AttnOutput => Encoding::F32Panel,
        _ => Encoding::Q8Panel,
    }
}

/// F32 for everything else: Q, K, up, down, the embedding and the output layer.
fn others(role: Role, layer: Option<u32>) -> Encoding {
    match some(role, layer) {
        Encoding::F32Panel => Encoding::Q8Panel,
        _ => Encoding::F32Panel,
    }
}

/// Alternates `some` and `others` by layer.
fn alternating(role: Role, layer: Option<u32>) -> Encoding {
    if layer.is_some_and(|l| l % 2 == 1) { others(role, layer) } else { some(role, layer) }
}

fn all(_: Role, _: Option<u32>) -> Encoding {
    Encoding::F32Panel
}

/// Writes a model with the encodings chosen by `recipe`: 8-bit parts are copied from `q8`, f32 parts
/// from `f32` and rotated if their inputs or outputs are.
fn write_mixed(q8: &NanoFile, f32: &NanoFile, to: &Path, recipe: Recipe) {
    let mut writer = Writer::create(to).unwrap();
    for entry in schema(q8.config()) {
        let spec = entry.spec(|role| match Quant::Q8.encoding(role) {
            Encoding::F32Panel => Encoding::F32Panel, // in the 8-bit file, too
            _ => recipe(role, entry.layer),
        });
        let tensor = |file: &NanoFile| file.tensor(entry.role, entry.layer).unwrap().clone();
        writer.begin(spec.clone()).unwrap();
        match spec.panels() {
            None => writer.write(q8.bytes(&tensor(q8))).unwrap(),
            Some(layout) => {
                let floats = rotated(f32.f32s(&tensor(f32)), &spec, q8.config().value_rotation);
                let width = LANES * spec.stored[2] as usize;
                for run in layout.runs(0..layout.panels()) {
                    if run.encoding == Encoding::F32Panel {
                        let values = &floats[run.panels.start * width..run.panels.end * width];
                        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
                        writer.write(&bytes).unwrap();
                    } else {
                        writer.write(panels(q8, &tensor(q8), run.panels)).unwrap();
                    }
                }
            }
        }
        writer.end().unwrap();
        if let Some(bias) = entry.bias.and_then(|bias| q8.tensor(bias, entry.layer)) {
            writer.begin(bias.spec.clone()).unwrap();
            writer.write(q8.bytes(bias)).unwrap();
            writer.end().unwrap();
        }
    }
    for Section { kind, .. } in q8.sections() {
        if matches!(kind, SectionKind::Tokenizer | SectionKind::Vocabulary) {
            writer.section(*kind, q8.section(*kind).unwrap().1).unwrap();
        }
    }
    writer.finish(q8.config(), q8.generation()).unwrap().commit().unwrap();
}

fn panels<'f>(file: &'f NanoFile, t: &Tensor, range: std::ops::Range<usize>) -> &'f [u8] {
    let run = t.spec.panels().unwrap().runs(range).next().unwrap();
    match file.panels(t, &run) {
        Panels::Q8(bytes) => bytes,
        _ => panic!("{} is not q8", t.spec.label()),
    }
}

/// Applies the rotation that the packer folds into the weights of a file with rotated values: to V's
/// rows within each head, and to the columns of the attention output unless gates come before it, or of the
/// projection out of the latent space.
fn rotated(panels: &[f32], spec: &TensorSpec, block: u32) -> Vec<f32> {
    let (mut out, k) = (panels.to_vec(), spec.stored[2] as usize);
    match spec.role {
        Role::AttnQkv => {
            let panels = |p: &Part| p.count as usize * (p.rows as usize).div_ceil(LANES);
            let Some(v) = spec.parts.iter().position(|p| p.role == Role::AttnV) else { return out };
            let before: usize = spec.parts[..v].iter().map(panels).sum();
            let unit: usize = spec.parts.iter().map(panels).sum();
            let head = spec.parts[v].rows as usize;
            for unit in out.chunks_exact_mut(unit * LANES * k) {
                let v = &mut unit[before * LANES * k..];
                for j in 0..k {
                    let at = |r: usize| (r / LANES * k + j) * LANES + r % LANES;
                    let mut column: Vec<f32> = (0..head).map(|r| v[at(r)]).collect();
                    hadamard(&mut column, block as usize);
                    (0..head).for_each(|r| v[at(r)] = column[r]);
                }
            }
        }
        Role::AttnOutput | Role::AttnVB => {
            for panel in out.chunks_exact_mut(LANES * k) {
                for r in 0..LANES {
                    let mut row: Vec<f32> = (0..k).map(|j| panel[j * LANES + r]).collect();
                    hadamard(&mut row, spec.rotation as usize);
                    (0..k).for_each(|j| panel[j * LANES + r] = row[j]);
                }
            }
        }
        _ => {}
    }
    out
}

/// A tiny model, in 8 bits and in f32.
fn both(name: &str) -> [Model; 2] {
    [Quant::Q8, Quant::F32].map(|quant| model(&data("tiny").join(name), quant))
}

/// The same model with the encodings chosen by `recipe`.
fn mixed([q8, f32]: &[Model; 2], recipe: Recipe) -> Model {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mixed.nano");
    write_mixed(q8.file(), f32.file(), &file, recipe);
    Model::open(&file).unwrap() // the mapping outlives the file name
}

#[test]
fn a_mixed_file_verifies_and_binds() {
    const Q8: Encoding = Encoding::Q8Panel;
    const F32: Encoding = Encoding::F32Panel;
    let cases: [(Recipe, _, _); 3] = [
        (some, [Q8, Q8, F32], [Q8, Q8, F32]),
        (others, [F32, F32, Q8], [F32, F32, Q8]),
        (alternating, [Q8, Q8, F32], [F32, F32, Q8]),
    ];
    for name in tiny() {
        let models = both(&name);
        for (recipe, first, second) in cases {
            let mixed = mixed(&models, recipe);
            mixed.file().verify().unwrap();
            for layer in 0..models[0].config().n_layers {
                let Some(qkv) = mixed.file().tensor(Role::AttnQkv, Some(layer)) else { continue };
                let parts = [Role::AttnQ, Role::AttnK, Role::AttnV];
                let encodings = if layer % 2 == 0 { first } else { second };
                for part in &qkv.spec.parts {
                    let Some(at) = parts.iter().position(|role| *role == part.role) else {
                        continue;
                    };
                    assert_eq!(part.encoding, encodings[at], "{name}: {layer}");
                }
            }
            let bytes = |m: &Model| m.file().tensors().iter().map(|t| t.len).sum::<u64>();
            let [q8, f32] = models.each_ref().map(bytes);
            assert!((q8 + 1..f32).contains(&bytes(&mixed)), "{name}");
        }
    }
}

/// F32 parts have no error, and all other parts have the 8-bit error. The errors of `some` and `others`
/// therefore combine to that of the 8-bit file.
#[test]
fn a_mixed_file_is_compared_with_its_source_part_by_part() {
    for name in tiny() {
        let (models, source) = (both(&name), Input::Folder(data("tiny").join(&name)));
        let errors = |m: &Model| compare(m.file(), &source, |_, _| {}).unwrap();
        let files = [mixed(&models, some), mixed(&models, others)];
        let halves = files.each_ref().map(errors);
        for (i, eight) in errors(&models[0]).iter().enumerate() {
            let pair = halves.each_ref().map(|half| &half[i]);
            for (file, e) in files.iter().zip(pair) {
                let spec = &file.file().tensor(e.role, e.layer).unwrap().spec;
                assert_eq!(e.largest > 0.0, spec.takes(ActType::Int8), "{name}: {e:?}");
            }
            let combined = pair[0].relative.hypot(pair[1].relative);
            let difference = (combined - eight.relative).abs();
            assert!(eight.relative < 0.01 && difference < 1e-6, "{name}: {pair:?}, {eight:?}");
        }
    }
}

/// Logits after every token of `ids`, in passes of `chunk` tokens, with the given cache type.
fn computed(model: Model, kv: Option<KvType>, ids: &[u32], chunk: usize) -> Vec<Vec<f32>> {
    let (threads, logits_rows) = (Some(2), ids.len());
    let options = EngineOptions { threads, kv, logits_rows, ..EngineOptions::default() };
    let mut engine = Engine::new(model, &options).unwrap();
    let seq = engine.open().unwrap();
    let mut rows = Vec::new();
    for tokens in ids.chunks(chunk) {
        let batch: Vec<_> =
            tokens.iter().map(|&token| BatchToken { seq, token, logits: true }).collect();
        let pass = engine.forward(&batch).unwrap();
        rows.extend((0..batch.len()).map(|i| engine.logits(pass, i).unwrap().to_vec()));
    }
    rows
}

fn ids() -> Vec<u32> {
    (0..40).map(|i| (i * 37 + 11) % 160).collect()
}

/// Maximum divergence of a mixed file, given that of the 8-bit file. If two experts score nearly the
/// same for a token, rounding can flip the choice; that single token then diverges about 20 times as
/// much as the others.
fn max_kl(models: &[Model; 2], eight: f64) -> f64 {
    let experts = models[0].config().experts.is_some();
    eight * if experts { 3.0 } else { 1.5 }
}

#[test]
fn a_mixed_file_computes_the_models_results() {
    let (ids, kv) = (ids(), Some(KvType::F32)); // an exact cache
    for name in tiny() {
        let models = both(&name);
        let [eight, want] = both(&name).map(|model| computed(model, kv, &ids, 40));
        let eight = mean_kl(&want, &eight);
        let recipes: [(_, Recipe); 3] =
            [("some", some), ("others", others), ("alternating", alternating)];
        for (what, recipe) in recipes {
            let some_floats = computed(mixed(&models, recipe), kv, &ids, 40);
            let kl = mean_kl(&want, &some_floats);
            println!("{name}, {what}: mean KL {kl:.6}, 8-bit file {eight:.6}");
            assert!(kl > 0.0 && kl < max_kl(&models, eight), "{name}, {what}: {kl}, {eight}");
            let decoded = computed(mixed(&models, recipe), kv, &ids, 1);
            assert!(some_floats == decoded, "{name}, {what}: prefill and decode differ");
        }
        let diff = max_diff(&want, &computed(mixed(&models, all), kv, &ids, 40));
        assert!(diff < 1e-4, "{name}: the file with only f32 parts differs by {diff}");
    }
}

#[test]
fn a_mixed_file_defaults_to_an_8_bit_cache() {
    let ids = ids();
    for name in tiny() {
        let models = both(&name);
        let computed_mixed = |kv, chunk| computed(mixed(&models, alternating), kv, &ids, chunk);
        let by_default = computed_mixed(None, 40);
        assert!(by_default == computed_mixed(Some(KvType::Q8), 40), "{name}: not an 8-bit cache");
        assert!(by_default == computed_mixed(None, 1), "{name}: prefill and decode differ");
        let [eight, want] = both(&name).map(|model| computed(model, None, &ids, 40));
        let (kl, eight) = (mean_kl(&want, &by_default), mean_kl(&want, &eight));
        assert!(kl > 0.0 && kl < max_kl(&models, eight), "{name}: {kl}, 8-bit file {eight}");
    }
}
