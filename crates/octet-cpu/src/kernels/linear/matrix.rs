//! Products by matrix tiles: sixteen rows of inputs meet a panel of sixteen outputs, thirty-two columns at a time.
//!
//! A packed panel of bfloat16 weights is a row of tiles as it stands; eight-bit weights are widened into tiles in the
//! first cache. Few rows are bound by memory: four panels stream through the tiles of weights, and are widened while the
//! tiles before them are multiplied. Many rows are bound by the multipliers: a block of columns of two panels is widened
//! once, and two tiles of rows are multiplied at a time, so that every tile that is loaded is used twice.

use std::ops::Range;

use octet_backend::BackendError;

use super::finish::{Finish, FinishedSums, Output};
use super::plan::rows_per_block;
use super::schedule::Schedule;
use super::weight::{Encoding, PackedLinear};
use super::{FRESH_FLOATS, LinearContext, Parts, WIDE_FLOATS, WORTH_A_FORK};
use crate::simd::tiles::{
    GROUP_CODES, ROW_BYTES, TILE_COLUMNS, TILE_FLOATS, TILE_ROWS, TileDot, TileKernel, TileOperands,
};
use crate::simd::{LANES, PairDot, PairKernel, Simd};

/// Bytes that are asked for at once.
const CACHE_LINE: usize = 64;

/// `output = input · weightᵀ`, finished as said.
pub(super) fn product(
    context: &mut LinearContext<'_>,
    weight: &PackedLinear,
    schedule: &Schedule,
    (input, output): (&[f32], &mut [f32]),
    finish: Finish,
) -> Result<(), BackendError> {
    let rows = input.len() / weight.columns();
    let block = rows_per_block(rows, schedule.rows_per_block, TILE_ROWS);
    let sums = schedule.panels_per_task * block * LANES;
    context.scratch.reserve(context.pool, block * weight.steps(), sums)?;
    let inputs = input.chunks(block * weight.columns());
    for (input, output) in inputs.zip(output.chunks_mut(block * weight.output_columns())) {
        let rows = Rows { count: input.len() / weight.columns() };
        arrange(context, weight, schedule, input, rows);
        multiply(context, weight, schedule, (rows, output), finish);
    }
    Ok(())
}

/// A block of rows in whole tiles.
#[derive(Clone, Copy)]
struct Rows {
    count: usize,
}

impl Rows {
    fn tiles(self) -> usize {
        self.count.div_ceil(TILE_ROWS)
    }

    /// Floats that arranged inputs of `steps` pairs of columns take.
    fn floats(self, steps: usize) -> usize {
        self.tiles() * TILE_ROWS * steps
    }
}

/// Arranges a block's inputs in the scratch memory: blocks of columns, in each tile of rows after tile of rows, in each
/// tile of columns after tile of columns, as bfloat16.
fn arrange(
    context: &mut LinearContext<'_>,
    weight: &PackedLinear,
    schedule: &Schedule,
    values: &[f32],
    rows: Rows,
) {
    let width = weight.block_columns(schedule);
    let target = Parts(context.scratch.input[..rows.floats(weight.steps())].as_mut_ptr());
    let isa = context.isa;
    let arrange_one = |_worker: usize, task: usize| {
        let (block, tile) = (task / rows.tiles(), task % rows.tiles());
        let steps = weight.steps_of(&weight.block(width, block));
        let start = rows.floats(steps.start) + tile * TILE_ROWS * steps.len();
        // SAFETY: blocks lie one after another, and so do the tiles of a block.
        let target = unsafe { target.part(start, TILE_ROWS * steps.len()) };
        let first_column = 2 * steps.start;
        let arrange = Arrange { values, columns: weight.columns(), rows, tile, first_column, target };
        isa.run_beside_tiles(arrange);
    };
    let tasks = weight.blocks(width) * rows.tiles();
    if values.len() < WORTH_A_FORK {
        (0..tasks).for_each(|task| arrange_one(0, task));
    } else {
        context.pool.run_tasks(tasks, &arrange_one);
    }
}

/// Inputs of one tile of rows and one block of columns, to be rounded and laid out.
struct Arrange<'a> {
    /// `[rows, columns]`.
    values: &'a [f32],
    columns: usize,
    rows: Rows,
    /// Which tile of rows.
    tile: usize,
    /// First column of the block.
    first_column: usize,
    /// The tiles.
    target: &'a mut [f32],
}

