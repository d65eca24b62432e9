//! How prompts become vectors: `--pooler-config`, else the files of sentence-transformers, else vLLM's default.

use std::path::Path;

use octet_engine::Pooling;
use serde_json::{Map, Value};

use super::fields::Fields;
use crate::{ModelError, files};

/// What is named in errors about typed values.
const TYPED: &str = "--pooler-config";
/// The modules of sentence-transformers.
const MODULES_FILE: &str = "modules.json";

/// Which hidden states make a prompt's vector, and whether its length becomes 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolingConfig {
    /// Which hidden states count.
    pub pooling: Pooling,
    /// Whether vectors are normalized.
    pub normalize: bool,
}

impl Default for PoolingConfig {
    /// That of decoders in vLLM.
    fn default() -> Self {
        Self { pooling: Pooling::Last, normalize: true }
    }
}

impl PoolingConfig {
    /// Reads the files of a model's folder, whose values `typed` replaces key by key.
    ///
    /// # Errors
    /// A value that is not supported, or a file that cannot be read and that `typed` does not make superfluous.
    pub fn read(folder: Option<&Path>, typed: &Map<String, Value>) -> Result<Self, ModelError> {
        let fields = Fields::new(TYPED, "", typed);
        fields.refuse_all_but(&[&["pooling_type", "seq_pooling_type", "use_activation", "normalize"]])?;
        let key = if fields.get("seq_pooling_type").is_some() { "seq_pooling_type" } else { "pooling_type" };
        let pooling = match fields.text(key)?.map(str::to_ascii_uppercase).as_deref() {
            None => None,
            Some("LAST") => Some(Pooling::Last),
            Some("MEAN") => Some(Pooling::Mean),
            Some("CLS") => Some(Pooling::First),
            Some(_) => return Err(fields.error(key, "one of LAST, MEAN, CLS")),
        };
        let key = if fields.get("use_activation").is_some() { "use_activation" } else { "normalize" };
        let normalize = fields.get(key).map(|_| fields.flag_or(key, true)).transpose()?;
        let own = match (folder, pooling, normalize) {
            (Some(folder), ..) if pooling.is_none() || normalize.is_none() => Self::of_modules(folder)?,
            _ => Self::default(),
        };
        Ok(Self { pooling: pooling.unwrap_or(own.pooling), normalize: normalize.unwrap_or(own.normalize) })
    }

    /// What sentence-transformers would do; a folder that is not for it has no opinion.
    fn of_modules(folder: &Path) -> Result<Self, ModelError> {
        let path = folder.join(MODULES_FILE);
        if !path.exists() {
            return Ok(Self::default());
        }
        let json = |source| ModelError::Json { path: path.clone(), source };
        let modules: Vec<Map<String, Value>> =
            serde_json::from_str(&files::read_text(&path, "the modules")?).map_err(json)?;
        let file = path.display().to_string();
        let mut found = Self { pooling: Pooling::Last, normalize: false };
        for module in &modules {
            let fields = Fields::new(&file, "", module);
            match fields.text("type")?.unwrap_or_default().rsplit('.').next() {
                Some("Pooling") => {
                    found.pooling = Self::of_pooling(&folder.join(fields.text("path")?.unwrap_or_default()))?;
                }
                Some("Normalize") => found.normalize = true,
                Some("Transformer") => {}
                _ => return Err(fields.error("type", "one of Transformer, Pooling, Normalize")),
            }
        }
        Ok(found)
    }

    fn of_pooling(folder: &Path) -> Result<Pooling, ModelError> {
        let path = folder.join("config.json");
        let json = |source| ModelError::Json { path: path.clone(), source };
        let text = files::read_text(
            &path,
            "the pooling of sentence-transformers (--pooler-config '{\"pooling_type\": \"LAST\"}' does without)",
        )?;
        let object: Map<String, Value> = serde_json::from_str(&text).map_err(json)?;
        let file = path.display().to_string();
        let fields = Fields::new(&file, "", &object);
        let modes = fields.keys().filter(|key| key.starts_with("pooling_mode_"));
        match modes.collect::<Vec<_>>()[..] {
            ["pooling_mode_lasttoken"] => Ok(Pooling::Last),
            ["pooling_mode_mean_tokens"] => Ok(Pooling::Mean),
            ["pooling_mode_cls_token"] => Ok(Pooling::First),
            [other] => Err(fields.error(other, "one of pooling_mode_lasttoken, _mean_tokens, _cls_token")),
            _ => Err(fields.error("pooling_mode_lasttoken", "exactly one pooling mode")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(folder: Option<&Path>, typed: &Value) -> Result<PoolingConfig, String> {
        PoolingConfig::read(folder, typed.as_object().unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_typed_counts_before_the_files_and_these_before_the_default() {
        let folder = tempfile::tempdir().unwrap();
        let path = Some(folder.path());
        assert_eq!(read(path, &json!({})).unwrap(), PoolingConfig::default());
        let modules = json!([
            { "idx": 0, "path": "", "type": "sentence_transformers.models.Transformer" },
            { "idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling" },
        ]);
        std::fs::write(folder.path().join(MODULES_FILE), modules.to_string()).unwrap();
        let error = read(path, &json!({})).unwrap_err();
        assert!(error.contains("1_Pooling") && error.contains("--pooler-config"), "{error}");
        assert_eq!(
            read(path, &json!({ "pooling_type": "cls", "use_activation": true })).unwrap(),
            PoolingConfig { pooling: Pooling::First, normalize: true }
        );
        std::fs::create_dir(folder.path().join("1_Pooling")).unwrap();
        let mode = json!({ "word_embedding_dimension": 64, "pooling_mode_mean_tokens": true,
            "pooling_mode_cls_token": false });
        std::fs::write(folder.path().join("1_Pooling/config.json"), mode.to_string()).unwrap();
        let mean = PoolingConfig { pooling: Pooling::Mean, normalize: false };
        assert_eq!(read(path, &json!({})).unwrap(), mean);
        assert_eq!(
            read(path, &json!({ "normalize": true })).unwrap(),
            PoolingConfig { normalize: true, ..mean }
        );
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (typed, found) in [
            (json!({ "pooling_type": "STEP" }), "pooling_type is \"STEP\", expected one of LAST, MEAN, CLS"),
            (json!({ "dimensions": 64 }), "dimensions is 64"),
            (json!({ "use_activation": "yes" }), "use_activation is \"yes\", expected true or false"),
        ] {
            let error = read(None, &typed).unwrap_err();
            assert!(error.starts_with("--pooler-config: ") && error.contains(found), "{error}");
        }
    }
}
