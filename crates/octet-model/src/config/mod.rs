//! What is meant: a model's config, checked once, with every default filled in.

pub(crate) mod fields;
mod generation;
mod keys;
mod overrides;
mod pooling;
mod rope;

use std::path::Path;

use octet_backend::{Activation, DataType};
use serde_json::{Map, Value};

pub use generation::{GenerationConfig, GenerationKeys};
pub use overrides::ConfigOverrides;
pub use pooling::PoolingConfig;
pub use rope::{RopeConfig, RopeScaling, Yarn};

use crate::families::{self, Traits};
use crate::layer::Model;
use crate::layer::sites::{LinearSite, Projection};
use crate::{ModelError, files};
use fields::Fields;

/// Bounds on sizes, far above any model: what is beyond them is a mistake, and products of them do not overflow.
mod most {
    pub(super) const LAYERS: usize = 4096;
    pub(super) const WIDTH: usize = 1 << 20;
    pub(super) const HEADS: usize = 1 << 14;
    pub(super) const HEAD_DIM: usize = 1 << 12;
    pub(super) const VOCABULARY: usize = 1 << 26;
}

/// A decoder-only model as its `config.json` describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// `architectures[0]`.
    pub architecture: String,
    /// Rows of the embedding and of the head.
    pub vocabulary: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the gated MLP.
    pub intermediate: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub query_heads: usize,
    /// Key and value heads; divides `query_heads`.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Epsilon of every norm.
    pub norm_epsilon: f32,
    /// Of the MLP's gate.
    pub activation: Activation,
    /// Rotary embedding.
    pub rope: RopeConfig,
    /// The head is the embedding.
    pub tied_embeddings: bool,
    /// What differs between families.
    pub traits: Traits,
    /// Sliding window of each layer, `[layers]`.
    pub windows: Vec<Option<usize>>,
    /// Element type that the config names for the weights.
    pub stored_type: Option<DataType>,
    /// Beginning-of-sequence ids.
    pub bos_token_ids: Vec<u32>,
    /// End-of-sequence ids.
    pub eos_token_ids: Vec<u32>,
    /// `quantization_config`, as it stands in the file.
    pub quantization: Option<Map<String, Value>>,
    /// The tokenizer's `model_max_length`, if it is a length.
    pub tokenizer_limit: Option<usize>,
    /// `model_max_length`: a longer `--max-model-len` is allowed up to it.
    pub model_max_length: Option<usize>,
    /// Whether the beginning of a prompt's vector is one too, and of which lengths: none named, of all.
    pub matryoshka: Option<Vec<usize>>,
    /// Keys that nobody reads.
    pub ignored_keys: Vec<String>,
}

impl ModelConfig {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// No file, no JSON, an unsupported architecture, a bad field.
    pub fn read(path: &Path) -> Result<Self, ModelError> {
        Self::read_with(path, &ConfigOverrides::default())
    }

    /// As [`ModelConfig::read`], with values that replace the file's.
    ///
    /// # Errors
    /// As [`ModelConfig::read`].
    pub fn read_with(path: &Path, overrides: &ConfigOverrides) -> Result<Self, ModelError> {
        let text = files::read_text(path, "the config")?;
        Self::parse_with(&text, path, overrides)
    }

