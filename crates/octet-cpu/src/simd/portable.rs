//! Sixteen lanes in an array, for any processor: the twin that every other instruction set must equal to the bit.

use half::{bf16, f16};

use super::tiles::{
    GROUP_CODES, ROW_BYTES, TILE_BYTES, TILE_CODES, TILE_COLUMNS, TILE_FLOATS, TILE_ROWS, TileDot,
    TileKernel, TileOperands,
};
use super::{Kernel, LANES, PairDot, PairKernel, Simd};

/// Plain Rust. Its methods are only `#[inline]`: where the processor has vectors the compiler finds them worth it, and
/// where every lane is a call (multiply-adds without the instruction), kernels stay small.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Portable;

/// Applies a function lane by lane.
#[inline(always)]
fn map<T: Copy, U: Copy + Default>(values: [T; LANES], function: impl Fn(T) -> U) -> [U; LANES] {
    let mut result = [U::default(); LANES];
    for lane in 0..LANES {
        result[lane] = function(values[lane]);
    }
    result
}

/// Applies a function of two values lane by lane.
#[inline(always)]
fn zip<T: Copy + Default>(left: [T; LANES], right: [T; LANES], function: impl Fn(T, T) -> T) -> [T; LANES] {
    let mut result = [T::default(); LANES];
    for lane in 0..LANES {
        result[lane] = function(left[lane], right[lane]);
    }
    result
}

/// Folds halves onto each other until one value is left.
#[inline(always)]
fn fold(mut values: [f32; LANES], function: impl Fn(f32, f32) -> f32) -> f32 {
    for width in [8, 4, 2, 1] {
        for lane in 0..width {
            values[lane] = function(values[lane], values[lane + width]);
        }
    }
    values[0]
}

/// Applies a function to both 16-bit halves.
#[inline(always)]
fn halves(bits: u32, function: impl Fn(u16) -> u16) -> u32 {
    u32::from(function((bits & 0xFFFF) as u16)) | u32::from(function((bits >> 16) as u16)) << 16
}

impl Simd for Portable {
    type F32 = [f32; LANES];
    type Bits = [u32; LANES];

    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    #[inline]
    unsafe fn load(self, source: *const f32) -> Self::F32 {
        // SAFETY: the caller's promise.
        unsafe { source.cast::<Self::F32>().read_unaligned() }
    }

    #[inline]
    unsafe fn store(self, target: *mut f32, value: Self::F32) {
        // SAFETY: the caller's promise.
        unsafe { target.cast::<Self::F32>().write_unaligned(value) }
    }

    #[inline]
    unsafe fn load_bits(self, source: *const u8) -> Self::Bits {
        // SAFETY: the caller's promise.
        let bytes = unsafe { source.cast::<[[u8; 4]; LANES]>().read_unaligned() };
        map(bytes, u32::from_le_bytes)
    }

    #[inline]
    unsafe fn load_bf16(self, source: *const u8) -> Self::F32 {
        // SAFETY: the caller's promise.
        let bytes = unsafe { source.cast::<[[u8; 2]; LANES]>().read_unaligned() };
        map(bytes, |bytes| bf16::from_le_bytes(bytes).to_f32())
    }

    #[inline]
    unsafe fn load_f16(self, source: *const u8) -> Self::F32 {
        // SAFETY: the caller's promise.
        let bytes = unsafe { source.cast::<[[u8; 2]; LANES]>().read_unaligned() };
        map(bytes, |bytes| f16::from_le_bytes(bytes).to_f32())
    }

    #[inline]
    unsafe fn load_i8(self, source: *const u8) -> Self::F32 {
        // SAFETY: the caller's promise.
        let bytes = unsafe { source.cast::<[i8; LANES]>().read_unaligned() };
        map(bytes, f32::from)
    }

    #[inline]
    unsafe fn load_bytes_as_f16<const SHIFT: i32>(self, source: *const u8, mask: u16) -> Self::F32 {
        // SAFETY: the caller's promise.
        let bytes = unsafe { source.cast::<[i8; LANES]>().read_unaligned() };
        map(bytes, |byte| f16::from_bits((i16::from(byte) << SHIFT).cast_unsigned() & mask).to_f32())
    }

