//! `generation_config.json`: the model's own defaults for sampling.

use std::path::Path;

use serde_json::{Map, Value};

use super::fields::Fields;
use crate::ModelError;

/// Defaults that a model's makers recommend; a request's own values win over them. `do_sample` is not among them, as in
/// vLLM: a temperature says it all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    /// Ids that end a sequence; they add to those of the tokenizer and of `config.json`.
    pub eos_token_ids: Vec<u32>,
    /// Sampling temperature.
    pub temperature: Option<f32>,
    /// Smallest set of tokens to reach this probability.
    pub top_p: Option<f32>,
    /// Number of tokens to keep.
    pub top_k: Option<u32>,
    /// Fraction of the most likely token's probability.
    pub min_p: Option<f32>,
    /// Penalty on tokens seen.
    pub repetition_penalty: Option<f32>,
    /// Longest output.
    pub max_new_tokens: Option<usize>,
}

impl GenerationConfig {
    /// Reads the file; a missing one has no opinions.
    ///
    /// # Errors
    /// A file that cannot be read, no JSON, a bad field.
    pub fn read(path: &Path) -> Result<Self, ModelError> {
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = std::fs::read_to_string(path).map_err(ModelError::read("the generation config", path))?;
        let json = |source| ModelError::Json { path: path.to_owned(), source };
        let object: Map<String, Value> = serde_json::from_str(&text).map_err(json)?;
        let file = path.display().to_string();
        let fields = Fields::new(&file, "", &object);
        let number = |key| fields.number(key).map(|number| number.map(|number| number as f32));
        Ok(Self {
            eos_token_ids: fields.token_ids("eos_token_id")?,
            temperature: number("temperature")?,
            top_p: number("top_p")?,
            top_k: fields.count("top_k")?.map(|count| u32::try_from(count).unwrap_or(u32::MAX)),
            min_p: number("min_p")?,
            repetition_penalty: number("repetition_penalty")?,
            max_new_tokens: fields.positive("max_new_tokens")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_and_a_missing_file_has_no_opinions() {
        let folder = std::env::temp_dir().join(format!("octet-generation-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("generation_config.json");
        assert_eq!(GenerationConfig::read(&path).unwrap(), GenerationConfig::default());
        std::fs::write(
            &path,
            r#"{"eos_token_id": [7, 9], "temperature": 0.6, "top_k": 20, "do_sample": true}"#,
        )
        .unwrap();
        let config = GenerationConfig::read(&path).unwrap();
        assert_eq!(
            (config.eos_token_ids, config.temperature, config.top_k),
            (vec![7, 9], Some(0.6), Some(20))
        );
        std::fs::write(&path, r#"{"temperature": "hot"}"#).unwrap();
        let error = GenerationConfig::read(&path).unwrap_err().to_string();
        assert!(error.contains("temperature is \"hot\", expected a number"), "{error}");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
