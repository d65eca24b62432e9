//! A request as the engine sees it, and the events that answer it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use octet_sample::{PositionLogprobs, SampledToken, SamplingParams};

use crate::executor::ExecutorError;

/// Names one sequence's request for its whole life. `n` > 1 or several prompts are several requests to the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// Names a client request: all of its sequences carry it, so that one request of many sequences gets no more of the
/// engine than its share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(pub u64);

impl From<RequestId> for GroupId {
    /// A client request is named by the first of its sequences.
    fn from(first: RequestId) -> Self {
        Self(first.0)
    }
}

/// What is asked of a prompt.
#[derive(Clone, Debug)]
pub enum Task {
    /// The tokens that follow it; the logprobs of its own tokens too, if the sampling parameters ask for them.
    Generate {
        /// How to choose tokens, and when to stop.
        sampling: Arc<SamplingParams>,
        /// The most tokens to generate, at least one.
        max_tokens: usize,
    },
    /// The logprobs of its own tokens, as `prompt_logprobs` says, and nothing else.
    Score {
        /// Sampling parameters with `prompt_logprobs`.
        sampling: Arc<SamplingParams>,
    },
    /// One vector for all of it.
    Embed(Pooling),
}

impl Task {
    /// Sampling parameters, where logits are looked at.
    #[must_use]
    pub fn sampling(&self) -> Option<&SamplingParams> {
        match self {
            Self::Generate { sampling, .. } | Self::Score { sampling } => Some(sampling),
            Self::Embed(_) => None,
        }
    }

    /// The most tokens that are generated.
    #[must_use]
    pub fn max_tokens(&self) -> usize {
        if let Self::Generate { max_tokens, .. } = self { *max_tokens } else { 0 }
    }
}

/// Which final hidden states of a prompt make its vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pooling {
    /// That of the last token, which has seen all others.
    #[default]
    Last,
    /// The mean of all.
    Mean,
    /// That of the first token.
    First,
}

impl Pooling {
    /// Whether the hidden state of the token at `position` counts.
    pub(crate) fn counts(self, position: usize, prompt_tokens: usize) -> bool {
        match self {
            Self::Last => position + 1 == prompt_tokens,
            Self::Mean => true,
            Self::First => position == 0,
        }
    }
}

/// One sequence, and what is asked of it.
pub struct Request {
    /// Unique among requests in flight.
    pub id: RequestId,
    /// The client request that the sequence is part of.
    pub group: GroupId,
    /// Prompt token ids, at least one, fewer than the longest sequence allowed. The sequences of one prompt share them:
    /// while a sequence waits, it holds no copy.
    pub prompt: Arc<[u32]>,
    /// What is asked of it.
    pub task: Task,
    /// Lower goes first under priority scheduling.
    pub priority: i32,
    /// Separates prefix caches of tenants: part of the first block's hash.
    pub cache_salt: Option<Arc<str>>,
    /// Where events go.
    pub sink: Box<dyn EventSink>,
}

impl fmt::Debug for Request {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Request")
            .field("id", &self.id)
            .field("group", &self.group)
            .field("prompt_tokens", &self.prompt.len())
            .field("max_tokens", &self.task.max_tokens())
            .field("priority", &self.priority)
            .finish_non_exhaustive()
    }
}

/// Whether anybody still listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The event was taken.
    Taken,
    /// The client went away: the engine aborts the request and frees its blocks.
    Gone,
}

/// Receives a request's events, in order, from the engine's thread. It must not block.
pub trait EventSink: Send {
    /// Takes one event.
    fn deliver(&mut self, event: Event) -> Delivery;
}

/// What happens to a request. `Finished` or `Failed` comes exactly once, last.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The first prompt tokens are being computed; those in the prefix cache were skipped.
    Started {
        /// Prompt tokens found in the prefix cache.
        cached_tokens: usize,
    },
    /// Logprobs of all prompt tokens but the first, once the prompt is computed (only if asked for).
    PromptLogprobs(Vec<PositionLogprobs>),
    /// The vector of the prompt, `[hidden]`.
    Pooled(Vec<f32>),
    /// One more token.
    Token {
        /// The token.
        token: SampledToken,
        /// Set on the last token: how the request finishes. `Finished` follows and says the same.
        finish: Option<Finish>,
    },
    /// The end.
    Finished(Finished),
    /// The end, by a fault of this request.
    Failed(RequestFault),
}

/// Which rule ended a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finish {
    /// Why.
    pub reason: FinishReason,
    /// The stop token id that ended it, if one of `stop_token_ids` did.
    pub stop_token_id: Option<u32>,
}

impl Finish {
    /// `reason`, and no stop token id.
    #[must_use]
    pub const fn by(reason: FinishReason) -> Self {
        Self { reason, stop_token_id: None }
    }
}

/// The end of a request that did not fail.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// The rule that ended it.
    pub finish: Finish,
    /// When its stages were passed.
    pub timing: RequestTiming,
}

/// Why a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// End of sequence or a stop token.
    Stop,
    /// `max_tokens` or the model's length.
    Length,
    /// The client or the server gave it up.
    Abort,
}

impl FinishReason {
    /// OpenAI's word for it; `abort` is vLLM's.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Abort => "abort",
        }
    }
}

/// Stages of a request on the engine's clock, for the latency metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestTiming {
    /// From arrival to the first scheduling.
    pub queued: Duration,
    /// From the first scheduling to the first token.
    pub prefill: Duration,
    /// From the first token to the last.
    pub decode: Duration,
}

/// A fault of one request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestFault {
    /// The prompt cannot fit, even alone.
    #[error("the prompt has {prompt_tokens} tokens; the KV cache holds {capacity_tokens}")]
    DoesNotFit {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Tokens that the whole cache holds.
        capacity_tokens: usize,
    },
    /// The model's output for it is not usable.
    #[error("{0}")]
    Output(String),
    /// What the request asked for excludes every token.
    #[error("{0}")]
    NothingLeft(String),
    /// The engine stopped.
    #[error("the engine stopped before the request was done")]
    EngineStopped,
    /// The device did not finish a step in time; another server may serve the request.
    #[error("the device did not finish its work in time; this server stops")]
    DeviceStalled,
}

impl RequestFault {
    /// What requests are told when the executor fails like this.
    pub(crate) fn of(error: &ExecutorError) -> Self {
        match error {
            ExecutorError::Failed(_) => Self::EngineStopped,
            ExecutorError::Unfinished(_) => Self::DeviceStalled,
        }
    }
}
