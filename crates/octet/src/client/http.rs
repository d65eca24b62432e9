//! HTTP as every client here speaks it: JSON out, JSON or a stream of events back, and the server's own words on refusal.

use std::io::{BufReader, Read};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use ureq::http::{Response, StatusCode};
use ureq::tls::TlsConfig;
use ureq::{Agent, Body, RequestBuilder};

/// The longest that one answer may take: what vLLM's benchmark client waits.
const LONGEST_ANSWER: Duration = Duration::from_secs(6 * 60 * 60);

/// Bytes of each of a connection's two buffers. Many connections may be open, and events are short.
const BUFFER_BYTES: usize = 16 << 10;

/// The server answered, and refused.
#[derive(Debug, thiserror::Error)]
#[error("{url} answered {status}: {message}")]
pub(crate) struct Refusal {
    url: String,
    status: StatusCode,
    /// The server's own words.
    pub(crate) message: String,
}

impl Refusal {
    /// Whether the request was longer than the model's context. The words are those of OpenAI and vLLM: there is no
    /// code for it.
    pub(crate) fn is_about_length(&self) -> bool {
        self.status == StatusCode::BAD_REQUEST && self.message.contains("maximum context length")
    }
}

/// Sends requests to one server and keeps its connections.
pub(crate) struct Http {
    agent: Agent,
    /// Sent with every request.
    headers: Vec<(String, String)>,
    /// The flag that names the server, for the message when it is not there.
    flag: &'static str,
}

impl Http {
    /// A client that keeps up to `connections` open between requests. `verifies` says whether certificates are checked.
    pub(crate) fn new(
        headers: Vec<(String, String)>,
        flag: &'static str,
        connections: usize,
        verifies: bool,
    ) -> Self {
        let agent = Agent::config_builder()
            // A refusal has a body that says why: it must not become a bare status.
            .http_status_as_error(false)
            // A compressed stream would arrive in lumps.
            .accept_encoding("identity")
            .input_buffer_size(BUFFER_BYTES)
            .output_buffer_size(BUFFER_BYTES)
            .max_idle_connections(connections)
            .max_idle_connections_per_host(connections)
            .timeout_global(Some(LONGEST_ANSWER))
            .tls_config(TlsConfig::builder().disable_verification(!verifies).build())
            .build()
            .new_agent();
        Self { agent, headers, flag }
    }

    /// The JSON at `url`.
    ///
    /// # Errors
    /// The server cannot be reached, refuses, or answers with something else.
    pub(crate) fn get(&self, url: &str) -> Result<Value> {
        let request = self.with_headers(self.agent.get(url));
        let response = request.call().with_context(|| self.unreachable(url))?;
        serde_json::from_reader(accepted(url, response)?)
            .with_context(|| format!("{url} did not answer with JSON"))
    }

    /// Sends JSON; the body of the answer is read as it comes.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request: the message is the server's own.
    pub(crate) fn post(
        &self,
        url: &str,
        id: Option<&str>,
        body: &str,
    ) -> Result<BufReader<impl Read + use<>>> {
        let request = self.with_headers(self.agent.post(url)).header("content-type", "application/json");
        let request = match id {
            Some(id) => request.header("x-request-id", id),
            None => request,
        };
        accepted(url, request.send(body).with_context(|| self.unreachable(url))?)
    }

    fn with_headers<B>(&self, request: RequestBuilder<B>) -> RequestBuilder<B> {
        self.headers.iter().fold(request, |request, (name, value)| request.header(name, value))
    }

    fn unreachable(&self, url: &str) -> String {
        format!(
            "no answer from {url}; is the server running? Start one with `octet serve`, or name another with {}",
            self.flag
        )
    }
}

/// The first model that the API below `base` lists.
///
/// # Errors
/// As [`Http::get`]; a list without a model.
pub(crate) fn first_model(http: &Http, base: &str) -> Result<Value> {
    let url = format!("{base}/models");
    let mut models = http.get(&url)?;
    match models["data"].get_mut(0) {
        Some(model) if model["id"].is_string() => Ok(model.take()),
        _ => bail!("{url} lists no model"),
    }
}

fn accepted(url: &str, response: Response<Body>) -> Result<BufReader<impl Read + use<>>> {
    let status = response.status();
    // An answer is as long as the model makes it.
    let mut body = response.into_body().into_with_config().limit(u64::MAX).reader();
    if status.is_success() {
        return Ok(BufReader::new(body));
    }
    let mut text = String::new();
    body.read_to_string(&mut text).with_context(|| format!("{url} answered {status}"))?;
    let error: Option<Value> = serde_json::from_str(&text).ok();
    let message = error.as_ref().and_then(|error| {
        error["error"]["message"].as_str().or_else(|| error["error"].as_str()).map(str::to_owned)
    });
    bail!(Refusal { url: url.to_owned(), status, message: message.unwrap_or(text) })
}
