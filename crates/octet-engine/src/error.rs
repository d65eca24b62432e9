//! Why the engine does not start, and why it does not take a request.

use std::time::Duration;

/// A configuration that cannot work, or a thread that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A size that must be positive is zero.
    #[error("{name} is 0; it must be at least 1")]
    Zero {
        /// The field's name.
        name: &'static str,
    },
    /// Too few blocks to hold anything, or more than block ids can name.
    #[error("the KV cache has {num_blocks} blocks; it needs from 2 (block 0 is reserved) to 2^32 - 1")]
    BlockCount {
        /// Blocks asked for.
        num_blocks: usize,
    },
    /// Positions would not fit 32 bits.
    #[error("max_model_len is {max_model_len}; the largest supported is 2^32 - 1")]
    ModelLength {
        /// Length asked for.
        max_model_len: usize,
    },
    /// A step could not give each sequence a token.
    #[error(
        "max_num_batched_tokens ({max_num_batched_tokens}) is below max_num_seqs ({max_num_seqs}); raise the former \
         or lower the latter"
    )]
    BudgetBelowSequences {
        /// Tokens of a step.
        max_num_batched_tokens: usize,
        /// Sequences of a step.
        max_num_seqs: usize,
    },
    /// Without chunks a long prompt could never be computed.
    #[error(
        "max_num_batched_tokens ({max_num_batched_tokens}) is below max_model_len ({max_model_len}) while chunked \
         prefill is off; raise it to {max_model_len}, lower max_model_len, or enable chunked prefill"
    )]
    BudgetBelowModelLength {
        /// Tokens of a step.
        max_num_batched_tokens: usize,
        /// The longest sequence.
        max_model_len: usize,
    },
    /// The threshold cuts prompts into chunks, which are off.
    #[error("long_prefill_token_threshold is {threshold}, which needs chunked prefill, but that is off")]
    ThresholdWithoutChunks {
        /// The threshold.
        threshold: usize,
    },
    /// Without chunks a prompt takes as long as it takes.
    #[error("max_stream_gap is {gap:?}, which needs chunked prefill, but that is off")]
    GapWithoutChunks {
        /// The gap.
        gap: Duration,
    },
    /// Not a fraction.
    #[error("the watermark is {watermark}; it must be at least 0 and below 1")]
    Watermark {
        /// The fraction asked for.
        watermark: f64,
    },
    /// The operating system gave no thread.
    #[error("the engine's thread could not start: {0}")]
    Thread(#[source] std::io::Error),
}

/// Why a request was not taken. Its sink gets no event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Too many requests are inside: try again later (HTTP 503 with Retry-After).
    #[error("{limit} requests are already running or waiting; try again later")]
    QueueFull {
        /// The bound, `max_queued`.
        limit: usize,
    },
    /// Too many requests are inside, and the client request has its part of the places (HTTP 503 with Retry-After).
    #[error(
        "{limit} requests are already running or waiting, {held} of them are sequences of this one, which is its \
         share; try again later, or ask for fewer sequences"
    )]
    ShareTaken {
        /// Sequences of this client request that are inside.
        held: usize,
        /// The bound, `max_queued`.
        limit: usize,
    },
    /// The engine is shutting down or has died.
    #[error("the engine takes no more requests: it is stopping or has stopped")]
    Stopped,
    /// The device did not finish a step in time, and the engine ended (HTTP 503: another server may take it).
    #[error("the device did not finish its work in time; this server stops")]
    Stalled,
    /// It is to generate no token, or to score without logprobs.
    #[error(
        "the request asks for nothing: let it ask for a token, for logprobs of the prompt or for a vector"
    )]
    AsksForNothing,
    /// The prompt leaves no room, even if it ran alone.
    #[error(
        "the prompt has {prompt_tokens} tokens; prompt and output together can have at most {capacity_tokens}"
    )]
    DoesNotFit {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// The longest sequence that the model's length and the cache allow.
        capacity_tokens: usize,
    },
    /// There is nothing to compute.
    #[error("the prompt has no tokens; it needs at least one")]
    EmptyPrompt,
    /// Another request inside the engine has this id.
    #[error("request id {id} is already in use")]
    DuplicateId {
        /// The id.
        id: u64,
    },
}
