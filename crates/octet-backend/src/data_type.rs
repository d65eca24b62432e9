//! The element types that cross the seam.

use std::fmt;

use octet_float8::Float8Format;

/// Element type of a weight, of the KV cache or of a checkpoint's tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DataType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16: the upper half of a binary32.
    BF16,
    /// Eight bits, in one of the four formats; always accompanied by a scale.
    F8(Float8Format),
    /// Integers from -128 to 127; always accompanied by a scale. Of weights alone.
    I8,
}

impl DataType {
    /// Size of one element in bits.
    #[must_use]
    pub const fn bits(self) -> usize {
        match self {
            Self::F32 => 32,
            Self::F16 | Self::BF16 => 16,
            Self::F8(_) | Self::I8 => 8,
        }
    }

    /// Size of one element in bytes, for those of whole bytes.
    #[must_use]
    pub const fn bytes(self) -> usize {
        self.bits() / 8
    }

    /// Bytes of `columns` elements one after another.
    #[must_use]
    pub const fn row_bytes(self, columns: usize) -> usize {
        (columns * self.bits()).div_ceil(8)
    }

    /// Whether values are codes, which mean something together with a scale only.
    #[must_use]
    pub const fn is_quantized(self) -> bool {
        matches!(self, Self::F8(_) | Self::I8)
    }

    /// Whether this is one of the eight-bit formats.
    #[must_use]
    pub const fn is_float8(self) -> bool {
        matches!(self, Self::F8(_))
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::BF16 => "bfloat16",
            Self::F8(Float8Format::E4M3) => "fp8_e4m3",
            Self::F8(Float8Format::E4M3Fnuz) => "fp8_e4m3fnuz",
            Self::F8(Float8Format::E5M2) => "fp8_e5m2",
            Self::F8(Float8Format::E5M2Fnuz) => "fp8_e5m2fnuz",
            Self::I8 => "int8",
        })
    }
}
