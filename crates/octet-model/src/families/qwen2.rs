//! Qwen2 and Qwen2.5: biases on queries, keys and values; a sliding window in the upper layers, if asked for.

use super::{Family, Traits, Windows, llama, sliding_layers};
use crate::ModelError;
use crate::config::fields::Fields;

pub(super) const FAMILY: Family =
    Family { architecture: "Qwen2ForCausalLM", traits, keys: &KEYS, windows, ..llama::FAMILY };

/// Of windows, and the bias, which Qwen2 has whatever its key says; Qwen3 has the same.
pub(super) const KEYS: [&str; 5] =
    ["attention_bias", "layer_types", "max_window_layers", "sliding_window", "use_sliding_window"];

/// First layer that slides where the config does not say, as in transformers.
const DEFAULT_FULL_LAYERS: usize = 28;

fn traits(_: &Fields<'_>) -> Result<Traits, ModelError> {
    Ok(Traits { qkv_bias: true, ..Traits::default() })
}

/// `max_window_layers` layers at the bottom see everything, those above slide; Qwen3 has the same keys.
pub(super) fn windows(fields: &Fields<'_>, layers: usize) -> Result<Windows, ModelError> {
    let window = fields.positive("sliding_window")?;
    let window = if fields.flag_or("use_sliding_window", false)? { window } else { None };
    let full_layers = fields.count("max_window_layers")?.unwrap_or(DEFAULT_FULL_LAYERS);
    let slides = match sliding_layers(fields, layers)? {
        Some(slides) => slides,
        None => (0..layers).map(|layer| layer >= full_layers).collect(),
    };
    Ok(slides.into_iter().map(|slides| window.filter(|_| slides)).collect())
}
