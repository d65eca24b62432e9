//! Hands linears to the device, one after another, while the next one is read.

use std::sync::mpsc::{Receiver, Sender};
use std::thread;

use half::{bf16, f16};
use octet_backend::{Backend, BackendError, DataType, LinearPart, LinearSpec, WeightScale, WeightView};

use super::fetch::{Fetched, FetchedPart, Pool, Source};
use super::plan::{LayerPlan, LinearPlan, PartPlan, TensorPlan, WeightPlan};
use crate::checkpoint::{Bytes, Checkpoint};
use crate::quantization::{self, Granularity, NotFinite, OnlineQuantization, Quantized, Values};
use crate::{ModelError, Progress};

/// A model's weights on the device.
pub(crate) struct Packed<B: Backend> {
    /// Token embedding, and the head too if there is no other.
    pub(crate) embedding: B::Linear,
    /// The head, unless tied.
    pub(crate) head: Option<B::Linear>,
    /// Layers, in order.
    pub(crate) layers: Vec<PackedLayer<B>>,
    /// `[hidden]`.
    pub(crate) final_norm: B::Vector,
    /// Bytes of all of it on the device.
    pub(crate) bytes: usize,
}

/// One layer's weights on the device.
pub(crate) struct PackedLayer<B: Backend> {
    /// `[hidden]`.
    pub(crate) input_norm: B::Vector,
    /// `[(query_heads + 2 * kv_heads) * head_dim, hidden]`.
    pub(crate) qkv: B::Linear,
    /// `[head_dim]`.
    pub(crate) query_norm: Option<B::Vector>,
    /// `[head_dim]`.
    pub(crate) key_norm: Option<B::Vector>,
    /// `[hidden, query_heads * head_dim]`.
    pub(crate) output: B::Linear,
    /// `[hidden]`.
    pub(crate) post_norm: B::Vector,
    /// Gate, then up: `[2 * intermediate, hidden]`.
    pub(crate) gate_up: B::Linear,
    /// `[hidden, intermediate]`.
    pub(crate) down: B::Linear,
}

/// Reads and packs everything that is planned. A second thread reads ahead by one linear.
pub(crate) fn pack<B: Backend>(
    backend: &mut B,
    plan: &WeightPlan,
    checkpoint: Option<&Checkpoint>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Packed<B>, ModelError> {
    let source = Source::new(checkpoint, plan.linears());
    thread::scope(|scope| {
        // No room in the channel: at most two linears are in memory besides the packed ones.
        let (sender, fetched) = std::sync::mpsc::sync_channel(0);
        let (mut pool, returns) = Pool::new();
        let reader = &source;
        scope.spawn(move || {
            for linear in plan.linears() {
                let fetched = reader.fetch(linear, &mut pool);
                let is_last = fetched.is_err();
                if sender.send(fetched).is_err() || is_last {
                    return;
                }
            }
        });
        let total_bytes = plan.linears().map(LinearPlan::source_bytes).sum();
        let mut packer = Packer {
            backend,
            source: &source,
            fetched,
            returns,
            progress,
            loaded_bytes: 0,
            total_bytes,
            bytes: 0,
        };
        let embedding = packer.linear(&plan.embedding)?;
        let head = plan.head.as_ref().map(|head| packer.linear(head)).transpose()?;
        let layers = plan.layers.iter().map(|layer| packer.layer(layer)).collect::<Result<_, _>>()?;
        let final_norm = packer.vector(&plan.final_norm)?;
        Ok(Packed { embedding, head, layers, final_norm, bytes: packer.bytes })
    })
}

struct Packer<'a, B> {
    backend: &'a mut B,
    source: &'a Source<'a>,
    fetched: Receiver<Result<Fetched, ModelError>>,
    returns: Sender<Bytes>,
    progress: &'a mut dyn FnMut(Progress<'_>),
    loaded_bytes: usize,
    total_bytes: usize,
    bytes: usize,
}

