//! The two inner products of attention by matrix tiles: queries, weights, keys and values in bfloat16, sums in `f32`.
//!
//! Keys and values are widened exactly, queries and weights are rounded. A tile of keys is thirty-two dimensions of
//! sixteen tokens, a tile of values thirty-two tokens (two panels that begin at an even one) of sixteen dimensions: what a
//! panel has one after another become the pairs of a tile. Each sum is a chain over tiles that begin at fixed positions
//! of the sequence, so a row's result depends on that row alone, as with vectors.

use std::ops::Range;

use super::super::cache::PANEL;
use super::super::storage::Storage;
use super::plan::PARTITION;
use crate::simd::tiles::{
    ROW_BYTES, TILE_BYTES, TILE_COLUMNS, TILE_FLOATS, TILE_ROWS, TileDot, TileKernel, TileOperands,
};
use crate::simd::{LANES, PairDot, PairKernel, Simd};

/// Panels of a partition.
const PANELS: usize = PARTITION / PANEL;
/// Tiles of tokens of a partition.
const STEPS: usize = PARTITION / TILE_COLUMNS;
/// Rows of sixteen elements that are widened together, and the bytes that they become.
const ROWS_AT_ONCE: usize = 4;
const WIDENED_BYTES: usize = ROWS_AT_ONCE * LANES * size_of::<u16>();
/// Panels ahead of the one in use that are asked for.
const AHEAD: usize = 6;

/// Tiles of dimensions that a head takes.
const fn head_steps(head_dim: usize) -> usize {
    head_dim.div_ceil(TILE_COLUMNS)
}

/// Panels or tiles of dimensions that are multiplied side by side: as many as there are tiles of sums for.
const fn at_once(rows: usize) -> usize {
    if rows > TILE_ROWS { 2 } else { 4 }
}

/// Floats of scratch for the queries of `rows` rows.
pub(super) const fn query_floats(rows: usize, head_dim: usize) -> usize {
    rows.next_multiple_of(TILE_ROWS) * head_steps(head_dim) * ROW_BYTES / size_of::<f32>()
}

/// Floats of scratch for the weights of `rows` rows over a partition.
pub(super) const fn weight_floats(rows: usize) -> usize {
    rows.next_multiple_of(TILE_ROWS) * STEPS * ROW_BYTES / size_of::<f32>()
}

/// Floats of scratch for widened keys or values.
pub(super) const fn widened_floats(head_dim: usize) -> usize {
    let steps = if head_steps(head_dim) > STEPS { head_steps(head_dim) } else { STEPS };
    at_once(1) * steps * TILE_FLOATS
}

/// Where the keys or values of a partition's panels begin, and those of some panels that will be read after them.
pub(super) struct Panels<E> {
    /// Addresses past `count` may be any.
    pub(super) starts: [*const E; PANELS + AHEAD],
    /// Panels that are read.
    pub(super) count: usize,
}

impl<E> Panels<E> {
    /// A place of a panel, and the same of the one that comes [`AHEAD`] of it.
    #[inline(always)]
    fn place(&self, panel: usize, element: usize) -> Source<E> {
        let start = self.starts[panel].wrapping_add(element);
        Source { start, ahead: self.starts[panel + AHEAD].wrapping_add(element) }
    }
}

/// Elements to be widened.
#[derive(Clone, Copy)]
struct Source<E> {
    start: *const E,
    /// What is asked for meanwhile, line by line: asked for all at once, it would keep loads waiting. Any address.
    ahead: *const E,
}

/// Rounds queries and lays them out in tiles: tiles of rows, in each the head's tiles of dimensions.
pub(super) struct PackQueries<'a> {
    /// One of each row, `[head_dim]`.
    pub(super) query: &'a [f32],
    /// Factor on each value.
    pub(super) factor: f32,
    pub(super) row: usize,
    /// [`query_floats`].
    pub(super) target: &'a mut [f32],
}

impl PairKernel for PackQueries<'_> {
    type Output = ();

    #[inline(always)]
    fn run_pairs<S: PairDot>(self, simd: S) {
        let Self { query, factor, row, target } = self;
        let row_floats = ROW_BYTES / size_of::<f32>();
        let (tile, row) = (row / TILE_ROWS, row % TILE_ROWS);
        let steps = head_steps(query.len());
        for (step, values) in query.chunks(TILE_COLUMNS).enumerate() {
            let target = &mut target[(tile * steps + step) * TILE_FLOATS + row * row_floats..][..row_floats];
            let (first, second) = values.split_at(values.len().min(LANES));
            // SAFETY: the slices have as many values as are said, the target has 64 bytes.
            unsafe {
                let load = |values: &[f32]| {
                    simd.multiply(simd.load_first(values.as_ptr(), values.len()), simd.splat(factor))
                };
                let rounded = simd.round_to_bf16(load(first), load(second));
                simd.store_bits(target.as_mut_ptr().cast(), rounded);
            }
        }
    }
}

