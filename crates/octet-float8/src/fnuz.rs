//! Weights stored in an OCP format, for devices that multiply FNUZ (gfx94x).
//!
//! A FNUZ exponent has one more bias, so the same byte means half as much: bytes stay, scales double.
//! Only negative zero must go, because its byte is FNUZ's NaN.

use crate::{E4M3, E4M3Fnuz, E5M2, E5M2Fnuz, Error, Float8, slice};

/// An OCP format and its FNUZ twin.
pub trait OcpFloat8: Float8 {
    /// The format with the same fields and one more bias.
    type Fnuz: Float8;
}

impl OcpFloat8 for E4M3 {
    type Fnuz = E4M3Fnuz;
}

impl OcpFloat8 for E5M2 {
    type Fnuz = E5M2Fnuz;
}

/// Turns codes of `F` into codes of `F::Fnuz` that mean half as much. Double the scales with [`scale`].
///
/// # Errors
/// [`Error::CodeNotFinite`], with all codes unchanged, when one is NaN or an infinity: its byte is an
/// ordinary number in FNUZ, and the damage would be hidden.
pub fn convert_codes<F: OcpFloat8>(codes: &mut [u8]) -> Result<(), Error> {
    slice::check_finite::<F>(codes)?;
    for code in codes {
        *code = if *code == 0x80 { 0 } else { *code };
    }
    Ok(())
}

/// The dequantization scale for converted codes. For scales from a checkpoint only: weights, static
/// activations, and K, V, Q and probability scales; a default of 1.0 is not doubled.
#[must_use]
pub const fn scale(ocp_scale: f32) -> f32 {
    2.0 * ocp_scale
}

/// The same for a scale stored as a bare exponent byte (UE8M0); the largest one, 254, stays.
#[must_use]
pub const fn exponent_scale(ocp_exponent: u8) -> u8 {
    if ocp_exponent >= 254 { 254 } else { ocp_exponent + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value_is_kept<F: OcpFloat8>() {
        let finite: Vec<u8> = (0..=255).filter(|&code| F::from_bits(code).is_finite()).collect();
        let mut converted = finite.clone();
        convert_codes::<F>(&mut converted).unwrap();
        assert!(finite.len() > 240);
        for (&before, &after) in finite.iter().zip(&converted) {
            let (before, after) = (F::from_bits(before).to_f32(), F::Fnuz::from_bits(after).to_f32());
            assert_eq!(before, after * scale(1.0));
        }
    }

    #[test]
    fn codes_and_scales_keep_the_value() {
        value_is_kept::<E4M3>();
        value_is_kept::<E5M2>();
        assert_eq!(exponent_scale(127), 128);
        assert_eq!(exponent_scale(254), 254);
    }

    #[test]
    fn damage_is_refused_and_nothing_is_changed() {
        let mut codes = [0x80, 0x7F];
        assert!(matches!(convert_codes::<E4M3>(&mut codes), Err(Error::CodeNotFinite { index: 1, .. })));
        assert_eq!(codes, [0x80, 0x7F]);
    }
}
