//! `quant_method: "modelopt"`: NVIDIA's layout, in `config.json` or in `hf_quant_config.json` beside it.

use super::patterns::glob_matches;
use super::{ActivationScheme, LinearScheme, unsupported};
use crate::ModelError;
use crate::config::fields::Fields;
use octet_backend::ScaleShape;

/// Keys that are read, in either form.
const READ: [&str; 7] = [
    "quant_method",
    "quant_algo",
    "kv_cache_quant_algo",
    "kv_cache_scheme",
    "exclude_modules",
    "ignore",
    "quantization",
];
/// Keys that repeat the algorithm, or say who wrote the file.
const HARMLESS: [&str; 4] = ["producer", "config_groups", "group_size", "version"];

/// The layout's rules.
#[derive(Clone, Debug)]
pub(crate) struct ModelOpt {
    scheme: LinearScheme,
    /// Globs and parts of names of modules that stay in 16 bits.
    excluded: Vec<String>,
    /// The KV cache is quantized too.
    pub(super) has_kv_cache_scheme: bool,
}

impl ModelOpt {
    pub(super) fn read(fields: &Fields<'_>) -> Result<Self, ModelError> {
        fields.refuse_all_but(&[&READ, &HARMLESS])?;
        // The file of its own has one more level.
        let inner = match fields.object("quantization")? {
            Some(object) => Fields::new(fields.file(), "quantization", object),
            None => *fields,
        };
        inner.refuse_all_but(&[&READ, &HARMLESS])?;
        let algorithm = inner.text("quant_algo")?;
        let algorithm = algorithm.ok_or_else(|| inner.error("quant_algo", "\"FP8\""))?.to_ascii_uppercase();
        let (granularity, activation) = match algorithm.as_str() {
            "FP8" => (ScaleShape::Tensor, ActivationScheme::Static),
            "FP8_PER_CHANNEL_PER_TOKEN" => (ScaleShape::Channel, ActivationScheme::Dynamic),
            other => return Err(unsupported(format!("modelopt {other}"))),
        };
        let cache = inner.text("kv_cache_quant_algo")?.map(str::to_ascii_uppercase);
        if let Some(other) = cache.as_deref().filter(|cache| *cache != "FP8") {
            return Err(unsupported(format!("modelopt with a KV cache in {other}")));
        }
        let mut excluded = inner.texts("exclude_modules")?;
        excluded.extend(inner.texts("ignore")?);
        Ok(Self {
            scheme: LinearScheme::float8(granularity, activation),
            excluded,
            has_kv_cache_scheme: cache.is_some() || is_float8_cache(&inner)?,
        })
    }

    /// As in vLLM: a glob, or a part of the name.
    pub(super) fn ignores(&self, name: &str) -> bool {
        self.excluded.iter().any(|pattern| name.contains(pattern.as_str()) || glob_matches(pattern, name))
    }

    pub(super) fn scheme(&self, name: &str) -> LinearScheme {
        if self.ignores(name) { LinearScheme::Plain } else { self.scheme }
    }
}

/// `kv_cache_scheme`, the form of `config.json`.
fn is_float8_cache(fields: &Fields<'_>) -> Result<bool, ModelError> {
    let Some(scheme) = fields.object("kv_cache_scheme")? else { return Ok(false) };
    let scheme = Fields::new(fields.file(), "quantization_config.kv_cache_scheme", scheme);
    if scheme.text("type")? == Some("float") && scheme.positive("num_bits")? == Some(8) {
        return Ok(true);
    }
    Err(fields.error("kv_cache_scheme", "float of 8 bits"))
}