impl<B: Backend> Packer<'_, B> {
    fn layer(&mut self, plan: &LayerPlan) -> Result<PackedLayer<B>, ModelError> {
        let qkv = self.linear(&plan.qkv)?;
        let output = self.linear(&plan.output)?;
        let gate_up = self.linear(&plan.gate_up)?;
        let down = self.linear(&plan.down)?;
        Ok(PackedLayer {
            input_norm: self.vector(&plan.input_norm)?,
            qkv,
            query_norm: plan.query_norm.as_ref().map(|norm| self.vector(norm)).transpose()?,
            key_norm: plan.key_norm.as_ref().map(|norm| self.vector(norm)).transpose()?,
            output,
            post_norm: self.vector(&plan.post_norm)?,
            gate_up,
            down,
        })
    }

    fn vector(&mut self, plan: &TensorPlan) -> Result<B::Vector, ModelError> {
        let values = self.source.vector(plan)?;
        self.bytes += values.len() * size_of::<f32>();
        self.backend.load_vector(&values).map_err(ModelError::backend(plan.name.clone()))
    }

    /// Packs the next linear that the reader hands over, which is `plan`'s: both follow the plan's order.
    fn linear(&mut self, plan: &LinearPlan) -> Result<B::Linear, ModelError> {
        let fetched = self.fetched.recv().expect("the reader sends one answer for each linear")?;
        let quantized = plan.online.map(|how| quantize_linear(plan, &fetched, how)).transpose()?;
        let parts: Vec<LinearPart<'_>> = match &quantized {
            None => plan.parts.iter().zip(&fetched.parts).map(|(part, it)| stored_part(part, it)).collect(),
            Some(quantized) => {
                let how = plan.online.expect("it was quantised online");
                plan.parts
                    .iter()
                    .zip(quantized)
                    .map(|(part, it)| quantized_part(plan, part, it, how))
                    .collect()
            }
        };
        let spec = LinearSpec {
            data_type: plan.data_type,
            usage: plan.usage,
            bias: fetched.bias,
            input_scale: fetched.input_scale,
        };
        let linear =
            self.backend.load_linear(spec, &parts).map_err(|error| name_damage(plan, &parts, error))?;
        for part in fetched.parts {
            // The reader may be done already; then the buffer is simply dropped.
            let _ = self.returns.send(part.bytes);
        }
        self.bytes += self.backend.linear_bytes(&linear);
        self.loaded_bytes += plan.source_bytes();
        (self.progress)(Progress::Weights {
            tensor: &plan.name,
            loaded_bytes: self.loaded_bytes,
            total_bytes: self.total_bytes,
        });
        Ok(linear)
    }
}

fn quantize_linear(
    plan: &LinearPlan,
    fetched: &Fetched,
    how: OnlineQuantization,
) -> Result<Vec<Quantized>, ModelError> {
    let mut values = Vec::with_capacity(plan.parts.len());
    for (part, fetched) in plan.parts.iter().zip(&fetched.parts) {
        let PartPlan { data_type, rows, columns, .. } = *part;
        values.push(Values { bytes: fetched.bytes.as_slice(), data_type, rows, columns });
    }
    quantization::quantize(&values, how).map_err(|NotFinite { part, row, column }| ModelError::NotFinite {
        tensor: plan.parts[part].weight.name.clone(),
        row,
        column,
    })
}

fn view<'a>(part: &PartPlan, data_type: DataType, bytes: &'a [u8]) -> WeightView<'a> {
    WeightView { bytes, data_type, rows: part.rows, columns: part.columns, row_stride: part.columns }
}

fn scale(scales: &[f32], granularity: Granularity) -> WeightScale<'_> {
    match granularity {
        Granularity::Tensor => WeightScale::Tensor(scales[0]),
        Granularity::Channel => WeightScale::Channel(scales),
        Granularity::Block { rows, columns } => {
            WeightScale::Block { scales, rows_per_block: rows, columns_per_block: columns }
        }
    }
}

/// Parts keep their own scales: devices take one for each part, so that nothing needs to be quantised a second time to
/// the largest of them, as vLLM does.
fn stored_part<'a>(part: &PartPlan, fetched: &'a FetchedPart) -> LinearPart<'a> {
    let scale = match &part.scale {
        None => WeightScale::None,
        Some((_, granularity)) => scale(&fetched.scales, *granularity),
    };
    LinearPart { weight: view(part, part.data_type, fetched.bytes.as_slice()), scale }
}

fn quantized_part<'a>(
    plan: &LinearPlan,
    part: &PartPlan,
    quantized: &'a Quantized,
    how: OnlineQuantization,
) -> LinearPart<'a> {
    LinearPart {
        weight: view(part, plan.data_type, &quantized.codes),
        scale: scale(&quantized.scales, how.granularity()),
    }
}

/// Adds the tensor's name to a device's error. For damage, the part is the one whose element is not finite there.
fn name_damage(plan: &LinearPlan, parts: &[LinearPart<'_>], error: BackendError) -> ModelError {
    let BackendError::NotFinite { row, column } = error else {
        return ModelError::Backend { place: plan.name.clone(), source: error };
    };
    let is_damaged = |part: &LinearPart<'_>| {
        let weight = &part.weight;
        row < weight.rows && column < weight.columns && !element(weight, row, column).is_finite()
    };
    let damaged = parts.iter().position(is_damaged).unwrap_or(0);
    ModelError::NotFinite { tensor: plan.parts[damaged].weight.name.clone(), row, column }
}

fn element(weight: &WeightView<'_>, row: usize, column: usize) -> f32 {
    let size = weight.data_type.bytes();
    let bytes = &weight.row(row)[column * size..][..size];
    match (weight.data_type, bytes) {
        (DataType::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
        (DataType::F16, &[a, b]) => f16::from_le_bytes([a, b]).to_f32(),
        (DataType::BF16, &[a, b]) => bf16::from_le_bytes([a, b]).to_f32(),
        (DataType::F8(format), &[code]) => format.decode(code),
        _ => unreachable!("an element has the size of its type"),
    }
}