    #[inline]
    fn prefetch(self, _address: *const u8) {}

    #[inline]
    fn splat(self, value: f32) -> Self::F32 {
        [value; LANES]
    }

    #[inline]
    fn add(self, left: Self::F32, right: Self::F32) -> Self::F32 {
        zip(left, right, |left, right| left + right)
    }

    #[inline]
    fn subtract(self, left: Self::F32, right: Self::F32) -> Self::F32 {
        zip(left, right, |left, right| left - right)
    }

    #[inline]
    fn multiply(self, left: Self::F32, right: Self::F32) -> Self::F32 {
        zip(left, right, |left, right| left * right)
    }

    #[inline]
    fn divide(self, left: Self::F32, right: Self::F32) -> Self::F32 {
        zip(left, right, |left, right| left / right)
    }

    #[inline]
    fn multiply_add(self, left: Self::F32, right: Self::F32, addend: Self::F32) -> Self::F32 {
        let mut result = addend;
        for lane in 0..LANES {
            result[lane] = left[lane].mul_add(right[lane], addend[lane]);
        }
        result
    }

    #[inline]
    fn min(self, left: Self::F32, right: Self::F32) -> Self::F32 {
        zip(left, right, |left, right| if left < right { left } else { right })
    }

    #[inline]
    fn max(self, left: Self::F32, right: Self::F32) -> Self::F32 {
        zip(left, right, |left, right| if left > right { left } else { right })
    }

    #[inline]
    fn round(self, value: Self::F32) -> Self::F32 {
        map(value, f32::round_ties_even)
    }

    #[inline]
    fn scale_by_power_of_two(self, value: Self::F32, exponent: Self::F32) -> Self::F32 {
        zip(value, exponent, |value, exponent| {
            let shift = (exponent as i32) << 23;
            f32::from_bits(value.to_bits().wrapping_add_signed(shift))
        })
    }

    #[inline]
    fn select_less(self, left: Self::F32, right: Self::F32, yes: Self::F32, no: Self::F32) -> Self::F32 {
        let mut result = no;
        for lane in 0..LANES {
            if left[lane] < right[lane] {
                result[lane] = yes[lane];
            }
        }
        result
    }

    #[inline]
    fn reduce_add(self, value: Self::F32) -> f32 {
        fold(value, |left, right| left + right)
    }

    #[inline]
    fn reduce_max(self, value: Self::F32) -> f32 {
        fold(value, |left, right| if left > right { left } else { right })
    }

    #[inline]
    fn as_f32(self, bits: Self::Bits) -> Self::F32 {
        map(bits, f32::from_bits)
    }

    #[inline]
    fn and(self, bits: Self::Bits, mask: u32) -> Self::Bits {
        map(bits, |bits| bits & mask)
    }

    #[inline]
    fn shift_left<const COUNT: i32>(self, bits: Self::Bits) -> Self::Bits {
        map(bits, |bits| bits << COUNT)
    }

    #[inline]
    fn shift_left_16<const COUNT: i32>(self, bits: Self::Bits) -> Self::Bits {
        map(bits, |bits| halves(bits, |half| half << COUNT))
    }

    #[inline]
    fn shift_right_signed_16<const COUNT: i32>(self, bits: Self::Bits) -> Self::Bits {
        map(bits, |bits| halves(bits, |half| (half.cast_signed() >> COUNT).cast_unsigned()))
    }
}

/// Subnormal numbers become zeros of their sign.
#[inline]
fn flush(value: f32) -> f32 {
    if value.is_subnormal() { 0.0_f32.copysign(value) } else { value }
}

impl PairDot for Portable {
    fn run_pairs<K: PairKernel>(self, kernel: K) -> K::Output {
        kernel.run_pairs(self)
    }

