//! `quant_method: "quark"`: AMD Quark's layout, that of the `amd/*-FP8-KV` models.

use serde_json::{Map, Value};

use super::patterns::glob_matches;
use super::{ActivationScheme, Granularity, LinearScheme, Pattern, block, patterns, unsupported};
use crate::ModelError;
use crate::config::fields::Fields;

/// The class of every linear here, as torch names it.
const CLASS: &str = "Linear";

/// The layout's rules.
#[derive(Clone, Debug)]
pub(crate) struct Quark {
    /// `layer_quant_config`, in the file's order.
    by_layer: Vec<(String, Rule)>,
    /// `layer_type_quant_config`.
    by_class: Option<Rule>,
    global: Rule,
    excluded: Vec<Pattern>,
}

/// A scheme, or what it is that is not supported: refused only when a linear has it.
type Rule = Result<LinearScheme, String>;

impl Quark {
    pub(super) fn read(fields: &Fields<'_>) -> Result<Self, ModelError> {
        let export = fields.object("export")?.ok_or_else(|| fields.error("export", "an object"))?;
        let export = Fields::new(fields.file(), "quantization_config.export", export);
        if let Some(format) = export.text("weight_format")?
            && format != "real_quantized"
        {
            return Err(export.error("weight_format", "\"real_quantized\""));
        }
        let global = fields.object("global_quant_config")?;
        let global = global.ok_or_else(|| fields.error("global_quant_config", "an object"))?;
        let mut by_layer = Vec::new();
        for (pattern, config) in fields.object("layer_quant_config")?.unwrap_or(&Map::new()) {
            by_layer.push((pattern.clone(), rule(fields, "layer_quant_config", config)?));
        }
        let classes = fields.object("layer_type_quant_config")?;
        let by_class = match classes.and_then(|classes| classes.get(CLASS)) {
            None => None,
            Some(config) => Some(rule(fields, "layer_type_quant_config", config)?),
        };
        Ok(Self {
            by_layer,
            by_class,
            global: rule(fields, "global_quant_config", &Value::Object(global.clone()))?,
            excluded: patterns(fields, "exclude")?,
        })
    }

    pub(super) fn ignores(&self, name: &str) -> bool {
        self.excluded.iter().any(|pattern| pattern.matches(name))
    }

    pub(super) fn scheme(&self, name: &str) -> Result<LinearScheme, ModelError> {
        if self.ignores(name) {
            return Ok(LinearScheme::Plain);
        }
        // A pattern with a star is a glob; without one the layer's name must stand inside the pattern.
        let applies = |pattern: &str| {
            if pattern.contains('*') { glob_matches(pattern, name) } else { pattern.contains(name) }
        };
        let by_layer = self.by_layer.iter().find(|(pattern, _)| applies(pattern)).map(|(_, rule)| rule);
        let rule = by_layer.or(self.by_class.as_ref()).unwrap_or(&self.global);
        rule.clone().map_err(unsupported)
    }
}

/// Reads one `{weight, input_tensors, ...}`.
fn rule(parent: &Fields<'_>, key: &str, config: &Value) -> Result<Rule, ModelError> {
    let config =
        config.as_object().ok_or_else(|| parent.error(key, "an object with weight and input_tensors"))?;
    let path = format!("quantization_config.{key}");
    let fields = Fields::new(parent.file(), &path, config);
    let Some(weight) = fields.object("weight")? else { return Ok(Ok(LinearScheme::Plain)) };
    let weight = TensorSpec::read(&Fields::new(parent.file(), &format!("{path}.weight"), weight))?;
    let input = match fields.object("input_tensors")? {
        None => None,
        Some(input) => {
            Some(TensorSpec::read(&Fields::new(parent.file(), &format!("{path}.input_tensors"), input))?)
        }
    };
    let refused = |what: &str, spec: &TensorSpec| {
        let kind = if spec.is_dynamic { "dynamic" } else { "static" };
        Ok(Err(format!("quark with {what} in {} {}, {kind}", spec.data_type, spec.scheme)))
    };
    let granularity = match (weight.data_type.as_str(), weight.scheme.as_str(), weight.is_dynamic) {
        ("fp8_e4m3", "per_tensor", false) => Granularity::Tensor,
        ("fp8_e4m3", "per_channel", false) => Granularity::Channel,
        ("fp8_e4m3", "per_block", false) => match weight.block {
            Some(block) => block,
            None => return Err(fields.error("weight", "a weight with block_size")),
        },
        _ => return refused("weights", &weight),
    };
    let activation = match &input {
        None => ActivationScheme::Unquantized,
        Some(input) => match (input.data_type.as_str(), input.scheme.as_str(), input.is_dynamic) {
            ("fp8_e4m3", _, true) => ActivationScheme::Dynamic,
            ("fp8_e4m3", "per_tensor", false) => ActivationScheme::Static,
            _ => return refused("inputs", input),
        },
    };
    Ok(Ok(LinearScheme::Float8 { granularity, activation }))
}

/// One tensor's spec.
struct TensorSpec {
    data_type: String,
    scheme: String,
    is_dynamic: bool,
    block: Option<Granularity>,
}

impl TensorSpec {
    fn read(fields: &Fields<'_>) -> Result<Self, ModelError> {
        Ok(Self {
            data_type: fields.text("dtype")?.unwrap_or_default().to_owned(),
            scheme: fields.text("qscheme")?.unwrap_or_default().to_owned(),
            is_dynamic: fields.flag_or("is_dynamic", false)?,
            block: block(fields, "block_size")?,
        })
    }
}