/// `scores [panels, rows, 16] = queries · keys`.
pub(super) struct TileScores<'a, K: Storage> {
    /// As [`PackQueries`] leaves them.
    pub(super) queries: *const f32,
    /// In whole tiles.
    pub(super) rows: usize,
    pub(super) head_dim: usize,
    /// `[head_dim, 16]` each.
    pub(super) keys: &'a Panels<K::Element>,
    pub(super) scores: *mut f32,
    /// [`widened_floats`].
    pub(super) widened: *mut f32,
}

impl<K: Storage> TileKernel for TileScores<'_, K> {
    type Output = ();

    #[inline(always)]
    fn run_tiles<S: TileDot>(self, simd: S) {
        let Self { rows, head_dim, keys, .. } = self;
        let steps = head_steps(head_dim);
        let mut panel = 0;
        while panel < keys.count {
            let count = if keys.count - panel >= at_once(rows) { at_once(rows) } else { 1 };
            for index in 0..count {
                // SAFETY: a panel has `head_dim` rows; there is room for `at_once` panels in whole tiles.
                unsafe {
                    let target = self.widened.add(index * steps * TILE_FLOATS).cast();
                    let rows = (0..head_dim, steps * TILE_COLUMNS);
                    widen::<K, S>(simd, keys.place(panel + index, 0), rows, target);
                }
            }
            let sums = self.scores.wrapping_add(panel * rows * LANES);
            let operands = operands((self.queries, self.widened), (steps, rows), sums);
            // SAFETY: as many tiles of queries as `rows` says, panels that were just widened, and their scores.
            unsafe { multiply(simd, operands, rows, count) };
            panel += count;
        }
    }
}

/// `sums [head_dim / 16, rows, 16] = weights · values` over a partition.
pub(super) struct TileSums<'a, K: Storage> {
    /// `[panels, rows, 16]`.
    pub(super) weights: *const f32,
    /// In whole tiles.
    pub(super) rows: usize,
    /// `[tiles, 16 tokens, 16]` each.
    pub(super) values: &'a Panels<K::Element>,
    /// Whether the first panel is the second one of its tile.
    pub(super) starts_odd: bool,
    /// Tokens that count, from the first panel's; the others are not read.
    pub(super) tokens: Range<usize>,
    /// Tiles of sixteen dimensions.
    pub(super) tiles: usize,
    pub(super) sums: *mut f32,
    /// [`weight_floats`].
    pub(super) rounded: *mut f32,
    /// [`widened_floats`].
    pub(super) widened: *mut f32,
}

impl<K: Storage> TileSums<'_, K> {
    /// The panel that is half `half` of tile `step`, if there is one.
    #[inline(always)]
    fn panel(&self, step: usize, half: usize) -> Option<usize> {
        let panel = (2 * step + half).checked_sub(usize::from(self.starts_odd))?;
        (panel < self.values.count).then_some(panel)
    }

    fn steps(&self) -> usize {
        (self.values.count + usize::from(self.starts_odd)).div_ceil(2)
    }

    /// Rounds the weights and lays them out in tiles: tiles of rows, in each one tile after another of tokens.
    #[inline(always)]
    fn round_weights<S: PairDot>(&self, simd: S) {
        let steps = self.steps();
        for step in 0..steps {
            let halves = [self.panel(step, 0), self.panel(step, 1)];
            for row in 0..self.rows {
                let load = |half: Option<usize>| match half {
                    // SAFETY: the weights have `rows` vectors for each panel.
                    Some(panel) => unsafe { simd.load(self.weights.add((panel * self.rows + row) * LANES)) },
                    None => simd.splat(0.0),
                };
                let rounded = simd.round_to_bf16(load(halves[0]), load(halves[1]));
                let place = (row / TILE_ROWS * steps + step) * TILE_BYTES + row % TILE_ROWS * ROW_BYTES;
                // SAFETY: there is room for all rows in whole tiles.
                unsafe { simd.store_bits(self.rounded.cast::<u8>().add(place), rounded) };
            }
        }
    }

    /// Widens one tile of dimensions of all panels.
    ///
    /// # Safety
    /// The values are valid for the tokens that count, `target` for [`TileSums::steps`] tiles.
    #[inline(always)]
    unsafe fn widen_values<S: TileDot>(&self, simd: S, tile: usize, target: *mut u8) {
        const PANEL_BYTES: usize = TILE_BYTES / 2;
        for half in 0..2 * self.steps() {
            let target = target.wrapping_add(half * PANEL_BYTES);
            let Some(panel) = self.panel(half / 2, half % 2) else {
                // SAFETY: the caller's promise.
                unsafe { target.write_bytes(0, PANEL_BYTES) };
                continue;
            };
            let within = |token: usize| token.saturating_sub(panel * PANEL).min(PANEL);
            let tokens = within(self.tokens.start)..within(self.tokens.end);
            let source = self.values.place(panel, tile * PANEL * LANES);
            // SAFETY: the caller's promise.
            unsafe { widen::<K, S>(simd, source, (tokens, PANEL), target) };
        }
    }
}