    #[inline]
    fn dot_bf16_pairs(self, sum: Self::F32, left: Self::Bits, right: Self::Bits) -> Self::F32 {
        let mut result = sum;
        for lane in 0..LANES {
            let high = |bits: u32| flush(f32::from_bits(bits & 0xFFFF_0000));
            let low = |bits: u32| flush(f32::from_bits(bits << 16));
            let sum = flush(high(left[lane]).mul_add(high(right[lane]), flush(sum[lane])));
            result[lane] = flush(low(left[lane]).mul_add(low(right[lane]), sum));
        }
        result
    }

    #[inline]
    fn splat_bits(self, bits: u32) -> Self::Bits {
        [bits; LANES]
    }

    #[inline]
    unsafe fn store_bits(self, target: *mut u8, bits: Self::Bits) {
        // SAFETY: the caller's promise.
        unsafe { target.cast::<[[u8; 4]; LANES]>().write_unaligned(map(bits, u32::to_le_bytes)) }
    }

    #[inline]
    fn widen_float8<const E5M2: bool>(self, codes: Self::Bits) -> (Self::Bits, Self::Bits) {
        let widen = |code: u32| u32::from(float8_to_bf16::<E5M2>((code & 0xFF) as u8));
        let even = map(codes, |codes| widen(codes) | widen(codes >> 16) << 16);
        let odd = map(codes, |codes| widen(codes >> 8) | widen(codes >> 24) << 16);
        (even, odd)
    }

    fn round_to_bf16(self, first: [f32; LANES], second: [f32; LANES]) -> [u32; LANES] {
        let rounded = |index: usize| {
            let value = if index < LANES { first[index] } else { second[index - LANES] };
            u32::from(half::bf16::from_f32(flush(value)).to_bits())
        };
        std::array::from_fn(|lane| rounded(2 * lane) | rounded(2 * lane + 1) << 16)
    }
}

impl TileDot for Portable {
    type Vectors = Self;

    fn vectors(self) -> Self {
        self
    }

    fn run_tiles<K: TileKernel>(self, _rows: usize, kernel: K) -> K::Output {
        kernel.run_tiles(self)
    }

    fn ask_for(self, _address: *const u8) {}

    unsafe fn multiply_one<const PANELS: usize>(self, operands: &TileOperands) {
        for panel in 0..PANELS {
            // SAFETY: the caller's promise.
            unsafe { multiply_tile(operands, 0, panel) };
        }
    }

    unsafe fn widen_group<const E5M2: bool>(self, source: *const u8, target: *mut u8) {
        for quarter in 0..LANES / 4 {
            for half in 0..2 {
                for index in 0..8 {
                    // SAFETY: the caller's promise: 64 codes and 128 bytes.
                    unsafe {
                        let code = *source.add(quarter * 16 + half * 8 + index);
                        let bits = float8_to_bf16::<E5M2>(code).to_le_bytes();
                        let place = target.add(half * ROW_BYTES + quarter * 16 + index * 2);
                        place.cast::<[u8; 2]>().write(bits);
                    }
                }
            }
        }
    }

    unsafe fn interleave_bf16(self, source: *const u8, target: *mut u8) {
        for index in 0..LANES {
            for row in 0..2 {
                // SAFETY: the caller's promise.
                unsafe {
                    let value = source.cast::<[u8; 2]>().add(row * LANES + index).read();
                    target.cast::<[u8; 2]>().add(2 * index + row).write(value);
                }
            }
        }
    }

    unsafe fn interleave_float8<const E5M2: bool>(self, source: *const u8, target: *mut u8) {
        for index in 0..LANES {
            for row in 0..4 {
                // SAFETY: the caller's promise.
                unsafe {
                    let bits = float8_to_bf16::<E5M2>(*source.add(row * LANES + index)).to_le_bytes();
                    let pair = target.add(row / 2 * ROW_BYTES).cast::<[u8; 2]>();
                    pair.add(2 * index + row % 2).write(bits);
                }
            }
        }
    }

