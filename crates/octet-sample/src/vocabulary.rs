//! Passes over a whole row of logits, written so that the compiler turns them into vector code.
//!
//! Reductions keep [`LANES`] running values, which fixes the order of the sum: a result does not depend on the machine.

use crate::SampleError;

/// Independent running values of a reduction.
pub(crate) const LANES: usize = 16;

/// Entries that are summed up together, and looked at again together.
pub(crate) const CHUNK: usize = 1024;

/// The largest of one chunk (minus infinity when it is empty), and whether NaN is in it.
fn chunk_maximum(chunk: &[f32]) -> (f32, bool) {
    let mut largest = [f32::NEG_INFINITY; LANES];
    let mut not_a_number = [0u32; LANES];
    let (blocks, rest) = chunk.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            largest[lane] = if block[lane] > largest[lane] { block[lane] } else { largest[lane] };
            not_a_number[lane] |= u32::from(block[lane].is_nan());
        }
    }
    let largest = largest.iter().chain(rest).fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
    let is_nan = not_a_number.iter().any(|&flag| flag != 0) || rest.iter().any(|value| value.is_nan());
    (largest, is_nan)
}

/// The largest value of a row and the first token that has it.
///
/// Fails when the row holds NaN or positive infinity, or nothing but minus infinity.
pub(crate) fn maximum(logits: &[f32]) -> Result<(f32, u32), SampleError> {
    let (mut largest, mut largest_at) = (f32::NEG_INFINITY, 0);
    for (index, chunk) in logits.chunks(CHUNK).enumerate() {
        let (in_chunk, is_nan) = chunk_maximum(chunk);
        if is_nan {
            return Err(SampleError::NotANumber { token: find(logits, index, f32::is_nan) });
        }
        if in_chunk > largest {
            (largest, largest_at) = (in_chunk, index);
        }
    }
    if largest == f32::NEG_INFINITY {
        return Err(SampleError::NothingLeft { vocabulary_size: logits.len() });
    }
    let token = find(logits, largest_at, |value| value == largest);
    if largest == f32::INFINITY { Err(SampleError::Infinite { token }) } else { Ok((largest, token)) }
}

/// The first token of a chunk that is known to hold a certain value.
fn find(logits: &[f32], chunk: usize, is_wanted: impl Fn(f32) -> bool) -> u32 {
    let start = chunk * CHUNK;
    let at = logits[start..].iter().position(|&value| is_wanted(value)).expect("the chunk holds the value");
    u32::try_from(start + at).expect("token ids have 32 bits")
}

/// How many values are at least `bound`.
pub(crate) fn count_at_least(values: &[f32], bound: f32) -> u32 {
    let mut counts = [0u32; LANES];
    let (blocks, rest) = values.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            counts[lane] += u32::from(block[lane] >= bound);
        }
    }
    counts.iter().sum::<u32>() + rest.iter().map(|&value| u32::from(value >= bound)).sum::<u32>()
}

/// `e^x` for `x <= 0`, within two units in the last place; 0 below -87, where the result would be subnormal.
///
/// `x = k ln 2 + r` with `|r| <= ln 2 / 2`; `e^r` by the polynomial of Cephes' `expf`, `2^k` by its exponent field.
#[inline(always)]
pub(crate) fn exp_of_nonpositive(x: f32) -> f32 {
    const LOWEST: f32 = -87.0;
    /// Its last place is 1: adding it rounds to an integer, which then stands in the low bits.
    const ROUNDER: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let bounded = if x > LOWEST { x } else { LOWEST };
    let rounded = bounded * std::f32::consts::LOG2_E + ROUNDER;
    let k = rounded - ROUNDER;
    let r = bounded - k * LN_2_HIGH - k * LN_2_LOW;
    let mut sum = 1.987_569_1e-4;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        sum = sum * r + coefficient;
    }
    let fraction = sum * (r * r) + r + 1.0;
    let power = f32::from_bits((rounded.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    if x > LOWEST { fraction * power } else { 0.0 }
}

/// The relative probability of a logit: 1 for the largest, `e^((logit - largest) / temperature)`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weighing {
    /// The row's largest logit.
    pub(crate) largest: f32,
    /// 1 / temperature.
    pub(crate) inverse_temperature: f32,
}

