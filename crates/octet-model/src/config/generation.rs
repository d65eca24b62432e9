//! `generation_config.json`: the model's own defaults for sampling.

use std::path::Path;

use serde_json::{Map, Value};

use super::fields::Fields;
use crate::{ModelError, files};

/// Where defaults that were typed come from, for errors.
const TYPED: &str = "--override-generation-config";
const EOS: &str = "eos_token_id";
/// Keys that are read.
const READ: [&str; 9] = [
    EOS,
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "max_new_tokens",
];
/// Keys that say nothing about what is sampled here. `do_sample: true` is among them: a temperature says it all.
const HARMLESS: [&str; 13] = [
    "_from_model_config",
    "assistant_confidence_threshold",
    "bos_token_id",
    "cache_implementation",
    "chat_format",
    "do_sample",
    "max_window_size",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "return_dict_in_generate",
    "transformers_version",
    "use_cache",
];
/// Values of other keys that change nothing.
const NEUTRAL: [(&str, f64); 10] = [
    ("num_beams", 1.0),
    ("num_beam_groups", 1.0),
    ("num_return_sequences", 1.0),
    ("length_penalty", 1.0),
    ("diversity_penalty", 0.0),
    ("encoder_repetition_penalty", 1.0),
    ("no_repeat_ngram_size", 0.0),
    ("typical_p", 1.0),
    ("min_length", 0.0),
    ("penalty_alpha", 0.0),
];

/// Defaults that a model's makers recommend; a request's own values win over them. `do_sample` is not among them, as in
/// vLLM: a temperature says it all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    /// Ids that end a sequence; they stand in place of those of `config.json`.
    pub eos_token_ids: Vec<u32>,
    /// Sampling temperature.
    pub temperature: Option<f32>,
    /// Smallest set of tokens to reach this probability.
    pub top_p: Option<f32>,
    /// Number of tokens to keep; 0 keeps all.
    pub top_k: Option<u32>,
    /// Fraction of the most likely token's probability.
    pub min_p: Option<f32>,
    /// Penalty on tokens seen.
    pub repetition_penalty: Option<f32>,
    /// Penalty on tokens of the output.
    pub presence_penalty: Option<f32>,
    /// Penalty on each time that a token is in the output.
    pub frequency_penalty: Option<f32>,
    /// Longest output.
    pub max_new_tokens: Option<usize>,
    /// Keys that nobody here obeys.
    pub ignored: Vec<String>,
}

/// What of a file counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GenerationKeys {
    /// All of it.
    All,
    /// The ids that end a sequence, which are no matter of taste.
    EosOnly,
}

impl GenerationConfig {
    /// Reads a file, whose values `typed` replaces key by key. A file that is missing has no opinions.
    ///
    /// # Errors
    /// A file that cannot be read, no JSON, a bad value.
    pub fn read(
        path: Option<&Path>,
        keys: GenerationKeys,
        typed: &Map<String, Value>,
    ) -> Result<Self, ModelError> {
        let typed_fields = Fields::new(TYPED, "", typed);
        typed_fields.refuse_all_but(&[&READ, &HARMLESS])?;
        Self::from_fields(&typed_fields)?;
        let name = path.map_or_else(String::new, |path| path.display().to_string());
        let mut merged = match path {
            Some(path) if path.exists() => read_object(path)?,
            _ => Map::new(),
        };
        if keys == GenerationKeys::EosOnly {
            merged.retain(|key, _| key == EOS);
        }
        merged.extend(typed.clone());
        Self::from_fields(&Fields::new(&name, "", &merged))
    }

    fn from_fields(fields: &Fields<'_>) -> Result<Self, ModelError> {
        let within = |key: &str, low: f64, high: f64| within(fields, key, low, high);
        Ok(Self {
            eos_token_ids: fields.token_ids(EOS)?,
            temperature: within("temperature", 0.0, 2.0)?,
            top_p: above_zero(fields, "top_p", 1.0, "a number above 0 and at most 1")?,
            top_k: top_k(fields)?,
            min_p: within("min_p", 0.0, 1.0)?,
            repetition_penalty: above_zero(
                fields,
                "repetition_penalty",
                f64::from(f32::MAX),
                "a number above 0",
            )?,
            presence_penalty: within("presence_penalty", -2.0, 2.0)?,
            frequency_penalty: within("frequency_penalty", -2.0, 2.0)?,
            max_new_tokens: max_new_tokens(fields)?,
            ignored: ignored(fields),
        })
    }
}

fn read_object(path: &Path) -> Result<Map<String, Value>, ModelError> {
    let text = files::read_text(path, "the generation config")?;
    serde_json::from_str(&text).map_err(|source| ModelError::Json { path: path.to_owned(), source })
}

/// A number from `low` to `high`, as the sampler takes it.
fn within(fields: &Fields<'_>, key: &str, low: f64, high: f64) -> Result<Option<f32>, ModelError> {
    match fields.number(key)? {
        None => Ok(None),
        Some(number) if (low..=high).contains(&number) => Ok(Some(number as f32)),
        Some(_) => Err(fields.error(key, format!("a number from {low} to {high}"))),
    }
}

/// A number that is above zero still in 32 bits.
fn above_zero(fields: &Fields<'_>, key: &str, high: f64, expected: &str) -> Result<Option<f32>, ModelError> {
    match fields.number(key)? {
        None => Ok(None),
        Some(number) if number <= high && number as f32 >= f32::MIN_POSITIVE => Ok(Some(number as f32)),
        Some(_) => Err(fields.error(key, expected)),
    }
}

