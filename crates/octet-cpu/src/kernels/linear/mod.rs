//! Products with weights: `output = input · weightᵀ`, for any number of rows, with equal results to the bit.
//!
//! - `weight`: what a weight looks like once packed; `pack`: how it gets there;
//! - `schedule`: what may be chosen about a product (`candidates`: from what), which `plan` turns into tasks; `finish`: how sums become outputs;
//! - `vectors`: products by vectors. `format`: how bytes of each storage type become factors in registers; `tile`: the
//!   innermost loop; `multiply`: a task of a worker, made of tiles; `input`: inputs in the order in which tiles read
//!   them;
//! - `matrix`: products by matrix tiles, where the processor has them.
//!
//! One row is bound by memory: several panels stream through registers at once. Many rows are bound by arithmetic: a
//! panel's block is widened once and multiplied by all tiles of rows. The path in between is the same code.

mod candidates;
mod finish;
mod format;
mod input;
mod matrix;
mod multiply;
mod pack;
mod plan;
mod schedule;
mod tile;
mod vectors;
mod weight;

#[cfg(test)]
mod tests;

use octet_backend::{Activation, BackendError, LinearUse};

use self::finish::Finish;
use self::schedule::MOST_BLOCK_COLUMNS;
use self::weight::Form;
use crate::isa::Isa;
use crate::memory::AlignedBuffer;
use crate::simd::LANES;
use crate::simd::tiles::{TILE_FLOATS, WIDENED_BYTES};
use crate::threads::Pool;

pub(crate) use self::candidates::{DEFAULT, can_pack, candidates};
pub(crate) use self::schedule::Schedule;
pub(crate) use self::weight::{Encoding, PackedLinear};

/// Floats of a worker's own memory for widened weights (a block of columns of two panels in 32 bits, or of four in
/// 16) and, behind them, sums of a block that are yet to be scaled.
const WIDE_FLOATS: usize = 2 * MOST_BLOCK_COLUMNS * LANES + FRESH_FLOATS;
/// Four matrix tiles.
const FRESH_FLOATS: usize = 4 * TILE_FLOATS;
const _: () = assert!((WIDE_FLOATS - FRESH_FLOATS) * size_of::<f32>() >= WIDENED_BYTES);

/// Inputs below which one worker has arranged them before the others have woken.
const WORTH_A_FORK: usize = 16 * 1024;

/// Working memory of products; it grows to what the largest product needs and is kept.
pub(crate) struct LinearScratch {
    /// Arranged inputs of a block of rows.
    input: AlignedBuffer<f32>,
    /// Widened weights, `WIDE_FLOATS` for each worker.
    wide: AlignedBuffer<f32>,
    /// Sums, the same for each worker.
    sums: AlignedBuffer<f32>,
}

impl LinearScratch {
    /// Memory for a pool; inputs and sums come later.
    ///
    /// # Errors
    /// No memory.
    pub(crate) fn new(pool: &Pool) -> Result<Self, BackendError> {
        Ok(Self {
            input: AlignedBuffer::zeroed(0)?,
            wide: AlignedBuffer::zeroed(pool.workers() * WIDE_FLOATS)?,
            sums: AlignedBuffer::zeroed(0)?,
        })
    }

    /// Makes room for as many floats of inputs, and of sums for each worker, so that products allocate nothing.
    ///
    /// # Errors
    /// No memory.
    fn reserve(&mut self, pool: &Pool, inputs: usize, sums: usize) -> Result<(), BackendError> {
        if self.input.len() < inputs {
            self.input = AlignedBuffer::zeroed(inputs)?;
        }
        if self.sums.len() < sums * pool.workers() {
            self.sums = AlignedBuffer::zeroed(sums * pool.workers())?;
        }
        Ok(())
    }

    /// The parts: inputs, and for each worker wide memory and `sums` floats.
    fn parts(&mut self, sums: usize) -> (&[f32], WorkerMemory) {
        let memory = WorkerMemory {
            wide: Parts(self.wide.as_mut_ptr()),
            sums: Parts(self.sums.as_mut_ptr()),
            sum_floats: sums,
        };
        (&self.input, memory)
    }
}

/// The memory that each worker has for itself.
#[derive(Clone, Copy)]
struct WorkerMemory {
    wide: Parts,
    sums: Parts,
    sum_floats: usize,
}

impl WorkerMemory {
    /// A worker's memory for widened weights and for sums.
    ///
    /// # Safety
    /// The scratch memory outlives the result and has as many sums; the worker uses it for one task at a time.
    #[expect(
        clippy::mut_from_ref,
        reason = "the caller promises that a worker's parts are used once at a time"
    )]
    unsafe fn of(&self, worker: usize) -> (&mut [f32], &mut [f32]) {
        // SAFETY: the caller's promise, and workers' parts are disjoint.
        unsafe {
            (
                self.wide.part(worker * WIDE_FLOATS, WIDE_FLOATS),
                self.sums.part(worker * self.sum_floats, self.sum_floats),
            )
        }
    }
}

/// A pointer to floats of which each task uses a part of its own.
#[derive(Clone, Copy)]
struct Parts(*mut f32);

// SAFETY: the code that makes one gives tasks disjoint parts, and that the memory outlives them.
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

/// What products run on.
pub(crate) struct LinearContext<'a> {
    /// The workers.
    pub pool: &'a Pool,
    /// The instruction set that weights were packed for.
    pub isa: Isa,
    /// Working memory.
    pub scratch: &'a mut LinearScratch,
    /// How products are cut up, if not by default.
    pub schedule: Option<Schedule>,
}

/// `output [rows, out] = input [rows, in] · weightᵀ + bias`.
///
/// # Errors
/// No memory for a batch larger than all before.
pub(crate) fn linear(
    context: &mut LinearContext<'_>,
    weight: &PackedLinear,
    input: &[f32],
    rows: usize,
    output: &mut [f32],
) -> Result<(), BackendError> {
    debug_assert_ne!(weight.usage, LinearUse::Gated);
    product(
        context,
        weight,
        &input[..rows * weight.columns()],
        &mut output[..rows * weight.output_columns()],
        Finish::Write,
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

/// Both products, by what the weight was packed for.
fn product(
    context: &mut LinearContext<'_>,
    weight: &PackedLinear,
    input: &[f32],
    output: &mut [f32],
    finish: Finish,
) -> Result<(), BackendError> {
    let rows = input.len() / weight.columns();
    let default = || Schedule::default_for(weight, rows, context.pool.workers());
    let schedule = context.schedule.unwrap_or_else(default);
    match weight.arithmetic.form {
        Form::Vectors => vectors::product(context, weight, &schedule, (input, output), finish),
        Form::Tiles => matrix::product(context, weight, &schedule, (input, output), finish),
    }
}
