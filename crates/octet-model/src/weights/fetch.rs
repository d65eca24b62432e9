//! Brings a linear into memory as the device takes it: read from files or made up, and quantized if asked for.

use std::sync::mpsc::{Receiver, Sender};

use octet_backend::{DataType, ScaleShape};

use super::plan::{LinearPlan, PartPlan, TensorPlan};
use crate::ModelError;
use crate::checkpoint::{Bytes, Checkpoint, Dummy};
use crate::families::NormWeights;
use crate::layer::sites::VectorValues;
use crate::quantization::{NotFinite, OnlineQuantization, Quantized, Values, quantize};

/// Where bytes come from.
#[derive(Debug)]
pub(crate) enum Source<'a> {
    /// Files.
    Checkpoint(&'a Checkpoint),
    /// A generator for each element type that the plan has.
    Dummy(Vec<(DataType, Dummy)>),
}

/// A part in memory.
#[derive(Debug)]
pub(super) struct FetchedPart {
    /// The values.
    pub(super) values: PartValues,
    /// Their scales; empty if they are not FP8.
    pub(super) scales: Vec<f32>,
    /// Which values share a scale.
    pub(super) shape: ScaleShape,
}

/// A part's values, `[rows, columns]`.
#[derive(Debug)]
pub(super) enum PartValues {
    /// As the checkpoint has them.
    Stored(Bytes),
    /// Codes that were made of them.
    Quantized(Vec<u8>),
}

impl PartValues {
    pub(super) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Stored(bytes) => bytes.as_slice(),
            Self::Quantized(codes) => codes,
        }
    }
}

/// A linear in memory.
#[derive(Debug)]
pub(super) struct Fetched {
    /// In the plan's order.
    pub(super) parts: Vec<FetchedPart>,
    /// Of all rows.
    pub(super) bias: Option<Vec<f32>>,
    /// The largest of the parts', as vLLM has it.
    pub(super) input_scale: Option<f32>,
}

impl<'a> Source<'a> {
    /// The source of a model's weights; without a checkpoint they are dummies of the types that `linears` have, drawn
    /// from `dummy_seed`.
    pub(crate) fn new<'p>(
        checkpoint: Option<&'a Checkpoint>,
        linears: impl Iterator<Item = &'p LinearPlan>,
        dummy_seed: u64,
    ) -> Self {
        if let Some(checkpoint) = checkpoint {
            return Self::Checkpoint(checkpoint);
        }
        let mut dummies: Vec<(DataType, Dummy)> = Vec::new();
        for part in linears.flat_map(|linear| &linear.parts) {
            if !dummies.iter().any(|(data_type, _)| *data_type == part.data_type) {
                dummies.push((part.data_type, Dummy::new(part.data_type, dummy_seed)));
            }
        }
        Self::Dummy(dummies)
    }

    /// Reads a linear, into used buffers where they fit, and quantizes it if that is planned.
    pub(super) fn fetch(&self, linear: &LinearPlan, pool: &mut Pool) -> Result<Fetched, ModelError> {
        let mut fetched =
            Fetched { parts: Vec::with_capacity(linear.parts.len()), bias: None, input_scale: None };
        let mut stored = Vec::with_capacity(linear.parts.len());
        for part in &linear.parts {
            let mut bytes = pool.take(part.data_type.row_bytes(part.rows * part.columns));
            self.fill(part, bytes.as_mut_slice())?;
            stored.push(bytes);
            if let Some(bias) = &part.bias {
                let values = self.numbers(bias, 0.0)?;
                check_finite(&bias.name, &values)?;
                fetched.bias.get_or_insert_default().extend(values);
            }
            if let Some(scale) = &part.input_scale {
                let value = self.numbers(scale, 1.0)?[0];
                check_scales(&scale.name, &[value], ScaleShape::Tensor)?;
                fetched.input_scale = Some(fetched.input_scale.map_or(value, |other: f32| other.max(value)));
            }
        }
        fetched.parts = match linear.online {
            Some(how) => quantize_parts(linear, stored, how, pool)?,
            None => {
                let parts = linear.parts.iter().zip(stored);
                parts.map(|(part, bytes)| self.stored_part(part, bytes)).collect::<Result<_, _>>()?
            }
        };
        Ok(fetched)
    }

    fn stored_part(&self, part: &PartPlan, bytes: Bytes) -> Result<FetchedPart, ModelError> {
        let shape = part.scale.as_ref().map_or(ScaleShape::None, |(_, shape)| *shape);
        Ok(FetchedPart { values: PartValues::Stored(bytes), scales: self.scales(part)?, shape })
    }

    /// Reads a norm's weight.
    pub(super) fn vector(&self, plan: &TensorPlan) -> Result<Vec<f32>, ModelError> {
        let offset = match plan.values {
            VectorValues::Constant(value) => return Ok(vec![value; plan.elements]),
            VectorValues::Stored(NormWeights::Stored) => 0.0,
            VectorValues::Stored(NormWeights::OnePlusStored) => 1.0,
        };
        let mut values = self.numbers(plan, 1.0 - offset)?;
        check_finite(&plan.name, &values)?;
        values.iter_mut().for_each(|value| *value += offset);
        Ok(values)
    }

    fn fill(&self, part: &PartPlan, target: &mut [u8]) -> Result<(), ModelError> {
        match (self, &part.weight.stored) {
            (Self::Checkpoint(checkpoint), Some(stored)) => checkpoint.read(stored, target),
            (Self::Checkpoint(_), None) => unreachable!("a plan with missing tensors is refused"),
            (Self::Dummy(dummies), _) => {
                let dummy = dummies.iter().find(|(data_type, _)| *data_type == part.data_type);
                let (_, dummy) = dummy.expect("a generator was made for every type in the plan");
                dummy.fill(&part.weight.name, part.columns, target);
                Ok(())
            }
        }
    }

    fn scales(&self, part: &PartPlan) -> Result<Vec<f32>, ModelError> {
        let Some((plan, granularity)) = &part.scale else { return Ok(Vec::new()) };
        let scales = self.numbers(plan, Dummy::SCALE)?;
        check_scales(&plan.name, &scales, *granularity)?;
        Ok(scales)
    }

    fn numbers(&self, plan: &TensorPlan, dummy: f32) -> Result<Vec<f32>, ModelError> {
        match (self, &plan.stored) {
            (Self::Checkpoint(checkpoint), Some(stored)) => checkpoint.read_numbers(&plan.name, stored),
            _ => Ok(vec![dummy; plan.elements]),
        }
    }
}

