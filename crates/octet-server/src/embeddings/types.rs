//! `/v1/embeddings` as it travels.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::json::{Flag, Integer};
use crate::parameters::TruncationSide;
use crate::prompts::Prompt;
use crate::usage::Usage;

/// All fields. Every one may be left out or null, but for `input`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "an object")]
pub(crate) struct EmbeddingFields {
    pub(crate) model: Option<String>,
    pub(crate) input: Option<Prompt>,
    pub(crate) encoding_format: Option<String>,
    pub(crate) dimensions: Option<Integer>,
    pub(crate) use_activation: Option<Flag>,
    pub(crate) truncate_prompt_tokens: Option<Integer>,
    pub(crate) truncation_side: Option<TruncationSide>,
    pub(crate) add_special_tokens: Option<Flag>,
    pub(crate) priority: Option<Integer>,
    pub(crate) request_id: Option<String>,
    pub(crate) cache_salt: Option<String>,
    // The fields below would change the result. They are refused unless they ask for what is done by default.
    pub(crate) normalize: Option<Value>,
    pub(crate) messages: Option<Value>,
    pub(crate) embed_dtype: Option<String>,
    pub(crate) endianness: Option<String>,
    pub(crate) padding: Option<String>,
}

/// How vectors are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EncodingFormat {
    /// A list of numbers.
    Float,
    /// Their bits, little-endian, in base64.
    Base64,
}

/// The answer.
#[derive(Debug, Serialize)]
pub(crate) struct EmbeddingResponse {
    pub(crate) id: String,
    pub(crate) object: &'static str,
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) data: Vec<EmbeddingData>,
    pub(crate) usage: Usage,
}

/// The vector of one input.
#[derive(Debug, Serialize)]
pub(crate) struct EmbeddingData {
    pub(crate) index: usize,
    pub(crate) object: &'static str,
    pub(crate) embedding: Vector,
}

/// A vector as it is written.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Vector {
    Numbers(Vec<f32>),
    Base64(String),
}
