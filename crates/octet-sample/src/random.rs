//! Draws that depend on a seed and a counter alone.

use rand_pcg::Pcg64;
use rand_pcg::rand_core::{Rng, SeedableRng};

/// Draw number `counter` of the generator of `seed`, evenly distributed in `[0, 1)`.
///
/// Nothing is kept between draws: the generator is set up and moved to its place each time, some ten steps.
pub(crate) fn uniform(seed: u64, counter: u64) -> f64 {
    let mut generator = Pcg64::seed_from_u64(seed);
    generator.advance(u128::from(counter));
    // 53 bits are all that the fraction of an f64 in this range holds.
    (generator.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_follow_one_generator() {
        let mut generator = Pcg64::seed_from_u64(42);
        for counter in 0..100 {
            let expected = (generator.next_u64() >> 11) as f64 / 2f64.powi(53);
            assert_eq!(uniform(42, counter), expected);
        }
    }

    #[test]
    fn neighbouring_seeds_are_unrelated() {
        let count = 20_000;
        let draws: Vec<f64> = (0..count).map(|seed| uniform(seed, 0)).collect();
        let mean = draws.iter().sum::<f64>() / count as f64;
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
        let lagged =
            draws.windows(2).map(|pair| (pair[0] - 0.5) * (pair[1] - 0.5)).sum::<f64>() / count as f64;
        assert!(lagged.abs() * 12.0 < 0.03, "correlation {}", lagged * 12.0);
    }
}
