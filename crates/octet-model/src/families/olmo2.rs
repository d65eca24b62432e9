//! OLMo 2: norms after attention and MLP in place of those before, and norms over all queries and all keys.

use super::{Family, HeadNorm, NormPlacement, Traits, llama};
use crate::ModelError;
use crate::config::fields::Fields;

pub(super) const FAMILY: Family = Family {
    architecture: "Olmo2ForCausalLM",
    norm_epsilon: 1e-5,
    traits,
    keys: &["attention_bias", "layer_types"],
    ..llama::FAMILY
};

fn traits(fields: &Fields<'_>) -> Result<Traits, ModelError> {
    let attention_bias = fields.flag_or("attention_bias", false)?;
    Ok(Traits {
        qkv_bias: attention_bias,
        output_bias: attention_bias,
        query_key_norm: Some(HeadNorm::Together),
        norms: NormPlacement::After,
        ..Traits::default()
    })
}
