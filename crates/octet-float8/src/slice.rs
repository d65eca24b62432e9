//! Whole slices from and to FP8 bytes.
//!
//! Bytes of storage are plain `u8`; the type parameter says in which format they are written or read.

use half::{bf16, f16};

use crate::{Element, Error, Float8};

/// Fails unless a slice has the length that its partner demands.
pub(crate) fn check_length(what: &'static str, expected: usize, actual: usize) -> Result<(), Error> {
    if expected == actual { Ok(()) } else { Err(Error::Length { what, expected, actual }) }
}

/// Writes the nearest code of each value, saturating: see [`Float8::from_f32_saturating`].
///
/// # Errors
/// [`Error::Length`] when the slices differ in length.
pub fn encode_saturating<F: Float8, E: Element>(values: &[E], codes: &mut [u8]) -> Result<(), Error> {
    check_length("codes", values.len(), codes.len())?;
    for (code, value) in codes.iter_mut().zip(values) {
        *code = F::from_f32_saturating(value.widen()).to_bits();
    }
    Ok(())
}

/// Writes the nearest code of each value, not saturating: see [`Float8::from_f32`].
///
/// # Errors
/// [`Error::Length`] when the slices differ in length.
pub fn encode<F: Float8, E: Element>(values: &[E], codes: &mut [u8]) -> Result<(), Error> {
    check_length("codes", values.len(), codes.len())?;
    for (code, value) in codes.iter_mut().zip(values) {
        *code = F::from_f32(value.widen()).to_bits();
    }
    Ok(())
}

/// Writes the value of each code, without a scale.
///
/// # Errors
/// [`Error::Length`] when the slices differ in length.
pub fn decode<F: Float8>(codes: &[u8], values: &mut [f32]) -> Result<(), Error> {
    check_length("values", codes.len(), values.len())?;
    for (value, &code) in values.iter_mut().zip(codes) {
        *value = F::TABLE[usize::from(code)];
    }
    Ok(())
}

/// Writes the value of each code, without a scale. Exact: bf16 holds every value of all four formats.
///
/// # Errors
/// [`Error::Length`] when the slices differ in length.
pub fn decode_to_bf16<F: Float8>(codes: &[u8], values: &mut [bf16]) -> Result<(), Error> {
    check_length("values", codes.len(), values.len())?;
    for (value, &code) in values.iter_mut().zip(codes) {
        *value = bf16::from_bits((F::TABLE[usize::from(code)].to_bits() >> 16) as u16);
    }
    Ok(())
}

/// Writes the value of each code, without a scale. Exact: f16 holds every value of all four formats.
///
/// # Errors
/// [`Error::Length`] when the slices differ in length.
pub fn decode_to_f16<F: Float8>(codes: &[u8], values: &mut [f16]) -> Result<(), Error> {
    check_length("values", codes.len(), values.len())?;
    let table: [f16; 256] = F::TABLE.map(f16::from_f32);
    for (value, &code) in values.iter_mut().zip(codes) {
        *value = table[usize::from(code)];
    }
    Ok(())
}

/// Fails on the first code that is NaN or an infinity: such weights are damaged.
///
/// # Errors
/// [`Error::CodeNotFinite`] with the position of the code.
pub fn check_finite<F: Float8>(codes: &[u8]) -> Result<(), Error> {
    let lookup: [bool; 256] = std::array::from_fn(|code| F::TABLE[code].is_finite());
    match codes.iter().position(|&code| !lookup[usize::from(code)]) {
        None => Ok(()),
        Some(index) => {
            let code = codes[index];
            Err(Error::CodeNotFinite { index, code, value: F::from_bits(code).to_f32(), format: F::FORMAT })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{E4M3, E4M3Fnuz, E5M2, E5M2Fnuz};

    fn sixteen_bit_values_hold_all_codes<F: Float8>() {
        let codes: Vec<u8> = (0..=255).collect();
        let (mut brain, mut half) = (vec![bf16::ZERO; 256], vec![f16::ZERO; 256]);
        decode_to_bf16::<F>(&codes, &mut brain).unwrap();
        decode_to_f16::<F>(&codes, &mut half).unwrap();
        for code in 0..256 {
            let exact = F::TABLE[code];
            for widened in [brain[code].to_f32(), half[code].to_f32()] {
                assert!(
                    widened.to_bits() == exact.to_bits() || (widened.is_nan() && exact.is_nan()),
                    "{code:02X}"
                );
            }
        }
    }

    #[test]
    fn sixteen_bit_values_hold_all_codes_of_all_formats() {
        sixteen_bit_values_hold_all_codes::<E4M3>();
        sixteen_bit_values_hold_all_codes::<E4M3Fnuz>();
        sixteen_bit_values_hold_all_codes::<E5M2>();
        sixteen_bit_values_hold_all_codes::<E5M2Fnuz>();
    }

    #[test]
    fn damaged_codes_are_found() {
        assert_eq!(check_finite::<E4M3>(&[0x00, 0x7E, 0x80]), Ok(()));
        let error = check_finite::<E4M3>(&[0x00, 0xFF]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "code 1 is 0xFF, which means NaN in float8_e4m3fn: the weights are damaged"
        );
        assert!(matches!(check_finite::<E5M2>(&[0x7C]), Err(Error::CodeNotFinite { index: 0, .. })));
        assert!(check_finite::<E4M3Fnuz>(&[0x80]).is_err());
    }

    #[test]
    fn lengths_must_agree() {
        let error = encode::<E4M3, f32>(&[1.0, 2.0], &mut [0]).unwrap_err();
        assert_eq!(error, Error::Length { what: "codes", expected: 2, actual: 1 });
    }
}
