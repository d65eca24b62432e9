//! The two inner products of attention, for a few rows of queries and one or more panels.
//!
//! Both keep one chain of multiply-adds for each row and lane: over the dimensions of the head for scores, over the
//! tokens for values. How many rows or panels share a call changes which chains run side by side, never a chain.

#![expect(clippy::needless_range_loop, reason = "rows and panels count addresses as well as sums")]

use std::ops::Range;

use super::super::cache::PANEL;
use super::super::storage::{Storage, StoredF32};
use crate::isa::Isa;
use crate::simd::{Kernel, Simd};

/// Row counts that kernels are compiled for; others run as the next larger one, on rows that nobody reads.
pub(super) const ROW_COUNTS: [usize; 6] = [1, 2, 4, 6, 8, 12];

/// The most rows for which keys and values are widened in registers. More rows widen a panel once, into memory.
pub(super) const MOST_DIRECT_ROWS: usize = 4;

/// Panels (or tiles of dimensions) that one call takes side by side, so that few rows still fill the pipeline.
pub(super) const fn panels_at_once(rows: usize) -> usize {
    match rows {
        1 => 4,
        2 => 2,
        _ => 1,
    }
}

/// Runs a kernel with the row count and the panel count as constants. Every kernel is compiled for every instruction
/// set, so there are no more of them than are used.
macro_rules! run_with_rows {
    ($isa:expr, $rows:expr, $panels:expr, $kernel:ident::<$storage:ty> $fields:tt) => {
        match ($rows, $panels) {
            (1, 4) => $isa.run($kernel::<$storage, 1, 4> $fields),
            (1, _) => $isa.run($kernel::<$storage, 1, 1> $fields),
            (2, 2) => $isa.run($kernel::<$storage, 2, 2> $fields),
            (2, _) => $isa.run($kernel::<$storage, 2, 1> $fields),
            (4, _) => $isa.run($kernel::<$storage, 4, 1> $fields),
            (rows, _) => unreachable!("no kernel for {rows} rows"),
        }
    };
    ($isa:expr, $rows:expr, $kernel:ident::<StoredF32> $fields:tt) => {
        match $rows {
            6 => $isa.run($kernel::<StoredF32, 6, 1> $fields),
            8 => $isa.run($kernel::<StoredF32, 8, 1> $fields),
            12 => $isa.run($kernel::<StoredF32, 12, 1> $fields),
            rows => run_with_rows!($isa, rows, 1, $kernel::<StoredF32> $fields),
        }
    };
}

/// Operands of [`scores`].
#[derive(Clone, Copy)]
pub(super) struct Scores {
    /// `[head_dim, rows]`.
    pub(super) queries: *const f32,
    pub(super) head_dim: usize,
    /// Factor on each sum.
    pub(super) factor: f32,
    /// `[panels, rows, 16]`.
    pub(super) scores: *mut f32,
}

/// `scores [panels, rows, 16] = factor * (queries · keys)` for as many panels as there are addresses in `keys`: one
/// or [`panels_at_once`].
///
/// # Safety
/// `rows` is one of [`ROW_COUNTS`] and at most [`MOST_DIRECT_ROWS`]; each key address is that of a panel,
/// `[head_dim, 16]`; queries and scores are valid in the shapes given.
pub(super) unsafe fn scores<K: Storage>(
    isa: Isa,
    rows: usize,
    operands: Scores,
    keys: &[*const K::Element; 4],
    panels: usize,
) {
    run_with_rows!(isa, rows, panels, ScoresKernel::<K> { operands, keys: first(keys) });
}

/// As [`scores`], for any of [`ROW_COUNTS`] and one panel that was widened.
///
/// # Safety
/// As [`scores`].
pub(super) unsafe fn scores_widened(isa: Isa, rows: usize, operands: Scores, keys: *const f32) {
    run_with_rows!(isa, rows, ScoresKernel::<StoredF32> { operands, keys: first(&[keys; 4]) });
}

/// The first addresses of four.
fn first<T: Copy, const COUNT: usize>(addresses: &[T; 4]) -> [T; COUNT] {
    *addresses.first_chunk().expect("at most four panels at once")
}

struct ScoresKernel<K: Storage, const ROWS: usize, const PANELS: usize> {
    operands: Scores,
    keys: [*const K::Element; PANELS],
}

impl<K: Storage, const ROWS: usize, const PANELS: usize> Kernel for ScoresKernel<K, ROWS, PANELS> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Scores { queries, head_dim, factor, scores } = self.operands;
        let mut sums = [[simd.splat(0.0); ROWS]; PANELS];
        for dimension in 0..head_dim {
            for panel in 0..PANELS {
                // SAFETY: the panel has `head_dim` vectors.
                let keys = unsafe { K::load(simd, self.keys[panel].add(dimension * PANEL)) };
                for row in 0..ROWS {
                    // SAFETY: the queries have `head_dim * ROWS` values.
                    let query = simd.splat(unsafe { *queries.add(dimension * ROWS + row) });
                    sums[panel][row] = simd.multiply_add(query, keys, sums[panel][row]);
                }
            }
        }
        for panel in 0..PANELS {
            for row in 0..ROWS {
                let scaled = simd.multiply(sums[panel][row], simd.splat(factor));
                // SAFETY: the scores have `PANELS * ROWS` vectors.
                unsafe { simd.store(scores.add((panel * ROWS + row) * PANEL), scaled) };
            }
        }
    }
}

