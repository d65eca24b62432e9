//! Products by vectors: a block of rows at a time, inputs arranged, panels shared out among workers.

use octet_backend::BackendError;

use super::finish::{Finish, Output};
use super::input::Input;
use super::multiply::Task;
use super::plan::{Tiles, rows_per_block};
use super::schedule::Schedule;
use super::tile::TILE_ROWS;
use super::weight::PackedLinear;
use super::{LinearContext, Parts, WORTH_A_FORK};
use crate::simd::LANES;

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
        let tiles = Tiles::new(input.len() / weight.columns());
        arrange(context, weight, schedule, input, tiles);
        multiply(context, weight, schedule, (tiles, output), finish);
    }
    Ok(())
}

/// Arranges a block's inputs in the scratch memory.
fn arrange(
    context: &mut LinearContext<'_>,
    weight: &PackedLinear,
    schedule: &Schedule,
    values: &[f32],
    tiles: Tiles,
) {
    let arithmetic = weight.arithmetic;
    let (order, factor) = (arithmetic.input_order, arithmetic.input_factor);
    let input = Input { values, columns: weight.columns(), order, factor };
    let rows = tiles.rows();
    let width = weight.block_columns(schedule);
    let target = Parts(context.scratch.input[..rows * weight.steps()].as_mut_ptr());
    let arrange_one = |_worker: usize, task: usize| {
        let (block, tile) = (task / tiles.count(), task % tiles.count());
        let steps = weight.steps_of(&weight.block(width, block));
        let start = rows * steps.start + tiles.first_row(tile) * steps.len();
        // SAFETY: blocks lie one after another, and so do the tiles of a block.
        let target = unsafe { target.part(start, steps.len() * tiles.rows_of(tile)) };
        input.pack(tiles, tile, steps, target);
    };
    let tasks = weight.blocks(width) * tiles.count();
    if rows * weight.steps() < WORTH_A_FORK {
        (0..tasks).for_each(|task| arrange_one(0, task));
    } else {
        context.pool.run_tasks(tasks, &arrange_one);
    }
}

/// Multiplies a block of rows whose inputs are arranged.
fn multiply(
    context: &mut LinearContext<'_>,
    weight: &PackedLinear,
    schedule: &Schedule,
    (tiles, output): (Tiles, &mut [f32]),
    finish: Finish,
) {
    let per_task = schedule.panels_per_task;
    let (input, memory) = context.scratch.parts(per_task * tiles.rows() * LANES);
    let input = &input[..tiles.rows() * weight.steps()];
    let output = Output { start: output.as_mut_ptr(), columns: weight.output_columns() };
    let isa = context.isa;
    context.pool.run_tasks(weight.panels.div_ceil(per_task), &|worker, index| {
        // SAFETY: room was made for as many sums; each worker runs one task at a time.
        let (wide, sums) = unsafe { memory.of(worker) };
        let first_panel = index * per_task;
        let panels = per_task.min(weight.panels - first_panel);
        Task { weight, schedule, first_panel, panels, tiles, input, wide, sums, output, finish }.run(isa);
    });
}
