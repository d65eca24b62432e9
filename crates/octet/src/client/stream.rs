//! Streamed answers: server-sent events to text, with times.

use std::fmt;
use std::io::BufRead;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::sse::{DONE, Events};

/// What an answer took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct AnswerStats {
    prompt_tokens: u64,
    completion_tokens: u64,
    /// From the request to the first text.
    first: Duration,
    /// From the first text to the last.
    rest: Duration,
}

impl AnswerStats {
    /// Prompt and answer together, if the server counted.
    pub(super) fn total_tokens(&self) -> u64 {
        self.prompt_tokens + self.completion_tokens
    }
}

impl fmt::Display for AnswerStats {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { prompt_tokens, completion_tokens, first, rest } = self;
        write!(
            formatter,
            "{prompt_tokens} prompt tokens, {completion_tokens} tokens; first after {:.3} s",
            first.as_secs_f64()
        )?;
        // The first token is the prompt's work; only the others say how fast tokens come.
        let seconds = rest.as_secs_f64();
        if *completion_tokens > 1 && seconds > 0.0 {
            write!(formatter, ", then {:.1} tokens/s", (completion_tokens - 1) as f64 / seconds)?;
        }
        Ok(())
    }
}

/// Reads the events of one answer and hands over each piece of text as it comes.
///
/// # Errors
/// The connection broke, the server sent an error, or the stream ended before its end marker.
pub(super) fn read(
    reader: &mut dyn BufRead,
    begun: Instant,
    mut take: impl FnMut(&str) -> Result<()>,
) -> Result<AnswerStats> {
    let mut stats = AnswerStats::default();
    let mut first = None;
    let mut events = Events::new(reader);
    loop {
        let Some(data) = events.next().context("the answer broke off")? else {
            bail!("the answer broke off: the server closed the connection");
        };
        if data == DONE {
            return Ok(stats);
        }
        let event: Value = serde_json::from_str(data).with_context(|| format!("not an event: {data}"))?;
        if let Some(message) = event["error"]["message"].as_str() {
            bail!("the server gave up: {message}");
        }
        let usage = &event["usage"];
        if usage.is_object() {
            stats.prompt_tokens = usage["prompt_tokens"].as_u64().unwrap_or_default();
            stats.completion_tokens = usage["completion_tokens"].as_u64().unwrap_or_default();
        }
        let choice = &event["choices"][0];
        let text =
            choice["text"].as_str().or_else(|| choice["delta"]["content"].as_str()).unwrap_or_default();
        if !text.is_empty() {
            let now = Instant::now();
            let first = *first.get_or_insert(now);
            stats.first = first - begun;
            stats.rest = now - first;
            take(text)?;
        }
    }
}
