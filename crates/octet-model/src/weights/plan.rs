//! Which tensors make up which linear: everything that can be wrong with names, shapes and element types is found here,
//! before a weight is read.

use std::collections::HashSet;

use octet_backend::{DataType, InputScale, LinearUse};

use crate::checkpoint::{Checkpoint, Dummy, StoredTensor, data_type, first_of};
use crate::quantization::{
    ActivationScheme, Granularity, LinearScheme, OnlineQuantization, QuantizationConfig,
};
use crate::weights::names;
use crate::{ModelConfig, ModelError};

/// What decides the plan besides the config and the checkpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlanOptions<'a> {
    /// Element type of what is not quantised.
    pub(crate) data_type: DataType,
    /// The checkpoint's own quantisation.
    pub(crate) quantization: Option<&'a QuantizationConfig>,
    /// Quantise while loading.
    pub(crate) online: Option<OnlineQuantization>,
    /// Quantise the head too.
    pub(crate) quantize_head: bool,
}

/// A tensor to be read; without a place it is made up.
#[derive(Clone, Debug)]
pub(crate) struct TensorPlan {
    /// Name in the checkpoint.
    pub(crate) name: String,
    /// Where it is, unless the weights are dummies.
    pub(crate) stored: Option<StoredTensor>,
    /// Elements.
    pub(crate) elements: usize,
}

/// One shard of a fused linear.
#[derive(Clone, Debug)]
pub(crate) struct PartPlan {
    /// The values.
    pub(crate) weight: TensorPlan,
    /// Their element type as stored.
    pub(crate) data_type: DataType,
    /// Output features.
    pub(crate) rows: usize,
    /// Input features.
    pub(crate) columns: usize,
    /// Their scales, for FP8.
    pub(crate) scale: Option<(TensorPlan, Granularity)>,
    /// The input's static scale.
    pub(crate) input_scale: Option<TensorPlan>,
    /// What is foreseen for its input.
    pub(crate) activation: ActivationScheme,
    /// The bias of these rows.
    pub(crate) bias: Option<TensorPlan>,
}

/// A linear as the device gets it.
#[derive(Clone, Debug)]
pub(crate) struct LinearPlan {
    /// Name, fused, for errors.
    pub(crate) name: String,
    /// What it is for.
    pub(crate) usage: LinearUse,
    /// Element type on the device.
    pub(crate) data_type: DataType,
    /// Quantise on the way.
    pub(crate) online: Option<OnlineQuantization>,
    /// Its shards.
    pub(crate) parts: Vec<PartPlan>,
}

impl LinearPlan {
    /// How the input is quantised on devices that multiply FP8; `fixed` is the checkpoint's scale.
    pub(super) fn input_scale(&self, fixed: Option<f32>) -> Option<InputScale> {
        let is = |scheme| self.parts.iter().all(|part| part.activation == scheme);
        match fixed {
            Some(scale) if is(ActivationScheme::Static) => Some(InputScale::Static(scale)),
            // What is quantised while it loads is so as vLLM does it.
            _ if is(ActivationScheme::Dynamic) || self.online.is_some() => Some(InputScale::Dynamic),
            _ => None,
        }
    }
}

/// The tensors of one layer.
#[derive(Clone, Debug)]
pub(crate) struct LayerPlan {
    pub(crate) input_norm: TensorPlan,
    pub(crate) qkv: LinearPlan,
    pub(crate) query_norm: Option<TensorPlan>,
    pub(crate) key_norm: Option<TensorPlan>,
    pub(crate) output: LinearPlan,
    pub(crate) post_norm: TensorPlan,
    pub(crate) gate_up: LinearPlan,
    pub(crate) down: LinearPlan,
}

/// The tensors of a model.
#[derive(Clone, Debug)]
pub(crate) struct WeightPlan {
    /// The embedding, which is the head too if that is tied.
    pub(crate) embedding: LinearPlan,
    /// The head, unless tied.
    pub(crate) head: Option<LinearPlan>,
    /// The layers.
    pub(crate) layers: Vec<LayerPlan>,
    /// The last norm.
    pub(crate) final_norm: TensorPlan,
    /// Tensors that the model does not use and that change no result, unless they are of the kinds that are known to.
    pub(crate) unused: Vec<String>,
}

impl LinearPlan {
    /// Elements of all parts.
    pub(crate) fn elements(&self) -> usize {
        self.parts.iter().map(|part| part.rows * part.columns).sum()
    }

    /// Bytes to be read.
    pub(crate) fn source_bytes(&self) -> usize {
        self.parts.iter().map(|part| part.rows * part.columns * part.data_type.bytes()).sum()
    }
}