/// An integer, which Python may have written as a float.
fn whole(fields: &Fields<'_>, key: &str, expected: &str) -> Result<Option<i64>, ModelError> {
    const EXACT: f64 = 9e15;
    let Some(value) = fields.get(key) else { return Ok(None) };
    let float = value.as_f64().filter(|number| number.fract() == 0.0 && number.abs() < EXACT);
    let whole = value.as_i64().or(float.map(|number| number as i64));
    whole.map(Some).ok_or_else(|| fields.error(key, expected))
}

/// -1 and 0 keep all tokens.
fn top_k(fields: &Fields<'_>) -> Result<Option<u32>, ModelError> {
    let expected = "a positive integer, or 0 or -1 for all tokens";
    match whole(fields, "top_k", expected)? {
        None => Ok(None),
        Some(-1) => Ok(Some(0)),
        Some(count) if count >= 0 => Ok(Some(u32::try_from(count).unwrap_or(u32::MAX))),
        Some(_) => Err(fields.error("top_k", expected)),
    }
}

fn max_new_tokens(fields: &Fields<'_>) -> Result<Option<usize>, ModelError> {
    let expected = "a positive integer";
    match whole(fields, "max_new_tokens", expected)? {
        None => Ok(None),
        Some(count) if count > 0 => Ok(Some(usize::try_from(count).unwrap_or(usize::MAX))),
        Some(_) => Err(fields.error("max_new_tokens", expected)),
    }
}

/// Keys that ask for something which is not done.
fn ignored(fields: &Fields<'_>) -> Vec<String> {
    let is_neutral = |key: &str| {
        let neutral = NEUTRAL.iter().find(|(known, _)| *known == key);
        neutral.is_some_and(|(_, neutral)| fields.get(key).and_then(Value::as_f64) == Some(*neutral))
    };
    let unread = fields.keys().filter(|key| !READ.contains(key) && !HARMLESS.contains(key));
    let mut ignored: Vec<_> = unread.filter(|key| !is_neutral(key)).map(str::to_owned).collect();
    ignored.sort_unstable();
    ignored
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(value: &Value) -> Result<GenerationConfig, String> {
        let fields = Fields::new("generation_config.json", "", value.as_object().unwrap());
        GenerationConfig::from_fields(&fields).map_err(|error| error.to_string())
    }

    #[test]
    fn values_are_taken_as_the_ecosystem_writes_them() {
        let config = parse(&json!({ "eos_token_id": [7, 9], "temperature": 0, "top_k": -1, "top_p": null,
            "max_new_tokens": 512.0, "do_sample": true, "num_beams": 1, "suppress_tokens": [], "typical_p": 1.0,
            "pad_token_id": 3, "no_repeat_ngram_size": 3, "forced_eos_token_id": 2 }))
        .unwrap();
        let expected = GenerationConfig {
            eos_token_ids: vec![7, 9],
            temperature: Some(0.0),
            top_k: Some(0),
            max_new_tokens: Some(512),
            ignored: vec!["forced_eos_token_id".to_owned(), "no_repeat_ngram_size".to_owned()],
            ..GenerationConfig::default()
        };
        assert_eq!(config, expected);
        assert_eq!(parse(&json!({ "top_k": 50.0 })).unwrap().top_k, Some(50));
    }

    #[test]
    fn values_that_cannot_be_sampled_with_are_refused() {
        for (key, value) in [
            ("min_p", json!(1.5)),
            ("min_p", json!(-0.1)),
            ("top_p", json!(0)),
            ("top_p", json!(1.01)),
            ("temperature", json!(-1)),
            ("temperature", json!("hot")),
            ("repetition_penalty", json!(0)),
            ("repetition_penalty", json!(-1)),
            ("repetition_penalty", json!(1e-39)),
            ("repetition_penalty", json!(1e39)),
            ("presence_penalty", json!(3)),
            ("top_k", json!(-2)),
            ("top_k", json!(1.5)),
            ("max_new_tokens", json!(0)),
            ("eos_token_id", json!("</s>")),
        ] {
            let error = parse(&json!({ key: value })).unwrap_err();
            let start = format!("generation_config.json: {key} is {value}, expected ");
            assert!(error.starts_with(&start), "{error}");
        }
    }

    #[test]
    fn typed_values_win_and_are_checked_under_their_own_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("generation_config.json");
        let read = |keys, typed: Value| {
            GenerationConfig::read(Some(&path), keys, typed.as_object().unwrap()).map_err(|it| it.to_string())
        };
        assert_eq!(read(GenerationKeys::All, json!({})).unwrap(), GenerationConfig::default());
        std::fs::write(&path, r#"{"eos_token_id": 7, "temperature": 0.6, "top_p": 7}"#).unwrap();
        assert!(read(GenerationKeys::All, json!({})).unwrap_err().contains("top_p is 7, expected"));
        let config = read(GenerationKeys::All, json!({ "top_p": null, "temperature": 0.5 })).unwrap();
        assert_eq!(
            (config.temperature, config.top_p, &config.eos_token_ids[..]),
            (Some(0.5), None, &[7][..])
        );
        let config = read(GenerationKeys::EosOnly, json!({})).unwrap();
        assert_eq!((config.temperature, &config.eos_token_ids[..]), (None, &[7][..]));
        let error = read(GenerationKeys::All, json!({ "min_p": 2 })).unwrap_err();
        assert_eq!(error, "--override-generation-config: min_p is 2, expected a number from 0 to 1");
        let error = read(GenerationKeys::All, json!({ "heat": 2 })).unwrap_err();
        assert!(
            error.starts_with("--override-generation-config: heat is 2, expected no such key"),
            "{error}"
        );
    }
}
