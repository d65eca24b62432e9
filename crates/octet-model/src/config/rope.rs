//! Rotary embeddings: the variants of `rope_scaling` and `rope_parameters`, and their inverse frequencies.
//!
//! Formulas as in transformers' `modeling_rope_utils`, which the papers' authors use too: position interpolation
//! (arXiv:2306.15595), dynamic NTK, Llama 3.1's bands, YaRN (arXiv:2309.00071).

use std::f64::consts::PI;

use octet_backend::RopeSpec;
use serde_json::{Map, Value};

use super::fields::Fields;
use crate::ModelError;

const SUPPORTED: &str = "default, linear, dynamic, llama3, yarn";

/// Rotary embedding of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// Base of the frequencies.
    pub theta: f64,
    /// Dimensions of each head that are rotated; even.
    pub rotary_dim: usize,
    /// `max_position_embeddings` of the config.
    pub max_positions: usize,
    /// How positions beyond the training length are treated.
    pub scaling: RopeScaling,
}

/// How a model stretches its positions.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// Positions are divided by the factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// The base grows with the longest length ("NTK-aware").
    Dynamic {
        /// The factor.
        factor: f64,
        /// Length of training.
        original_positions: usize,
    },
    /// Long wavelengths are divided, short ones stay, with a band between.
    Llama3 {
        /// The factor for long wavelengths.
        factor: f64,
        /// Wavelengths above `original / low_factor` are long.
        low_factor: f64,
        /// Wavelengths below `original / high_factor` are short.
        high_factor: f64,
        /// Length of training.
        original_positions: usize,
    },
    /// A ramp between both over the dimensions, and a factor on cosines and sines.
    Yarn(Yarn),
}

/// Constants of YaRN.
#[derive(Clone, Debug, PartialEq)]
pub struct Yarn {
    /// By how much the length grows.
    pub factor: f64,
    /// Rotations over the training length above which a dimension is left alone.
    pub beta_fast: f64,
    /// Rotations below which a dimension is interpolated in full.
    pub beta_slow: f64,
    /// Length of training.
    pub original_positions: usize,
    /// On cosines and sines.
    pub attention_factor: f64,
    /// Whether the ramp's ends are whole dimensions.
    pub truncate: bool,
}

impl RopeConfig {
    /// Reads both spellings: `rope_theta` with `rope_scaling` (transformers 4) and `rope_parameters` (5).
    pub(super) fn read(fields: &Fields<'_>, head_dim: usize) -> Result<Self, ModelError> {
        let max_positions = fields.required_positive("max_position_embeddings")?;
        let (key, object) = match fields.object("rope_parameters")? {
            Some(object) => ("rope_parameters", Some(one_of_all_layers(fields, object)?)),
            None => ("rope_scaling", fields.object("rope_scaling")?),
        };
        let empty = Map::new();
        let scaling = Fields::new(fields.file(), key, object.unwrap_or(&empty));
        let theta = match scaling.positive_number("rope_theta")? {
            Some(theta) => theta,
            None => fields.positive_number("rope_theta")?.unwrap_or(10_000.0),
        };
        let share = match scaling.positive_number("partial_rotary_factor")? {
            Some(share) => share,
            None => fields.positive_number("partial_rotary_factor")?.unwrap_or(1.0),
        };
        let rotary_dim = (head_dim as f64 * share) as usize;
        if rotary_dim == 0 || rotary_dim > head_dim || !rotary_dim.is_multiple_of(2) {
            let expected = format!("a share of head_dim {head_dim} that is an even number of dimensions");
            return Err(fields.error("partial_rotary_factor", expected));
        }
        let scaling = RopeScaling::read(&scaling, max_positions)?;
        Ok(Self { theta, rotary_dim, max_positions, scaling })
    }

    /// The longest sequence that the model was made for.
    ///
    /// As in vLLM: with linear, dynamic and YaRN scaling the training length times the factor; otherwise
    /// `max_position_embeddings`, which Llama 3.1 already states after scaling.
    #[must_use]
    pub fn longest_sequence(&self) -> usize {
        let stretch = |positions: usize, factor: f64| (positions as f64 * factor) as usize;
        match &self.scaling {
            RopeScaling::Default | RopeScaling::Llama3 { .. } => self.max_positions,
            RopeScaling::Linear { factor } => stretch(self.max_positions, *factor),
            RopeScaling::Dynamic { factor, original_positions } => stretch(*original_positions, *factor),
            RopeScaling::Yarn(yarn) => stretch(yarn.original_positions, yarn.factor),
        }
    }

