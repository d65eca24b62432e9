//! Granite 3 (dense): Llama with factors on embeddings, scores, what is added to the residual, and logits.

use super::{Family, Scales, Traits, llama};
use crate::ModelError;
use crate::config::fields::Fields;

pub(super) const FAMILY: Family = Family {
    architecture: "GraniteForCausalLM",
    traits,
    keys: &[
        "attention_bias",
        "mlp_bias",
        "layer_types",
        "embedding_multiplier",
        "residual_multiplier",
        "attention_multiplier",
        "logits_scaling",
    ],
    ..llama::FAMILY
};

/// Factors are 1 where the config has none, that on scores too, as in transformers.
fn traits(fields: &Fields<'_>) -> Result<Traits, ModelError> {
    let factor = |key| Ok::<_, ModelError>(fields.positive_number(key)?.unwrap_or(1.0));
    let scales = Scales {
        embedding: factor("embedding_multiplier")? as f32,
        residual: factor("residual_multiplier")? as f32,
        attention: Some(factor("attention_multiplier")? as f32),
        logits: factor("logits_scaling")?.recip() as f32,
        ..Scales::default()
    };
    Ok(Traits { scales, ..(llama::FAMILY.traits)(fields)? })
}
