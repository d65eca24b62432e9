//! Every instruction set against the portable one, to the bit, and the portable one against scalar arithmetic.

use half::{bf16, f16};
use octet_float8::{E4M3, E5M2, Float8};

use super::{Kernel, LANES, PairDot, Portable, STORED_E4M3_FACTOR, Simd, math};
use crate::isa::Isa;

/// Values with every awkward neighbour: zeros, powers, negatives, and a spread of magnitudes.
fn values(seed: u32) -> [f32; LANES] {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
    std::array::from_fn(|lane| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let fraction = (state >> 8) as f32 / (1 << 24) as f32 - 0.5;
        fraction * [1.0, 8.0, 1e-3, 60.0][lane % 4]
    })
}

/// Every lane-wise operation and reduction over one pair of inputs.
struct Arithmetic {
    left: [f32; LANES],
    right: [f32; LANES],
}

impl Kernel for Arithmetic {
    type Output = Vec<u32>;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Vec<u32> {
        let mut results = Vec::new();
        // SAFETY: arrays of sixteen values.
        let (left, right) = unsafe { (simd.load(self.left.as_ptr()), simd.load(self.right.as_ptr())) };
        let vectors = [
            simd.add(left, right),
            simd.subtract(left, right),
            simd.multiply(left, right),
            simd.divide(left, right),
            simd.multiply_add(left, right, left),
            simd.min(left, right),
            simd.max(left, right),
            simd.round(left),
            simd.scale_by_power_of_two(simd.splat(1.5), simd.round(left)),
            simd.select_less(left, right, simd.splat(1.0), simd.splat(2.0)),
            math::exp(simd, left),
            math::silu(simd, left),
            math::gelu_tanh(simd, left),
            math::tanh(simd, left),
        ];
        for vector in vectors {
            let mut lanes = [0.0_f32; LANES];
            // SAFETY: an array of sixteen values.
            unsafe { simd.store(lanes.as_mut_ptr(), vector) };
            results.extend(lanes.map(f32::to_bits));
        }
        results.push(simd.reduce_add(left).to_bits());
        results.push(simd.reduce_max(left).to_bits());
        results
    }
}

#[test]
fn sets_agree_to_the_bit() {
    for seed in 0..200 {
        let (left, right) = (values(seed), values(seed + 1000));
        let expected = Isa::choose(Some("portable")).unwrap().run(Arithmetic { left, right });
        for isa in Isa::available() {
            assert_eq!(isa.run(Arithmetic { left, right }), expected, "{}", isa.name());
        }
    }
}

/// All the loads over the same 64 bytes.
struct Loads<'a>(&'a [u8; 64]);

impl Kernel for Loads<'_> {
    type Output = Vec<u32>;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Vec<u32> {
        let source = self.0.as_ptr();
        // SAFETY: 64 bytes are there, and none of these reads more.
        let vectors = unsafe {
            let bits = simd.load_bits(source);
            [
                simd.load_bf16(source),
                simd.load_f16(source),
                simd.load_e4m3(source),
                simd.load_e5m2(source),
                simd.load_bytes_as_f16::<0>(source, 0x00FF),
                simd.as_f32(simd.shift_left::<16>(bits)),
                simd.as_f32(simd.shift_left_16::<8>(bits)),
                simd.as_f32(simd.shift_right_signed_16::<4>(bits)),
                simd.as_f32(simd.and(bits, 0xFFFF_0000)),
                simd.load_first(source.cast::<f32>(), 5),
                simd.load_i8(source),
            ]
        };
        let mut results = Vec::new();
        for vector in vectors {
            let mut lanes = [0.0_f32; LANES];
            // SAFETY: an array of sixteen values.
            unsafe { simd.store(lanes.as_mut_ptr(), vector) };
            results.extend(lanes.map(f32::to_bits));
        }
        results
    }
}

#[test]
fn loads_agree_with_the_scalar_conversions() {
    for start in (0..=u8::MAX).step_by(16) {
        // Bytes 0x?F of the last group would be NaN or infinite in an eight-bit format.
        let bytes: [u8; 64] = std::array::from_fn(|index| match start.wrapping_add(index as u8) {
            byte if byte & 0x7C == 0x7C => byte & 0x83,
            byte => byte,
        });
        let bf16_at = |lane: usize| bf16::from_le_bytes([bytes[2 * lane], bytes[2 * lane + 1]]).to_f32();
        let f16_at = |lane: usize| f16::from_le_bytes([bytes[2 * lane], bytes[2 * lane + 1]]).to_f32();
        for isa in Isa::available() {
            let found = isa.run(Loads(&bytes));
            for lane in 0..LANES {
                let at = |vector: usize| f32::from_bits(found[vector * LANES + lane]);
                assert_eq!(at(0).to_bits(), bf16_at(lane).to_bits(), "{}", isa.name());
                assert_eq!(at(1).to_bits(), f16_at(lane).to_bits(), "{}", isa.name());
                let e4m3 = E4M3::from_bits(bytes[lane]).to_f32() * STORED_E4M3_FACTOR;
                assert_eq!(at(2).to_bits(), e4m3.to_bits(), "{}", isa.name());
                let e5m2 = E5M2::from_bits(bytes[lane]).to_f32();
                assert_eq!(at(3).to_bits(), e5m2.to_bits(), "{}", isa.name());
                assert!(lane < 5 || found[9 * LANES + lane] == 0, "{}", isa.name());
            }
            assert_eq!(found, Portable.run(Loads(&bytes)), "{}", isa.name());
        }
    }
}

/// One function of `math` over sixteen inputs.
struct Exp([f32; LANES]);

