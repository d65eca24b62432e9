//! One request: what is sent, and what is measured while the answer streams in.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::super::dataset::{Prompt, Sample};
use crate::cli::bench::Api;
use crate::client::http::Http;
use crate::client::sse::{DONE, Events};

/// Where requests go, and what all of them say.
pub(super) struct Target {
    /// The server.
    pub(super) http: Http,
    /// URL of requests.
    pub(super) url: String,
    /// What it speaks.
    pub(super) api: Api,
    /// The model that requests name.
    pub(super) model: String,
    /// Sampling and whatever else the user wants; wins over all others.
    pub(super) extra: Map<String, Value>,
    /// Whether generated text is kept.
    pub(super) keeps_text: bool,
}

/// What became of a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Outcome {
    /// From the start of the run to the moment of sending.
    pub(super) started: Duration,
    /// How long it waited in the client after it had arrived.
    pub(super) queued: Duration,
    /// Tokens of the prompt, as the server counts them if it does.
    pub(super) prompt_len: usize,
    /// Tokens generated.
    pub(super) output_len: usize,
    /// Whether chunks were counted because the server reports no usage.
    pub(super) counts_chunks: bool,
    /// From sending to the first chunk with a token.
    pub(super) first: Duration,
    /// Between chunks, seconds.
    pub(super) gaps: Vec<f64>,
    /// From sending to the last chunk with a token.
    pub(super) latency: Duration,
    /// What was generated, if that is kept.
    pub(super) text: String,
    /// Why it failed.
    pub(super) error: Option<String>,
}

impl Target {
    /// The body of a request, as vLLM's benchmark sends it.
    fn body(&self, sample: &Sample) -> Value {
        let mut body = match self.api {
            Api::Openai | Api::Vllm => json!({
                "model": self.model,
                "prompt": match &sample.prompt {
                    Prompt::Tokens(ids) => json!(ids),
                    Prompt::Text(text) => json!(text),
                },
                "repetition_penalty": 1.0,
                "max_tokens": sample.output_len,
            }),
            Api::OpenaiChat => json!({
                "model": self.model,
                "messages": [{
                    "role": "user",
                    "content": match &sample.prompt {
                        Prompt::Text(text) => text.as_str(),
                        // Refused when the source of prompts is made.
                        Prompt::Tokens(_) => "",
                    },
                }],
                "max_completion_tokens": sample.output_len,
            }),
        };
        body["stream"] = json!(true);
        body["stream_options"] = json!({ "include_usage": true });
        for (name, value) in &self.extra {
            body[name] = value.clone();
        }
        body
    }

    /// Sends a request that has arrived at `arrival` after `start` and reads its answer to the end. A failure is an
    /// outcome too.
    pub(super) fn perform(
        &self,
        sample: &Sample,
        id: Option<&str>,
        start: Instant,
        arrival: Duration,
    ) -> Outcome {
        let body = self.body(sample).to_string();
        let sent = Instant::now();
        let started = sent.saturating_duration_since(start);
        let mut meter = Meter { keeps_text: self.keeps_text, ..Meter::default() };
        let error = self.stream(id, &body, sent, &mut meter).and_then(|()| meter.check()).err();
        Outcome {
            started,
            queued: started.saturating_sub(arrival),
            error: error.map(|error| format!("{error:#}")),
            ..meter.into_outcome(sample)
        }
    }

    fn stream(&self, id: Option<&str>, body: &str, sent: Instant, meter: &mut Meter) -> Result<()> {
        let mut events = Events::new(self.http.post(&self.url, id, body)?);
        while let Some(data) = events.next().context("the answer broke off")? {
            if meter.take(data, sent.elapsed())? {
                // To the end of the body, so that the connection can be used again.
                while events.next().is_ok_and(|event| event.is_some()) {}
                break;
            }
        }
        Ok(())
    }
}

/// What a chunk can say that matters here.
#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow, default)]
    choices: Vec<Choice<'a>>,
    usage: Option<Usage>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
    #[serde(borrow)]
    finish_reason: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    role: Option<Cow<'a, str>>,
    #[serde(borrow)]
    content: Option<Cow<'a, str>>,
    #[serde(borrow, alias = "reasoning_content")]
    reasoning: Option<Cow<'a, str>>,
}

#[derive(Clone, Copy, Deserialize)]
struct Usage {
    prompt_tokens: Option<usize>,
    completion_tokens: Option<usize>,
}

impl Choice<'_> {
    /// Whether it only opens a chat's answer: servers may send that before any token.
    fn only_names_the_role(&self) -> bool {
        let is_empty = |text: &Option<Cow<'_, str>>| text.as_ref().is_none_or(|text| text.is_empty());
        self.finish_reason.is_none()
            && self.delta.as_ref().is_some_and(|delta| {
                delta.role.is_some() && is_empty(&delta.content) && is_empty(&delta.reasoning)
            })
    }

    fn content(&self) -> &str {
        let delta = self.delta.as_ref().and_then(|delta| delta.content.as_deref());
        self.text.as_deref().or(delta).unwrap_or_default()
    }
}

/// Measures one stream.
#[derive(Default)]
struct Meter {
    keeps_text: bool,
    first: Option<Duration>,
    last: Duration,
    gaps: Vec<f64>,
    text: String,
    usage: Option<Usage>,
    ended: bool,
}

