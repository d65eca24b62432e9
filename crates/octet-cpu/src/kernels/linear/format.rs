//! How a panel's bytes become factors of a multiply-add: one small type for each storage format.
//!
//! A panel holds sixteen output rows. Along the columns it is cut into *groups*: as many columns as make 32 bits of
//! each row (64 bytes for the sixteen), so that a group is one cache line and one vector of 32-bit lanes, and shifts
//! and masks of that vector give the columns one after another, without moving anything across lanes. binary16, which
//! is widened by an instruction that reads neighbours, has groups of one column.

use super::tile::{Operands, Tile};
use crate::simd::{LANES, PairDot, Simd};

/// A storage format together with the arithmetic done on it.
///
/// A group is worked off in `STEPS`; each step multiplies one vector of weights with one 32-bit input broadcast to all
/// lanes. The order of steps, and inside a step what [`Format::accumulate`] does, is the canonical order of a sum.
pub(super) trait Format<S: Simd>: Sized {
    /// Bytes of a group.
    const GROUP_BYTES: usize;
    /// Whether groups come from memory, so that asking ahead for them helps.
    const STREAMED: bool = true;
    /// Multiply-adds for a group.
    const STEPS: usize;
    /// A group in registers.
    type Raw: Copy;
    /// The factors of one step in registers.
    type Weight: Copy;

    /// The format of factors that a tile keeps for other tiles, `PANELS` panels side by side.
    type Wide<const PANELS: usize>: Format<S>;

    /// Enters a function compiled for one shape of tile and runs [`super::tile::multiply`] there.
    ///
    /// # Safety
    /// As of `multiply`.
    unsafe fn multiply<const ROWS: usize, const PANELS: usize, const KEEP: bool>(
        simd: S,
        operands: &Operands,
    );

    /// Reads a group.
    ///
    /// # Safety
    /// `group` is valid for reading `GROUP_BYTES`.
    unsafe fn load(simd: S, group: *const u8) -> Self::Raw;

    /// The factors of step `step`.
    fn step(simd: S, raw: Self::Raw, step: usize) -> Self::Weight;

    /// Keeps the factors of a step for other rows.
    ///
    /// # Safety
    /// `target` is valid for writing 64 bytes.
    unsafe fn store_wide(simd: S, target: *mut f32, weight: Self::Weight);

    /// `sum + weight * input`.
    ///
    /// # Safety
    /// `input` is valid for reading.
    unsafe fn accumulate(simd: S, sum: S::F32, weight: Self::Weight, input: *const f32) -> S::F32;
}

/// Implements the parts of [`Format`] that all formats with 32-bit multiply-adds share.
macro_rules! multiply_add_in_f32 {
    () => {
        type Weight = S::F32;
        type Wide<const PANELS: usize> = WideColumns<PANELS>;

        unsafe fn multiply<const ROWS: usize, const PANELS: usize, const KEEP: bool>(
            simd: S,
            operands: &Operands,
        ) {
            // SAFETY: the caller's promise.
            simd.run(unsafe { Tile::<Self, ROWS, PANELS, KEEP>::new(operands) });
        }

        #[inline(always)]
        unsafe fn store_wide(simd: S, target: *mut f32, weight: S::F32) {
            // SAFETY: the caller's promise.
            unsafe { simd.store(target, weight) }
        }

        #[inline(always)]
        unsafe fn accumulate(simd: S, sum: S::F32, weight: S::F32, input: *const f32) -> S::F32 {
            // SAFETY: the caller's promise.
            simd.multiply_add(weight, simd.splat(unsafe { *input }), sum)
        }
    };
}

/// binary32.
pub(super) struct F32;

impl<S: Simd> Format<S> for F32 {
    const GROUP_BYTES: usize = 4 * LANES;
    const STEPS: usize = 1;
    type Raw = S::F32;

    #[inline(always)]
    unsafe fn load(simd: S, group: *const u8) -> S::F32 {
        // SAFETY: the caller's promise.
        unsafe { simd.load(group.cast()) }
    }

