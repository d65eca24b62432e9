//! One task of a multiplication: a few panels times a block of rows, and what happens to the sums at the end.

use std::marker::PhantomData;

use octet_backend::Activation;

use super::format::{BF16, BF16Pairs, F16, F32, Float8, Float8Pairs, Format, Wide};
use super::plan::Tiles;
use super::tile::{Operands, TILE_PANELS, multiply};
use super::weight::{Encoding, PackedLinear};
use crate::isa::{Isa, Level};
#[cfg(test)]
use crate::simd::Portable;
use crate::simd::{Kernel, LANES, PairDot, PairKernel, Simd, math};

/// What becomes of the sums.
#[derive(Clone, Copy)]
pub(super) enum Finish {
    /// Written.
    Write,
    /// Added to what is there.
    Accumulate,
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

/// One task.
pub(super) struct Task<'a> {
    pub weight: &'a PackedLinear,
    /// First panel of the task.
    pub first_panel: usize,
    /// Panels of the task: one, two or four (fewer at the end of the matrix).
    pub panels: usize,
    /// How the rows are cut.
    pub tiles: Tiles,
    /// Inputs, tile after tile `[steps, rows of the tile]`.
    pub input: &'a [f32],
    /// The worker's own memory for widened weights.
    pub wide: &'a mut [f32],
    /// The worker's own memory for sums, `[panels, rows, 16]`.
    pub sums: &'a mut [f32],
    pub output: Output,
    pub finish: Finish,
}

/// A task in one format: each is compiled on its own.
struct TaskIn<'a, F> {
    task: Task<'a>,
    format: PhantomData<F>,
}

/// Runs tasks of a format with one kind of kernel.
macro_rules! kernels {
    ($kernel:ident, $run:ident, $simd:ident: $($format:ty),+) => {$(
        impl $kernel for TaskIn<'_, $format> {
            type Output = ();

            #[inline(always)]
            fn $run<S: $simd>(mut self, simd: S) {
                self.task.multiply::<S, $format>(simd);
                self.task.finish(simd);
            }
        }
    )+};
}

kernels!(Kernel, run, Simd: F32, F16, BF16, Float8<false>, Float8<true>);
kernels!(PairKernel, run_pairs, PairDot: BF16Pairs, Float8Pairs<false>, Float8Pairs<true>);

impl<'a> Task<'a> {
    /// Runs the task on an instruction set.
    pub(super) fn run(self, isa: Isa) {
        match isa.level() {
            #[cfg(test)]
            Level::PortablePairs => self.run_pairs(Portable, isa),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16(simd) => self.run_pairs(simd, isa),
            _ => self.run_columns(isa),
        }
    }

    /// Runs the task with multiply-adds in binary32.
    fn run_columns(self, isa: Isa) {
        match self.weight.encoding() {
            Encoding::F32 => isa.run(self.of::<F32>()),
            Encoding::F16 => isa.run(self.of::<F16>()),
            Encoding::BF16 => isa.run(self.of::<BF16>()),
            Encoding::E4M3 => isa.run(self.of::<Float8<false>>()),
            Encoding::E5M2 => isa.run(self.of::<Float8<true>>()),
        }
    }

    /// Runs the task with dot products of pairs, where its format has them.
    #[cfg(any(test, target_arch = "x86_64"))]
    fn run_pairs<S: PairDot>(self, simd: S, isa: Isa) {
        match self.weight.encoding() {
            Encoding::F32 | Encoding::F16 => self.run_columns(isa),
            Encoding::BF16 => simd.run_pairs(self.of::<BF16Pairs>()),
            Encoding::E4M3 => simd.run_pairs(self.of::<Float8Pairs<false>>()),
            Encoding::E5M2 => simd.run_pairs(self.of::<Float8Pairs<true>>()),
        }
    }

    fn of<F>(self) -> TaskIn<'a, F> {
        TaskIn { task: self, format: PhantomData }
    }
}

