//! The weights of a model, by role and layer instead of by their names in the source.

pub(crate) mod order;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nanoinfer_format::{Config, Entry, Kind, NormPlace, Role, layer_schema, schema};

use crate::Error;
use crate::description::{Biases, Change, RowFactor};
use crate::names::{Meaning, Names};
use crate::source::derived::{Joined, Transposed, affine, scaled_rows};
use crate::source::stacks::LastMatrix;
use crate::source::{FileTensor, TensorSource};
use crate::weights::order::is_stacked;

/// Identifies a weight or its bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Slot {
    layer: Option<u32>,
    role: Role,
    bias: bool,
}

/// All weights of a model, each in its slot.
pub(crate) struct Weights {
    path: PathBuf,
    names: Names,
    changes: Vec<Change>,
    row_factors: Vec<RowFactor>,
    slots: HashMap<Slot, Parts>,
    last: Arc<LastMatrix>,
    /// The embedding and the output layer as stored, to find out whether they are the same matrix.
    ends: [Option<FileTensor>; 2],
}

/// The contents of a slot: one tensor, which may stack the matrices of all experts, or one tensor per
/// expert.
type Parts = BTreeMap<u32, Box<dyn TensorSource>>;

impl Weights {
    /// `path` is the folder or file named in errors about missing tensors.
    pub(crate) fn new(path: &Path, names: Names) -> Self {
        Self {
            path: path.into(),
            names,
            changes: Vec::new(),
            row_factors: Vec::new(),
            slots: HashMap::new(),
            last: Arc::default(),
            ends: [None, None],
        }
    }

    fn error(path: &Path, tensor: &str, what: impl Into<String>) -> Error {
        Error::Tensor { path: path.into(), tensor: tensor.into(), what: what.into() }
    }

