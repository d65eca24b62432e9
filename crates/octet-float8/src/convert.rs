//! One code from one f32 and back, in bit arithmetic without a branch on the value.
//!
//! Every function takes the [`Layout`] as a constant, so that each format compiles to its own few
//! instructions, and a loop over a slice to vector code.

use crate::format::{Layout, Specials};

const F32_MANTISSA_BITS: u32 = 23;
const F32_BIAS: i32 = 127;
const F32_MAGNITUDE: u32 = 0x7FFF_FFFF;
const F32_INFINITY: i32 = 0x7F80_0000;

/// `2^exponent` for an exponent of a normal f32.
const fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits(((exponent + F32_BIAS) as u32) << F32_MANTISSA_BITS)
}

/// The exact value of a code. NaN keeps no sign and no payload.
pub(crate) const fn decode(layout: Layout, code: u8) -> f32 {
    let magnitude = code & 0x7F;
    let negative = code & 0x80 != 0;
    match layout.specials {
        Specials::Fnuz if code == layout.nan_code() => return f32::NAN,
        Specials::NanOnly if magnitude == layout.nan_code() => return f32::NAN,
        Specials::Ieee if magnitude > layout.overflow_code() => return f32::NAN,
        Specials::Ieee if magnitude == layout.overflow_code() => {
            return if negative { f32::NEG_INFINITY } else { f32::INFINITY };
        }
        Specials::Fnuz | Specials::NanOnly | Specials::Ieee => {}
    }
    let exponent = (magnitude >> layout.mantissa_bits) as i32;
    let fraction = (magnitude & ((1 << layout.mantissa_bits) - 1)) as i32;
    let (significand, exponent) =
        if exponent == 0 { (fraction, 1) } else { (fraction + (1 << layout.mantissa_bits), exponent) };
    let value = significand as f32 * power_of_two(exponent - layout.bias - layout.mantissa_bits as i32);
    if negative { -value } else { value }
}

/// The values of all 256 codes.
pub(crate) const fn decode_all(layout: Layout) -> [f32; 256] {
    let mut table = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        table[code] = decode(layout, code as u8);
        code += 1;
    }
    table
}

/// Rounds a magnitude (the bits of an f32 without its sign) to the nearest code, ties to even.
///
/// The result may lie above the largest finite code; for NaN it has no meaning. Signed integers,
/// because baseline x86-64 compares only those in vectors.
#[inline(always)]
const fn round_magnitude(layout: Layout, magnitude: i32) -> i32 {
    let dropped = F32_MANTISSA_BITS - layout.mantissa_bits;
    // Normal numbers: adding half a unit in the last place, less one when the kept part is even,
    // carries into the kept bits exactly where rounding goes up.
    let is_odd = (magnitude >> dropped) & 1;
    let rounded = magnitude.wrapping_add(is_odd + (1 << (dropped - 1)) - 1) >> dropped;
    let normal = rounded - ((F32_BIAS - layout.bias) << layout.mantissa_bits);
    // Subnormal numbers are multiples of one unit. The sum with a power of two whose last place is
    // that unit is rounded by the adder, and the low bits of the sum are the code.
    let smallest_exponent = 1 - layout.bias;
    let unit_exponent = smallest_exponent - layout.mantissa_bits as i32;
    let magic = power_of_two(unit_exponent + F32_MANTISSA_BITS as i32);
    let sum = f32::from_bits(magnitude as u32) + magic;
    let subnormal = (sum.to_bits() as i32).wrapping_sub(magic.to_bits() as i32);
    let smallest_normal = power_of_two(smallest_exponent).to_bits() as i32;
    if magnitude < smallest_normal { subnormal } else { normal }
}

/// Puts sign and NaN on a rounded magnitude.
#[inline(always)]
const fn finish(layout: Layout, code: i32, value: f32) -> u8 {
    let bits = value.to_bits();
    let is_nan = (bits & F32_MAGNITUDE) as i32 > F32_INFINITY;
    let code = if is_nan { layout.nan_code() as i32 } else { code };
    let sign = ((bits >> 24) & 0x80) as i32;
    match layout.specials {
        Specials::Ieee | Specials::NanOnly => (code | sign) as u8,
        // Negative zero would be NaN, so zero takes no sign; NaN has its only sign already.
        Specials::Fnuz => (code | if code == 0 { 0 } else { sign }) as u8,
    }
}

/// The nearest code; what rounds above the largest finite value overflows to infinity or NaN.
#[inline(always)]
pub(crate) const fn encode(layout: Layout, value: f32) -> u8 {
    let magnitude = (value.to_bits() & F32_MAGNITUDE) as i32;
    let code = round_magnitude(layout, magnitude);
    let code = if code > layout.max_code() as i32 { layout.overflow_code() as i32 } else { code };
    finish(layout, code, value)
}

/// The nearest code of `value` clamped to `±limit`; `limit` is a positive finite value of the format.
#[inline(always)]
pub(crate) const fn encode_clamped(layout: Layout, value: f32, limit: f32) -> u8 {
    let magnitude = (value.to_bits() & F32_MAGNITUDE) as i32;
    let limit = limit.to_bits() as i32;
    let clamped = if magnitude > limit { limit } else { magnitude };
    finish(layout, round_magnitude(layout, clamped), value)
}
