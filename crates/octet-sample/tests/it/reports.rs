//! Logprobs in their four modes, and of prompts.

use octet_sample::{LogprobCount, LogprobsMode, Sampler, SamplingParams, SequenceState};

use crate::support::params;

const LOGITS: [f32; 4] = [1.0, 3.0, 2.0, 0.0];

/// Natural logarithm of the sum of exponentials.
fn log_sum(logits: &[f32]) -> f32 {
    logits.iter().map(|logit| logit.exp()).sum::<f32>().ln()
}

fn best(mode: LogprobsMode) -> (u32, f32, u32, Vec<(u32, f32)>) {
    let params = SamplingParams {
        temperature: 2.0,
        top_k: 1,
        logit_bias: [(3, 100.0)].into(),
        logprobs: Some(LogprobCount::Top(2)),
        logprobs_mode: mode,
        ..params()
    };
    let mut state = SequenceState::new(&params, &[]);
    let sampled = Sampler::new(4).sample(&mut state, &mut LOGITS.clone()).unwrap();
    let reported = sampled.logprobs.unwrap();
    assert_eq!(reported.chosen.token, sampled.token);
    let top = reported.top.iter().map(|entry| (entry.token, entry.logprob)).collect();
    (sampled.token, reported.chosen.logprob, reported.chosen.rank, top)
}

#[test]
fn raw_modes_report_what_the_model_said() {
    // The bias makes token 3 the only choice; the model had it last.
    assert_eq!(best(LogprobsMode::RawLogits), (3, 0.0, 4, vec![(1, 3.0), (2, 2.0)]));
    let (token, logprob, rank, top) = best(LogprobsMode::RawLogprobs);
    assert_eq!((token, rank), (3, 4));
    assert!((logprob + log_sum(&LOGITS)).abs() < 1e-5);
    assert!((top[0].1 - (3.0 - log_sum(&LOGITS))).abs() < 1e-5);
}

#[test]
fn processed_modes_report_what_was_drawn_from() {
    assert_eq!(best(LogprobsMode::ProcessedLogits), (3, 50.0, 1, vec![(3, 50.0)]));
    assert_eq!(best(LogprobsMode::ProcessedLogprobs), (3, 0.0, 1, vec![(3, 0.0)]));
}

#[test]
fn nothing_is_reported_unasked() {
    let mut state = SequenceState::new(&params(), &[]);
    assert_eq!(Sampler::new(4).sample(&mut state, &mut LOGITS.clone()).unwrap().logprobs, None);
}

#[test]
fn prompt_tokens_are_reported_unprocessed() {
    let with = |prompt_logprobs, logprobs_mode| SamplingParams {
        temperature: 0.3,
        logit_bias: [(2, 50.0)].into(),
        prompt_logprobs,
        logprobs_mode,
        ..params()
    };
    let mut sampler = Sampler::new(4);
    let top = with(Some(LogprobCount::Top(1)), LogprobsMode::ProcessedLogprobs);
    let reported = sampler.prompt_logprobs(&top, &LOGITS, 2).unwrap();
    assert_eq!((reported.chosen.token, reported.chosen.rank, reported.top.len()), (2, 2, 1));
    assert!((reported.chosen.logprob - (2.0 - log_sum(&LOGITS))).abs() < 1e-5);
    let all = with(Some(LogprobCount::All), LogprobsMode::RawLogits);
    let reported = sampler.prompt_logprobs(&all, &LOGITS, 0).unwrap();
    assert_eq!(
        reported.top.iter().map(|entry| (entry.token, entry.logprob)).collect::<Vec<_>>(),
        [(1, 3.0), (2, 2.0), (0, 1.0), (3, 0.0)]
    );
    assert!(sampler.prompt_logprobs(&all, &LOGITS, 4).is_err());
    assert!(sampler.prompt_logprobs(&all, &[f32::NAN], 0).is_err());
}
