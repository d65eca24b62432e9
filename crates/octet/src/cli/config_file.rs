//! `--config FILE.yaml`: flags in a file, one a key, as vLLM reads it.

use std::fs;
use std::path::Path;

use saphyr::{LoadableYamlNode, MarkedYaml, Scalar, YamlData};
use serde_json::{Map, Value};

/// A key with its value.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    /// Counted from 1.
    pub(super) line: usize,
    value: Value,
}

impl Entry {
    /// The values as they would be typed. A list is one for each element where the flag may be repeated, else JSON, as
    /// objects are; nothing at all (`key:`) is no value.
    pub(super) fn values(&self, is_repeatable: bool) -> Vec<String> {
        match &self.value {
            Value::Null => Vec::new(),
            Value::Array(items) if is_repeatable => items.iter().map(typed).collect(),
            value => vec![typed(value)],
        }
    }
}

fn typed(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The keys of a file, in order.
///
/// # Errors
/// The file cannot be read, is no YAML, or is no mapping of names.
pub(super) fn read(path: &Path) -> Result<Vec<Entry>, String> {
    parse(&fs::read_to_string(path).map_err(|error| error.to_string())?)
}

fn parse(text: &str) -> Result<Vec<Entry>, String> {
    let documents = MarkedYaml::load_from_str(text).map_err(|error| error.to_string())?;
    let mapping = match &documents[..] {
        [] => return Ok(Vec::new()),
        [document] => document.data.as_mapping().ok_or("expected flags, one a line: port: 8000")?,
        _ => return Err("expected one YAML document".to_owned()),
    };
    let mut entries = Vec::new();
    for (key, value) in mapping {
        let line = key.span.start.line();
        let at = |error: String| format!("line {line}: {error}");
        let name = key.data.as_str().ok_or_else(|| at("a key is no name of a flag".to_owned()))?;
        let value = json(value).map_err(|error| at(format!("{name}: {error}")))?;
        entries.push(Entry { key: name.to_owned(), line, value });
    }
    Ok(entries)
}

/// A value as JSON.
fn json(node: &MarkedYaml<'_>) -> Result<Value, String> {
    match &node.data {
        YamlData::Value(Scalar::Null) => Ok(Value::Null),
        YamlData::Value(Scalar::Boolean(value)) => Ok(Value::from(*value)),
        YamlData::Value(Scalar::Integer(value)) => Ok(Value::from(*value)),
        YamlData::Value(Scalar::FloatingPoint(value)) => Ok(Value::from(value.into_inner())),
        YamlData::Value(Scalar::String(value)) => Ok(Value::from(value.as_ref())),
        YamlData::Sequence(items) => items.iter().map(json).collect::<Result<Vec<_>, _>>().map(Value::from),
        YamlData::Mapping(mapping) => {
            let mut object = Map::new();
            for (key, value) in mapping {
                let key = json(key)?;
                object.insert(typed(&key), json(value)?);
            }
            Ok(Value::Object(object))
        }
        _ => Err("expected a plain value, a list or a mapping".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_as_they_would_be_typed() {
        let text = "# comment\nport: 8001\ngpu-memory-utilization: 0.90\nenforce_eager: true\n\nallowed-origins: [a, b]\n\
                    api-key:\n  - one\n  - two\nhf-overrides: {rope: {factor: 2.0}}\nrevision:\n";
        let entries = parse(text).unwrap();
        let read: Vec<(usize, &str, Vec<String>)> =
            entries.iter().map(|it| (it.line, &*it.key, it.values(it.key == "api-key"))).collect();
        let expected: [(usize, &str, &[&str]); 7] = [
            (2, "port", &["8001"]),
            (3, "gpu-memory-utilization", &["0.9"]),
            (4, "enforce_eager", &["true"]),
            (6, "allowed-origins", &["[\"a\",\"b\"]"]),
            (7, "api-key", &["one", "two"]),
            (10, "hf-overrides", &["{\"rope\":{\"factor\":2.0}}"]),
            (11, "revision", &[]),
        ];
        assert_eq!(
            read,
            expected.map(|(line, key, values)| (line, key, values.iter().map(ToString::to_string).collect()))
        );
        assert!(parse("").unwrap().is_empty());
    }

    #[test]
    fn what_is_no_mapping_of_flags_is_refused() {
        for wrong in ["- a\n", "just words", "a: b\na: c\n", "a: [1", "a: 1\n---\nb: 2\n", "1: 2\n"] {
            assert!(parse(wrong).is_err(), "{wrong:?} was taken");
        }
    }
}