/// Quantizes a linear's parts together and gives their buffers back.
fn quantize_parts(
    linear: &LinearPlan,
    stored: Vec<Bytes>,
    how: OnlineQuantization,
    pool: &mut Pool,
) -> Result<Vec<FetchedPart>, ModelError> {
    let mut values = Vec::with_capacity(stored.len());
    for (part, bytes) in linear.parts.iter().zip(&stored) {
        let PartPlan { data_type, rows, columns, .. } = *part;
        values.push(Values { bytes: bytes.as_slice(), data_type, rows, columns });
    }
    let quantized = quantize(&values, how).map_err(|NotFinite { part, row, column }| {
        ModelError::NotFinite { tensor: linear.parts[part].weight.name.clone(), row, column }
    })?;
    stored.into_iter().for_each(|bytes| pool.give_back(bytes));
    let shape = how.granularity();
    let part =
        |it: Quantized| FetchedPart { values: PartValues::Quantized(it.codes), scales: it.scales, shape };
    Ok(quantized.into_iter().map(part).collect())
}

fn check_finite(name: &str, values: &[f32]) -> Result<(), ModelError> {
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(column) => Err(ModelError::NotFinite { tensor: name.to_owned(), row: 0, column }),
    }
}

/// A channel or block of zeros may have scale 0; a whole tensor of zeros is damage.
fn check_scales(name: &str, scales: &[f32], granularity: ScaleShape) -> Result<(), ModelError> {
    let is_fine = |scale: &f32| {
        scale.is_finite() && (*scale > 0.0 || (*scale == 0.0 && granularity != ScaleShape::Tensor))
    };
    match scales.iter().position(|scale| !is_fine(scale)) {
        None => Ok(()),
        Some(index) => Err(ModelError::Scale { tensor: name.to_owned(), index, value: scales[index] }),
    }
}

/// Buffers that come back from packing, so that pages are not returned and faulted in again for each tensor.
#[derive(Debug)]
pub(super) struct Pool {
    returned: Receiver<Bytes>,
    free: Vec<Bytes>,
}

impl Pool {
    /// Larger buffers are given back to the system at once.
    const LARGEST_KEPT_BYTES: usize = 128 << 20;

    /// A pool and the way back into it.
    pub(super) fn new() -> (Self, Sender<Bytes>) {
        let (sender, returned) = std::sync::mpsc::channel();
        (Self { returned, free: Vec::new() }, sender)
    }

    fn give_back(&mut self, bytes: Bytes) {
        if bytes.capacity() <= Self::LARGEST_KEPT_BYTES {
            self.free.push(bytes);
        }
    }

    fn take(&mut self, length: usize) -> Bytes {
        while let Ok(bytes) = self.returned.try_recv() {
            self.give_back(bytes);
        }
        let fitting = self.free.iter().position(|it| it.capacity() >= length);
        match fitting {
            Some(index) => self.free.swap_remove(index).reuse(length),
            None => {
                // None of those kept was large enough: they would only add up.
                self.free.clear();
                Bytes::new(length)
            }
        }
    }
}
