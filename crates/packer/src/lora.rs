//! LoRA adapters (Hu et al., <https://arxiv.org/abs/2106.09685>), merged while packing.
//!
//! An adapter adds `s · B · A` to a matrix, where A has few rows and B few columns. Once merged, it
//! costs nothing at run time. The folder has the layout saved by the `peft` library:
//! `adapter_config.json` beside `adapter_model.safetensors` or `adapter_model.bin`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::hf::Settings;
use crate::model::Model;
use crate::source::{FileTensor, Rows, TensorSource};
use crate::{Error, safetensors, torch};

/// An adapter to merge.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    /// The adapter's folder.
    pub folder: PathBuf,
    /// Strength of the adapter; 1 applies it as trained.
    pub scale: f32,
}

/// Settings that change the meaning of an adapter in ways that this merge does not support. Each
/// must be absent or have one of the listed values.
const PLAIN: [(&str, &[&str]); 7] = [
    ("use_dora", &["false"]),
    ("fan_in_fan_out", &["false"]),
    ("alpha_pattern", &["{}"]),
    ("modules_to_save", &["[]"]),
    ("bias", &["\"none\""]),
    ("trainable_token_indices", &["[]"]),
    ("layer_replication", &["[]"]),
];

/// Adds the adapter to the weights of `model`, lazily: both are read while packing.
pub(crate) fn merge(model: &mut Model, lora: &Lora) -> Result<(), Error> {
    let config = lora.folder.join("adapter_config.json");
    if !config.exists() {
        let what = "has no adapter_config.json; expected the folder of a LoRA adapter";
        return Err(Error::source(&lora.folder, what));
    }
    let settings = Settings::read(&config)?;
    let scaling = scaling(&settings)?;
    let (weights, open): (_, fn(&Path) -> _) = match lora.folder.join("adapter_model.safetensors") {
        path if path.exists() => (path, safetensors::open),
        _ => (lora.folder.join("adapter_model.bin"), torch::open),
    };
    let mut pairs: BTreeMap<String, [Option<FileTensor>; 2]> = BTreeMap::new();
    for tensor in open(&weights)? {
        let (module, half) = module(&tensor)?;
        pairs.entry(module).or_default()[half] = Some(tensor);
    }
    for (module, pair) in pairs {
        let [Some(a), Some(b)] = pair else {
            let what = format!("has only one of lora_A and lora_B for {module}");
            return Err(Error::source(&weights, what));
        };
        // As in peft: alpha divided by the rank or by its square root, in f64.
        let rank = a.shape()[0] as f64;
        let scale = match settings.bool("use_rslora")? {
            Some(true) => scaling / rank.sqrt(),
            _ => scaling / rank,
        };
        let scale = (scale * f64::from(lora.scale)) as f32;
        let (name, [n, _]) = (format!("{module}.weight"), b.shape());
        model.weights.apply_adapter(&name, n, &model.config, |base, rows, factor| {
            let b = Rows { inner: b.clone(), rows };
            Merged::checked(base, a.clone(), b, scale * factor)
        })?;
    }
    model.files.extend([config, weights]);
    Ok(())
}

/// Returns `lora_alpha`, and rejects unsupported settings.
fn scaling(settings: &Settings) -> Result<f64, Error> {
    let unsupported = |what: String| Error::Unsupported {
        path: settings.path().into(),
        what,
        next: "merge this adapter with peft and convert the merged model".into(),
    };
    let kind = settings.need("peft_type", settings.str("peft_type")?)?;
    if kind != "LORA" {
        return Err(unsupported(format!("an adapter of type {kind:?}")));
    }
    for (key, plain) in PLAIN {
        if let Some(value) = settings.get(key).map(ToString::to_string)
            && !plain.contains(&value.as_str())
        {
            return Err(unsupported(format!("an adapter with {key} {value}")));
        }
    }
    let alpha = settings.need("lora_alpha", settings.f64("lora_alpha")?)?;
    if !alpha.is_finite() {
        return Err(settings.error("lora_alpha", format!("is {alpha}, expected a number")));
    }
    Ok(alpha)
}

/// The module to which a tensor belongs, and 0 for A or 1 for B.
fn module(tensor: &FileTensor) -> Result<(String, usize), Error> {
    let (path, name) = tensor.name();
    let inner = name.strip_prefix("base_model.model.").unwrap_or(name);
    let halves = [(".lora_A.weight", 0), (".lora_B.weight", 1)];
    let found = halves.iter().find_map(|&(end, half)| Some((inner.strip_suffix(end)?, half)));
    found.map(|(module, half)| (module.to_owned(), half)).ok_or_else(|| Error::Tensor {
        path: path.into(),
        tensor: name.into(),
        what: "is neither lora_A nor lora_B of a linear layer; merge this adapter with peft".into(),
    })
}

/// A matrix with an adapter added.
struct Merged {
    base: Box<dyn TensorSource>,
    a: FileTensor,
    b: Rows,
    scale: f32,
}

impl Merged {
    /// Checks that the shapes match.
    fn checked(
        base: Box<dyn TensorSource>,
        a: FileTensor,
        b: Rows,
        scale: f32,
    ) -> Result<Box<dyn TensorSource>, Error> {
        let ([n, k], [rank, a_in], [b_out, b_rank]) = (base.shape(), a.shape(), b.shape());
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
        Ok(Box::new(Self { base, a, b, scale }))
    }
}

impl TensorSource for Merged {
    fn name(&self) -> (&Path, &str) {
        self.base.name()
    }

    fn shape(&self) -> [usize; 2] {
        self.base.shape()
    }

    /// Computes `W + scale · (B · A)` in f32; each sum runs over the rank in ascending order.
    fn read_rows(&self, rows: Range<usize>, out: &mut [f32]) -> Result<(), Error> {
        let [rank, k] = self.a.shape();
        self.base.read_rows(rows.clone(), out)?;
        let mut a = vec![0.0; rank * k];
        self.a.read_rows(0..rank, &mut a)?;
        let mut b = vec![0.0; rows.len() * rank];
        self.b.read_rows(rows, &mut b)?;
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
        Ok(())
    }
}
