//! `/v1/chat/completions` as it travels.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::generation::StopReason;
use crate::json::{Flag, Integer};
use crate::usage::Usage;

/// The endpoint's own fields; the rest are [`crate::parameters::ParameterFields`] and [`ConversationFields`].
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "an object")]
pub(crate) struct ChatFields {
    pub(crate) max_tokens: Option<Integer>,
    pub(crate) max_completion_tokens: Option<Integer>,
    pub(crate) logprobs: Option<Flag>,
    pub(crate) top_logprobs: Option<Integer>,
    pub(crate) echo: Option<Flag>,
    pub(crate) tool_choice: Option<Value>,
    pub(crate) functions: Option<Value>,
    pub(crate) function_call: Option<Value>,
}

/// What becomes the prompt; `/tokenize` has these fields too.
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "an object")]
pub(crate) struct ConversationFields {
    pub(crate) messages: Option<Vec<Map<String, Value>>>,
    pub(crate) tools: Option<Vec<Map<String, Value>>>,
    pub(crate) documents: Option<Vec<Map<String, Value>>>,
    pub(crate) add_generation_prompt: Option<Flag>,
    pub(crate) continue_final_message: Option<Flag>,
    pub(crate) chat_template: Option<String>,
    pub(crate) chat_template_kwargs: Option<Map<String, Value>>,
    pub(crate) reasoning_effort: Option<Value>,
}

/// The whole answer.
#[derive(Debug, Serialize)]
pub(crate) struct ChatResponse {
    pub(crate) id: String,
    pub(crate) object: &'static str,
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) choices: Vec<ChatChoice>,
    pub(crate) service_tier: Option<&'static str>,
    pub(crate) system_fingerprint: &'static str,
    pub(crate) usage: Usage,
    pub(crate) prompt_logprobs: Option<Vec<Option<Value>>>,
    pub(crate) prompt_token_ids: Option<Vec<u32>>,
    pub(crate) kv_transfer_params: Option<Value>,
}

/// One sequence of it.
#[derive(Debug, Serialize)]
pub(crate) struct ChatChoice {
    pub(crate) index: usize,
    pub(crate) message: ChatMessage,
    pub(crate) logprobs: Option<ChatLogprobs>,
    pub(crate) finish_reason: &'static str,
    pub(crate) stop_reason: Option<StopReason>,
    pub(crate) token_ids: Option<Vec<u32>>,
}

/// A generated message. Fields that stay null are there for clients that read them without asking.
#[derive(Debug, Serialize)]
pub(crate) struct ChatMessage {
    pub(crate) role: String,
    pub(crate) content: String,
    pub(crate) refusal: Option<String>,
    pub(crate) annotations: Option<Value>,
    pub(crate) audio: Option<Value>,
    pub(crate) function_call: Option<Value>,
    pub(crate) reasoning: Option<String>,
}

/// A piece of a streamed answer.
#[derive(Debug, Serialize)]
pub(crate) struct ChatChunk<'a> {
    pub(crate) id: &'a str,
    pub(crate) object: &'static str,
    pub(crate) created: u64,
    pub(crate) model: &'a str,
    pub(crate) choices: Vec<ChatChunkChoice<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) usage: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompt_token_ids: Option<Vec<u32>>,
}

/// One sequence's part of it.
#[derive(Debug, Serialize)]
pub(crate) struct ChatChunkChoice<'a> {
    pub(crate) index: usize,
    pub(crate) delta: ChatDelta<'a>,
    pub(crate) logprobs: Option<ChatLogprobs>,
    pub(crate) finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stop_reason: Option<StopReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_ids: Option<Vec<u32>>,
}

/// What is new of a message.
#[derive(Debug, Default, Serialize)]
pub(crate) struct ChatDelta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) role: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content: Option<String>,
}

/// Logprobs of a message's tokens.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(crate) struct ChatLogprobs {
    pub(crate) content: Vec<ChatTokenLogprob>,
}

/// A generated token.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct ChatTokenLogprob {
    pub(crate) token: String,
    pub(crate) logprob: f32,
    pub(crate) bytes: Vec<u8>,
    pub(crate) top_logprobs: Vec<ChatTopLogprob>,
}

/// A token that might have been generated.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct ChatTopLogprob {
    pub(crate) token: String,
    pub(crate) logprob: f32,
    pub(crate) bytes: Vec<u8>,
}
