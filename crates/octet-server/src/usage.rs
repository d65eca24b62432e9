//! The `usage` object.

use serde::Serialize;

use crate::generation::TokenCounts;

/// Tokens of a request, as OpenAI counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
    completion_tokens: usize,
    prompt_tokens_details: Option<PromptTokensDetails>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct PromptTokensDetails {
    cached_tokens: usize,
}

impl Usage {
    pub(crate) fn new(counts: TokenCounts, with_details: bool) -> Self {
        Self {
            prompt_tokens: counts.prompt,
            total_tokens: counts.prompt + counts.completion,
            completion_tokens: counts.completion,
            prompt_tokens_details: with_details
                .then_some(PromptTokensDetails { cached_tokens: counts.cached }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals() {
        let counts = TokenCounts { prompt: 5, cached: 4, completion: 7 };
        let json = serde_json::to_value(Usage::new(counts, true)).unwrap();
        let expected = serde_json::json!({
            "prompt_tokens": 5, "total_tokens": 12, "completion_tokens": 7,
            "prompt_tokens_details": { "cached_tokens": 4 }
        });
        assert_eq!(json, expected);
        let json = serde_json::to_value(Usage::new(counts, false)).unwrap();
        assert_eq!(json["prompt_tokens_details"], serde_json::Value::Null);
    }
}
