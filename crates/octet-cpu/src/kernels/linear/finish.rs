//! What becomes of a task's sums: scales, bias, activation, and the way into the output.

use octet_backend::Activation;

use super::weight::PackedLinear;
use crate::simd::{Kernel, LANES, Simd, math};

/// What becomes of the sums.
#[derive(Clone, Copy)]
pub(super) enum Finish {
    /// Written.
    Write,
    /// Panels are gate and up in turn: `activation(gate) * up` is written.
    Gate(Activation),
}

/// The output matrix, shared by tasks that write disjoint columns of it.
#[derive(Clone, Copy)]
pub(super) struct Output {
    /// First row of the block of rows.
    pub start: *mut f32,
    /// Columns of a row.
    pub columns: usize,
}

// SAFETY: tasks write disjoint columns, and the matrix outlives them.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

/// The sums of a task's panels, ready to be written out.
pub(super) struct FinishedSums<'a> {
    pub weight: &'a PackedLinear,
    /// First panel of the task.
    pub first_panel: usize,
    /// Panels of the task.
    pub panels: usize,
    /// Rows that have an output.
    pub rows: usize,
    /// `[panels, row_stride, 16]`.
    pub sums: &'a [f32],
    /// Rows that each panel's sums have room for.
    pub row_stride: usize,
    pub output: Output,
    pub finish: Finish,
}

impl Kernel for FinishedSums<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        self.write(simd);
    }
}

impl FinishedSums<'_> {
    /// Scales, adds the bias, and writes the sums out.
    #[inline(always)]
    fn write<S: Simd>(&self, simd: S) {
        let columns = self.output.columns;
        let group = if matches!(self.finish, Finish::Gate(_)) { 2 } else { 1 };
        for index in (0..self.panels).step_by(group) {
            let first_column = (self.first_panel + index) / group * LANES;
            let count = LANES.min(columns - first_column);
            for row in 0..self.rows {
                let value = self.value(simd, index, row);
                let target = self.output.start.wrapping_add(row * columns + first_column);
                let value = match self.finish {
                    Finish::Write => value,
                    Finish::Gate(activation) => {
                        let gate = match activation {
                            Activation::Silu => math::silu(simd, value),
                            Activation::GeluTanh => math::gelu_tanh(simd, value),
                        };
                        simd.multiply(gate, self.value(simd, index + 1, row))
                    }
                };
                // SAFETY: `count` columns of this row are left from `first_column` on; this task alone writes them.
                unsafe {
                    if count == LANES {
                        simd.store(target, value);
                    } else {
                        simd.store_first(target, value, count);
                    }
                }
            }
        }
    }

    /// One row's values of one of the task's panels.
    #[inline(always)]
    fn value<S: Simd>(&self, simd: S, index: usize, row: usize) -> S::F32 {
        let sums = &self.sums[(index * self.row_stride + row) * LANES..][..LANES];
        // SAFETY: sixteen values.
        let mut value = unsafe { simd.load(sums.as_ptr()) };
        let panel = self.first_panel + index;
        if let Some(scales) = self.weight.row_scales(panel) {
            // SAFETY: sixteen values.
            value = simd.multiply(value, unsafe { simd.load(scales.as_ptr()) });
        }
        if let Some(bias) = self.weight.bias(panel) {
            // SAFETY: sixteen values.
            value = simd.add(value, unsafe { simd.load(bias.as_ptr()) });
        }
        value
    }
}
