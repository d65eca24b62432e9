//! What a storage type keeps of a number.

use half::{bf16, f16};
use octet_backend::DataType;

/// The value that an element of `data_type` holds after `value` was stored in it: rounded to nearest, ties to even.
/// FP8 saturates to its largest finite value, and integers to their ends; `f16` and `bf16` overflow to infinity, as the hardware's conversions do.
#[must_use]
pub fn round_to(data_type: DataType, value: f32) -> f32 {
    match data_type {
        DataType::F32 => value,
        DataType::F16 => f16::from_f32(value).to_f32(),
        DataType::BF16 => bf16::from_f32(value).to_f32(),
        DataType::F8(format) => format.decode(format.encode_saturating(value)),
        DataType::I8 => value.round_ties_even().clamp(-128.0, 127.0),
    }
}

#[cfg(test)]
mod tests {
    use octet_float8::Float8Format;

    use super::*;

    #[test]
    fn ties_go_to_even() {
        // bf16 has 7 bits after the point: 1 + 2^-8 lies between 1 and 1 + 2^-7.
        assert_eq!(round_to(DataType::BF16, 1.0 + 1.0 / 256.0), 1.0);
        assert_eq!(round_to(DataType::BF16, 1.0 + 3.0 / 256.0), 1.0 + 4.0 / 256.0);
        // f16 has 10.
        assert_eq!(round_to(DataType::F16, 1.0 + 1.0 / 2048.0), 1.0);
        assert_eq!(round_to(DataType::F16, 1.0 + 3.0 / 2048.0), 1.0 + 4.0 / 2048.0);
        // E4M3 has 3.
        let e4m3 = DataType::F8(Float8Format::E4M3);
        assert_eq!(round_to(e4m3, 1.0625), 1.0);
        assert_eq!(round_to(e4m3, 1.1875), 1.25);
        assert_eq!(round_to(DataType::F32, 0.1), 0.1);
    }

    #[test]
    fn only_float8_saturates() {
        assert_eq!(round_to(DataType::F8(Float8Format::E4M3), 1e6), 448.0);
        assert_eq!(round_to(DataType::F8(Float8Format::E4M3Fnuz), -1e6), -240.0);
        assert_eq!(round_to(DataType::F8(Float8Format::E5M2), -1e6), -57344.0);
        assert_eq!(round_to(DataType::F16, 1e6), f32::INFINITY);
    }
}
