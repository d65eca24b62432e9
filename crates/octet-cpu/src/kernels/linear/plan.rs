//! How a multiplication is cut into tiles and tasks: pure functions of its shape.

use super::tile::TILE_ROWS;

/// The most rows that are worked off together, unless a schedule says otherwise. Larger batches go block by block, so
/// that a block's inputs stay in the last cache while the panels pass by, and scratch memory stays small.
pub(super) const BLOCK_ROWS: usize = 192;

/// Rows cut into tiles that differ by at most one row, so that no tile is too short to keep the multipliers busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tiles {
    rows: usize,
    count: usize,
}

impl Tiles {
    /// Cuts `rows` (at least one) rows.
    pub(super) fn new(rows: usize) -> Self {
        Self { rows, count: rows.div_ceil(TILE_ROWS) }
    }

    /// Number of tiles.
    pub(super) fn count(self) -> usize {
        self.count
    }

    /// All rows.
    pub(super) fn rows(self) -> usize {
        self.rows
    }

    /// First row of a tile.
    pub(super) fn first_row(self, tile: usize) -> usize {
        // The last `rows % count` tiles have one row more: the first tile also widens, and wants the registers.
        let longer = self.rows % self.count;
        tile * (self.rows / self.count) + tile.saturating_sub(self.count - longer)
    }

    /// Rows of a tile.
    pub(super) fn rows_of(self, tile: usize) -> usize {
        self.first_row(tile + 1) - self.first_row(tile)
    }

    /// How many tiles from `tile` on have as many rows as it has.
    pub(super) fn equal_from(self, tile: usize) -> usize {
        let shorter = self.count - self.rows % self.count;
        if tile < shorter { shorter - tile } else { self.count - tile }
    }
}

/// Rows of each block of a batch: as equal as whole tiles of `tile_rows` allow, and at most `most`, a multiple of
/// these.
pub(super) fn rows_per_block(rows: usize, most: usize, tile_rows: usize) -> usize {
    debug_assert!(most.is_multiple_of(tile_rows));
    let blocks = rows.div_ceil(most).max(1);
    rows.div_ceil(blocks).next_multiple_of(tile_rows)
}

/// The most panels that a pass over few rows multiplies.
pub(super) const TILE_PANELS: usize = 4;

/// The most panels of a task with many rows, by vectors.
pub(super) const MOST_PANELS: usize = 8;

/// Panels of one task: a power of two, `most` at most. A single row wants several panels a pass, as each panel is a
/// stream from memory of its own; many rows want several panels for one visit to a block's inputs. But there must be
/// enough tasks for all workers to end together. Gate and up are not parted.
pub(super) fn panels_per_task(panels: usize, workers: usize, most: usize, gated: bool) -> usize {
    const TASKS_PER_WORKER: usize = 6;
    let wanted = (panels / (workers * TASKS_PER_WORKER)).clamp(1, most);
    let lowest = if gated { 2 } else { 1 };
    (1 << wanted.ilog2()).max(lowest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_the_rows_evenly() {
        for rows in 1..=BLOCK_ROWS {
            let tiles = Tiles::new(rows);
            let sizes: Vec<_> = (0..tiles.count()).map(|tile| tiles.rows_of(tile)).collect();
            assert_eq!(sizes.iter().sum::<usize>(), rows);
            assert!(sizes.iter().all(|&size| (1..=TILE_ROWS).contains(&size)));
            assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
            // The kernels for several tiles have loops for these.
            assert!(rows <= TILE_ROWS || (sizes[0] >= 3 && sizes[1..].iter().all(|&size| size >= 4)));
            for (tile, size) in sizes.iter().enumerate() {
                let equal = sizes[tile..].iter().take_while(|other| *other == size).count();
                assert_eq!(tiles.equal_from(tile), equal);
            }
        }
    }

    #[test]
    fn blocks_are_of_whole_tiles_and_not_too_large() {
        for rows in 1..2000 {
            for (most, tile_rows) in [(BLOCK_ROWS, TILE_ROWS), (512, 16)] {
                let block = rows_per_block(rows, most, tile_rows);
                assert!(block <= most && block.is_multiple_of(tile_rows));
                assert_eq!(rows.div_ceil(block), rows.div_ceil(most));
            }
        }
    }

    #[test]
    fn small_matrices_still_have_work_for_everyone() {
        assert_eq!(panels_per_task(8016, 2, 4, false), 4);
        assert_eq!(panels_per_task(8016, 2, 8, false), 8);
        assert_eq!(panels_per_task(16, 2, 8, false), 1);
        assert_eq!(panels_per_task(16, 2, 4, true), 2);
        assert_eq!(panels_per_task(128, 32, 4, false), 1);
    }
}
