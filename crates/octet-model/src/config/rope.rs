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
/// The base of the frequencies where no key states one, as in transformers.
const DEFAULT_THETA: f64 = 10_000.0;
/// Keys that are read for every type.
const COMMON_KEYS: [&str; 5] =
    ["rope_type", "type", "rope_theta", "partial_rotary_factor", "original_max_position_embeddings"];
/// Keys that a text model has no use for: sections of image positions, and how the parameters were found.
const HARMLESS_KEYS: [&str; 3] = ["mrope_section", "mrope_interleaved", "finetuned"];
/// The longest training length: positions are counted in 32 bits.
const MOST_POSITIONS: usize = 1 << 31;

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
    /// The base grows with the sequence beyond the training length ("NTK-aware"), which no sequence here exceeds: a longer
    /// one would rotate anew the keys that are cached already.
    Dynamic,
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
        let max_positions = fields.required_size("max_position_embeddings", MOST_POSITIONS)?;
        let empty = Map::new();
        let (key, object) = block(fields)?.unwrap_or(("rope_parameters", &empty));
        let block = Fields::new(fields.file(), key, object);
        let theta = match block.positive_number("rope_theta")? {
            Some(theta) => theta,
            None => fields.positive_number("rope_theta")?.unwrap_or(DEFAULT_THETA),
        };
        let share = match block.positive_number("partial_rotary_factor")? {
            Some(share) => share,
            None => fields.positive_number("partial_rotary_factor")?.unwrap_or(1.0),
        };
        let rotary_dim = (head_dim as f64 * share) as usize;
        if rotary_dim == 0 || rotary_dim > head_dim || !rotary_dim.is_multiple_of(2) {
            let expected = format!("a share of head_dim {head_dim} that is an even number of dimensions");
            return Err(fields.error("partial_rotary_factor", expected));
        }
        let key = "original_max_position_embeddings";
        // Outside the block it wins, as transformers has it for models of the Phi kind.
        let original_positions = match fields.size(key, MOST_POSITIONS)? {
            Some(positions) => positions,
            None => block.size(key, MOST_POSITIONS)?.unwrap_or(max_positions),
        };
        let scaling =
            RopeScaling::read(&block, Positions { max: max_positions, original: original_positions })?;
        Ok(Self { theta, rotary_dim, max_positions, scaling })
    }

    /// The longest sequence that the model was made for.
    ///
    /// `tokenizer_limit` is the tokenizer's `model_max_length`, which bounds the length of training, as in vLLM. With
    /// linear scaling that length is multiplied; with YaRN either key may state the stretched length, so the longer
    /// counts; dynamic scaling ends where it would begin; Llama 3.1 states its length after scaling.
    #[must_use]
    pub fn longest_sequence(&self, tokenizer_limit: Option<usize>) -> usize {
        let limit = tokenizer_limit.unwrap_or(usize::MAX);
        let trained = self.max_positions.min(limit);
        let stretch = |positions: usize, factor: f64| (positions as f64 * factor) as usize;
        match &self.scaling {
            RopeScaling::Default | RopeScaling::Llama3 { .. } | RopeScaling::Dynamic => trained,
            RopeScaling::Linear { factor } => stretch(trained, *factor).min(MOST_POSITIONS),
            RopeScaling::Yarn(yarn) => {
                let stretched = stretch(yarn.original_positions, yarn.factor).min(MOST_POSITIONS);
                self.max_positions.max(stretched).min(limit)
            }
        }
    }

    /// The inverse frequencies, and the factor on cosines and sines.
    #[must_use]
    pub fn spec(&self) -> RopeSpec {
        let plain = |theta: f64| -> Vec<f64> {
            let pairs = (0..self.rotary_dim / 2).map(|pair| 2.0 * pair as f64 / self.rotary_dim as f64);
            pairs.map(|exponent| theta.powf(-exponent)).collect()
        };
        let mut magnitude = 1.0;
        let frequencies: Vec<f64> = match &self.scaling {
            RopeScaling::Default | RopeScaling::Dynamic => plain(self.theta),
            RopeScaling::Linear { factor } => plain(self.theta).iter().map(|f| f / factor).collect(),
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

/// A key, and the object under it.
type Block<'a> = (&'static str, &'a Map<String, Value>);

/// The block that counts, with its key. `rope_scaling`, which people add by hand, replaces `rope_parameters` whole, as in
/// transformers 5.
fn block<'a>(fields: &Fields<'a>) -> Result<Option<Block<'a>>, ModelError> {
    let read = |key: &'static str| match fields.object(key)?.filter(|object| !object.is_empty()) {
        Some(object) => one_of_all_layers(fields, key, object).map(Some),
        None => Ok(None),
    };
    let (scaling, parameters) = (read("rope_scaling")?, read("rope_parameters")?);
    let (Some(scaling), Some(parameters)) = (scaling, parameters) else {
        return Ok(scaling.map(|it| ("rope_scaling", it)).or(parameters.map(|it| ("rope_parameters", it))));
    };
    let theta = |object, key| Fields::new(fields.file(), key, object).positive_number("rope_theta");
    let stated = theta(scaling, "rope_scaling")?.or(fields.positive_number("rope_theta")?);
    // transformers falls back to its default here, which no one who adds a scaling means.
    if let (None, Some(lost)) = (stated, theta(parameters, "rope_parameters")?)
        && lost != DEFAULT_THETA
    {
        let expected = format!(
            "a block with rope_theta, because it replaces rope_parameters, whose rope_theta {lost} would be lost"
        );
        return Err(fields.error("rope_scaling", expected));
    }
    Ok(Some(("rope_scaling", scaling)))
}

