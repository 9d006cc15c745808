//! The order of a weight's rows in its source: alone in a tensor, one of several, or in blocks that alternate
//! with those of another weight.

use std::iter::once;
use std::ops::Range;
use std::sync::Arc;

use nanoinfer_format::{Config, Role};

use crate::names::{Meaning, Names, RopeType, Stacks};
use crate::source::derived::{Runs, Transposed, inputs, minus_exp, unpermuted};
use crate::source::stacks::{Alternate, LastMatrix, TransposedStack};
use crate::source::{FileTensor, TensorSource};

/// The weight (or bias) `role` in a tensor, with the values and in the order in which it is packed. `rows` are
/// its rows if those of several weights follow each other.
pub(super) fn source(
    (names, last): (&Names, &Arc<LastMatrix>),
    tensor: &FileTensor,
    (meaning, role, rows): (Meaning, Role, Range<usize>),
    c: &Config,
) -> Box<dyn TensorSource> {
    let (inner, [n, k]) = (tensor.clone(), tensor.shape());
    let pairs = names.rope_type != RopeType::Neox;
    // In latent attention, norms are those of vectors that are not rotated.
    if pairs && c.latent.is_none() && is_rotated(role) {
        return unpermuted(Box::new(inner), c.head_dim as usize, c.rotary_dim as usize);
    }
    // A tensor of another size is left as it is, and refused for it.
    let tiled = |len: usize| {
        let runs = if names.tiled_heads { tiled_heads(role, c)? } else { return None };
        (runs.iter().map(Range::len).sum::<usize>() == len).then_some(runs)
    };
    if role == Role::SsmOut
        && let Some(runs) = tiled(k)
    {
        return inputs(inner, runs);
    }
    let weight: Box<dyn TensorSource> = match stack((names, last), tensor, (meaning, role), c) {
        Some(weight) => weight,
        None => match interleaved(meaning.roles, role, n, c).or_else(|| tiled(n)) {
            Some(runs) => Box::new(Runs::new(Box::new(inner), runs)),
            None if rows == (0..n) => Box::new(inner),
            None => Box::new(Runs::new(Box::new(inner), [rows])),
        },
    };
    match role {
        // Of several tensors, `Weights::join` transposes the whole.
        Role::SsmConv if !meaning.bias && meaning.expert.is_none() => {
            Box::new(Transposed { inner: weight })
        }
        Role::SsmA if tensor.name().1.ends_with("A_log") => minus_exp(weight),
        Role::AttnQRope | Role::AttnKRope if pairs => {
            unpermuted(weight, c.rotary_dim as usize, c.rotary_dim as usize)
        }
        Role::AttnKB if meaning.roles.len() > 1 => {
            let rows = c.latent.as_ref().map_or(1, |l| l.nope_dim as usize).max(1);
            Box::new(TransposedStack::new(weight, rows, Arc::clone(last)))
        }
        _ => weight,
    }
}

/// Whether the rows of a tensor of `n` rows are packed in another order than that of Hugging Face's checkpoints, in
/// which adapters have theirs.
pub(super) fn is_reordered(names: &Names, roles: &[Role], n: usize, c: &Config) -> bool {
    let turned =
        |&role: &Role| is_rotated(role) || matches!(role, Role::AttnQRope | Role::AttnKRope);
    names.rope_type == RopeType::Interleaved && roles.iter().any(turned)
        || roles.iter().any(|&role| interleaved(roles, role, n, c).is_some())
}

/// Whether RoPE turns the outputs of a weight.
fn is_rotated(role: Role) -> bool {
    matches!(role, Role::AttnQ | Role::AttnK | Role::AttnQNorm | Role::AttnKNorm)
}

