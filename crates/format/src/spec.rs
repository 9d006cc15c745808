//! Role, shape and encoding of a tensor, and their consistency checks.

use crate::encoding::{ActType, Encoding};
use crate::panels::PanelLayout;
use crate::role::Role;
use crate::units::{GROUP, LANES, pad};

/// Largest Hadamard block of inputs.
const MAX_ROTATION: u32 = 512;

/// One tensor within a fused tensor, whose rows form a repeating unit. For each part in order, a unit
/// holds `count` blocks of `rows` logical rows; each block is padded to 16 rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Role of the part.
    pub role: Role,
    /// Logical rows over all units.
    pub n: u32,
    /// Blocks of this part per unit.
    pub count: u32,
    /// Logical rows per block.
    pub rows: u32,
    /// Encoding, always in panels.
    pub encoding: Encoding,
}

/// Description of a tensor, provided by the packer before the data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Role of the tensor.
    pub role: Role,
    /// Layer, or `None` for a tensor of the whole model.
    pub layer: Option<u32>,
    /// Encoding; for a fused tensor, that of the first part.
    pub encoding: Encoding,
    /// Hadamard block applied to the inputs of all rows or, in a fused tensor, to the inputs of parts
    /// that use int8 activations; 1 = not rotated.
    pub rotation: u32,
    /// Inputs per activation scale; 0 if all activations are f32.
    pub act_group: u32,
    /// Logical `[experts, rows, inputs]`.
    pub logical: [u32; 3],
    /// Stored `[experts, rows, inputs]`, padding included.
    pub stored: [u32; 3],
    /// Number of repetitions of the unit of `parts`; 1 for a tensor that is not fused.
    pub repeat: u32,
    /// Inputs form blocks of `.0` logical values, each stored as `.1`; `(0, 0)` = contiguous.
    pub k_unit: (u32, u32),
    /// The tensors fused into this one, at most 4; empty if it is not fused.
    pub parts: Vec<Part>,
}

impl TensorSpec {
    /// A plain f32 vector (without panels) of `k` values, zero-padded to `stored`.
    pub fn vector(role: Role, layer: Option<u32>, k: usize, stored: usize) -> Self {
        Self {
            role,
            layer,
            encoding: Encoding::F32,
            rotation: 1,
            act_group: 0,
            logical: [1, 1, k as u32],
            stored: [1, 1, stored as u32],
            repeat: 1,
            k_unit: (0, 0),
            parts: Vec::new(),
        }
    }

    /// A matrix in panels, with `n` rows, padded to 16, and `k` inputs, padded to 64.
    pub fn matrix(role: Role, layer: Option<u32>, encoding: Encoding, n: usize, k: usize) -> Self {
        let int8 = encoding.act_type() == Some(ActType::Int8);
        Self {
            encoding,
            rotation: if int8 { GROUP as u32 } else { 1 },
            act_group: if int8 { GROUP as u32 } else { 0 },
            logical: [1, n as u32, k as u32],
            stored: [1, pad(n, LANES) as u32, pad(k, GROUP) as u32],
            ..Self::vector(role, layer, k, k)
        }
    }

    /// The encodings of the parts, or of the tensor itself if it is not fused.
    pub fn encodings(&self) -> impl Iterator<Item = Encoding> {
        let own = self.parts.is_empty().then_some(self.encoding);
        own.into_iter().chain(self.parts.iter().map(|p| p.encoding))
    }

    /// The encoding of the part with this role, or of the tensor itself if there is no such part.
    pub fn encoding_of(&self, role: Role) -> Encoding {
        let part = self.parts.iter().find(|p| p.role == role);
        part.map_or(self.encoding, |p| p.encoding)
    }

    /// Whether any product with this tensor uses activations of this type.
    pub fn takes(&self, activations: ActType) -> bool {
        self.encodings().any(|e| e.act_type() == Some(activations))
    }

    /// The Hadamard block applied to the inputs of rows in the given encoding.
    pub fn rotation_of(&self, encoding: Encoding) -> u32 {
        let rotated = self.parts.is_empty() || encoding.act_type() == Some(ActType::Int8);
        if rotated { self.rotation } else { 1 }
    }

    /// The layout of the panels of all experts. `None` if there are no panels or their size exceeds the
    /// address space.
    pub fn panels(&self) -> Option<PanelLayout> {
        let [experts, n, k] = self.stored.map(|x| x as usize);
        if self.parts.is_empty() {
            return PanelLayout::new(k, [(n / LANES, self.encoding)].into_iter(), experts);
        }
        // On overflow, saturates to a size that the layout rejects.
        let panels =
            |p: &Part| (p.count as usize).saturating_mul((p.rows as usize).div_ceil(LANES));
        let unit = self.parts.iter().map(|p| (panels(p), p.encoding));
        PanelLayout::new(k, unit, experts.saturating_mul(self.repeat as usize))
    }

