//! What chat templates expect of Python and of `transformers`.

use std::borrow::Cow;
use std::fmt;

use minijinja::value::{Kwargs, Rest, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, ErrorKind, State, Value, escape_formatter};
use minijinja_contrib::pycompat;

use super::json::{DEEPEST, JsonOptions};

/// A template's own refusal.
#[derive(Clone, Debug)]
pub(super) struct RaisedException(pub(super) String);

impl fmt::Display for RaisedException {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for RaisedException {}

/// Adds functions, filters, tests and methods to an environment; where Jinja's own differ from those of `minijinja`, they
/// become Jinja's.
pub(super) fn install(environment: &mut Environment<'static>) {
    minijinja_contrib::add_to_environment(environment);
    environment.set_unknown_method_callback(method);
    environment.set_formatter(|out, state, value| {
        pay_for_items(state, value, 0)?;
        escape_formatter(out, state, value)
    });
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    environment.add_filter("float", float);
    environment.add_filter("indent", indent);
    environment.add_test("iterable", is_iterable);
    environment.add_test("sequence", is_sequence);
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
            "rsplit" => return Ok(text.split(argument).map(Value::from).collect()),
            "index" => {
                let found = text.find(argument).map(|byte| text[..byte].chars().count());
                return found.map(Value::from).ok_or_else(|| not_found(name));
            }
            _ => {}
        }
    }
    match (name, value.kind(), args) {
        // Values do not change, so that one is as good as its copy.
        ("copy", ValueKind::Map | ValueKind::Seq, []) => return Ok(value.clone()),
        // A list can hold another many times, so that to compare lists may take for ever.
        ("index", ValueKind::Seq, [argument])
            if !matches!(argument.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable) =>
        {
            let found = value.try_iter()?.position(|item| item == *argument);
            return found.map(Value::from).ok_or_else(|| not_found(name));
        }
        ("rsplit", ValueKind::String, [separator, limit]) => {
            if let (Some(text), Some(separator)) = (value.as_str(), separator.as_str()) {
                let pieces = usize::try_from(limit.clone())? + 1;
                let mut parts: Vec<Value> = text.rsplitn(pieces, separator).map(Value::from).collect();
                parts.reverse();
                return Ok(parts.into());
            }
        }
        _ => {}
    }
    pycompat::unknown_method_callback(state, value, name, args)
}

fn not_found(name: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("{name}: the value is not in it"))
}

/// Jinja's `iterable`: what Python can iterate over, strings and undefined values included, but not `none`.
fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok() || value.kind() == ValueKind::String
}

/// Jinja's `sequence`: what has a length and items, which strings and dictionaries do too.
fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::String)
}

/// Jinja's `default`, whose flag for false values may be named.
#[expect(clippy::needless_pass_by_value, reason = "keyword arguments come to a filter by value")]
fn default(
    value: Value,
    other: Option<Value>,
    boolean: Option<bool>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let other = match other {
        Some(other) => Some(other),
        None => kwargs.get("default_value")?,
    };
    let replaces_false = match boolean {
        Some(boolean) => boolean,
        None => kwargs.get::<Option<bool>>("boolean")?.unwrap_or(false),
    };
    kwargs.assert_all_used()?;
    let is_replaced = value.is_undefined() || (replaces_false && !value.is_true());
    Ok(if is_replaced { other.unwrap_or_else(|| Value::from("")) } else { value })
}

/// Jinja's `float`: what is no number becomes the default.
fn float(value: &Value, default: Option<Value>) -> Value {
    let number = match value.as_str() {
        Some(text) => text.trim().parse().ok(),
        None if value.kind() == ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        None => f64::try_from(value.clone()).ok(),
    };
    number.map(Value::from).or(default).unwrap_or_else(|| Value::from(0.0))
}