impl Meter {
    /// Takes an event's data, which came `now` after sending; whether it was the last.
    ///
    /// # Errors
    /// The server gave up, or sent something else than a chunk.
    fn take(&mut self, data: &str, now: Duration) -> Result<bool> {
        if data == DONE {
            self.ended = true;
            return Ok(true);
        }
        let chunk: Chunk<'_> = serde_json::from_str(data).with_context(|| format!("not a chunk: {data}"))?;
        if let Some(error) = chunk.error {
            let message = error["message"].as_str().map_or_else(|| error.to_string(), str::to_owned);
            bail!("the server gave up: {message}");
        }
        self.usage = chunk.usage.or(self.usage);
        let Some(choice) = chunk.choices.first() else { return Ok(false) };
        self.ended |= choice.finish_reason.is_some();
        if choice.only_names_the_role() {
            return Ok(false);
        }
        match self.first {
            None => self.first = Some(now),
            Some(_) => self.gaps.push(now.saturating_sub(self.last).as_secs_f64()),
        }
        self.last = now;
        if self.keeps_text {
            self.text.push_str(choice.content());
        }
        Ok(false)
    }

    /// Whether the stream was whole.
    fn check(&self) -> Result<()> {
        if !self.ended {
            bail!("the answer broke off: the server closed the connection");
        }
        if self.first.is_none() {
            bail!("the answer had no token");
        }
        Ok(())
    }

    fn into_outcome(self, sample: &Sample) -> Outcome {
        let reported = self.usage.and_then(|usage| usage.completion_tokens);
        let chunks = self.gaps.len() + usize::from(self.first.is_some());
        Outcome {
            prompt_len: self.usage.and_then(|usage| usage.prompt_tokens).unwrap_or(sample.prompt_len),
            output_len: reported.unwrap_or(chunks),
            counts_chunks: reported.is_none() && chunks > 0,
            first: self.first.unwrap_or_default(),
            gaps: self.gaps,
            latency: self.last,
            text: self.text,
            ..Outcome::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Sample {
        Sample { prompt: Prompt::Text("hi".to_owned()), prompt_len: 2, output_len: 3 }
    }

    /// Takes events that come every ten milliseconds.
    fn measured(events: &[&str]) -> Result<Outcome> {
        let mut meter = Meter { keeps_text: true, ..Meter::default() };
        for (event, index) in events.iter().zip(1..) {
            meter.take(event, Duration::from_millis(10 * index))?;
        }
        meter.check()?;
        Ok(meter.into_outcome(&sample()))
    }

    #[test]
    fn chunks_are_timed_and_usage_counts_tokens() {
        let outcome = measured(&[
            r#"{"choices": [{"text": "a", "finish_reason": null}], "usage": null}"#,
            r#"{"choices": [{"text": "", "logprobs": null}]}"#,
            r#"{"choices": [{"text": "\"c", "finish_reason": "length"}]}"#,
            r#"{"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}}"#,
            DONE,
        ])
        .unwrap();
        assert_eq!((outcome.first, outcome.latency), (Duration::from_millis(10), Duration::from_millis(30)));
        assert_eq!(outcome.gaps, [0.01, 0.01]);
        assert_eq!((outcome.prompt_len, outcome.output_len, outcome.counts_chunks), (5, 7, false));
        assert_eq!(outcome.text, "a\"c");
    }

    #[test]
    fn without_usage_chunks_are_counted() {
        let outcome = measured(&[
            r#"{"choices": [{"text": "a"}]}"#,
            r#"{"choices": [{"text": "b", "finish_reason": "stop"}]}"#,
        ])
        .unwrap();
        assert_eq!((outcome.prompt_len, outcome.output_len, outcome.counts_chunks), (2, 2, true));
    }

    #[test]
    fn a_role_is_no_token() {
        let outcome = measured(&[
            r#"{"choices": [{"delta": {"role": "assistant", "content": ""}}]}"#,
            r#"{"choices": [{"delta": {"content": "x"}}]}"#,
            r#"{"choices": [{"delta": {"reasoning_content": "y"}}]}"#,
            DONE,
        ])
        .unwrap();
        assert_eq!((outcome.first, outcome.output_len), (Duration::from_millis(20), 2));
        assert_eq!(outcome.text, "x");
    }

    #[test]
    fn what_is_not_whole_has_failed() {
        let message = |events: &[&str]| format!("{:#}", measured(events).unwrap_err());
        assert!(message(&[r#"{"choices": [{"text": "a"}]}"#]).contains("broke off"));
        assert!(message(&[DONE]).contains("no token"));
        assert!(message(&["<html>"]).starts_with("not a chunk: <html>"));
        assert_eq!(message(&[r#"{"error": {"message": "no memory"}}"#]), "the server gave up: no memory");
        assert_eq!(message(&[r#"{"error": "x"}"#]), "the server gave up: \"x\"");
    }

    fn target(api: Api, extra: Value) -> Target {
        Target {
            http: Http::new(Vec::new(), "--base-url", 1, true),
            url: String::new(),
            api,
            model: "m".to_owned(),
            extra: serde_json::from_value(extra).unwrap(),
            keeps_text: false,
        }
    }

    #[test]
    fn bodies_are_those_of_vllms_benchmark() {
        let tokens = Sample { prompt: Prompt::Tokens(vec![1, 2]), prompt_len: 2, output_len: 3 };
        let body = target(Api::Openai, json!({ "ignore_eos": true, "max_tokens": 9 })).body(&tokens);
        let expected = json!({
            "model": "m", "prompt": [1, 2], "repetition_penalty": 1.0, "max_tokens": 9, "stream": true,
            "stream_options": { "include_usage": true }, "ignore_eos": true,
        });
        assert_eq!(body, expected);
        let body = target(Api::OpenaiChat, json!({})).body(&sample());
        assert_eq!(body["messages"], json!([{ "role": "user", "content": "hi" }]));
        assert_eq!((&body["max_completion_tokens"], body.get("max_tokens")), (&json!(3), None));
    }
}
