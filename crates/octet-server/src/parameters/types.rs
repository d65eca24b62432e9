//! The fields that completions and chat share, as they are typed in a request.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::json::{Flag, Integer, Number, Strings};

/// Every field may be left out or null. Fields that are not named here are ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "an object")]
pub(crate) struct ParameterFields {
    pub(crate) model: Option<String>,
    pub(crate) n: Option<Integer>,
    pub(crate) best_of: Option<Integer>,
    pub(crate) temperature: Option<Number>,
    pub(crate) top_p: Option<Number>,
    pub(crate) top_k: Option<Integer>,
    pub(crate) min_p: Option<Number>,
    pub(crate) repetition_penalty: Option<Number>,
    pub(crate) presence_penalty: Option<Number>,
    pub(crate) frequency_penalty: Option<Number>,
    pub(crate) seed: Option<Integer>,
    pub(crate) stop: Option<Strings>,
    pub(crate) stop_token_ids: Option<Vec<Integer>>,
    pub(crate) include_stop_str_in_output: Option<Flag>,
    pub(crate) ignore_eos: Option<Flag>,
    pub(crate) min_tokens: Option<Integer>,
    pub(crate) prompt_logprobs: Option<Integer>,
    pub(crate) logit_bias: Option<BTreeMap<String, Number>>,
    pub(crate) allowed_token_ids: Option<Vec<Integer>>,
    pub(crate) bad_words: Option<Vec<String>>,
    pub(crate) skip_special_tokens: Option<Flag>,
    pub(crate) truncate_prompt_tokens: Option<Integer>,
    pub(crate) truncation_side: Option<TruncationSide>,
    pub(crate) add_special_tokens: Option<Flag>,
    pub(crate) stream: Option<Flag>,
    pub(crate) stream_options: Option<StreamFields>,
    pub(crate) stream_interval: Option<Integer>,
    pub(crate) priority: Option<Integer>,
    pub(crate) request_id: Option<String>,
    pub(crate) cache_salt: Option<String>,
    pub(crate) return_token_ids: Option<Flag>,
    pub(crate) return_tokens_as_token_ids: Option<Flag>,
    // Fields below change the result and are not obeyed yet: they are refused unless they ask for nothing.
    pub(crate) response_format: Option<Value>,
    pub(crate) structured_outputs: Option<Value>,
    pub(crate) guided_json: Option<Value>,
    pub(crate) guided_regex: Option<Value>,
    pub(crate) guided_choice: Option<Value>,
    pub(crate) guided_grammar: Option<Value>,
    pub(crate) use_beam_search: Option<Flag>,
    pub(crate) logprob_token_ids: Option<Vec<Integer>>,
    pub(crate) thinking_token_budget: Option<Value>,
    pub(crate) repetition_detection: Option<Value>,
}

/// `stream_options`.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, expecting = "an object")]
pub(crate) struct StreamFields {
    pub(crate) include_usage: Option<Flag>,
    pub(crate) continuous_usage_stats: Option<Flag>,
}

/// Which end of a prompt is cut off.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TruncationSide {
    #[default]
    Left,
    Right,
}
