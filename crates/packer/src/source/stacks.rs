//! Matrices of experts or heads that one tensor stacks in an unusual order.

use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::Error;
use crate::source::TensorSource;

/// The matrix that was read last, as a whole; shared by all stacks of a model, so that only one is in memory.
#[derive(Default)]
pub(crate) struct LastMatrix(Mutex<Matrix>);

#[derive(Default)]
struct Matrix {
    /// Its tensor and its number there.
    of: Option<(String, usize)>,
    values: Vec<f32>,
}

/// A stack of matrices, each transposed. Rows of the result are columns of a matrix, which is read as a whole.
pub(crate) struct TransposedStack {
    inner: Box<dyn TensorSource>,
    rows: usize,
    last: Arc<LastMatrix>,
}

impl TransposedStack {
    /// `inner` has matrices of `rows` rows each.
    pub(crate) fn new(inner: Box<dyn TensorSource>, rows: usize, last: Arc<LastMatrix>) -> Self {
        Self { inner, rows: rows.max(1), last }
    }
}

impl TensorSource for TransposedStack {
    fn name(&self) -> (&Path, &str) {
        self.inner.name()
    }

    /// A stack with a part of a matrix has no such shape, and is refused for it.
    fn shape(&self) -> [usize; 2] {
        let [n, k] = self.inner.shape();
        [n / self.rows * k, if n.is_multiple_of(self.rows) { self.rows } else { 0 }]
    }

    fn read_rows(&self, rows: Range<usize>, out: &mut [f32]) -> Result<(), Error> {
        let (n, k, name) = (self.rows, self.inner.shape()[1], self.name().1);
        let mut last = self.last.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Matrix { of, values } = &mut *last;
        for (row, out) in rows.zip(out.chunks_exact_mut(n)) {
            let (matrix, column) = (row / k, row % k);
            if of.as_ref().is_none_or(|(tensor, kept)| tensor != name || *kept != matrix) {
                *of = None;
                values.resize(n * k, 0.0);
                self.inner.read_rows(matrix * n..(matrix + 1) * n, values)?;
                *of = Some((name.to_owned(), matrix));
            }
            for (to, from) in out.iter_mut().zip(values.iter().skip(column).step_by(k)) {
                *to = *from;
            }
        }
        Ok(())
    }

    fn format(&self) -> Option<(&'static str, f64)> {
        self.inner.format()
    }
}

/// Every other row of a tensor.
pub(crate) struct Alternate {
    inner: Box<dyn TensorSource>,
    first: usize,
}

impl Alternate {
    /// Rows `first`, `first + 2`, …
    pub(crate) fn new(inner: Box<dyn TensorSource>, first: usize) -> Self {
        Self { inner, first }
    }
}

impl TensorSource for Alternate {
    fn name(&self) -> (&Path, &str) {
        self.inner.name()
    }

    /// Without half of the last pair, so that an odd number of rows shows in the shape.
    fn shape(&self) -> [usize; 2] {
        let [n, k] = self.inner.shape();
        [n / 2, k]
    }

    fn read_rows(&self, rows: Range<usize>, out: &mut [f32]) -> Result<(), Error> {
        let k = self.shape()[1];
        let mut pairs = vec![0.0; 2 * rows.len() * k];
        self.inner.read_rows(2 * rows.start..2 * rows.end, &mut pairs)?;
        for (pair, out) in pairs.chunks_exact(2 * k).zip(out.chunks_exact_mut(k)) {
            out.copy_from_slice(&pair[self.first * k..][..k]);
        }
        Ok(())
    }

    fn format(&self) -> Option<(&'static str, f64)> {
        self.inner.format()
    }
}
