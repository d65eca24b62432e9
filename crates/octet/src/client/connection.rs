//! A connection to a server: its URL, its key, and the model that is asked.

use std::io::{BufReader, Read};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

use super::ClientArgs;

/// The server answered, and refused.
#[derive(Debug, thiserror::Error)]
#[error("{server} answered {status}: {message}")]
pub(crate) struct Refusal {
    server: String,
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

/// Ready to send requests.
pub(crate) struct Connection {
    agent: Agent,
    base: String,
    key: Option<String>,
    /// The model that requests name.
    pub(crate) model: String,
    /// Its longest sequence, if the server says so.
    pub(crate) max_model_len: Option<u64>,
}

impl Connection {
    /// Finds the server, and its model if none was named.
    ///
    /// # Errors
    /// The server cannot be reached, refuses the key, or serves nothing.
    pub(crate) fn open(arguments: &ClientArgs) -> Result<Self> {
        // A refusal has a body that says why: it must not become a bare status.
        let agent = Agent::config_builder().http_status_as_error(false).build().new_agent();
        let base = arguments.url.trim_end_matches('/').to_owned();
        let key = arguments.api_key.clone();
        let mut connection = Self { agent, base, key, model: String::new(), max_model_len: None };
        if let Some(name) = &arguments.model_name {
            connection.model.clone_from(name);
        } else {
            (connection.model, connection.max_model_len) = connection.first_model()?;
        }
        Ok(connection)
    }

    fn first_model(&self) -> Result<(String, Option<u64>)> {
        let url = format!("{}/models", self.base);
        let mut request = self.agent.get(&url);
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let response = request.call().with_context(|| self.unreachable(&url))?;
        let models: Value = serde_json::from_reader(self.accepted(response)?)
            .with_context(|| format!("{url} did not answer with JSON"))?;
        let first = &models["data"][0];
        let name = first["id"].as_str().ok_or_else(|| anyhow!("{url} lists no model"))?;
        Ok((name.to_owned(), first["max_model_len"].as_u64()))
    }

    /// Sends a request; the body of the answer is read as it comes.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request: the message is the server's own.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<BufReader<impl Read + use<>>> {
        let url = format!("{}{path}", self.base);
        let mut request = self.agent.post(&url).header("content-type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let text = serde_json::to_string(body).context("the request cannot be written as JSON")?;
        let response = request.send(text).with_context(|| self.unreachable(&url))?;
        self.accepted(response)
    }

    fn accepted(&self, response: Response<Body>) -> Result<BufReader<impl Read + use<>>> {
        let status = response.status();
        // An answer is as long as the model makes it.
        let mut body = response.into_body().into_with_config().limit(u64::MAX).reader();
        if status.is_success() {
            return Ok(BufReader::new(body));
        }
        let mut text = String::new();
        body.read_to_string(&mut text).with_context(|| format!("{} answered {status}", self.base))?;
        let error: Option<Value> = serde_json::from_str(&text).ok();
        let message = error.as_ref().and_then(|error| {
            error["error"]["message"].as_str().or_else(|| error["error"].as_str()).map(str::to_owned)
        });
        bail!(Refusal { server: self.base.clone(), status, message: message.unwrap_or(text) })
    }

    fn unreachable(&self, url: &str) -> String {
        format!(
            "no answer from {url}; is the server running? Start one with `octet serve`, or name another with --url"
        )
    }
}
