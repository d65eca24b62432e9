//! Products with weights: `output = input · weightᵀ`, for any number of rows, with equal results to the bit.
//!
//! - `weight`: what a weight looks like once packed; `pack`: how it gets there;
//! - `format`: how bytes of each storage type become factors in registers;
//! - `tile`: the innermost loop; `multiply`: a task of a worker, made of tiles; `plan`: how work is cut up;
//! - `input`: inputs in the order in which tiles read them.
//!
//! One row is bound by memory: several panels stream through registers at once. Many rows are bound by arithmetic: a
//! panel's block is widened once and multiplied by all tiles of six rows. The path in between is the same code.

mod format;
mod input;
mod multiply;
mod pack;
mod plan;
mod tile;
mod weight;

#[cfg(test)]
mod tests;

use octet_backend::{Activation, BackendError, LinearUse};

use self::input::Input;
use self::multiply::{Finish, Output, Task};
use self::pack::MAX_BLOCK_COLUMNS;
use self::plan::{BLOCK_ROWS, MOST_PANELS, Tiles, panels_per_task, rows_per_block};
use crate::isa::Isa;
use crate::memory::AlignedBuffer;
use crate::simd::LANES;
use crate::threads::Pool;

pub(crate) use self::weight::{Encoding, PackedLinear};

/// Floats of a worker's own memory: widened weights of a block of columns for two panels, and sums.
const WIDE_FLOATS: usize = 2 * MAX_BLOCK_COLUMNS * LANES;
const SUM_FLOATS: usize = MOST_PANELS * BLOCK_ROWS * LANES;

/// Inputs below which one worker has arranged them before the others have woken.
const WORTH_A_FORK: usize = 16 * 1024;

/// Working memory of products; it grows to what the largest product needs and is kept.
pub(crate) struct LinearScratch {
    /// Arranged inputs of a block of rows.
    input: AlignedBuffer<f32>,
    /// `WIDE_FLOATS + SUM_FLOATS` for each worker.
    workers: AlignedBuffer<f32>,
}

impl LinearScratch {
    /// Memory for a pool; inputs come later.
    ///
    /// # Errors
    /// No memory.
    pub(crate) fn new(pool: &Pool) -> Result<Self, BackendError> {
        let workers = AlignedBuffer::zeroed(pool.workers() * (WIDE_FLOATS + SUM_FLOATS))?;
        Ok(Self { input: AlignedBuffer::zeroed(0)?, workers })
    }

    /// Makes room for products of `rows` rows with a weight, so that these allocate nothing.
    ///
    /// # Errors
    /// No memory.
    pub(crate) fn reserve(&mut self, rows: usize, weight: &PackedLinear) -> Result<(), BackendError> {
        let needed = rows.min(BLOCK_ROWS) * weight.steps();
        if self.input.len() < needed {
            self.input = AlignedBuffer::zeroed(needed)?;
        }
        Ok(())
    }
}

/// What products run on.
pub(crate) struct LinearContext<'a> {
    /// The workers.
    pub pool: &'a Pool,
    /// The instruction set that weights were packed for.
    pub isa: Isa,
    /// Working memory.
    pub scratch: &'a mut LinearScratch,
}

/// `output [rows, out] = input [rows, in] · weightᵀ + bias`, added to what `output` holds if `accumulate`.
///
/// # Errors
/// No memory for a batch larger than all before.
pub(crate) fn linear(
    context: &mut LinearContext<'_>,
    weight: &PackedLinear,
    input: &[f32],
    rows: usize,
    output: &mut [f32],
    accumulate: bool,
) -> Result<(), BackendError> {
    debug_assert_ne!(weight.usage, LinearUse::Gated);
    let finish = if accumulate { Finish::Accumulate } else { Finish::Write };
    product(
        context,
        weight,
        &input[..rows * weight.columns()],
        &mut output[..rows * weight.output_columns()],
        finish,
    )
}

