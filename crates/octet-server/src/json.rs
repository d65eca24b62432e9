//! A request's body: read within its bound, checked to be UTF-8 and JSON, turned into types, each failure with its
//! location. The types here accept what clients of pydantic's servers send (`5.0` and `"5"` for 5).

use std::fmt;

use axum::body::Body;
use axum::http::{HeaderMap, Request, header};
use futures_util::StreamExt;
use serde::Deserialize;
use serde::de::{self, DeserializeOwned, Deserializer, Visitor};

use crate::error::ApiError;
use crate::intake::Lease;

/// Reads the whole body as text. `lease` stands for its memory as it grows.
pub(crate) async fn read_body(
    request: Request<Body>,
    max_body_bytes: usize,
    lease: &mut Lease,
) -> Result<String, ApiError> {
    let (head, body) = request.into_parts();
    check_content_type(&head.headers)?;
    let declared = head.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let declared = declared.and_then(|value| value.parse::<usize>().ok()).unwrap_or(max_body_bytes);
    if declared > max_body_bytes && head.headers.contains_key(header::CONTENT_LENGTH) {
        return Err(ApiError::BodyTooLarge { limit: max_body_bytes });
    }
    let mut bytes: Vec<u8> = Vec::new();
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| ApiError::BodyUnreadable { message: error.to_string() })?;
        if bytes.len() + chunk.len() > max_body_bytes {
            return Err(ApiError::BodyTooLarge { limit: max_body_bytes });
        }
        let needed = bytes.len() + chunk.len();
        if needed > bytes.capacity() {
            // What was declared is not taken before it comes: a promise of 32 MB must cost nothing.
            let capacity = needed.max((2 * bytes.capacity()).min(declared));
            lease.resize(capacity)?;
            bytes.reserve_exact(capacity - bytes.len());
        }
        bytes.extend_from_slice(&chunk);
    }
    // Editors of some systems write a byte-order mark; it carries nothing.
    if bytes.starts_with("\u{feff}".as_bytes()) {
        bytes.drain(.."\u{feff}".len());
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

/// A whole number. As pydantic reads it: `5.0`, `"5"` and `true` count as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Integer(pub(crate) i64);

impl Integer {
    /// A whole number written as text: a sign, single underscores between digits, and a fraction of zeros may be there.
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let has_fraction = fraction.is_empty() || fraction.bytes().any(|digit| digit != b'0');
        let odd_underscore = whole.starts_with('_') || whole.ends_with('_') || whole.contains("__");
        if has_fraction || odd_underscore {
            return None;
        }
        whole.replace('_', "").parse().ok().map(Self)
    }
}

impl<'de> Deserialize<'de> for Integer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Expect;
        impl Visitor<'_> for Expect {
            type Value = Integer;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an integer of at most 64 bits")
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Integer, E> {
                Ok(Integer(value.into()))
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

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Integer, E> {
                Integer::parse(text).ok_or_else(|| E::invalid_type(unexpected(text), &self))
            }
        }
        deserializer.deserialize_any(Expect)
    }
}

/// A number; text that spells one and `true` count as one, as in pydantic.
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

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Number, E> {
                Ok(Number(value.into()))
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

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Number, E> {
                let number = text.trim().parse().ok().filter(|number: &f64| number.is_finite());
                number.map(Number).ok_or_else(|| E::invalid_type(unexpected(text), &self))
            }
        }
        deserializer.deserialize_any(Expect)
    }
}

/// True or false; 1 and 0 and the words that pydantic knows count too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flag(pub(crate) bool);

impl Flag {
    fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "true" | "t" | "yes" | "y" | "on" | "1" => Some(Self(true)),
            "false" | "f" | "no" | "n" | "off" | "0" => Some(Self(false)),
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Expect;
        impl Visitor<'_> for Expect {
            type Value = Flag;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a boolean")
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Flag, E> {
                Ok(Flag(value))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Flag, E> {
                match value {
                    0 | 1 => Ok(Flag(value == 1)),
                    _ => Err(E::invalid_value(de::Unexpected::Unsigned(value), &self)),
                }
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Flag, E> {
                if value == 0.0 || value == 1.0 {
                    Ok(Flag(value == 1.0))
                } else {
                    Err(E::invalid_value(de::Unexpected::Float(value), &self))
                }
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Flag, E> {
                Flag::parse(text).ok_or_else(|| E::invalid_type(unexpected(text), &self))
            }
        }
        deserializer.deserialize_any(Expect)
    }
}

/// Text as an error shows it; what is long is cut, so that no error repeats a body.
fn unexpected(text: &str) -> de::Unexpected<'_> {
    const SHOWN: usize = 64;
    let end = text.char_indices().nth(SHOWN).map_or(text.len(), |(end, _)| end);
    de::Unexpected::Str(&text[..end])
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
        open: Option<Flag>,
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
            open: None,
            names: Some(Strings(vec!["a".to_owned()])),
        };
        assert_eq!(sample, expected);
    }

    #[test]
    fn a_wrong_type_is_named_with_its_place_and_what_was_expected() {
        let table = [
            (r#"{"count": "five"}"#, "body.count: invalid type: string \"five\", expected an integer"),
            (r#"{"count": 5.5}"#, "body.count: invalid value: floating point `5.5`, expected an integer"),
            (
                r#"{"count": 18446744073709551615}"#,
                "body.count: invalid value: integer `18446744073709551615`, expected",
            ),
            (r#"{"share": "NaN"}"#, "body.share: invalid type: string \"NaN\", expected a number"),
            (r#"{"open": 2}"#, "body.open: invalid value: integer `2`, expected a boolean"),
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
