//! The weights of a model under one name each, whatever their source calls them.

pub(crate) mod names;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use nanoinfer_format::{Config, Entry, Kind, Role, layer_schema, schema};

use crate::Error;
use crate::source::{Affine, FileTensor, Rows, TensorSource, Unpermuted};
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
    slots: HashMap<Slot, Parts>,
}

/// What fills a slot: one tensor, which may be a stack of all experts' matrices, or one for each
/// expert.
type Parts = BTreeMap<u32, Box<dyn TensorSource>>;

impl Weights {
    /// `path` is the folder or file that errors about missing tensors name.
    pub(crate) fn new(path: &Path, names: &'static Names) -> Self {
        Self { path: path.into(), names, changes: Vec::new(), slots: HashMap::new() }
    }

    fn error(path: &Path, tensor: &str, what: impl Into<String>) -> Error {
        Error::Tensor { path: path.into(), tensor: tensor.into(), what: what.into() }
    }

    /// Puts a tensor into the slots its name means: a fused one is divided among several.
    pub(crate) fn insert(&mut self, tensor: FileTensor, c: &Config) -> Result<(), Error> {
        let (path, name) = tensor.name();
        let Some(Meaning { layer, roles, expert, bias }) = self.names.meaning(name) else {
            let what = format!("is unexpected: {} models have no such weight", c.architecture);
            return Err(Self::error(path, name, what));
        };
        let stacked = expert.is_none() && roles.iter().copied().all(is_stacked);
        if tensor.experts().is_some() != stacked {
            let what = if stacked { "is not a stack of matrices" } else { "has 3 dimensions" };
            return Err(Self::error(path, name, what));
        }
        let [n, _] = tensor.shape();
        for (role, rows) in divide(roles, n, c) {
            let parts = self.slots.entry(Slot { layer, role, bias }).or_default();
            // All experts in one tensor, or each in its own.
            if parts.contains_key(&expert.unwrap_or(0)) || stacked && !parts.is_empty() {
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
            parts.insert(expert.unwrap_or(0), source);
        }
        Ok(())
    }

    /// Changes weights that are all there.
    pub(crate) fn change(&mut self, changes: Vec<Change>) {
        for &Change { roles, factor, offset } in &changes {
            for (_, parts) in self.slots.iter_mut().filter(|(slot, _)| roles.contains(&slot.role)) {
                for (expert, inner) in std::mem::take(parts) {
                    parts.insert(expert, Box::new(Affine { inner, factor, offset }));
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
        self.slots.get(&Slot { layer, role, bias })?.get(&0).map(Box::as_ref)
    }

    /// Where the matrix of `n` rows of an expert is, and its first row there. [`Self::check`] has
    /// found it.
    pub(crate) fn of_expert(
        &self,
        layer: Option<u32>,
        role: Role,
        expert: usize,
        n: usize,
    ) -> (&dyn TensorSource, usize) {
        let parts = &self.slots[&Slot { layer, role, bias: false }];
        match parts.len() {
            1 => (parts[&0].as_ref(), expert * n),
            _ => (parts[&(expert as u32)].as_ref(), 0),
        }
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
        let path = self.path.clone();
        let missing = || {
            let what = "is what the adapter changes, but the model has no such weight";
            Self::error(&path, name, what)
        };
        let Meaning { layer, roles, expert, bias } =
            self.names.of_adapters().meaning(name).ok_or_else(missing)?;
        let expert = expert.unwrap_or(0);
        for (role, rows) in divide(roles, n, c) {
            let parts = self.slots.get_mut(&Slot { layer, role, bias }).ok_or_else(missing)?;
            let base = parts.remove(&expert).ok_or_else(missing)?;
            let of_role = self.changes.iter().filter(|change| change.roles.contains(&role));
            let factor = of_role.map(|change| change.factor).product();
            parts.insert(expert, change(base, rows, factor)?);
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
        for entry in schema(config) {
            let layer = entry.layer;
            for (role, shape) in shapes(&entry) {
                expected.insert(self.check_one(Slot { layer, role, bias: false }, shape)?);
                let slot = Slot { layer, role, bias: true };
                if biases.of(role).unwrap_or(self.slots.contains_key(&slot)) {
                    expected.insert(self.check_one(slot, [1, shape[1], 1])?);
                }
            }
        }
        let others = self.slots.iter().filter(|(s, _)| !expected.contains(s));
        match others.flat_map(|(_, parts)| parts.values()).map(|t| t.name()).min() {
            None => Ok(()),
            Some((path, name)) => Err(Self::error(path, name, UNEXPECTED)),
        }
    }

    /// Checks a slot's one tensor, or those of all experts.
    fn check_one(&self, slot: Slot, [experts, n, k]: [usize; 3]) -> Result<Slot, Error> {
        let missing = |expert| {
            let name = self.names.name(slot.layer, slot.role, expert, slot.bias);
            Self::error(&self.path, &name, "is missing; is the download complete?")
        };
        let parts = self.slots.get(&slot).ok_or_else(|| missing(0))?;
        if let (1, Some(one)) = (parts.len(), parts.get(&0))
            && (experts == 1 || one.shape() != [n, k])
        {
            return check_shape(one.as_ref(), [experts * n, k]).map(|()| slot);
        }
        for expert in 0..experts as u32 {
            let part = parts.get(&expert).ok_or_else(|| missing(expert))?;
            check_shape(part.as_ref(), [n, k])?;
        }
        match parts.range(experts as u32..).next() {
            None => Ok(slot),
            Some((_, part)) => Err(Self::error(part.name().0, part.name().1, UNEXPECTED)),
        }
    }
}

const UNEXPECTED: &str = "is unexpected: the model's description has no such weight";

fn check_shape(tensor: &dyn TensorSource, expected: [usize; 2]) -> Result<(), Error> {
    if tensor.shape() == expected {
        return Ok(());
    }
    let (path, name) = tensor.name();
    let shown = |[n, k]: [usize; 2]| if k == 1 { format!("[{n}]") } else { format!("[{n}, {k}]") };
    let (is, said) = (shown(tensor.shape()), shown(expected));
    let what = format!("has shape {is}, the model's description says {said}");
    Err(Weights::error(path, name, what))
}

/// A weight and its shape: experts, rows, inputs.
type Shape = (Role, [usize; 3]);

/// Whether each expert has such a matrix.
pub(crate) fn is_stacked(role: Role) -> bool {
    matches!(role, Role::FfnGateExperts | Role::FfnUpExperts | Role::FfnDownExperts)
}

/// The weights that are stored as one tensor.
fn shapes(entry: &Entry) -> Vec<Shape> {
    let [experts, n, k] = entry.logical.map(|x| x as usize);
    match entry.kind {
        Kind::Turns => Vec::new(), // computed
        Kind::Vector => vec![(entry.role, [1, k, 1])],
        Kind::Matrix | Kind::Router if entry.parts.is_empty() => {
            vec![(entry.role, [experts, n, k])]
        }
        Kind::Matrix | Kind::Router => {
            entry.parts.iter().map(|p| (p.role, [experts, p.n as usize, k])).collect()
        }
    }
}

/// The rows of each of several weights in one tensor of `n` rows. If those of the model do not
/// fill it, the last has what is left, which is then found to be wrong.
fn divide(roles: &'static [Role], n: usize, c: &Config) -> Vec<(Role, Range<usize>)> {
    if let &[role] = roles {
        return vec![(role, 0..n)];
    }
    let shapes: Vec<Shape> = layer_schema(c, 0).iter().flat_map(shapes).collect();
    let rows = |role| shapes.iter().find(|s| s.0 == role).map_or(n, |s| s.1[1]);
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
