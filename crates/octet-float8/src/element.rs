//! The types from which tensors are quantized.

use half::{bf16, f16};

/// An element of a tensor that is to be quantized: f32, [`half::bf16`] or [`half::f16`].
///
/// The conversion is written without a branch and without run-time CPU detection, so that loops over
/// slices become vector code; it is exact for every finite value, and NaN stays NaN.
pub trait Element: Copy + Send + Sync + 'static + sealed::Sealed {
    /// The same value in 32 bits.
    #[must_use]
    fn widen(self) -> f32;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::bf16 {}
    impl Sealed for half::f16 {}
}

impl Element for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

impl Element for f16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        const SMALLEST_NORMAL: i32 = 0x0400;
        const INFINITY: i32 = 0x7C00;
        /// The difference of the two biases, 127 - 15, at the place of f32's exponent.
        const REBIAS: i32 = 112 << 23;
        let bits = i32::from(self.to_bits());
        let magnitude = bits & 0x7FFF;
        let shifted = magnitude << 13;
        // A second rebias carries the exponent of infinity and NaN up to f32's.
        let normal = shifted + REBIAS + if magnitude >= INFINITY { REBIAS } else { 0 };
        // A subnormal is its fraction in units of 2^-24: put it below a hidden one, then take that away.
        let one_above = f32::from_bits((shifted + REBIAS + (1 << 23)) as u32);
        let subnormal = (one_above - f32::from_bits((REBIAS + (1 << 23)) as u32)).to_bits() as i32;
        let widened = if magnitude < SMALLEST_NORMAL { subnormal } else { normal };
        f32::from_bits(widened as u32 | ((bits & 0x8000) as u32) << 16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widening_is_exact_for_all_16_bit_values() {
        for bits in 0..=u16::MAX {
            let (half, brain) = (f16::from_bits(bits), bf16::from_bits(bits));
            for (ours, theirs) in [(half.widen(), half.to_f32()), (brain.widen(), brain.to_f32())] {
                assert_eq!(ours.is_nan(), theirs.is_nan(), "{bits:04X}");
                assert!(theirs.is_nan() || ours.to_bits() == theirs.to_bits(), "{bits:04X}");
            }
        }
    }
}
