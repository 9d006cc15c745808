//! Weights that are stored in another order, or as functions of other values, than in the source.

use std::ops::Range;
use std::path::Path;

use nanoinfer_kernels::{ExpWeights, Kernels};

use crate::Error;
use crate::source::{FileTensor, TensorSource};

/// Some rows of a tensor, in another order.
pub(crate) struct Runs {
    pub(crate) inner: Box<dyn TensorSource>,
    /// Rows of `inner`, in the order of this tensor, and how many are before them.
    runs: Vec<(usize, Range<usize>)>,
    rows: usize,
}

impl Runs {
    /// Rows `runs` of a tensor, one run after the other. Those beyond its end are left out, so that a wrong
    /// size shows in the shape.
    pub(crate) fn new(
        inner: Box<dyn TensorSource>,
        runs: impl IntoIterator<Item = Range<usize>>,
    ) -> Self {
        let (end, mut rows) = (inner.shape()[0], 0);
        let run = |run: Range<usize>| {
            let (at, run) = (rows, run.start.min(end)..run.end.min(end));
            rows += run.len();
            (at, run)
        };
        let runs = runs.into_iter().map(run).collect();
        Self { inner, runs, rows }
    }
}

impl TensorSource for Runs {
    fn name(&self) -> (&Path, &str) {
        self.inner.name()
    }

    fn shape(&self) -> [usize; 2] {
        [self.rows, self.inner.shape()[1]]
    }

    fn read_rows(&self, rows: Range<usize>, out: &mut [f32]) -> Result<(), Error> {
        let (k, mut out) = (self.shape()[1], out);
        let first = self.runs.partition_point(|(at, run)| at + run.len() <= rows.start);
        for (at, run) in self.runs[first..].iter().take_while(|(at, _)| *at < rows.end) {
            let from = run.start + rows.start.saturating_sub(*at);
            let to = run.end.min(run.start + (rows.end - at));
            let (now, later) = out.split_at_mut((to - from) * k);
            self.inner.read_rows(from..to, now)?;
            out = later;
        }
        Ok(())
    }

    fn format(&self) -> Option<(&'static str, f64)> {
        self.inner.format()
    }
}

/// Several tensors, one after the other.
pub(crate) struct Joined {
    parts: Vec<Box<dyn TensorSource>>,
}

impl Joined {
    /// `parts` has at least one part.
    pub(crate) fn new(parts: Vec<Box<dyn TensorSource>>) -> Self {
        Self { parts }
    }
}

impl TensorSource for Joined {
    fn name(&self) -> (&Path, &str) {
        self.parts[0].name()
    }

    /// No row has 0 inputs, so parts of different widths are refused.
    fn shape(&self) -> [usize; 2] {
        let k = self.parts[0].shape()[1];
        let fits = self.parts.iter().all(|part| part.shape()[1] == k);
        let rows = self.parts.iter().map(|part| part.shape()[0]).fold(0, usize::saturating_add);
        [rows, if fits { k } else { 0 }]
    }

    fn read_rows(&self, rows: Range<usize>, out: &mut [f32]) -> Result<(), Error> {
        let (k, mut out, mut at) = (self.shape()[1], out, 0);
        for part in &self.parts {
            let n = part.shape()[0];
            let clip = |row: usize| row.clamp(at, at + n) - at;
            let own = clip(rows.start)..clip(rows.end);
            let (now, later) = out.split_at_mut(own.len() * k);
            if !own.is_empty() {
                part.read_rows(own, now)?;
            }
            (out, at) = (later, at + n);
        }
        Ok(())
    }

    fn format(&self) -> Option<(&'static str, f64)> {
        self.parts[0].format()
    }
}

/// A small matrix with rows and inputs exchanged.
pub(crate) struct Transposed {
    pub(crate) inner: Box<dyn TensorSource>,
}

impl TensorSource for Transposed {
    fn name(&self) -> (&Path, &str) {
        self.inner.name()
    }

    fn shape(&self) -> [usize; 2] {
        let [n, k] = self.inner.shape();
        [k, n]
    }

    fn read_rows(&self, rows: Range<usize>, out: &mut [f32]) -> Result<(), Error> {
        let [n, k] = self.inner.shape();
        let mut all = vec![0.0; n * k];
        self.inner.read_rows(0..n, &mut all)?;
        for (row, out) in rows.zip(out.chunks_exact_mut(n)) {
            for (to, from) in out.iter_mut().zip(all.iter().skip(row).step_by(k)) {
                *to = *from;
            }
        }
        Ok(())
    }

    fn format(&self) -> Option<(&'static str, f64)> {
        self.inner.format()
    }
}

