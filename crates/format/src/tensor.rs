//! Rows of the tensor table: what a tensor is, how it is encoded, where it lies.

use std::collections::HashMap;

use crate::{ALIGN, Part, TensorSpec};

/// Output rows per panel: the width of one 512-bit register of f32, and of every kernel's tile.
pub const LANES: usize = 16;

/// What a tensor is for. Names follow GGUF.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
#[allow(missing_docs)] // The names are the field's own.
pub enum Role {
    TokenEmbd = 1,
    Output = 2,
    OutputNorm = 3,
    /// RoPE frequencies: turns per position as a fraction of 2^64, `rotary_dim / 2` values of u64
    /// for each row.
    RopeTurns = 4,
    OutputNormBias = 5,
    AttnNorm = 16,
    /// Fused query, key and value projections.
    AttnQkv = 17,
    AttnQkvBias = 18,
    AttnOutput = 19,
    AttnOutputBias = 20,
    AttnNormBias = 21,
    /// Norm of queries, of one head or of all.
    AttnQNorm = 22,
    /// Norm of keys.
    AttnKNorm = 23,
    /// Norm of what attention adds to the residual stream.
    AttnPostNorm = 24,
    FfnNorm = 32,
    /// Fused gate and up projections, in alternating panels; the up projection where there is no
    /// gate.
    FfnGateUp = 33,
    FfnGateUpBias = 34,
    FfnDown = 35,
    FfnDownBias = 36,
    FfnNormBias = 37,
    /// Norm of what the feed-forward part adds to the residual stream.
    FfnPostNorm = 38,
    /// Router of a mixture of experts: their scores.
    FfnRouter = 40,
    /// Gate and up projections of every expert, in alternating panels.
    FfnGateUpExperts = 41,
    FfnDownExperts = 42,
    // Names of parts inside fused tensors; never a row of their own.
    AttnQ = 64,
    AttnK = 65,
    AttnV = 66,
    FfnGate = 67,
    FfnUp = 68,
    FfnGateExperts = 69,
    FfnUpExperts = 70,
}

impl Role {
    const ALL: [(Role, &'static str); 31] = [
        (Role::TokenEmbd, "token_embd"),
        (Role::Output, "output"),
        (Role::OutputNorm, "output_norm"),
        (Role::RopeTurns, "rope_turns"),
        (Role::OutputNormBias, "output_norm.bias"),
        (Role::AttnNorm, "attn_norm"),
        (Role::AttnNormBias, "attn_norm.bias"),
        (Role::AttnQkv, "attn_qkv"),
        (Role::AttnQkvBias, "attn_qkv.bias"),
        (Role::AttnOutput, "attn_output"),
        (Role::AttnOutputBias, "attn_output.bias"),
        (Role::AttnQNorm, "attn_q_norm"),
        (Role::AttnKNorm, "attn_k_norm"),
        (Role::AttnPostNorm, "attn_post_norm"),
        (Role::FfnNorm, "ffn_norm"),
        (Role::FfnNormBias, "ffn_norm.bias"),
        (Role::FfnGateUp, "ffn_gate_up"),
        (Role::FfnGateUpBias, "ffn_gate_up.bias"),
        (Role::FfnDown, "ffn_down"),
        (Role::FfnDownBias, "ffn_down.bias"),
        (Role::FfnPostNorm, "ffn_post_norm"),
        (Role::FfnRouter, "ffn_gate_inp"),
        (Role::FfnGateUpExperts, "ffn_gate_up_exps"),
        (Role::FfnDownExperts, "ffn_down_exps"),
        (Role::AttnQ, "attn_q"),
        (Role::AttnK, "attn_k"),
        (Role::AttnV, "attn_v"),
        (Role::FfnGate, "ffn_gate"),
        (Role::FfnUp, "ffn_up"),
        (Role::FfnGateExperts, "ffn_gate_exps"),
        (Role::FfnUpExperts, "ffn_up_exps"),
    ];

    /// The role with this number in a file.
    pub fn from_u32(v: u32) -> Option<Role> {
        Self::ALL.iter().map(|&(r, _)| r).find(|&r| r as u32 == v)
    }

    /// Whether it names a part of a fused tensor, never a tensor of its own.
    pub(crate) fn is_part(self) -> bool {
        self as u32 >= Self::AttnQ as u32
    }

    /// Whether each layer has one.
    pub(crate) fn is_per_layer(self) -> bool {
        !self.is_part() && self as u32 >= Self::AttnNorm as u32
    }

    /// The field's name for it.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|&&(r, _)| r == self).map_or("?", |&(_, n)| n)
    }
}

