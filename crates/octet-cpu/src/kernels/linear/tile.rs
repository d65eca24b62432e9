//! The innermost loop: a tile of rows times a few panels, with all sums in registers.

use std::marker::PhantomData;

use super::format::{BF16, BF16Pairs, F16, F32, Float8, Float8Pairs, Format, I8, WideColumns, WidePairs};
use super::plan::TILE_PANELS;
use crate::simd::{Kernel, LANES, PairDot, PairKernel, Simd};

/// The most rows of a tile: twelve 256-bit sums, a weight in two registers and an input fill AVX2's sixteen.
pub(super) const TILE_ROWS: usize = 6;

/// Operands of [`multiply`]: pointers into one block of columns.
pub(super) struct Operands {
    /// First group of the block in the first panel.
    pub weights: *const u8,
    /// Bytes from one panel to the next.
    pub panel_bytes: usize,
    /// Groups of the block.
    pub groups: usize,
    /// Tiles to be multiplied one after another, each with `ROWS` rows.
    pub tiles: usize,
    /// Inputs, `[tiles, steps, rows]`.
    pub input: *const f32,
    /// Sums, `[panels, tiles, rows, 16]` with `sum_stride` floats from panel to panel.
    pub sums: *mut f32,
    /// See `sums`.
    pub sum_stride: usize,
    /// Whether earlier blocks have put their sums in `sums`.
    pub resume: bool,
    /// Scales of the block for the sixteen rows of each panel, if blocks are scaled.
    pub scales: Option<[*const f32; TILE_PANELS]>,
    /// How far ahead of the product weights are asked for, all panels together.
    pub ahead_bytes: usize,
    /// Where widened weights are kept, `[steps, panels, 16]`; used if `KEEP`.
    pub wide: *mut f32,
}

/// Multiplies `ROWS` rows with `PANELS` panels over a block of columns.
///
/// Each sum is one chain of multiply-adds in the order of columns. Without block scales the chain goes on from block
/// to block through memory, which is exact; with them each block's chain starts at zero, and is multiplied by the
/// block's scale and added to the total. So a sum does not depend on how rows are cut into tiles.
///
/// # Safety
/// All pointers are valid for what [`Operands`] says, and nothing else writes there meanwhile.
#[inline(always)]
unsafe fn multiply<S, F, const ROWS: usize, const PANELS: usize, const KEEP: bool>(
    simd: S,
    operands: &Operands,
) where
    S: Simd,
    F: Format<S>,
{
    let mut input = operands.input;
    for tile in 0..operands.tiles {
        let sums = operands.sums.wrapping_add(tile * ROWS * LANES);
        // SAFETY: the caller's promise, for this tile.
        input = unsafe { multiply_tile::<S, F, ROWS, PANELS, KEEP>(simd, operands, input, sums) };
    }
}

/// Multiplies one tile; returns where the next one's inputs start.
///
/// # Safety
/// As of [`multiply`].
#[inline(always)]
unsafe fn multiply_tile<S, F, const ROWS: usize, const PANELS: usize, const KEEP: bool>(
    simd: S,
    operands: &Operands,
    mut input: *const f32,
    sums_at: *mut f32,
) -> *const f32
where
    S: Simd,
    F: Format<S>,
{
    let zero = simd.splat(0.0);
    let mut sums = [[zero; ROWS]; PANELS];
    let target = |panel: usize, row: usize| sums_at.wrapping_add(panel * operands.sum_stride + row * LANES);
    if operands.resume && operands.scales.is_none() {
        for (panel, sums) in sums.iter_mut().enumerate() {
            for (row, sum) in sums.iter_mut().enumerate() {
                // SAFETY: inside the operands' sums.
                *sum = unsafe { simd.load(target(panel, row)) };
            }
        }
    }
    let mut wide = operands.wide;
    let mut weights = operands.weights;
    for _ in 0..operands.groups {
        for (panel, sums) in sums.iter_mut().enumerate() {
            let group = weights.wrapping_add(panel * operands.panel_bytes);
            if F::STREAMED {
                simd.prefetch(group.wrapping_add(operands.ahead_bytes / PANELS));
            }
            // SAFETY: inside the panel's block.
            let raw = unsafe { F::load(simd, group) };
            for step in 0..F::STEPS {
                let weight = F::step(simd, raw, step);
                // SAFETY: `wide` has room for every step and panel, `input` has every step and row.
                unsafe {
                    if KEEP {
                        F::store_wide(simd, wide.add((step * PANELS + panel) * LANES), weight);
                    }
                    for (row, sum) in sums.iter_mut().enumerate() {
                        *sum = F::accumulate(simd, *sum, weight, input.add(step * ROWS + row));
                    }
                }
            }
        }
        weights = weights.wrapping_add(F::GROUP_BYTES);
        input = input.wrapping_add(F::STEPS * ROWS);
        wide = wide.wrapping_add(F::STEPS * PANELS * LANES);
    }
    for (panel, sums) in sums.iter().enumerate() {
        for (row, sum) in sums.iter().enumerate() {
            let mut sum = *sum;
            // SAFETY: inside `sums`; scales have sixteen values for each panel.
            unsafe {
                if let Some(scales) = operands.scales {
                    let total = if operands.resume { simd.load(target(panel, row)) } else { zero };
                    sum = simd.multiply_add(sum, simd.load(scales[panel]), total);
                }
                simd.store(target(panel, row), sum);
            }
        }
    }
    input
}

/// [`multiply`] as a kernel: each shape in each format is a function of its own, which keeps compilers quick.
pub(super) struct Tile<'a, F, const ROWS: usize, const PANELS: usize, const KEEP: bool> {
    operands: &'a Operands,
    format: PhantomData<F>,
}

impl<'a, F, const ROWS: usize, const PANELS: usize, const KEEP: bool> Tile<'a, F, ROWS, PANELS, KEEP> {
    /// A tile to be run.
    ///
    /// # Safety
    /// As of [`multiply`].
    pub(super) unsafe fn new(operands: &'a Operands) -> Self {
        Self { operands, format: PhantomData }
    }
}

/// Makes tiles in a format kernels.
macro_rules! kernel {
    ($kernel:ident, $run:ident, $simd:ident: $format:ty $(, $parameter:ident: $type:ty)?) => {
        impl<const ROWS: usize, const PANELS: usize, const KEEP: bool $(, const $parameter: $type)?> $kernel
            for Tile<'_, $format, ROWS, PANELS, KEEP>
        {
            type Output = ();

            #[inline(always)]
            fn $run<S: $simd>(self, simd: S) {
                // SAFETY: promised to `new`.
                unsafe { multiply::<S, $format, ROWS, PANELS, KEEP>(simd, self.operands) }
            }
        }
    };
}

kernel!(Kernel, run, Simd: F32);
kernel!(Kernel, run, Simd: F16);
kernel!(Kernel, run, Simd: I8);
kernel!(Kernel, run, Simd: BF16);
kernel!(Kernel, run, Simd: Float8<E5M2>, E5M2: bool);
kernel!(Kernel, run, Simd: WideColumns<WIDTH>, WIDTH: usize);
kernel!(PairKernel, run_pairs, PairDot: BF16Pairs);
kernel!(PairKernel, run_pairs, PairDot: Float8Pairs<E5M2>, E5M2: bool);
kernel!(PairKernel, run_pairs, PairDot: WidePairs<WIDTH>, WIDTH: usize);
