//! Locates the panels of tensors whose parts have different encodings.
//!
//! ```text
//! unit 0                                      unit 1
//! ┌──────┬──────┬───┬────────────────┐┌──────┬──────┬───┬──── …
//! │  q8  │  q8  │q8 │      f32       ││  q8  │  q8  │q8 │
//! │  Q   │  Q   │ K │       V        ││  Q   │  Q   │ K │
//! └──────┴──────┴───┴────────────────┘└──────┴──────┴───┴──── …
//! └──── segment ────┘└─── segment ───┘
//! ```
//!
//! The length of a panel depends on its encoding, so its offset is a sum over the preceding segments. A
//! tensor with a single encoding is one segment that does not repeat.

use std::ops::Range;

use crate::encoding::{ActType, Encoding};

/// Maximum number of parts of a fused tensor, and thus of segments per unit.
pub(crate) const MAX_PARTS: usize = 4;

/// Consecutive panels in one encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    panels: usize,
    panel_bytes: usize,
    encoding: Encoding,
}

/// The layout of a tensor's panels: a repeating unit of segments, each in one encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PanelLayout {
    segments: [Segment; MAX_PARTS],
    /// Number of segments in use; adjacent segments differ in encoding.
    n: usize,
    unit_panels: usize,
    unit_bytes: usize,
    repeat: usize,
}

/// Consecutive panels in one encoding, and the bytes they occupy in the tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PanelRun {
    /// Encoding of the panels.
    pub encoding: Encoding,
    /// Panel indices within the tensor.
    pub panels: Range<usize>,
    /// Byte range within the tensor; both ends are multiples of 64.
    pub bytes: Range<usize>,
}

/// Weights of consecutive panels in one encoding, in the form the kernels expect.
#[derive(Clone, Copy, Debug)]
pub enum Panels<'a> {
    /// 8-bit weights, `[p][16 f32 scales, k/4 lines]`.
    Q8(&'a [u8]),
    /// Trellis codes of the given number of bits, `[p][16 f32 scales, k/32 blocks]`.
    Trellis(u8, &'a [u8]),
    /// `[p][k][16]`
    F32(&'a [f32]),
}

impl PanelLayout {
    /// Layout of panels with `k` stored inputs: `unit` lists (number of panels, encoding) in order and is
    /// repeated `repeat` times. `None` if there are no panels or too many segments, or on overflow.
    pub(crate) fn new(
        k: usize,
        unit: impl Iterator<Item = (usize, Encoding)>,
        repeat: usize,
    ) -> Option<Self> {
        let none = Segment { panels: 0, panel_bytes: 0, encoding: Encoding::F32Panel };
        let (mut segments, mut n) = ([none; MAX_PARTS], 0);
        for (panels, encoding) in unit {
            let panel_bytes = encoding.panel_bytes(k)?;
            match segments[..n].last_mut().filter(|last| last.encoding == encoding) {
                Some(last) => last.panels = last.panels.checked_add(panels)?,
                None => {
                    *segments.get_mut(n)? = Segment { panels, panel_bytes, encoding };
                    n += 1;
                }
            }
        }
        let (mut unit_panels, mut unit_bytes) = (0usize, 0usize);
        let mut units = repeat;
        if n == 1 {
            segments[0].panels = segments[0].panels.checked_mul(repeat)?;
            units = 1;
        }
        for s in &segments[..n] {
            unit_panels = unit_panels.checked_add(s.panels)?;
            unit_bytes = unit_bytes.checked_add(s.panels.checked_mul(s.panel_bytes)?)?;
        }
        unit_panels.checked_mul(units)?;
        unit_bytes.checked_mul(units)?;
        (unit_panels > 0).then_some(Self { segments, n, unit_panels, unit_bytes, repeat: units })
    }

    /// Number of panels in the tensor.
    pub fn panels(&self) -> usize {
        self.unit_panels * self.repeat
    }

    /// Number of bytes in the tensor.
    pub fn bytes(&self) -> usize {
        self.unit_bytes * self.repeat
    }

    /// Whether products with any of the panels use activations of this type.
    pub fn takes(&self, activations: ActType) -> bool {
        self.segments[..self.n].iter().any(|s| s.encoding.act_type() == Some(activations))
    }

    /// Whether any panel is trellis-coded.
    pub fn is_coded(&self) -> bool {
        self.segments[..self.n].iter().any(|s| s.encoding.trellis_bits().is_some())
    }

    /// The panels of `range` as maximal runs of one encoding, ascending; a single run if the tensor has a
    /// single encoding. Allocates nothing.
    ///
    /// # Panics
    /// If `range` ends after the last panel.
    pub fn runs(&self, range: Range<usize>) -> PanelRuns<'_> {
        assert!(range.end <= self.panels(), "{range:?} of {} panels", self.panels());
        PanelRuns { layout: self, rest: range }
    }
}

/// The iterator returned by [`PanelLayout::runs`].
#[derive(Clone, Debug)]
pub struct PanelRuns<'a> {
    layout: &'a PanelLayout,
    rest: Range<usize>,
}