/// How a tensor's numbers are stored. `Q4Panel` is specified in `docs/FORMAT.md` and reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Encoding {
    /// Plain f32, row-major, K padded with zeros.
    F32 = 0,
    /// Plain u64.
    U64 = 1,
    /// Panels of 16 rows; line `j` of 64 bytes holds input `j` of the 16 rows.
    F32Panel = 2,
    /// Panels of 16 rows; one line of 16 f32 row scales, then `K/4` lines of 8-bit weights.
    Q8Panel = 3,
}

impl Encoding {
    /// The encoding with this number in a file.
    pub fn from_u32(v: u32) -> Option<Encoding> {
        [Self::F32, Self::U64, Self::F32Panel, Self::Q8Panel].into_iter().find(|&e| e as u32 == v)
    }

    /// Short name.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::U64 => "u64",
            Self::F32Panel => "f32 panel",
            Self::Q8Panel => "q8 panel",
        }
    }

    /// Stored bytes of a tensor of shape `[e, n, k]` (stored sizes), or `None` on overflow.
    pub fn stored_bytes(self, [e, n, k]: [u32; 3]) -> Option<u64> {
        let rows = u64::from(e).checked_mul(u64::from(n))?;
        let per_row = match self {
            Self::F32 | Self::F32Panel => u64::from(k).checked_mul(4)?,
            Self::U64 => u64::from(k).checked_mul(8)?,
            Self::Q8Panel => u64::from(k).checked_add(4)?,
        };
        rows.checked_mul(per_row)
    }

    /// Whether rows come in panels of 16.
    pub fn is_panel(self) -> bool {
        matches!(self, Self::F32Panel | Self::Q8Panel)
    }
}

/// Bytes of one panel with `k` stored inputs.
pub const fn panel_bytes(encoding: Encoding, k: usize) -> usize {
    match encoding {
        Encoding::Q8Panel => LANES * (k + 4),
        Encoding::F32 | Encoding::F32Panel => LANES * k * 4,
        Encoding::U64 => LANES * k * 8,
    }
}

/// A tensor of a file: what it is and where it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// What it is and how it is encoded.
    pub spec: TensorSpec,
    /// Offset of its first byte in the file.
    pub offset: u64,
    /// Bytes it takes.
    pub len: u64,
    /// BLAKE3 of these bytes.
    pub hash: [u8; 32],
}

/// Bytes of one row of the tensor table.
pub(crate) const ROW: usize = 192;
const MAX_PARTS: usize = 4;
const NO_LAYER: u32 = u32::MAX;

impl Tensor {
    pub(crate) fn to_row(&self) -> [u8; ROW] {
        let s = &self.spec;
        let mut words = vec![
            s.role as u32,
            s.layer.unwrap_or(NO_LAYER),
            s.encoding as u32,
            s.rotation,
            s.act_group,
            0, // codebook, for Q4 panels
            0, // file index: 0 = this file
            s.parts.len() as u32,
        ];
        words.extend(s.logical);
        words.extend(s.stored);
        words.extend([s.repeat, s.k_unit.0, s.k_unit.1, 0]);
        let mut row = [0u8; ROW];
        for (dst, w) in row.chunks_exact_mut(4).zip(&words) {
            dst.copy_from_slice(&w.to_le_bytes());
        }
        row[72..80].copy_from_slice(&self.offset.to_le_bytes());
        row[80..88].copy_from_slice(&self.len.to_le_bytes());
        row[88..120].copy_from_slice(&self.hash);
        for (dst, p) in row[120..184].chunks_exact_mut(16).zip(&s.parts) {
            for (d, w) in dst.chunks_exact_mut(4).zip([p.role as u32, p.n, p.count, p.rows]) {
                d.copy_from_slice(&w.to_le_bytes());
            }
        }
        row
    }