impl PairKernel for Arrange<'_> {
    type Output = ();

    #[inline(always)]
    fn run_pairs<S: PairDot>(self, simd: S) {
        // Rows of the last tile that the block lacks keep what they have: nobody looks at their sums.
        let first_row = self.tile * TILE_ROWS;
        for row in first_row..self.rows.count.min(first_row + TILE_ROWS) {
            let source = &self.values[row * self.columns..(row + 1) * self.columns];
            for (index, tile) in self.target.chunks_exact_mut(TILE_FLOATS).enumerate() {
                let target = &mut tile[(row - first_row) * LANES..][..LANES];
                let present = &source[self.first_column + index * TILE_COLUMNS..];
                if let Some(whole) = present.first_chunk() {
                    round(simd, whole, target);
                } else {
                    let mut padded = [0.0; TILE_COLUMNS];
                    padded[..present.len()].copy_from_slice(present);
                    round(simd, &padded, target);
                }
            }
        }
    }
}

/// Rounds thirty-two values to bfloat16.
#[inline(always)]
fn round<S: PairDot>(simd: S, source: &[f32; TILE_COLUMNS], target: &mut [f32]) {
    assert_eq!(size_of_val(target), ROW_BYTES);
    // SAFETY: there are thirty-two values, and the target has 64 bytes.
    unsafe {
        let (first, second) = (simd.load(source.as_ptr()), simd.load(source[LANES..].as_ptr()));
        simd.store_bits(target.as_mut_ptr().cast(), simd.round_to_bf16(first, second));
    }
}

/// Multiplies a block of rows whose inputs are arranged.
fn multiply(
    context: &mut LinearContext<'_>,
    weight: &PackedLinear,
    schedule: &Schedule,
    (rows, output): (Rows, &mut [f32]),
    finish: Finish,
) {
    let per_task = schedule.panels_per_task;
    let (input, memory) = context.scratch.parts(rows.floats(per_task * LANES));
    let input = &input[..rows.floats(weight.steps())];
    let output = Output { start: output.as_mut_ptr(), columns: weight.output_columns() };
    let isa = context.isa;
    context.pool.run_tasks(weight.panels.div_ceil(per_task), &|worker, index| {
        // SAFETY: room was made for as many sums; each worker runs one task at a time.
        let (wide, sums) = unsafe { memory.of(worker) };
        let first_panel = index * per_task;
        let panels = per_task.min(weight.panels - first_panel);
        let task = MatrixTask { weight, schedule, first_panel, panels, rows, input, wide, sums: &mut *sums };
        isa.run_tiles(rows.count.min(TILE_ROWS), task);
        isa.run(FinishedSums {
            weight,
            first_panel,
            panels,
            rows: rows.count,
            sums,
            row_stride: rows.tiles() * TILE_ROWS,
            output,
            finish,
        });
    });
}

/// One task: a few panels times a block of rows.
struct MatrixTask<'a> {
    weight: &'a PackedLinear,
    schedule: &'a Schedule,
    first_panel: usize,
    panels: usize,
    rows: Rows,
    /// Inputs as [`arrange`] leaves them.
    input: &'a [f32],
    /// The worker's own memory for widened weights.
    wide: &'a mut [f32],
    /// The worker's own memory for sums, `[panels, rows, 16]`.
    sums: &'a mut [f32],
}

impl TileKernel for MatrixTask<'_> {
    type Output = ();

    #[inline(always)]
    fn run_tiles<S: TileDot>(mut self, simd: S) {
        match self.weight.encoding() {
            Encoding::E4M3 => self.multiply::<S, false>(simd),
            Encoding::E5M2 => self.multiply::<S, true>(simd),
            // Other encodings are not packed for tiles.
            Encoding::BF16 | Encoding::F16 | Encoding::F32 | Encoding::I8 => self.multiply::<S, false>(simd),
        }
    }
}

/// Where a pass over a block of columns finds its weights.
#[derive(Clone, Copy)]
struct PassWeights {
    /// Tiles, or codes that are yet to be widened.
    start: *const u8,
    /// Bytes from panel to panel.
    panel_stride: usize,
    /// Whether they are codes.
    packed: bool,
}