    /// Puts a tensor into its slot; a fused one is split into several.
    pub(crate) fn insert(&mut self, tensor: FileTensor, c: &Config) -> Result<(), Error> {
        let (path, name) = tensor.name();
        let Some(meaning) = self.names.meaning(name) else {
            let headless = self.names.meaning(&format!("model.{name}")).is_some();
            let what = if headless {
                HEADLESS.into()
            } else {
                format!("is unexpected: {} models have no such weight", c.architecture)
            };
            return Err(Self::error(path, name, what));
        };
        let Meaning { layer, roles, expert, bias } = meaning;
        // In OLMo hybrid, the name of one norm depends on where the norms of a layer are.
        let recurrent = layer.and_then(|layer| c.recurrent_of(layer as usize));
        let before = recurrent.is_some_and(|r| r.norm_place == Some(NormPlace::Pre));
        // A layer without attention or recurrence has only one norm.
        let alone = layer.is_some_and(|layer| !c.has_mixer(layer as usize));
        let roles: &'static [Role] = match roles {
            [Role::AttnPostNorm] if before => &[Role::FfnNorm],
            [Role::AttnNorm] if alone => &[Role::FfnNorm],
            _ => roles,
        };
        // Checkpoints may have keys and values that are never computed.
        let reads_other = |layer| c.attention_of(layer as usize).cache_of.is_some();
        let cached = |role| matches!(role, &Role::AttnK | Role::AttnV | Role::AttnKNorm);
        if layer.is_some_and(reads_other) && roles.iter().all(cached) {
            return Ok(());
        }
        // llama.cpp stores some vectors of recurrent layers as matrices, and a matrix of one row as a vector.
        let tensor = match roles {
            [
                Role::SsmA
                | Role::SsmD
                | Role::SsmNorm
                | Role::AttnQNorm
                | Role::AttnKNorm
                | Role::FfnRouterBias,
            ] => tensor.flattened(),
            [Role::FfnSharedGate] => tensor.row(),
            _ if bias && roles.iter().copied().all(is_stacked) => tensor.flattened(),
            _ => tensor,
        };
        let (path, name) = tensor.name();
        let stacked = expert.is_none() && !bias && roles.iter().copied().all(is_stacked);
        // The weights of a depthwise convolution have one input channel per output channel.
        let conv = roles == [Role::SsmConv] && !bias;
        // The projections of all heads may also follow each other in one matrix.
        let heads = roles == [Role::AttnKB, Role::AttnVB] && tensor.experts().is_none();
        if tensor.experts().is_some() != stacked && !conv && !heads {
            let what = if stacked {
                "is not a stack of matrices"
            } else {
                "has 3 dimensions, expected at most 2"
            };
            return Err(Self::error(path, name, what));
        }
        let [n, _] = tensor.shape();
        for (role, rows) in divide(roles, n, layer, c) {
            let parts = self.slots.entry(Slot { layer, role, bias }).or_default();
            // All experts in one tensor or each in its own, but not both.
            if parts.contains_key(&expert.unwrap_or(0)) || stacked && !parts.is_empty() {
                return Err(Self::error(path, name, "appears twice"));
            }
            let source =
                order::source((&self.names, &self.last), &tensor, (meaning, role, rows), c);
            parts.insert(expert.unwrap_or(0), source);
        }
        match roles {
            [Role::TokenEmbd] if !bias => self.ends[0] = Some(tensor),
            [Role::Output] if !bias => self.ends[1] = Some(tensor),
            _ => {}
        }
        Ok(())
    }

    /// Joins weights that are stored in several tensors, once all have been inserted.
    pub(crate) fn join(&mut self) {
        for (slot, parts) in &mut self.slots {
            if parts.len() > 1 && !is_stacked(slot.role) {
                let all = std::mem::take(parts).into_values().collect();
                let joined: Box<dyn TensorSource> = Box::new(Joined::new(all));
                let transposed = slot.role == Role::SsmConv && !slot.bias;
                parts.insert(
                    0,
                    if transposed { Box::new(Transposed { inner: joined }) } else { joined },
                );
            }
        }
    }

    /// Applies changes once all weights have been inserted.
    pub(crate) fn change(&mut self, changes: Vec<Change>) {
        for &Change { roles, factor, offset } in &changes {
            for (_, parts) in self.slots.iter_mut().filter(|(slot, _)| roles.contains(&slot.role)) {
                for (expert, inner) in std::mem::take(parts) {
                    parts.insert(expert, affine(inner, factor, offset));
                }
            }
        }
        self.changes.extend(changes);
    }

    /// Multiplies some rows of weights, after the other changes.
    pub(crate) fn scale_rows(&mut self, factors: Vec<RowFactor>) {
        for RowFactor { role, rows, factor } in factors.iter().cloned() {
            let slots = self.slots.iter_mut();
            for (_, parts) in slots.filter(|(slot, _)| slot.role == role && !slot.bias) {
                for (expert, inner) in std::mem::take(parts) {
                    parts.insert(expert, scaled_rows(inner, rows.clone(), factor));
                }
            }
        }
        self.row_factors = factors;
    }

    /// The number format of most weights in layers, if they have been rounded to less than 8 bits.
    pub(crate) fn rounded(&self) -> Option<&'static str> {
        let mut formats: BTreeMap<&str, (u64, f64)> = BTreeMap::new();
        for (_, parts) in self.slots.iter().filter(|(slot, _)| slot.layer.is_some()) {
            for source in parts.values() {
                let ([n, k], (name, bits)) = (source.shape(), source.format()?);
                formats.entry(name).or_insert((0, bits)).0 += (n * k) as u64;
            }
        }
        let (name, (_, bits)) = formats.into_iter().max_by_key(|&(_, (weights, _))| weights)?;
        (bits < 8.0).then_some(name)
    }

    pub(crate) fn get(
        &self,
        layer: Option<u32>,
        role: Role,
        bias: bool,
    ) -> Option<&dyn TensorSource> {
        self.slots.get(&Slot { layer, role, bias })?.get(&0).map(Box::as_ref)
    }

    /// The tensor that contains the `n`-row matrix of an expert, and the matrix's first row in it.
    /// [`Self::check`] has verified that it exists.
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

    /// A weight whose presence [`Self::check`] has verified.
    pub(crate) fn required(&self, layer: Option<u32>, role: Role) -> &dyn TensorSource {
        self.get(layer, role, false).expect("checked before planning")
    }

    /// Replaces the weights in the tensor that Hugging Face calls `name`. `change` receives a weight, its
    /// range among the `n` rows of `name`, and the factor already applied to it.
    pub(crate) fn apply_adapter(
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
            let what = "is changed by the adapter, but the model has no such weight";
            Self::error(&path, name, what)
        };
        let Meaning { layer, roles, expert, bias } =
            self.names.of_adapters().meaning(name).ok_or_else(missing)?;
        if c.tied_embeddings && roles == [Role::Output] {
            return Err(Self::error(&path, name, TIED_OUTPUT));
        }
        if self.row_factors.iter().any(|scaled| roles.contains(&scaled.role)) {
            return Err(Self::error(&path, name, SCALED_ROWS));
        }
        if order::is_reordered(&self.names, roles, n, c) {
            return Err(Self::error(&path, name, REORDERED_ROWS));
        }
        let expert = expert.unwrap_or(0);
        for (role, rows) in divide(roles, n, layer, c) {
            let parts = self.slots.get_mut(&Slot { layer, role, bias }).ok_or_else(missing)?;
            let base = parts.remove(&expert).ok_or_else(missing)?;
            let of_role = self.changes.iter().filter(|change| change.roles.contains(&role));
            let factor = of_role.map(|change| change.factor).product();
            parts.insert(expert, change(base, rows, factor)?);
        }
        Ok(())
    }

    /// Finds the output layer of a model whose config ties it to the embedding, like transformers since
    /// version 5: of two equal matrices, or if only one of them is stored, one serves as both; an output
    /// layer with other values is used. Returns a note for the user if the config is wrong.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(crate) fn settle_output(&mut self, config: &mut Config) -> Result<Option<String>, Error> {
        if !config.tied_embeddings {
            return Ok(None);
        }
        if let [Some(embedding), Some(output)] = &self.ends
            && !embedding.equals(output)?
        {
            config.tied_embeddings = false;
            return Ok(Some(format!(
                "the config says that the output layer is the embedding (tie_word_embeddings), but the \
                 weights contain a different {:?}, which is used",
                output.name().1
            )));
        }
        let slot = |role| Slot { layer: None, role, bias: false };
        if let Some(output) = self.slots.remove(&slot(Role::Output)) {
            self.slots.entry(slot(Role::TokenEmbd)).or_insert(output);
        }
        Ok(None)
    }

    /// Checks that the weights are exactly those that this config implies, in the right shapes.
    pub(crate) fn check(&self, config: &Config, biases: Biases) -> Result<(), Error> {
        let mut expected = Vec::new();
        for entry in schema(config) {
            let layer = entry.layer;
            for (role, shape) in shapes(&entry) {
                expected.push((Slot { layer, role, bias: false }, shape));
                let slot = Slot { layer, role, bias: true };
                if biases.of(role).unwrap_or(self.slots.contains_key(&slot)) {
                    let values = if entry.kind == Kind::Rows { shape[2] } else { shape[1] };
                    expected.push((slot, [1, shape[0] * values, 1]));
                }
            }
        }
        let known: HashSet<Slot> = expected.iter().map(|(slot, _)| *slot).collect();
        let others = self.slots.iter().filter(|(slot, _)| !known.contains(slot));
        let unexpected = others.flat_map(|(_, parts)| parts.values()).map(|t| t.name()).min();
        for (slot, shape) in expected {
            self.check_one(slot, shape, unexpected.map(|(_, name)| name))?;
        }
        match unexpected {
            None => Ok(()),
            Some((path, name)) => Err(Self::error(path, name, UNEXPECTED)),
        }
    }

    /// Checks the tensor in a slot, or those of all experts. `unexpected` is a tensor without a slot.
    fn check_one(
        &self,
        slot: Slot,
        [experts, n, k]: [usize; 3],
        unexpected: Option<&str>,
    ) -> Result<(), Error> {
        let missing = |expert| {
            let name = self.names.name(slot.layer, slot.role, expert, slot.bias);
            let what = match unexpected {
                None => "is missing; is the download complete?".into(),
                Some(other) => format!("is missing, and {other:?} is unexpected: {OTHER_KIND}"),
            };
            Self::error(&self.path, &name, what)
        };
        let parts = self.slots.get(&slot).ok_or_else(|| missing(0))?;
        if let (1, Some(one)) = (parts.len(), parts.get(&0))
            && (experts == 1 || one.shape() != [n, k])
        {
            return check_shape(one.as_ref(), [experts * n, k]);
        }
        for expert in 0..experts as u32 {
            let part = parts.get(&expert).ok_or_else(|| missing(expert))?;
            check_shape(part.as_ref(), [n, k])?;
        }
        match parts.range(experts as u32..).next() {
            None => Ok(()),
            Some((_, part)) => Err(Self::error(part.name().0, part.name().1, UNEXPECTED)),
        }
    }
}

