//! What a request asks of the sampler, and what it gets back.

use std::sync::Arc;

/// Sampling parameters of one sequence, already validated and resolved against the model's defaults.
///
/// Ranges, which the server checks before it builds this: temperature >= 0, 0 < top_p <= 1, 0 <= min_p <= 1,
/// repetition_penalty > 0, presence and frequency penalties in [-2, 2], token ids below the vocabulary's size.
///
/// Lists are shared: the sequences of one request differ in their seed alone, and a copy costs no more than that.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy; otherwise logits are divided by it.
    pub temperature: f32,
    /// Keep the k most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set of tokens whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens below this fraction of the most likely token's probability; 0 drops none.
    pub min_p: f32,
    /// Over prompt and output tokens: positive logits are divided by it, negative ones multiplied; 1 changes nothing.
    pub repetition_penalty: f32,
    /// Subtracted once from each token that the output holds.
    pub presence_penalty: f32,
    /// Subtracted for each time that the output holds a token.
    pub frequency_penalty: f32,
    /// Seed of this sequence's own generator (for `n` > 1 the server gives each its own). The server always sets it:
    /// from the request, or drawn from its own generator.
    pub seed: u64,
    /// End-of-sequence and stop ids are masked until this many tokens are out.
    pub min_tokens: u32,
    /// The tokenizer's end of sequence, unless it is to be ignored.
    pub eos_token_id: Option<u32>,
    /// Ids that end the sequence.
    pub stop_token_ids: Arc<[u32]>,
    /// Added to logits: (token id, bias), each id once.
    pub logit_bias: Arc<[(u32, f32)]>,
    /// If set, every other token is excluded. A set: the cost of a step grows with its length.
    pub allowed_token_ids: Option<Arc<[u32]>>,
    /// Token sequences that must not appear.
    pub bad_words: Arc<[Vec<u32>]>,
    /// How many alternatives to report for each output token; `Some(0)` reports the sampled token alone.
    pub logprobs: Option<LogprobCount>,
    /// Likewise for prompt tokens.
    pub prompt_logprobs: Option<LogprobCount>,
    /// What "logprob" means.
    pub logprobs_mode: LogprobsMode,
}

/// Below this temperature the most likely token is chosen; vLLM's bound.
const GREEDY_BELOW: f32 = 1e-5;

impl SamplingParams {
    /// Whether the most likely token is chosen, without a draw.
    #[must_use]
    pub fn is_greedy(&self) -> bool {
        self.temperature < GREEDY_BELOW
    }
}

impl Default for SamplingParams {
    /// The model's own distribution: nothing is masked, cut off, ended or reported.
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: 0,
            min_tokens: 0,
            eos_token_id: None,
            stop_token_ids: Arc::default(),
            logit_bias: Arc::default(),
            allowed_token_ids: None,
            bad_words: Arc::default(),
            logprobs: None,
            prompt_logprobs: None,
            logprobs_mode: LogprobsMode::default(),
        }
    }
}

/// A number of alternatives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogprobCount {
    /// This many of the most likely tokens.
    Top(u32),
    /// The whole vocabulary.
    All,
}

/// Which values are reported as logprobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogprobsMode {
    /// Log-softmax of the model's logits, before any processing.
    #[default]
    RawLogprobs,
    /// The model's logits.
    RawLogits,
    /// Log-softmax after masks, penalties, temperature and truncation.
    ProcessedLogprobs,
    /// The logits after the same.
    ProcessedLogits,
}

/// One token with its value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenLogprob {
    /// Token id.
    pub token: u32,
    /// Its value, by [`LogprobsMode`].
    pub logprob: f32,
    /// Number of vocabulary entries whose value is at least this one's: 1 is the most likely.
    pub rank: u32,
}

/// The values of one position.
#[derive(Clone, Debug, PartialEq)]
pub struct PositionLogprobs {
    /// The sampled token, or the prompt's.
    pub chosen: TokenLogprob,
    /// The most likely tokens, best first; as many as were asked for. It may include the chosen one.
    pub top: Vec<TokenLogprob>,
}

/// A sampled token.
#[derive(Clone, Debug, PartialEq)]
pub struct SampledToken {
    /// Its id.
    pub token: u32,
    /// Present if the request asked for logprobs.
    pub logprobs: Option<PositionLogprobs>,
}
