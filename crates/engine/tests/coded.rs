//! Models with trellis-coded matrices compute what their decoded weights would.

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use common::{data, model, model_with, tiny};
use nanoinfer_engine::{BatchToken, Engine, EngineOptions, Model};
use nanoinfer_format::{Encoding, LANES, NanoFile, Panels, Quant, TensorSpec, Writer, schema};
use nanoinfer_kernels::{Trellis, q8_panel_bytes, trellis_panel_bytes, trellis_row};
use nanoinfer_packer::{Exceptions, Input, Options, Precision, compare};

const CODED: [Quant; 4] = [Quant::Q5, Quant::Q4, Quant::Q3, Quant::Q2];

/// A q8 panel with the levels of a coded panel as its weights.
fn decoded(trellis: &Trellis, panel: &[u8], k: usize) -> Vec<u8> {
    let mut out = panel[..64].to_vec(); // the scales
    out.resize(q8_panel_bytes(k), 0);
    let mut levels = vec![0; k];
    for r in 0..LANES {
        trellis_row(trellis, panel, r, &mut levels);
        for (i, level) in levels.iter().enumerate() {
            out[64 + i / 4 * 64 + 4 * r + i % 4] = (i32::from(*level) + 128) as u8;
        }
    }
    out
}

fn write_decoded(from: &NanoFile, to: &Path) {
    let mut writer = Writer::create(to).unwrap();
    for entry in schema(from.config()) {
        let tensor = from.tensor(entry.role, entry.layer).unwrap();
        let spec: TensorSpec = entry.spec(|role| Quant::Q8.encoding(role));
        writer.begin(spec).unwrap();
        let k = tensor.spec.stored[2] as usize;
        match tensor.spec.panels() {
            None => writer.write(from.bytes(tensor)).unwrap(),
            Some(layout) => {
                for run in layout.runs(0..layout.panels()) {
                    match from.panels(tensor, &run) {
                        Panels::Trellis(bits, bytes) => {
                            for panel in bytes.chunks(trellis_panel_bytes(bits.into(), k)) {
                                writer.write(&decoded(Trellis::of(bits), panel, k)).unwrap();
                            }
                        }
                        Panels::Q8(_) | Panels::F32(_) => {
                            writer.write(&from.bytes(tensor)[run.bytes]).unwrap();
                        }
                    }
                }
            }
        }
        writer.end().unwrap();
        if let Some(bias) = entry.bias.and_then(|bias| from.tensor(bias, entry.layer)) {
            writer.begin(bias.spec.clone()).unwrap();
            writer.write(from.bytes(bias)).unwrap();
            writer.end().unwrap();
        }
    }
    writer.finish(from.config(), from.generation()).unwrap().commit().unwrap();
}

/// Logits after every token of a text of 40 tokens, in passes of `chunk` tokens.
fn computed(model: impl Into<Arc<Model>>, chunk: usize) -> Vec<Vec<u32>> {
    let options = EngineOptions { threads: Some(2), logits_rows: 40, ..EngineOptions::default() };
    let mut engine = Engine::new(model, &options).unwrap();
    let seq = engine.open().unwrap();
    let ids: Vec<u32> = (0..40).map(|i| (i * 37 + 11) % 160).collect();
    let mut rows = Vec::new();
    for tokens in ids.chunks(chunk) {
        let batch: Vec<_> =
            tokens.iter().map(|&token| BatchToken { seq, token, logits: true }).collect();
        let pass = engine.forward(&batch).unwrap();
        let row = |i| engine.logits(pass, i).unwrap().iter().map(|x| x.to_bits()).collect();
        rows.extend((0..batch.len()).map(row));
    }
    rows
}

/// The parts of fused tensors differ, and so do the layers.
fn mixed<'a>() -> Options<'a> {
    let lines = "*.attn_q q3\n*.attn_k q2\n*.attn_v q5\n*.ffn_gate q5\n*.ffn_up q2\nlayers.1.ffn_up q8\noutput q2";
    let mut options = Options::new(Quant::Q4);
    options.exceptions = Some(Exceptions { name: "mixed".into(), lines: lines.into() });
    options
}

/// Of models that have all matrices that [`mixed`] names.
const GATED: [&str; 2] = ["llama-gqa", "qwen2-bias"];

