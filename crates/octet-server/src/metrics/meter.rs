//! Follows one sequence through its stages.

use std::sync::Arc;
use std::time::{Duration, Instant};

use octet_engine::FinishReason;

use super::Metrics;

/// How a sequence ended, for `vllm:request_success`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// By its own end, or given up.
    Finished(FinishReason),
    /// By a fault.
    Error,
}

impl Ending {
    pub(super) const ALL: [Self; 4] = [
        Self::Finished(FinishReason::Stop),
        Self::Finished(FinishReason::Length),
        Self::Finished(FinishReason::Abort),
        Self::Error,
    ];

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Finished(reason) => reason.name(),
            Self::Error => "error",
        }
    }
}

/// Times of one sequence, by the engine's stamps; observed as they come, and once more at the end.
pub(crate) struct Meter {
    metrics: Arc<Metrics>,
    arrived: Instant,
    started: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    prompt_tokens: usize,
    cached_tokens: usize,
    generated: usize,
    max_tokens: usize,
    is_ended: bool,
}

impl Meter {
    pub(crate) fn new(
        metrics: Arc<Metrics>,
        arrived: Instant,
        prompt_tokens: usize,
        max_tokens: usize,
    ) -> Self {
        Self {
            metrics,
            arrived,
            started: None,
            first_token: None,
            last_token: None,
            prompt_tokens,
            cached_tokens: 0,
            generated: 0,
            max_tokens,
            is_ended: false,
        }
    }

    /// The engine began with the prompt.
    pub(crate) fn started(&mut self, at: Instant, cached_tokens: usize) {
        self.started = Some(at);
        self.cached_tokens = cached_tokens;
    }

    /// A token came.
    pub(crate) fn token(&mut self, at: Instant) {
        self.generated += 1;
        let histograms = &self.metrics.sequences;
        match self.last_token {
            Some(last) => histograms.inter_token.observe(seconds(last, at)),
            None => {
                self.first_token = Some(at);
                histograms.time_to_first_token.observe(seconds(self.arrived, at));
                let computed = self.prompt_tokens.saturating_sub(self.cached_tokens);
                self.metrics.count_prompt(self.cached_tokens as u64, computed as u64);
            }
        }
        self.last_token = Some(at);
    }

    /// The vector of the prompt came.
    pub(crate) fn pooled(&mut self, at: Instant) {
        let computed = self.prompt_tokens.saturating_sub(self.cached_tokens);
        self.metrics.count_prompt(self.cached_tokens as u64, computed as u64);
        self.last_token = Some(at);
    }

    /// The end: the first one counts.
    pub(crate) fn end(&mut self, ending: Ending, at: Instant) {
        if std::mem::replace(&mut self.is_ended, true) {
            return;
        }
        self.metrics.count_end(ending);
        let histograms = &self.metrics.sequences;
        histograms.prompt_tokens.observe(self.prompt_tokens as f64);
        histograms.generation_tokens.observe(self.generated as f64);
        histograms.max_tokens.observe(self.max_tokens as f64);
        histograms.end_to_end.observe(seconds(self.arrived, at));
        let Some(started) = self.started else {
            histograms.queue.observe(seconds(self.arrived, at));
            return;
        };
        histograms.queue.observe(seconds(self.arrived, started));
        histograms.inference.observe(seconds(started, self.last_token.unwrap_or(at)));
        let computed = self.prompt_tokens.saturating_sub(self.cached_tokens);
        histograms.computed_prompt_tokens.observe(computed as f64);
        if let (Some(first), Some(last)) = (self.first_token, self.last_token) {
            histograms.prefill.observe(seconds(started, first));
            histograms.decode.observe(seconds(first, last));
            if self.generated > 1 {
                let gaps = (self.generated - 1) as f64;
                histograms.per_output_token.observe(seconds(first, last) / gaps);
            }
        }
    }
}

impl Drop for Meter {
    /// Counts a sequence that was dropped before its end as aborted.
    fn drop(&mut self) {
        self.end(Ending::Finished(FinishReason::Abort), Instant::now());
    }
}

/// Zero rather than a panic where two clocks' readings cross.
fn seconds(from: Instant, to: Instant) -> f64 {
    to.checked_duration_since(from).unwrap_or(Duration::ZERO).as_secs_f64()
}