    /// Frequencies for sequences of at most `max_model_len` tokens (dynamic scaling depends on it, and is that of the
    /// longest sequence for all, so that a sequence's cached keys stay right while it grows).
    #[must_use]
    pub fn spec(&self, max_model_len: usize) -> RopeSpec {
        let plain = |theta: f64| -> Vec<f64> {
            let pairs = (0..self.rotary_dim / 2).map(|pair| 2.0 * pair as f64 / self.rotary_dim as f64);
            pairs.map(|exponent| theta.powf(-exponent)).collect()
        };
        let mut magnitude = 1.0;
        let frequencies: Vec<f64> = match &self.scaling {
            RopeScaling::Default => plain(self.theta),
            RopeScaling::Linear { factor } => plain(self.theta).iter().map(|f| f / factor).collect(),
            RopeScaling::Dynamic { factor, original_positions } => {
                let length = max_model_len.max(*original_positions) as f64 / *original_positions as f64;
                let dimensions = self.rotary_dim as f64;
                let growth = (factor * length - (factor - 1.0)).powf(dimensions / (dimensions - 2.0));
                plain(self.theta * growth)
            }
            RopeScaling::Llama3 { factor, low_factor, high_factor, original_positions } => {
                let original = *original_positions as f64;
                let scale = |frequency: &f64| {
                    let wavelength = 2.0 * PI / frequency;
                    let smooth = (original / wavelength - low_factor) / (high_factor - low_factor);
                    let smooth = smooth.clamp(0.0, 1.0);
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                };
                plain(self.theta).iter().map(scale).collect()
            }
            RopeScaling::Yarn(yarn) => {
                magnitude = yarn.attention_factor;
                yarn.scale(&plain(self.theta), self.theta)
            }
        };
        let inverse_frequencies = frequencies.into_iter().map(|frequency| frequency as f32).collect();
        RopeSpec { inverse_frequencies, magnitude: magnitude as f32 }
    }
}

/// transformers 5 may nest the parameters by kind of layer; the families here rotate all layers alike.
fn one_of_all_layers<'a>(
    fields: &Fields<'a>,
    object: &'a Map<String, Value>,
) -> Result<&'a Map<String, Value>, ModelError> {
    let nested: Vec<_> = object.values().filter_map(Value::as_object).collect();
    if nested.len() < object.len() || nested.is_empty() {
        return Ok(object);
    }
    if nested.iter().any(|other| *other != nested[0]) {
        return Err(fields.error("rope_parameters", "the same parameters for all layers"));
    }
    Ok(nested[0])
}

impl RopeScaling {
    fn read(fields: &Fields<'_>, max_positions: usize) -> Result<Self, ModelError> {
        let name = match fields.text("rope_type")? {
            Some(name) => name,
            None => fields.text("type")?.unwrap_or("default"),
        };
        let factor = |key: &str| {
            let expected = format!("a number above 0 (rope type {name} needs it)");
            fields.positive_number(key)?.ok_or_else(|| fields.error(key, expected))
        };
        let original_positions = fields.positive("original_max_position_embeddings")?;
        match name {
            "default" | "mrope" => Ok(Self::Default),
            "linear" => Ok(Self::Linear { factor: factor("factor")? }),
            "dynamic" => Ok(Self::Dynamic {
                factor: factor("factor")?,
                original_positions: original_positions.unwrap_or(max_positions),
            }),
            "llama3" => {
                let low_factor = factor("low_freq_factor")?;
                let high_factor = factor("high_freq_factor")?;
                if high_factor <= low_factor {
                    return Err(fields.error("high_freq_factor", "a number above low_freq_factor"));
                }
                let key = "original_max_position_embeddings";
                let original = original_positions.ok_or_else(|| fields.error(key, "a positive integer"))?;
                Ok(Self::Llama3 {
                    factor: factor("factor")?,
                    low_factor,
                    high_factor,
                    original_positions: original,
                })
            }
            "yarn" => {
                let original_positions = original_positions.unwrap_or(max_positions);
                Ok(Self::Yarn(Yarn::read(fields, factor("factor")?, original_positions)?))
            }
            other => Err(ModelError::Unsupported {
                what: "the rotary embedding of type",
                found: other.to_owned(),
                supported: SUPPORTED.to_owned(),
            }),
        }
    }
}

