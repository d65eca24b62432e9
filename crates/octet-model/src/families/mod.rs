//! The families of models, each told by what it does differently from plain Llama.

mod gemma2;
mod granite;
mod llama;
mod mistral;
mod olmo2;
mod qwen2;
mod qwen3;

use crate::ModelError;
use crate::config::fields::Fields;

/// Sliding window of each layer, none for those that see everything.
type Windows = Vec<Option<usize>>;

/// One `architectures[0]`.
pub(crate) struct Family {
    /// As the config names it.
    pub(crate) architecture: &'static str,
    /// Head size where the config has none, if it is not `hidden_size / num_attention_heads`.
    pub(crate) head_dim: Option<usize>,
    /// `rms_norm_eps` where the config has none.
    pub(crate) norm_epsilon: f64,
    /// `tie_word_embeddings` where the config has none.
    pub(crate) tied_embeddings: bool,
    /// Key of the MLP's activation, and its value where the config has none.
    pub(crate) activation: [&'static str; 2],
    /// Options of the decoder.
    pub(crate) traits: fn(&Fields<'_>) -> Result<Traits, ModelError>,
    /// Keys of the config that it reads besides those of all, and those that say what is so anyway.
    pub(crate) keys: &'static [&'static str],
    /// Sliding window of each layer, given their number.
    pub(crate) windows: fn(&Fields<'_>, usize) -> Result<Windows, ModelError>,
}

/// Options of the decoder in which families differ.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Traits {
    /// Queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// The attention's output projection has a bias.
    pub output_bias: bool,
    /// The MLP's projections have a bias.
    pub mlp_bias: bool,
    /// How queries and keys are normalised before the rotation, if they are.
    pub query_key_norm: Option<HeadNorm>,
    /// Where attention and MLP are normalised.
    pub norms: NormPlacement,
    /// What the weights of norms are.
    pub norm_weights: NormWeights,
    /// Factors and bounds.
    pub scales: Scales,
}

/// Factors on what a decoder computes, and smooth bounds: `cap * tanh(x / cap)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scales {
    /// On embeddings.
    pub embedding: f32,
    /// The factor on embeddings is rounded to the type of weights first, as transformers and vLLM do.
    pub embedding_is_rounded: bool,
    /// On what attention and MLP add to the residual.
    pub residual: f32,
    /// On scores; none is `head_dim^-0.5`.
    pub attention: Option<f32>,
    /// Bound of scores.
    pub score_cap: Option<f32>,
    /// On logits.
    pub logits: f32,
    /// Bound of logits.
    pub logit_cap: Option<f32>,
}

impl Default for Scales {
    /// Those that change nothing.
    fn default() -> Self {
        Self {
            embedding: 1.0,
            embedding_is_rounded: false,
            residual: 1.0,
            attention: None,
            score_cap: None,
            logits: 1.0,
            logit_cap: None,
        }
    }
}

/// What the weights of norms are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NormWeights {
    /// What is stored.
    #[default]
    Stored,
    /// One more than what is stored.
    OnePlusStored,
}

/// What of queries and keys a norm runs over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadNorm {
    /// Each head by itself, with one weight for all.
    Each,
    /// All heads of the queries together, and all of the keys.
    Together,
}

/// Where the norms of a layer's attention and MLP are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NormPlacement {
    /// Over the residual that they read.
    #[default]
    Before,
    /// Over what they add to the residual, which they read as it is.
    After,
    /// Over both.
    Both,
}

const FAMILIES: [&Family; 7] = [
    &gemma2::FAMILY,
    &granite::FAMILY,
    &llama::FAMILY,
    &mistral::FAMILY,
    &olmo2::FAMILY,
    &qwen2::FAMILY,
    &qwen3::FAMILY,
];

/// The family of an architecture.
pub(crate) fn find(architecture: &str) -> Result<&'static Family, ModelError> {
    let family = FAMILIES.into_iter().find(|family| family.architecture == architecture);
    family.ok_or_else(|| ModelError::Unsupported {
        what: "the architecture",
        found: architecture.to_owned(),
        supported: supported(),
    })
}

/// All architectures, for messages.
pub(crate) fn supported() -> String {
    FAMILIES.map(|family| family.architecture).join(", ")
}

/// Windows for families whose layers all see everything: a list of other layers is a contradiction, since transformers
/// would not heed it and vLLM would.
fn no_windows(fields: &Fields<'_>, layers: usize) -> Result<Windows, ModelError> {
    if sliding_layers(fields, layers)?.is_some_and(|slides| slides.contains(&true)) {
        return Err(fields.error("layer_types", "full_attention for all layers of this architecture"));
    }
    Ok(vec![None; layers])
}

/// `layer_types` of transformers 5: which layers slide, if the config lists them.
fn sliding_layers(fields: &Fields<'_>, layers: usize) -> Result<Option<Vec<bool>>, ModelError> {
    if fields.get("layer_types").is_none() {
        return Ok(None);
    }
    let expected = format!("a list of {layers} entries, full_attention or sliding_attention");
    let kinds = fields.texts("layer_types")?;
    let slides = |kind: &String| match kind.as_str() {
        "full_attention" => Some(false),
        "sliding_attention" => Some(true),
        _ => None,
    };
    let slides: Option<Vec<bool>> = kinds.iter().map(slides).collect();
    match slides {
        Some(slides) if slides.len() == layers => Ok(Some(slides)),
        _ => Err(fields.error("layer_types", expected)),
    }
}
