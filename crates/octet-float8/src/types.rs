//! The formats as types.

use std::fmt;

use crate::convert;
use crate::format::{Float8Format, Specials};

/// An eight-bit floating-point number.
///
/// Implemented by the four types of this crate and by no other.
pub trait Float8:
    Copy + PartialEq + PartialOrd + fmt::Debug + fmt::Display + Send + Sync + 'static + sealed::Sealed
{
    /// The same format as a value.
    const FORMAT: Float8Format;

    /// The name in torch and `ml_dtypes`.
    const NAME: &'static str;

    /// Width of the exponent field in bits.
    const EXPONENT_BITS: u32 = Self::FORMAT.layout().exponent_bits;

    /// Width of the mantissa field in bits, without the hidden one.
    const MANTISSA_BITS: u32 = Self::FORMAT.layout().mantissa_bits;

    /// What is subtracted from the exponent field.
    const BIAS: i32 = Self::FORMAT.layout().bias;

    /// Which codes are not finite numbers.
    const SPECIALS: Specials = Self::FORMAT.layout().specials;

    /// The largest finite value.
    const MAX: f32 = convert::decode(Self::FORMAT.layout(), Self::FORMAT.layout().max_code());

    /// The smallest positive value, a subnormal one.
    const MIN_POSITIVE: f32 = convert::decode(Self::FORMAT.layout(), 1);

    /// The magnitude to which quantization scales and clamps weights and activations.
    ///
    /// The largest finite value, but 224 in [`E4M3Fnuz`], as vLLM has it: there 240 loses accuracy.
    const QUANTIZATION_MAX: f32;

    /// The values of all 256 codes.
    const TABLE: &'static [f32; 256];

    /// The number that a byte of this format means.
    #[must_use]
    fn from_bits(bits: u8) -> Self;

    /// The byte.
    #[must_use]
    fn to_bits(self) -> u8;

    /// The exact value; NaN keeps neither sign nor payload.
    #[inline]
    #[must_use]
    fn to_f32(self) -> f32 {
        Self::TABLE[usize::from(self.to_bits())]
    }

    /// The nearest number, ties to even, as `ml_dtypes` rounds.
    ///
    /// What rounds above [`Float8::MAX`] becomes infinity in [`E5M2`] and NaN in the others.
    #[inline]
    #[must_use]
    fn from_f32(value: f32) -> Self {
        Self::from_bits(convert::encode(const { Self::FORMAT.layout() }, value))
    }

    /// The nearest number, ties to even; infinities and what is too large become `±MAX`, NaN stays NaN.
    #[inline]
    #[must_use]
    fn from_f32_saturating(value: f32) -> Self {
        Self::from_bits(convert::encode_clamped(const { Self::FORMAT.layout() }, value, Self::MAX))
    }

    /// The nearest number to `value` clamped to [`Float8::QUANTIZATION_MAX`]; NaN stays NaN.
    #[inline]
    #[must_use]
    fn quantize(value: f32) -> Self {
        Self::from_bits(convert::encode_clamped(
            const { Self::FORMAT.layout() },
            value,
            Self::QUANTIZATION_MAX,
        ))
    }

    /// Whether this is NaN.
    #[inline]
    #[must_use]
    fn is_nan(self) -> bool {
        self.to_f32().is_nan()
    }

    /// Whether this is neither NaN nor an infinity.
    #[inline]
    #[must_use]
    fn is_finite(self) -> bool {
        self.to_f32().is_finite()
    }
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! float8_type {
    ($(#[$doc:meta])* $type:ident, $name:literal, quantization_max: $quantization_max:expr) => {
        $(#[$doc])*
        ///
        /// `==` compares numbers, as with f32: NaN equals nothing, and both zeros are equal.
        #[derive(Clone, Copy, Default)]
        #[repr(transparent)]
        pub struct $type(u8);

        impl sealed::Sealed for $type {}

        impl Float8 for $type {
            const FORMAT: Float8Format = Float8Format::$type;
            const NAME: &'static str = $name;
            const QUANTIZATION_MAX: f32 = $quantization_max;
            const TABLE: &'static [f32; 256] = &convert::decode_all(Float8Format::$type.layout());

            #[inline]
            fn from_bits(bits: u8) -> Self {
                Self(bits)
            }

            #[inline]
            fn to_bits(self) -> u8 {
                self.0
            }
        }

        impl PartialEq for $type {
            fn eq(&self, other: &Self) -> bool {
                self.to_f32() == other.to_f32()
            }
        }

        impl PartialOrd for $type {
            fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
                self.to_f32().partial_cmp(&other.to_f32())
            }
        }

        impl From<$type> for f32 {
            fn from(value: $type) -> Self {
                value.to_f32()
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, concat!(stringify!($type), "({:?} = 0x{:02X})"), self.to_f32(), self.0)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.to_f32(), formatter)
            }
        }
    };
}

