//! A connection to a server: its URL, its key, and the model that is asked.

use std::io::{BufReader, Read};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;
use ureq::http::Response;
use ureq::{Agent, Body};

use super::ClientArgs;

/// Ready to send requests.
pub(crate) struct Connection {
    agent: Agent,
    base: String,
    key: Option<String>,
    /// The model that requests name.
    pub(crate) model: String,
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
        let mut connection = Self { agent, base, key: arguments.api_key.clone(), model: String::new() };
        connection.model = match &arguments.model_name {
            Some(name) => name.clone(),
            None => connection.first_model()?,
        };
        Ok(connection)
    }

    fn first_model(&self) -> Result<String> {
        let url = format!("{}/models", self.base);
        let mut request = self.agent.get(&url);
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let response = request.call().with_context(|| self.unreachable(&url))?;
        let models: Value = serde_json::from_reader(self.accepted(response)?)
            .with_context(|| format!("{url} did not answer with JSON"))?;
        let name = models["data"][0]["id"].as_str();
        name.map(str::to_owned).ok_or_else(|| anyhow!("{url} lists no model"))
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
        bail!("{} answered {status}: {}", self.base, message.unwrap_or(text))
    }

    fn unreachable(&self, url: &str) -> String {
        format!(
            "no answer from {url}; is the server running? Start one with `octet serve`, or name another with --url"
        )
    }
}
