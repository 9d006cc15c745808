//! Rows of the tensor table: what a tensor is, how it is encoded, where it lies.

use crate::{GROUP, pad};

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
    /// RoPE frequencies: turns per position as a fraction of 2^64, `head_dim / 2` values of u64.
    RopeTurns = 4,
    AttnNorm = 16,
    /// Fused query, key and value projections.
    AttnQkv = 17,
    AttnQkvBias = 18,
    AttnOutput = 19,
    AttnOutputBias = 20,
    FfnNorm = 32,
    /// Fused gate and up projections, in alternating panels.
    FfnGateUp = 33,
    FfnGateUpBias = 34,
    FfnDown = 35,
    FfnDownBias = 36,
    // Names of parts inside fused tensors; never a row of their own.
    AttnQ = 64,
    AttnK = 65,
    AttnV = 66,
    FfnGate = 67,
    FfnUp = 68,
}

impl Role {
    const ALL: [(Role, &'static str); 19] = [
        (Role::TokenEmbd, "token_embd"),
        (Role::Output, "output"),
        (Role::OutputNorm, "output_norm"),
        (Role::RopeTurns, "rope_turns"),
        (Role::AttnNorm, "attn_norm"),
        (Role::AttnQkv, "attn_qkv"),
        (Role::AttnQkvBias, "attn_qkv.bias"),
        (Role::AttnOutput, "attn_output"),
        (Role::AttnOutputBias, "attn_output.bias"),
        (Role::FfnNorm, "ffn_norm"),
        (Role::FfnGateUp, "ffn_gate_up"),
        (Role::FfnGateUpBias, "ffn_gate_up.bias"),
        (Role::FfnDown, "ffn_down"),
        (Role::FfnDownBias, "ffn_down.bias"),
        (Role::AttnQ, "attn_q"),
        (Role::AttnK, "attn_k"),
        (Role::AttnV, "attn_v"),
        (Role::FfnGate, "ffn_gate"),
        (Role::FfnUp, "ffn_up"),
    ];

    /// The role with this number in a file.
    pub fn from_u32(v: u32) -> Option<Role> {
        Self::ALL.iter().map(|&(r, _)| r).find(|&r| r as u32 == v)
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

/// One tensor inside a fused one. The fused tensor's rows repeat a unit; a unit holds, part after
/// part, `count` blocks of `rows` logical rows, each block padded to 16 rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// What the part is.
    pub role: Role,
    /// Logical rows over all units.
    pub n: u32,
    /// Blocks of this part per unit.
    pub count: u32,
    /// Logical rows per block.
    pub rows: u32,
}

/// What the packer says of a tensor before writing it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// What it is for.
    pub role: Role,
    /// Layer, or none for a tensor of the whole model.
    pub layer: Option<u32>,
    /// How its numbers are stored.
    pub encoding: Encoding,
    /// Hadamard block applied to the input dimension; 1 = not rotated.
    pub rotation: u32,
    /// Inputs per activation scale; 0 where activations stay f32.
    pub act_group: u32,
    /// Logical `[experts, rows, inputs]`.
    pub logical: [u32; 3],
    /// Stored `[experts, rows, inputs]`, padding included.
    pub stored: [u32; 3],
    /// How often the unit of `parts` repeats; 1 for a tensor that is not fused.
    pub repeat: u32,
    /// Inputs come in blocks of `.0` logical values, each stored as `.1`; `(0, 0)` = contiguous.
    pub k_unit: (u32, u32),
    /// The tensors fused into this one; empty for a plain one. At most 4.
    pub parts: Vec<Part>,
}

impl TensorSpec {
    /// A plain (not panelled) f32 vector of `k` values, padded with zeros to `stored`.
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

    /// A panelled matrix of `n` rows and `k` inputs, both padded: rows to 16, inputs to 64.
    pub fn matrix(role: Role, layer: Option<u32>, encoding: Encoding, n: usize, k: usize) -> Self {
        let q8 = encoding == Encoding::Q8Panel;
        Self {
            encoding,
            rotation: if q8 { GROUP as u32 } else { 1 },
            act_group: if q8 { GROUP as u32 } else { 0 },
            logical: [1, n as u32, k as u32],
            stored: [1, pad(n, LANES) as u32, pad(k, GROUP) as u32],
            ..Self::vector(role, layer, k, k)
        }
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
        if u32_at(20) != 0 || u32_at(24) != 0 || u32_at(68) != 0 || row[184..] != [0; 8] {
            return Err(format!("{name}: a reserved field is not zero"));
        }
        let n_parts = u32_at(28) as usize;
        if n_parts > MAX_PARTS {
            return Err(format!("{name}: {n_parts} parts, at most {MAX_PARTS} allowed"));
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
        if s.logical.contains(&0) || s.logical.iter().zip(&s.stored).any(|(l, p)| l > p) {
            return Err(format!("shape {:?} does not fit stored shape {:?}", s.logical, s.stored));
        }
        if s.encoding.is_panel()
            && !(s.stored[1].is_multiple_of(LANES as u32)
                && s.stored[2].is_multiple_of(GROUP as u32))
        {
            return Err(format!("stored shape {:?} is not whole panels", s.stored));
        }
        if !(s.rotation.is_power_of_two() && s.rotation <= 512) {
            return Err(format!("rotation {} is not a power of two up to 512", s.rotation));
        }
        if s.encoding.stored_bytes(s.stored) != Some(self.len) {
            return Err(format!("{} bytes do not fit stored shape {:?}", self.len, s.stored));
        }
        let end = self.offset.checked_add(self.len);
        if !self.offset.is_multiple_of(64)
            || self.offset < data.start
            || end.is_none_or(|e| e > data.end)
        {
            return Err(format!(
                "lies at {} + {}, outside the data section",
                self.offset, self.len
            ));
        }
        Ok(())
    }
}

pub(crate) fn le_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

pub(crate) fn le_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}