impl<K: Storage> TileKernel for TileSums<'_, K> {
    type Output = ();

    #[inline(always)]
    fn run_tiles<S: TileDot>(self, simd: S) {
        self.round_weights(simd.vectors());
        let (rows, steps) = (self.rows, self.steps());
        let mut tile = 0;
        while tile < self.tiles {
            let count = if self.tiles - tile >= at_once(rows) { at_once(rows) } else { 1 };
            for index in 0..count {
                // SAFETY: there is room for `at_once` times the tiles of a partition.
                unsafe {
                    let target = self.widened.add(index * steps * TILE_FLOATS).cast();
                    self.widen_values(simd, tile + index, target);
                }
            }
            let sums = self.sums.wrapping_add(tile * rows * LANES);
            let operands = operands((self.rounded, self.widened), (steps, rows), sums);
            // SAFETY: as many tiles of weights as `rows` says, values that were just widened, and their sums.
            unsafe { multiply(simd, operands, rows, count) };
            tile += count;
        }
    }
}

/// Widens `rows.1` rows of sixteen elements into pairs; those outside of `rows.0` are zeros, and are not read.
///
/// # Safety
/// `source.start` is valid for reading the rows `rows.0`, `target` for writing all of them in bfloat16.
#[inline(always)]
unsafe fn widen<K: Storage, S: TileDot>(
    simd: S,
    source: Source<K::Element>,
    rows: (Range<usize>, usize),
    target: *mut u8,
) {
    let (present, all) = rows;
    let Source { start: source, ahead } = source;
    for first in (0..all).step_by(ROWS_AT_ONCE) {
        if first < present.end {
            let ahead = ahead.wrapping_add(first * LANES).cast::<u8>();
            for offset in (0..ROWS_AT_ONCE * LANES * size_of::<K::Element>()).step_by(64) {
                simd.vectors().prefetch(ahead.wrapping_add(offset));
            }
        }
        let target = target.wrapping_add(first / ROWS_AT_ONCE * WIDENED_BYTES);
        if present.start <= first && first + ROWS_AT_ONCE <= present.end {
            // SAFETY: four rows that are present; the caller's promise for the target.
            unsafe { K::interleave(simd, source.add(first * LANES), target) };
            continue;
        }
        let mut copy = [K::Element::default(); ROWS_AT_ONCE * LANES];
        for row in present.start.max(first)..present.end.min(first + ROWS_AT_ONCE) {
            let place = copy[(row - first) * LANES..][..LANES].as_mut_ptr();
            // SAFETY: a row that is present.
            unsafe { source.add(row * LANES).copy_to_nonoverlapping(place, LANES) };
        }
        // SAFETY: the copy has four rows; the caller's promise for the target.
        unsafe { K::interleave(simd, copy.as_ptr(), target) };
    }
}

/// A product of arranged rows with widened panels, `steps` tiles each, both in the cache.
fn operands(
    (inputs, weights): (*const f32, *const f32),
    (steps, rows): (usize, usize),
    sums: *mut f32,
) -> TileOperands {
    let stride = steps * TILE_BYTES;
    TileOperands {
        inputs: inputs.cast(),
        input_stride: stride,
        weights: weights.cast(),
        panel_stride: stride,
        steps,
        sums,
        sum_stride: rows * LANES,
        resume: false,
        ahead_bytes: 0,
    }
}

/// Multiplies all tiles of rows with one or [`at_once`] panels.
///
/// # Safety
/// As of [`TileDot::multiply_two`], for `rows` rows, a multiple of sixteen.
#[inline(always)]
unsafe fn multiply<S: TileDot>(simd: S, mut operands: TileOperands, rows: usize, panels: usize) {
    let mut tiles = rows / TILE_ROWS;
    while tiles > 0 {
        let taken = tiles.min(2);
        // SAFETY: the caller's promise.
        unsafe {
            match (taken, panels) {
                (2, 2) => simd.multiply_two::<2>(&operands),
                (2, _) => simd.multiply_two::<1>(&operands),
                (_, 4) => simd.multiply_one::<4>(&operands),
                (_, 2) => simd.multiply_one::<2>(&operands),
                _ => simd.multiply_one::<1>(&operands),
            }
        }
        operands.inputs = operands.inputs.wrapping_add(taken * operands.input_stride);
        operands.sums = operands.sums.wrapping_add(taken * TILE_FLOATS);
        tiles -= taken;
    }
}