    /// As [`ModelConfig::read`] for a text; `path` is named in errors.
    ///
    /// # Errors
    /// As [`ModelConfig::read`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ModelError> {
        Self::parse_with(text, path, &ConfigOverrides::default())
    }

    /// As [`ModelConfig::parse`], with values that replace the text's.
    ///
    /// # Errors
    /// As [`ModelConfig::read`].
    pub fn parse_with(text: &str, path: &Path, overrides: &ConfigOverrides) -> Result<Self, ModelError> {
        let json = |source| ModelError::Json { path: path.to_owned(), source };
        let mut object: Map<String, Value> = serde_json::from_str(text).map_err(json)?;
        overrides.apply(&mut object);
        let file = path.display().to_string();
        Self::from_fields(&Fields::new(&file, "", &object))
    }

    fn from_fields(fields: &Fields<'_>) -> Result<Self, ModelError> {
        let architecture = architecture(fields)?;
        let family = families::find(architecture)?;
        let hidden = fields.required_size("hidden_size", most::WIDTH)?;
        let layers = fields.required_size("num_hidden_layers", most::LAYERS)?;
        let query_heads = fields.required_size("num_attention_heads", most::HEADS)?;
        let kv_heads = fields.positive("num_key_value_heads")?.unwrap_or(query_heads);
        if query_heads % kv_heads != 0 {
            let expected = format!("a divisor of num_attention_heads, which is {query_heads}");
            return Err(fields.error("num_key_value_heads", expected));
        }
        let head_dim = match fields.size("head_dim", most::HEAD_DIM)?.or(family.head_dim) {
            Some(head_dim) => head_dim,
            None if hidden % query_heads == 0 => hidden / query_heads,
            None => return Err(fields.error("hidden_size", "a multiple of num_attention_heads, or head_dim")),
        };
        if !head_dim.is_multiple_of(2) {
            return Err(fields.error("head_dim", "an even number"));
        }
        Ok(Self {
            architecture: architecture.to_owned(),
            vocabulary: fields.required_size("vocab_size", most::VOCABULARY)?,
            hidden,
            intermediate: fields.required_size("intermediate_size", most::WIDTH)?,
            layers,
            query_heads,
            kv_heads,
            head_dim,
            norm_epsilon: fields.positive_number("rms_norm_eps")?.unwrap_or(family.norm_epsilon) as f32,
            activation: activation(fields, family.activation)?,
            rope: RopeConfig::read(fields, head_dim)?,
            tied_embeddings: fields.flag_or("tie_word_embeddings", family.tied_embeddings)?,
            traits: (family.traits)(fields)?,
            windows: (family.windows)(fields, layers)?,
            stored_type: stored_type(fields)?,
            bos_token_ids: fields.token_ids("bos_token_id")?,
            eos_token_ids: eos_token_ids(fields)?,
            tokenizer_limit: None,
            model_max_length: fields.positive("model_max_length")?,
            matryoshka: matryoshka(fields)?,
            ignored_keys: keys::check(fields, family)?,
            quantization: quantization(fields)?.cloned(),
        })
    }

    /// The longest sequence that the model was made for.
    #[must_use]
    pub fn longest_sequence(&self) -> usize {
        self.rope.longest_sequence(self.tokenizer_limit)
    }

    /// Ids that end a sequence besides the tokenizer's own: those of `generation_config.json` where it names any, else
    /// those of `config.json`.
    #[must_use]
    pub fn ending_ids<'a>(&'a self, generation: &'a GenerationConfig) -> &'a [u32] {
        let own = &generation.eos_token_ids;
        if own.is_empty() { &self.eos_token_ids } else { own }
    }

    /// Number of weights, norms and biases left out, tied embeddings counted once.
    #[must_use]
    pub fn parameters(&self) -> usize {
        self.weights().map(|(_, count)| count).sum()
    }

    /// Those of the layers alone, each of which a token is multiplied by.
    #[must_use]
    pub fn layer_parameters(&self) -> usize {
        let is_of_a_layer = |projection| !matches!(projection, None | Some(Projection::Head));
        self.weights().filter(|&(projection, _)| is_of_a_layer(projection)).map(|(_, count)| count).sum()
    }

    /// Elements of each linear.
    fn weights(&self) -> impl Iterator<Item = (Option<Projection>, usize)> {
        let model = Model::of(self, false);
        let count = |(projection, site): (_, &LinearSite)| (projection, site.rows() * site.columns);
        model.linears().into_iter().map(count).collect::<Vec<_>>().into_iter()
    }
}

/// Composite models keep the ids with the text model's fields.
fn eos_token_ids(fields: &Fields<'_>) -> Result<Vec<u32>, ModelError> {
    match (fields.get("eos_token_id"), fields.object("text_config")?) {
        (None, Some(text)) => Fields::new(fields.file(), "text_config", text).token_ids("eos_token_id"),
        _ => fields.token_ids("eos_token_id"),
    }
}

fn architecture<'a>(fields: &Fields<'a>) -> Result<&'a str, ModelError> {
    let first = fields.get("architectures").and_then(|list| list.get(0)).and_then(Value::as_str);
    first
        .ok_or_else(|| fields.error("architectures", format!("a list with one of {}", families::supported())))
}

fn activation(fields: &Fields<'_>, [key, default]: [&str; 2]) -> Result<Activation, ModelError> {
    match fields.text(key)?.unwrap_or(default) {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu_pytorch_tanh" | "gelu_new" => Ok(Activation::GeluTanh),
        _ => Err(fields.error(key, "one of silu, gelu_pytorch_tanh")),
    }
}

/// As vLLM reads it: lengths, or that all are allowed.
fn matryoshka(fields: &Fields<'_>) -> Result<Option<Vec<usize>>, ModelError> {
    const LENGTHS: &str = "matryoshka_dimensions";
    let lengths = fields.sizes(LENGTHS)?;
    let is_any = fields.flag_or("is_matryoshka", false)?;
    Ok((is_any || !lengths.is_empty()).then_some(lengths))
}

/// transformers 4 writes `torch_dtype`, 5 writes `dtype`.
fn stored_type(fields: &Fields<'_>) -> Result<Option<DataType>, ModelError> {
    let key = if fields.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
    let Some(name) = fields.text(key)? else { return Ok(None) };
    match name.strip_prefix("torch.").unwrap_or(name) {
        "float32" => Ok(Some(DataType::F32)),
        "float16" | "half" => Ok(Some(DataType::F16)),
        "bfloat16" => Ok(Some(DataType::BF16)),
        "auto" => Ok(None),
        // Some FP8 checkpoints name the weights' type here; the other tensors say their own.
        other if other.starts_with("float8") => Ok(None),
        _ => Err(fields.error(key, "one of float32, float16, bfloat16")),
    }
}

