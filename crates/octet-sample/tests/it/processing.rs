//! What is done to logits before the choice.

use octet_sample::{LogprobCount, LogprobsMode, SampleError, Sampler, SamplingParams, SequenceState};

use crate::support::params;

const MASKED: f32 = f32::NEG_INFINITY;

/// The logits at the moment of the choice, in token order.
fn processed(params: SamplingParams, prompt: &[u32], generated: &[u32], logits: &[f32]) -> Vec<f32> {
    let params = SamplingParams {
        logprobs: Some(LogprobCount::All),
        logprobs_mode: LogprobsMode::ProcessedLogits,
        ..params
    };
    let mut state = SequenceState::new(&params, prompt);
    for &token in generated {
        state.record(token);
    }
    let reported =
        Sampler::new(logits.len()).sample(&mut state, &mut logits.to_vec()).unwrap().logprobs.unwrap();
    let mut values = vec![0.0; logits.len()];
    for entry in reported.top {
        values[entry.token as usize] = entry.logprob;
    }
    values
}

#[test]
fn allowed_ids_exclude_all_others() {
    let params = SamplingParams { allowed_token_ids: Some([2, 0, 2, 99].into()), ..params() };
    assert_eq!(processed(params, &[], &[], &[1.0, 9.0, 3.0]), [1.0, MASKED, 3.0]);
}

#[test]
fn bad_words_are_cut_off_before_their_last_token() {
    let words = SamplingParams { bad_words: [vec![3], vec![1, 2], vec![0, 1, 0]].into(), ..params() };
    let logits = [0.0; 4];
    assert_eq!(processed(words.clone(), &[1], &[], &logits), [0.0, 0.0, 0.0, MASKED]);
    assert_eq!(processed(words.clone(), &[], &[1], &logits), [0.0, 0.0, MASKED, MASKED]);
    assert_eq!(processed(words.clone(), &[], &[2, 0, 1], &logits), [MASKED, 0.0, MASKED, MASKED]);
    // The tail is cut from time to time: the rule holds at every length.
    for length in 0..20 {
        let mut generated = vec![2; length];
        generated.extend([0, 1]);
        assert_eq!(
            processed(words.clone(), &[], &generated, &logits),
            [MASKED, 0.0, MASKED, MASKED],
            "{length}"
        );
    }
}

#[test]
fn stops_are_masked_until_the_minimum_length() {
    let short =
        SamplingParams { min_tokens: 2, eos_token_id: Some(1), stop_token_ids: [3].into(), ..params() };
    assert_eq!(processed(short.clone(), &[], &[0], &[0.0; 4]), [0.0, MASKED, 0.0, MASKED]);
    assert_eq!(processed(short, &[], &[0, 0], &[0.0; 4]), [0.0; 4]);
}

#[test]
fn bias_comes_before_penalties_and_temperature_last() {
    let params = SamplingParams {
        temperature: 2.0,
        logit_bias: [(0, 4.0), (1, -4.0), (77, 1.0)].into(),
        repetition_penalty: 2.0,
        frequency_penalty: 0.25,
        presence_penalty: 0.5,
        ..params()
    };
    // Token 0 is in the prompt, 1 three times in the output, 2 in both, 3 in neither.
    let values = processed(params, &[0, 2, 0], &[1, 1, 2, 1], &[2.0, 1.0, 3.0, 5.0]);
    assert_eq!(values, [1.5, (-6.0 - 0.75 - 0.5) / 2.0, (1.5 - 0.25 - 0.5) / 2.0, 2.5]);
}

#[test]
fn greedy_takes_the_first_of_the_most_likely() {
    let mut state = SequenceState::new(&params(), &[]);
    assert_eq!(Sampler::new(4).sample(&mut state, &mut [1.0, 7.0, 7.0, 2.0]).unwrap().token, 1);
    let barely_warm = SamplingParams { temperature: 0.9e-5, top_k: 1, ..params() };
    let mut state = SequenceState::new(&barely_warm, &[]);
    assert_eq!(Sampler::new(4).sample(&mut state, &mut [1.0, 7.0, 7.0, 2.0]).unwrap().token, 1);
}

#[test]
fn a_faulty_row_is_an_error_and_leaves_the_state_as_it_was() {
    let mut sampler = Sampler::new(3);
    let masking = SamplingParams { temperature: 1.0, allowed_token_ids: Some([0].into()), ..params() };
    let mut state = SequenceState::new(&masking, &[]);
    // Token 1 is excluded anyway, but a model that computes NaN is not to be trusted with the rest.
    let error = sampler.sample(&mut state, &mut [1.0, f32::NAN, 0.0]).unwrap_err();
    assert_eq!(error, SampleError::NotANumber { token: 1 });
    let error = sampler.sample(&mut state, &mut [1.0, 0.0, f32::INFINITY]).unwrap_err();
    assert_eq!(error, SampleError::Infinite { token: 2 });
    assert_eq!(state.generated(), 0);
    assert_eq!(sampler.sample(&mut state, &mut [1.0, 2.0, 0.0]).unwrap().token, 0);
    assert_eq!(state.generated(), 1);
}

#[test]
fn masks_that_leave_nothing_are_an_error() {
    let params =
        SamplingParams { allowed_token_ids: Some([1].into()), bad_words: [vec![1]].into(), ..params() };
    let mut state = SequenceState::new(&params, &[]);
    let error = Sampler::new(2).sample(&mut state, &mut [1.0, 2.0]).unwrap_err();
    assert_eq!(error, SampleError::NothingLeft { vocabulary_size: 2 });
    assert!(error.to_string().contains("bad_words"));
}

#[test]
fn no_penalty_makes_a_row_that_cannot_be_sampled() {
    let extremes = [f32::from_bits(1), 1e-39, f32::MIN_POSITIVE, 1.0, f32::MAX];
    let logits = [0.0, -3.0, 7.5, f32::MAX, f32::MIN, MASKED];
    for repetition_penalty in extremes {
        for penalty in [-2.0, 0.0, f32::from_bits(1), 2.0] {
            for (temperature, min_p) in [(0.0, 0.0), (0.01, f32::from_bits(1)), (2.0, 1.0)] {
                let params = SamplingParams {
                    repetition_penalty,
                    presence_penalty: penalty,
                    frequency_penalty: penalty,
                    temperature,
                    min_p,
                    top_p: f32::MIN_POSITIVE,
                    ..params()
                };
                let values = processed(params, &[0, 1, 2, 3, 4, 5], &[2, 3, 5], &logits);
                assert!(values.iter().all(|value| !value.is_nan() && *value != f32::INFINITY), "{values:?}");
                assert_eq!(values[5], MASKED, "a mask stays one");
            }
        }
    }
}