impl Weighing {
    #[inline(always)]
    pub(crate) fn weight(self, logit: f32) -> f32 {
        exp_of_nonpositive((logit - self.largest) * self.inverse_temperature)
    }

    /// The logit that has a given weight.
    pub(crate) fn logit(self, weight: f32) -> f32 {
        self.largest + weight.ln() / self.inverse_temperature
    }

    /// The sum of the weights of one chunk.
    fn chunk_sum(self, chunk: &[f32]) -> f64 {
        let mut sums = [0f32; LANES];
        let (blocks, rest) = chunk.as_chunks::<LANES>();
        for block in blocks {
            for lane in 0..LANES {
                sums[lane] += self.weight(block[lane]);
            }
        }
        sums.iter().map(|&sum| f64::from(sum)).sum::<f64>()
            + rest.iter().map(|&logit| f64::from(self.weight(logit))).sum::<f64>()
    }

    /// The sum of all weights of a row; `chunk_sums` gets that of each [`CHUNK`].
    pub(crate) fn sum(self, logits: &[f32], chunk_sums: &mut Vec<f64>) -> f64 {
        chunk_sums.clear();
        chunk_sums.extend(logits.chunks(CHUNK).map(|chunk| self.chunk_sum(chunk)));
        chunk_sums.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_is_exact_to_two_units() {
        let mut worst = 0f64;
        for step in 0..200_000 {
            let x = -87.0 * step as f32 / 200_000.0;
            let (ours, exact) = (f64::from(exp_of_nonpositive(x)), f64::from(x).exp());
            worst = worst.max(((ours - exact) / exact).abs());
        }
        assert!(worst < 2.0 * f64::from(f32::EPSILON), "{worst:e}");
        assert_eq!(exp_of_nonpositive(0.0), 1.0);
        assert_eq!(exp_of_nonpositive(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp_of_nonpositive(-1e30), 0.0);
    }

    #[test]
    fn maximum_is_the_first_of_equals() {
        let mut row = vec![-1.0; 3001];
        row[2050] = 3.0;
        row[3000] = 3.0;
        assert_eq!(maximum(&row), Ok((3.0, 2050)));
        row[3000] = 4.0;
        assert_eq!(maximum(&row), Ok((4.0, 3000)));
        assert_eq!(maximum(&[f32::NEG_INFINITY, -5.0]), Ok((-5.0, 1)));
    }

    #[test]
    fn faulty_rows_are_named() {
        let mut row = vec![0.0; 2000];
        row[1999] = f32::NAN;
        assert_eq!(maximum(&row), Err(SampleError::NotANumber { token: 1999 }));
        row[1999] = f32::INFINITY;
        assert_eq!(maximum(&row), Err(SampleError::Infinite { token: 1999 }));
        row.fill(f32::NEG_INFINITY);
        assert_eq!(maximum(&row), Err(SampleError::NothingLeft { vocabulary_size: 2000 }));
        assert!(maximum(&[]).is_err());
    }

    #[test]
    fn counts_and_sums_cover_odd_lengths() {
        for length in [1, 15, 16, 17, 1023, 1025, 3000] {
            let row: Vec<f32> = (0..length).map(|i| -((i * 7 % 13) as f32)).collect();
            let naive = row.iter().filter(|&&x| x >= -5.0).count();
            assert_eq!(count_at_least(&row, -5.0) as usize, naive);
            let weighing = Weighing { largest: 0.0, inverse_temperature: 2.0 };
            let exact: f64 = row.iter().map(|&x| (f64::from(x) * 2.0).exp()).sum();
            assert!((weighing.sum(&row, &mut Vec::new()) / exact - 1.0).abs() < 1e-6);
        }
    }
}
