//! `quant_method: "compressed-tensors"`: the layout of llm-compressor and of most FP8 models on the Hub.

use octet_backend::{DataType, ScaleShape, WeightFormat};
use serde_json::Value;

use super::{ActivationScheme, FLOAT8, LinearScheme, Pattern, block, patterns, unsupported};
use crate::ModelError;
use crate::config::fields::Fields;

/// The class of every linear here, as torch names it.
const CLASS: &str = "linear";

/// Keys that are read, of the block, of a group and of a tensor's arguments.
const READ: [&str; 6] =
    ["quant_method", "format", "config_groups", "ignore", "kv_cache_scheme", "sparsity_config"];
const GROUP_READ: [&str; 4] = ["targets", "weights", "input_activations", "format"];
const TENSOR_READ: [&str; 7] =
    ["num_bits", "type", "symmetric", "group_size", "strategy", "block_structure", "dynamic"];
/// Keys about how the file came to be.
const HARMLESS: [&str; 5] =
    ["quantization_status", "global_compression_ratio", "version", "run_compressed", "dequantize"];
/// Keys about how scales were found and in what they are stored.
const TENSOR_HARMLESS: [&str; 4] = ["observer", "observer_kwargs", "scale_dtype", "zp_dtype"];

/// The layout's rules.
#[derive(Clone, Debug)]
pub(crate) struct CompressedTensors {
    groups: Vec<Group>,
    ignored: Vec<Pattern>,
    /// The KV cache is quantized too.
    pub(super) has_kv_cache_scheme: bool,
}

/// An entry of `config_groups`: which linears, and how.
#[derive(Clone, Debug)]
struct Group {
    targets: Vec<Pattern>,
    /// Whether a target names the class of all linears.
    targets_class: bool,
    /// A scheme that is refused only when a linear has it.
    scheme: Result<LinearScheme, String>,
}

impl CompressedTensors {
    pub(super) fn read(fields: &Fields<'_>) -> Result<Self, ModelError> {
        fields.refuse_all_but(&[&READ, &HARMLESS])?;
        if let Some(sparsity) = fields.object("sparsity_config")?
            && sparsity.get("format").and_then(Value::as_str).is_some_and(|format| format != "dense")
        {
            return Err(unsupported("compressed-tensors with sparsity_config"));
        }
        let format = fields.text("format")?.unwrap_or("dense");
        let groups = fields.object("config_groups")?;
        let groups = groups.ok_or_else(|| fields.error("config_groups", "an object of groups"))?;
        let mut read = Vec::new();
        for (name, group) in groups {
            let group =
                group.as_object().ok_or_else(|| fields.error("config_groups", "an object of objects"))?;
            let path = format!("quantization_config.config_groups.{name}");
            // Attention is a matter of the KV cache, as in vLLM.
            if matches!(group.get("targets").and_then(Value::as_array).map(Vec::as_slice),
                Some([Value::String(target)]) if target.ends_with("Attention"))
            {
                continue;
            }
            read.push(Group::read(&Fields::new(fields.file(), &path, group), format)?);
        }
        let has_kv_cache_scheme = match fields.object("kv_cache_scheme")? {
            None => false,
            Some(scheme) => {
                check_kv_cache_scheme(&Fields::new(
                    fields.file(),
                    "quantization_config.kv_cache_scheme",
                    scheme,
                ))?;
                true
            }
        };
        Ok(Self { groups: read, ignored: patterns(fields, "ignore")?, has_kv_cache_scheme })
    }

    pub(super) fn ignores(&self, name: &str) -> bool {
        self.ignored.iter().any(|pattern| pattern.matches(name))
    }

    /// A target that names the linear goes before one that names its class.
    pub(super) fn scheme(&self, name: &str) -> Result<LinearScheme, ModelError> {
        if self.ignores(name) {
            return Ok(LinearScheme::Plain);
        }
        let by_name = |group: &&Group| group.targets.iter().any(|target| target.matches(name));
        let group =
            self.groups.iter().find(by_name).or_else(|| self.groups.iter().find(|it| it.targets_class));
        group.map_or(Ok(LinearScheme::Plain), |group| group.scheme.clone().map_err(unsupported))
    }
}

impl Group {
    fn read(fields: &Fields<'_>, format: &str) -> Result<Self, ModelError> {
        fields.refuse_all_but(&[&GROUP_READ])?;
        let format = fields.text("format")?.unwrap_or(format);
        let targets = fields.texts("targets")?;
        if targets.is_empty() {
            return Err(fields.error("targets", "a list of names or classes"));
        }
        let weights = fields.object("weights")?;
        let path = "quantization_config.config_groups.weights";
        let scheme = match weights {
            None => Ok(LinearScheme::Plain),
            Some(weights) => {
                let weights = Fields::new(fields.file(), path, weights);
                match weight_format(&weights, format)? {
                    Err(refused) => Err(refused),
                    Ok(format) => activation(fields, format.element)?
                        .map(|activation| LinearScheme::Quantized { format, activation }),
                }
            }
        };
        Ok(Self {
            targets_class: targets.iter().any(|target| CLASS.contains(&target.to_ascii_lowercase())),
            targets: patterns(fields, "targets")?,
            scheme,
        })
    }
}

