//! Which tensors make up which linear: everything that can be wrong with names, shapes and element types is found here,
//! before a weight is read.

use std::collections::HashSet;

use octet_backend::{DataType, InputScale, LinearUse, ScaleShape, WeightFormat};

use crate::checkpoint::{Checkpoint, StoredTensor, data_type, first_of};
use crate::families::NormWeights;
use crate::layer::Model;
use crate::layer::sites::{
    Described, LinearSite, PartSite, Projection, Quantized, Stage, VectorSite, VectorValues, Walk,
};
use crate::quantization::{ActivationScheme, FLOAT8, LinearScheme, OnlineQuantization, QuantizationConfig};
use crate::weights::names;
use crate::{ModelConfig, ModelError};

/// What decides the plan besides the config and the checkpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlanOptions<'a> {
    /// Element type of what is not quantized.
    pub(crate) data_type: DataType,
    /// The checkpoint's own quantization.
    pub(crate) quantization: Option<&'a QuantizationConfig>,
    /// Quantize while loading.
    pub(crate) online: Option<OnlineQuantization>,
    /// Quantize the head too.
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
    /// What they are.
    pub(crate) values: VectorValues,
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
    /// Their scales, if they are codes.
    pub(crate) scale: Option<(TensorPlan, ScaleShape)>,
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
    /// Quantize on the way.
    pub(crate) online: Option<OnlineQuantization>,
    /// Its shards.
    pub(crate) parts: Vec<PartPlan>,
}

impl LinearPlan {
    /// How the input is quantized on devices that multiply FP8; `fixed` is the checkpoint's scale.
    pub(super) fn input_scale(&self, fixed: Option<f32>) -> Option<InputScale> {
        let is = |scheme| self.parts.iter().all(|part| part.activation == scheme);
        match fixed {
            Some(scale) if is(ActivationScheme::Static) => Some(InputScale::Static(scale)),
            // What is quantized while it loads is so as vLLM does it.
            _ if is(ActivationScheme::Dynamic) || self.online.is_some() => Some(InputScale::Dynamic),
            _ => None,
        }
    }
}

/// Tensors that are planned for the sites of a model.
#[derive(Debug)]
pub(crate) struct Planned;

impl Stage for Planned {
    type Linear = LinearPlan;
    type Vector = TensorPlan;
}

/// The tensors of a model.
pub(crate) struct WeightPlan {
    /// Those that are read.
    pub(crate) model: Model<Planned>,
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
        self.parts.iter().map(|part| part.data_type.row_bytes(part.rows * part.columns)).sum()
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
        let model = Model::of(config, options.quantize_head).walk(&mut planner)?;
        if !planner.missing.is_empty() {
            return Err(planner.missing_tensors());
        }
        let unused = planner.unused()?;
        Ok(Self { model, unused })
    }

    /// All linears, in the order in which they are read and packed.
    pub(crate) fn linears(&self) -> impl Iterator<Item = &LinearPlan> {
        self.model.linears().into_iter().map(|(_, linear)| linear)
    }

    /// Bytes of all weights on the device, as far as element types tell; packing may round shapes up.
    pub(crate) fn device_bytes(&self) -> usize {
        self.linears().map(|linear| linear.data_type.row_bytes(linear.elements())).sum()
    }
}

struct Planner<'a> {
    config: &'a ModelConfig,
    options: PlanOptions<'a>,
    checkpoint: Option<&'a Checkpoint>,
    used: HashSet<String>,
    missing: Vec<String>,
}

impl Walk<'_, Described, Planned> for Planner<'_> {
    type Error = ModelError;

    fn linear(&mut self, _: Option<Projection>, site: &LinearSite) -> Result<LinearPlan, ModelError> {
        let scheme = self.scheme(site)?;
        let mut parts = Vec::with_capacity(site.parts.len());
        for part in &site.parts {
            let mut plan = self.part(part, site.columns, scheme)?;
            if site.bias {
                plan.bias = Some(self.plain_vector(format!("{}.bias", part.name), part.rows)?);
            }
            parts.push(plan);
        }
        let PlanOptions { online, quantize_head, .. } = self.options;
        let online = match site.quantized {
            Quantized::Never => None,
            Quantized::AsConfigured => online,
            Quantized::IfStoredOrAsked if quantize_head && scheme == LinearScheme::Plain => {
                Some(online.unwrap_or(OnlineQuantization::Channel))
            }
            Quantized::IfStoredOrAsked => None,
        };
        let data_type = match parts[0].data_type {
            stored if stored.is_quantized() => stored,
            _ if online.is_some() => FLOAT8,
            _ => self.options.data_type,
        };
        Ok(LinearPlan { name: site.name.clone(), usage: site.usage, data_type, online, parts })
    }

