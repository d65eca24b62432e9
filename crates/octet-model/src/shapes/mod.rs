//! Shapes that ship with the program: configs without weights, to be run with random ones.
//!
//! The numbers are those of the published `config.json` files of the models that they are named after; `llama-160m`
//! is a small Llama with grouped heads, for quick comparisons.

use std::path::Path;

use crate::{ConfigOverrides, ModelConfig, ModelError};

const SHAPES: [(&str, &str); 4] = [
    ("llama-3-8b", include_str!("llama-3-8b.json")),
    ("llama-3.2-1b", include_str!("llama-3.2-1b.json")),
    ("qwen3-0.6b", include_str!("qwen3-0.6b.json")),
    ("llama-160m", include_str!("llama-160m.json")),
];

/// The names of all shapes.
#[must_use]
pub fn names() -> [&'static str; 4] {
    SHAPES.map(|(name, _)| name)
}

/// The `config.json` text of a shape.
#[must_use]
pub fn text(name: &str) -> Option<&'static str> {
    SHAPES.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// The config of a shape, with values that replace its own.
///
/// # Errors
/// An unknown name.
pub fn config(name: &str, overrides: &ConfigOverrides) -> Result<ModelConfig, ModelError> {
    let text = text(name).ok_or_else(|| ModelError::Unsupported {
        what: "the shape",
        found: name.to_owned(),
        supported: names().join(", "),
    })?;
    ModelConfig::parse_with(text, Path::new(name), overrides)
}

#[cfg(test)]
mod tests {
    #[test]
    fn parameter_counts_are_those_of_the_models() {
        let config = |name| super::config(name, &crate::ConfigOverrides::default());
        let millions = |name| config(name).unwrap().parameters() / 1_000_000;
        assert_eq!(millions("llama-3-8b"), 8_029);
        assert_eq!(millions("llama-3.2-1b"), 1_235);
        assert_eq!(millions("qwen3-0.6b"), 595);
        assert_eq!(millions("llama-160m"), 124);
        assert_eq!(config("llama-3-8b").unwrap().layer_parameters() / 1_000_000, 6_979);
        assert!(config("gpt-5").is_err());
    }
}
