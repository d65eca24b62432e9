//! OLMo 2: norms after attention and MLP in place of those before, and norms over all queries and all keys.

use super::{Family, HeadNorm, NormPlacement, Traits, no_windows};
use crate::ModelError;
use crate::config::fields::Fields;

pub(super) const FAMILY: Family = Family {
    architecture: "Olmo2ForCausalLM",
    head_dim: None,
    norm_epsilon: 1e-5,
    traits,
    keys: &["attention_bias", "layer_types"],
    windows: no_windows,
};

fn traits(fields: &Fields<'_>) -> Result<Traits, ModelError> {
    let attention_bias = fields.flag_or("attention_bias", false)?;
    Ok(Traits {
        qkv_bias: attention_bias,
        output_bias: attention_bias,
        mlp_bias: false,
        query_key_norm: Some(HeadNorm::Together),
        norms: NormPlacement::After,
    })
}
