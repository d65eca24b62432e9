//! Llama 2, 3, 3.1, 3.2 (text), 3.3 and the many models that share its architecture.

use super::{Family, Traits, no_windows};
use crate::ModelError;
use crate::config::fields::Fields;

pub(super) const FAMILY: Family = Family {
    architecture: "LlamaForCausalLM",
    head_dim: None,
    norm_epsilon: 1e-6,
    tied_embeddings: false,
    activation: ["hidden_act", "silu"],
    traits,
    keys: &["attention_bias", "mlp_bias", "layer_types"],
    windows: no_windows,
};

fn traits(fields: &Fields<'_>) -> Result<Traits, ModelError> {
    let attention_bias = fields.flag_or("attention_bias", false)?;
    Ok(Traits {
        qkv_bias: attention_bias,
        output_bias: attention_bias,
        mlp_bias: fields.flag_or("mlp_bias", false)?,
        ..Traits::default()
    })
}