/// transformers 5 may nest the parameters by kind of layer; the families here rotate all layers alike.
fn one_of_all_layers<'a>(
    fields: &Fields<'a>,
    key: &str,
    object: &'a Map<String, Value>,
) -> Result<&'a Map<String, Value>, ModelError> {
    let nested: Vec<_> = object.values().filter_map(Value::as_object).collect();
    if nested.len() < object.len() || nested.is_empty() {
        return Ok(object);
    }
    if nested.iter().any(|other| *other != nested[0]) {
        return Err(fields.error(key, "the same parameters for all layers"));
    }
    Ok(nested[0])
}

/// Lengths that a config states.
#[derive(Clone, Copy)]
struct Positions {
    /// `max_position_embeddings`.
    max: usize,
    /// Of training, before scaling.
    original: usize,
}

impl RopeScaling {
    fn read(fields: &Fields<'_>, positions: Positions) -> Result<Self, ModelError> {
        let name = match fields.text("rope_type")? {
            Some(name) => name,
            None => fields.text("type")?.unwrap_or("default"),
        };
        let factor = |key: &str| {
            let expected = format!("a number above 0 (rope type {name} needs it)");
            fields.positive_number(key)?.ok_or_else(|| fields.error(key, expected))
        };
        let scaling = match name {
            "default" | "mrope" => Self::Default,
            "linear" => Self::Linear { factor: factor("factor")? },
            "dynamic" => {
                factor("factor")?;
                Self::Dynamic
            }
            "llama3" => {
                let low_factor = factor("low_freq_factor")?;
                let high_factor = factor("high_freq_factor")?;
                if high_factor <= low_factor {
                    return Err(fields.error("high_freq_factor", "a number above low_freq_factor"));
                }
                let factor = factor("factor")?;
                Self::Llama3 { factor, low_factor, high_factor, original_positions: positions.original }
            }
            "yarn" => {
                // transformers takes null for the ratio of the lengths.
                let is_null = fields.mentions("factor") && fields.get("factor").is_none();
                let ratio = positions.max as f64 / positions.original as f64;
                let factor = if is_null { ratio } else { factor("factor")? };
                Self::Yarn(Yarn::read(fields, factor, positions.original)?)
            }
            other => {
                return Err(ModelError::Unsupported {
                    what: "the rotary embedding of type",
                    found: other.to_owned(),
                    supported: SUPPORTED.to_owned(),
                });
            }
        };
        fields.refuse_all_but(&[&COMMON_KEYS, &HARMLESS_KEYS, scaling.keys()])?;
        Ok(scaling)
    }

