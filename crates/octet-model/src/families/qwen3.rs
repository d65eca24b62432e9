//! Qwen3 (dense): an RMS norm over each query and key head before the rotation, heads of 128.

use super::{Family, HeadNorm, Traits, qwen2};
use crate::ModelError;
use crate::config::fields::Fields;

pub(super) const FAMILY: Family = Family {
    architecture: "Qwen3ForCausalLM",
    // transformers' default, which is not hidden_size / num_attention_heads in the small models.
    head_dim: Some(128),
    traits,
    ..qwen2::FAMILY
};

fn traits(fields: &Fields<'_>) -> Result<Traits, ModelError> {
    let attention_bias = fields.flag_or("attention_bias", false)?;
    Ok(Traits {
        qkv_bias: attention_bias,
        output_bias: attention_bias,
        query_key_norm: Some(HeadNorm::Each),
        ..Traits::default()
    })
}
