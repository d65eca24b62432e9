//! One task of a multiplication: a few panels times a block of rows, and what happens to the sums at the end.

use octet_backend::Activation;

use super::format::{BF16, BF16Pairs, F16, F32, Float8, Float8Pairs, Format};
use super::plan::Tiles;
use super::tile::{Operands, TILE_PANELS};
use super::weight::{Encoding, PackedLinear};
use crate::isa::{Isa, Level};
use crate::simd::{Kernel, LANES, PairDot, Portable, Simd, math};

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
    /// Panels of the task.
    pub panels: usize,
    /// How the rows are cut.
    pub tiles: Tiles,
    /// Inputs: blocks of columns, in each tile after tile, `[steps of the block, rows of the tile]`.
    pub input: &'a [f32],
    /// The worker's own memory for widened weights.
    pub wide: &'a mut [f32],
    /// The worker's own memory for sums, `[panels, rows, 16]`.
    pub sums: &'a mut [f32],
    pub output: Output,
    pub finish: Finish,
}

impl Task<'_> {
    /// Runs the task on an instruction set.
    pub(super) fn run(self, isa: Isa) {
        match isa.level() {
            Level::Portable => self.run_columns(Portable),
            #[cfg(test)]
            Level::PortablePairs => self.run_pairs(Portable),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(simd) => self.run_columns(simd),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(simd) => self.run_columns(simd),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16(simd) => match self.weight.encoding() {
                Encoding::F32 | Encoding::F16 => self.run_columns(simd.without_pairs()),
                Encoding::BF16 | Encoding::E4M3 | Encoding::E5M2 => self.run_pairs(simd),
            },
        }
    }

    /// Runs the task with multiply-adds in binary32.
    fn run_columns<S: Simd>(mut self, simd: S) {
        match self.weight.encoding() {
            Encoding::F32 => self.multiply::<S, F32>(simd),
            Encoding::F16 => self.multiply::<S, F16>(simd),
            Encoding::BF16 => self.multiply::<S, BF16>(simd),
            Encoding::E4M3 => self.multiply::<S, Float8<false>>(simd),
            Encoding::E5M2 => self.multiply::<S, Float8<true>>(simd),
        }
        simd.run(FinishTask(self));
    }

    /// Runs the task with dot products of pairs, where its format has them.
    #[cfg(any(test, target_arch = "x86_64"))]
    fn run_pairs<S: PairDot>(mut self, simd: S) {
        match self.weight.encoding() {
            Encoding::F32 => self.multiply::<S, F32>(simd),
            Encoding::F16 => self.multiply::<S, F16>(simd),
            Encoding::BF16 => self.multiply::<S, BF16Pairs>(simd),
            Encoding::E4M3 => self.multiply::<S, Float8Pairs<false>>(simd),
            Encoding::E5M2 => self.multiply::<S, Float8Pairs<true>>(simd),
        }
        simd.run(FinishTask(self));
    }

    /// Fills `sums`.
    fn multiply<S: Simd, F: Format<S>>(&mut self, simd: S) {
        if self.tiles.count() == 1 {
            let mut panel = 0;
            while panel < self.panels {
                panel += self.few_rows::<S, F>(simd, panel);
            }
            return;
        }
        // Block by block, so that a block's inputs stay in the second cache while the task's panels pass by.
        for block in 0..self.weight.blocks() {
            let mut panel = 0;
            while panel < self.panels {
                if S::MANY_ROWS_PANELS == 2 && self.panels - panel >= 2 {
                    self.many_rows::<S, F, 2>(simd, panel, block);
                    panel += 2;
                } else {
                    self.many_rows::<S, F, 1>(simd, panel, block);
                    panel += 1;
                }
            }
        }
    }

    /// A single tile: weights go from memory through registers, as many panels at a time as there are registers.
    /// Returns the panels done.
    fn few_rows<S: Simd, F: Format<S>>(&mut self, simd: S, panel: usize) -> usize {
        let rows = self.tiles.rows();
        let width = match (rows, self.panels - panel) {
            (1, 4..) => 4,
            (1..=3, 2..) => 2,
            _ => 1,
        };
        for block in 0..self.weight.blocks() {
            let operands = self.operands::<S, F>(panel, block, 0);
            // SAFETY: `operands` makes pointers for `rows` rows and the task's panels from `panel` on.
            unsafe {
                match (rows, width) {
                    (1, 4) => F::multiply::<1, 4, false>(simd, &operands),
                    (1, 2) => F::multiply::<1, 2, false>(simd, &operands),
                    (1, _) => F::multiply::<1, 1, false>(simd, &operands),
                    (2, 2) => F::multiply::<2, 2, false>(simd, &operands),
                    (2, _) => F::multiply::<2, 1, false>(simd, &operands),
                    (3, 2) => F::multiply::<3, 2, false>(simd, &operands),
                    (3, _) => F::multiply::<3, 1, false>(simd, &operands),
                    (4, _) => F::multiply::<4, 1, false>(simd, &operands),
                    (5, _) => F::multiply::<5, 1, false>(simd, &operands),
                    _ => F::multiply::<6, 1, false>(simd, &operands),
                }
            }
        }
        width
    }

    /// Several tiles: the first one keeps the widened weights for the others.
    fn many_rows<S: Simd, F: Format<S>, const PANELS: usize>(&mut self, simd: S, panel: usize, block: usize) {
        let operands = self.operands::<S, F>(panel, block, 0);
        // SAFETY: `operands` makes pointers for the first tile's rows and the task's panels from `panel` on.
        unsafe {
            match self.tiles.rows_of(0) {
                ..=3 => F::multiply::<3, PANELS, true>(simd, &operands),
                4 => F::multiply::<4, PANELS, true>(simd, &operands),
                5 => F::multiply::<5, PANELS, true>(simd, &operands),
                _ => F::multiply::<6, PANELS, true>(simd, &operands),
            }
        }
        let mut tile = 1;
        while tile < self.tiles.count() {
            let rows = self.tiles.rows_of(tile);
            let mut operands = self.operands::<S, F>(panel, block, tile);
            operands.weights = operands.wide.cast_const().cast();
            operands.panel_bytes = LANES * size_of::<f32>();
            operands.groups *= F::STEPS;
            operands.tiles = self.tiles.equal_from(tile);
            // SAFETY: as above, for as many tiles of as many rows as follow; the first tile has filled `wide`.
            unsafe {
                match rows {
                    ..=4 => F::Wide::<PANELS>::multiply::<4, PANELS, false>(simd, &operands),
                    5 => F::Wide::<PANELS>::multiply::<5, PANELS, false>(simd, &operands),
                    _ => F::Wide::<PANELS>::multiply::<6, PANELS, false>(simd, &operands),
                }
            }
            tile += operands.tiles;
        }
    }

    /// Pointers for one tile, the panels from `panel` on, and one block of columns.
    fn operands<S: Simd, F: Format<S>>(&mut self, panel: usize, block: usize, tile: usize) -> Operands {
        let weight = self.weight;
        let groups = weight.block_groups(block);
        let first_row = self.tiles.first_row(tile);
        let steps = groups.start * F::STEPS..groups.end * F::STEPS;
        let first_input = self.tiles.rows() * steps.start + first_row * steps.len();
        let panels = self.first_panel + panel..self.first_panel + self.panels;
        let sum_stride = self.tiles.rows() * LANES;
        let panel_bytes = weight.groups() * F::GROUP_BYTES;
        Operands {
            weights: weight.data()[panels.start * panel_bytes + groups.start * F::GROUP_BYTES..].as_ptr(),
            panel_bytes,
            groups: groups.len(),
            tiles: 1,
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
    fn finish<S: Simd>(&self, simd: S) {
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

/// [`Task::finish`] as a kernel.
struct FinishTask<'a>(Task<'a>);

impl Kernel for FinishTask<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        self.0.finish(simd);
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
