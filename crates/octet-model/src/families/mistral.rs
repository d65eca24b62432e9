//! Mistral 7B, Nemo, Small: Llama without biases, with a sliding window in the first version.

use serde_json::Value;

use super::{Family, Traits, Windows, llama, sliding_layers};
use crate::ModelError;
use crate::config::fields::Fields;

pub(super) const FAMILY: Family = Family {
    architecture: "MistralForCausalLM",
    traits,
    keys: &["layer_types", "sliding_window", "use_sliding_window"],
    windows,
    ..llama::FAMILY
};

/// The window where the config does not speak of one, as in transformers; null means none.
const DEFAULT_WINDOW: usize = 4096;

fn traits(_: &Fields<'_>) -> Result<Traits, ModelError> {
    Ok(Traits::default())
}

fn windows(fields: &Fields<'_>, layers: usize) -> Result<Windows, ModelError> {
    let window = match fields.positive("sliding_window")? {
        None if !fields.mentions("sliding_window") => Some(DEFAULT_WINDOW),
        window => window,
    };
    // vLLM heeds Qwen's key here too.
    let window = window.filter(|_| fields.get("use_sliding_window") != Some(&Value::Bool(false)));
    let slides = sliding_layers(fields, layers)?.unwrap_or_else(|| vec![true; layers]);
    Ok(slides.into_iter().map(|slides| window.filter(|_| slides)).collect())
}
