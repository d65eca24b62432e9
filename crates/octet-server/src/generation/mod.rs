//! From a checked request to a running generation: one engine request for each prompt times `n`, their events
//! gathered or streamed, ids turned back into text, stop strings looked for.
//!
//! A [`Generation`] owns its sequences: when it is dropped before their end (the client went away, another sequence
//! failed), it gives up the rest in the engine.

mod sequence;
mod sink;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use octet_engine::{FinishReason, GroupId, Request, RequestFault, SubmitError};
use octet_sample::{LogprobCount, PositionLogprobs, SampledToken, SamplingParams};
use octet_text::StreamOptions;
use serde::Serialize;
use tokio::sync::mpsc::{self, UnboundedReceiver};

use crate::access::TokenTally;
use crate::error::ApiError;
use crate::intake::Lease;
use crate::parameters::Parameters;
use crate::state::App;
use sequence::Sequence;
use sink::{Backlog, ChannelSink, Stamped};

/// What to generate for one client request.
pub(crate) struct GenerationPlan {
    /// Prompt-major: all sequences of the first prompt, then those of the second.
    pub(crate) sequences: Vec<SequencePlan>,
    /// Sequences for each prompt.
    pub(crate) n: usize,
    /// How ids become text.
    pub(crate) text: StreamOptions,
    /// Tokens of a sequence that are passed on together, after the first.
    pub(crate) stream_interval: usize,
    pub(crate) priority: i32,
    pub(crate) cache_salt: Option<Arc<str>>,
    /// When the request came in.
    pub(crate) arrived: Instant,
}

impl GenerationPlan {
    /// The plan for sequences, prompt-major, of one request.
    pub(crate) fn new(sequences: Vec<SequencePlan>, parameters: Parameters, arrived: Instant) -> Self {
        Self {
            sequences,
            n: parameters.n,
            text: StreamOptions {
                skip_special_tokens: parameters.skip_special_tokens,
                stop: parameters.stop,
                include_stop_str_in_output: parameters.include_stop_str_in_output,
            },
            stream_interval: parameters.stream_interval,
            priority: parameters.priority,
            cache_salt: parameters.cache_salt.map(Into::into),
            arrived,
        }
    }
}

/// What a sequence keeps beside its prompt and what it writes: its accounts here and in the engine.
const SEQUENCE_BYTES: usize = 4 << 10;

/// What an alternative of a prompt's token takes when the answer is written as JSON.
const PROMPT_LOGPROB_BYTES: usize = 512;

impl GenerationPlan {
    /// The most memory that is kept until the end, but for what is generated, which grows no faster than the model writes.
    fn kept_bytes(&self, vocabulary_size: usize) -> usize {
        let prompt = |(index, plan): (usize, &SequencePlan)| {
            // The sequences of a prompt share it until they run.
            let ids = if index % self.n == 0 { 2 } else { 1 } * size_of_val(&*plan.prompt);
            let entries = plan.sampling.prompt_logprobs.map_or(0, |count| match count {
                LogprobCount::Top(count) => count as usize + 1,
                LogprobCount::All => vocabulary_size,
            });
            let logprobs = plan.prompt.len().saturating_mul(entries).saturating_mul(PROMPT_LOGPROB_BYTES);
            logprobs.saturating_add(ids + SEQUENCE_BYTES)
        };
        self.sequences.iter().enumerate().map(prompt).fold(0, usize::saturating_add)
    }

    /// Refuses more sequences at once than half of the places that are free. A single sequence may have the last place;
    /// whoever asks for many must leave some to others.
    fn check_share(&self, app: &App) -> Result<(), ApiError> {
        let limit = app.engine.config().max_queued;
        let stats = app.engine.stats();
        let free = limit.saturating_sub(stats.running + stats.waiting);
        let count = self.sequences.len();
        if count > 1 && count > free / 2 { Err(SubmitError::QueueFull { limit }.into()) } else { Ok(()) }
    }
}

/// One sequence.
pub(crate) struct SequencePlan {
    pub(crate) prompt: Arc<[u32]>,
    pub(crate) sampling: Arc<SamplingParams>,
    pub(crate) max_tokens: usize,
}

/// Progress of one sequence.
#[derive(Debug, Default)]
pub(crate) struct Delta {
    /// Which one: prompt index times `n`, plus the index among the prompt's.
    pub(crate) sequence: usize,
    /// New text, never half a character.
    pub(crate) text: String,
    /// New tokens; their text may still be held back.
    pub(crate) tokens: Vec<SampledToken>,
    /// With the first delta, if asked for.
    pub(crate) prompt_logprobs: Option<Vec<PositionLogprobs>>,
    /// With the last delta.
    pub(crate) finish: Option<Finish>,
}

/// How a sequence ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finish {
    pub(crate) reason: FinishReason,
    pub(crate) stop_reason: Option<StopReason>,
}

impl Finish {
    /// OpenAI's word for the reason.
    pub(crate) fn word(&self) -> &'static str {
        finish_word(self.reason)
    }
}

/// OpenAI's word for a reason.
pub(crate) fn finish_word(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::Abort => "abort",
    }
}

/// What stopped a sequence, other than its end-of-sequence token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(crate) enum StopReason {
    Text(String),
    Token(u32),
}

/// All of one sequence.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) text: String,
    pub(crate) tokens: Vec<SampledToken>,
    pub(crate) prompt_logprobs: Option<Vec<PositionLogprobs>>,
    pub(crate) finish: Finish,
}