/// How weights are stored, or what it is that is not supported.
fn weight_format(fields: &Fields<'_>, format: &str) -> Result<Result<WeightFormat, String>, ModelError> {
    let kind = fields.text("type")?.unwrap_or("int");
    let bits = fields.positive("num_bits")?.unwrap_or(8);
    // Others pack several elements into a word.
    let is_plain_format = matches!(
        format,
        "dense" | "naive-quantized" | "float-quantized" | "int-quantized" | "mixed-precision"
    );
    let element = match element(kind, bits) {
        Some(element) if is_plain_format => element,
        _ => return Ok(Err(format!("compressed-tensors {format} with weights of {kind} {bits} bits"))),
    };
    fields.refuse_all_but(&[&TENSOR_READ, &TENSOR_HARMLESS])?;
    if !fields.flag_or("symmetric", true)? {
        return Ok(Err(format!("compressed-tensors with asymmetric weights of {kind} {bits} bits")));
    }
    let structure = block(fields, "block_structure")?;
    let group_size = fields.number("group_size")?;
    let default = match (structure, group_size) {
        (Some(_), _) => "block",
        (None, None) => "tensor",
        (None, Some(size)) if size > 0.0 => "group",
        (None, Some(_)) => "channel",
    };
    let strategy = fields.text("strategy")?.unwrap_or(default);
    let scale = match (strategy, structure) {
        ("tensor", _) => ScaleShape::Tensor,
        ("channel", _) => ScaleShape::Channel,
        ("block", Some(block)) => block,
        ("block", None) => return Err(fields.error("block_structure", "[rows, columns] of a block")),
        (other, _) => {
            return Ok(Err(format!(
                "compressed-tensors weights of {kind} {bits} bits with strategy {other}"
            )));
        }
    };
    Ok(Ok(WeightFormat { element, scale }))
}

/// The element of a kind and a number of bits.
fn element(kind: &str, bits: usize) -> Option<DataType> {
    match (kind, bits) {
        ("float", 8) => Some(FLOAT8),
        ("int", 8) => Some(DataType::I8),
        _ => None,
    }
}

/// Any dynamic input is quantized at run time; a static one must have one scale for all. Inputs are codes of the weights'
/// kind.
fn activation(fields: &Fields<'_>, weight: DataType) -> Result<Result<ActivationScheme, String>, ModelError> {
    let Some(input) = fields.object("input_activations")? else {
        return Ok(Ok(ActivationScheme::Unquantized));
    };
    let input = Fields::new(fields.file(), "quantization_config.config_groups.input_activations", input);
    let kind = input.text("type")?.unwrap_or("int");
    let bits = input.positive("num_bits")?.unwrap_or(8);
    if element(kind, bits) != Some(weight) {
        return Ok(Err(format!(
            "compressed-tensors with inputs of {kind} {bits} bits for weights of {weight}"
        )));
    }
    input.refuse_all_but(&[&TENSOR_READ, &TENSOR_HARMLESS])?;
    let is_dynamic = match input.get("dynamic") {
        None => false,
        Some(Value::Bool(dynamic)) => *dynamic,
        Some(Value::String(text)) if text == "local" => true,
        Some(_) => return Err(input.error("dynamic", "true, false or \"local\"")),
    };
    if is_dynamic {
        return Ok(Ok(ActivationScheme::Dynamic));
    }
    match input.text("strategy")?.unwrap_or("tensor") {
        "tensor" => Ok(Ok(ActivationScheme::Static)),
        other => Ok(Err(format!("compressed-tensors with static inputs of strategy {other}"))),
    }
}

fn check_kv_cache_scheme(fields: &Fields<'_>) -> Result<(), ModelError> {
    let kind = fields.text("type")?.unwrap_or("int");
    let bits = fields.positive("num_bits")?.unwrap_or(8);
    let strategy = fields.text("strategy")?.unwrap_or("tensor");
    if kind == "float" && bits == 8 && strategy == "tensor" && fields.flag_or("symmetric", true)? {
        return Ok(());
    }
    Err(ModelError::Unsupported {
        what: "kv_cache_scheme",
        found: format!("{kind} {bits} bits, strategy {strategy}"),
        supported: "float, 8 bits, symmetric, strategy tensor".to_owned(),
    })
}
