//! Logprobs as both endpoints write them: names of tokens, clipped values, prompt logprobs.

use std::sync::Arc;

use octet_sample::{PositionLogprobs, TokenLogprob};
use octet_text::Tokenizer;
use serde::Serialize;
use serde_json::{Map, Value};

/// JSON has no infinity: clients expect this in its place.
const LOWEST: f32 = -9999.0;

/// A value that JSON can carry.
pub(crate) fn clip(logprob: f32) -> f32 {
    logprob.max(LOWEST)
}

/// How tokens are called in a response.
#[derive(Clone)]
pub(crate) struct TokenNames {
    tokenizer: Arc<Tokenizer>,
    /// `token_id:N` instead of text.
    as_ids: bool,
}

impl TokenNames {
    pub(crate) fn new(tokenizer: Arc<Tokenizer>, as_ids: bool) -> Self {
        Self { tokenizer, as_ids }
    }

    /// The token's text, its space included; a part of a character shows as U+FFFD.
    pub(crate) fn name(&self, token: u32) -> String {
        if self.as_ids { format!("token_id:{token}") } else { self.text(token) }
    }

    pub(crate) fn text(&self, token: u32) -> String {
        String::from_utf8_lossy(&self.tokenizer.token_bytes(token)).into_owned()
    }

    /// The bytes that the token stands for.
    pub(crate) fn bytes(&self, token: u32) -> Vec<u8> {
        self.tokenizer.token_bytes(token)
    }
}

/// The sampled token first, then the most likely others, best first.
pub(crate) fn chosen_and_others(position: &PositionLogprobs) -> impl Iterator<Item = &TokenLogprob> {
    let chosen = position.chosen.token;
    std::iter::once(&position.chosen).chain(position.top.iter().filter(move |other| other.token != chosen))
}

/// An entry of `prompt_logprobs`.
#[derive(Debug, Serialize)]
struct PromptLogprob {
    logprob: f32,
    rank: u32,
    decoded_token: String,
}

/// `prompt_logprobs`: for each prompt token a map from token id to its values; nothing predicts the first token.
pub(crate) fn prompt_logprobs(positions: &[PositionLogprobs], names: &TokenNames) -> Vec<Option<Value>> {
    let entry = |token: &TokenLogprob| {
        let value = PromptLogprob {
            logprob: clip(token.logprob),
            rank: token.rank,
            decoded_token: names.text(token.token),
        };
        // Three plain fields: serialising them cannot fail.
        (token.token.to_string(), serde_json::to_value(value).unwrap_or(Value::Null))
    };
    let map = |position: &PositionLogprobs| {
        Some(Value::Object(chosen_and_others(position).map(entry).collect::<Map<String, Value>>()))
    };
    std::iter::once(None).chain(positions.iter().map(map)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(token: u32, logprob: f32) -> TokenLogprob {
        TokenLogprob { token, logprob, rank: 1 }
    }

    #[test]
    fn the_chosen_token_comes_first_and_once() {
        let position = PositionLogprobs { chosen: value(5, -2.0), top: vec![value(3, -0.5), value(5, -2.0)] };
        let tokens: Vec<u32> = chosen_and_others(&position).map(|entry| entry.token).collect();
        assert_eq!(tokens, [5, 3]);
    }

    #[test]
    fn values_that_json_cannot_carry_are_clipped() {
        assert_eq!(clip(f32::NEG_INFINITY), LOWEST);
        assert_eq!(clip(f32::NAN), LOWEST);
        assert_eq!(clip(-1.5), -1.5);
    }
}
