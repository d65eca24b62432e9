//! Cutting a batch's attention into work for the pool: a pure function.
//!
//! For one KV head, the query rows of a sequence times the query heads of the group are its *virtual rows*: virtual
//! row `v` is query head `v % group` of row `v / group`. A tile is a run of them that goes through one pass over the
//! keys. If there are too few tiles for the workers, a tile's partitions are divided among several pieces; each
//! partition's sums are then kept apart, and the worker that finishes last joins them in order. That order does not depend on
//! the pieces, so neither does the result.

use std::ops::Range;

use octet_backend::{Batch, BatchSequence};

/// Virtual rows of a tile: enough to reuse a panel of keys many times, few enough for the second-level cache.
pub(super) const MAX_ROWS: usize = 48;

/// Keys whose softmax is taken in one piece. Partitions begin at multiples of this position in the sequence.
pub(crate) const PARTITION: usize = 256;

/// Reading a key costs about as much as multiplying it with this many rows.
const ROWS_WORTH_OF_READING: usize = 4;

/// Pieces that each worker should find, so that none waits long for the last one.
const PIECES_A_WORKER: usize = 3;

/// What the plan depends on besides the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Query heads that share a KV head.
    pub(crate) group: usize,
    pub(crate) kv_heads: usize,
    pub(crate) sliding_window: Option<usize>,
    pub(crate) workers: usize,
    /// Partitions, of all tiles and heads, whose sums can be kept apart.
    pub(crate) kept_partitions: usize,
}

/// Part of a tile: the same for every KV head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Index of the sequence in the batch.
    pub(super) sequence: usize,
    /// The tile's virtual rows.
    pub(super) rows: Range<usize>,
    /// Partitions of this piece.
    pub(super) partitions: Range<usize>,
    /// How its sums are joined to those of the other pieces, if there are others.
    pub(super) split: Option<Split>,
}

/// A tile in several pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Split {
    /// Index of the tile among those that are split.
    pub(super) index: usize,
    /// Partitions of the whole tile.
    pub(super) partitions: Range<usize>,
    /// Where the sums of its first partition are kept, counted in partitions.
    pub(super) first_kept: usize,
    /// Pieces of the tile.
    pub(super) pieces: usize,
}

/// The work of one operation, for each KV head.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    pub(super) pieces: Vec<Piece>,
    /// Tiles that are split.
    pub(super) splits: usize,
    /// Partitions of one KV head whose sums are kept apart.
    pub(super) kept: usize,
}

/// The positions that a token sees.
pub(super) fn visible(position: usize, sliding_window: Option<usize>) -> Range<usize> {
    sliding_window.map_or(0, |window| (position + 1).saturating_sub(window))..position + 1
}

impl Plan {
    /// Makes the plan of a batch, in place of another one.
    pub(crate) fn refill(&mut self, batch: &Batch, shape: Shape) {
        self.pieces.clear();
        (self.splits, self.kept) = (0, 0);
        let total: usize =
            batch.sequences.iter().flat_map(|sequence| tiles(sequence, shape)).map(|tile| cost(&tile)).sum();
        let largest_piece = (total * shape.kv_heads).div_ceil(shape.workers * PIECES_A_WORKER).max(1);
        for (index, sequence) in batch.sequences.iter().enumerate() {
            // Later tiles see more keys; the longest work goes first.
            for tile in tiles(sequence, shape).rev() {
                let wanted = if shape.workers == 1 { 1 } else { cost(&tile).div_ceil(largest_piece) };
                self.push_tile(index, &tile, wanted, shape);
            }
        }
    }

    fn push_tile(&mut self, sequence: usize, tile: &Tile, wanted: usize, shape: Shape) {
        let partitions = tile.partitions();
        let kept_after = (self.kept + partitions.len()) * shape.kv_heads;
        let pieces = wanted.min(partitions.len());
        if pieces <= 1 || kept_after > shape.kept_partitions {
            self.pieces.push(Piece { sequence, rows: tile.rows.clone(), partitions, split: None });
            return;
        }
        let split =
            Split { index: self.splits, partitions: partitions.clone(), first_kept: self.kept, pieces };
        for piece in 0..pieces {
            let edge = |piece: usize| partitions.start + partitions.len() * piece / pieces;
            self.pieces.push(Piece {
                sequence,
                rows: tile.rows.clone(),
                partitions: edge(piece)..edge(piece + 1),
                split: Some(split.clone()),
            });
        }
        self.splits += 1;
        self.kept += partitions.len();
    }
}