/// Older compressed-tensors files put the block in `compression_config`.
fn quantization<'a>(fields: &Fields<'a>) -> Result<Option<&'a Map<String, Value>>, ModelError> {
    match fields.object("quantization_config")? {
        Some(object) => Ok(Some(object)),
        None => fields.object("compression_config"),
    }
}

#[cfg(test)]
mod tests {
    use octet_backend::DataType;
    use serde_json::json;

    use super::*;

    fn parse(value: &Value) -> Result<ModelConfig, ModelError> {
        ModelConfig::parse(&value.to_string(), Path::new("config.json"))
    }

    fn llama() -> Value {
        json!({ "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96, "vocab_size": 101,
            "max_position_embeddings": 128, "torch_dtype": "bfloat16", "eos_token_id": [1, 2] })
    }

    #[test]
    fn defaults_are_filled_in() {
        let config = parse(&llama()).unwrap();
        assert_eq!((config.head_dim, config.norm_epsilon), (16, 1e-6));
        assert_eq!(config.rope.theta, 10_000.0);
        assert_eq!(config.stored_type, Some(DataType::BF16));
        assert_eq!(config.eos_token_ids, [1, 2]);
        assert!(!config.tied_embeddings && config.windows == [None, None]);
        let mut olmo2 = llama();
        olmo2["architectures"] = json!(["Olmo2ForCausalLM"]);
        assert_eq!(parse(&olmo2).unwrap().norm_epsilon, 1e-5);
    }

    #[test]
    fn what_does_not_fit_together_is_refused_by_key() {
        for (key, value, message) in [
            ("num_key_value_heads", json!(3), "num_key_value_heads is 3, expected a divisor"),
            ("hidden_size", json!(66), "hidden_size is 66, expected a multiple of num_attention_heads"),
            ("hidden_act", json!("relu"), "hidden_act is \"relu\", expected one of silu"),
            (
                "architectures",
                json!(["MambaForCausalLM"]),
                "MambaForCausalLM is not supported; supported: Gemma2",
            ),
            ("architectures", json!([]), "architectures is [], expected a list with one of"),
            ("vocab_size", json!(null), "vocab_size is null, expected a positive integer"),
            ("torch_dtype", json!("int8"), "torch_dtype is \"int8\", expected one of float32"),
        ] {
            let mut config = llama();
            config[key] = value;
            let error = parse(&config).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn absurd_sizes_are_refused_at_once() {
        for (key, value) in [
            ("num_hidden_layers", json!(1_000_000_000)),
            ("hidden_size", json!(1u64 << 60)),
            ("vocab_size", json!(1u64 << 60)),
            ("intermediate_size", json!(u64::MAX)),
            ("head_dim", json!(1u64 << 40)),
            ("max_position_embeddings", json!(1u64 << 60)),
            ("num_attention_heads", json!(0)),
            ("num_attention_heads", json!(-4)),
            ("num_attention_heads", json!(1u64 << 60)),
            ("num_key_value_heads", json!(0)),
            ("num_hidden_layers", json!(32.0)),
            ("num_hidden_layers", json!(1e300)),
        ] {
            let mut config = llama();
            config[key] = value;
            let error = parse(&config).unwrap_err().to_string();
            assert!(error.contains(&format!("config.json: {key} is ")), "{error}");
        }
    }

    #[test]
    fn ids_that_end_a_sequence_come_from_one_place() {
        let mut value = llama();
        value["eos_token_id"] = json!(33);
        let config = parse(&value).unwrap();
        let own = GenerationConfig { eos_token_ids: vec![1], ..GenerationConfig::default() };
        assert_eq!(config.ending_ids(&own), [1]);
        assert_eq!(config.ending_ids(&GenerationConfig::default()), [33]);
        value["eos_token_id"] = json!(null);
        value["text_config"] = json!({ "eos_token_id": [7, -1] });
        assert_eq!(parse(&value).unwrap().eos_token_ids, [7]);
    }

    #[test]
    fn dtype_wins_over_its_older_name() {
        let mut value = llama();
        value["dtype"] = json!("float16");
        assert_eq!(parse(&value).unwrap().stored_type, Some(DataType::F16));
    }

    #[test]
    fn text_that_is_not_json_is_refused_with_the_place() {
        let error = ModelConfig::parse("{\"a\": }", Path::new("m/config.json")).unwrap_err().to_string();
        assert!(error.starts_with("m/config.json is not valid JSON") && error.contains("line 1"), "{error}");
    }
}
