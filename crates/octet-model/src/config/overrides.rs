//! `--hf-overrides`: values that replace those of `config.json` before it is read.

use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value};

/// A JSON object that is laid over `config.json`, objects inside it key by key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConfigOverrides(Map<String, Value>);

impl ConfigOverrides {
    /// Whether nothing is replaced.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Lays the values over a config's.
    pub(super) fn apply(&self, config: &mut Map<String, Value>) {
        merge(config, &self.0);
    }
}

impl FromStr for ConfigOverrides {
    type Err = String;

    /// An empty text replaces nothing.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let expected = "expected a JSON object such as {\"rope_theta\": 1000000}";
        serde_json::from_str(text).map(Self).map_err(|error| format!("{expected}: {error}"))
    }
}

impl fmt::Display for ConfigOverrides {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (key, value)) in self.0.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(formatter, "{comma}{key} {value}")?;
        }
        Ok(())
    }
}

fn merge(target: &mut Map<String, Value>, overrides: &Map<String, Value>) {
    for (key, value) in overrides {
        match (target.get_mut(key), value) {
            (Some(Value::Object(inner)), Value::Object(value)) => merge(inner, value),
            _ => {
                target.insert(key.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_are_merged_and_all_else_is_replaced() {
        let typed =
            r#"{"rope_parameters": {"factor": 4.0, "rope_type": "yarn"}, "eos_token_id": [1], "new": null}"#;
        let overrides: ConfigOverrides = typed.parse().unwrap();
        let mut config =
            json!({ "rope_parameters": { "rope_type": "default", "rope_theta": 1e6 }, "eos_token_id": 2 });
        overrides.apply(config.as_object_mut().unwrap());
        let expected = json!({ "rope_parameters": { "rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0 },
            "eos_token_id": [1], "new": null });
        assert_eq!(config, expected);
        assert!(overrides.to_string().contains("eos_token_id [1], new null"), "{overrides}");
        assert!("".parse::<ConfigOverrides>().unwrap().is_empty());
        assert!("[1]".parse::<ConfigOverrides>().unwrap_err().contains("expected a JSON object"));
    }
}
