//! A connection to a server: its URL, its key, and the model that is asked.

use std::io::{BufReader, Read};

use anyhow::{Context, Result};
use serde_json::Value;

use super::ClientArgs;
use super::http::{self, Http};

/// Ready to send requests.
pub(crate) struct Connection {
    http: Http,
    base: String,
    /// The model that requests name.
    pub(crate) model: String,
    /// Its longest sequence, if the server says so.
    pub(crate) max_model_len: Option<u64>,
}

impl Connection {
    /// Finds the model to use: the one named, or the first that the server has.
    ///
    /// # Errors
    /// The server cannot be reached, refuses the key, or serves nothing.
    pub(crate) fn open(arguments: &ClientArgs) -> Result<Self> {
        // An empty OPENAI_API_KEY means none.
        let key = arguments.api_key.iter().filter(|key| !key.is_empty());
        let key = key.map(|key| ("authorization".to_owned(), format!("Bearer {key}")));
        let http = Http::new(key.collect(), "--url", 1, true);
        let base = arguments.url.trim_end_matches('/').to_owned();
        let (model, max_model_len) = match &arguments.model_name {
            Some(name) => (name.clone(), None),
            None => {
                let first = http::first_model(&http, &base)?;
                (first["id"].as_str().unwrap_or_default().to_owned(), first["max_model_len"].as_u64())
            }
        };
        Ok(Self { http, base, model, max_model_len })
    }

    /// Sends a request; the body of the answer is read as it comes.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request: the message is the server's own.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<BufReader<impl Read + use<>>> {
        let text = serde_json::to_string(body).context("the request cannot be written as JSON")?;
        self.http.post(&format!("{}{path}", self.base), None, &text)
    }
}
