//! The two inner products of attention, for a few rows of queries and one or more panels.
//!
//! Both keep one chain of multiply-adds for each row and lane: over the dimensions of the head for scores, over the
//! tokens for values. How many rows or panels share a call changes which chains run side by side, never a chain.

use std::ops::Range;

use super::super::cache::PANEL;
use super::super::storage::Storage;
use crate::simd::{Kernel, Simd};

/// Row counts that kernels are compiled for; others run as the next larger one, on rows that nobody reads.
pub(super) const ROW_COUNTS: [usize; 7] = [1, 2, 3, 4, 6, 8, 12];

/// Panels (or tiles of dimensions) that one call takes side by side, so that few rows still fill the pipeline.
pub(super) const fn panels_at_once(rows: usize) -> usize {
    match rows {
        1 => 4,
        2 => 2,
        _ => 1,
    }
}

/// Calls a function with the row count and the panel count as constants.
macro_rules! with_rows {
    ($rows:expr, $panels:expr, $function:ident($($argument:expr),*)) => {
        match ($rows, $panels) {
            (1, 4) => $function::<S, K, 1, 4>($($argument),*),
            (1, _) => $function::<S, K, 1, 1>($($argument),*),
            (2, 2) => $function::<S, K, 2, 2>($($argument),*),
            (2, _) => $function::<S, K, 2, 1>($($argument),*),
            (3, _) => $function::<S, K, 3, 1>($($argument),*),
            (4, _) => $function::<S, K, 4, 1>($($argument),*),
            (6, _) => $function::<S, K, 6, 1>($($argument),*),
            (8, _) => $function::<S, K, 8, 1>($($argument),*),
            (12, _) => $function::<S, K, 12, 1>($($argument),*),
            (rows, _) => unreachable!("no kernel for {rows} rows"),
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
/// `rows` is one of [`ROW_COUNTS`]; each key address is that of a panel, `[head_dim, 16]`; queries and scores are valid
/// in the shapes given.
#[inline(always)]
pub(super) unsafe fn scores<S: Simd, K: Storage>(
    simd: S,
    rows: usize,
    operands: Scores,
    keys: &[*const K::Element],
) {
    with_rows!(rows, keys.len(), run_scores(simd, operands, keys));
}

fn run_scores<S: Simd, K: Storage, const ROWS: usize, const PANELS: usize>(
    simd: S,
    operands: Scores,
    keys: &[*const K::Element],
) {
    let keys = keys.try_into().expect("chosen by the number of panels");
    simd.run(ScoresKernel::<K, ROWS, PANELS> { operands, keys });
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
/// `rows` is one of [`ROW_COUNTS`]; the operands are valid in the shapes given, and `tokens` lies within 0..16.
#[inline(always)]
pub(super) unsafe fn values<S: Simd, K: Storage>(simd: S, rows: usize, operands: Values<K::Element>) {
    let at_once = panels_at_once(rows);
    let together = operands.tiles / at_once;
    let rest = Values {
        // SAFETY: both stay within the operands, or one past their end.
        values: unsafe { operands.values.add(together * at_once * PANEL * PANEL) },
        // SAFETY: as above.
        sums: unsafe { operands.sums.add(together * at_once * rows * PANEL) },
        tiles: operands.tiles % at_once,
        ..operands.clone()
    };
    with_rows!(rows, at_once, run_values(simd, operands));
    if rest.tiles > 0 {
        with_rows!(rows, 1, run_values(simd, rest));
    }
}

fn run_values<S: Simd, K: Storage, const ROWS: usize, const TILES: usize>(
    simd: S,
    operands: Values<K::Element>,
) {
    simd.run(ValuesKernel::<K, ROWS, TILES> { operands });
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
            // SAFETY: whoever makes this struct gives addresses that hold `vectors` vectors.
            unsafe {
                let values = K::load(simd, self.source.add(vector * PANEL));
                simd.store(self.target.add(vector * PANEL), values);
            }
        }
    }
}