impl Iterator for PanelRuns<'_> {
    type Item = PanelRun;

    fn next(&mut self) -> Option<PanelRun> {
        let Range { start, end } = self.rest;
        if start >= end {
            return None;
        }
        let PanelLayout { segments, n, unit_panels, unit_bytes, .. } = self.layout;
        let segments = &segments[..*n];
        let (mut within, mut byte) = (start % unit_panels, start / unit_panels * unit_bytes);
        let mut i = 0;
        while within >= segments[i].panels {
            within -= segments[i].panels;
            byte += segments[i].panels * segments[i].panel_bytes;
            i += 1;
        }
        let Segment { encoding, panel_bytes, panels } = segments[i];
        let mut stop = start + panels - within;
        // A run may continue from one unit into the next.
        while stop < end && segments[(i + 1) % n].encoding == encoding {
            i = (i + 1) % n;
            stop += segments[i].panels;
        }
        let stop = stop.min(end);
        self.rest.start = stop;
        let first = byte + within * panel_bytes;
        let bytes = first..first + (stop - start) * panel_bytes;
        Some(PanelRun { encoding, panels: start..stop, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Naive layout: the encoding and first byte of each panel, by addition.
    fn plain(k: usize, unit: &[(usize, Encoding)], repeat: usize) -> Vec<(Encoding, usize)> {
        let (mut out, mut at) = (Vec::new(), 0);
        for &(panels, encoding) in (0..repeat).flat_map(|_| unit) {
            for _ in 0..panels {
                out.push((encoding, at));
                at += encoding.panel_bytes(k).unwrap();
            }
        }
        out.push((Encoding::U64, at)); // the end
        out
    }

    #[test]
    fn runs_are_maximal() {
        use Encoding::{F32Panel, Q8Panel};
        let k = 128;
        for unit in [
            vec![(3, Q8Panel)],
            vec![(2, F32Panel), (1, F32Panel), (1, F32Panel)],
            vec![(4, Q8Panel), (2, Q8Panel), (2, F32Panel)],
            vec![(1, F32Panel), (1, Q8Panel)],
            vec![(2, Q8Panel), (1, F32Panel), (1, Q8Panel)],
            vec![(1, F32Panel), (2, Q8Panel), (1, F32Panel), (3, Q8Panel)],
        ] {
            let layout = PanelLayout::new(k, unit.iter().copied(), 3).unwrap();
            let each = plain(k, &unit, 3);
            let n = layout.panels();
            assert_eq!((n + 1, layout.bytes()), (each.len(), each[n].1));
            for start in 0..=n {
                for end in start..=n {
                    let mut at = start;
                    let mut last = None;
                    for PanelRun { encoding, panels, bytes } in layout.runs(start..end) {
                        assert_eq!(panels.start, at, "{unit:?}");
                        assert!(panels.end > at && last != Some(encoding), "{unit:?}");
                        assert!(each[panels.clone()].iter().all(|p| p.0 == encoding));
                        assert_eq!(bytes, each[panels.start].1..each[panels.end].1);
                        (at, last) = (panels.end, Some(encoding));
                    }
                    assert_eq!(at, end);
                }
            }
        }
    }

    #[test]
    fn sizes_that_overflow_have_no_layout() {
        use Encoding::{F32Panel, Q8Panel, U64};
        let layout = |k, unit: &[_], repeat| PanelLayout::new(k, unit.iter().copied(), repeat);
        assert!(layout(64, &[(1, Q8Panel)], 1).is_some());
        assert_eq!(layout(64, &[(1, U64)], 1), None);
        assert_eq!(layout(64, &[], 1), None);
        assert_eq!(layout(64, &[(1, Q8Panel)], 0), None);
        assert_eq!(layout(usize::MAX, &[(1, Q8Panel)], 1), None);
        assert_eq!(layout(64, &[(usize::MAX, Q8Panel), (1, Q8Panel)], 1), None);
        assert_eq!(layout(64, &[(usize::MAX, Q8Panel), (1, F32Panel)], 1), None);
        assert_eq!(layout(64, &[(1, Q8Panel), (1, F32Panel)], usize::MAX), None);
        let five = [(1, Q8Panel), (1, F32Panel), (1, Q8Panel), (1, F32Panel), (1, Q8Panel)];
        assert_eq!(layout(64, &five, 1), None);
    }
}