impl Task<'_> {
    /// Fills `sums`.
    #[inline(always)]
    fn multiply<S: Simd, F: Format<S>>(&mut self, simd: S) {
        let mut panel = 0;
        while panel < self.panels {
            let left = self.panels - panel;
            if self.tiles.count() > 1 {
                if S::MANY_ROWS_PANELS == 2 && left >= 2 {
                    self.many_rows::<S, F, 2>(simd, panel);
                    panel += 2;
                } else {
                    self.many_rows::<S, F, 1>(simd, panel);
                    panel += 1;
                }
            } else {
                panel += self.few_rows::<S, F>(simd, panel, left);
            }
        }
    }

    /// A single tile: weights go from memory through registers, as many panels at a time as there are registers.
    /// Returns the panels done.
    #[inline(always)]
    fn few_rows<S: Simd, F: Format<S>>(&mut self, simd: S, panel: usize, left: usize) -> usize {
        let rows = self.tiles.rows();
        let width = match (rows, left) {
            (1, 4..) => 4,
            (1..=3, 2..) => 2,
            _ => 1,
        };
        for block in 0..self.weight.blocks() {
            let operands = self.operands::<S, F>(panel, block, 0);
            // SAFETY: `operands` makes pointers for `rows` rows and the task's panels from `panel` on.
            unsafe {
                match (rows, width) {
                    (1, 4) => multiply::<S, F, 1, 4, false>(simd, &operands),
                    (1, 2) => multiply::<S, F, 1, 2, false>(simd, &operands),
                    (1, _) => multiply::<S, F, 1, 1, false>(simd, &operands),
                    (2, 2) => multiply::<S, F, 2, 2, false>(simd, &operands),
                    (2, _) => multiply::<S, F, 2, 1, false>(simd, &operands),
                    (3, 2) => multiply::<S, F, 3, 2, false>(simd, &operands),
                    (3, _) => multiply::<S, F, 3, 1, false>(simd, &operands),
                    (4, _) => multiply::<S, F, 4, 1, false>(simd, &operands),
                    (5, _) => multiply::<S, F, 5, 1, false>(simd, &operands),
                    _ => multiply::<S, F, 6, 1, false>(simd, &operands),
                }
            }
        }
        width
    }

    /// Several tiles: the first one keeps the widened weights for the others.
    #[inline(always)]
    fn many_rows<S: Simd, F: Format<S>, const PANELS: usize>(&mut self, simd: S, panel: usize) {
        for block in 0..self.weight.blocks() {
            for tile in 0..self.tiles.count() {
                let mut operands = self.operands::<S, F>(panel, block, tile);
                let rows = self.tiles.rows_of(tile);
                if tile > 0 {
                    operands.weights = operands.wide.cast_const().cast();
                    operands.panel_bytes = LANES * size_of::<f32>();
                    operands.groups *= F::STEPS;
                }
                // SAFETY: `operands` makes pointers for this tile's rows and the task's panels from `panel` on; the
                // first tile of a block has filled `wide` before the others read it.
                unsafe {
                    match (tile, rows) {
                        (0, ..=4) => multiply::<S, F, 4, PANELS, true>(simd, &operands),
                        (0, 5) => multiply::<S, F, 5, PANELS, true>(simd, &operands),
                        (0, _) => multiply::<S, F, 6, PANELS, true>(simd, &operands),
                        (_, ..=3) => multiply::<S, Wide<F, PANELS>, 3, PANELS, false>(simd, &operands),
                        (_, 4) => multiply::<S, Wide<F, PANELS>, 4, PANELS, false>(simd, &operands),
                        (_, 5) => multiply::<S, Wide<F, PANELS>, 5, PANELS, false>(simd, &operands),
                        _ => multiply::<S, Wide<F, PANELS>, 6, PANELS, false>(simd, &operands),
                    }
                }
            }
        }
    }

    /// Pointers for one tile, the panels from `panel` on, and one block of columns.
    #[inline(always)]
    fn operands<S: Simd, F: Format<S>>(&mut self, panel: usize, block: usize, tile: usize) -> Operands {
        let weight = self.weight;
        let groups = weight.block_groups(block);
        let first_row = self.tiles.first_row(tile);
        let steps = weight.groups() * F::STEPS;
        let first_input = steps * first_row + groups.start * F::STEPS * self.tiles.rows_of(tile);
        let panels = self.first_panel + panel..self.first_panel + self.panels;
        let sum_stride = self.tiles.rows() * LANES;
        let panel_bytes = weight.groups() * F::GROUP_BYTES;
        Operands {
            weights: weight.data()[panels.start * panel_bytes + groups.start * F::GROUP_BYTES..].as_ptr(),
            panel_bytes,
            groups: groups.len(),
            input: self.input[first_input..].as_ptr(),
            sums: self.sums[panel * sum_stride + first_row * LANES..].as_mut_ptr(),
            sum_stride,
            resume: block > 0,
            scales: weight.block_scales(panels, block),
            wide: self.wide.as_mut_ptr(),
        }
    }

    /// Scales, adds the bias, and writes the sums out.
    #[inline(always)]
    fn finish<S: Simd>(&mut self, simd: S) {
        let columns = self.output.columns;
        let group = if matches!(self.finish, Finish::Gate(_)) { 2 } else { 1 };
        for index in (0..self.panels).step_by(group) {
            let first_column = (self.first_panel + index) / group * LANES;
            let count = LANES.min(columns - first_column);
            for row in 0..self.tiles.rows() {
                let value = self.value(simd, index, row);
                let target = self.output.start.wrapping_add(row * columns + first_column);
                let value = match self.finish {
                    Finish::Write => value,
                    // SAFETY: `count` columns of this row are left from `first_column` on.
                    Finish::Accumulate => unsafe { simd.add(load_columns(simd, target, count), value) },
                    Finish::Gate(activation) => {
                        let gate = match activation {
                            Activation::Silu => math::silu(simd, value),
                            Activation::GeluTanh => math::gelu_tanh(simd, value),
                        };
                        simd.multiply(gate, self.value(simd, index + 1, row))
                    }
                };
                // SAFETY: as above; this task alone writes these columns.
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
        let sums = &self.sums[(index * self.tiles.rows() + row) * LANES..][..LANES];
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

/// Reads `count` columns, sixteen at most.
///
/// # Safety
/// `source` is valid for reading `count` values.
#[inline(always)]
unsafe fn load_columns<S: Simd>(simd: S, source: *const f32, count: usize) -> S::F32 {
    // SAFETY: the caller's promise.
    unsafe { if count == LANES { simd.load(source) } else { simd.load_first(source, count) } }
}

const _: () = assert!(TILE_PANELS == 4, "few_rows has loops for four panels and fewer");
