//! Gemma 2: norms before and after attention and MLP whose weights are one more than stored, bounded scores and logits,
//! a sliding window in every other layer.

use super::{Family, NormPlacement, NormWeights, Scales, Traits, Windows, llama, sliding_layers};
use crate::ModelError;
use crate::config::fields::Fields;

pub(super) const FAMILY: Family = Family {
    architecture: "Gemma2ForCausalLM",
    head_dim: Some(256),
    tied_embeddings: true,
    // transformers reads this one; `hidden_act` beside it, in the makers' own files, says the same or is not read.
    activation: ["hidden_activation", "gelu_pytorch_tanh"],
    traits,
    keys: &[
        "attention_bias",
        "attn_logit_softcapping",
        "final_logit_softcapping",
        "hidden_activation",
        "layer_types",
        "query_pre_attn_scalar",
        "sliding_window",
    ],
    windows,
    ..llama::FAMILY
};

/// transformers' defaults, for a config that does not mention the keys; null means no bound.
const DEFAULT_SCORE_CAP: f64 = 50.0;
const DEFAULT_LOGIT_CAP: f64 = 30.0;
const DEFAULT_QUERY_SCALAR: f64 = 256.0;
const DEFAULT_WINDOW: usize = 4096;

fn traits(fields: &Fields<'_>) -> Result<Traits, ModelError> {
    let cap = |key, default: f64| match fields.positive_number(key)? {
        None if !fields.mentions(key) => Ok(Some(default as f32)),
        cap => Ok::<_, ModelError>(cap.map(|cap| cap as f32)),
    };
    let attention_bias = fields.flag_or("attention_bias", false)?;
    let hidden = fields.positive("hidden_size")?.unwrap_or_default();
    let query_scalar = fields.positive_number("query_pre_attn_scalar")?.unwrap_or(DEFAULT_QUERY_SCALAR);
    Ok(Traits {
        qkv_bias: attention_bias,
        output_bias: attention_bias,
        norms: NormPlacement::Both,
        norm_weights: NormWeights::OnePlusStored,
        scales: Scales {
            embedding: (hidden as f64).sqrt() as f32,
            embedding_is_rounded: true,
            attention: Some(query_scalar.powf(-0.5) as f32),
            score_cap: cap("attn_logit_softcapping", DEFAULT_SCORE_CAP)?,
            logit_cap: cap("final_logit_softcapping", DEFAULT_LOGIT_CAP)?,
            ..Scales::default()
        },
        ..Traits::default()
    })
}

/// Every other layer slides, the first one included, unless the config lists them.
fn windows(fields: &Fields<'_>, layers: usize) -> Result<Windows, ModelError> {
    let window = match fields.positive("sliding_window")? {
        None if !fields.mentions("sliding_window") => Some(DEFAULT_WINDOW),
        window => window,
    };
    let slides = sliding_layers(fields, layers)?;
    let slides = slides.unwrap_or_else(|| (0..layers).map(|layer| layer % 2 == 0).collect());
    Ok(slides.into_iter().map(|slides| window.filter(|_| slides)).collect())
}
