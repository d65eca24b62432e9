//! Temperature, min-p, top-k and top-p against a twin that sorts the whole row in f64.

use octet_sample::{LogprobCount, LogprobsMode, Sampler, SamplingParams, SequenceState};
use rand_pcg::Pcg64;
use rand_pcg::rand_core::SeedableRng;

use crate::support::{below, params, row, unit};

/// Tokens best first with their probabilities and the sum of those before, after min-p and top-k.
fn sorted(logits: &[f32], params: &SamplingParams) -> Vec<(u32, f64, f64)> {
    let scaled: Vec<f64> =
        logits.iter().map(|&logit| f64::from(logit) / f64::from(params.temperature)).collect();
    let largest = scaled.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut tokens: Vec<u32> = (0..logits.len() as u32).collect();
    tokens.retain(|&token| (scaled[token as usize] - largest).exp() >= f64::from(params.min_p));
    tokens.sort_by(|&a, &b| scaled[b as usize].partial_cmp(&scaled[a as usize]).unwrap().then(a.cmp(&b)));
    if params.top_k > 0 && (params.top_k as usize) < tokens.len() {
        let last = scaled[tokens[params.top_k as usize - 1] as usize];
        tokens.retain(|&token| scaled[token as usize] >= last);
    }
    let sum: f64 = tokens.iter().map(|&token| (scaled[token as usize] - largest).exp()).sum();
    let mut before = 0.0;
    tokens
        .iter()
        .map(|&token| {
            let probability = (scaled[token as usize] - largest).exp() / sum;
            let entry = (token, probability, before);
            before += probability;
            entry
        })
        .collect()
}

fn check(logits: &[f32], params: &SamplingParams) {
    let mut sampler = Sampler::new(logits.len());
    let mut state = SequenceState::new(params, &[]);
    let sampled = sampler.sample(&mut state, &mut logits.to_vec()).unwrap();
    let reported = sampled.logprobs.unwrap();
    let kept: Vec<(u32, f32)> = reported
        .top
        .iter()
        .filter(|entry| entry.logprob > f32::NEG_INFINITY)
        .map(|entry| (entry.token, entry.logprob))
        .collect();
    assert!(kept.iter().any(|&(token, _)| token == sampled.token));

    let top_p = f64::from(params.top_p);
    let expected = sorted(logits, params);
    let mass: f64 =
        expected.iter().filter(|(_, _, before)| *before < top_p).map(|(_, probability, _)| probability).sum();
    // At the very edge, the sum in another order may fall on the other side.
    let is_edge = |before: f64| (before - top_p).abs() <= 1e-5;
    let has_edge = expected.iter().any(|&(_, _, before)| is_edge(before));
    for &(token, probability, before) in &expected {
        let ours = kept.iter().find(|(kept, _)| *kept == token);
        if !is_edge(before) {
            assert_eq!(
                ours.is_some(),
                before < top_p || before == 0.0,
                "token {token}, {before} before it: {params:?}"
            );
        }
        if let Some((_, logprob)) = ours
            && !has_edge
        {
            let exact = (probability / mass).ln();
            assert!(
                (f64::from(*logprob) - exact).abs() < 2e-3 + exact.abs() * 1e-5,
                "{logprob} {exact}: {params:?}"
            );
        }
    }
    let outside = kept.iter().find(|(token, _)| expected.iter().all(|(expected, _, _)| expected != token));
    assert_eq!(outside, None, "{params:?}");
}

#[test]
fn truncation_agrees_with_a_full_sort() {
    let mut generator = Pcg64::seed_from_u64(1);
    for case in 0..400 {
        let length = [1, 2, 17, 300, 1024, 5000][below(&mut generator, 6)];
        let logits = row(&mut generator, length, case % 3 == 0);
        let pick = |generator: &mut Pcg64, values: &[f32]| values[below(generator, values.len())];
        let params = SamplingParams {
            temperature: 0.2 + 2.0 * unit(&mut generator),
            top_k: [0, 1, 5, 50, 700, 100_000][below(&mut generator, 6)],
            top_p: pick(&mut generator, &[1.0, 0.999, 0.95, 0.5, 0.01, 1e-9]),
            min_p: pick(&mut generator, &[0.0, 0.0, 0.0201, 0.3003, 1.0]),
            seed: case,
            logprobs: Some(LogprobCount::All),
            logprobs_mode: LogprobsMode::ProcessedLogprobs,
            ..params()
        };
        check(&logits, &params);
    }
}

#[test]
fn top_k_keeps_ties_at_its_edge() {
    let params = SamplingParams {
        temperature: 1.0,
        top_k: 2,
        logprobs: Some(LogprobCount::All),
        logprobs_mode: LogprobsMode::ProcessedLogits,
        ..params()
    };
    let mut row = vec![1.0, 3.0, 2.0, 2.0, 0.0];
    let mut state = SequenceState::new(&params, &[]);
    let reported = Sampler::new(5).sample(&mut state, &mut row).unwrap().logprobs.unwrap();
    let kept: Vec<_> =
        reported.top.iter().filter(|entry| entry.logprob.is_finite()).map(|entry| entry.token).collect();
    assert_eq!(kept, [1, 2, 3]);
}
