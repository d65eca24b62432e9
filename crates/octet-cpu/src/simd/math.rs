//! Elementary functions over vectors.

use super::{Simd, power_of_two};

/// `e^x`. Within two units in the last place for results from 2^-124 to the largest finite number; smaller results are
/// zero, larger ones infinite, NaN stays NaN.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`, where `n ln 2` is subtracted in two parts; then a polynomial in `r` with the
/// coefficients of Moshier's Cephes library (`expf`).
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    const LOWEST: f32 = -85.9;
    const HIGHEST: f32 = 88.722_84;
    // The order of operands keeps NaN: `min` and `max` return the right one where either is NaN.
    let bounded = simd.max(simd.splat(LOWEST), simd.min(simd.splat(HIGHEST), x));
    let n = simd.round(simd.multiply(bounded, simd.splat(std::f32::consts::LOG2_E)));
    let r = simd.multiply_add(n, simd.splat(-0.693_359_4), bounded);
    let r = simd.multiply_add(n, simd.splat(2.121_944_4e-4), r);
    let mut polynomial = simd.splat(1.987_569_1e-4);
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        polynomial = simd.multiply_add(polynomial, r, simd.splat(coefficient));
    }
    let tail = simd.multiply_add(simd.multiply(r, r), polynomial, r);
    let mantissa = simd.add(tail, simd.splat(1.0));
    // 2^128 is not a number but 2^127 * 2 may be a result.
    let half = simd.scale_by_power_of_two(mantissa, simd.subtract(n, simd.splat(1.0)));
    let result = simd.multiply(half, simd.splat(power_of_two(1)));
    let result = simd.select_less(x, simd.splat(LOWEST), simd.splat(0.0), result);
    simd.select_less(simd.splat(HIGHEST), x, simd.splat(f32::INFINITY), result)
}

/// `tanh(x)`, within five units in the last place: the quotient of two polynomials of Eigen (`ptanh_float`), beyond whose
/// range the result stays what it is at its end. NaN stays NaN.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    const RANGE: f32 = 7.905_311;
    let x = simd.max(simd.splat(-RANGE), simd.min(simd.splat(RANGE), x));
    let square = simd.multiply(x, x);
    let polynomial = |first: f32, rest: &[f32]| {
        rest.iter().fold(simd.splat(first), |sum, &coefficient| {
            simd.multiply_add(sum, square, simd.splat(coefficient))
        })
    };
    let odd = [2.000_188e-13, -8.604_672e-11, 5.122_297e-8, 1.485_722_4e-5, 6.372_619e-4, 4.893_524_6e-3];
    let even = [1.185_347_1e-4, 2.268_434_6e-3, 4.893_525e-3];
    let numerator = simd.multiply(x, polynomial(-2.760_768_5e-16, &odd));
    simd.divide(numerator, polynomial(1.198_258_4e-6, &even))
}

/// `bound * tanh(x / bound)`.
#[inline(always)]
pub(crate) fn cap<S: Simd>(simd: S, x: S::F32, bound: f32) -> S::F32 {
    simd.multiply(simd.splat(bound), tanh(simd, simd.multiply(x, simd.splat(1.0 / bound))))
}

/// `x * sigmoid(x)`.
#[inline(always)]
pub(crate) fn silu<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    let minus_x = simd.subtract(simd.splat(0.0), x);
    simd.divide(x, simd.add(simd.splat(1.0), exp(simd, minus_x)))
}

/// GELU by its tanh approximation: `x / 2 * (1 + tanh(sqrt(2 / π) (x + 0.044715 x³)))`, written as
/// `x * sigmoid(2 sqrt(2 / π) (x + 0.044715 x³))`, which is the same number.
#[inline(always)]
pub(crate) fn gelu_tanh<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    const MINUS_TWICE_ROOT: f32 = -1.595_769_2;
    let square = simd.multiply(x, x);
    let inner = simd.multiply_add(simd.multiply(square, x), simd.splat(0.044_715), x);
    let denominator =
        simd.add(simd.splat(1.0), exp(simd, simd.multiply(inner, simd.splat(MINUS_TWICE_ROOT))));
    simd.divide(x, denominator)
}
