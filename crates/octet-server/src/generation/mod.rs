//! From a checked request to a running generation: one engine request for each prompt times `n`, their events
//! gathered or streamed, ids turned back into text, stop strings looked for.
//!
//! A [`Generation`] owns its sequences: when it is dropped before their end, it gives up the rest.

mod sequence;
mod shape;

use std::sync::Arc;
use std::time::Instant;

use octet_engine::{Event, FinishReason, Task};
use octet_sample::{LogprobCount, PositionLogprobs, SampledToken, SamplingParams};
use octet_text::StreamOptions;
use serde::Serialize;

use crate::access::TokenTally;
use crate::error::ApiError;
use crate::intake::Lease;
use crate::parameters::Parameters;
use crate::state::App;
use crate::submission::{Asked, SEQUENCE_BYTES, Shared, Stamped, Submission};
use sequence::Sequence;
pub(crate) use shape::{AnswerShape, CommonShape, Generating};

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
    pub(crate) shared: Shared,
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
            shared: Shared {
                priority: parameters.priority,
                cache_salt: parameters.cache_salt.map(Into::into),
            },
            arrived,
        }
    }
}

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
}

/// One sequence.
pub(crate) struct SequencePlan {
    pub(crate) prompt: Arc<[u32]>,
    pub(crate) sampling: Arc<SamplingParams>,
    /// None: the prompt's logprobs are all that is wanted.
    pub(crate) max_tokens: usize,
}

impl SequencePlan {
    fn asked(&self) -> Asked {
        let (sampling, max_tokens) = (Arc::clone(&self.sampling), self.max_tokens);
        let task =
            if max_tokens == 0 { Task::Score { sampling } } else { Task::Generate { sampling, max_tokens } };
        Asked { prompt: Arc::clone(&self.prompt), task }
    }
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
    pub(crate) finish: Option<ChoiceFinish>,
}

/// How a sequence ended, as its choice in the answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChoiceFinish {
    pub(crate) reason: FinishReason,
    pub(crate) stop_reason: Option<StopReason>,
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
    pub(crate) finish: ChoiceFinish,
}

/// A client request in the engine.
pub(crate) struct Generation {
    submission: Submission,
    /// Where the line of the log finds how many tokens there were.
    tally: TokenTally,
    sequences: Vec<Sequence>,
    n: usize,
}

impl Generation {
    /// Hands all sequences to the engine. `lease` stood for the request's body, and stands from here on for what is kept.
    pub(crate) fn start(app: &Arc<App>, plan: GenerationPlan, lease: Lease) -> Result<Self, ApiError> {
        let kept_bytes = plan.kept_bytes(app.model.vocabulary_size);
        let GenerationPlan { sequences, n, text, stream_interval, shared, arrived } = plan;
        let asked = sequences.iter().map(SequencePlan::asked);
        let submission = Submission::start(app, asked, &shared, kept_bytes, lease)?;
        let sequence =
            |plan| Sequence::new(app, plan, text.clone(), arrived).with_stream_interval(stream_interval);
        app.metrics.request_taken(n);
        Ok(Self {
            submission,
            tally: TokenTally::default(),
            sequences: sequences.iter().map(sequence).collect(),
            n,
        })
    }

    /// Tells `tally` at the end how many tokens there were.
    pub(crate) fn told_to(mut self, tally: TokenTally) -> Self {
        self.tally = tally;
        self
    }

    /// The next progress of any sequence; `None` when all have ended. After an error nothing more comes.
    pub(crate) async fn next(&mut self) -> Option<Result<Delta, ApiError>> {
        loop {
            let Stamped { sequence: index, at, event } = match self.submission.next().await? {
                Ok(stamped) => stamped,
                Err(error) => return Some(Err(error)),
            };
            let is_end = matches!(event, Event::Finished(_) | Event::Failed(_));
            let delta = self.sequences[index].take(event, at);
            if is_end {
                self.submission.ended(index);
            }
            match delta {
                Ok(None) => {}
                Ok(Some(mut delta)) => {
                    delta.sequence = index;
                    if delta.finish.is_some() {
                        // The engine may not know it: a stop string is found here.
                        self.submission.give_up(index);
                    }
                    return Some(Ok(delta));
                }
                Err(error) => {
                    (0..self.sequences.len()).for_each(|index| self.submission.give_up(index));
                    return Some(Err(error));
                }
            }
        }
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
        self.tally.set(self.usage().completion);
    }
}

/// Tokens that a request used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TokenCounts {
    pub(crate) prompt: usize,
    pub(crate) cached: usize,
    pub(crate) completion: usize,
}