#[test]
fn parts_of_different_encodings_are_what_they_would_be_alone() {
    for name in GATED {
        let folder = data("tiny").join(name);
        let mixed = model_with(&folder, mixed());
        let file = mixed.file();
        let alone: Vec<_> = CODED
            .into_iter()
            .chain([Quant::Q8])
            .map(|quant| model_with(&folder, uniform(quant)))
            .collect();
        let mut found = BTreeSet::new();
        for tensor in file.tensors() {
            let Some(layout) = tensor.spec.panels() else { continue };
            for run in layout.runs(0..layout.panels()) {
                let quant = Quant::of_encoding(run.encoding).unwrap();
                let Some(alone) = alone.iter().find(|m| m.config().quant == quant) else {
                    continue;
                };
                let other = alone.file().tensor(tensor.spec.role, tensor.spec.layer).unwrap();
                let panels = other.spec.panels().unwrap();
                let same = panels.runs(run.panels.clone()).map(|run| run.bytes);
                let same: Vec<u8> =
                    same.flat_map(|b| alone.file().bytes(other)[b].to_vec()).collect();
                assert!(
                    file.bytes(tensor)[run.bytes.clone()] == same,
                    "{name} {}",
                    tensor.spec.label()
                );
                found.insert(quant.name());
            }
        }
        assert_eq!(found.len(), 5, "{name}: {found:?}");
    }
}

/// All matrices in one encoding.
fn uniform<'a>(quant: Quant) -> Options<'a> {
    let mut options = Options::new(quant);
    let lines = format!("* {}", quant.name());
    options.exceptions = Some(Exceptions { name: "uniform".into(), lines });
    options
}

/// This covers fused tensors whose parts have different encodings, embeddings, and experts: each panel
/// must be decoded as itself, wherever it is stored.
#[test]
fn results_equal_those_of_a_q8_file_with_the_same_levels() {
    let folder = tempfile::tempdir().unwrap();
    for name in tiny() {
        let named = CODED.map(|quant| (quant.name(), Options::new(quant)));
        let bits = ("4.75", Options::new("4.75".parse::<Precision>().unwrap()));
        let mixed = GATED.contains(&&*name).then(|| ("mixed", mixed()));
        for (quant, options) in named.into_iter().chain([bits]).chain(mixed) {
            let coded = model_with(&data("tiny").join(&name), options);
            let file = folder.path().join(format!("{name}-{quant}.nano"));
            write_decoded(coded.file(), &file);
            let want = computed(Model::open(&file).unwrap(), 40);
            let chunks = [(40, "whole"), (3, "in small passes")];
            let coded = Arc::new(coded);
            for (chunk, how) in chunks {
                assert!(computed(coded.clone(), chunk) == want, "{name} {quant} {how}");
            }
        }
    }
}

#[test]
fn coded_files_verify_and_have_the_expected_error() {
    // Of the encodings with 8 to 2 bits, for Gaussian weights.
    let decibels = |e: Encoding| match e {
        Encoding::Q8Panel => 43.0,
        Encoding::Q5Panel => 27.4,
        Encoding::Q4Panel => 21.7,
        Encoding::Q3Panel => 16.1,
        _ => 10.5,
    };
    for name in ["llama-gqa", "mixtral-experts"] {
        let source = data("tiny").join(name);
        for quant in CODED {
            let model = model(&source, quant);
            model.file().verify().unwrap();
            for e in compare(model.file(), &Input::Folder(source.clone()), |_, _| {}).unwrap() {
                let spec = &model.file().tensor(e.role, e.layer).unwrap().spec;
                if e.relative == 0.0 {
                    assert_eq!(spec.encoding, Encoding::F32Panel, "{name}: {e:?}");
                    continue;
                }
                let got = -20.0 * e.relative.log10();
                // Of a fused tensor, the part with the fewest bits has most of the error.
                let least = spec.encodings().map(decibels).fold(f64::INFINITY, f64::min);
                println!("{name} {} {}: {got:.1} dB", quant.name(), spec.label());
                assert!(got > least - 1.0 && got < least + 4.0, "{name}: {e:?}, {got} dB");
            }
        }
    }
}