    /// Stored size in bytes, or `None` on overflow.
    pub fn stored_bytes(&self) -> Option<u64> {
        let Some(value) = self.encoding.plain_bytes() else {
            return Some(self.panels()?.bytes() as u64);
        };
        self.stored.iter().try_fold(value as u64, |bytes, &n| bytes.checked_mul(n.into()))
    }

    /// Display name: `attn_qkv of layer 3`.
    pub fn label(&self) -> String {
        let layer = self.layer.map_or(String::new(), |l| format!(" of layer {l}"));
        format!("{}{layer}", self.role.name())
    }

    /// Checks that the fields are consistent, independently of the model. The engine checks whether the
    /// shape matches the architecture.
    pub(crate) fn check(&self) -> Result<(), String> {
        let [e, n, k] = self.stored;
        if self.role.is_part() || self.role.is_per_layer() != self.layer.is_some() {
            let layer = self.layer.map_or("none".into(), |layer| layer.to_string());
            return Err(format!("layer {layer} does not fit the role"));
        }
        let shrunk =
            self.logical.iter().zip(&self.stored).any(|(logical, stored)| logical > stored);
        if self.logical.contains(&0) || shrunk || self.logical[0] != e {
            let (logical, stored) = (self.logical, self.stored);
            return Err(format!("shape {logical:?} does not fit stored shape {stored:?}"));
        }
        if self.encoding.is_panel()
            && !(n.is_multiple_of(LANES as u32) && k.is_multiple_of(GROUP as u32))
        {
            return Err(format!("stored shape {:?} does not consist of whole panels", self.stored));
        }
        self.check_activations()?;
        let (from, to) = self.k_unit;
        let k_logical = self.logical[2];
        let spread = || {
            from > 0
                && from <= to
                && k_logical.is_multiple_of(from)
                && u64::from(k_logical / from) * u64::from(to) <= u64::from(k)
        };
        if self.k_unit != (0, 0) && !spread() {
            return Err(format!("inputs in blocks of {from} stored as {to} do not fit"));
        }
        if !self.parts_fit() {
            return Err("its parts do not add up to its rows".into());
        }
        self.check_encodings()
    }

    /// Checks that rotation and grouping match the activations.
    fn check_activations(&self) -> Result<(), String> {
        let (r, k) = (self.rotation, self.stored[2]);
        let int8 = self.takes(ActType::Int8);
        let rotated = int8 || self.encoding.is_panel() && self.role.input_is_rotated();
        if !(r == 1 || rotated && r.is_power_of_two() && r <= MAX_ROTATION && k.is_multiple_of(r)) {
            let encoding = self.encoding.name();
            return Err(format!("rotation in blocks of {r} does not fit {k} inputs of {encoding}"));
        }
        let act_group = if int8 { GROUP as u32 } else { 0 };
        if self.act_group != act_group {
            let got = self.act_group;
            return Err(format!("{got} inputs per activation scale, expected {act_group}"));
        }
        Ok(())
    }

    /// Checks that all parts have panels and that the tensor's encoding is that of the first part.
    fn check_encodings(&self) -> Result<(), String> {
        let Some(first) = self.parts.first() else { return Ok(()) };
        if let Some(p) = self.parts.iter().find(|p| !p.encoding.is_panel()) {
            let (role, encoding) = (p.role.name(), p.encoding.name());
            return Err(format!("its part {role} is {encoding}, which is not a panel encoding"));
        }
        if first.encoding != self.encoding {
            let (own, encoding) = (self.encoding.name(), first.encoding.name());
            return Err(format!("its encoding is {own}, but its first part is {encoding}"));
        }
        Ok(())
    }

    fn parts_fit(&self) -> bool {
        if self.parts.is_empty() {
            return self.repeat == 1;
        }
        let repeat = u64::from(self.repeat);
        let (mut logical, mut stored) = (0u64, 0u64);
        for p in &self.parts {
            let [n, count, rows] = [p.n, p.count, p.rows].map(u64::from);
            let Some(blocks) = repeat.checked_mul(count) else { return false };
            let Some(room) = blocks.checked_mul(rows) else { return false };
            let padded = rows.next_multiple_of(LANES as u64).checked_mul(blocks);
            let Some(total) = padded.and_then(|p| stored.checked_add(p)) else { return false };
            if !p.role.is_part() || n == 0 || n > room {
                return false;
            }
            (logical, stored) = (logical + n, total);
        }
        logical == u64::from(self.logical[1]) && stored == u64::from(self.stored[1])
    }
}
