//! The residual stream of the quantized model, layer by layer, while it is being written.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use nanoinfer_engine::{BatchToken, Engine, EngineOptions, Model};
use nanoinfer_format::{
    Config, Encoding, Experts, NanoFile, Quant, Recipe, Recurrent, Role, Staged, Temperature,
    Tensor, TensorSpec, Writer, matrices,
};

/// Layers of the temporary model: the one to run, and one on each side.
const MAX_COPIES: usize = 3;

/// The reason why calibration failed.
pub(super) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Texts behind the layers that have been quantized.
#[derive(Debug)]
pub(super) struct Quantized {
    /// For temporary files.
    folder: PathBuf,
    /// The tensors of the last layer that was stored.
    layer: Vec<(TensorSpec, Vec<u8>)>,
    /// The residual stream of every pass over a part of a text.
    pub(super) residuals: Vec<Vec<f32>>,
}

impl Quantized {
    pub(super) fn new(folder: PathBuf, residuals: Vec<Vec<f32>>) -> Self {
        Self { folder, layer: Vec::new(), residuals }
    }

    /// Appends a part of a tensor of a layer.
    pub(super) fn stored(&mut self, spec: &TensorSpec, bytes: &[u8]) {
        if self.layer.first().is_some_and(|(first, _)| first.layer != spec.layer) {
            self.layer.clear();
        }
        match self.layer.last_mut() {
            Some((last, stored)) if last.role == spec.role => stored.extend_from_slice(bytes),
            _ => self.layer.push((spec.clone(), bytes.to_vec())),
        }
    }

    /// Passes the texts through the stored layer, which is layer `index` of the model in `file`.
    pub(super) fn pass(
        &mut self,
        file: &NanoFile,
        index: usize,
        texts: &[Vec<u32>],
        options: &EngineOptions,
    ) -> Result<(), Failure> {
        let (staged, layers) = self.write(file, index)?;
        let mut engine = Engine::new(Arc::new(Model::open(staged.path())?), options)?;
        let mut residuals = self.residuals.iter_mut();
        for text in texts {
            let seq = engine.open()?;
            for part in text.chunks(engine.max_batch()) {
                let token = |&token: &u32| BatchToken { seq, token, logits: false };
                let batch: Vec<_> = part.iter().map(token).collect();
                let residual = residuals.next().expect("one per part");
                engine.forward_layers(&batch, layers.clone(), residual, &mut |_| {})?;
            }
            engine.close(seq)?;
        }
        Ok(())
    }

    /// Writes a model of copies of the stored layer, and returns the layer to run. A pass begins with
    /// embeddings if that is the first, and computes logits if it is the last, so there is a copy behind it,
    /// and one before it unless it is the model's first. Every model has attention, so the one behind a
    /// layer without it is another one.
    fn write(&self, file: &NanoFile, index: usize) -> Result<(Staged, Range<usize>), Failure> {
        let mut copies = vec![index; if index == 0 { 2 } else { MAX_COPIES }];
        let run = copies.len() - 2;
        let c = file.config();
        if !c.attends(index) {
            let attends = (0..c.n_layers as usize).find(|&layer| c.attends(layer));
            copies[run + 1] = attends.ok_or("no layer has attention")?;
        }
        let config = copied(c, &copies);
        let mut writer = Writer::create(self.folder.join("calibration.nano"))?;
        let mut put = |spec: TensorSpec, bytes: &[u8]| {
            writer.begin(spec)?;
            writer.write(bytes)?;
            writer.end()
        };
        let output = [Role::Output, Role::OutputBias];
        let of_model = file.tensors().iter();
        let of_model =
            of_model.filter(|t| t.spec.layer.is_none() && !output.contains(&t.spec.role));
        let (before, behind): (Vec<_>, Vec<_>) =
            of_model.partition(|t| matches!(t.spec.role, Role::TokenEmbd | Role::RopeTurns));
        for tensor in before {
            put(tensor.spec.clone(), file.bytes(tensor))?;
        }
        for (layer, &source) in (0..).zip(&copies) {
            let mut put = |spec: &TensorSpec, bytes: &[u8]| {
                put(TensorSpec { layer: Some(layer), ..spec.clone() }, bytes)
            };
            if source == index {
                self.layer.iter().try_for_each(|(spec, bytes)| put(spec, bytes))?;
                continue;
            }
            let other = |t: &&Tensor| t.spec.layer == Some(source as u32);
            file.tensors().iter().filter(other).try_for_each(|t| put(&t.spec, file.bytes(t)))?;
        }
        for tensor in behind {
            put(tensor.spec.clone(), file.bytes(tensor))?;
        }
        Ok((writer.finish(&config, file.generation())?, run..run + 1))
    }
}

