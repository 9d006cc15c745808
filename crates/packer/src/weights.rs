//! The weights of a model under one name each, whatever their source calls them.

pub(crate) mod names;

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use nanoinfer_format::{Config, QkNorm, Role};

use crate::Error;
use crate::source::{Affine, FileTensor, Rows, TensorSource, Unpermuted, Zeros};
use names::Meaning;
pub(crate) use names::Names;

/// Which weight: a role, its bias or itself, and the layer it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Slot {
    pub(crate) layer: Option<u32>,
    pub(crate) role: Role,
    pub(crate) bias: bool,
}

/// What a model's description says about biases: `Some(true)` = there, `Some(false)` = not there,
/// `None` = as the tensors say.
#[derive(Clone, Copy, Default)]
pub(crate) struct Biases {
    /// Of queries, keys and values.
    pub(crate) qkv: Option<bool>,
    /// Of the output of attention.
    pub(crate) output: Option<bool>,
    pub(crate) mlp: Option<bool>,
    /// Of norms, those of queries and keys excepted.
    pub(crate) norm: Option<bool>,
}

impl Biases {
    fn of(self, role: Role) -> Option<bool> {
        match role {
            Role::AttnQ | Role::AttnK | Role::AttnV => self.qkv,
            Role::AttnOutput => self.output,
            Role::FfnGate | Role::FfnUp | Role::FfnDown => self.mlp,
            Role::AttnNorm | Role::FfnNorm | Role::OutputNorm => self.norm,
            _ => Some(false),
        }
    }
}

/// What is done to weights, and their biases, before they are packed: w becomes
/// `factor` · w + `offset`.
#[derive(Clone, Copy)]
pub(crate) struct Change {
    pub(crate) roles: &'static [Role],
    pub(crate) factor: f32,
    pub(crate) offset: f32,
}

/// All weights of a model, each in its slot.
pub(crate) struct Weights {
    path: PathBuf,
    names: &'static Names,
    changes: Vec<Change>,
    slots: HashMap<Slot, Box<dyn TensorSource>>,
}

impl Weights {
    /// `path` is the folder or file that errors about missing tensors name.
    pub(crate) fn new(path: &Path, names: &'static Names) -> Self {
        Self { path: path.into(), names, changes: Vec::new(), slots: HashMap::new() }
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
        Self { path: PathBuf::new(), names: &names::HUGGING_FACE, changes: Vec::new(), slots }
    }

    fn error(path: &Path, tensor: &str, what: impl Into<String>) -> Error {
        Error::Tensor { path: path.into(), tensor: tensor.into(), what: what.into() }
    }

    /// Puts a tensor into the slots its name means: a fused one is divided among several.
    pub(crate) fn insert(&mut self, tensor: FileTensor, c: &Config) -> Result<(), Error> {
        let (path, name) = tensor.name();
        let Some(Meaning { layer, roles, bias }) = self.names.meaning(name) else {
            let what = format!("is unexpected: {} models have no such weight", c.architecture);
            return Err(Self::error(path, name, what));
        };
        let [n, _] = tensor.shape();
        for (role, rows) in divide(roles, n, c) {
            let slot = Slot { layer, role, bias };
            if self.slots.contains_key(&slot) {
                return Err(Self::error(path, name, "is there twice"));
            }
            let permuted = self.names.permuted && matches!(role, Role::AttnQ | Role::AttnK);
            let source: Box<dyn TensorSource> = if permuted {
                Box::new(Unpermuted { inner: tensor.clone(), head_dim: c.head_dim as usize })
            } else if rows == (0..n) {
                Box::new(tensor.clone())
            } else {
                Box::new(Rows { inner: tensor.clone(), rows })
            };
            self.slots.insert(slot, source);
        }
        Ok(())
    }

