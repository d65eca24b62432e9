//! The formats as values: layout, names and a run-time choice between the types.

use std::fmt;
use std::str::FromStr;

use crate::types::{E4M3, E4M3Fnuz, E5M2, E5M2Fnuz, Float8};
use crate::{Error, convert};

/// Which codes of a format are not finite numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Specials {
    /// As in IEEE 754: the top exponent holds infinity and NaN (OCP E5M2).
    Ieee,
    /// No infinity; only the code with all bits set, of either sign, is NaN (OCP E4M3, "fn").
    NanOnly,
    /// No infinity and no negative zero: the code of negative zero is the only NaN ("fnuz").
    Fnuz,
}

/// Which bits of a byte mean what. All rules of conversion follow from these four fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Layout {
    pub(crate) exponent_bits: u32,
    pub(crate) mantissa_bits: u32,
    pub(crate) bias: i32,
    pub(crate) specials: Specials,
}

impl Layout {
    /// The code of the largest finite value.
    pub(crate) const fn max_code(self) -> u8 {
        match self.specials {
            Specials::Ieee => (((1 << self.exponent_bits) - 1) << self.mantissa_bits) - 1,
            Specials::NanOnly => 0x7E,
            Specials::Fnuz => 0x7F,
        }
    }

    /// The code of NaN, without a sign.
    pub(crate) const fn nan_code(self) -> u8 {
        match self.specials {
            // The quiet bit is the highest one of the mantissa, and it alone is set.
            Specials::Ieee => self.max_code() + 1 + (1 << (self.mantissa_bits - 1)),
            Specials::NanOnly => 0x7F,
            Specials::Fnuz => 0x80,
        }
    }

    /// What a value above the largest finite one becomes when nothing saturates, without a sign.
    pub(crate) const fn overflow_code(self) -> u8 {
        match self.specials {
            Specials::Ieee => self.max_code() + 1,
            Specials::NanOnly | Specials::Fnuz => self.nan_code(),
        }
    }
}

/// One of the four formats, chosen at run time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Float8Format {
    /// OCP E4M3 ("e4m3fn"): weights and KV cache everywhere but on gfx94x.
    E4M3,
    /// E4M3 of gfx94x (MI300X, MI308X, MI325X): one more exponent bias, no negative zero.
    E4M3Fnuz,
    /// OCP E5M2: more range, less precision.
    E5M2,
    /// E5M2 of gfx94x.
    E5M2Fnuz,
}

impl Float8Format {
    /// All four, for tests and tables.
    pub const ALL: [Self; 4] = [Self::E4M3, Self::E4M3Fnuz, Self::E5M2, Self::E5M2Fnuz];

    /// The names that [`FromStr`] takes first, for messages.
    pub(crate) const NAMES: &'static str = "float8_e4m3fn, float8_e4m3fnuz, float8_e5m2 or float8_e5m2fnuz";

