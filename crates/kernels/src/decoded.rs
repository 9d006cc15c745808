//! The product with trellis-coded panels, for any number of tokens.

use crate::gemm::Gemm;
use crate::gemm_trellis::GemmTrellis;
use crate::layout::{LANES, LINE, q8_panel_bytes};
use crate::table::Kernels;
use crate::trellis::trellis_panel_bytes;
use crate::trellis_decode::DecodePanel;

impl Kernels {
    /// Multiplies trellis-coded panels by quantized inputs. For many tokens, a panel is decoded once and
    /// multiplied by the loops for Q8 panels, unless there is a matrix unit.
    ///
    /// # Panics
    /// If the slices do not have the documented sizes.
    pub fn gemm_trellis(&self, a: GemmTrellis<'_>) {
        if a.inputs.m < self.decode_first() {
            return self.gemm_coded(a);
        }
        a.check();
        let GemmTrellis { bits, w, k, inputs, bias, add, out, decoded } = a;
        let at = decoded.as_ptr().align_offset(LINE).min(LINE);
        let decoded = &mut decoded[at..][..q8_panel_bytes(k)];
        let panels = w.chunks_exact(trellis_panel_bytes(bits.into(), k));
        for (p, (w, out)) in panels.zip(out.chunks_exact_mut(inputs.m * LANES)).enumerate() {
            self.decode_panel(DecodePanel { bits, w, out: decoded });
            let bias = if bias.is_empty() { bias } else { &bias[p * LANES..][..LANES] };
            self.gemm_q8(Gemm { w: decoded, k, inputs, bias, add, out });
        }
    }
}
