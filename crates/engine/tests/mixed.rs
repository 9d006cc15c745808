//! Parts of one tensor in two encodings: such a file opens, is sound, and computes what the model
//! computes.

mod common;

use std::path::Path;

use common::{data, max_diff, mean_kl, model, tiny};
use nanoinfer_engine::{Engine, EngineOptions, KvType, Model, Step};
use nanoinfer_format::{
    Encoding, LANES, NanoFile, Panels, Quant, Role, Section, SectionKind, Tensor, TensorSpec,
    Writer, schema,
};
use nanoinfer_kernels::pack::hadamard;

/// In which encoding a recipe stores a matrix or part.
type Recipe = fn(Role) -> Encoding;

/// V and gate, in the middle and at the beginning of a unit, and the output of attention.
fn some(role: Role) -> Encoding {
    match role {
        Role::AttnV | Role::FfnGate | Role::FfnGateExperts | Role::AttnOutput => Encoding::F32Panel,
        _ => Encoding::Q8Panel,
    }
}

fn all(_: Role) -> Encoding {
    Encoding::F32Panel
}

/// Writes a model whose matrices are stored as `recipe` says: 8-bit ones as `q8` has them, f32 ones
/// as `f32` has them, rotated where what they are multiplied by is.
fn mix(q8: &NanoFile, f32: &NanoFile, to: &Path, recipe: Recipe) {
    let mut writer = Writer::create(to).unwrap();
    for entry in schema(q8.config()) {
        let spec = entry.spec(recipe);
        let of = |file: &NanoFile| file.tensor(entry.role, entry.layer).unwrap().clone();
        writer.begin(spec.clone()).unwrap();
        match spec.panels() {
            None => writer.write(q8.bytes(&of(q8))).unwrap(),
            Some(layout) => {
                let floats = rotated(f32.f32s(&of(f32)), &spec, q8.config().value_rotation);
                let width = LANES * spec.stored[2] as usize;
                for run in layout.runs(0..layout.panels()) {
                    if run.encoding == Encoding::F32Panel {
                        let values = &floats[run.panels.start * width..run.panels.end * width];
                        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
                        writer.write(&bytes).unwrap();
                    } else {
                        writer.write(panels(q8, &of(q8), run.panels)).unwrap();
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
        Panels::F32(_) => panic!("{} is not q8", t.spec.label()),
    }
}

/// What the packer folds into weights of a file with rotated values: V's rows within each head,
/// and the inputs that come from there.
fn rotated(panels: &[f32], spec: &TensorSpec, block: u32) -> Vec<f32> {
    let (mut out, k) = (panels.to_vec(), spec.stored[2] as usize);
    match spec.role {
        Role::AttnQkv => {
            let panels = |p: usize| (spec.parts[p].rows as usize).div_ceil(LANES);
            let before = spec.parts[0].count as usize * panels(0) + panels(1);
            let (unit, head) = (before + panels(2), spec.parts[2].rows as usize);
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
        Role::AttnOutput => {
            for panel in out.chunks_exact_mut(LANES * k) {
                for r in 0..LANES {
                    let mut row: Vec<f32> = (0..k).map(|j| panel[j * LANES + r]).collect();
                    hadamard(&mut row, block as usize);
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

/// The same, stored as `recipe` says.
fn mixed(name: &str, recipe: Recipe) -> Model {
    let folder = tempfile::tempdir().unwrap();
    let (file, [q8, f32]) = (folder.path().join("mixed.nano"), both(name));
    mix(q8.file(), f32.file(), &file, recipe);
    Model::open(&file).unwrap() // the map outlives the name
}

#[test]
fn a_mixed_file_is_sound_and_binds() {
    for name in tiny() {
        let (mixed, [q8, f32]) = (mixed(&name, some), both(&name));
        mixed.file().verify().unwrap();
        let qkv = &mixed.file().tensor(Role::AttnQkv, Some(0)).unwrap().spec;
        let encodings = [Encoding::Q8Panel, Encoding::Q8Panel, Encoding::F32Panel];
        assert!(qkv.encodings().eq(encodings), "{name}: {qkv:?}");
        let bytes = |m: &Model| m.file().tensors().iter().map(|t| t.len).sum::<u64>();
        assert!((bytes(&q8) + 1..bytes(&f32)).contains(&bytes(&mixed)), "{name}");
    }
}

/// Logits after every token of `ids`, in passes of `chunk`, with a cache that adds no error of its
/// own.
fn computed(model: Model, ids: &[u32], chunk: usize) -> Vec<Vec<f32>> {
    let (threads, kv, logits_rows) = (Some(2), Some(KvType::F32), ids.len());
    let options = EngineOptions { threads, kv, logits_rows, ..EngineOptions::default() };
    let mut engine = Engine::new(model, &options).unwrap();
    let seq = engine.open().unwrap();
    let mut rows = Vec::new();
    for tokens in ids.chunks(chunk) {
        let steps: Vec<_> = tokens.iter().map(|&token| Step { seq, token, logits: true }).collect();
        let pass = engine.forward(&steps).unwrap();
        rows.extend((0..steps.len()).map(|i| engine.logits(pass, i).unwrap().to_vec()));
    }
    rows
}

#[test]
fn a_mixed_file_computes_what_the_model_does() {
    for name in tiny() {
        let ids: Vec<u32> = (0..40).map(|i| (i * 37 + 11) % 160).collect();
        let [eight, want] = both(&name).map(|model| computed(model, &ids, 40));
        let some_floats = computed(mixed(&name, some), &ids, 40);
        let (kl, eight) = (mean_kl(&want, &some_floats), mean_kl(&want, &eight));
        println!("{name}: mean KL {kl:.6}, all in 8 bits {eight:.6}");
        assert!(kl > 0.0 && kl < 1.5 * eight, "{name}: {kl}, all in 8 bits {eight}");
        let all_floats = computed(mixed(&name, all), &ids, 40);
        let diff = max_diff(&want, &all_floats);
        assert!(diff < 1e-4, "{name}: all in f32 differ by {diff}");
        let decoded = computed(mixed(&name, some), &ids, 1);
        assert!(some_floats == decoded, "{name}: prefill and decode differ");
    }
}