impl MatrixTask<'_> {
    /// Fills `sums`: block of columns by block of columns, so that a block's inputs stay in the second cache while the
    /// task's panels pass by.
    #[inline(always)]
    fn multiply<S: TileDot, const E5M2: bool>(&mut self, simd: S) {
        let blocks = self.weight.blocks(self.block_columns());
        let most = if self.rows.tiles() == 1 { 4 } else { 2 };
        for block in 0..blocks {
            let mut panel = 0;
            while panel < self.panels {
                let width = match self.panels - panel {
                    left if left >= most => most,
                    left => left.min(2),
                };
                let weights = self.weights::<S, E5M2>(simd, block, panel, width);
                self.pass::<S, E5M2>(simd, block, panel..panel + width, weights);
                panel += width;
            }
        }
    }

    fn block_columns(&self) -> usize {
        self.weight.block_columns(self.schedule)
    }

    /// The tiles of a block of columns for `width` panels from `panel` on. Eight-bit weights are widened here if several
    /// tiles of rows will meet them.
    #[inline(always)]
    fn weights<S: TileDot, const E5M2: bool>(
        &mut self,
        simd: S,
        block: usize,
        panel: usize,
        width: usize,
    ) -> PassWeights {
        let encoding = self.weight.encoding();
        let groups = self.weight.block(self.block_columns(), block);
        let panel_bytes = self.weight.groups() * encoding.group_bytes();
        let start = (self.first_panel + panel) * panel_bytes + groups.start * encoding.group_bytes();
        let end = start + (width - 1) * panel_bytes + groups.len() * encoding.group_bytes();
        let packed = self.weight.data()[start..end].as_ptr();
        if encoding == Encoding::BF16 || self.rows.tiles() == 1 {
            let is_packed = encoding != Encoding::BF16;
            return PassWeights { start: packed, panel_stride: panel_bytes, packed: is_packed };
        }
        // A group of four columns becomes two vectors of pairs.
        let wide_bytes = groups.len() * 2 * GROUP_CODES;
        let target = self.wide[..width * wide_bytes / size_of::<f32>()].as_mut_ptr().cast::<u8>();
        for index in 0..groups.len() {
            for panel in 0..width {
                // SAFETY: `packed` goes on to the block's last group of the last panel, and a group has 64 bytes;
                // `wide` has room for two vectors of each group of each panel.
                unsafe {
                    simd.widen_group::<E5M2>(
                        packed.add(panel * panel_bytes + index * GROUP_CODES),
                        target.add(panel * wide_bytes + index * 2 * GROUP_CODES),
                    );
                }
            }
        }
        PassWeights { start: target, panel_stride: wide_bytes, packed: false }
    }

    /// Multiplies all rows with a block of columns of some panels.
    #[inline(always)]
    fn pass<S: TileDot, const E5M2: bool>(
        &mut self,
        simd: S,
        block: usize,
        panels: Range<usize>,
        weights: PassWeights,
    ) {
        let steps = self.weight.steps_of(&self.weight.block(self.block_columns(), block));
        let tile_floats = TILE_ROWS * steps.len();
        let sum_stride = self.rows.tiles() * TILE_FLOATS;
        let scaled = self.weight.block_scales.is_some();
        let mut tile = 0;
        while tile < self.rows.tiles() {
            let tiles = tile..self.rows.tiles().min(tile + 2);
            if self.rows.tiles() > 1 {
                self.ask_for_next(simd, block, panels.end, tiles.clone());
            }
            let inputs = &self.input[self.rows.floats(steps.start) + tile * tile_floats..];
            let mut operands = TileOperands {
                inputs: inputs[..tiles.len() * tile_floats].as_ptr().cast(),
                input_stride: tile_floats * size_of::<f32>(),
                weights: weights.start,
                panel_stride: weights.panel_stride,
                steps: tile_floats / TILE_FLOATS,
                sums: self.sums[panels.start * sum_stride + tile * TILE_FLOATS..].as_mut_ptr(),
                sum_stride,
                resume: block > 0,
                ahead_bytes: self.ahead_bytes(panels.len()),
            };
            let (wide, fresh) = self.wide.split_at_mut(WIDE_FLOATS - FRESH_FLOATS);
            if scaled {
                operands.sums = fresh.as_mut_ptr();
                operands.sum_stride = tiles.len() * TILE_FLOATS;
                operands.resume = false;
            }
            // SAFETY: inputs, weights and sums are there for these tiles of rows and these panels, and `wide` has room
            // for the tiles that are widened.
            unsafe {
                match (tiles.len(), panels.len(), weights.packed) {
                    (2, 1, _) => simd.multiply_two::<1>(&operands),
                    (2, ..) => simd.multiply_two::<2>(&operands),
                    (_, 1, false) => simd.multiply_one::<1>(&operands),
                    (_, 4, false) => simd.multiply_one::<4>(&operands),
                    (_, _, false) => simd.multiply_one::<2>(&operands),
                    (_, 1, true) => simd.multiply_one_widened::<1, E5M2>(&operands, wide.as_mut_ptr().cast()),
                    (_, 4, true) => simd.multiply_one_widened::<4, E5M2>(&operands, wide.as_mut_ptr().cast()),
                    (_, _, true) => simd.multiply_one_widened::<2, E5M2>(&operands, wide.as_mut_ptr().cast()),
                }
            }
            if scaled {
                self.add_scaled(simd, block, panels.clone(), tiles.clone());
            }
            tile = tiles.end;
        }
    }

    /// How far ahead each panel of a pass is asked for by the pass itself: few rows wait for memory, while many have
    /// the time to ask for the next pass's weights.
    fn ahead_bytes(&self, width: usize) -> usize {
        if self.rows.tiles() == 1 { self.schedule.ahead_bytes / width } else { 0 }
    }

    /// Asks for a share of the weights of the pass after this one: as much as `tiles` are of all tiles of rows.
    #[inline(always)]
    fn ask_for_next<S: TileDot>(&self, simd: S, block: usize, panel: usize, tiles: Range<usize>) {
        let (block, panel) = if panel < self.panels { (block, panel) } else { (block + 1, 0) };
        if block == self.weight.blocks(self.block_columns()) {
            return;
        }
        let groups = self.weight.block(self.block_columns(), block);
        let group_bytes = self.weight.encoding().group_bytes();
        let lines = groups.len() * group_bytes / CACHE_LINE;
        let share = lines * tiles.start / self.rows.tiles()..lines * tiles.end / self.rows.tiles();
        for panel in self.first_panel + panel..self.first_panel + self.panels.min(panel + 2) {
            let start = (panel * self.weight.groups() + groups.start) * group_bytes;
            let weights = self.weight.data()[start..].as_ptr();
            for line in share.clone() {
                simd.ask_for(weights.wrapping_add(line * CACHE_LINE));
            }
        }
    }

    /// Adds the fresh sums of a block of columns, times the block's scales, to the sums.
    #[inline(always)]
    fn add_scaled<S: TileDot>(&mut self, simd: S, block: usize, panels: Range<usize>, tiles: Range<usize>) {
        let vectors = simd.vectors();
        let all_panels = self.first_panel + panels.start..self.first_panel + panels.end;
        let Some(scales) = self.weight.block_scales(all_panels, block) else { return };
        let rows = tiles.len() * TILE_ROWS;
        for (index, panel) in panels.enumerate() {
            let place = (panel * self.rows.tiles() + tiles.start) * TILE_FLOATS;
            let fresh = &self.wide[WIDE_FLOATS - FRESH_FLOATS + index * rows * LANES..][..rows * LANES];
            let sums = &mut self.sums[place..place + rows * LANES];
            let present = self.rows.count - tiles.start * TILE_ROWS;
            for (sum, fresh) in sums.chunks_exact_mut(LANES).zip(fresh.chunks_exact(LANES)).take(present) {
                // SAFETY: chunks of sixteen values; each panel has sixteen scales.
                unsafe {
                    let before = if block > 0 { vectors.load(sum.as_ptr()) } else { vectors.splat(0.0) };
                    let fresh = vectors.load(fresh.as_ptr());
                    let total = vectors.multiply_add(fresh, vectors.load(scales[index]), before);
                    vectors.store(sum.as_mut_ptr(), total);
                }
            }
        }
    }
}