    /// Parses a row. `data` is the range of the file in which tensors may lie.
    pub(crate) fn from_row(row: &[u8; ROW], data: std::ops::Range<u64>) -> Result<Self, String> {
        let u32_at = |at: usize| le_u32(row, at);
        let role =
            Role::from_u32(u32_at(0)).ok_or_else(|| format!("role {} unknown", u32_at(0)))?;
        let name = role.name();
        let encoding = Encoding::from_u32(u32_at(8))
            .ok_or_else(|| format!("{name}: encoding {} unknown", u32_at(8)))?;
        let n_parts = u32_at(28) as usize;
        if n_parts > MAX_PARTS {
            return Err(format!("{name}: {n_parts} parts, at most {MAX_PARTS} allowed"));
        }
        let reserved = [&row[20..28], &row[68..72], &row[120 + 16 * n_parts..]];
        if reserved.concat().iter().any(|&b| b != 0) {
            return Err(format!("{name}: a reserved field is not zero"));
        }
        let mut parts = Vec::with_capacity(n_parts);
        for i in 0..n_parts {
            let at = 120 + 16 * i;
            let role = Role::from_u32(u32_at(at))
                .ok_or_else(|| format!("{name}: part role {} unknown", u32_at(at)))?;
            parts.push(Part {
                role,
                n: u32_at(at + 4),
                count: u32_at(at + 8),
                rows: u32_at(at + 12),
            });
        }
        let triple = |at| [u32_at(at), u32_at(at + 4), u32_at(at + 8)];
        let spec = TensorSpec {
            role,
            layer: Some(u32_at(4)).filter(|&l| l != NO_LAYER),
            encoding,
            rotation: u32_at(12),
            act_group: u32_at(16),
            logical: triple(32),
            stored: triple(44),
            repeat: u32_at(56),
            k_unit: (u32_at(60), u32_at(64)),
            parts,
        };
        let tensor = Tensor {
            offset: le_u64(row, 72),
            len: le_u64(row, 80),
            hash: row[88..120].try_into().expect("32 bytes"),
            spec,
        };
        tensor.validate(data).map_err(|what| format!("{name}: {what}"))?;
        Ok(tensor)
    }

    fn validate(&self, data: std::ops::Range<u64>) -> Result<(), String> {
        let s = &self.spec;
        s.check()?;
        if s.encoding.stored_bytes(s.stored) != Some(self.len) {
            return Err(format!("{} bytes do not fit stored shape {:?}", self.len, s.stored));
        }
        let end = self.offset.checked_add(self.len);
        if !self.offset.is_multiple_of(ALIGN)
            || self.offset < data.start
            || end.is_none_or(|e| e > data.end)
        {
            return Err(format!(
                "lies at {} + {}, not at a multiple of {ALIGN} within the data section {data:?}",
                self.offset, self.len
            ));
        }
        Ok(())
    }
}

/// Where each tensor is in the table. Checks that no two are the same and that their layers exist.
pub(crate) fn index(
    tensors: &[Tensor],
    n_layers: u32,
) -> Result<HashMap<(Role, Option<u32>), usize>, String> {
    let mut index = HashMap::with_capacity(tensors.len());
    for (i, Tensor { spec, .. }) in tensors.iter().enumerate() {
        if spec.layer.is_some_and(|l| l >= n_layers) {
            return Err(format!("{} in a model of {n_layers} layers", spec.label()));
        }
        if index.insert((spec.role, spec.layer), i).is_some() {
            return Err(format!("two tensors {}", spec.label()));
        }
    }
    Ok(index)
}

pub(crate) fn le_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

pub(crate) fn le_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}