    /// Changes weights that are all there.
    pub(crate) fn change(&mut self, changes: Vec<Change>) {
        for Change { roles, factor, offset } in &changes {
            let slots: Vec<_> =
                self.slots.keys().filter(|s| roles.contains(&s.role)).copied().collect();
            for slot in slots {
                if let Some(inner) = self.slots.remove(&slot) {
                    let (factor, offset) = (*factor, *offset);
                    self.slots.insert(slot, Box::new(Affine { inner, factor, offset }));
                }
            }
        }
        self.changes.extend(changes);
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

    /// Adds to the weight that Hugging Face calls `name`. `change` is given a weight, which of the
    /// `n` rows of `name` it is, and the factor with which it was changed.
    pub(crate) fn adapt(
        &mut self,
        name: &str,
        n: usize,
        c: &Config,
        change: impl Fn(
            Box<dyn TensorSource>,
            Range<usize>,
            f32,
        ) -> Result<Box<dyn TensorSource>, Error>,
    ) -> Result<(), Error> {
        let missing = || {
            let what = "is what the adapter changes, but the model has no such weight";
            Self::error(&self.path, name, what)
        };
        let Meaning { layer, roles, bias } =
            self.names.of_adapters().meaning(name).ok_or_else(missing)?;
        for (role, rows) in divide(roles, n, c) {
            let slot = Slot { layer, role, bias };
            let base = self.slots.remove(&slot).ok_or_else(missing)?;
            let of_role = self.changes.iter().filter(|change| change.roles.contains(&role));
            let factor = of_role.map(|change| change.factor).product();
            self.slots.insert(slot, change(base, rows, factor)?);
        }
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
        let mut expect = |layer, shapes: Vec<(Role, [usize; 2])>| {
            for (role, [n, k]) in shapes {
                expected.insert(self.check_one(Slot { layer, role, bias: false }, [n, k])?);
                let slot = Slot { layer, role, bias: true };
                if biases.of(role).unwrap_or(self.slots.contains_key(&slot)) {
                    expected.insert(self.check_one(slot, [n, 1])?);
                }
            }
            Ok::<(), Error>(())
        };
        expect(None, model_shapes(config))?;
        (0..config.n_layers).try_for_each(|layer| expect(Some(layer), layer_shapes(config)))?;
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
            return Err(Self::error(
                &self.path,
                &self.names.name(slot.layer, slot.role, slot.bias),
                what,
            ));
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

fn layer_shapes(c: &Config) -> Vec<(Role, [usize; 2])> {
    let (d, ff, head) = (c.d_model as usize, c.d_ff as usize, c.head_dim as usize);
    let (q, kv) = (c.n_heads as usize * head, c.n_kv_heads as usize * head);
    let (pre, post, qk) = (c.pre_norms(), c.post_norms(), c.qk_norm != QkNorm::None);
    let all = [
        (pre, Role::AttnNorm, [d, 1]),
        (true, Role::AttnQ, [q, d]),
        (true, Role::AttnK, [kv, d]),
        (true, Role::AttnV, [kv, d]),
        (qk, Role::AttnQNorm, [c.qk_norm_heads(c.n_heads) * head, 1]),
        (qk, Role::AttnKNorm, [c.qk_norm_heads(c.n_kv_heads) * head, 1]),
        (true, Role::AttnOutput, [d, q]),
        (post, Role::AttnPostNorm, [d, 1]),
        (pre, Role::FfnNorm, [d, 1]),
        (c.gated, Role::FfnGate, [ff, d]),
        (true, Role::FfnUp, [ff, d]),
        (true, Role::FfnDown, [d, ff]),
        (post, Role::FfnPostNorm, [d, 1]),
    ];
    all.into_iter().filter(|w| w.0).map(|(_, role, shape)| (role, shape)).collect()
}

/// The rows of each of several weights in one tensor of `n` rows. If those of the model do not
/// fill it, the last has what is left, which is then found to be wrong.
fn divide(roles: &'static [Role], n: usize, c: &Config) -> Vec<(Role, Range<usize>)> {
    let shapes = layer_shapes(c);
    let rows = |role| shapes.iter().find(|s| s.0 == role).map_or(n, |s| s.1[0]);
    let mut from = 0;
    let mut next = |(i, &role): (usize, &Role)| {
        let end = if i + 1 == roles.len() { n } else { n.min(from + rows(role)) };
        let part = from..end;
        from = end;
        (role, part)
    };
    roles.iter().enumerate().map(&mut next).collect()
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