impl Kernel for Exp {
    type Output = [f32; LANES];

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> [f32; LANES] {
        let mut result = [0.0; LANES];
        // SAFETY: arrays of sixteen values.
        unsafe { simd.store(result.as_mut_ptr(), math::exp(simd, simd.load(self.0.as_ptr()))) };
        result
    }
}

struct Tanh([f32; LANES]);

impl Kernel for Tanh {
    type Output = [f32; LANES];

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> [f32; LANES] {
        let mut result = [0.0; LANES];
        // SAFETY: arrays of sixteen values.
        unsafe { simd.store(result.as_mut_ptr(), math::tanh(simd, simd.load(self.0.as_ptr()))) };
        result
    }
}

#[test]
fn tanh_is_within_five_units_in_the_last_place() {
    let isa = Isa::choose(None).unwrap();
    let mut worst = 0.0_f64;
    for step in 0..40_000 {
        let inputs = std::array::from_fn(|lane| ((step * 16 + lane) as f32 / 320_000.0 - 1.0).powi(3) * 12.0);
        for (input, found) in inputs.iter().zip(isa.run(Tanh(inputs))) {
            let expected = f64::from(*input).tanh();
            let unit = f64::from((expected.abs() as f32).next_up() - expected.abs() as f32);
            worst = worst.max((f64::from(found) - expected).abs() / unit);
        }
    }
    assert!(worst < 5.0, "{worst}");
    let edges = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, 1e-30, 100.0];
    let inputs = std::array::from_fn(|lane| *edges.get(lane).unwrap_or(&f32::NAN));
    let found = isa.run(Tanh(inputs));
    for (found, expected) in found.iter().zip([0.0, 0.0, 1.0, -1.0, 1e-30, 1.0_f32]) {
        assert!((found - expected).abs() <= 5e-7 * expected.abs(), "{found}");
    }
    assert!(found[6..].iter().all(|value| value.is_nan()));
}

#[test]
fn exp_is_within_two_units_in_the_last_place() {
    let isa = Isa::choose(None).unwrap();
    let mut worst = 0.0_f64;
    for step in 0..40_000 {
        let inputs = std::array::from_fn(|lane| (step * 16 + lane) as f32 * (174.0 / 640_000.0) - 85.5);
        for (input, found) in inputs.iter().zip(isa.run(Exp(inputs))) {
            let expected = f64::from(*input).exp();
            if expected < f64::from(f32::MAX) {
                let unit = f64::from((expected as f32).next_up() - expected as f32);
                worst = worst.max((f64::from(found) - expected).abs() / unit);
            }
        }
    }
    assert!(worst < 2.0, "{worst}");
}

#[test]
fn exp_at_the_edges() {
    let inputs = [0.0, -0.0, 88.72, 88.73, 1e30, f32::INFINITY, -85.0, -86.0, -1e30, f32::NEG_INFINITY];
    let mut lanes = [f32::NAN; LANES];
    lanes[..inputs.len()].copy_from_slice(&inputs);
    for isa in Isa::available() {
        let found = isa.run(Exp(lanes));
        assert_eq!(found[..2], [1.0, 1.0]);
        assert!(found[2].is_finite() && found[2] > 3.3e38, "{}", found[2]);
        assert_eq!(found[3..6], [f32::INFINITY; 3]);
        assert!(found[6] > 0.0);
        assert_eq!(found[7..10], [0.0; 3]);
        assert!(found[10..].iter().all(|value| value.is_nan()));
    }
}

#[test]
fn eight_bit_codes_widen_to_bfloat16_exactly() {
    for first in (0..=255_u32).step_by(4) {
        let codes = [first | (first + 1) << 8 | (first + 2) << 16 | (first + 3) << 24; LANES];
        let (even, odd) = Portable.widen_float8::<false>(codes);
        let expected = |code: u32| E4M3::from_bits(code as u8).to_f32();
        let lower = |bits: u32| f32::from_bits(bits << 16);
        let upper = |bits: u32| f32::from_bits(bits & 0xFFFF_0000);
        let found = [lower(even[0]), lower(odd[0]), upper(even[0]), upper(odd[0])];
        for (offset, found) in found.into_iter().enumerate() {
            let expected = expected(first + offset as u32);
            assert!(expected.is_nan() || found.to_bits() == expected.to_bits(), "{found} {expected}");
        }
        let (even, odd) = Portable.widen_float8::<true>(codes);
        let found = [lower(even[0]), lower(odd[0]), upper(even[0]), upper(odd[0])];
        for (offset, found) in found.into_iter().enumerate() {
            let expected = E5M2::from_bits((first + offset as u32) as u8).to_f32();
            assert!(!expected.is_finite() || found.to_bits() == expected.to_bits(), "{found} {expected}");
        }
    }
}

#[test]
fn pair_dot_rounds_twice_and_flushes() {
    let pair = |low: f32, high: f32| high.to_bits() & 0xFFFF_0000 | low.to_bits() >> 16;
    let dot = |sum: f32, left: u32, right: u32| {
        Portable.dot_bf16_pairs([sum; LANES], [left; LANES], [right; LANES])[0]
    };
    assert_eq!(dot(1.0, pair(2.0, 3.0), pair(5.0, 7.0)), 32.0);
    // The high product is added first: 2^24 + 1 rounds to 2^24, and again.
    let large = 16_777_216.0;
    assert_eq!(dot(large, pair(1.0, 1.0), pair(1.0, 1.0)), large);
    assert_eq!(dot(0.0, pair(1.0, large), pair(-1.0, 1.0)), large - 1.0);
    // Subnormal inputs and results are zero.
    let tiny = f32::from_bits(0x0040_0000);
    assert_eq!(dot(0.0, pair(tiny, 0.0), pair(1.0, 0.0)).to_bits(), 0);
    assert_eq!(dot(tiny, pair(0.0, 0.0), pair(0.0, 0.0)).to_bits(), 0);
}
