//! One task of a multiplication by vectors: a few panels times a block of rows.

use super::finish::{Finish, FinishedSums, Output};
use super::format::{BF16, BF16Pairs, F16, F32, Float8, Float8Pairs, Format, I8};
use super::plan::{TILE_PANELS, Tiles};
use super::schedule::Schedule;
use super::tile::Operands;
use super::weight::{Encoding, PackedLinear};
use crate::isa::{Isa, Level};
use crate::simd::{LANES, PairDot, Portable, Simd};

/// One task.
pub(super) struct Task<'a> {
    pub weight: &'a PackedLinear,
    pub schedule: &'a Schedule,
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
            Level::PortablePairs | Level::PortableTiles => self.run_pairs(Portable),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(simd) => self.run_columns(simd),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(simd) => self.run_columns(simd),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16(simd) => match self.weight.encoding() {
                Encoding::F32 | Encoding::F16 | Encoding::I8 => self.run_columns(simd.without_pairs()),
                Encoding::BF16 | Encoding::E4M3 | Encoding::E5M2 => self.run_pairs(simd),
            },
            #[cfg(target_arch = "x86_64")]
            Level::Amx(simd) => match self.weight.encoding() {
                Encoding::F32 | Encoding::F16 | Encoding::I8 => {
                    self.run_columns(simd.vectors().without_pairs())
                }
                Encoding::BF16 | Encoding::E4M3 | Encoding::E5M2 => self.run_pairs(simd.vectors()),
            },
        }
    }

    /// Runs the task with multiply-adds in binary32.
    fn run_columns<S: Simd>(mut self, simd: S) {
        match self.weight.encoding() {
            Encoding::F32 => self.multiply::<S, F32>(simd),
            Encoding::F16 => self.multiply::<S, F16>(simd),
            Encoding::I8 => self.multiply::<S, I8>(simd),
            Encoding::BF16 => self.multiply::<S, BF16>(simd),
            Encoding::E4M3 => self.multiply::<S, Float8<false>>(simd),
            Encoding::E5M2 => self.multiply::<S, Float8<true>>(simd),
        }
        simd.run(self.finished());
    }

    /// Runs the task with dot products of pairs, where its format has them.
    #[cfg(any(test, target_arch = "x86_64"))]
    fn run_pairs<S: PairDot>(mut self, simd: S) {
        match self.weight.encoding() {
            Encoding::F32 => self.multiply::<S, F32>(simd),
            Encoding::F16 => self.multiply::<S, F16>(simd),
            Encoding::I8 => self.multiply::<S, I8>(simd),
            Encoding::BF16 => self.multiply::<S, BF16Pairs>(simd),
            Encoding::E4M3 => self.multiply::<S, Float8Pairs<false>>(simd),
            Encoding::E5M2 => self.multiply::<S, Float8Pairs<true>>(simd),
        }
        simd.run(self.finished());
    }

    /// The sums, to be written out.
    fn finished(&self) -> FinishedSums<'_> {
        FinishedSums {
            weight: self.weight,
            first_panel: self.first_panel,
            panels: self.panels,
            rows: self.tiles.rows(),
            sums: self.sums,
            row_stride: self.tiles.rows(),
            output: self.output,
            finish: self.finish,
        }
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
        for block in 0..self.weight.blocks(self.weight.block_columns(self.schedule)) {
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
        for block in 0..self.weight.blocks(self.weight.block_columns(self.schedule)) {
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
        let groups = weight.block(weight.block_columns(self.schedule), block);
        let first_row = self.tiles.first_row(tile);
        let steps = weight.steps_of(&groups);
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
            ahead_bytes: self.schedule.ahead_bytes,
            wide: self.wide.as_mut_ptr(),
        }
    }
}

const _: () = assert!(TILE_PANELS == 4, "few_rows has loops for four panels and fewer");