/// A run of virtual rows and the keys that any of them sees.
#[derive(Clone, Debug)]
struct Tile {
    rows: Range<usize>,
    keys: Range<usize>,
}

impl Tile {
    fn partitions(&self) -> Range<usize> {
        self.keys.start / PARTITION..self.keys.end.div_ceil(PARTITION)
    }
}

fn tiles(sequence: &BatchSequence, shape: Shape) -> impl DoubleEndedIterator<Item = Tile> {
    let (rows, computed) = (sequence.rows * shape.group, sequence.computed);
    // Tiles of equal size, rather than a last one that reads all keys for a few rows.
    let count = rows.div_ceil(MAX_ROWS);
    (0..count).map(move |tile| {
        let rows = rows * tile / count..rows * (tile + 1) / count;
        let see = |row: usize| visible(computed + row / shape.group, shape.sliding_window);
        let keys = see(rows.start).start..see(rows.end - 1).end;
        Tile { rows, keys }
    })
}

fn cost(tile: &Tile) -> usize {
    (tile.rows.len() + ROWS_WORTH_OF_READING) * tile.keys.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(workers: usize) -> Shape {
        Shape { group: 4, kv_heads: 2, sliding_window: None, workers, kept_partitions: 1000 }
    }

    fn batch(sequences: &[(usize, usize)]) -> Batch {
        let mut batch = Batch::default();
        for &(computed, rows) in sequences {
            batch.push_sequence(&vec![0; rows], computed, &vec![1; (computed + rows).div_ceil(16)]);
        }
        batch
    }

    fn plan(sequences: &[(usize, usize)], shape: Shape) -> Plan {
        let mut plan = Plan::default();
        plan.refill(&batch(sequences), shape);
        plan
    }

    #[test]
    fn every_row_meets_every_partition_that_it_sees_once() {
        for workers in [1, 2, 16, 64] {
            for window in [None, Some(1), Some(300), Some(100_000)] {
                let sequences = [(0, 1), (4095, 1), (100, 517), (0, 48), (513, 13)];
                let shape = Shape { sliding_window: window, ..shape(workers) };
                let plan = plan(&sequences, shape);
                for (sequence, &(computed, rows)) in sequences.iter().enumerate() {
                    for row in 0..rows * 4 {
                        let mut seen: Vec<_> = plan
                            .pieces
                            .iter()
                            .filter(|piece| piece.sequence == sequence && piece.rows.contains(&row))
                            .flat_map(|piece| piece.partitions.clone())
                            .collect();
                        seen.sort_unstable();
                        let keys = visible(computed + row / 4, window);
                        let needed = keys.start / PARTITION..keys.end.div_ceil(PARTITION);
                        assert!(seen.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{seen:?}");
                        assert!(seen[0] <= needed.start && *seen.last().unwrap() + 1 >= needed.end);
                    }
                }
            }
        }
    }

    #[test]
    fn tiles_are_split_only_when_workers_would_idle() {
        assert_eq!(plan(&[(4095, 1)], shape(1)).splits, 0);
        let alone = plan(&[(4095, 1)], shape(8));
        assert_eq!((alone.splits, alone.kept, alone.pieces.len()), (1, 16, 12));
        assert_eq!(plan(&[(4095, 1); 64], shape(8)).splits, 0);
        let long_and_short = plan(&[(8191, 1), (15, 1), (15, 1)], shape(4));
        assert_eq!(long_and_short.splits, 1);
    }

    #[test]
    fn what_cannot_be_kept_apart_is_not_split() {
        let small = Shape { kept_partitions: 20, ..shape(8) };
        assert_eq!(plan(&[(4095, 1)], small).splits, 0);
        assert_eq!(plan(&[(2047, 1)], small).splits, 1);
    }
}