/// A tensor of the shape of another one, from which `read` computes rows.
struct Mapped<F> {
    inner: Box<dyn TensorSource>,
    read: F,
}

impl<F> TensorSource for Mapped<F>
where
    F: Fn(&dyn TensorSource, Range<usize>, &mut [f32]) -> Result<(), Error> + Send + Sync,
{
    fn name(&self) -> (&Path, &str) {
        self.inner.name()
    }

    fn shape(&self) -> [usize; 2] {
        self.inner.shape()
    }

    fn read_rows(&self, rows: Range<usize>, out: &mut [f32]) -> Result<(), Error> {
        (self.read)(&*self.inner, rows, out)
    }

    fn format(&self) -> Option<(&'static str, f64)> {
        self.inner.format()
    }
}

fn mapped<F>(inner: Box<dyn TensorSource>, read: F) -> Box<dyn TensorSource>
where
    F: Fn(&dyn TensorSource, Range<usize>, &mut [f32]) -> Result<(), Error> + Send + Sync + 'static,
{
    Box::new(Mapped { inner, read })
}

/// A matrix whose inputs are in another order: `runs` are those of `inner`, all of them.
pub(crate) fn inputs(inner: FileTensor, runs: Vec<Range<usize>>) -> Box<dyn TensorSource> {
    mapped(Box::new(inner), move |inner, rows, out| {
        let k = inner.shape()[1];
        inner.read_rows(rows, out)?;
        let mut row = Vec::with_capacity(k);
        for out in out.chunks_exact_mut(k) {
            row.clear();
            runs.iter().for_each(|run| row.extend_from_slice(&out[run.clone()]));
            out.copy_from_slice(&row);
        }
        Ok(())
    })
}

/// The negative exponentials of weights.
pub(crate) fn minus_exp(inner: Box<dyn TensorSource>) -> Box<dyn TensorSource> {
    mapped(inner, |inner, rows, out| {
        let mut logits = vec![0.0; out.len()];
        inner.read_rows(rows, &mut logits)?;
        // The kernels' exponential has the same bits on every machine.
        let kernels = Kernels::best();
        let (logits, total) = (&logits, &mut 0.0);
        kernels.exp_weights(ExpWeights { logits, max: 0.0, scale: 1.0, out, total });
        out.iter_mut().for_each(|x| *x = -*x);
        Ok(())
    })
}

/// Weights times `factor` plus `offset`.
pub(crate) fn affine(
    inner: Box<dyn TensorSource>,
    factor: f32,
    offset: f32,
) -> Box<dyn TensorSource> {
    mapped(inner, move |inner, rows, out| {
        inner.read_rows(rows, out)?;
        out.iter_mut().for_each(|w| *w = *w * factor + offset);
        Ok(())
    })
}

/// Weights of which the rows `scaled` are multiplied by a factor.
pub(crate) fn scaled_rows(
    inner: Box<dyn TensorSource>,
    scaled: Range<usize>,
    factor: f32,
) -> Box<dyn TensorSource> {
    mapped(inner, move |inner, rows, out| {
        inner.read_rows(rows.clone(), out)?;
        let values = rows.zip(out.chunks_exact_mut(inner.shape()[1]));
        for (_, values) in values.filter(|(row, _)| scaled.contains(row)) {
            values.iter_mut().for_each(|w| *w *= factor);
        }
        Ok(())
    })
}

/// Query or key rows as GGUF stores them for Llama, restored to their original order.
///
/// In llama.cpp, RoPE pairs neighbouring rows (`i`, `i+1`); in Hugging Face and in this engine, it
/// pairs rows half a head apart (`i`, `i+head_dim/2`). llama.cpp's converter moved row
/// `h·head_dim/2+j` of a head to `2j+h`. Only the first `rotary` rows of a head are paired.
pub(crate) fn unpermuted(
    inner: Box<dyn TensorSource>,
    head_dim: usize,
    rotary: usize,
) -> Box<dyn TensorSource> {
    mapped(inner, move |inner, rows, out| {
        let ([n, k], half) = (inner.shape(), rotary / 2);
        let first_head = rows.start / head_dim * head_dim;
        let end = rows.end.next_multiple_of(head_dim).min(n);
        let mut heads = vec![0.0; (end - first_head) * k];
        inner.read_rows(first_head..end, &mut heads)?;
        for (row, dst) in rows.zip(out.chunks_exact_mut(k)) {
            let (head, r) = (row / head_dim * head_dim, row % head_dim);
            let r = if r < rotary { 2 * (r % half) + r / half } else { r };
            let from = head + r - first_head;
            dst.copy_from_slice(&heads[from * k..(from + 1) * k]);
        }
        Ok(())
    })
}