impl WeightPlan {
    /// Plans all tensors; without a checkpoint they are dummies.
    pub(crate) fn new(
        config: &ModelConfig,
        options: PlanOptions<'_>,
        checkpoint: Option<&Checkpoint>,
    ) -> Result<Self, ModelError> {
        let mut planner = Planner { config, options, checkpoint, used: HashSet::new(), missing: Vec::new() };
        let embedding = planner.embedding()?;
        let head = planner.head()?;
        let layers = (0..config.layers).map(|layer| planner.layer(layer)).collect::<Result<_, _>>()?;
        let final_norm = planner.vector("model.norm.weight".to_owned(), config.hidden)?;
        if !planner.missing.is_empty() {
            return Err(planner.missing_tensors());
        }
        let unused = planner.unused()?;
        Ok(Self { embedding, head, layers, final_norm, unused })
    }

    /// All linears in the order in which they are packed: the large tables first, while memory is free.
    pub(crate) fn linears(&self) -> impl Iterator<Item = &LinearPlan> {
        let tables = std::iter::once(&self.embedding).chain(&self.head);
        tables.chain(self.layers.iter().flat_map(|it| [&it.qkv, &it.output, &it.gate_up, &it.down]))
    }

    /// Bytes of all weights on the device, as far as element types tell; packing may round shapes up.
    pub(crate) fn device_bytes(&self) -> usize {
        self.linears().map(|linear| linear.elements() * linear.data_type.bytes()).sum()
    }
}

/// The names of a fused linear's parts and their rows.
struct Shards<'a> {
    /// Prefix of all names, such as `model.layers.0.self_attn`.
    prefix: &'a str,
    /// Name of the whole.
    fused: &'a str,
    /// Names and rows of the parts.
    parts: &'a [(&'a str, usize)],
    /// Input features.
    columns: usize,
    /// Whether there are biases.
    bias: bool,
    /// What it is for.
    usage: LinearUse,
}

struct Planner<'a> {
    config: &'a ModelConfig,
    options: PlanOptions<'a>,
    checkpoint: Option<&'a Checkpoint>,
    used: HashSet<String>,
    missing: Vec<String>,
}

