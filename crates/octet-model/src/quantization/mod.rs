//! How a checkpoint's linears are quantized: four layouts, read into one scheme for each linear.
//!
//! Each layout has its own file, which turns its part of `config.json` into rules; [`QuantizationConfig::scheme`] asks
//! them about one linear by name. What no device keeps is refused here, before a weight is read.

mod compressed_tensors;
mod fp8;
mod modelopt;
mod online;
mod patterns;
mod quark;

use std::fmt;
use std::path::Path;

use octet_backend::{DataType, ScaleShape, WeightFormat};
use octet_float8::Float8Format;
use serde_json::{Map, Value};

use crate::config::fields::Fields;
use crate::{ModelConfig, ModelError, files};
pub use online::OnlineQuantization;
pub(crate) use online::{NotFinite, Quantized, Values, quantize};
pub(crate) use patterns::Pattern;

const SUPPORTED: &str = "FP8 weights (per tensor, per channel, in blocks) in the layouts fp8, compressed-tensors, quark and modelopt; symmetric 8-bit integers in the layout compressed-tensors, format int-quantized";

/// Stands for every format of FP8 in what is planned.
pub(crate) const FLOAT8: DataType = DataType::F8(Float8Format::E4M3);

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
    /// In codes with scales.
    Quantized {
        /// Of the weight; `fp8_e4m3` stands for every format of FP8.
        format: WeightFormat,
        /// Of the input.
        activation: ActivationScheme,
    },
}

impl LinearScheme {
    /// FP8.
    fn float8(scale: ScaleShape, activation: ActivationScheme) -> Self {
        Self::Quantized { format: WeightFormat { element: FLOAT8, scale }, activation }
    }
}

impl fmt::Display for LinearScheme {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Quantized { format, activation } = self else {
            return formatter.write_str("not quantized");
        };
        write!(formatter, "{format}")?;
        formatter.write_str(match activation {
            ActivationScheme::Unquantized => ", 16-bit input",
            ActivationScheme::Dynamic => ", dynamic input scales",
            ActivationScheme::Static => ", static input scale",
        })
    }
}

/// A checkpoint's own quantization.
#[derive(Clone, Debug)]
pub(crate) enum QuantizationConfig {
    /// `quant_method: "fp8"`.
    Fp8(fp8::Fp8),
    /// `quant_method: "compressed-tensors"`.
    CompressedTensors(compressed_tensors::CompressedTensors),
    /// `quant_method: "quark"`.
    Quark(quark::Quark),
    /// `quant_method: "modelopt"`.
    ModelOpt(modelopt::ModelOpt),
}

/// Where ModelOpt writes what `config.json` then lacks.
const MODELOPT_FILE: &str = "hf_quant_config.json";

impl QuantizationConfig {
    /// Reads the block of `config.json`, which is `file`, else `hf_quant_config.json` beside it; as in vLLM.
    pub(crate) fn find(
        config: &ModelConfig,
        file: &str,
        folder: Option<&Path>,
    ) -> Result<Option<Self>, ModelError> {
        if let Some(object) = &config.quantization {
            return Self::read(&Fields::new(file, "quantization_config", object)).map(Some);
        }
        let Some(path) = folder.map(|folder| folder.join(MODELOPT_FILE)).filter(|path| path.exists()) else {
            return Ok(None);
        };
        let text = files::read_text(&path, "the config")?;
        let json = |source| ModelError::Json { path: path.clone(), source };
        let object: Map<String, Value> = serde_json::from_str(&text).map_err(json)?;
        Self::read(&Fields::new(&path.display().to_string(), "", &object)).map(Some)
    }

    fn read(fields: &Fields<'_>) -> Result<Self, ModelError> {
        // These wrote no method in their first versions, or in a file of their own.
        let default = match (fields.mentions("config_groups"), fields.mentions("quantization")) {
            (_, true) => "modelopt",
            (true, false) => "compressed-tensors",
            (false, false) => "",
        };
        match fields.text("quant_method")?.unwrap_or(default) {
            "fp8" => fp8::Fp8::read(fields).map(Self::Fp8),
            "compressed-tensors" => {
                compressed_tensors::CompressedTensors::read(fields).map(Self::CompressedTensors)
            }
            "quark" => quark::Quark::read(fields).map(Self::Quark),
            "modelopt" => modelopt::ModelOpt::read(fields).map(Self::ModelOpt),
            "" => Err(fields.error("quant_method", "one of fp8, compressed-tensors, quark, modelopt")),
            other => Err(unsupported(other)),
        }
    }

    /// The method's name in `config.json`.
    pub(crate) fn method(&self) -> &'static str {
        match self {
            Self::Fp8(_) => "fp8",
            Self::CompressedTensors(_) => "compressed-tensors",
            Self::Quark(_) => "quark",
            Self::ModelOpt(_) => "modelopt",
        }
    }

    /// Whether the KV cache is meant to be FP8 unless the user says otherwise.
    pub(crate) fn wants_float8_cache(&self) -> bool {
        match self {
            Self::CompressedTensors(layout) => layout.has_kv_cache_scheme,
            Self::ModelOpt(layout) => layout.has_kv_cache_scheme,
            Self::Fp8(_) | Self::Quark(_) => false,
        }
    }

    /// The scheme of one linear by its full name, such as `model.layers.0.self_attn.q_proj`.
    fn scheme_of_part(&self, name: &str) -> Result<LinearScheme, ModelError> {
        match self {
            Self::Fp8(layout) => Ok(layout.scheme(name)),
            Self::CompressedTensors(layout) => layout.scheme(name),
            Self::Quark(layout) => layout.scheme(name),
            Self::ModelOpt(layout) => Ok(layout.scheme(name)),
        }
    }

    fn ignores(&self, name: &str) -> bool {
        match self {
            Self::Fp8(layout) => layout.ignores(name),
            Self::CompressedTensors(layout) => layout.ignores(name),
            Self::Quark(layout) => layout.ignores(name),
            Self::ModelOpt(layout) => layout.ignores(name),
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

/// The error for what no device keeps.
fn unsupported(found: impl Into<String>) -> ModelError {
    ModelError::Unsupported { what: "the quantization", found: found.into(), supported: SUPPORTED.to_owned() }
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
fn block(fields: &Fields<'_>, key: &str) -> Result<Option<ScaleShape>, ModelError> {
    let Some(value) = fields.get(key) else { return Ok(None) };
    let size = |index| {
        let size = value.get(index).and_then(serde_json::Value::as_u64).filter(|&size| size > 0);
        size.and_then(|size| usize::try_from(size).ok())
    };
    match (value.as_array().map(Vec::len), size(0), size(1)) {
        (Some(2), Some(rows), Some(columns)) => Ok(Some(ScaleShape::Block { rows, columns })),
        _ => Err(fields.error(key, "two positive integers, [rows, columns]")),
    }
}
