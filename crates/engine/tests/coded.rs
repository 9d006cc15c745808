//! Models with trellis-coded matrices compute what their decoded weights would.

mod common;

use std::path::Path;

use common::{data, model, tiny};
use nanoinfer_engine::{BatchToken, Engine, EngineOptions, Model};
use nanoinfer_format::{Encoding, LANES, NanoFile, Panels, Quant, TensorSpec, Writer, schema};
use nanoinfer_kernels::{Trellis, q8_panel_bytes, trellis_panel_bytes, trellis_row};
use nanoinfer_packer::{Input, compare};

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
        let spec: TensorSpec = entry.spec(|_| Encoding::Q8Panel);
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
fn computed(model: Model, chunk: usize) -> Vec<Vec<u32>> {
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

/// This covers fused tensors whose parts have different encodings, embeddings, and experts: each panel
/// must be decoded as itself, wherever it is stored.
#[test]
fn results_equal_those_of_a_q8_file_with_the_same_levels() {
    let folder = tempfile::tempdir().unwrap();
    for name in tiny() {
        for quant in CODED {
            let coded = model(&data("tiny").join(&name), quant);
            let file = folder.path().join(format!("{name}-{}.nano", quant.name()));
            write_decoded(coded.file(), &file);
            let want = computed(Model::open(&file).unwrap(), 40);
            assert!(computed(coded, 40) == want, "{name} {}", quant.name());
            let coded = model(&data("tiny").join(&name), quant);
            assert!(computed(coded, 3) == want, "{name} {} in small passes", quant.name());
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