const HEADLESS: &str = "is named as in a model without an output layer, such as an embedding model, which \
                        cannot generate text; use a model for text generation";
const TIED_OUTPUT: &str = "is changed by the adapter, but in this model it is also the embedding; merge \
                           the adapter with peft and convert the merged model";
const SCALED_ROWS: &str = "is changed by the adapter, but its rows have different multipliers in this model; \
                           merge the adapter with peft and convert the merged model";
const REORDERED_ROWS: &str = "is changed by the adapter, but its rows are reordered in this model; merge the adapter \
                              with peft and convert the merged model";
const OTHER_KIND: &str = "the config describes another kind of model";
const UNEXPECTED: &str = "is unexpected: a model with this config has no such weight";

fn check_shape(tensor: &dyn TensorSource, expected: [usize; 2]) -> Result<(), Error> {
    if tensor.shape() == expected {
        return Ok(());
    }
    let (path, name) = tensor.name();
    let shown = |[n, k]: [usize; 2]| if k == 1 { format!("[{n}]") } else { format!("[{n}, {k}]") };
    let (found, expected) = (shown(tensor.shape()), shown(expected));
    let what = format!("has shape {found}, but the model's config requires {expected}");
    Err(Weights::error(path, name, what))
}

/// A weight and its shape: `[experts, rows, inputs]`.
type Shape = (Role, [usize; 3]);

/// The source weights behind one tensor of the file.
fn shapes(entry: &Entry) -> Vec<Shape> {
    let [experts, n, k] = entry.logical.map(|x| x as usize);
    match entry.kind {
        Kind::Turns => Vec::new(), // computed
        Kind::Vector => vec![(entry.role, [1, k, 1])],
        Kind::Matrix | Kind::Router | Kind::Rows if entry.parts.is_empty() => {
            vec![(entry.role, [experts, n, k])]
        }
        Kind::Matrix | Kind::Router | Kind::Rows => {
            entry.parts.iter().map(|p| (p.role, [experts, p.n as usize, k])).collect()
        }
    }
}

/// Splits the `n` rows of a tensor among the weights in it. The last takes what is left, so that a
/// wrong `n` shows in its shape, which [`Weights::check`] refuses.
fn divide(
    roles: &'static [Role],
    n: usize,
    layer: Option<u32>,
    c: &Config,
) -> Vec<(Role, Range<usize>)> {
    if let &[role] = roles {
        return vec![(role, 0..n)];
    }
    let shapes: Vec<Shape> = layer_schema(c, layer.unwrap_or(0)).iter().flat_map(shapes).collect();
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