impl Yarn {
    fn read(fields: &Fields<'_>, factor: f64, original_positions: usize) -> Result<Self, ModelError> {
        let magnitude = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
        let attention_factor = match fields.positive_number("attention_factor")? {
            Some(given) => given,
            None => match (fields.number("mscale")?, fields.number("mscale_all_dim")?) {
                (Some(scale), Some(all)) if scale != 0.0 && all != 0.0 => magnitude(scale) / magnitude(all),
                _ => magnitude(1.0),
            },
        };
        Ok(Self {
            factor,
            beta_fast: fields.positive_number("beta_fast")?.unwrap_or(32.0),
            beta_slow: fields.positive_number("beta_slow")?.unwrap_or(1.0),
            original_positions,
            attention_factor,
            truncate: fields.flag_or("truncate", true)?,
        })
    }

    /// Mixes interpolated and untouched frequencies along the ramp.
    fn scale(&self, frequencies: &[f64], theta: f64) -> Vec<f64> {
        let dimensions = 2.0 * frequencies.len() as f64;
        // The dimension whose frequency makes so many rotations over the training length.
        let dimension_of = |rotations: f64| {
            let length = self.original_positions as f64;
            dimensions * (length / (rotations * 2.0 * PI)).ln() / (2.0 * theta.ln())
        };
        let (mut low, mut high) = (dimension_of(self.beta_fast), dimension_of(self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        low = low.max(0.0);
        high = high.min(dimensions - 1.0);
        if low == high {
            high += 0.001;
        }
        let mix = |(pair, frequency): (usize, &f64)| {
            let interpolated = ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
            interpolated * frequency / self.factor + (1.0 - interpolated) * frequency
        };
        frequencies.iter().enumerate().map(mix).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: &Value) -> Result<RopeConfig, ModelError> {
        RopeConfig::read(&Fields::new("config.json", "", value.as_object().unwrap()), 8)
    }

    #[test]
    fn both_spellings_mean_the_same() {
        let old = json!({ "max_position_embeddings": 64, "rope_theta": 5e5,
            "rope_scaling": { "type": "linear", "factor": 2.0 } });
        let new = json!({ "max_position_embeddings": 64,
            "rope_parameters": { "rope_type": "linear", "factor": 2.0, "rope_theta": 5e5 } });
        let nested = json!({ "max_position_embeddings": 64, "rope_parameters": { "full_attention":
            { "rope_type": "linear", "factor": 2.0, "rope_theta": 5e5 } } });
        let config = read(&old).unwrap();
        assert_eq!(config, read(&new).unwrap());
        assert_eq!(config, read(&nested).unwrap());
        assert_eq!(config.longest_sequence(), 128);
        assert_eq!(config.spec(128).inverse_frequencies[0], 0.5);
    }

    #[test]
    fn llama3_keeps_short_wavelengths_and_divides_long_ones() {
        let config = read(&json!({ "max_position_embeddings": 131072, "rope_theta": 5e5, "rope_scaling": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192 } }))
        .unwrap();
        let spec = config.spec(131_072);
        let plain = 5e5f64.powf(-0.75);
        assert_eq!(spec.inverse_frequencies[0], 1.0);
        assert!((f64::from(spec.inverse_frequencies[3]) / (plain / 8.0) - 1.0).abs() < 1e-6);
        assert_eq!((spec.magnitude, config.longest_sequence()), (1.0, 131_072));
    }

    #[test]
    fn dynamic_scaling_starts_beyond_the_training_length() {
        let dynamic = read(&json!({ "max_position_embeddings": 64,
            "rope_scaling": { "rope_type": "dynamic", "factor": 2.0 } }))
        .unwrap();
        let plain = read(&json!({ "max_position_embeddings": 64 })).unwrap();
        assert_eq!(dynamic.spec(64), plain.spec(64));
        assert!(dynamic.spec(128).inverse_frequencies[1] < plain.spec(128).inverse_frequencies[1]);
    }

    #[test]
    fn yarn_ramps_between_both_and_scales_the_magnitude() {
        let yarn = read(&json!({ "max_position_embeddings": 4096, "rope_scaling": {
            "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024 } }))
        .unwrap();
        let spec = yarn.spec(4096);
        assert_eq!(yarn.longest_sequence(), 4096);
        assert!((f64::from(spec.magnitude) - (0.1 * 4f64.ln() + 1.0)).abs() < 1e-6);
        assert_eq!(spec.inverse_frequencies[0], 1.0);
        assert!((spec.inverse_frequencies[3] - 0.001 / 4.0).abs() < 1e-8);
    }

    #[test]
    fn unknown_types_name_the_known_ones() {
        let error = read(&json!({ "max_position_embeddings": 64,
            "rope_scaling": { "rope_type": "longrope" } }))
        .unwrap_err();
        assert!(
            error.to_string().contains("longrope is not supported; supported: default, linear"),
            "{error}"
        );
    }
}