    /// Keys of a type's block, besides those of all.
    const fn keys(&self) -> &'static [&'static str] {
        match self {
            Self::Default => &[],
            Self::Linear { .. } | Self::Dynamic => &["factor"],
            Self::Llama3 { .. } => &["factor", "low_freq_factor", "high_freq_factor"],
            Self::Yarn(_) => &[
                "factor",
                "attention_factor",
                "beta_fast",
                "beta_slow",
                "mscale",
                "mscale_all_dim",
                "truncate",
            ],
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
            // Zero means the default too, as in transformers.
            beta_fast: fields.number("beta_fast")?.filter(|&beta| beta != 0.0).unwrap_or(32.0),
            beta_slow: fields.number("beta_slow")?.filter(|&beta| beta != 0.0).unwrap_or(1.0),
            original_positions,
            attention_factor,
            truncate: fields.flag_or("truncate", true)?,
        })
    }

    /// Mixes interpolated and untouched frequencies along the ramp.
    fn scale(&self, frequencies: &[f64], theta: f64) -> Vec<f64> {
        let dimensions = 2.0 * frequencies.len() as f64;
        // The dimension whose frequency makes this many rotations over the training length.
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
        assert_eq!(config.longest_sequence(None), 128);
        assert_eq!(config.spec().inverse_frequencies[0], 0.5);
    }

    #[test]
    fn llama3_keeps_short_wavelengths_and_divides_long_ones() {
        let config = read(&json!({ "max_position_embeddings": 131072, "rope_theta": 5e5, "rope_scaling": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192 } }))
        .unwrap();
        let spec = config.spec();
        let plain = 5e5f64.powf(-0.75);
        assert_eq!(spec.inverse_frequencies[0], 1.0);
        assert!((f64::from(spec.inverse_frequencies[3]) / (plain / 8.0) - 1.0).abs() < 1e-6);
        assert_eq!((spec.magnitude, config.longest_sequence(None)), (1.0, 131_072));
    }

    #[test]
    fn dynamic_scaling_ends_where_it_would_begin() {
        let dynamic = read(&json!({ "max_position_embeddings": 64,
            "rope_scaling": { "rope_type": "dynamic", "factor": 2.0 } }))
        .unwrap();
        let plain = read(&json!({ "max_position_embeddings": 64 })).unwrap();
        assert_eq!(dynamic.spec(), plain.spec());
        assert_eq!(dynamic.longest_sequence(None), 64);
    }

    #[test]
    fn the_tokenizer_bounds_the_length() {
        let yarn = |max: usize, original: usize| {
            read(&json!({ "max_position_embeddings": max, "rope_scaling":
                { "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": original } }))
            .unwrap()
        };
        assert_eq!(yarn(40, 32).longest_sequence(None), 128);
        assert_eq!(yarn(256, 32).longest_sequence(None), 256);
        assert_eq!(yarn(40, 32).longest_sequence(Some(100)), 100);
        let linear =
            json!({ "max_position_embeddings": 64, "rope_scaling": { "type": "linear", "factor": 2.0 } });
        assert_eq!(read(&linear).unwrap().longest_sequence(Some(32)), 64);
    }

    #[test]
    fn a_scaling_that_would_lose_the_base_is_refused() {
        let added = |theta: Value| {
            json!({ "max_position_embeddings": 64, "rope_parameters": { "rope_type": "default", "rope_theta": theta },
                "rope_scaling": { "rope_type": "linear", "factor": 2.0 } })
        };
        let error = read(&added(json!(1e6))).unwrap_err().to_string();
        assert!(
            error.contains("rope_scaling is {") && error.contains("rope_theta 1000000 would be lost"),
            "{error}"
        );
        let mut config = added(json!(1e6));
        config["rope_scaling"]["rope_theta"] = json!(5e5);
        let read_config = read(&config).unwrap();
        assert_eq!((read_config.theta, read_config.scaling), (5e5, RopeScaling::Linear { factor: 2.0 }));
        assert_eq!(read(&added(json!(1e4))).unwrap().scaling, RopeScaling::Linear { factor: 2.0 });
    }

    #[test]
    fn keys_that_the_type_does_not_know_are_refused() {
        for (key, block) in [
            ("alpha", json!({ "rope_type": "dynamic", "factor": 2.0, "alpha": 1000.0 })),
            ("factor", json!({ "rope_type": "default", "factor": 4.0 })),
            ("long_factor", json!({ "rope_type": "yarn", "factor": 4.0, "long_factor": [1.0] })),
            ("use_fope", json!({ "rope_type": "default", "use_fope": true })),
        ] {
            let error = read(&json!({ "max_position_embeddings": 64, "rope_scaling": block }))
                .unwrap_err()
                .to_string();
            assert!(
                error.contains(&format!("rope_scaling.{key} is")) && error.contains("no such key"),
                "{error}"
            );
        }
    }

    #[test]
    fn yarn_ramps_between_both_and_scales_the_magnitude() {
        let yarn = read(&json!({ "max_position_embeddings": 4096, "rope_scaling": {
            "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024 } }))
        .unwrap();
        let spec = yarn.spec();
        assert_eq!(yarn.longest_sequence(None), 4096);
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
