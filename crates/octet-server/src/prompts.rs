//! Prompts that come without messages: one or several, as text or as ids, for every endpoint that takes them.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};

use crate::error::ApiError;
use crate::intake::Preparation;
use crate::json::Integer;
use crate::parameters::{Rules, Truncation};
use crate::state::App;

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

/// Prompts, at least one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Prompts {
    Texts(Vec<String>),
    /// Ids below the vocabulary's size, at least one in each.
    Tokens(Vec<Vec<u32>>),
}

impl Prompts {
    /// Checks the prompts of a field. Ids may be at most `longest`.
    pub(crate) fn check(
        field: &'static str,
        prompt: Option<Prompt>,
        longest: usize,
        rules: &Rules<'_>,
    ) -> Result<Self, ApiError> {
        let refuse = |message: String| Err(ApiError::invalid(field, message));
        match prompt {
            None => refuse(format!("{field} is missing: a string, or an array of strings or token ids")),
            Some(Prompt::Texts(texts)) if texts.iter().all(String::is_empty) => {
                refuse(format!("{field} must not be empty"))
            }
            Some(Prompt::Texts(texts)) => Ok(Self::Texts(texts)),
            Some(Prompt::Tokens(prompts)) if prompts.iter().any(Vec::is_empty) => {
                refuse(format!("{field} must not be empty: each array of token ids needs at least one"))
            }
            Some(Prompt::Tokens(prompts)) => {
                let max_model_len = rules.max_model_len;
                let prompt_tokens = prompts.iter().map(Vec::len).max().unwrap_or(0);
                if prompt_tokens > longest {
                    return Err(if longest < max_model_len {
                        ApiError::PromptTooLong { max_model_len, prompt_tokens }
                    } else {
                        ApiError::InputTooLong { max_model_len, prompt_tokens }
                    });
                }
                let check = |ids: &Vec<Integer>| ids.iter().map(|id| token(field, *id, rules)).collect();
                prompts.iter().map(check).collect::<Result<_, _>>().map(Self::Tokens)
            }
        }
    }

    /// How many they are.
    pub(crate) fn count(&self) -> usize {
        match self {
            Self::Texts(texts) => texts.len(),
            Self::Tokens(prompts) => prompts.len(),
        }
    }

    /// Tokenises. `finish` turns ids into what is wanted; the text comes with them if they are all of it.
    pub(crate) fn encode<T>(
        &self,
        app: &App,
        task: &Preparation,
        how: Encoding,
        mut finish: impl FnMut(Vec<u32>, Option<&str>) -> Result<T, ApiError>,
    ) -> Result<Vec<T>, ApiError> {
        let texts = match self {
            Self::Tokens(prompts) => {
                return prompts.iter().map(|tokens| finish(tokens.clone(), None)).collect();
            }
            Self::Texts(texts) => texts,
        };
        // All sizes first: what is refused for one of them costs nothing for the others.
        let reachable =
            texts.iter().map(|text| app.within_reach(text, how.truncation)).collect::<Result<Vec<_>, _>>()?;
        let encode = |(text, reachable): (&String, Cow<'_, str>)| {
            task.check()?;
            let tokens = app.encode(how.field, &reachable, how.add_special_tokens)?;
            finish(tokens, (reachable.len() == text.len()).then_some(text))
        };
        texts.iter().zip(reachable).map(encode).collect()
    }
}

/// How texts become ids.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Encoding {
    /// The field that they stand in.
    pub(crate) field: &'static str,
    pub(crate) truncation: Option<Truncation>,
    pub(crate) add_special_tokens: bool,
}

fn token(field: &'static str, id: Integer, rules: &Rules<'_>) -> Result<u32, ApiError> {
    u32::try_from(id.0).ok().filter(|id| (*id as usize) < rules.vocabulary_size).ok_or_else(|| {
        let largest = rules.vocabulary_size.saturating_sub(1);
        let message = format!("{field} has the token id {}; ids of this model go from 0 to {largest}", id.0);
        ApiError::invalid(field, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::decode;

    #[derive(Deserialize)]
    struct Fields {
        prompt: Prompt,
    }

    fn prompt(text: &str) -> Result<Prompt, String> {
        decode::<Fields>(&format!("{{\"prompt\": {text}}}"))
            .map(|fields| fields.prompt)
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