    /// The name in torch and `ml_dtypes`, for example `float8_e4m3fn`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::E4M3 => E4M3::NAME,
            Self::E4M3Fnuz => E4M3Fnuz::NAME,
            Self::E5M2 => E5M2::NAME,
            Self::E5M2Fnuz => E5M2Fnuz::NAME,
        }
    }

    pub(crate) const fn layout(self) -> Layout {
        let (exponent_bits, mantissa_bits, bias, specials) = match self {
            Self::E4M3 => (4, 3, 7, Specials::NanOnly),
            Self::E4M3Fnuz => (4, 3, 8, Specials::Fnuz),
            Self::E5M2 => (5, 2, 15, Specials::Ieee),
            Self::E5M2Fnuz => (5, 2, 16, Specials::Fnuz),
        };
        Layout { exponent_bits, mantissa_bits, bias, specials }
    }

    /// The largest finite value.
    #[must_use]
    pub const fn max(self) -> f32 {
        convert::decode(self.layout(), self.layout().max_code())
    }

    /// The values of all 256 codes.
    #[must_use]
    pub const fn table(self) -> &'static [f32; 256] {
        match self {
            Self::E4M3 => E4M3::TABLE,
            Self::E4M3Fnuz => E4M3Fnuz::TABLE,
            Self::E5M2 => E5M2::TABLE,
            Self::E5M2Fnuz => E5M2Fnuz::TABLE,
        }
    }

    /// Whether this is one of the FNUZ formats.
    #[must_use]
    pub const fn is_fnuz(self) -> bool {
        matches!(self, Self::E4M3Fnuz | Self::E5M2Fnuz)
    }

    /// The format of the same width of exponent on a device that stores FNUZ.
    #[must_use]
    pub const fn to_fnuz(self) -> Self {
        match self {
            Self::E4M3 | Self::E4M3Fnuz => Self::E4M3Fnuz,
            Self::E5M2 | Self::E5M2Fnuz => Self::E5M2Fnuz,
        }
    }

    /// The value of one code.
    #[must_use]
    pub const fn decode(self, code: u8) -> f32 {
        self.table()[code as usize]
    }

    /// The nearest code, saturating: see [`Float8::from_f32_saturating`].
    #[must_use]
    pub fn encode_saturating(self, value: f32) -> u8 {
        match self {
            Self::E4M3 => E4M3::from_f32_saturating(value).to_bits(),
            Self::E4M3Fnuz => E4M3Fnuz::from_f32_saturating(value).to_bits(),
            Self::E5M2 => E5M2::from_f32_saturating(value).to_bits(),
            Self::E5M2Fnuz => E5M2Fnuz::from_f32_saturating(value).to_bits(),
        }
    }

    /// The nearest code, not saturating: see [`Float8::from_f32`].
    #[must_use]
    pub fn encode(self, value: f32) -> u8 {
        match self {
            Self::E4M3 => E4M3::from_f32(value).to_bits(),
            Self::E4M3Fnuz => E4M3Fnuz::from_f32(value).to_bits(),
            Self::E5M2 => E5M2::from_f32(value).to_bits(),
            Self::E5M2Fnuz => E5M2Fnuz::from_f32(value).to_bits(),
        }
    }
}

impl fmt::Display for Float8Format {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// Takes the names of torch (`float8_e4m3fn`), of safetensors (`F8_E4M3`), of Quark (`fp8_e4m3`) and
/// the bare ones (`e4m3`).
impl FromStr for Float8Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let lower = name.to_ascii_lowercase();
        let bare = ["float8_", "fp8_", "f8_"].iter().find_map(|prefix| lower.strip_prefix(prefix));
        match bare.unwrap_or(&lower) {
            "e4m3" | "e4m3fn" => Ok(Self::E4M3),
            "e4m3fnuz" => Ok(Self::E4M3Fnuz),
            "e5m2" => Ok(Self::E5M2),
            "e5m2fnuz" => Ok(Self::E5M2Fnuz),
            _ => Err(Error::UnknownFormat { name: name.to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for format in Float8Format::ALL {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        assert_eq!("F8_E4M3".parse(), Ok(Float8Format::E4M3));
        assert_eq!("fp8_e5m2".parse(), Ok(Float8Format::E5M2));
        let error = "fp8".parse::<Float8Format>().unwrap_err();
        assert!(error.to_string().contains("float8_e4m3fn"), "{error}");
    }

    #[test]
    fn largest_values_are_those_of_the_standards() {
        let largest = Float8Format::ALL.map(Float8Format::max);
        assert_eq!(largest, [448.0, 240.0, 57344.0, 57344.0]);
    }

    #[test]
    fn run_time_and_compile_time_choice_agree() {
        for value in [0.0, -0.3, 17.0, 500.0, f32::NAN] {
            assert_eq!(Float8Format::E4M3.encode(value), E4M3::from_f32(value).to_bits());
            assert_eq!(
                Float8Format::E5M2Fnuz.encode_saturating(value),
                E5M2Fnuz::from_f32_saturating(value).to_bits()
            );
        }
        assert_eq!(Float8Format::E4M3.decode(0x38), 1.0);
        assert_eq!(Float8Format::E4M3Fnuz.decode(0x38), 0.5);
    }
}