float8_type! {
    /// OCP E4M3 ("fn"): 1 sign, 4 exponent and 3 mantissa bits, bias 7, largest 448, no infinity.
    E4M3, "float8_e4m3fn", quantization_max: Self::MAX
}

float8_type! {
    /// E4M3 of gfx94x: bias 8, largest 240, no infinity, no negative zero; byte 0x80 is the only NaN.
    E4M3Fnuz, "float8_e4m3fnuz", quantization_max: 224.0
}

float8_type! {
    /// OCP E5M2: 1 sign, 5 exponent and 2 mantissa bits, bias 15, largest 57344, infinities as in IEEE 754.
    E5M2, "float8_e5m2", quantization_max: Self::MAX
}

float8_type! {
    /// E5M2 of gfx94x: bias 16, largest 57344, no infinity, no negative zero; byte 0x80 is the only NaN.
    E5M2Fnuz, "float8_e5m2fnuz", quantization_max: Self::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_are_those_of_the_standards() {
        assert_eq!((E4M3::EXPONENT_BITS, E4M3::MANTISSA_BITS, E4M3::BIAS, E4M3::MAX), (4, 3, 7, 448.0));
        assert_eq!((E4M3Fnuz::BIAS, E4M3Fnuz::MAX, E4M3Fnuz::QUANTIZATION_MAX), (8, 240.0, 224.0));
        assert_eq!((E5M2::EXPONENT_BITS, E5M2::MANTISSA_BITS, E5M2::BIAS, E5M2::MAX), (5, 2, 15, 57344.0));
        assert_eq!((E5M2Fnuz::BIAS, E5M2Fnuz::MAX), (16, 57344.0));
        assert_eq!(E4M3::MIN_POSITIVE, 2f32.powi(-9));
        assert_eq!(E4M3Fnuz::MIN_POSITIVE, 2f32.powi(-10));
        assert_eq!(E5M2::MIN_POSITIVE, 2f32.powi(-16));
        assert_eq!(E5M2Fnuz::MIN_POSITIVE, 2f32.powi(-17));
    }

    #[test]
    fn numbers_compare_as_numbers() {
        assert_eq!(E4M3::from_bits(0x80), E4M3::from_bits(0x00));
        assert_ne!(E4M3::from_bits(0x7F), E4M3::from_bits(0x7F));
        assert!(E5M2::from_f32(-2.0) < E5M2::from_f32(1.0));
        assert!(E4M3Fnuz::from_bits(0x80).is_nan());
        assert!(!E5M2::from_bits(0x7C).is_finite() && !E5M2::from_bits(0x7C).is_nan());
        assert_eq!(format!("{} {:?}", E4M3::from_f32(1.5), E4M3::from_f32(1.5)), "1.5 E4M3(1.5 = 0x3C)");
    }

    #[test]
    fn saturation_clamps_what_is_too_large_and_keeps_nan() {
        assert_eq!(E4M3::from_f32_saturating(1e9).to_bits(), 0x7E);
        assert_eq!(E4M3::from_f32_saturating(f32::NEG_INFINITY).to_bits(), 0xFE);
        assert_eq!(E4M3::from_f32_saturating(-f32::NAN).to_bits(), 0xFF);
        assert_eq!(E5M2::from_f32_saturating(f32::INFINITY).to_bits(), 0x7B);
        assert_eq!(E4M3Fnuz::from_f32_saturating(-1e9).to_bits(), 0xFF);
        assert_eq!(E4M3Fnuz::quantize(-1e9).to_f32(), -224.0);
        assert!(E5M2Fnuz::from_f32_saturating(f32::NAN).is_nan());
    }
}
