//! From checked parameters and a tokenised prompt to what the engine takes: room for the output, truncation, seeds.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use octet_sample::{LogprobCount, SamplingParams};
use octet_text::{TextError, Tokenizer};

use super::types::TruncationSide;
use super::validate::{Parameters, Truncation};
use crate::error::ApiError;

/// Weyl increment and finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
/// generators", OOPSLA 2014).
const GOLDEN_GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

/// Draws seeds for sequences that have none of their own. The same server seed gives the same draws in order.
#[derive(Debug)]
pub(crate) struct SeedSource {
    state: AtomicU64,
}

impl SeedSource {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: AtomicU64::new(seed) }
    }

    fn draw(&self) -> u64 {
        let state = self.state.fetch_add(GOLDEN_GAMMA, Ordering::Relaxed).wrapping_add(GOLDEN_GAMMA);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

/// How much a sequence may grow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OutputRules {
    /// The longest sequence.
    pub(crate) max_model_len: usize,
    /// `max_tokens`, if the request has it.
    pub(crate) requested: Option<usize>,
    /// What it is otherwise; `None` is the rest of the context.
    pub(crate) default: Option<usize>,
    /// The server's cap (`max_new_tokens` of the model's generation config).
    pub(crate) cap: Option<usize>,
}

impl OutputRules {
    /// The most tokens to generate after a prompt of `prompt_tokens`.
    pub(crate) fn max_tokens(&self, prompt_tokens: usize) -> Result<usize, ApiError> {
        let max_model_len = self.max_model_len;
        if prompt_tokens >= max_model_len {
            return Err(ApiError::PromptTooLong { max_model_len, prompt_tokens });
        }
        let room = max_model_len - prompt_tokens;
        if let Some(requested) = self.requested.filter(|requested| *requested > room) {
            return Err(ApiError::OutputTooLong { max_model_len, prompt_tokens, requested });
        }
        let wanted = self.requested.or(self.default).unwrap_or(room);
        Ok(wanted.min(self.cap.unwrap_or(wanted)).min(room))
    }

    /// The most prompt tokens that leave room for the output.
    fn max_input(&self) -> usize {
        let output = self.requested.or(self.default).unwrap_or(1).max(1);
        self.max_model_len.saturating_sub(output).max(1)
    }
}

impl Truncation {
    /// Cuts a prompt that is too long; `fits` tokens are kept unless the request says how many. The beginning-of-sequence
    /// token stays: models were trained to see it.
    pub(crate) fn cut(
        self,
        prompt: &mut Vec<u32>,
        max_model_len: usize,
        fits: usize,
        bos: Option<u32>,
    ) -> Result<(), ApiError> {
        if let Some(keep) = self.keep.filter(|keep| *keep > max_model_len) {
            let message = format!(
                "truncate_prompt_tokens ({keep}) must not be greater than the model's length of {max_model_len} tokens"
            );
            return Err(ApiError::invalid("truncate_prompt_tokens", message));
        }
        let keep = self.keep.unwrap_or(fits);
        if prompt.len() <= keep {
            return Ok(());
        }
        match self.side {
            TruncationSide::Right => prompt.truncate(keep),
            TruncationSide::Left => {
                let first = usize::from(bos.is_some() && prompt.first().copied() == bos);
                let cut = prompt.len() - keep;
                prompt.drain(first..first + cut);
            }
        }
        Ok(())
    }
}

/// Cuts a prompt so that there is room for the output.
pub(crate) fn truncate(
    prompt: &mut Vec<u32>,
    truncation: Option<Truncation>,
    rules: &OutputRules,
    bos: Option<u32>,
) -> Result<(), ApiError> {
    truncation
        .map_or(Ok(()), |truncation| truncation.cut(prompt, rules.max_model_len, rules.max_input(), bos))
}

/// Checks `min_tokens` against what will be generated.
pub(crate) fn check_min_tokens(parameters: &Parameters, max_tokens: usize) -> Result<(), ApiError> {
    let min_tokens = parameters.sampling.min_tokens;
    if min_tokens as usize <= max_tokens {
        return Ok(());
    }
    let message = format!("min_tokens must be at most max_tokens ({max_tokens}), got {min_tokens}");
    Err(ApiError::invalid("min_tokens", message))
}

/// The logprobs that a request wants of each sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogprobRequest {
    pub(crate) output: Option<LogprobCount>,
    pub(crate) prompt: Option<LogprobCount>,
}

/// Sampling parameters of the `index`-th sequence of a prompt.
pub(crate) fn sequence_sampling(
    parameters: &Parameters,
    bad_words: &Arc<[Vec<u32>]>,
    logprobs: LogprobRequest,
    index: usize,
    seeds: &SeedSource,
) -> Arc<SamplingParams> {
    let seed = match parameters.seed {
        Some(seed) => (seed as u64).wrapping_add(index as u64),
        None => seeds.draw(),
    };
    Arc::new(SamplingParams {
        seed,
        bad_words: Arc::clone(bad_words),
        logprobs: logprobs.output,
        prompt_logprobs: logprobs.prompt,
        ..parameters.sampling.clone()
    })
}