/// Maximum size of the matrices in the file that [`Quantized::write`] writes: the embeddings, in 8 bits, and
/// copies of the largest layer, of which one may be as in `file`.
pub(crate) fn correction_bytes(c: &Config, recipe: &Recipe) -> u64 {
    let (mut embeddings, mut layers) = (0u64, BTreeMap::<u32, u64>::new());
    let all_attend = c.attention_layers() == c.n_layers as usize;
    for m in matrices(c) {
        match m.layer {
            Some(layer) => {
                let bytes = layers.entry(layer).or_default();
                let encoding = if all_attend {
                    recipe.encoding(m.layer, m.role)
                } else {
                    Quant::Q8.encoding(m.role)
                };
                *bytes = bytes.saturating_add(m.bytes(encoding));
            }
            None if m.role == Role::TokenEmbd => embeddings = m.bytes(Encoding::Q8Panel),
            None => {}
        }
    }
    let largest = layers.into_values().max().unwrap_or(0);
    embeddings.saturating_add(largest.saturating_mul(MAX_COPIES as u64))
}

/// The config of a model whose layers are copies of these.
fn copied(c: &Config, copies: &[usize]) -> Config {
    let which = |layers: &[bool]| -> Vec<bool> {
        copies.iter().map(|&layer| layers.get(layer) == Some(&true)).collect()
    };
    let experts = c.experts.as_ref().map(|e| Experts { layers: which(&e.layers), ..e.clone() });
    let recurrent =
        c.recurrent.as_ref().map(|r| Recurrent { layers: which(&r.layers), ..r.clone() });
    let temperature =
        c.temperature.as_ref().map(|t| Temperature { layers: which(&t.layers), ..t.clone() });
    Config {
        n_layers: copies.len() as u32,
        windows: copies.iter().map(|&layer| c.windows[layer]).collect(),
        layer_ropes: copies.iter().map(|&layer| c.layer_ropes[layer]).collect(),
        layer_parts: copies.iter().filter_map(|&l| c.layer_parts.get(l).copied()).collect(),
        layer_attention: copies.iter().filter_map(|&l| c.layer_attention.get(l).copied()).collect(),
        layer_d_ff: copies.iter().filter_map(|&l| c.layer_d_ff.get(l).copied()).collect(),
        tied_embeddings: true,
        experts: experts.filter(|e| e.layers.contains(&true)),
        recurrent: recurrent.filter(|r| r.layers.contains(&true)),
        temperature: temperature.filter(|t| t.layers.contains(&true)),
        xielu: copies.iter().filter_map(|&layer| c.xielu.get(layer).copied()).collect(),
        ..c.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use nanoinfer_format::Quant;
    use nanoinfer_packer::{Input, Options, convert};

    use super::*;

    #[test]
    fn the_size_of_the_temporary_model_is_known_before() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/tiny/llama-gqa");
        let out = tempfile::tempdir().unwrap();
        let path = out.path().join("model.nano");
        convert(&Input::Folder(folder), &path, Options::new(Quant::Q8)).unwrap();
        let file = NanoFile::open(&path).unwrap();
        let mut quantized = Quantized::new(out.path().to_path_buf(), Vec::new());
        for tensor in file.tensors().iter().filter(|t| t.spec.layer == Some(1)) {
            quantized.stored(&tensor.spec, file.bytes(tensor));
        }
        let (staged, _) = quantized.write(&file, 1).unwrap();
        let written = NanoFile::open(staged.path()).unwrap();
        let stored = written.recipe().bytes(written.config());
        assert_eq!(correction_bytes(file.config(), &file.recipe()), stored);
    }
}
