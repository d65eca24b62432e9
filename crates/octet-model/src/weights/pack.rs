//! Hands linears to the device, one after another, while the next one is read.

use std::panic::resume_unwind;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use half::{bf16, f16};
use octet_backend::{
    Backend, BackendError, DataType, InputScale, LinearPart, LinearSpec, WeightFormat, WeightView,
};

use super::fetch::{Fetched, FetchedPart, PartValues, Pool, Source};
use super::plan::{LinearPlan, PartPlan, Planned, TensorPlan, WeightPlan};
use crate::checkpoint::Bytes;
use crate::layer::Model;
use crate::layer::sites::{OnDevice, Projection, Walk};
use crate::{ModelError, Progress};

/// A model's weights on the device.
pub(crate) struct Packed<B: Backend> {
    /// What stands at its sites.
    pub(crate) model: Model<OnDevice<B>>,
    /// Bytes of all of it on the device.
    pub(crate) bytes: usize,
    /// How its products' weights are kept, each way once.
    pub(crate) forms: Vec<WeightForm>,
}

/// How the weight of a product is kept on the device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WeightForm {
    /// Element type, and what shares a scale.
    pub format: WeightFormat,
    /// How the checkpoint wants the input quantized; of a static scale only that it is one.
    pub input_scale: Option<InputScale>,
}

impl WeightForm {
    /// Stands for every static scale of an input.
    const STATIC: f32 = 1.0 / 256.0;

    fn of(spec: &LinearSpec, part: &LinearPart<'_>) -> Self {
        let input_scale = spec.input_scale.map(|scale| match scale {
            InputScale::Dynamic => InputScale::Dynamic,
            InputScale::Static(_) => InputScale::Static(Self::STATIC),
        });
        let format = WeightFormat { element: spec.data_type, scale: part.scale.shape() };
        Self { format, input_scale }
    }
}

/// Reads and packs everything that is planned: one thread reads and quantizes, ahead by one linear, another packs.
///
/// The caller only reports. A device may bind the thread that calls it to a CPU, and threads inherit that: neither the
/// caller's nor the reader's later threads may end up on that one CPU.
pub(crate) fn pack<B: Backend>(
    backend: &mut B,
    plan: &WeightPlan,
    source: &Source<'_>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Packed<B>, ModelError> {
    let total_bytes = plan.linears().map(LinearPlan::source_bytes).sum();
    thread::scope(|scope| {
        // No room in the channel: at most two linears are in memory besides the packed ones.
        let (sender, fetched) = mpsc::sync_channel(0);
        let (mut pool, returns) = Pool::new();
        scope.spawn(move || {
            for linear in plan.linears() {
                let fetched = source.fetch(linear, &mut pool);
                let is_last = fetched.is_err();
                if sender.send(fetched).is_err() || is_last {
                    return;
                }
            }
        });
        let (done, packed) = mpsc::channel();
        let packer = Packer { backend, source, fetched, returns, done, bytes: 0, forms: Vec::new() };
        let packer = scope.spawn(move || packer.pack(plan));
        let mut loaded_bytes = 0;
        for linear in packed {
            let linear: &LinearPlan = linear;
            loaded_bytes += linear.source_bytes();
            progress(Progress::Weights { tensor: &linear.name, loaded_bytes, total_bytes });
        }
        packer.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

struct Packer<'a, B> {
    backend: &'a mut B,
    source: &'a Source<'a>,
    fetched: Receiver<Result<Fetched, ModelError>>,
    returns: Sender<Bytes>,
    done: Sender<&'a LinearPlan>,
    bytes: usize,
    forms: Vec<WeightForm>,
}

impl<'a, B: Backend> Packer<'a, B> {
    fn pack(mut self, plan: &'a WeightPlan) -> Result<Packed<B>, ModelError> {
        let model = plan.model.walk(&mut self)?;
        Ok(Packed { model, bytes: self.bytes, forms: self.forms })
    }
}

impl<'a, B: Backend> Walk<'a, Planned, OnDevice<B>> for Packer<'a, B> {
    type Error = ModelError;

    fn vector(&mut self, plan: &TensorPlan) -> Result<B::Vector, ModelError> {
        let values = self.source.vector(plan)?;
        self.bytes += values.len() * size_of::<f32>();
        self.backend.load_vector(&values).map_err(ModelError::backend(plan.name.clone()))
    }

    /// Packs the next linear that the reader hands over, which is `plan`'s: both walk the same list.
    fn linear(
        &mut self,
        projection: Option<Projection>,
        plan: &'a LinearPlan,
    ) -> Result<B::Linear, ModelError> {
        let fetched = self.fetched.recv().expect("the reader sends one answer for each linear")?;
        let parts: Vec<_> =
            plan.parts.iter().zip(&fetched.parts).map(|(part, it)| view(plan, part, it)).collect();
        let spec = LinearSpec {
            data_type: plan.data_type,
            usage: plan.usage,
            bias: fetched.bias,
            input_scale: plan.input_scale(fetched.input_scale),
        };
        if let (Some(part), Some(_)) = (parts.first(), projection) {
            let form = WeightForm::of(&spec, part);
            if !self.forms.contains(&form) {
                self.forms.push(form);
            }
        }
        let linear =
            self.backend.load_linear(spec, &parts).map_err(|error| name_damage(plan, &parts, error))?;
        self.bytes += self.backend.linear_bytes(&linear);
        for part in fetched.parts {
            if let PartValues::Stored(bytes) = part.values {
                // The reader may be done already; then the buffer is simply dropped.
                let _ = self.returns.send(bytes);
            }
        }
        // Whoever loads may have stopped listening; the weights are wanted all the same.
        let _ = self.done.send(plan);
        Ok(linear)
    }
}

/// Parts keep their own scales: devices take one for each part, so that nothing needs to be quantized a second time to
/// the largest of them, as vLLM does.
fn view<'v>(plan: &LinearPlan, part: &PartPlan, fetched: &'v FetchedPart) -> LinearPart<'v> {
    let data_type = match fetched.values {
        PartValues::Stored(_) => part.data_type,
        PartValues::Quantized(_) => plan.data_type,
    };
    let PartPlan { rows, columns, .. } = *part;
    let weight =
        WeightView { bytes: fetched.values.as_slice(), data_type, rows, columns, row_stride: columns };
    LinearPart { weight, scale: fetched.shape.of(&fetched.scales) }
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
        (DataType::I8, &[code]) => f32::from(code.cast_signed()),
        _ => unreachable!("an element has the size of its type"),
    }
}