/// A client request in the engine.
pub(crate) struct Generation {
    app: Arc<App>,
    events: UnboundedReceiver<Stamped>,
    backlog: Arc<Backlog>,
    /// Where the line of the log finds how many tokens there were.
    tally: TokenTally,
    sequences: Vec<Sequence>,
    n: usize,
    /// Sequences that have not ended.
    live: usize,
    /// Stands for the memory that is kept until the end.
    _lease: Lease,
}

impl Generation {
    /// Hands all sequences to the engine. `lease` stood for the request's body, and stands from here on for what is kept.
    pub(crate) fn start(app: &Arc<App>, plan: GenerationPlan, mut lease: Lease) -> Result<Self, ApiError> {
        plan.check_share(app)?;
        lease.resize(plan.kept_bytes(app.model.vocabulary_size))?;
        let (sender, events) = mpsc::unbounded_channel();
        let backlog = Arc::<Backlog>::default();
        let GenerationPlan { sequences, n, text, stream_interval, priority, cache_salt, arrived } = plan;
        let count = sequences.len();
        app.load.fetch_add(1, Ordering::Relaxed);
        let mut generation = Self {
            app: Arc::clone(app),
            events,
            backlog: Arc::clone(&backlog),
            tally: TokenTally::default(),
            sequences: Vec::with_capacity(count),
            n,
            live: 0,
            _lease: lease,
        };
        let mut group = None;
        for (index, plan) in sequences.into_iter().enumerate() {
            let id = app.engine.next_request_id();
            let group = *group.get_or_insert(GroupId::from(id));
            let sequence =
                Sequence::new(app, id, &plan, text.clone(), arrived).with_stream_interval(stream_interval);
            let request = Request {
                id,
                group,
                prompt: plan.prompt,
                sampling: plan.sampling,
                max_tokens: plan.max_tokens,
                priority,
                cache_salt: cache_salt.clone(),
                sink: Box::new(ChannelSink::new(index, sender.clone(), Arc::clone(&backlog))),
            };
            // If the engine takes only some of them, dropping `generation` gives those up.
            app.engine.submit(request).map_err(|error| match error {
                SubmitError::Stopped if app.stopping() => ApiError::ShuttingDown,
                other => ApiError::Submit(other),
            })?;
            generation.sequences.push(sequence);
            generation.live += 1;
        }
        app.metrics.request_taken(n);
        Ok(generation)
    }

    /// Tells `tally` at the end how many tokens there were.
    pub(crate) fn told_to(mut self, tally: TokenTally) -> Self {
        self.tally = tally;
        self
    }

    /// The next progress of any sequence; `None` when all have ended. After an error nothing more comes.
    pub(crate) async fn next(&mut self) -> Option<Result<Delta, ApiError>> {
        while self.live > 0 {
            let Some(Stamped { sequence: index, at, event }) = self.events.recv().await else {
                self.live = 0;
                let fault = ApiError::Fault(RequestFault::EngineStopped);
                return Some(Err(self.backlog.overflow().map_or(fault, |bytes| ApiError::NotRead { bytes })));
            };
            self.backlog.remove(&event);
            let sequence = &mut self.sequences[index];
            match sequence.take(event, at, &self.app.engine) {
                Ok(None) => {}
                Ok(Some(mut delta)) => {
                    delta.sequence = index;
                    self.live -= usize::from(delta.finish.is_some());
                    return Some(Ok(delta));
                }
                Err(error) => {
                    self.live = 0;
                    return Some(Err(error));
                }
            }
        }
        None
    }

    /// Waits for all sequences to end.
    pub(crate) async fn gather(&mut self) -> Result<Vec<Output>, ApiError> {
        let mut deltas: Vec<Delta> = self.sequences.iter().map(|_| Delta::default()).collect();
        while let Some(delta) = self.next().await {
            let mut delta = delta?;
            let whole = &mut deltas[delta.sequence];
            whole.text.push_str(&delta.text);
            whole.tokens.append(&mut delta.tokens);
            whole.prompt_logprobs = whole.prompt_logprobs.take().or(delta.prompt_logprobs);
            whole.finish = delta.finish.or(whole.finish.take());
        }
        let output = |delta: Delta| {
            let Delta { text, tokens, prompt_logprobs, finish, .. } = delta;
            let finish = finish.ok_or_else(|| ApiError::internal("a sequence has no end"))?;
            Ok(Output { text, tokens, prompt_logprobs, finish })
        };
        deltas.into_iter().map(output).collect()
    }

    /// Usage of the whole request: each prompt counts once, whatever `n` is.
    pub(crate) fn usage(&self) -> TokenCounts {
        let mut usage = TokenCounts::default();
        for (index, sequence) in self.sequences.iter().enumerate() {
            if index % self.n == 0 {
                usage.prompt += sequence.prompt_tokens();
                usage.cached += sequence.cached_tokens();
            }
            usage.completion += sequence.generated();
        }
        usage
    }

    /// Usage of one sequence so far.
    pub(crate) fn sequence_usage(&self, index: usize) -> TokenCounts {
        let sequence = &self.sequences[index];
        TokenCounts {
            prompt: sequence.prompt_tokens(),
            cached: sequence.cached_tokens(),
            completion: sequence.generated(),
        }
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.app.load.fetch_sub(1, Ordering::Relaxed);
        self.tally.set(self.usage().completion);
        for sequence in &mut self.sequences {
            sequence.give_up(&self.app.engine);
        }
    }
}

/// Tokens that a request used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TokenCounts {
    pub(crate) prompt: usize,
    pub(crate) cached: usize,
    pub(crate) completion: usize,
}
