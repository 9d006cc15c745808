//! Rows of the tensor table: role, encoding and location of each tensor.

use std::collections::HashMap;
use std::ops::Range;

use crate::encoding::{Encoding, TRELLIS_STATES};
use crate::panels::MAX_PARTS;
use crate::role::Role;
use crate::spec::{Part, TensorSpec};
use crate::units::{ALIGN, le_u16, le_u32, le_u64};

/// A tensor in a file: its description and location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Role, shape and encoding.
    pub spec: TensorSpec,
    /// Offset of its first byte in the file.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
    /// BLAKE3 of its bytes.
    pub hash: [u8; 32],
}

/// Bytes per row of the tensor table.
pub const ROW: usize = 192;
const NO_LAYER: u32 = u32::MAX;
/// Within a row: offset of the parts, bytes per part, and offset of the part encodings.
const PARTS: usize = 120;
const PART: usize = 16;
const PART_ENCODINGS: usize = PARTS + MAX_PARTS * PART;
/// Marks a part that has the tensor's own encoding, as in files with a single encoding.
const SAME: u16 = 0;

impl Tensor {
    pub(crate) fn to_row(&self) -> [u8; ROW] {
        let s = &self.spec;
        let mut words = vec![
            s.role as u32,
            s.layer.unwrap_or(NO_LAYER),
            s.encoding as u32,
            s.rotation,
            s.act_group,
            states(s.encodings()),
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
        let (parts, encodings) = row[PARTS..].split_at_mut(PART_ENCODINGS - PARTS);
        for (dst, p) in parts.chunks_exact_mut(PART).zip(&s.parts) {
            for (d, w) in dst.chunks_exact_mut(4).zip([p.role as u32, p.n, p.count, p.rows]) {
                d.copy_from_slice(&w.to_le_bytes());
            }
        }
        for (dst, p) in encodings.chunks_exact_mut(2).zip(&s.parts) {
            let number = if p.encoding == s.encoding { SAME } else { p.encoding as u16 };
            dst.copy_from_slice(&number.to_le_bytes());
        }
        row
    }

    /// Parses a row. `data` is the byte range of the file that may contain tensors.
    pub(crate) fn from_row(row: &[u8; ROW], data: Range<u64>) -> Result<Self, String> {
        let u32_at = |at: usize| le_u32(row, at);
        let role =
            Role::from_u32(u32_at(0)).ok_or_else(|| format!("unknown role {}", u32_at(0)))?;
        let name = role.name();
        let encoding = Encoding::from_u32(u32_at(8))
            .ok_or_else(|| format!("{name}: unknown encoding {}", u32_at(8)))?;
        let parts = parts_of(row, encoding).map_err(|what| format!("{name}: {what}"))?;
        let expected = states(parts.iter().map(|p| p.encoding).chain([encoding]));
        if u32_at(20) != expected {
            let got = u32_at(20);
            return Err(format!("{name}: a trellis of {got} states, expected {expected}"));
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

    fn validate(&self, data: Range<u64>) -> Result<(), String> {
        let s = &self.spec;
        s.check()?;
        if s.stored_bytes() != Some(self.len) {
            return Err(format!("{} bytes do not fit stored shape {:?}", self.len, s.stored));
        }
        let end = self.offset.checked_add(self.len);
        if !self.offset.is_multiple_of(ALIGN)
            || self.offset < data.start
            || end.is_none_or(|e| e > data.end)
        {
            return Err(format!(
                "at {}, {} bytes long, is not at a multiple of {ALIGN} within the data section {data:?}",
                self.offset, self.len
            ));
        }
        Ok(())
    }
}

/// The number of trellis states: 0 unless an encoding is trellis-coded.
fn states(mut encodings: impl Iterator<Item = Encoding>) -> u32 {
    if encodings.any(|e| e.trellis_bits().is_some()) { TRELLIS_STATES } else { 0 }
}

/// Parses the parts of a tensor with encoding `own`. Checks that reserved fields are zero.
fn parts_of(row: &[u8; ROW], own: Encoding) -> Result<Vec<Part>, String> {
    let n = le_u32(row, 28) as usize;
    if n > MAX_PARTS {
        return Err(format!("{n} parts, at most {MAX_PARTS} allowed"));
    }
    let unused = [PARTS + PART * n..PART_ENCODINGS, PART_ENCODINGS + 2 * n..ROW];
    let mut reserved = [24..28, 68..72].into_iter().chain(unused);
    if reserved.any(|range| row[range].iter().any(|&b| b != 0)) {
        return Err("a reserved field is not zero".into());
    }
    let part = |i: usize| {
        let at = PARTS + PART * i;
        let [number, n, count, rows] = [0, 4, 8, 12].map(|field| le_u32(row, at + field));
        let role = Role::from_u32(number).ok_or_else(|| format!("unknown part role {number}"))?;
        let encoding = match le_u16(row, PART_ENCODINGS + 2 * i) {
            SAME => own,
            number => Encoding::from_u32(number.into())
                .filter(|&encoding| encoding != own)
                .ok_or_else(|| {
                    let role = role.name();
                    format!(
                        "{role} has encoding {number}, expected 0 or an encoding other than the \
                         tensor's"
                    )
                })?,
        };
        Ok(Part { role, n, count, rows, encoding })
    };
    (0..n).map(part).collect()
}

/// Indexes the tensor table. Checks that there are no duplicates and that all layers exist.
pub(crate) fn index(
    tensors: &[Tensor],
    n_layers: u32,
) -> Result<HashMap<(Role, Option<u32>), usize>, String> {
    let mut index = HashMap::with_capacity(tensors.len());
    for (i, Tensor { spec, .. }) in tensors.iter().enumerate() {
        if spec.layer.is_some_and(|l| l >= n_layers) {
            return Err(format!("tensor {} in a model of {n_layers} layers", spec.label()));
        }
        if index.insert((spec.role, spec.layer), i).is_some() {
            return Err(format!("tensor {} appears twice", spec.label()));
        }
    }
    Ok(index)
}
