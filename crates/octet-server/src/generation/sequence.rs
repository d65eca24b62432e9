//! One sequence of a generation: its events become deltas.

use std::sync::Arc;
use std::time::Instant;

use octet_engine::{Event, Finish, FinishReason};
use octet_sample::SampledToken;
use octet_text::{StreamOptions, TextStream};

use super::{ChoiceFinish, Delta, SequencePlan, StopReason};
use crate::error::ApiError;
use crate::metrics::{Ending, Meter};
use crate::state::App;

/// A sequence in the engine. It ends once: by the engine's word, by a stop string found here, by a fault, or by being
/// given up.
pub(super) struct Sequence {
    text: TextStream,
    /// Whether the token that stops the sequence is part of the answer's text.
    shows_stop: bool,
    /// Tokens that are passed on together, after the first.
    stream_interval: usize,
    prompt_tokens: usize,
    cached_tokens: usize,
    generated: usize,
    /// What has come and was not passed on: prompt logprobs, and tokens whose group is not full.
    pending: Delta,
    meter: Meter,
}

impl Sequence {
    pub(super) fn new(app: &App, plan: &SequencePlan, options: StreamOptions, arrived: Instant) -> Self {
        let shows_stop = options.include_stop_str_in_output;
        let prompt_tokens = plan.prompt.len();
        Self {
            text: TextStream::new(Arc::clone(&app.model.tokenizer), options, &plan.prompt)
                .with_min_tokens(plan.sampling.min_tokens as usize),
            shows_stop,
            stream_interval: 1,
            prompt_tokens,
            cached_tokens: 0,
            generated: 0,
            pending: Delta::default(),
            meter: Meter::new(Arc::clone(&app.metrics), arrived, prompt_tokens, plan.max_tokens),
        }
    }

    /// Passes tokens on in groups of `interval`: the first at once, the last always.
    pub(super) fn with_stream_interval(mut self, interval: usize) -> Self {
        self.stream_interval = interval;
        self
    }

    pub(super) fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }

    pub(super) fn cached_tokens(&self) -> usize {
        self.cached_tokens
    }

    pub(super) fn generated(&self) -> usize {
        self.generated
    }

    /// Takes an event; gives a delta when there is something to pass on.
    pub(super) fn take(&mut self, event: Event, at: Instant) -> Result<Option<Delta>, ApiError> {
        match event {
            Event::Started { cached_tokens } => {
                self.cached_tokens = cached_tokens;
                self.meter.started(at, cached_tokens);
                Ok(None)
            }
            Event::Pooled(_) => Err(ApiError::internal("a vector came where tokens were asked for")),
            Event::PromptLogprobs(logprobs) => {
                self.pending.prompt_logprobs = Some(logprobs);
                Ok(None)
            }
            Event::Token { token, finish } => {
                self.meter.token(at);
                let stopped_by = self.take_token(token, finish)?;
                Ok(self.pass_on(stopped_by, finish, at))
            }
            // Nobody but a server that stops gives a sequence up in the engine: what there is of it is no answer.
            Event::Finished(finished) if finished.finish.reason == FinishReason::Abort => {
                self.meter.end(Ending::Finished(FinishReason::Abort), at);
                Err(ApiError::ShuttingDown)
            }
            Event::Finished(finished) => Ok(Some(self.take_end(finished.finish, at))),
            Event::Failed(fault) => {
                self.meter.end(Ending::Error, at);
                Err(fault.into())
            }
        }
    }

    /// Adds a token to what is pending; gives the stop string that its text completes.
    fn take_token(
        &mut self,
        token: SampledToken,
        finish: Option<Finish>,
    ) -> Result<Option<String>, ApiError> {
        self.generated += 1;
        let is_stop = finish.is_some_and(|finish| finish.reason == FinishReason::Stop);
        let mut stopped_by = None;
        if !is_stop || self.shows_stop {
            let delta = self.text.push(token.token)?;
            self.pending.text.push_str(&delta.text);
            stopped_by = delta.stopped_by;
        }
        self.pending.tokens.push(token);
        Ok(stopped_by)
    }

    /// What is pending, if the sequence ends here or if the group of tokens is full. Clients expect the reason of the
    /// end with the last token, not after it.
    fn pass_on(&mut self, stopped_by: Option<String>, finish: Option<Finish>, at: Instant) -> Option<Delta> {
        if let Some(stop) = stopped_by {
            self.meter.end(Ending::Finished(FinishReason::Stop), at);
            let stop_reason = Some(StopReason::Text(stop));
            self.pending.finish = Some(ChoiceFinish { reason: FinishReason::Stop, stop_reason });
            return Some(std::mem::take(&mut self.pending));
        }
        if let Some(finish) = finish {
            return Some(self.take_end(finish, at));
        }
        let is_due = self.generated == 1 || self.pending.tokens.len() >= self.stream_interval;
        is_due.then(|| std::mem::take(&mut self.pending))
    }

    fn take_end(&mut self, finish: Finish, at: Instant) -> Delta {
        let rest = self.text.finish();
        self.pending.text.push_str(&rest);
        // What was held back as half a character may complete a stop string when it comes out.
        let (reason, stop_reason) = match self.text.stopped_by() {
            Some(stop) => (FinishReason::Stop, Some(StopReason::Text(stop.to_owned()))),
            None => (finish.reason, finish.stop_token_id.map(StopReason::Token)),
        };
        self.meter.end(Ending::Finished(reason), at);
        self.pending.finish = Some(ChoiceFinish { reason, stop_reason });
        std::mem::take(&mut self.pending)
    }
}