impl Planner<'_> {
    fn embedding(&mut self) -> Result<LinearPlan, ModelError> {
        let ModelConfig { vocabulary, hidden, tied_embeddings, .. } = *self.config;
        let is_head = tied_embeddings && !self.options.quantize_head;
        let usage = if is_head { LinearUse::EmbedAndMultiply } else { LinearUse::Embed };
        let part = self.plain_part("model.embed_tokens", vocabulary, hidden)?;
        let data_type = self.options.data_type;
        Ok(LinearPlan {
            name: "model.embed_tokens".to_owned(),
            usage,
            data_type,
            online: None,
            parts: vec![part],
        })
    }

    fn head(&mut self) -> Result<Option<LinearPlan>, ModelError> {
        let ModelConfig { vocabulary, hidden, tied_embeddings, .. } = *self.config;
        if tied_embeddings && !self.options.quantize_head {
            return Ok(None);
        }
        let name = if tied_embeddings { "model.embed_tokens" } else { "lm_head" };
        // No method quantises the head unless it stored it so.
        let is_float8 = self
            .stored(&format!("{name}.weight"))
            .is_some_and(|stored| data_type(stored.element).is_some_and(DataType::is_float8));
        let scheme = match (self.options.quantization, is_float8) {
            (Some(quantization), true) => quantization.scheme(name, &[name.to_owned()])?,
            _ => LinearScheme::Plain,
        };
        let part = self.part(name, vocabulary, hidden, scheme)?;
        let online = if self.options.quantize_head && scheme == LinearScheme::Plain {
            Some(self.options.online.unwrap_or(OnlineQuantization::Channel))
        } else {
            None
        };
        Ok(Some(self.linear("lm_head".to_owned(), LinearUse::Multiply, online, vec![part])))
    }

    fn layer(&mut self, layer: usize) -> Result<LayerPlan, ModelError> {
        let ModelConfig { hidden, intermediate, query_heads, kv_heads, head_dim, traits, .. } = *self.config;
        let prefix = format!("model.layers.{layer}");
        let (attention, mlp) = (format!("{prefix}.self_attn"), format!("{prefix}.mlp"));
        let (queries, keys) = (query_heads * head_dim, kv_heads * head_dim);
        let norms = traits.query_key_norm;
        let head_norm = |planner: &mut Self, name: &str| {
            let name = format!("{attention}.{name}.weight");
            if norms { planner.vector(name, head_dim).map(Some) } else { Ok(None) }
        };
        Ok(LayerPlan {
            input_norm: self.vector(format!("{prefix}.input_layernorm.weight"), hidden)?,
            query_norm: head_norm(self, "q_norm")?,
            key_norm: head_norm(self, "k_norm")?,
            qkv: self.fused(&Shards {
                prefix: &attention,
                fused: "qkv_proj",
                parts: &[("q_proj", queries), ("k_proj", keys), ("v_proj", keys)],
                columns: hidden,
                bias: traits.qkv_bias,
                usage: LinearUse::Multiply,
            })?,
            output: self.fused(&Shards {
                prefix: &attention,
                fused: "o_proj",
                parts: &[("o_proj", hidden)],
                columns: queries,
                bias: traits.output_bias,
                usage: LinearUse::Multiply,
            })?,
            post_norm: self.vector(format!("{prefix}.post_attention_layernorm.weight"), hidden)?,
            gate_up: self.fused(&Shards {
                prefix: &mlp,
                fused: "gate_up_proj",
                parts: &[("gate_proj", intermediate), ("up_proj", intermediate)],
                columns: hidden,
                bias: traits.mlp_bias,
                usage: LinearUse::Gated,
            })?,
            down: self.fused(&Shards {
                prefix: &mlp,
                fused: "down_proj",
                parts: &[("down_proj", hidden)],
                columns: intermediate,
                bias: traits.mlp_bias,
                usage: LinearUse::Multiply,
            })?,
        })
    }

    fn fused(&mut self, shards: &Shards<'_>) -> Result<LinearPlan, ModelError> {
        let name = format!("{}.{}", shards.prefix, shards.fused);
        let names: Vec<String> =
            shards.parts.iter().map(|(part, _)| format!("{}.{part}", shards.prefix)).collect();
        let scheme = match self.options.quantization {
            Some(quantization) => quantization.scheme(&name, &names)?,
            None => LinearScheme::Plain,
        };
        let mut parts = Vec::with_capacity(names.len());
        for (part, &(_, rows)) in names.iter().zip(shards.parts) {
            let mut plan = self.part(part, rows, shards.columns, scheme)?;
            if shards.bias {
                plan.bias = Some(self.vector(format!("{part}.bias"), rows)?);
            }
            parts.push(plan);
        }
        Ok(self.linear(name, shards.usage, self.options.online, parts))
    }

    /// Decides the element type on the device.
    fn linear(
        &self,
        name: String,
        usage: LinearUse,
        online: Option<OnlineQuantization>,
        parts: Vec<PartPlan>,
    ) -> LinearPlan {
        let data_type = match parts[0].data_type {
            stored if stored.is_float8() => stored,
            _ if online.is_some() => Dummy::FLOAT8,
            _ => self.options.data_type,
        };
        LinearPlan { name, usage, data_type, online, parts }
    }

    fn part(
        &mut self,
        name: &str,
        rows: usize,
        columns: usize,
        scheme: LinearScheme,
    ) -> Result<PartPlan, ModelError> {
        let LinearScheme::Float8 { granularity, activation } = scheme else {
            return self.plain_part(name, rows, columns);
        };
        let weight = self.tensor(format!("{name}.weight"), &[&[rows, columns]])?;
        let data_type = self.element_type(&weight, true)?.unwrap_or(Dummy::FLOAT8);
        let scale = self.weight_scale(name, rows, columns, granularity)?;
        let input_scale = match activation {
            ActivationScheme::Static => {
                Some(self.one_of(name, &["input_scale", "act_scale", "activation_scale"], &[&[], &[1]])?)
            }
            ActivationScheme::Unquantized | ActivationScheme::Dynamic => None,
        };
        let scale = Some((scale, granularity));
        Ok(PartPlan { weight, data_type, rows, columns, scale, input_scale, activation, bias: None })
    }

    fn plain_part(&mut self, name: &str, rows: usize, columns: usize) -> Result<PartPlan, ModelError> {
        let weight = self.tensor(format!("{name}.weight"), &[&[rows, columns]])?;
        let data_type = self.element_type(&weight, false)?.unwrap_or(self.options.data_type);
        let activation = ActivationScheme::Unquantized;
        Ok(PartPlan {
            weight,
            data_type,
            rows,
            columns,
            scale: None,
            input_scale: None,
            activation,
            bias: None,
        })
    }

    /// DeepSeek's and transformers' name for the same dequantisation scale is `weight_scale_inv`.
    fn weight_scale(
        &mut self,
        name: &str,
        rows: usize,
        columns: usize,
        granularity: Granularity,
    ) -> Result<TensorPlan, ModelError> {
        match granularity {
            Granularity::Tensor => {
                self.one_of(name, &["weight_scale", "weight_scale_inv"], &[&[], &[1], &[1, 1]])
            }
            Granularity::Channel => self.one_of(name, &["weight_scale"], &[&[rows, 1], &[rows]]),
            Granularity::Block { rows: block_rows, columns: block_columns } => {
                let shape = [rows.div_ceil(block_rows), columns.div_ceil(block_columns)];
                self.one_of(name, &["weight_scale_inv", "weight_scale"], &[&shape])
            }
        }
    }

    /// The first of several names that is there.
    fn one_of(
        &mut self,
        prefix: &str,
        names: &[&str],
        shapes: &[&[usize]],
    ) -> Result<TensorPlan, ModelError> {
        let full = |name: &&str| format!("{prefix}.{name}");
        let found = names.iter().map(full).find(|name| self.stored(name).is_some());
        self.tensor(found.unwrap_or_else(|| full(&names[0])), shapes)
    }

    fn vector(&mut self, name: String, length: usize) -> Result<TensorPlan, ModelError> {
        let plan = self.tensor(name, &[&[length]])?;
        self.element_type(&plan, false)?;
        Ok(plan)
    }

    fn stored(&self, name: &str) -> Option<&StoredTensor> {
        self.checkpoint.and_then(|checkpoint| checkpoint.tensor(name))
    }

    /// Finds a tensor of one of the shapes. A missing one is noted, so that all can be named together.
    fn tensor(&mut self, name: String, shapes: &[&[usize]]) -> Result<TensorPlan, ModelError> {
        let elements = shapes[0].iter().product();
        let stored = self.stored(&name).cloned();
        match &stored {
            None if self.checkpoint.is_some() => self.missing.push(name.clone()),
            None => {}
            Some(stored) if !shapes.contains(&stored.shape.as_slice()) => {
                return Err(ModelError::Shape {
                    tensor: name,
                    found: stored.shape.clone(),
                    expected: shapes[0].to_vec(),
                });
            }
            Some(_) => {}
        }
        self.used.insert(name.clone());
        Ok(TensorPlan { name, stored, elements })
    }

    /// The stored element type, which must be FP8 or must not be.
    fn element_type(&self, plan: &TensorPlan, is_float8: bool) -> Result<Option<DataType>, ModelError> {
        let Some(stored) = &plan.stored else { return Ok(None) };
        match data_type(stored.element) {
            Some(data_type) if data_type.is_float8() == is_float8 => Ok(Some(data_type)),
            _ => Err(ModelError::ElementType {
                tensor: plan.name.clone(),
                found: format!("{:?}", stored.element),
                expected: if is_float8 {
                    "F8_E4M3, because quantization_config says that it is quantised".to_owned()
                } else {
                    "F32, F16 or BF16, because nothing in the config says that it is quantised".to_owned()
                },
            }),
        }
    }

    /// The tensors of the checkpoint that are not read.
    fn others(&self) -> impl Iterator<Item = &str> {
        let names = self.checkpoint.iter().flat_map(|checkpoint| checkpoint.names());
        names.filter(|name| !self.used.contains(*name))
    }

    fn missing_tensors(&self) -> ModelError {
        let others: Vec<&str> = self.others().filter(|name| !names::is_without_effect(name)).collect();
        let not_read = self.checkpoint.and_then(Checkpoint::files_not_read);
        let not_read = not_read.map_or_else(String::new, |files| format!("; beside it, not read: {files}"));
        ModelError::MissingTensors {
            count: self.missing.len(),
            first: first_of(self.missing.clone()),
            instead: names::instead(&self.missing, &others) + &not_read,
        }
    }

    /// The tensors that are not read, if none of them would change a result.
    fn unused(&self) -> Result<Vec<String>, ModelError> {
        let is_known = |name: &str| {
            names::is_without_effect(name) || (self.config.tied_embeddings && name == "lm_head.weight")
        };
        let (mut unused, mut unread) = (Vec::new(), Vec::new());
        for name in self.others().filter(|name| !is_known(name)) {
            let counts = names::is_of_the_decoder(name, self.config.layers) && !self.is_zero_bias(name)?;
            if counts { &mut unread } else { &mut unused }.push(name.to_owned());
        }
        if unread.is_empty() {
            return Ok(unused);
        }
        let architecture = self.config.architecture.clone();
        Err(ModelError::UnreadTensors { count: unread.len(), architecture, first: first_of(unread) })
    }

    /// Some tools store a bias of zeros for every linear; to leave it out changes nothing.
    fn is_zero_bias(&self, name: &str) -> Result<bool, ModelError> {
        let bias = self.stored(name).filter(|_| name.ends_with(".bias"));
        let (Some(checkpoint), Some(bias)) = (self.checkpoint, bias.filter(|bias| bias.shape.len() == 1))
        else {
            return Ok(false);
        };
        Ok(checkpoint.read_numbers(name, bias)?.iter().all(|&value| value == 0.0))
    }
}
