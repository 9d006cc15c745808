//! LoRA adapters (Hu et al., <https://arxiv.org/abs/2106.09685>), merged while packing.
//!
//! An adapter adds `s · B · A` to a matrix, where A has few rows and B few columns. Once merged, it
//! costs nothing at run time. DoRA (Liu et al., <https://arxiv.org/abs/2402.09353>) then rescales every
//! row to a trained norm. The folder has the layout saved by the `peft` library:
//! `adapter_config.json` beside `adapter_model.safetensors` or `adapter_model.bin`.

mod settings;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::hf::Settings;
use crate::model::Model;
use crate::source::derived::Runs;
use crate::source::{FileTensor, TensorSource};
use crate::{Error, quantized, safetensors, torch};
use settings::Scaling;

/// An adapter to merge.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    /// The adapter's folder.
    pub folder: PathBuf,
    /// Strength of the adapter; 1 applies it as trained.
    pub scale: f32,
}

/// Adds the adapter to the weights of `model`, lazily: both are read while packing.
pub(crate) fn merge(model: &mut Model, lora: &Lora) -> Result<(), Error> {
    let config = lora.folder.join("adapter_config.json");
    if !config.exists() {
        let what = "has no adapter_config.json; expected the folder of a LoRA adapter";
        return Err(Error::source(&lora.folder, what));
    }
    let adapter = Settings::read(&config)?;
    let scaling = Scaling::read(&adapter)?;
    let (weights, open): (_, fn(&Path) -> _) = match lora.folder.join("adapter_model.safetensors") {
        path if path.exists() => (path, safetensors::open),
        _ => (lora.folder.join("adapter_model.bin"), torch::open),
    };
    let mut modules: BTreeMap<String, [Option<FileTensor>; 3]> = BTreeMap::new();
    for tensor in quantized::resolve(open(&weights)?, None)? {
        let (module, part) = module(&tensor)?;
        modules.entry(module).or_default()[part] = Some(tensor);
    }
    for (module, parts) in modules {
        let [Some(a), Some(b), magnitude] = parts else {
            let what = format!("has only one of lora_A and lora_B for {module}");
            return Err(Error::source(&weights, what));
        };
        if magnitude.is_some() != scaling.dora {
            let what = format!("use_dora is {} for {module}", scaling.dora);
            let what =
                format!("does not match adapter_config.json: {what}; are both files complete?");
            return Err(Error::source(&weights, what));
        }
        let factor = scaling.of(&module, a.shape()[0]).ok_or_else(|| {
            let what = format!("an adapter with several alpha_pattern entries for {module}");
            adapter.unsupported(what, settings::MERGE)
        })?;
        let scale = (factor * f64::from(lora.scale)) as f32;
        let (name, [n, _]) = (format!("{module}.weight"), b.shape());
        model.weights.apply_adapter(&name, n, &model.config, |base, rows, factor| {
            let part = |inner: &FileTensor| Runs::new(Box::new(inner.clone()), [rows.clone()]);
            let norm = magnitude.as_ref().map(|m| (part(m), factor.abs()));
            Merged { base, a: a.clone(), b: part(&b), scale: scale * factor, norm }.checked()
        })?;
    }
    model.files.extend([config, weights]);
    Ok(())
}

/// The module to which a tensor belongs, and 0 for A, 1 for B or 2 for the norms of DoRA.
fn module(tensor: &FileTensor) -> Result<(String, usize), Error> {
    let (path, name) = tensor.name();
    let inner = name.strip_prefix("base_model.model.").unwrap_or(name);
    let parts = [
        (".lora_A.weight", 0),
        (".lora_B.weight", 1),
        (".lora_magnitude_vector.weight", 2),
        (".lora_magnitude_vector", 2), // before peft 0.11
    ];
    let found = parts.iter().find_map(|&(end, part)| Some((inner.strip_suffix(end)?, part)));
    found.map(|(module, part)| (module.to_owned(), part)).ok_or_else(|| Error::Tensor {
        path: path.into(),
        tensor: name.into(),
        what: "is neither lora_A nor lora_B of a linear layer; merge this adapter with peft".into(),
    })
}

/// A matrix with an adapter added.
struct Merged {
    base: Box<dyn TensorSource>,
    a: FileTensor,
    b: Runs,
    scale: f32,
    /// DoRA: the norms of the merged rows, and their factor.
    norm: Option<(Runs, f32)>,
}

impl Merged {
    /// Checks that the shapes match.
    fn checked(self) -> Result<Box<dyn TensorSource>, Error> {
        let Self { base, a, b, norm, .. } = &self;
        let ([n, k], [rank, a_in], [b_out, b_rank]) = (base.shape(), a.shape(), b.shape());
        if let Some((norms, _)) = norm
            && norms.inner.shape() != [b.inner.shape()[0], 1]
        {
            let (path, name) = norms.name();
            let what = format!("has shape {:?}, expected [{b_out}]", norms.inner.shape());
            return Err(Error::Tensor { path: path.into(), tensor: name.into(), what });
        }
        if a_in != k || b_out != n || rank != b_rank {
            let (path, name) = a.name();
            return Err(Error::Tensor {
                path: path.into(),
                tensor: name.into(),
                what: format!(
                    "A of shape [{rank}, {a_in}] and B of shape [{b_out}, {b_rank}] do not match a \
                     [{n}, {k}] matrix; is this adapter for another model?"
                ),
            });
        }
        Ok(Box::new(self))
    }

    /// DoRA: gives each row the trained norm.
    fn rescale(&self, rows: Range<usize>, out: &mut [f32]) -> Result<(), Error> {
        let Some((norms, factor)) = &self.norm else { return Ok(()) };
        let mut magnitudes = vec![0.0; rows.len()];
        norms.read_rows(rows, &mut magnitudes)?;
        for (row, magnitude) in out.chunks_exact_mut(self.a.shape()[1]).zip(magnitudes) {
            let norm = row.iter().map(|w| f64::from(*w) * f64::from(*w)).sum::<f64>().sqrt();
            let scale = (f64::from(magnitude) * f64::from(*factor) / norm) as f32;
            row.iter_mut().for_each(|w| *w *= scale);
        }
        Ok(())
    }
}

impl TensorSource for Merged {
    fn name(&self) -> (&Path, &str) {
        self.base.name()
    }

    fn shape(&self) -> [usize; 2] {
        self.base.shape()
    }

    /// Computes `W + scale · (B · A)` in f32, each sum over the rank in ascending order; then DoRA's
    /// scaling.
    fn read_rows(&self, rows: Range<usize>, out: &mut [f32]) -> Result<(), Error> {
        let [rank, k] = self.a.shape();
        self.base.read_rows(rows.clone(), out)?;
        let mut a = vec![0.0; rank * k];
        self.a.read_rows(0..rank, &mut a)?;
        let mut b = vec![0.0; rows.len() * rank];
        self.b.read_rows(rows.clone(), &mut b)?;
        let mut delta = vec![0.0; k];
        for (row, b) in out.chunks_exact_mut(k).zip(b.chunks_exact(rank)) {
            delta.fill(0.0);
            for (b, a) in b.iter().zip(a.chunks_exact(k)) {
                for (d, a) in delta.iter_mut().zip(a) {
                    *d += b * a;
                }
            }
            for (w, d) in row.iter_mut().zip(&delta) {
                *w += self.scale * d;
            }
        }
        self.rescale(rows, out)
    }
}
