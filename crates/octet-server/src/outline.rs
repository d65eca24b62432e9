//! The fields of a body before they mean anything: which are there, which are there twice, and which no endpoint knows.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use serde::de::value::Error as NoValue;
use serde::de::{self, DeserializeOwned, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Map, Value};

/// Fields of OpenAI's API that describe the request to its sender's books and change no answer.
const BOOKKEEPING: [&str; 8] = [
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "parallel_tool_calls",
    "session_id",
];

/// The most ignored fields that are named; inventing more fills no log.
const MAX_NAMED: usize = 64;

/// Longest name that is written to the log.
const MAX_NAME_CHARACTERS: usize = 64;

/// The names of a JSON object's fields, in order. Not an object: none; what is wrong shows when it is decoded.
fn names(text: &str) -> Vec<Cow<'_, str>> {
    struct Names;
    impl<'de> Visitor<'de> for Names {
        type Value = Vec<Cow<'de, str>>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
            let mut names = Vec::new();
            while let Some(name) = fields.next_key()? {
                names.push(name);
                fields.next_value::<IgnoredAny>()?;
            }
            Ok(names)
        }
    }
    serde_json::Deserializer::from_str(text).deserialize_map(Names).unwrap_or_default()
}

/// A body in which each field stands once: of several the last counts, as in most parsers of JSON.
pub(crate) fn last_of_each(text: String) -> String {
    let names = names(&text);
    let is_repeated = names.iter().collect::<BTreeSet<_>>().len() < names.len();
    drop(names);
    if !is_repeated {
        return text;
    }
    serde_json::from_str::<Map<String, Value>>(&text)
        .ok()
        .and_then(|fields| serde_json::to_string(&fields).ok())
        .unwrap_or(text)
}

/// The fields of a struct that is decoded from an object.
pub(crate) fn fields_of<T: DeserializeOwned>() -> &'static [&'static str] {
    struct Capture<'a>(&'a mut &'static [&'static str]);
    impl<'de> Deserializer<'de> for Capture<'_> {
        type Error = NoValue;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, NoValue> {
            Err(de::Error::custom("not a struct"))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, NoValue> {
            *self.0 = fields;
            Err(de::Error::custom("only its fields are wanted"))
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }
    let mut fields: &'static [&'static str] = &[];
    // It fails by design: there is nothing to decode.
    let _ = T::deserialize(Capture(&mut fields));
    fields
}

/// The fields that were ignored so far, each of which is named once in the log.
#[derive(Debug, Default)]
pub(crate) struct IgnoredFields {
    named: Mutex<BTreeSet<String>>,
}

impl IgnoredFields {
    /// Names what is new among the fields of `body` that are in none of `known`.
    pub(crate) fn notice(&self, body: &str, known: &[&[&str]]) {
        let is_known =
            |name: &str| BOOKKEEPING.contains(&name) || known.iter().any(|known| known.contains(&name));
        let ignored: Vec<Cow<'_, str>> = names(body).into_iter().filter(|name| !is_known(name)).collect();
        if ignored.is_empty() {
            return;
        }
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        for name in ignored {
            let name: String = name.chars().take(MAX_NAME_CHARACTERS).collect();
            if named.len() < MAX_NAMED && named.insert(name.clone()) {
                tracing::warn!(field = ?name, "requests have a field that this server does not know; it is ignored");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_a_repeated_field_counts() {
        let body = |text: &str| last_of_each(text.to_owned());
        assert_eq!(body(r#"{"a": 1, "b": 2, "a": 3}"#), r#"{"a":3,"b":2}"#);
        for untouched in [r#"{"a": 1, "b": {"a": 1, "a": 2}}"#, "[1]", "{", ""] {
            assert_eq!(body(untouched), untouched);
        }
    }

    #[test]
    fn ignored_fields_are_named_once_and_not_without_end() {
        let ignored = IgnoredFields::default();
        let known = [fields_of::<crate::parameters::ParameterFields>()];
        ignored.notice(r#"{"model": "m", "temperature": 1, "user": "me", "guidance": 1}"#, &known);
        ignored.notice(r#"{"guidance": 2}"#, &known);
        assert_eq!(*ignored.named.lock().unwrap(), BTreeSet::from(["guidance".to_owned()]));
        for index in 0..1000 {
            ignored.notice(&format!(r#"{{"{}{index}": 1}}"#, "x".repeat(50)), &known);
        }
        assert_eq!(ignored.named.lock().unwrap().len(), MAX_NAMED);
    }
}
