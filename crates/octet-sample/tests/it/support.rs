//! Parameters and rows for tests.

use octet_sample::SamplingParams;
use rand_pcg::Pcg64;
use rand_pcg::rand_core::Rng;

/// Greedy, nothing else set.
pub(crate) fn params() -> SamplingParams {
    SamplingParams { temperature: 0.0, seed: 7, ..SamplingParams::default() }
}

/// Evenly distributed in `[0, 1)`.
pub(crate) fn unit(generator: &mut Pcg64) -> f32 {
    (generator.next_u32() >> 8) as f32 / (1 << 24) as f32
}

/// One of `0..bound`.
pub(crate) fn below(generator: &mut Pcg64, bound: usize) -> usize {
    (generator.next_u64() % bound as u64) as usize
}

/// Logits as they come: mostly low, a few high; with `ties`, of few different values.
pub(crate) fn row(generator: &mut Pcg64, length: usize, ties: bool) -> Vec<f32> {
    let steepness = unit(generator) * 12.0;
    (0..length)
        .map(|_| {
            let logit = -steepness * unit(generator).max(1e-6).ln().abs().sqrt() + unit(generator);
            if ties { logit.round() } else { logit }
        })
        .collect()
}