/// Operands of [`values`].
#[derive(Clone)]
pub(super) struct Values<E> {
    /// `[rows, 16]`.
    pub(super) weights: *const f32,
    /// `[tiles, 16, 16]`.
    pub(super) values: *const E,
    /// Tokens of the panel that count; the others are not read.
    pub(super) tokens: Range<usize>,
    /// `[tiles, rows, 16]`.
    pub(super) sums: *mut f32,
    /// Vectors of the padded head.
    pub(super) tiles: usize,
}

/// `sums [tiles, rows, 16] += weights · values`, a tile of sixteen dimensions after another.
///
/// # Safety
/// `rows` is one of [`ROW_COUNTS`] and at most [`MOST_DIRECT_ROWS`]; the operands are valid in the shapes given, and
/// `tokens` lies within 0..16.
pub(super) unsafe fn values<K: Storage>(isa: Isa, rows: usize, operands: Values<K::Element>) {
    let at_once = panels_at_once(rows);
    let together = operands.tiles / at_once * at_once;
    let rest = Values {
        // SAFETY: both stay within the operands, or one past their end.
        values: unsafe { operands.values.add(together * PANEL * PANEL) },
        // SAFETY: as above.
        sums: unsafe { operands.sums.add(together * rows * PANEL) },
        tiles: operands.tiles - together,
        ..operands.clone()
    };
    if together > 0 {
        run_with_rows!(isa, rows, at_once, ValuesKernel::<K> { operands });
    }
    if rest.tiles > 0 {
        run_with_rows!(isa, rows, 1, ValuesKernel::<K> { operands: rest });
    }
}

/// As [`values`], for any of [`ROW_COUNTS`] and values that were widened.
///
/// # Safety
/// As [`values`].
pub(super) unsafe fn values_widened(isa: Isa, rows: usize, operands: Values<f32>) {
    run_with_rows!(isa, rows, ValuesKernel::<StoredF32> { operands });
}

struct ValuesKernel<K: Storage, const ROWS: usize, const TILES: usize> {
    operands: Values<K::Element>,
}

impl<K: Storage, const ROWS: usize, const TILES: usize> Kernel for ValuesKernel<K, ROWS, TILES> {
    type Output = ();

    /// Takes whole groups of `TILES`; the caller brings the rest.
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Values { weights, values, tokens, sums, tiles } = self.operands;
        for first in (0..tiles / TILES).map(|group| group * TILES) {
            let sum_at = |tile: usize, row: usize| ((first + tile) * ROWS + row) * PANEL;
            let mut chains = [[simd.splat(0.0); ROWS]; TILES];
            for tile in 0..TILES {
                for row in 0..ROWS {
                    // SAFETY: the sums have `tiles * ROWS` vectors.
                    chains[tile][row] = unsafe { simd.load(sums.add(sum_at(tile, row))) };
                }
            }
            for token in tokens.clone() {
                for tile in 0..TILES {
                    // SAFETY: a tile has sixteen vectors, one for each token.
                    let loaded =
                        unsafe { K::load(simd, values.add(((first + tile) * PANEL + token) * PANEL)) };
                    for row in 0..ROWS {
                        // SAFETY: the weights have sixteen values a row.
                        let weight = simd.splat(unsafe { *weights.add(row * PANEL + token) });
                        chains[tile][row] = simd.multiply_add(weight, loaded, chains[tile][row]);
                    }
                }
            }
            for tile in 0..TILES {
                for row in 0..ROWS {
                    // SAFETY: as for the loads.
                    unsafe { simd.store(sums.add(sum_at(tile, row)), chains[tile][row]) };
                }
            }
        }
    }
}

/// Widens `vectors` vectors once, for the many rows that will read them; the load's factor stays in.
pub(super) struct Widen<K: Storage> {
    pub(super) source: *const K::Element,
    /// Room for `vectors` times sixteen values.
    pub(super) target: *mut f32,
    pub(super) vectors: usize,
}

impl<K: Storage> Kernel for Widen<K> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for vector in 0..self.vectors {
            // SAFETY: the code that makes this struct provides addresses that hold `vectors` vectors.
            unsafe {
                let values = K::load(simd, self.source.add(vector * PANEL));
                simd.store(self.target.add(vector * PANEL), values);
            }
        }
    }
}

/// Asks for a panel of the cache to be brought close.
pub(super) struct Prefetch {
    /// Its first byte; any address will do.
    pub(super) start: *const u8,
    pub(super) bytes: usize,
}

impl Kernel for Prefetch {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for offset in (0..self.bytes).step_by(64) {
            simd.prefetch(self.start.wrapping_add(offset));
        }
    }
}