/// Jinja's `indent`, which keeps a line break at the end.
fn indent(state: &State, text: &str, arguments: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let arguments = arguments.into_values();
    let (width, first, blank, kwargs): (Option<Value>, Option<bool>, Option<bool>, Kwargs) =
        from_args(&arguments)?;
    let width = match width {
        Some(width) => Some(width),
        None => kwargs.get("width")?,
    };
    let flag = |given: Option<bool>, name| match given {
        Some(flag) => Ok(flag),
        None => kwargs.get::<Option<bool>>(name).map(Option::unwrap_or_default),
    };
    let (first, blank) = (flag(first, "first")?, flag(blank, "blank")?);
    kwargs.assert_all_used()?;
    let indentation = match width {
        None => " ".repeat(4),
        Some(text) if text.kind() == ValueKind::String => text.to_string(),
        Some(count) => blanks(state, usize::try_from(count)?)?,
    };
    charge(state, indentation.len().saturating_mul(text.split('\n').count()))?;
    let mut indented = String::with_capacity(text.len());
    for (index, line) in text.split('\n').enumerate() {
        if index > 0 {
            indented.push('\n');
        }
        let is_indented = if index == 0 { first } else { blank || !line.is_empty() };
        if is_indented {
            indented.push_str(&indentation);
        }
        indented.push_str(line);
    }
    Ok(indented)
}

#[expect(clippy::needless_pass_by_value, reason = "keyword arguments come to a filter by value")]
/// `tojson` of `transformers`: plain `json.dumps`, with no escaping for HTML. Its first argument, if it has no name, is
/// `ensure_ascii`.
fn tojson(
    state: &State,
    value: &Value,
    is_ascii: Option<Value>,
    indent: Option<Value>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => kwargs.get::<Option<Value>>("indent")?,
    };
    let indent = match indent {
        None => None,
        Some(text) if text.kind() == ValueKind::String => Some(text.to_string()),
        Some(none) if none.is_none() || none.is_undefined() => None,
        Some(count) => Some(blanks(state, usize::try_from(count)?)?),
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
        charge: &|bytes| charge(state, bytes),
        indent,
        item_separator,
        key_separator,
        is_ascii: match is_ascii {
            Some(flag) => flag.is_true(),
            None => kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        },
        sorts_keys: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    kwargs.assert_all_used()?;
    options.write(value).map(Value::from)
}

/// Pays for text before it is made, in the engine's measure: 64 bytes are one fuel.
fn charge(state: &State, bytes: usize) -> Result<(), Error> {
    state.consume_fuel(bytes.div_ceil(64) as u64)
}

/// Pays for a list or an object before it is written: it can hold another many times, and that another.
fn pay_for_items(state: &State, value: &Value, depth: usize) -> Result<(), Error> {
    if !matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable) {
        return Ok(());
    }
    if depth > DEEPEST {
        let message = format!("lists and objects lie more than {DEEPEST} deep in each other");
        return Err(Error::new(ErrorKind::InvalidOperation, message));
    }
    for item in value.try_iter()? {
        charge(state, 64)?;
        let item = if value.kind() == ValueKind::Map { value.get_item(&item)? } else { item };
        pay_for_items(state, &item, depth + 1)?;
    }
    Ok(())
}

fn blanks(state: &State, count: usize) -> Result<String, Error> {
    charge(state, count)?;
    Ok(" ".repeat(count))
}

/// Line breaks as Jinja makes them of those in a template.
pub(super) fn with_line_feeds(source: &str) -> Cow<'_, str> {
    if source.contains('\r') {
        source.replace("\r\n", "\n").replace('\r', "\n").into()
    } else {
        source.into()
    }
}

/// Replaces `{% generation %}` and `{% endgeneration %}`, which mark the assistant's part for training, by a condition
/// that always holds: it shows nothing and keeps the tags' control of white space.
pub(super) fn without_generation_tags(source: &str) -> String {
    let mut result = String::with_capacity(source.len());
    let mut copied = 0;
    // Where the first end of a tag at or after a start is: looked for once for all starts before it.
    let mut end = 0;
    for (start, _) in source.match_indices("{%") {
        let start = start + 2;
        if end < start {
            let Some(length) = source[start..].find("%}") else { break };
            end = start + length;
        }
        let inner = &source[start..end];
        let word = inner.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
        let replacement = match word {
            "generation" => "if true",
            "endgeneration" => "endif",
            _ => continue,
        };
        result.push_str(&source[copied..start]);
        result.push_str(&inner.replacen(word, replacement, 1));
        copied = end;
    }
    result.push_str(&source[copied..]);
    result
}