    #[inline(always)]
    fn step(_simd: S, raw: S::F32, _step: usize) -> S::F32 {
        raw
    }

    multiply_add_in_f32!();
}

/// binary16.
pub(super) struct F16;

impl<S: Simd> Format<S> for F16 {
    const GROUP_BYTES: usize = 2 * LANES;
    const STEPS: usize = 1;
    type Raw = S::F32;

    #[inline(always)]
    unsafe fn load(simd: S, group: *const u8) -> S::F32 {
        // SAFETY: the caller's promise.
        unsafe { simd.load_f16(group) }
    }

    #[inline(always)]
    fn step(_simd: S, raw: S::F32, _step: usize) -> S::F32 {
        raw
    }

    multiply_add_in_f32!();
}

/// Eight-bit integers, widened by an instruction that reads neighbours, as binary16.
pub(super) struct I8;

impl<S: Simd> Format<S> for I8 {
    const GROUP_BYTES: usize = LANES;
    const STEPS: usize = 1;
    type Raw = S::F32;

    #[inline(always)]
    unsafe fn load(simd: S, group: *const u8) -> S::F32 {
        // SAFETY: the caller's promise.
        unsafe { simd.load_i8(group) }
    }

    #[inline(always)]
    fn step(_simd: S, raw: S::F32, _step: usize) -> S::F32 {
        raw
    }

    multiply_add_in_f32!();
}

/// bfloat16, widened.
pub(super) struct BF16;

impl<S: Simd> Format<S> for BF16 {
    const GROUP_BYTES: usize = 4 * LANES;
    const STEPS: usize = 2;
    type Raw = S::Bits;

    #[inline(always)]
    unsafe fn load(simd: S, group: *const u8) -> S::Bits {
        // SAFETY: the caller's promise.
        unsafe { simd.load_bits(group) }
    }

    #[inline(always)]
    fn step(simd: S, raw: S::Bits, step: usize) -> S::F32 {
        simd.as_f32(if step == 0 { simd.shift_left::<16>(raw) } else { simd.and(raw, 0xFFFF_0000) })
    }

    multiply_add_in_f32!();
}

/// E4M3, or E5M2 if so said, widened; values come out times [`crate::simd::E4M3_FACTOR`] or
/// [`crate::simd::E5M2_FACTOR`].
pub(super) struct Float8<const E5M2: bool>;

impl<const E5M2: bool, S: Simd> Format<S> for Float8<E5M2> {
    const GROUP_BYTES: usize = 4 * LANES;
    const STEPS: usize = 4;
    type Raw = S::Bits;

    #[inline(always)]
    unsafe fn load(simd: S, group: *const u8) -> S::Bits {
        // SAFETY: the caller's promise.
        unsafe { simd.load_bits(group) }
    }

    #[inline(always)]
    fn step(simd: S, raw: S::Bits, step: usize) -> S::F32 {
        // A code at the top of 16 bits, shifted so that its exponent stands where bfloat16 has it. The sign travels
        // along in front and the mask cuts its copies off.
        let top = if step.is_multiple_of(2) { simd.shift_left_16::<8>(raw) } else { raw };
        let (halves, mask) = if E5M2 {
            (simd.shift_right_signed_16::<3>(top), 0x8FE0_0000)
        } else {
            (simd.shift_right_signed_16::<4>(top), 0x87F0_0000)
        };
        let upper = if step < 2 { simd.shift_left::<16>(halves) } else { halves };
        simd.as_f32(simd.and(upper, mask))
    }

    multiply_add_in_f32!();
}

