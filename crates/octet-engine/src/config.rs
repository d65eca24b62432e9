//! What the engine is told once, at start.

use std::time::Duration;

use crate::error::{ConfigError, SubmitError};
use crate::request::{Request, Task};

/// In which order requests are served, and who gives way when blocks run out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SchedulingPolicy {
    /// First come, first served; the newest gives way.
    #[default]
    FirstComeFirstServed,
    /// By (priority, arrival), lower first; the largest gives way.
    Priority,
}

/// The engine's sizes and rules. [`EngineConfig::new`] fills in the rules' defaults; sizes must be thought about.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineConfig {
    /// Blocks of the KV cache, the null block (block 0, never handed out) included.
    pub num_blocks: usize,
    /// Tokens in a block.
    pub block_size: usize,
    /// The longest sequence, prompt and output together, in tokens.
    pub max_model_len: usize,
    /// The most sequences in one step. There may be more slots: sequences that gave way keep theirs.
    pub max_num_seqs: usize,
    /// The most tokens in one step.
    pub max_num_batched_tokens: usize,
    /// Who goes first.
    pub policy: SchedulingPolicy,
    /// Whether full blocks are kept by content and shared.
    pub enable_prefix_caching: bool,
    /// Whether a prompt may be computed over several steps.
    pub enable_chunked_prefill: bool,
    /// How long streams may pause while a prompt is computed: steps get as many prompt tokens as are measured to fit.
    /// Zero sets no bound, and without chunked prefill there can be none.
    pub max_stream_gap: Duration,
    /// The most tokens of one sequence in one step; 0 sets no such limit.
    pub long_prefill_token_threshold: usize,
    /// Fraction of the blocks that admission leaves free, `0.0..1.0`. It does not apply when nothing runs.
    pub watermark: f64,
    /// The most requests inside the engine, running and waiting together; more are refused. Client requests that have
    /// less than an equal part of it get in all the same.
    pub max_queued: usize,
    /// Set only if every layer attends to at most this many tokens (the token itself included): blocks that no later
    /// token can see are freed.
    pub sliding_window: Option<usize>,
    /// Key of the block hash. Equal contents are found by hash and then compared, so this guards against slow
    /// look-ups only, never against wrong ones.
    pub hash_seed: u64,
}

impl EngineConfig {
    /// A configuration for a cache of `num_blocks` blocks: chunked prefill and prefix caching on, first come first
    /// served, no watermark, no sliding window, no bound on the gaps of streams, and vLLM's sizes for a CPU (`max_num_batched_tokens` 2048 and
    /// `max_num_seqs` 128, each no larger than makes sense for the other and for `max_model_len`).
    #[must_use]
    pub fn new(num_blocks: usize, block_size: usize, max_model_len: usize) -> Self {
        let max_num_seqs = 128;
        let max_num_batched_tokens = 2048.min(max_model_len.saturating_mul(max_num_seqs)).max(1);
        Self {
            num_blocks,
            block_size,
            max_model_len,
            max_num_seqs: max_num_seqs.min(max_num_batched_tokens),
            max_num_batched_tokens,
            policy: SchedulingPolicy::FirstComeFirstServed,
            enable_prefix_caching: true,
            enable_chunked_prefill: true,
            max_stream_gap: Duration::ZERO,
            long_prefill_token_threshold: 0,
            watermark: 0.0,
            max_queued: 1024,
            sliding_window: None,
            hash_seed: 0,
        }
    }

    /// Checks that the numbers can work together.
    ///
    /// # Errors
    /// The first rule that is broken, with the numbers and what would be right.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let positive = [
            ("block_size", self.block_size),
            ("max_model_len", self.max_model_len),
            ("max_num_seqs", self.max_num_seqs),
            ("max_num_batched_tokens", self.max_num_batched_tokens),
            ("max_queued", self.max_queued),
            ("sliding_window", self.sliding_window.unwrap_or(1)),
        ];
        if let Some((name, _)) = positive.into_iter().find(|(_, value)| *value == 0) {
            return Err(ConfigError::Zero { name });
        }
        if self.num_blocks < 2 || u32::try_from(self.num_blocks).is_err() {
            return Err(ConfigError::BlockCount { num_blocks: self.num_blocks });
        }
        if u32::try_from(self.max_model_len).is_err() {
            return Err(ConfigError::ModelLength { max_model_len: self.max_model_len });
        }
        if self.max_num_batched_tokens < self.max_num_seqs {
            return Err(ConfigError::BudgetBelowSequences {
                max_num_batched_tokens: self.max_num_batched_tokens,
                max_num_seqs: self.max_num_seqs,
            });
        }
        if !self.enable_chunked_prefill && self.max_num_batched_tokens < self.max_model_len {
            return Err(ConfigError::BudgetBelowModelLength {
                max_num_batched_tokens: self.max_num_batched_tokens,
                max_model_len: self.max_model_len,
            });
        }
        if !self.enable_chunked_prefill && self.long_prefill_token_threshold > 0 {
            return Err(ConfigError::ThresholdWithoutChunks { threshold: self.long_prefill_token_threshold });
        }
        if !self.enable_chunked_prefill && !self.max_stream_gap.is_zero() {
            return Err(ConfigError::GapWithoutChunks { gap: self.max_stream_gap });
        }
        if !(0.0..1.0).contains(&self.watermark) {
            return Err(ConfigError::Watermark { watermark: self.watermark });
        }
        Ok(())
    }

    /// Blocks that requests can use: all but the null block.
    #[must_use]
    pub const fn usable_blocks(&self) -> usize {
        self.num_blocks.saturating_sub(1)
    }

    /// Tokens that the usable blocks hold.
    #[must_use]
    pub const fn capacity_tokens(&self) -> usize {
        self.usable_blocks() * self.block_size
    }

    /// The most blocks that a sequence holds at any one time while its first `tokens` tokens are computed.
    ///
    /// With a sliding window of `w` and steps of at most `s` tokens, the blocks in use cover at most `w - 1 + s`
    /// tokens and may be cut at both ends.
    #[must_use]
    pub fn blocks_held(&self, tokens: usize) -> usize {
        let all = tokens.div_ceil(self.block_size);
        match self.sliding_window {
            None => all,
            Some(window) => {
                let seen = (window - 1).saturating_add(self.max_num_batched_tokens);
                all.min(seen.div_ceil(self.block_size) + 1)
            }
        }
    }

    /// The longest sequence that can run when it is alone: `max_model_len`, or what the cache holds if that is less.
    #[must_use]
    pub fn longest_sequence(&self) -> usize {
        if self.blocks_held(self.max_model_len) <= self.usable_blocks() {
            self.max_model_len
        } else {
            self.max_model_len.min(self.capacity_tokens())
        }
    }

    /// Refuses what could not run even alone.
    pub(crate) fn check_request(&self, request: &Request) -> Result<(), SubmitError> {
        let prompt_tokens = request.prompt.len();
        let capacity_tokens = self.longest_sequence();
        if prompt_tokens == 0 {
            return Err(SubmitError::EmptyPrompt);
        }
        let max_tokens = match &request.task {
            Task::Generate { max_tokens: 0, .. } => return Err(SubmitError::AsksForNothing),
            Task::Score { sampling } if sampling.prompt_logprobs.is_none() => {
                return Err(SubmitError::AsksForNothing);
            }
            task => task.max_tokens(),
        };
        if prompt_tokens + max_tokens.min(1) > capacity_tokens {
            return Err(SubmitError::DoesNotFit { prompt_tokens, capacity_tokens });
        }
        Ok(())
    }
}
