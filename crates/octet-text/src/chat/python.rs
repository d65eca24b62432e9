//! What chat templates expect of Python and of `transformers`.

use std::fmt;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

use super::json::JsonOptions;

/// A template's own refusal.
#[derive(Clone, Debug)]
pub(super) struct RaisedException(pub(super) String);

impl fmt::Display for RaisedException {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for RaisedException {}

/// Adds functions, filters and methods to an environment.
pub(super) fn install(environment: &mut Environment<'static>) {
    environment.set_unknown_method_callback(method);
    environment.add_filter("tojson", tojson);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
}

fn raise_exception(message: String) -> Result<Value, Error> {
    let error = Error::new(ErrorKind::InvalidOperation, message.clone());
    Err(error.with_source(RaisedException(message)))
}

/// The local time of day, in a format of `strftime`.
fn strftime_now(format: &str) -> Result<String, Error> {
    jiff::fmt::strtime::format(format, &jiff::Zoned::now()).map_err(|error| {
        Error::new(ErrorKind::InvalidOperation, format!("strftime_now({format:?}): {error}"))
    })
}

/// Methods of Python's strings that `minijinja-contrib` does not know, then those that it does.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    if let (Some(text), [argument]) = (value.as_str(), args)
        && let Some(argument) = argument.as_str()
    {
        match name {
            "removeprefix" => return Ok(text.strip_prefix(argument).unwrap_or(text).into()),
            "removesuffix" => return Ok(text.strip_suffix(argument).unwrap_or(text).into()),
            "partition" => {
                let (before, separator, after) = match text.split_once(argument) {
                    Some((before, after)) => (before, argument, after),
                    None => (text, "", ""),
                };
                return Ok(Value::from((before, separator, after)));
            }
            "rpartition" => {
                let (before, separator, after) = match text.rsplit_once(argument) {
                    Some((before, after)) => (before, argument, after),
                    None => ("", "", text),
                };
                return Ok(Value::from((before, separator, after)));
            }
            _ => {}
        }
    }
    pycompat::unknown_method_callback(state, value, name, args)
}

#[expect(clippy::needless_pass_by_value, reason = "keyword arguments come to a filter by value")]
/// `tojson` of `transformers`: plain `json.dumps`, with no escaping for HTML.
fn tojson(value: &Value, indent: Option<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => kwargs.get::<Option<Value>>("indent")?,
    };
    let indent = match indent {
        None => None,
        Some(text) if text.kind() == ValueKind::String => Some(text.to_string()),
        Some(none) if none.is_none() || none.is_undefined() => None,
        Some(count) => Some(" ".repeat(usize::try_from(count)?)),
    };
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    let (item_separator, key_separator) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => {
            return Err(Error::new(ErrorKind::InvalidOperation, "tojson: separators are a pair of strings"));
        }
        // A line break follows, so Python leaves the space away.
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    let options = JsonOptions {
        indent,
        item_separator,
        key_separator,
        is_ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sorts_keys: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    kwargs.assert_all_used()?;
    options.write(value).map(Value::from)
}

/// Replaces `{% generation %}` and `{% endgeneration %}`, which mark the assistant's part for training, by a condition
/// that always holds: it shows nothing and keeps the tags' control of white space.
pub(super) fn without_generation_tags(source: &str) -> String {
    let mut result = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start + 2);
        result.push_str(before);
        rest = tag;
        let Some(end) = tag.find("%}") else { break };
        let inner = &tag[..end];
        let word = inner.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
        let replacement = match word {
            "generation" => "if true",
            "endgeneration" => "endif",
            _ => continue,
        };
        result.push_str(&inner.replacen(word, replacement, 1));
        rest = &tag[end..];
    }
    result.push_str(rest);
    result
}
