//! `quant_method: "fp8"`: AutoFP8, DeepSeek-V3's and Qwen3-FP8's layout.

use super::{ActivationScheme, LinearScheme, block};
use crate::ModelError;
use crate::config::fields::Fields;
use octet_backend::ScaleShape;

/// Keys that are read.
const READ: [&str; 6] = [
    "quant_method",
    "activation_scheme",
    "weight_block_size",
    "fmt",
    "ignored_layers",
    "modules_to_not_convert",
];
/// Keys about how scales are stored, how the file was written, and the KV cache, whose scales are found by name.
const HARMLESS: [&str; 6] =
    ["dequantize", "export", "is_checkpoint_fp8_serialized", "kv_cache_scheme", "scale_fmt", "store_dtype"];

/// The layout's rules.
#[derive(Clone, Debug)]
pub(crate) struct Fp8 {
    scheme: LinearScheme,
    /// Names of modules that stay in 16 bits, full or of what they lie in.
    ignored: Vec<String>,
}

impl Fp8 {
    pub(super) fn read(fields: &Fields<'_>) -> Result<Self, ModelError> {
        fields.refuse_all_but(&[&READ, &HARMLESS])?;
        let activation = match fields.text("activation_scheme")? {
            Some("static") => ActivationScheme::Static,
            Some("dynamic") => ActivationScheme::Dynamic,
            _ => return Err(fields.error("activation_scheme", "\"static\" or \"dynamic\"")),
        };
        let granularity = block(fields, "weight_block_size")?.unwrap_or(ScaleShape::Tensor);
        if granularity != ScaleShape::Tensor && activation == ActivationScheme::Static {
            return Err(fields.error("activation_scheme", "\"dynamic\", because weight_block_size is set"));
        }
        if let Some(format) = fields.text("fmt")?
            && format != "e4m3"
        {
            return Err(fields.error("fmt", "\"e4m3\""));
        }
        let mut ignored = fields.texts("ignored_layers")?;
        if ignored.is_empty() {
            ignored = fields.texts("modules_to_not_convert")?;
        }
        Ok(Self { scheme: LinearScheme::float8(granularity, activation), ignored })
    }

    pub(super) fn ignores(&self, name: &str) -> bool {
        // A module's name stands for all in it, as in transformers.
        let lies_in = |outer: &str| {
            name.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        self.ignored.iter().any(|ignored| lies_in(ignored))
    }

    pub(super) fn scheme(&self, name: &str) -> LinearScheme {
        if self.ignores(name) { LinearScheme::Plain } else { self.scheme }
    }
}