/// The weight (or bias) `role` in a stack of experts that is transposed, or where the rows of gate and up alternate.
/// `None` for other tensors.
fn stack(
    (names, last): (&Names, &Arc<LastMatrix>),
    tensor: &FileTensor,
    (meaning, role): (Meaning, Role),
    c: &Config,
) -> Option<Box<dyn TensorSource>> {
    let Stacks { transposed, alternating } = names.stacks;
    if !is_stacked(role) || !transposed && !alternating {
        return None;
    }
    let all: Box<dyn TensorSource> = match tensor.experts() {
        // Quantized ones have the order of their groups: rows first.
        Some(experts) if transposed && !tensor.is_computed() => {
            let rows = tensor.shape()[0] / experts.max(1);
            Box::new(TransposedStack::new(Box::new(tensor.clone()), rows, Arc::clone(last)))
        }
        _ => Box::new(tensor.clone()),
    };
    if alternating && meaning.roles.len() == 2 {
        return Some(Box::new(Alternate::new(all, usize::from(meaning.roles[1] == role))));
    }
    Some(match interleaved(meaning.roles, role, all.shape()[0], c) {
        Some(runs) => Box::new(Runs::new(all, runs)),
        None => all,
    })
}

/// The rows of `role` in a tensor of `n` rows in which two weights alternate: head by head, key by key, or
/// expert by expert. `None` in other tensors.
fn interleaved(roles: &[Role], role: Role, n: usize, c: &Config) -> Option<Vec<Range<usize>>> {
    let r = c.recurrent.as_ref();
    // The last block of each unit belongs to the second weight, all others to the first.
    let blocks = match roles {
        [Role::AttnQ, Role::AttnGate] => vec![c.head_dim as usize; 2],
        [Role::FfnGateExperts, Role::FfnUpExperts] => vec![c.experts.as_ref()?.d_ff as usize; 2],
        [Role::AttnQNope, Role::AttnQRope] => {
            vec![c.latent.as_ref()?.nope_dim as usize, c.rotary_dim as usize]
        }
        [Role::AttnKB, Role::AttnVB] => {
            let latent = c.latent.as_ref()?;
            vec![latent.nope_dim as usize, latent.value_dim as usize]
        }
        [Role::SsmBeta, Role::SsmAlpha] => vec![r?.per_key(); 2],
        [Role::SsmQkv, Role::SsmGate] => {
            let (key, values) = (r?.key_dim as usize, r?.per_key() * r?.value_dim as usize);
            vec![key, key, values, values]
        }
        _ => return None,
    };
    let last = blocks.len() - 1;
    let own = if roles.first() == Some(&role) { 0..last } else { last..blocks.len() };
    let unit = blocks.iter().sum::<usize>().max(1);
    let runs = |block: usize| {
        let from = blocks[..block].iter().sum::<usize>();
        let to = from + blocks[block];
        (0..n).step_by(unit).map(move |first| first + from..first + to)
    };
    Some(own.flat_map(runs).collect())
}

/// Rows of a weight, or inputs of `ssm_out`, where heads of values are grouped by their key, in a source that has
/// the first head of each key, then the second one of each, and so on. `None` for weights without such heads.
fn tiled_heads(role: Role, c: &Config) -> Option<Vec<Range<usize>>> {
    let r = c.recurrent.as_ref()?;
    let (first, width) = match role {
        Role::SsmQkv | Role::SsmConv => (2 * r.keys(), r.value_dim as usize),
        Role::SsmGate | Role::SsmOut => (0, r.value_dim as usize),
        Role::SsmBeta | Role::SsmAlpha | Role::SsmA | Role::SsmDtBias => (0, 1),
        _ => return None,
    };
    let keys = r.key_heads as usize;
    let heads = (0..keys).flat_map(|key| (0..r.per_key()).map(move |value| value * keys + key));
    let heads = heads.map(|head| first + head * width..first + (head + 1) * width);
    Some(once(0..first).chain(heads).collect())
}

/// Whether the weight is one matrix per expert.
pub(crate) fn is_stacked(role: Role) -> bool {
    matches!(
        role,
        Role::FfnGateExperts
            | Role::FfnUpExperts
            | Role::FfnDownExperts
            | Role::AttnKB
            | Role::AttnVB
    )
}