    unsafe fn multiply_one_widened<const PANELS: usize, const E5M2: bool>(
        self,
        operands: &TileOperands,
        wide: *mut u8,
    ) {
        for panel in 0..PANELS {
            for step in 0..operands.steps {
                let codes = operands.weights.wrapping_add(panel * operands.panel_stride + step * TILE_CODES);
                let one_step = TileOperands {
                    inputs: operands.inputs.wrapping_add(step * TILE_BYTES),
                    weights: wide,
                    steps: 1,
                    sums: operands.sums.wrapping_add(panel * operands.sum_stride),
                    resume: operands.resume || step > 0,
                    ..*operands
                };
                // SAFETY: the caller's promise.
                unsafe {
                    for group in 0..TILE_CODES / GROUP_CODES {
                        let target = wide.add(group * 2 * GROUP_CODES);
                        self.widen_group::<E5M2>(codes.add(group * GROUP_CODES), target);
                    }
                    multiply_tile(&one_step, 0, 0);
                }
            }
        }
    }

    unsafe fn multiply_two<const PANELS: usize>(self, operands: &TileOperands) {
        for panel in 0..PANELS {
            // SAFETY: the caller's promise.
            unsafe {
                multiply_tile(operands, 0, panel);
                multiply_tile(operands, 1, panel);
            }
        }
    }
}

/// One tile of sums, element by element: the formula of `TDPBF16PS`.
///
/// # Safety
/// The operands are valid for the tile `row_tile` of rows and for `panel`.
unsafe fn multiply_tile(operands: &TileOperands, row_tile: usize, panel: usize) {
    let inputs = operands.inputs.wrapping_add(row_tile * operands.input_stride);
    let weights = operands.weights.wrapping_add(panel * operands.panel_stride);
    let sums = operands.sums.wrapping_add(panel * operands.sum_stride + row_tile * TILE_FLOATS);
    // SAFETY: the caller's promise, for every use below.
    let pair = |tile: *const u8, step: usize, row: usize, lane: usize| unsafe {
        let bits: u32 =
            tile.add(step * TILE_BYTES + row * ROW_BYTES + lane * 4).cast::<u32>().read_unaligned();
        [flush(f32::from_bits(bits << 16)), flush(f32::from_bits(bits & 0xFFFF_0000))]
    };
    for row in 0..TILE_ROWS {
        for lane in 0..LANES {
            let place = sums.wrapping_add(row * LANES + lane);
            // SAFETY: the caller's promise.
            let mut sum = if operands.resume { flush(unsafe { *place }) } else { 0.0 };
            for step in 0..operands.steps {
                let mut chains = [0.0_f32; 2];
                for index in 0..TILE_COLUMNS / 2 {
                    let (input, weight) = (pair(inputs, step, row, index), pair(weights, step, index, lane));
                    for (chain, (input, weight)) in chains.iter_mut().zip(input.into_iter().zip(weight)) {
                        *chain = flush(input.mul_add(weight, *chain));
                    }
                }
                sum = flush(sum + flush(chains[0] + chains[1]));
            }
            // SAFETY: the caller's promise.
            unsafe { *place = sum };
        }
    }
}

/// One eight-bit code as the bits of a bfloat16.
pub(super) const fn float8_to_bf16<const E5M2: bool>(code: u8) -> u16 {
    let (mantissa_bits, bias) = if E5M2 { (2, 15) } else { (3, 7) };
    let sign = (code as u16 & 0x80) << 8;
    let exponent = (code as u16 & 0x7F) >> mantissa_bits;
    let mantissa = code as u16 & ((1 << mantissa_bits) - 1);
    if exponent != 0 {
        return sign | (exponent + 127 - bias) << 7 | mantissa << (7 - mantissa_bits);
    }
    if mantissa == 0 {
        return sign;
    }
    // A subnormal: its leading one becomes the implicit one.
    let shift = mantissa.leading_zeros() as u16 - (15 - mantissa_bits);
    let fraction = (mantissa << shift) & ((1 << mantissa_bits) - 1);
    sign | (1 + 127 - bias - shift) << 7 | fraction << (7 - mantissa_bits)
}