/// `output [rows, out] = activation(gate(input)) * up(input)` for a weight packed as [`LinearUse::Gated`].
///
/// # Errors
/// No memory for a batch larger than all before.
pub(crate) fn gated_linear(
    context: &mut LinearContext<'_>,
    weight: &PackedLinear,
    activation: Activation,
    input: &[f32],
    rows: usize,
    output: &mut [f32],
) -> Result<(), BackendError> {
    debug_assert_eq!(weight.usage, LinearUse::Gated);
    let finish = Finish::Gate(activation);
    product(
        context,
        weight,
        &input[..rows * weight.columns()],
        &mut output[..rows * weight.output_columns()],
        finish,
    )
}

/// Both products, block of rows by block of rows.
fn product(
    context: &mut LinearContext<'_>,
    weight: &PackedLinear,
    input: &[f32],
    output: &mut [f32],
    finish: Finish,
) -> Result<(), BackendError> {
    let rows = input.len() / weight.columns();
    context.scratch.reserve(rows, weight)?;
    let block = rows_per_block(rows);
    let inputs = input.chunks(block * weight.columns());
    for (input, output) in inputs.zip(output.chunks_mut(block * weight.output_columns())) {
        let tiles = Tiles::new(input.len() / weight.columns());
        arrange(context, weight, input, tiles);
        multiply_block(context, weight, tiles, output, finish);
    }
    Ok(())
}

/// A pointer to floats of which each task uses a part of its own.
#[derive(Clone, Copy)]
struct Parts(*mut f32);

// SAFETY: whoever makes one sees to it that tasks use disjoint parts, and that the memory outlives them.
unsafe impl Send for Parts {}
// SAFETY: as above.
unsafe impl Sync for Parts {}

impl Parts {
    /// The part at `start`.
    ///
    /// # Safety
    /// `start..start + len` lies inside the memory, and no other task uses it meanwhile.
    #[expect(clippy::mut_from_ref, reason = "the caller promises that parts are disjoint")]
    unsafe fn part(&self, start: usize, len: usize) -> &mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }
}

/// Arranges a block's inputs in the scratch memory.
fn arrange(context: &mut LinearContext<'_>, weight: &PackedLinear, values: &[f32], tiles: Tiles) {
    let arithmetic = weight.arithmetic;
    let (order, factor) = (arithmetic.input_order, arithmetic.input_factor);
    let input = Input { values, columns: weight.columns(), order, factor };
    let (rows, blocks) = (tiles.rows(), weight.blocks());
    let target = Parts(context.scratch.input[..rows * weight.steps()].as_mut_ptr());
    let arrange_one = |_worker: usize, task: usize| {
        let (block, tile) = (task / tiles.count(), task % tiles.count());
        let steps = weight.block_steps(block);
        let start = rows * steps.start + tiles.first_row(tile) * steps.len();
        // SAFETY: blocks lie one after another, and so do the tiles of a block.
        let target = unsafe { target.part(start, steps.len() * tiles.rows_of(tile)) };
        input.pack(tiles, tile, steps, target);
    };
    let tasks = blocks * tiles.count();
    if rows * weight.steps() < WORTH_A_FORK {
        (0..tasks).for_each(|task| arrange_one(0, task));
    } else {
        context.pool.run_tasks(tasks, &arrange_one);
    }
}

/// Multiplies a block of rows whose inputs are arranged.
fn multiply_block(
    context: &mut LinearContext<'_>,
    weight: &PackedLinear,
    tiles: Tiles,
    output: &mut [f32],
    finish: Finish,
) {
    let gated = matches!(finish, Finish::Gate(_));
    let per_task = panels_per_task(weight.panels, context.pool.workers(), tiles, gated);
    let input = &context.scratch.input[..tiles.rows() * weight.steps()];
    let memory = Parts(context.scratch.workers.as_mut_ptr());
    let output = Output { start: output.as_mut_ptr(), columns: weight.output_columns() };
    let isa = context.isa;
    context.pool.run_tasks(weight.panels.div_ceil(per_task), &|worker, index| {
        // SAFETY: each worker has a part of its own, and runs one task at a time.
        let own = unsafe { memory.part(worker * (WIDE_FLOATS + SUM_FLOATS), WIDE_FLOATS + SUM_FLOATS) };
        let (wide, sums) = own.split_at_mut(WIDE_FLOATS);
        let first_panel = index * per_task;
        let panels = per_task.min(weight.panels - first_panel);
        Task { weight, first_panel, panels, tiles, input, wide, sums, output, finish }.run(isa);
    });
}
