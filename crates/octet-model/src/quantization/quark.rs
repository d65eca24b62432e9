//! `quant_method: "quark"`: AMD Quark's layout, that of the `amd/*-FP8-KV` models.

use octet_backend::ScaleShape;
use serde_json::{Map, Value};

use super::patterns::glob_matches;
use super::{ActivationScheme, LinearScheme, Pattern, block, patterns, unsupported};
use crate::ModelError;
use crate::config::fields::Fields;

/// The class of every linear here, as torch names it.
const CLASS: &str = "Linear";

/// Keys that are read, of the block and of a rule.
const READ: [&str; 6] = [
    "quant_method",
    "export",
    "global_quant_config",
    "layer_quant_config",
    "layer_type_quant_config",
    "exclude",
];
const RULE_READ: [&str; 2] = ["weight", "input_tensors"];
const TENSOR_READ: [&str; 4] = ["dtype", "qscheme", "is_dynamic", "block_size"];
/// Keys about how the file came to be, and about the KV cache, whose scales are found by name.
const HARMLESS: [&str; 7] = [
    "activation_scheme",
    "quant_mode",
    "version",
    "kv_cache_quant_config",
    "kv_cache_dtype",
    "kv_cache_post_rope",
    "kv_cache_scheme",
];
const RULE_HARMLESS: [&str; 2] = ["output_tensors", "target_device"];
/// Keys about how scales were found.
const TENSOR_HARMLESS: [&str; 9] = [
    "ch_axis",
    "group_size",
    "observer_cls",
    "round_method",
    "scale_calculation_mode",
    "scale_format",
    "scale_type",
    "symmetric",
    "zero_point_type",
];
/// Algorithms of `algo_config` whose work is in the weights when they are stored.
const DONE_BEFORE_STORING: [&str; 5] = ["smooth", "smoothquant", "autosmoothquant", "awq", "gptq"];

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
        fields.refuse_all_but(&[&READ, &HARMLESS, &["algo_config"]])?;
        check_algorithms(fields)?;
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

/// A rotation would have to be applied at run time too.
fn check_algorithms(fields: &Fields<'_>) -> Result<(), ModelError> {
    let Some(value) = fields.get("algo_config") else { return Ok(()) };
    let algorithms = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    let name = |algorithm: &Value| algorithm.get("name").and_then(Value::as_str).map(str::to_ascii_lowercase);
    let is_done =
        |algorithm: &Value| name(algorithm).is_some_and(|name| DONE_BEFORE_STORING.contains(&name.as_str()));
    if algorithms.iter().all(is_done) {
        return Ok(());
    }
    Err(fields.error("algo_config", format!("algorithms among {}", DONE_BEFORE_STORING.join(", "))))
}

/// Reads one `{weight, input_tensors, ...}`.
fn rule(parent: &Fields<'_>, key: &str, config: &Value) -> Result<Rule, ModelError> {
    let config =
        config.as_object().ok_or_else(|| parent.error(key, "an object with weight and input_tensors"))?;
    let path = format!("quantization_config.{key}");
    let fields = Fields::new(parent.file(), &path, config);
    fields.refuse_all_but(&[&RULE_READ, &RULE_HARMLESS])?;
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
        ("fp8_e4m3", "per_tensor", false) => ScaleShape::Tensor,
        ("fp8_e4m3", "per_channel", false) => ScaleShape::Channel,
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
    Ok(Ok(LinearScheme::float8(granularity, activation)))
}

/// One tensor's spec.
struct TensorSpec {
    data_type: String,
    scheme: String,
    is_dynamic: bool,
    block: Option<ScaleShape>,
}

impl TensorSpec {
    fn read(fields: &Fields<'_>) -> Result<Self, ModelError> {
        let data_type = fields.text("dtype")?.unwrap_or_default().to_owned();
        // What is not FP8 is refused for that.
        if data_type == "fp8_e4m3" {
            fields.refuse_all_but(&[&TENSOR_READ, &TENSOR_HARMLESS])?;
        }
        Ok(Self {
            data_type,
            scheme: fields.text("qscheme")?.unwrap_or_default().to_owned(),
            is_dynamic: fields.flag_or("is_dynamic", false)?,
            block: block(fields, "block_size")?,
        })
    }
}
