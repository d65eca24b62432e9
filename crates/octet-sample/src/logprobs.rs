//! Values and ranks of the chosen token and of the most likely ones.

use crate::candidates::{Candidates, Ties};
use crate::vocabulary::{Weighing, count_at_least, maximum};
use crate::{LogprobCount, PositionLogprobs, SampleError, TokenLogprob};

/// What is reported of one position.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Report {
    /// The sampled token, or the prompt's.
    pub(crate) chosen: u32,
    /// How many alternatives.
    pub(crate) count: LogprobCount,
    /// Whether values are log-softmax (or the logits as they are).
    pub(crate) normalized: bool,
}

/// Scratch memory of a report.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    pub(crate) candidates: Candidates,
    pub(crate) chunk_sums: Vec<f64>,
}

/// Reports on a row of logits; masked tokens stand at minus infinity.
pub(crate) fn report(
    logits: &[f32],
    report: Report,
    scratch: &mut Scratch,
) -> Result<PositionLogprobs, SampleError> {
    let (largest, _) = maximum(logits)?;
    let offset = if report.normalized {
        let weighing = Weighing { largest, inverse_temperature: 1.0 };
        f64::from(largest) + weighing.sum(logits, &mut scratch.chunk_sums).ln()
    } else {
        0.0
    };
    let entry = |token: u32, logit: f32, rank: u32| {
        let logprob = (f64::from(logit) - offset) as f32;
        TokenLogprob { token, logprob, rank }
    };
    let Some(&chosen) = logits.get(report.chosen as usize) else {
        return Err(SampleError::OutsideVocabulary { token: report.chosen, vocabulary_size: logits.len() });
    };
    match report.count {
        LogprobCount::All => scratch.candidates.take_all(logits),
        LogprobCount::Top(count) => {
            scratch.candidates.take_best(logits, count as usize, f32::NEG_INFINITY, Ties::LowestTokens);
        }
    }
    scratch.candidates.sort_best_first();
    let mut top: Vec<TokenLogprob> =
        scratch.candidates.iter().map(|(token, logit)| entry(token, logit, 0)).collect();
    rank(&mut top, logits);
    Ok(PositionLogprobs { chosen: entry(report.chosen, chosen, count_at_least(logits, chosen)), top })
}

/// Sets the ranks of the most likely tokens, best first: the number of tokens that are at least as likely.
fn rank(top: &mut [TokenLogprob], logits: &[f32]) {
    let Some(last) = top.last() else { return };
    // Equal tokens share the rank of the last of them; only those equal to the last listed may go on beyond the list.
    let mut shared = count_at_least(logits, logits[last.token as usize]);
    let mut below = logits[last.token as usize];
    for (index, entry) in top.iter_mut().enumerate().rev() {
        let logit = logits[entry.token as usize];
        if logit != below {
            shared = index as u32 + 1;
            below = logit;
        }
        entry.rank = shared;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(logits: &[f32], chosen: u32, count: LogprobCount) -> PositionLogprobs {
        let wanted = Report { chosen, count, normalized: true };
        report(logits, wanted, &mut Scratch::default()).unwrap()
    }

    #[test]
    fn probabilities_sum_to_one_and_are_sorted() {
        let logits: Vec<f32> = (0..1000).map(|i| ((i * 31) % 97) as f32 * 0.1).collect();
        let all = of(&logits, 5, LogprobCount::All).top;
        assert_eq!(all.len(), 1000);
        let sum: f64 = all.iter().map(|entry| f64::from(entry.logprob).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-5, "{sum}");
        assert!(all.windows(2).all(|pair| pair[0].logprob >= pair[1].logprob));
    }

    #[test]
    fn ranks_count_what_is_at_least_as_likely() {
        let logits = [1.0, 3.0, 2.0, 2.0, 2.0, 0.0];
        let reported = of(&logits, 4, LogprobCount::Top(3));
        assert_eq!(reported.chosen.rank, 4);
        let top: Vec<_> = reported.top.iter().map(|entry| (entry.token, entry.rank)).collect();
        assert_eq!(top, [(1, 1), (2, 4), (3, 4)]);
        assert_eq!(of(&logits, 1, LogprobCount::Top(0)).top, []);
        let all = of(&logits, 1, LogprobCount::All).top;
        assert_eq!(all.iter().map(|entry| entry.rank).collect::<Vec<_>>(), [1, 4, 4, 4, 5, 6]);
    }

    #[test]
    fn masked_tokens_are_at_minus_infinity_and_not_among_the_best() {
        let logits = [f32::NEG_INFINITY, 1.0, f32::NEG_INFINITY];
        let reported = of(&logits, 0, LogprobCount::Top(3));
        assert_eq!(reported.chosen.logprob, f32::NEG_INFINITY);
        assert_eq!((reported.top.len(), reported.top[0].logprob), (1, 0.0));
    }

    #[test]
    fn unknown_tokens_are_refused() {
        let wanted = Report { chosen: 3, count: LogprobCount::Top(1), normalized: false };
        let error = report(&[0.0, 1.0], wanted, &mut Scratch::default()).unwrap_err();
        assert_eq!(error, SampleError::OutsideVocabulary { token: 3, vocabulary_size: 2 });
    }
}