    fn vector(&mut self, site: &VectorSite) -> Result<TensorPlan, ModelError> {
        let &VectorSite { ref name, length, values } = site;
        let plan = match values {
            VectorValues::Stored(_) => self.plain_vector(name.clone(), length)?,
            VectorValues::Constant(_) => {
                TensorPlan { name: name.clone(), stored: None, elements: length, values }
            }
        };
        Ok(TensorPlan { values, ..plan })
    }
}

impl Planner<'_> {
    /// How the checkpoint quantizes a linear.
    fn scheme(&self, site: &LinearSite) -> Result<LinearScheme, ModelError> {
        let may_be = match site.quantized {
            Quantized::Never => false,
            Quantized::AsConfigured => true,
            Quantized::IfStoredOrAsked => site.parts.iter().any(|part| self.is_quantized(&part.name)),
        };
        let Some(quantization) = self.options.quantization.filter(|_| may_be) else {
            return Ok(LinearScheme::Plain);
        };
        let names: Vec<String> = site.parts.iter().map(|part| part.name.clone()).collect();
        quantization.scheme(&site.name, &names)
    }

    fn is_quantized(&self, name: &str) -> bool {
        let stored = self.stored(&format!("{name}.weight"));
        stored.and_then(|stored| data_type(stored.element)).is_some_and(DataType::is_quantized)
    }

    fn part(
        &mut self,
        site: &PartSite,
        columns: usize,
        scheme: LinearScheme,
    ) -> Result<PartPlan, ModelError> {
        let PartSite { ref name, rows } = *site;
        let weight = self.tensor(format!("{name}.weight"), &[&[rows, columns]])?;
        let element = match scheme {
            LinearScheme::Plain => None,
            LinearScheme::Quantized { format, .. } => Some(format.element),
        };
        let otherwise = element.unwrap_or(self.options.data_type);
        let mut plan = PartPlan {
            data_type: self.element_type(&weight, element)?.unwrap_or(otherwise),
            weight,
            rows,
            columns,
            scale: None,
            input_scale: None,
            activation: ActivationScheme::Unquantized,
            bias: None,
        };
        if let LinearScheme::Quantized { format: WeightFormat { scale, .. }, activation } = scheme {
            plan.scale = Some((self.weight_scale(name, rows, columns, scale)?, scale));
            plan.activation = activation;
            if activation == ActivationScheme::Static {
                let names = ["input_scale", "act_scale", "activation_scale"];
                plan.input_scale = Some(self.one_of(name, &names, &[&[], &[1]])?);
            }
        }
        Ok(plan)
    }

    /// DeepSeek's and transformers' name for the same dequantization scale is `weight_scale_inv`.
    fn weight_scale(
        &mut self,
        name: &str,
        rows: usize,
        columns: usize,
        granularity: ScaleShape,
    ) -> Result<TensorPlan, ModelError> {
        match granularity {
            ScaleShape::None | ScaleShape::Tensor => {
                self.one_of(name, &["weight_scale", "weight_scale_inv"], &[&[], &[1], &[1, 1]])
            }
            ScaleShape::Channel => self.one_of(name, &["weight_scale"], &[&[rows, 1], &[rows]]),
            ScaleShape::Block { rows: block_rows, columns: block_columns } => {
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

    fn plain_vector(&mut self, name: String, length: usize) -> Result<TensorPlan, ModelError> {
        let plan = self.tensor(name, &[&[length]])?;
        self.element_type(&plan, None)?;
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
        Ok(TensorPlan { name, stored, elements, values: VectorValues::Stored(NormWeights::Stored) })
    }

    /// The stored element type, which must be the quantized one that is expected (any format of FP8 for FP8), or none.
    fn element_type(
        &self,
        plan: &TensorPlan,
        quantized: Option<DataType>,
    ) -> Result<Option<DataType>, ModelError> {
        let Some(stored) = &plan.stored else { return Ok(None) };
        let fits = |found: DataType| match quantized {
            None => !found.is_quantized(),
            Some(expected) => found == expected || (found.is_float8() && expected.is_float8()),
        };
        match data_type(stored.element).filter(|found| fits(*found)) {
            Some(found) => Ok(Some(found)),
            None => Err(ModelError::ElementType {
                tensor: plan.name.clone(),
                found: format!("{:?}", stored.element),
                expected: match quantized {
                    Some(DataType::I8) => {
                        "I8, because quantization_config says that it is quantized".to_owned()
                    }
                    Some(_) => "F8_E4M3, because quantization_config says that it is quantized".to_owned(),
                    None => {
                        "F32, F16 or BF16, because nothing in the config says that it is quantized".to_owned()
                    }
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
