//! The nearest code by search: slow, in f64, and written without a look at the bits of the value.

use octet_float8::{E4M3, E4M3Fnuz, E5M2, E5M2Fnuz, Float8, Specials};

/// All finite non-negative values of a format with their codes, ascending: the codes are in that order.
fn positive_values<F: Float8>() -> Vec<(u8, f64)> {
    (0..0x80u8)
        .map(|code| (code, f64::from(F::TABLE[usize::from(code)])))
        .filter(|(_, value)| value.is_finite())
        .collect()
}

/// The nearest of `values` to a finite magnitude; of two equally near, the one with the even code. One
/// step above the largest value stands for overflow.
fn nearest(values: &[(u8, f64)], magnitude: f64) -> Option<u8> {
    let [.., (_, before), (last_code, last)] = values else {
        unreachable!("a format has more than two values")
    };
    let one_above = (last_code + 1, last + (last - before));
    let above = values.partition_point(|(_, value)| *value < magnitude);
    let high = *values.get(above).unwrap_or(&one_above);
    let low = if above == 0 { high } else { values[above - 1] };
    let (down, up) = (magnitude - low.1, high.1 - magnitude);
    let code = if down < up || (down == up && low.0.is_multiple_of(2)) { low.0 } else { high.0 };
    (code <= *last_code).then_some(code)
}

fn expected<F: Float8>(values: &[(u8, f64)], value: f32, saturating: bool) -> u8 {
    let sign = if value.is_sign_negative() { 0x80 } else { 0 };
    let special = |ieee: u8| match F::SPECIALS {
        Specials::Ieee => sign | ieee,
        Specials::NanOnly => sign | 0x7F,
        Specials::Fnuz => 0x80,
    };
    if value.is_nan() {
        return special(0x7E);
    }
    let code = if value.is_infinite() { None } else { nearest(values, f64::from(value.abs())) };
    match code {
        Some(0) if F::SPECIALS == Specials::Fnuz => 0,
        Some(code) => sign | code,
        None if saturating => sign | values.last().unwrap().0,
        None => special(0x7C),
    }
}

fn check<F: Float8>(values: &[(u8, f64)], value: f32) {
    for value in [value, -value] {
        let (plain, saturating) = (F::from_f32(value).to_bits(), F::from_f32_saturating(value).to_bits());
        assert_eq!(plain, expected::<F>(values, value, false), "{} of {value:e}", F::NAME);
        assert_eq!(saturating, expected::<F>(values, value, true), "{} of {value:e}, saturating", F::NAME);
    }
}

fn conversions_agree<F: Float8>() {
    let values = positive_values::<F>();
    assert!(values.len() >= 124);
    // Each value, each tie between two values (exact in f32), and the f32 just beside each of these.
    let largest = values.last().unwrap().1;
    let ties = values.windows(2).map(|pair| f64::midpoint(pair[0].1, pair[1].1));
    let overflow = [largest * 1.03125, largest * 1.0625, largest * 1.125, largest * 2.0];
    for point in values.iter().map(|(_, value)| *value).chain(ties).chain(overflow) {
        let point = point as f32;
        for neighbour in [point.next_down(), point, point.next_up()] {
            check::<F>(&values, neighbour.abs());
        }
    }
    for value in [0.0, f32::from_bits(1), f32::MIN_POSITIVE, f32::MAX, f32::INFINITY, f32::NAN] {
        check::<F>(&values, value);
    }
    // Values over all exponents, from a multiplicative walk over the bit patterns.
    let mut bits = 0x1234_5678u32;
    for _ in 0..20_000 {
        bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        check::<F>(&values, f32::from_bits(bits & 0x7FFF_FFFF));
        // Most random exponents lie outside of the format: draw again within it.
        check::<F>(&values, f32::from_bits((bits & 0x07FF_FFFF) + 0x3680_0000));
    }
}

fn codes_round_trip<F: Float8>() {
    for code in 0..=255u8 {
        let value = F::from_bits(code);
        let back = F::from_f32(value.to_f32());
        assert_eq!(value.is_nan(), back.is_nan(), "{} 0x{code:02X}", F::NAME);
        assert!(value.is_nan() || back.to_bits() == code, "{} 0x{code:02X}", F::NAME);
    }
}

#[test]
fn rounding_agrees_with_a_search() {
    conversions_agree::<E4M3>();
    conversions_agree::<E4M3Fnuz>();
    conversions_agree::<E5M2>();
    conversions_agree::<E5M2Fnuz>();
}

#[test]
fn every_code_round_trips() {
    codes_round_trip::<E4M3>();
    codes_round_trip::<E4M3Fnuz>();
    codes_round_trip::<E5M2>();
    codes_round_trip::<E5M2Fnuz>();
}
