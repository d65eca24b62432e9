//! `/v1/completions` as it travels.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::json::{Flag, Integer};
use crate::prompts::Prompt;
use crate::usage::Usage;

/// The endpoint's own fields; the rest are [`crate::parameters::ParameterFields`].
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "an object")]
pub(crate) struct CompletionFields {
    pub(crate) prompt: Option<Prompt>,
    pub(crate) max_tokens: Option<Integer>,
    pub(crate) logprobs: Option<Integer>,
    pub(crate) echo: Option<Flag>,
    pub(crate) suffix: Option<String>,
    pub(crate) prompt_embeds: Option<Value>,
}

/// The whole answer.
#[derive(Debug, Serialize)]
pub(crate) struct CompletionResponse {
    pub(crate) id: String,
    pub(crate) object: &'static str,
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) choices: Vec<CompletionChoice>,
    pub(crate) service_tier: Option<&'static str>,
    pub(crate) system_fingerprint: &'static str,
    pub(crate) usage: Usage,
    pub(crate) kv_transfer_params: Option<Value>,
}

/// One sequence of it.
#[derive(Debug, Serialize)]
pub(crate) struct CompletionChoice {
    pub(crate) index: usize,
    pub(crate) text: String,
    pub(crate) logprobs: Option<CompletionLogprobs>,
    pub(crate) finish_reason: &'static str,
    pub(crate) stop_reason: Option<crate::generation::StopReason>,
    pub(crate) token_ids: Option<Vec<u32>>,
    pub(crate) prompt_logprobs: Option<Vec<Option<Value>>>,
    pub(crate) prompt_token_ids: Option<Vec<u32>>,
}

/// A piece of a streamed answer.
#[derive(Debug, Serialize)]
pub(crate) struct CompletionChunk<'a> {
    pub(crate) id: &'a str,
    pub(crate) object: &'static str,
    pub(crate) created: u64,
    pub(crate) model: &'a str,
    pub(crate) choices: Vec<CompletionChunkChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) usage: Option<Usage>,
}

/// One sequence's part of it.
#[derive(Debug, Serialize)]
pub(crate) struct CompletionChunkChoice {
    pub(crate) index: usize,
    pub(crate) text: String,
    pub(crate) logprobs: Option<CompletionLogprobs>,
    pub(crate) finish_reason: Option<&'static str>,
    pub(crate) stop_reason: Option<crate::generation::StopReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_ids: Option<Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompt_token_ids: Option<Vec<u32>>,
}

/// Four lists of the same length, one entry a token.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(crate) struct CompletionLogprobs {
    /// Where the token's text begins, in characters.
    pub(crate) text_offset: Vec<usize>,
    pub(crate) token_logprobs: Vec<Option<f32>>,
    pub(crate) tokens: Vec<String>,
    pub(crate) top_logprobs: Vec<Option<Map<String, Value>>>,
}
