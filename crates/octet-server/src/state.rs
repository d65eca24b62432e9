//! What all handlers share.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::{SystemTime, UNIX_EPOCH};

use octet_engine::EngineHandle;
use tokio::sync::watch;

use crate::auth::ApiKeys;
use crate::config::ServerConfig;
use crate::connection::Phase;
use crate::error::ApiError;
use crate::intake::Intake;
use crate::metrics::Metrics;
use crate::model::Model;
use crate::outline::IgnoredFields;
use crate::parameters::{Rules, SeedSource, Truncation, TruncationSide};

/// The server's state: made once by [`crate::serve`], shared by all handlers. Only the metrics, the seeds and the two
/// atomics change.
pub(crate) struct App {
    pub(crate) config: ServerConfig,
    pub(crate) model: Model,
    pub(crate) engine: EngineHandle,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) keys: ApiKeys,
    pub(crate) intake: Intake,
    pub(crate) seeds: SeedSource,
    /// Fields of requests that were ignored.
    pub(crate) ignored: IgnoredFields,
    /// Generation requests in progress, for `/load`.
    pub(crate) load: AtomicI64,
    /// How far the server is on its way to the end. Once that was asked for, refusals are not the engine's fault.
    pub(crate) phase: watch::Sender<Phase>,
    /// Bytes of the longest token: no text longer than the model's length times this can fit.
    longest_token_bytes: usize,
    /// When the server started, seconds since 1970.
    pub(crate) started: u64,
}

impl App {
    pub(crate) fn new(config: ServerConfig, model: Model, engine: EngineHandle) -> Self {
        let longest_token_bytes = (0..u32::try_from(model.tokenizer.vocabulary_size()).unwrap_or(u32::MAX))
            .map(|id| model.tokenizer.token_bytes(id).len())
            .max()
            .unwrap_or(0);
        let metrics = Arc::new(Metrics::new(&config, &model, engine.clone()));
        let keys = ApiKeys::new(&config.api_keys.0);
        let seeds = SeedSource::new(config.seed);
        let intake = Intake::new(&config.limits);
        Self {
            config,
            model,
            engine,
            metrics,
            keys,
            intake,
            seeds,
            ignored: IgnoredFields::default(),
            load: AtomicI64::new(0),
            phase: watch::Sender::new(Phase::Open),
            longest_token_bytes,
            started: unix_seconds(),
        }
    }

    pub(crate) fn stopping(&self) -> bool {
        *self.phase.borrow() > Phase::Open
    }

    /// Goes on towards the end; never back.
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.send_if_modified(|current| {
            let goes_on = phase > *current;
            *current = phase.max(*current);
            goes_on
        });
    }

    /// What a check of parameters needs to know.
    pub(crate) fn rules(&self) -> Rules<'_> {
        Rules {
            limits: self.config.limits,
            defaults: self.config.generation_defaults,
            priority_scheduling: self.config.priority_scheduling,
            tokens_as_token_ids: self.config.responses.return_tokens_as_token_ids,
            force_include_usage: self.config.responses.force_include_usage,
            stream_interval: self.config.responses.stream_interval,
            logprobs_mode: self.config.logprobs_mode,
            vocabulary_size: self.model.vocabulary_size,
            max_model_len: self.model.max_model_len,
            eos_token_id: self.model.eos_token_id,
            stop_token_ids: &self.model.stop_token_ids,
        }
    }

    /// Refuses a name that is not ours; without a name the request means the served model.
    pub(crate) fn check_model(&self, name: Option<&str>) -> Result<(), ApiError> {
        match name {
            Some(name) if !name.is_empty() && !self.model.answers_to(name) => Err(ApiError::UnknownModel {
                requested: name.to_owned(),
                served: self.model.names.join(", "),
            }),
            _ => Ok(()),
        }
    }

    /// The ids of a prompt's text. A tokenizer may have tokens that the model does not embed: text with them is refused.
    pub(crate) fn encode(
        &self,
        field: &'static str,
        text: &str,
        add_special_tokens: bool,
    ) -> Result<Vec<u32>, ApiError> {
        let tokenizer = &self.model.tokenizer;
        let tokens = tokenizer.encode(text, add_special_tokens)?;
        let rows = self.model.vocabulary_size;
        match tokens.iter().find(|token| **token as usize >= rows) {
            None => Ok(tokens),
            Some(token) => {
                let text = tokenizer.token_text(*token).unwrap_or_default();
                let message = format!(
                    "{field} has the token {text:?} with the id {token}, and the model embeds ids from 0 to {}",
                    rows.saturating_sub(1)
                );
                Err(ApiError::invalid(field, message))
            }
        }
    }

    /// The part of a prompt's text that can count: as many tokens as the model reads hold no more bytes. Without leave to
    /// cut, a text that is longer is refused before any work is done on it; so does vLLM.
    pub(crate) fn within_reach<'t>(
        &self,
        text: &'t str,
        truncation: Option<Truncation>,
    ) -> Result<Cow<'t, str>, ApiError> {
        let max_model_len = self.model.max_model_len;
        let longest = max_model_len.saturating_mul(self.longest_token_bytes.max(1));
        if text.len() <= longest {
            return Ok(Cow::Borrowed(text));
        }
        match truncation.map(|truncation| truncation.side) {
            None => Err(ApiError::PromptTextTooLong { max_model_len, bytes: text.len() }),
            Some(TruncationSide::Right) => Ok(Cow::Borrowed(&text[..text.floor_char_boundary(longest)])),
            Some(TruncationSide::Left) => {
                let end = &text[text.ceil_char_boundary(text.len() - longest)..];
                // A template writes the beginning of sequence itself, and it stays.
                let bos = self.model.tokenizer.bos().map(|bos| bos.text.as_str());
                let kept = bos.filter(|bos| !bos.is_empty() && text.starts_with(bos));
                Ok(kept.map_or(Cow::Borrowed(end), |bos| Cow::Owned([bos, end].concat())))
            }
        }
    }
}

/// Seconds since 1970, for `created`.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}
