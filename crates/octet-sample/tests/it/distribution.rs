//! Draws follow the probabilities, and depend on nothing but row, state and seed.

use octet_sample::{Sampler, SamplingParams, SequenceState};
use rand_pcg::Pcg64;
use rand_pcg::rand_core::SeedableRng;

use crate::support::{params, row};

fn draws(logits: &[f32], params: &SamplingParams, count: usize) -> Vec<u32> {
    let mut sampler = Sampler::new(logits.len());
    let mut state = SequenceState::new(params, &[]);
    (0..count).map(|_| sampler.sample(&mut state, &mut logits.to_vec()).unwrap().token).collect()
}

/// Pearson's statistic of the draws against the probabilities of tokens; there are `probabilities.len() - 1` degrees
/// of freedom.
fn chi_square(draws: &[u32], probabilities: &[(u32, f64)]) -> f64 {
    let mut counts = std::collections::HashMap::new();
    for token in draws {
        *counts.entry(*token).or_insert(0usize) += 1;
    }
    assert!(counts.keys().all(|token| probabilities.iter().any(|(known, _)| known == token)));
    probabilities
        .iter()
        .map(|(token, probability)| {
            let expected = probability * draws.len() as f64;
            let seen = counts.get(token).copied().unwrap_or(0) as f64;
            (seen - expected).powi(2) / expected
        })
        .sum()
}

fn softmax(logits: &[f32], temperature: f64, kept: usize) -> Vec<(u32, f64)> {
    let mut weights: Vec<(u32, f64)> = logits
        .iter()
        .enumerate()
        .map(|(token, &x)| (token as u32, (f64::from(x) / temperature).exp()))
        .collect();
    weights.sort_by(|a, b| b.1.total_cmp(&a.1));
    weights.truncate(kept);
    let sum: f64 = weights.iter().map(|(_, weight)| weight).sum();
    weights.iter().map(|(token, weight)| (*token, weight / sum)).collect()
}

#[test]
fn draws_follow_the_softmax() {
    // 2100 tokens, so that the draw crosses chunks; 20 of them carry weight.
    let mut logits = vec![f32::NEG_INFINITY; 2100];
    for index in 0..20 {
        logits[index * 105 + 3] = (index % 7) as f32 * 0.4;
    }
    let probabilities = softmax(&logits, 0.8, 20);
    for (seed, top_k, top_p, kept) in
        [(1, 0, 1.0, 20), (2, 1000, 1.0, 20), (3, 0, 0.999_999, 20), (4, 0, 1.0, 20)]
    {
        let params = SamplingParams { temperature: 0.8, seed, top_k, top_p, ..params() };
        let statistic = chi_square(&draws(&logits, &params, 10_000), &probabilities[..kept]);
        // 19 degrees of freedom: the mean is 19, above 55 lies one in a hundred thousand.
        assert!((3.0..55.0).contains(&statistic), "seed {seed}: {statistic}");
    }
}

#[test]
fn draws_follow_the_truncated_softmax() {
    let logits: Vec<f32> = (0..64).map(|index| -0.17 * ((index * 37) % 64) as f32).collect();
    let by_count = softmax(&logits, 1.5, 8);
    let params_k = SamplingParams { temperature: 1.5, top_k: 8, ..params() };
    let statistic = chi_square(&draws(&logits, &params_k, 40_000), &by_count);
    assert!((0.4..40.0).contains(&statistic), "{statistic}");
    // The sum of the ten best passes this top_p, that of nine does not.
    let all = softmax(&logits, 1.5, 64);
    let nine: f64 = all[..9].iter().map(|(_, probability)| probability).sum();
    let params_p = SamplingParams { temperature: 1.5, top_p: nine as f32 + 0.01, ..params() };
    let statistic = chi_square(&draws(&logits, &params_p, 40_000), &softmax(&logits, 1.5, 10));
    assert!((0.6..45.0).contains(&statistic), "{statistic}");
}

#[test]
fn the_same_seed_gives_the_same_tokens() {
    let mut generator = Pcg64::seed_from_u64(5);
    let logits = row(&mut generator, 3000, false);
    for (top_k, top_p) in [(0, 1.0), (40, 1.0), (0, 0.9), (40, 0.9)] {
        let with_seed = |seed| SamplingParams { temperature: 1.0, seed, top_k, top_p, ..params() };
        let first = draws(&logits, &with_seed(11), 50);
        assert_eq!(first, draws(&logits, &with_seed(11), 50));
        assert_ne!(first, draws(&logits, &with_seed(12), 50));
    }
}

#[test]
fn other_rows_change_nothing() {
    let mut generator = Pcg64::seed_from_u64(6);
    let rows: Vec<Vec<f32>> = (0..8).map(|_| row(&mut generator, 2000, false)).collect();
    let params_of = |index: usize| SamplingParams {
        temperature: [0.0, 1.0, 0.7][index % 3],
        top_k: [0, 20][index % 2],
        top_p: [0.9, 1.0][index / 4],
        presence_penalty: [0.0, 0.5][index / 2 % 2],
        seed: index as u64,
        ..params()
    };
    let alone: Vec<Vec<u32>> =
        rows.iter().enumerate().map(|(index, row)| draws(row, &params_of(index), 12)).collect();
    let mut sampler = Sampler::new(2000);
    let mut states: Vec<_> = (0..8).map(|index| SequenceState::new(&params_of(index), &[])).collect();
    let mut together = vec![Vec::new(); 8];
    for _ in 0..12 {
        for index in (0..8).rev() {
            let token = sampler.sample(&mut states[index], &mut rows[index].clone()).unwrap().token;
            together[index].push(token);
        }
    }
    assert_eq!(together, alone);
}
