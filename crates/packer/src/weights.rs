//! The weights of a Llama-family model under one name each, whatever their source calls them.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use nanoinfer_format::{Config, Role};

use crate::Error;
use crate::source::{FileTensor, TensorSource, Unpermuted, Zeros};

/// Which weight: a role, its bias or itself, and the layer it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Slot {
    pub(crate) layer: Option<u32>,
    pub(crate) role: Role,
    pub(crate) bias: bool,
}

/// How a kind of source names its tensors.
pub(crate) struct Names {
    layer_prefix: &'static str,
    in_layer: [(&'static str, Role); 9],
    in_model: [(&'static str, Role); 3],
}

/// Names of `LlamaForCausalLM` and `MistralForCausalLM` in transformers.
pub(crate) const HUGGING_FACE: Names = Names {
    layer_prefix: "model.layers.",
    in_layer: [
        ("input_layernorm", Role::AttnNorm),
        ("self_attn.q_proj", Role::AttnQ),
        ("self_attn.k_proj", Role::AttnK),
        ("self_attn.v_proj", Role::AttnV),
        ("self_attn.o_proj", Role::AttnOutput),
        ("post_attention_layernorm", Role::FfnNorm),
        ("mlp.gate_proj", Role::FfnGate),
        ("mlp.up_proj", Role::FfnUp),
        ("mlp.down_proj", Role::FfnDown),
    ],
    in_model: [
        ("model.embed_tokens", Role::TokenEmbd),
        ("model.norm", Role::OutputNorm),
        ("lm_head", Role::Output),
    ],
};

/// Names of the `llama` architecture in GGUF.
pub(crate) const GGUF: Names = Names {
    layer_prefix: "blk.",
    in_layer: [
        ("attn_norm", Role::AttnNorm),
        ("attn_q", Role::AttnQ),
        ("attn_k", Role::AttnK),
        ("attn_v", Role::AttnV),
        ("attn_output", Role::AttnOutput),
        ("ffn_norm", Role::FfnNorm),
        ("ffn_gate", Role::FfnGate),
        ("ffn_up", Role::FfnUp),
        ("ffn_down", Role::FfnDown),
    ],
    in_model: [
        ("token_embd", Role::TokenEmbd),
        ("output_norm", Role::OutputNorm),
        ("output", Role::Output),
    ],
};

impl Names {
    /// The slot a tensor of this name fills, if the family has such a weight.
    fn slot(&self, name: &str) -> Option<Slot> {
        let (stem, bias) = match name.strip_suffix(".weight") {
            Some(stem) => (stem, false),
            None => (name.strip_suffix(".bias")?, true),
        };
        let find = |table: &[(&str, Role)], stem| {
            table.iter().find(|&&(n, _)| n == stem).map(|&(_, role)| role)
        };
        if let Some(role) = find(&self.in_model, stem) {
            return Some(Slot { layer: None, role, bias });
        }
        let (layer, stem) = stem.strip_prefix(self.layer_prefix)?.split_once('.')?;
        let number: u32 = layer.parse().ok().filter(|n: &u32| n.to_string() == layer)?;
        Some(Slot { layer: Some(number), role: find(&self.in_layer, stem)?, bias })
    }

    /// The name a source of this kind gives to a slot.
    fn name(&self, slot: Slot) -> String {
        let find = |table: &[(&'static str, Role)]| {
            table.iter().find(|&&(_, r)| r == slot.role).map_or("?", |&(n, _)| n)
        };
        let kind = if slot.bias { "bias" } else { "weight" };
        match slot.layer {
            Some(i) => format!("{}{i}.{}.{kind}", self.layer_prefix, find(&self.in_layer)),
            None => format!("{}.{kind}", find(&self.in_model)),
        }
    }
}

/// What a model's description says about biases: `Some(true)` = there, `Some(false)` = not there,
/// `None` = as the tensors say.
#[derive(Clone, Copy, Default)]
pub(crate) struct Biases {
    pub(crate) attention: Option<bool>,
    pub(crate) mlp: Option<bool>,
}

/// All weights of a model, each in its slot.
pub(crate) struct Weights {
    path: PathBuf,
    names: &'static Names,
    slots: HashMap<Slot, Box<dyn TensorSource>>,
}

impl Weights {
    /// `path` is the folder or file that errors about missing tensors name.
    pub(crate) fn new(path: &Path, names: &'static Names) -> Self {
        Self { path: path.into(), names, slots: HashMap::new() }
    }

    /// Every weight this architecture needs, without biases, all of them zero: for plans of
    /// models whose values do not matter.
    pub(crate) fn zeros(config: &Config) -> Self {
        let mut slots: HashMap<Slot, Box<dyn TensorSource>> = HashMap::new();
        let mut add = |layer, shapes: &[(Role, [usize; 2])]| {
            for &(role, shape) in shapes {
                slots.insert(Slot { layer, role, bias: false }, Box::new(Zeros(shape)));
            }
        };
        add(None, &model_shapes(config));
        (0..config.n_layers).for_each(|layer| add(Some(layer), &layer_shapes(config)));
        Self { path: PathBuf::new(), names: &HUGGING_FACE, slots }
    }

    fn error(path: &Path, tensor: &str, what: impl Into<String>) -> Error {
        Error::Tensor { path: path.into(), tensor: tensor.into(), what: what.into() }
    }

    /// Puts a tensor into the slot its name means. GGUF query and key rows, known by `permuted`
    /// (the head size), are put back into their original order on reading.
    pub(crate) fn insert(
        &mut self,
        tensor: FileTensor,
        permuted: Option<usize>,
    ) -> Result<(), Error> {
        let (path, name) = tensor.name();
        let Some(slot) = self.names.slot(name) else {
            return Err(Self::error(
                path,
                name,
                "is unexpected: the llama family has no such weight",
            ));
        };
        if self.slots.contains_key(&slot) {
            return Err(Self::error(path, name, "is there twice"));
        }
        let source: Box<dyn TensorSource> = match permuted {
            Some(head_dim) if matches!(slot.role, Role::AttnQ | Role::AttnK) => {
                Box::new(Unpermuted { inner: tensor, head_dim })
            }
            _ => Box::new(tensor),
        };
        self.slots.insert(slot, source);
        Ok(())
    }

    pub(crate) fn get(
        &self,
        layer: Option<u32>,
        role: Role,
        bias: bool,
    ) -> Option<&dyn TensorSource> {
        self.slots.get(&Slot { layer, role, bias }).map(Box::as_ref)
    }

    /// A weight that [`Self::check`] has found to be there.
    pub(crate) fn required(&self, layer: Option<u32>, role: Role) -> &dyn TensorSource {
        self.get(layer, role, false).expect("checked before planning")
    }

    /// Replaces the weight that Hugging Face calls `name` by what `change` makes of it.
    pub(crate) fn adapt(
        &mut self,
        name: &str,
        change: impl FnOnce(Box<dyn TensorSource>) -> Result<Box<dyn TensorSource>, Error>,
    ) -> Result<(), Error> {
        let slot = HUGGING_FACE.slot(name);
        let Some((slot, base)) = slot.and_then(|s| Some((s, self.slots.remove(&s)?))) else {
            let what = "is what the adapter changes, but the model has no such weight";
            return Err(Self::error(&self.path, name, what));
        };
        self.slots.insert(slot, change(base)?);
        Ok(())
    }

    /// The output layer is the token embedding, so a copy of it that the source may carry is
    /// left alone.
    pub(crate) fn drop_output(&mut self) {
        self.slots.remove(&Slot { layer: None, role: Role::Output, bias: false });
    }

    /// Checks that exactly the weights this architecture needs are there, in the right shapes.
    pub(crate) fn check(&self, config: &Config, biases: Biases) -> Result<(), Error> {
        let mut expected = HashSet::new();
        for (role, shape) in model_shapes(config) {
            expected.insert(self.check_one(Slot { layer: None, role, bias: false }, shape)?);
        }
        for layer in (0..config.n_layers).map(Some) {
            for (role, [n, k]) in layer_shapes(config) {
                expected.insert(self.check_one(Slot { layer, role, bias: false }, [n, k])?);
                let slot = Slot { layer, role, bias: true };
                let stated = match role {
                    Role::AttnNorm | Role::FfnNorm => Some(false),
                    Role::FfnGate | Role::FfnUp | Role::FfnDown => biases.mlp,
                    _ => biases.attention,
                };
                if stated.unwrap_or(self.slots.contains_key(&slot)) {
                    expected.insert(self.check_one(slot, [n, 1])?);
                }
            }
        }
        match self.slots.iter().filter(|(s, _)| !expected.contains(s)).map(|(_, t)| t.name()).min()
        {
            None => Ok(()),
            Some((path, name)) => Err(Self::error(
                path,
                name,
                "is unexpected: the model's description has no such weight",
            )),
        }
    }

    fn check_one(&self, slot: Slot, expected: [usize; 2]) -> Result<Slot, Error> {
        let Some(tensor) = self.slots.get(&slot) else {
            let what = "is missing; is the download complete?";
            return Err(Self::error(&self.path, &self.names.name(slot), what));
        };
        if tensor.shape() != expected {
            let (path, name) = tensor.name();
            let shown =
                |[n, k]: [usize; 2]| if k == 1 { format!("[{n}]") } else { format!("[{n}, {k}]") };
            let what = format!(
                "has shape {}, the model's description says {}",
                shown(tensor.shape()),
                shown(expected)
            );
            return Err(Self::error(path, name, what));
        }
        Ok(slot)
    }
}

fn model_shapes(c: &Config) -> Vec<(Role, [usize; 2])> {
    let (d, vocab) = (c.d_model as usize, c.vocab_size as usize);
    let mut shapes = vec![(Role::TokenEmbd, [vocab, d]), (Role::OutputNorm, [d, 1])];
    if !c.tied_embeddings {
        shapes.push((Role::Output, [vocab, d]));
    }
    shapes
}

fn layer_shapes(c: &Config) -> [(Role, [usize; 2]); 9] {
    let (d, ff) = (c.d_model as usize, c.d_ff as usize);
    let q = c.n_heads as usize * c.head_dim as usize;
    let kv = c.n_kv_heads as usize * c.head_dim as usize;
    [
        (Role::AttnNorm, [d, 1]),
        (Role::AttnQ, [q, d]),
        (Role::AttnK, [kv, d]),
        (Role::AttnV, [kv, d]),
        (Role::AttnOutput, [d, q]),
        (Role::FfnNorm, [d, 1]),
        (Role::FfnGate, [ff, d]),
        (Role::FfnUp, [ff, d]),
        (Role::FfnDown, [d, ff]),
    ]
}

/// Tensors of a Hugging Face model that are no weights: transformers before 4.32 saved what it
/// computes.
pub(crate) fn is_ignored(name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq")
}

/// Refuses a tensor that only a quantized checkpoint has, naming what made it: such a file may
/// come without a word on it in its `config.json`.
pub(crate) fn refuse_quantized(path: &Path, name: &str) -> Result<(), Error> {
    const MADE_BY: [(&str, &str); 9] = [
        (".qweight", "GPTQ or AWQ"),
        (".qzeros", "GPTQ or AWQ"),
        (".g_idx", "GPTQ"),
        (".weight_packed", "compressed-tensors"),
        (".weight_scale", "compressed-tensors or FP8"),
        (".weight_scale_inv", "FP8"),
        (".weight.absmax", "bitsandbytes"),
        (".weight.quant_map", "bitsandbytes"),
        (".SCB", "bitsandbytes"),
    ];
    let Some((_, method)) = MADE_BY.iter().find(|(end, _)| name.ends_with(end)) else {
        return Ok(());
    };
    Err(Error::Unsupported {
        path: path.into(),
        what: format!("a model quantized with {method} (it has the tensor {name:?})"),
        next: "convert the original model (f32, f16 or bf16) or a GGUF of it".into(),
    })
}

/// Checks that no two tensors of one file share bytes.
pub(crate) fn check_overlaps<'a>(
    path: &Path,
    tensors: impl Iterator<Item = &'a FileTensor>,
) -> Result<(), Error> {
    let mut extents: Vec<_> = tensors.map(|t| (t.extent(), t.name().1)).collect();
    extents.sort_by_key(|(e, _)| (e.start, e.end));
    for pair in extents.windows(2) {
        let ((a, _), (b, name)) = (&pair[0], &pair[1]);
        if b.start < a.end {
            let what = format!("begins at {}, inside {:?}", b.start, pair[0].1);
            return Err(Error::Tensor { path: path.into(), tensor: (*name).into(), what });
        }
    }
    Ok(())
}
