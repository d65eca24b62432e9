//! How a checkpoint's linears are quantised: three layouts, read into one scheme for each linear.
//!
//! Each layout has its own file, which turns its part of `config.json` into rules; [`QuantizationConfig::scheme`] asks
//! them about one linear by name. Whatever is not FP8 is refused here, before a weight is read.

mod compressed_tensors;
mod fp8;
mod online;
mod patterns;
mod quark;

use std::fmt;

use crate::config::fields::Fields;
use crate::{ModelConfig, ModelError};
pub use online::OnlineQuantization;
pub(crate) use online::{NotFinite, Quantized, Values, quantize};
pub(crate) use patterns::Pattern;

const SUPPORTED: &str =
    "FP8 weights (per tensor, per channel, in blocks) in the layouts fp8, compressed-tensors and quark";

/// Which weights share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Granularity {
    /// All of a tensor.
    Tensor,
    /// A row, that is, an output channel.
    Channel,
    /// A block.
    Block {
        /// Rows of a block.
        rows: usize,
        /// Columns of a block.
        columns: usize,
    },
}

/// What the checkpoint foresees for the linear's input on devices that multiply FP8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ActivationScheme {
    /// 16 bits.
    Unquantized,
    /// Scales found at run time.
    Dynamic,
    /// One scale from the checkpoint.
    Static,
}

/// How one linear is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinearScheme {
    /// In 16 or 32 bits.
    Plain,
    /// In FP8 with scales.
    Float8 {
        /// Of the weight.
        granularity: Granularity,
        /// Of the input.
        activation: ActivationScheme,
    },
}

impl fmt::Display for LinearScheme {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Float8 { granularity, activation } = self else {
            return formatter.write_str("not quantised");
        };
        match granularity {
            Granularity::Tensor => formatter.write_str("FP8 per tensor")?,
            Granularity::Channel => formatter.write_str("FP8 per channel")?,
            Granularity::Block { rows, columns } => write!(formatter, "FP8 in blocks of {rows}x{columns}")?,
        }
        formatter.write_str(match activation {
            ActivationScheme::Unquantized => ", 16-bit input",
            ActivationScheme::Dynamic => ", dynamic input scales",
            ActivationScheme::Static => ", static input scale",
        })
    }
}

/// A checkpoint's own quantisation.
#[derive(Clone, Debug)]
pub(crate) enum QuantizationConfig {
    /// `quant_method: "fp8"`.
    Fp8(fp8::Fp8),
    /// `quant_method: "compressed-tensors"`.
    CompressedTensors(compressed_tensors::CompressedTensors),
    /// `quant_method: "quark"`.
    Quark(quark::Quark),
}

impl QuantizationConfig {
    /// Reads `quantization_config`, if the model has one.
    pub(crate) fn read(config: &ModelConfig, file: &str) -> Result<Option<Self>, ModelError> {
        let Some(object) = &config.quantization else { return Ok(None) };
        let fields = Fields::new(file, "quantization_config", object);
        // compressed-tensors wrote no method in its first versions.
        let default = if fields.mentions("config_groups") { "compressed-tensors" } else { "" };
        match fields.text("quant_method")?.unwrap_or(default) {
            "fp8" => fp8::Fp8::read(&fields).map(Self::Fp8).map(Some),
            "compressed-tensors" => {
                compressed_tensors::CompressedTensors::read(&fields).map(Self::CompressedTensors).map(Some)
            }
            "quark" => quark::Quark::read(&fields).map(Self::Quark).map(Some),
            "" => Err(fields.error("quant_method", "one of fp8, compressed-tensors, quark")),
            other => Err(unsupported(other)),
        }
    }

    /// The method's name in `config.json`.
    pub(crate) fn method(&self) -> &'static str {
        match self {
            Self::Fp8(_) => "fp8",
            Self::CompressedTensors(_) => "compressed-tensors",
            Self::Quark(_) => "quark",
        }
    }

    /// Whether the KV cache is meant to be FP8 unless the user says otherwise (compressed-tensors' `kv_cache_scheme`).
    pub(crate) fn wants_float8_cache(&self) -> bool {
        matches!(self, Self::CompressedTensors(layout) if layout.has_kv_cache_scheme)
    }

    /// The scheme of one linear by its full name, such as `model.layers.0.self_attn.q_proj`.
    fn scheme_of_part(&self, name: &str) -> Result<LinearScheme, ModelError> {
        match self {
            Self::Fp8(layout) => Ok(layout.scheme(name)),
            Self::CompressedTensors(layout) => layout.scheme(name),
            Self::Quark(layout) => layout.scheme(name),
        }
    }

    fn ignores(&self, name: &str) -> bool {
        match self {
            Self::Fp8(layout) => layout.ignores(name),
            Self::CompressedTensors(layout) => layout.ignores(name),
            Self::Quark(layout) => layout.ignores(name),
        }
    }

    /// The scheme of a linear that is made of several: its parts must agree, unless it is ignored by its own name.
    pub(crate) fn scheme(&self, fused: &str, parts: &[String]) -> Result<LinearScheme, ModelError> {
        if self.ignores(fused) {
            return Ok(LinearScheme::Plain);
        }
        let first = self.scheme_of_part(&parts[0])?;
        for part in &parts[1..] {
            let scheme = self.scheme_of_part(part)?;
            if scheme != first {
                return Err(ModelError::MixedScheme {
                    layer: fused.to_owned(),
                    first: parts[0].clone(),
                    first_scheme: first.to_string(),
                    second: part.clone(),
                    second_scheme: scheme.to_string(),
                });
            }
        }
        Ok(first)
    }
}

/// The error for whatever is not FP8.
fn unsupported(found: impl Into<String>) -> ModelError {
    ModelError::Unsupported { what: "the quantisation", found: found.into(), supported: SUPPORTED.to_owned() }
}

/// A list of patterns under a key.
fn patterns(fields: &Fields<'_>, key: &str) -> Result<Vec<Pattern>, ModelError> {
    let texts = fields.texts(key)?;
    let parse = |text: &String| {
        Pattern::parse(text)
            .map_err(|problem| fields.error(key, format!("valid expressions; {text}: {problem}")))
    };
    texts.iter().map(parse).collect()
}

/// A block's size under a key: `[rows, columns]`.
fn block(fields: &Fields<'_>, key: &str) -> Result<Option<Granularity>, ModelError> {
    let Some(value) = fields.get(key) else { return Ok(None) };
    let size = |index| {
        let size = value.get(index).and_then(serde_json::Value::as_u64).filter(|&size| size > 0);
        size.and_then(|size| usize::try_from(size).ok())
    };
    match (value.as_array().map(Vec::len), size(0), size(1)) {
        (Some(2), Some(rows), Some(columns)) => Ok(Some(Granularity::Block { rows, columns })),
        _ => Err(fields.error(key, "two positive integers, [rows, columns]")),
    }
}
