//! `/v1/completions` as it travels.

use std::fmt;

use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::json::{Flag, Integer};
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

/// One prompt or several, as text or as token ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Prompt {
    Texts(Vec<String>),
    Tokens(Vec<Vec<Integer>>),
}

const EXPECTED: &str =
    "a string, an array of strings, an array of token ids, or an array of arrays of token ids";

impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PromptVisitor)
    }
}

struct PromptVisitor;

impl<'de> Visitor<'de> for PromptVisitor {
    type Value = Prompt;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Prompt, E> {
        Ok(Prompt::Texts(vec![text.to_owned()]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Prompt, A::Error> {
        let mut texts = Vec::new();
        let mut single = Vec::new();
        let mut several = Vec::new();
        while let Some(element) = items.next_element()? {
            match element {
                Element::Text(text) => texts.push(text),
                Element::Token(token) => single.push(token),
                Element::Tokens(tokens) => several.push(tokens),
            }
        }
        match (texts.is_empty(), single.is_empty(), several.is_empty()) {
            (_, true, true) => Ok(Prompt::Texts(texts)),
            (true, false, true) => Ok(Prompt::Tokens(vec![single])),
            (true, true, false) => Ok(Prompt::Tokens(several)),
            _ => Err(de::Error::custom(format_args!("the elements differ in kind; expected {EXPECTED}"))),
        }
    }
}

enum Element {
    Text(String),
    Token(Integer),
    Tokens(Vec<Integer>),
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ElementVisitor;
        impl<'de> Visitor<'de> for ElementVisitor {
            type Value = Element;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string, a token id, or an array of token ids")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Element, E> {
                Ok(Element::Text(text.to_owned()))
            }

            fn visit_i64<E: de::Error>(self, token: i64) -> Result<Element, E> {
                Ok(Element::Token(Integer(token)))
            }

            fn visit_u64<E: de::Error>(self, token: u64) -> Result<Element, E> {
                i64::try_from(token)
                    .map(|token| Element::Token(Integer(token)))
                    .map_err(|_| E::invalid_value(de::Unexpected::Unsigned(token), &self))
            }

            fn visit_f64<E: de::Error>(self, token: f64) -> Result<Element, E> {
                let whole = token.fract() == 0.0 && token.abs() <= f64::from(u32::MAX);
                if whole {
                    Ok(Element::Token(Integer(token as i64)))
                } else {
                    Err(E::invalid_value(de::Unexpected::Float(token), &self))
                }
            }

            fn visit_bool<E: de::Error>(self, token: bool) -> Result<Element, E> {
                Ok(Element::Token(Integer(token.into())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Element, A::Error> {
                let mut tokens = Vec::new();
                while let Some(token) = items.next_element()? {
                    tokens.push(token);
                }
                Ok(Element::Tokens(tokens))
            }
        }
        deserializer.deserialize_any(ElementVisitor)
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::decode;

    fn prompt(text: &str) -> Result<Prompt, String> {
        decode::<CompletionFields>(&format!("{{\"prompt\": {text}}}"))
            .map(|fields| fields.prompt.unwrap())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_prompt_has_four_forms() {
        let texts = |texts: &[&str]| Prompt::Texts(texts.iter().map(|text| (*text).to_owned()).collect());
        assert_eq!(prompt(r#""a""#).unwrap(), texts(&["a"]));
        assert_eq!(prompt(r#"["a", "b"]"#).unwrap(), texts(&["a", "b"]));
        assert_eq!(prompt("[1, 2]").unwrap(), Prompt::Tokens(vec![vec![Integer(1), Integer(2)]]));
        let two = vec![vec![Integer(1)], vec![Integer(2), Integer(3)]];
        assert_eq!(prompt("[[1], [2, 3]]").unwrap(), Prompt::Tokens(two));
    }

    #[test]
    fn other_forms_are_refused_with_their_place() {
        let table = [
            ("3", "body.prompt: invalid type: integer `3`, expected a string, an array of strings"),
            (r#"["a", 1]"#, "body.prompt: the elements differ in kind"),
            ("[1.5]", "body.prompt[0]: invalid value: floating point `1.5`, expected a string, a token id"),
            (r#"[[1], ["a"]]"#, "body.prompt[1][0]: invalid type: string \"a\", expected an integer"),
            ("[{}]", "body.prompt[0]: invalid type: map"),
        ];
        for (text, expected) in table {
            let found = prompt(text).unwrap_err();
            assert!(found.contains(expected), "{text}: {found}");
        }
    }
}