/// Token sequences of the words that must not appear: each word as it is, as it stands after a space, and as it stands at
/// the start of a line, where these differ. vLLM leaves the spaced form out where it has another number of tokens, so
/// that many words come all the same.
pub(crate) fn encode_bad_words(tokenizer: &Tokenizer, words: &[String]) -> Result<Vec<Vec<u32>>, TextError> {
    let mut sequences: Vec<Vec<u32>> = Vec::with_capacity(2 * words.len());
    let line = tokenizer.encode("\n", false)?;
    for word in words {
        let word = word.trim_start();
        let in_line = tokenizer.encode(&format!("\n{word}"), false)?;
        let forms = [
            tokenizer.encode(word, false)?,
            tokenizer.encode(&format!(" {word}"), false)?,
            // Tokenizers that put a space before every text show here how the word begins without one.
            in_line.strip_prefix(line.as_slice()).map(<[u32]>::to_vec).unwrap_or_default(),
        ];
        sequences.extend(forms.into_iter().filter(|form| !form.is_empty()));
    }
    let mut seen = HashSet::new();
    sequences.retain(|form| seen.insert(form.clone()));
    Ok(sequences)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(requested: Option<usize>, default: Option<usize>, cap: Option<usize>) -> OutputRules {
        OutputRules { max_model_len: 100, requested, default, cap }
    }

    #[test]
    fn room_for_the_output() {
        let table = [
            // (requested, default, cap, prompt tokens) -> max tokens
            ((None, Some(16), None, 10), 16),
            ((None, Some(16), None, 90), 10),
            ((None, None, None, 90), 10),
            ((Some(50), Some(16), None, 50), 50),
            ((Some(50), None, Some(20), 10), 20),
            ((None, None, Some(20), 10), 20),
            ((None, None, Some(20), 95), 5),
            ((Some(0), Some(16), None, 10), 0),
        ];
        for ((requested, default, cap, prompt), expected) in table {
            let found = rules(requested, default, cap).max_tokens(prompt).unwrap();
            assert_eq!(found, expected, "{requested:?} {default:?} {cap:?} {prompt}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_numbers() {
        let error = rules(None, Some(16), None).max_tokens(100).unwrap_err();
        assert!(matches!(error, ApiError::PromptTooLong { max_model_len: 100, prompt_tokens: 100 }));
        let error = rules(Some(51), Some(16), None).max_tokens(50).unwrap_err();
        assert!(matches!(error, ApiError::OutputTooLong { prompt_tokens: 50, requested: 51, .. }));
    }

    #[test]
    fn truncation_keeps_the_end_and_the_beginning_of_sequence() {
        let cut = |keep, side, bos| {
            let mut prompt: Vec<u32> = (0..10).collect();
            truncate(&mut prompt, Some(Truncation { keep, side }), &rules(None, Some(16), None), bos)
                .unwrap();
            prompt
        };
        assert_eq!(cut(Some(3), TruncationSide::Left, None), [7, 8, 9]);
        assert_eq!(cut(Some(3), TruncationSide::Left, Some(0)), [0, 8, 9]);
        assert_eq!(cut(Some(1), TruncationSide::Left, Some(0)), [0]);
        assert_eq!(cut(Some(3), TruncationSide::Right, Some(0)), [0, 1, 2]);
        assert_eq!(cut(Some(50), TruncationSide::Left, None).len(), 10);
        assert_eq!(cut(None, TruncationSide::Left, None).len(), 10);
    }

    #[test]
    fn truncation_to_the_input_leaves_room_for_the_output() {
        let mut prompt: Vec<u32> = (0..200).collect();
        let truncation = Some(Truncation { keep: None, side: TruncationSide::Left });
        truncate(&mut prompt, truncation, &rules(Some(30), Some(16), None), None).unwrap();
        assert_eq!(prompt.len(), 70);
        assert_eq!(prompt[0], 130);
        let too_much = Some(Truncation { keep: Some(101), side: TruncationSide::Left });
        assert!(truncate(&mut prompt, too_much, &rules(None, None, None), None).is_err());
    }

    #[test]
    fn drawn_seeds_repeat_with_the_servers_seed_and_differ_from_each_other() {
        let draws = |seed| {
            let source = SeedSource::new(seed);
            [source.draw(), source.draw(), source.draw()]
        };
        assert_eq!(draws(0), draws(0));
        assert_ne!(draws(0), draws(1));
        let [first, second, third] = draws(7);
        assert!(first != second && second != third && first != third);
    }
}