/// Implements the parts of [`Format`] that dot products of bfloat16 pairs share.
macro_rules! pair_dot {
    () => {
        type Weight = S::Bits;
        type Wide<const PANELS: usize> = WidePairs<PANELS>;

        unsafe fn multiply<const ROWS: usize, const PANELS: usize, const KEEP: bool>(
            simd: S,
            operands: &Operands,
        ) {
            // SAFETY: the caller's promise.
            simd.run_pairs(unsafe { Tile::<Self, ROWS, PANELS, KEEP>::new(operands) });
        }

        #[inline(always)]
        unsafe fn store_wide(simd: S, target: *mut f32, weight: S::Bits) {
            // SAFETY: the caller's promise.
            unsafe { simd.store_bits(target.cast(), weight) }
        }

        #[inline(always)]
        unsafe fn accumulate(simd: S, sum: S::F32, weight: S::Bits, input: *const f32) -> S::F32 {
            // SAFETY: the caller's promise.
            let pair = simd.splat_bits(unsafe { *input }.to_bits());
            simd.dot_bf16_pairs(sum, weight, pair)
        }
    };
}

/// bfloat16, multiplied in pairs with inputs rounded to bfloat16.
pub(super) struct BF16Pairs;

impl<S: PairDot> Format<S> for BF16Pairs {
    const GROUP_BYTES: usize = 4 * LANES;
    const STEPS: usize = 1;
    type Raw = S::Bits;

    #[inline(always)]
    unsafe fn load(simd: S, group: *const u8) -> S::Bits {
        // SAFETY: the caller's promise.
        unsafe { simd.load_bits(group) }
    }

    #[inline(always)]
    fn step(_simd: S, raw: S::Bits, _step: usize) -> S::Bits {
        raw
    }

    pair_dot!();
}

/// E4M3 or E5M2, widened to bfloat16 exactly and multiplied in pairs: columns 0 and 2 of a group, then 1 and 3.
pub(super) struct Float8Pairs<const E5M2: bool>;

impl<const E5M2: bool, S: PairDot> Format<S> for Float8Pairs<E5M2> {
    const GROUP_BYTES: usize = 4 * LANES;
    const STEPS: usize = 2;
    type Raw = (S::Bits, S::Bits);

    #[inline(always)]
    unsafe fn load(simd: S, group: *const u8) -> (S::Bits, S::Bits) {
        // SAFETY: the caller's promise.
        simd.widen_float8::<E5M2>(unsafe { simd.load_bits(group) })
    }

    #[inline(always)]
    fn step(_simd: S, raw: (S::Bits, S::Bits), step: usize) -> S::Bits {
        if step == 0 { raw.0 } else { raw.1 }
    }

    pair_dot!();
}

/// What an earlier tile of rows kept with [`Format::store_wide`]: widened columns of `PANELS` panels.
pub(super) struct WideColumns<const PANELS: usize>;

impl<S: Simd, const WIDTH: usize> Format<S> for WideColumns<WIDTH> {
    const GROUP_BYTES: usize = 4 * LANES * WIDTH;
    const STREAMED: bool = false;
    const STEPS: usize = 1;
    type Raw = S::F32;

    #[inline(always)]
    unsafe fn load(simd: S, group: *const u8) -> S::F32 {
        // SAFETY: the caller's promise.
        unsafe { simd.load(group.cast()) }
    }

    #[inline(always)]
    fn step(_simd: S, raw: S::F32, _step: usize) -> S::F32 {
        raw
    }

    multiply_add_in_f32!();
}

/// As [`WideColumns`], for pairs.
pub(super) struct WidePairs<const PANELS: usize>;

impl<S: PairDot, const WIDTH: usize> Format<S> for WidePairs<WIDTH> {
    const GROUP_BYTES: usize = 4 * LANES * WIDTH;
    const STREAMED: bool = false;
    const STEPS: usize = 1;
    type Raw = S::Bits;

    #[inline(always)]
    unsafe fn load(simd: S, group: *const u8) -> S::Bits {
        // SAFETY: the caller's promise.
        unsafe { simd.load_bits(group) }
    }

    #[inline(always)]
    fn step(_simd: S, raw: S::Bits, _step: usize) -> S::Bits {
        raw
    }

    pair_dot!();
}
