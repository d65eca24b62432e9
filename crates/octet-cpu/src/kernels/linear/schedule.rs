//! How a product is cut up: choices that change its time and not a bit of its result.

use super::plan::{BLOCK_ROWS, MOST_PANELS, TILE_PANELS, Tiles, panels_per_task};
use super::weight::{Form, PackedLinear};
use crate::simd::tiles::{TILE_COLUMNS, TILE_ROWS};

/// The choices. Every combination gives the same bits: a sum is one chain over the columns, however it is interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Schedule {
    /// The most rows that are worked off together: more of them read weights less often, and need more room in the
    /// caches for inputs and sums.
    pub rows_per_block: usize,
    /// Panels of a task, which share the inputs that a worker has at hand.
    pub panels_per_task: usize,
    /// Columns between two visits to the sums, where block scales do not say otherwise.
    pub columns_per_block: usize,
    /// How far ahead of the product weights are asked for, all panels of a pass together. The processor's own
    /// prefetchers start anew with every 4 KiB.
    pub ahead_bytes: usize,
}

/// The most columns of a block: what the widened weights of two panels have room for.
pub(super) const MOST_BLOCK_COLUMNS: usize = 512;

/// Rows of a block of matrix tiles. At 512 rows a weight is read once for about 500 multiply-adds with each of its
/// elements, which takes longer than reading it.
const MATRIX_BLOCK_ROWS: usize = 512;

/// Rows up to which smaller blocks were quicker: tuning of 64 tokens found 3 to 13 %.
const FEW_TILE_ROWS: usize = 96;

impl Schedule {
    /// What is right for most shapes, from the product's form and size alone.
    pub(super) fn default_for(weight: &PackedLinear, rows: usize, workers: usize) -> Self {
        match weight.arithmetic.form {
            Form::Vectors => Self::for_vectors(weight, rows, workers),
            Form::Tiles => Self::for_tiles(weight, rows, workers),
        }
    }

    fn for_vectors(weight: &PackedLinear, rows: usize, workers: usize) -> Self {
        let tiles = Tiles::new(rows.clamp(1, BLOCK_ROWS));
        let most = if tiles.count() == 1 { TILE_PANELS } else { MOST_PANELS };
        Self {
            rows_per_block: BLOCK_ROWS,
            panels_per_task: panels_per_task(weight.panels, workers, most, weight.is_gated()),
            columns_per_block: 256,
            ahead_bytes: 4096,
        }
    }

    fn for_tiles(weight: &PackedLinear, rows: usize, workers: usize) -> Self {
        let (most_panels, columns_per_block) = if rows <= TILE_ROWS {
            // Weights stream by and are widened on the way, so nothing is gained by stopping.
            (4, weight.columns().next_multiple_of(TILE_COLUMNS))
        } else if rows <= FEW_TILE_ROWS {
            // A widened panel is used a few times only: what it was widened into must still be in the first cache.
            (8, 256)
        } else {
            (16, MOST_BLOCK_COLUMNS)
        };
        Self {
            rows_per_block: MATRIX_BLOCK_ROWS,
            panels_per_task: panels_per_task(weight.panels, workers, most_panels, weight.is_gated()),
            columns_per_block,
            ahead_bytes: 6144,
        }
    }
}
