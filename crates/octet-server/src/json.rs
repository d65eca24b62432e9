//! A request's body: read within its bound, checked to be UTF-8 and JSON, turned into types, each failure with its
//! location. The types here accept what JSON writers of other languages send (`5.0` for 5).

use std::fmt;

use axum::body::Body;
use axum::http::{HeaderMap, Request, header};
use futures_util::StreamExt;
use serde::Deserialize;
use serde::de::{self, DeserializeOwned, Deserializer, Visitor};

use crate::error::ApiError;

/// Reads the whole body as text.
pub(crate) async fn read_body(request: Request<Body>, max_body_bytes: usize) -> Result<String, ApiError> {
    let (head, body) = request.into_parts();
    check_content_type(&head.headers)?;
    let declared = head.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    if declared.and_then(|value| value.parse::<usize>().ok()).is_some_and(|length| length > max_body_bytes) {
        return Err(ApiError::BodyTooLarge { limit: max_body_bytes });
    }
    let mut bytes = Vec::new();
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| ApiError::BodyUnreadable { message: error.to_string() })?;
        if bytes.len() + chunk.len() > max_body_bytes {
            return Err(ApiError::BodyTooLarge { limit: max_body_bytes });
        }
        bytes.extend_from_slice(&chunk);
    }
    String::from_utf8(bytes)
        .map_err(|error| ApiError::BodyNotUtf8 { valid_up_to: error.utf8_error().valid_up_to() })
}

fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Err(ApiError::ContentType { found: "(none)".to_owned() });
    };
    let found = String::from_utf8_lossy(value.as_bytes()).into_owned();
    let kind = found.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_json = kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"));
    if is_json { Ok(()) } else { Err(ApiError::ContentType { found }) }
}

/// Turns the text of a JSON object into a type. A wrong type is reported with its path and what was expected there.
pub(crate) fn decode<T: DeserializeOwned>(text: &str) -> Result<T, ApiError> {
    // A derived struct would also read an array, field by field in the order of the source: nobody means that.
    if text.trim_start().starts_with('[') {
        let message = "invalid type: array, expected an object".to_owned();
        return Err(ApiError::BodyShape { location: "body".to_owned(), message });
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        match inner.classify() {
            serde_json::error::Category::Data => {
                let location = if path == "." { "body".to_owned() } else { format!("body.{path}") };
                ApiError::BodyShape { location, message: inner.to_string() }
            }
            _ => ApiError::BodyNotJson { message: inner.to_string() },
        }
    })?;
    deserializer.end().map_err(|error| ApiError::BodyNotJson { message: error.to_string() })?;
    Ok(value)
}

/// A whole number; `5.0` counts as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Integer(pub(crate) i64);

impl<'de> Deserialize<'de> for Integer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Expect;
        impl Visitor<'_> for Expect {
            type Value = Integer;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an integer of at most 64 bits")
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Integer, E> {
                Ok(Integer(value))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Integer, E> {
                i64::try_from(value)
                    .map(Integer)
                    .map_err(|_| E::invalid_value(de::Unexpected::Unsigned(value), &self))
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Integer, E> {
                // 2^53: beyond it a double no longer tells neighbouring integers apart.
                let exact = value.fract() == 0.0 && value.abs() <= 9_007_199_254_740_992.0;
                if exact {
                    Ok(Integer(value as i64))
                } else {
                    Err(E::invalid_value(de::Unexpected::Float(value), &self))
                }
            }
        }
        deserializer.deserialize_any(Expect)
    }
}

/// A number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Number(pub(crate) f64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Expect;
        impl Visitor<'_> for Expect {
            type Value = Number;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a number")
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Number, E> {
                Ok(Number(value as f64))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Number, E> {
                Ok(Number(value as f64))
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Number, E> {
                Ok(Number(value))
            }
        }
        deserializer.deserialize_any(Expect)
    }
}

/// One string or several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Strings(pub(crate) Vec<String>);

impl<'de> Deserialize<'de> for Strings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Expect;
        impl<'de> Visitor<'de> for Expect {
            type Value = Strings;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string or an array of strings")
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Strings, E> {
                Ok(Strings(vec![value.to_owned()]))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<Strings, A::Error> {
                let mut strings = Vec::new();
                while let Some(item) = items.next_element()? {
                    strings.push(item);
                }
                Ok(Strings(strings))
            }
        }
        deserializer.deserialize_any(Expect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(expecting = "an object")]
    struct Sample {
        count: Option<Integer>,
        share: Option<Number>,
        names: Option<Strings>,
    }

    fn message(text: &str) -> String {
        decode::<Sample>(text).unwrap_err().to_string()
    }

    #[test]
    fn numbers_come_as_json_writers_send_them() {
        let sample: Sample = decode(r#"{"count": 5.0, "share": 1, "names": "a", "other": [1, {}]}"#).unwrap();
        let expected = Sample {
            count: Some(Integer(5)),
            share: Some(Number(1.0)),
            names: Some(Strings(vec!["a".to_owned()])),
        };
        assert_eq!(sample, expected);
    }

    #[test]
    fn a_wrong_type_is_named_with_its_place_and_what_was_expected() {
        let table = [
            (r#"{"count": "5"}"#, "body.count: invalid type: string \"5\", expected an integer"),
            (r#"{"count": 5.5}"#, "body.count: invalid value: floating point `5.5`, expected an integer"),
            (
                r#"{"count": 18446744073709551615}"#,
                "body.count: invalid value: integer `18446744073709551615`, expected",
            ),
            (r#"{"share": true}"#, "body.share: invalid type: boolean `true`, expected a number"),
            (r#"{"names": ["a", 3]}"#, "body.names[1]: invalid type: integer `3`, expected a string"),
            (r#"{"names": {}}"#, "body.names: invalid type: map, expected a string or an array of strings"),
            ("[1]", "body: invalid type: array, expected an object"),
            (r#""text""#, "body: invalid type: string \"text\", expected an object"),
        ];
        for (text, expected) in table {
            let found = message(text);
            assert!(found.contains(expected), "{text}: {found}");
        }
    }

    #[test]
    fn broken_json_is_named_with_line_and_column() {
        for text in ["", "{", r#"{"count": NaN}"#, r#"{"count": 1} x"#, "{\"count\": 1,\n}"] {
            let found = message(text);
            assert!(found.starts_with("the request body is not valid JSON"), "{text}: {found}");
            assert!(found.contains("line"), "{text}: {found}");
        }
    }

    #[test]
    fn content_types() {
        let check = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, value.parse().unwrap());
            check_content_type(&headers).is_ok()
        };
        assert!(check("application/json"));
        assert!(check("Application/JSON; charset=utf-8"));
        assert!(check("application/vnd.api+json"));
        assert!(!check("text/plain"));
        assert!(!check("application/x-www-form-urlencoded"));
        assert!(check_content_type(&HeaderMap::new()).is_err());
    }
}
