//! The suite must find what is wrong: the reference with one fault after another.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use octet_backend::{
    Activation, AttentionSpec, Backend, BackendError, Batch, DataType, DeviceInfo, DeviceMemory, Head, Join,
    KvCacheSpec, KvScale, LinearPart, LinearSpec, LinearUse, Norm, RmsNorm, RopeSpec, RotaryAndCache,
    TensorRole, TensorSpec, WeightScale,
};
use octet_conformance::Claims;
use octet_float8::Float8Format;
use octet_reference::{ReferenceBackend, ReferenceKvCache, ReferenceLinear, ReferenceTensor};

/// What is wrong with a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// None: the suite must be content.
    None,
    /// The last column of a linear's input does not count.
    LastProductLost,
    BiasForgotten,
    PostNormForgotten,
    FactorForgotten,
    EmbeddingFactorForgotten,
    LogitFactorForgotten,
    CapForgotten,
    /// More than sixteen rows are multiplied with bf16 inputs, as another kernel might.
    OtherKernelForManyRows,
    /// What is to be kept as f16 is kept as bf16.
    OtherTypeKept,
    /// All rows get the scale of the first.
    FirstScaleForAllRows,
    GateAndUpSwapped,
    OtherActivation,
    EpsilonForgotten,
    ResidualForgotten,
    KeyNormForgotten,
    RotationWithoutMagnitude,
    WindowOneTooLong,
    WindowForgotten,
    OtherLayerRead,
    /// The cache is kept in E5M2 where E4M3 was asked for.
    OtherCacheType,
    CacheScalesForgotten,
    NextRowGathered,
    RowVisitedTwice,
    /// The place of a damaged weight is that of its neighbour.
    DamageMisplaced,
}

struct Broken {
    inner: ReferenceBackend,
    fault: Fault,
    /// Rows of the step.
    rows: usize,
}

impl Broken {
    fn new(fault: Fault) -> Self {
        Self { inner: ReferenceBackend::new(), fault, rows: 0 }
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    /// The input of a linear as the fault leaves it.
    fn changed_input(&mut self, input: &ReferenceTensor) -> Result<ReferenceTensor, BackendError> {
        let mut values = self.inner.read_tensor(input, self.rows)?;
        let columns = values.len() / self.rows;
        if self.has(Fault::LastProductLost) {
            values.iter_mut().skip(columns - 1).step_by(columns).for_each(|value| *value = 0.0);
        }
        if self.has(Fault::OtherKernelForManyRows) && self.rows > 16 {
            values.iter_mut().for_each(|value| *value = octet_reference::round_to(DataType::BF16, *value));
        }
        let spec = TensorSpec { role: TensorRole::Activation, rows: self.rows, columns };
        let mut changed = self.inner.allocate(spec)?;
        self.inner.write_tensor(&mut changed, &values)?;
        Ok(changed)
    }

    fn changed_attention(&self, mut attention: AttentionSpec) -> AttentionSpec {
        match self.fault {
            Fault::WindowOneTooLong => {
                attention.sliding_window = attention.sliding_window.map(|window| window + 1);
            }
            Fault::WindowForgotten => attention.sliding_window = None,
            Fault::CapForgotten => attention.score_cap = None,
            Fault::OtherLayerRead => attention.layer = 0,
            _ => {}
        }
        attention
    }

    fn norm<'a>(&self, operands: RmsNorm<'a, Self>) -> RmsNorm<'a, ReferenceBackend> {
        let RmsNorm { input, norm, output } = operands;
        let mut norm = plain(norm);
        if self.has(Fault::EpsilonForgotten) {
            norm.epsilon = 0.0;
        }
        RmsNorm { input, norm, output }
    }
}

/// The same norm, for the backend inside.
fn plain<'a>(norm: Norm<'a, Broken>) -> Norm<'a, ReferenceBackend> {
    Norm { weight: norm.weight, epsilon: norm.epsilon }
}

impl Backend for Broken {
    type Tensor = ReferenceTensor;
    type Vector = Vec<f32>;
    type Linear = ReferenceLinear;
    type Rope = RopeSpec;
    type KvCache = ReferenceKvCache;

    fn info(&self) -> DeviceInfo {
        self.inner.info()
    }

    fn memory(&self) -> DeviceMemory {
        self.inner.memory()
    }

    fn load_linear(
        &mut self,
        mut spec: LinearSpec,
        parts: &[LinearPart<'_>],
    ) -> Result<ReferenceLinear, BackendError> {
        let mut parts = parts.to_vec();
        let first_scales: Vec<Vec<f32>> = parts
            .iter()
            .map(|part| match part.scale {
                WeightScale::Channel(scales) => vec![scales[0]; scales.len()],
                _ => Vec::new(),
            })
            .collect();
        match self.fault {
            Fault::BiasForgotten => spec.bias = None,
            Fault::OtherTypeKept if spec.data_type == DataType::F16 => spec.data_type = DataType::BF16,
            Fault::GateAndUpSwapped if spec.usage == LinearUse::Gated => parts.reverse(),
            Fault::FirstScaleForAllRows => {
                for (part, scales) in
                    parts.iter_mut().zip(&first_scales).filter(|(_, scales)| !scales.is_empty())
                {
                    part.scale = WeightScale::Channel(scales);
                }
            }
            _ => {}
        }
        let misplaced = self.has(Fault::DamageMisplaced);
        self.inner.load_linear(spec, &parts).map_err(|error| match error {
            BackendError::NotFinite { row, column } if misplaced => {
                BackendError::NotFinite { row, column: column + 1 }
            }
            other => other,
        })
    }

    fn linear_bytes(&self, linear: &ReferenceLinear) -> usize {
        self.inner.linear_bytes(linear)
    }

    fn load_vector(&mut self, values: &[f32]) -> Result<Vec<f32>, BackendError> {
        self.inner.load_vector(values)
    }

    fn load_rope(&mut self, spec: &RopeSpec, max_rows: usize) -> Result<RopeSpec, BackendError> {
        let mut rope = self.inner.load_rope(spec, max_rows)?;
        if self.has(Fault::RotationWithoutMagnitude) {
            rope.magnitude = 1.0;
        }
        Ok(rope)
    }

    fn allocate(&mut self, spec: TensorSpec) -> Result<ReferenceTensor, BackendError> {
        self.inner.allocate(spec)
    }

    fn allocate_kv_cache(&mut self, spec: &KvCacheSpec) -> Result<ReferenceKvCache, BackendError> {
        let mut spec = spec.clone();
        if self.has(Fault::OtherCacheType) && spec.data_type == DataType::F8(Float8Format::E4M3) {
            spec.data_type = DataType::F8(Float8Format::E5M2);
        }
        if self.has(Fault::CacheScalesForgotten) {
            spec.scales.fill(KvScale::ONE);
        }
        self.inner.allocate_kv_cache(&spec)
    }

    fn kv_cache_types(&self) -> &'static [DataType] {
        &[DataType::BF16, DataType::F8(Float8Format::E4M3), DataType::F8(Float8Format::E5M2)]
    }

    fn begin_step(&mut self, batch: &Batch) -> Result<(), BackendError> {
        self.rows = batch.rows();
        self.inner.begin_step(batch)
    }

    fn embed(
        &mut self,
        table: &ReferenceLinear,
        scale: f32,
        output: &mut ReferenceTensor,
    ) -> Result<(), BackendError> {
        let scale = if self.has(Fault::EmbeddingFactorForgotten) { 1.0 } else { scale };
        self.inner.embed(table, scale, output)
    }

    fn rms_norm(&mut self, operands: RmsNorm<'_, Self>) -> Result<(), BackendError> {
        let operands = self.norm(operands);
        self.inner.rms_norm(operands)
    }

    fn linear(
        &mut self,
        weight: &ReferenceLinear,
        input: &ReferenceTensor,
        output: &mut ReferenceTensor,
    ) -> Result<(), BackendError> {
        let input = self.changed_input(input)?;
        self.inner.linear(weight, &input, output)
    }

    fn join(&mut self, operands: Join<'_, Self>) -> Result<(), BackendError> {
        let Join { residual, branch, post_norm, scale, next } = operands;
        if self.has(Fault::ResidualForgotten) {
            let columns = self.inner.read_tensor(residual, 1)?.len();
            self.inner.write_tensor(residual, &vec![0.0; columns])?;
        }
        self.inner.join(Join {
            residual,
            branch,
            post_norm: post_norm.filter(|_| !self.has(Fault::PostNormForgotten)).map(plain),
            scale: if self.has(Fault::FactorForgotten) { 1.0 } else { scale },
            next: next.map(|(norm, output)| (plain(norm), output)),
        })
    }

    fn gated_linear(
        &mut self,
        weight: &ReferenceLinear,
        activation: Activation,
        input: &ReferenceTensor,
        output: &mut ReferenceTensor,
    ) -> Result<(), BackendError> {
        let activation = if self.has(Fault::OtherActivation) { Activation::Silu } else { activation };
        self.inner.gated_linear(weight, activation, input, output)
    }

    fn rotary_and_cache(
        &mut self,
        attention: AttentionSpec,
        operands: RotaryAndCache<'_, Self>,
    ) -> Result<(), BackendError> {
        let RotaryAndCache { qkv, query_norm, key_norm, epsilon, rope, cache } = operands;
        let key_norm = key_norm.filter(|_| !self.has(Fault::KeyNormForgotten));
        let operands = RotaryAndCache { qkv, query_norm, key_norm, epsilon, rope, cache };
        self.inner.rotary_and_cache(attention, operands)
    }

    fn attention(
        &mut self,
        attention: AttentionSpec,
        qkv: &ReferenceTensor,
        cache: &ReferenceKvCache,
        output: &mut ReferenceTensor,
    ) -> Result<(), BackendError> {
        self.inner.attention(self.changed_attention(attention), qkv, cache, output)
    }

    fn gather_rows(
        &mut self,
        selection: Range<usize>,
        input: &ReferenceTensor,
        output: &mut ReferenceTensor,
    ) -> Result<(), BackendError> {
        let next = self.has(Fault::NextRowGathered) && selection.start == 3;
        let selection = if next { selection.start + 1..selection.end + 1 } else { selection };
        self.inner.gather_rows(selection, input, output)
    }

    fn norm_gathered(&mut self, rows: usize, norm: RmsNorm<'_, Self>) -> Result<(), BackendError> {
        let norm = self.norm(norm);
        self.inner.norm_gathered(rows, norm)
    }

    fn logits(
        &mut self,
        rows: usize,
        norm: RmsNorm<'_, Self>,
        head: Head<'_, Self>,
        logits: &mut ReferenceTensor,
    ) -> Result<(), BackendError> {
        let Head { weight, scale, cap } = head;
        let head = Head {
            weight,
            scale: if self.has(Fault::LogitFactorForgotten) { 1.0 } else { scale },
            cap: cap.filter(|_| !self.has(Fault::CapForgotten)),
        };
        let norm = self.norm(norm);
        self.inner.logits(rows, norm, head, logits)
    }

    fn map_logits(
        &mut self,
        logits: &mut ReferenceTensor,
        rows: usize,
        visit: &(dyn Fn(usize, &mut [f32]) + Sync),
    ) -> Result<(), BackendError> {
        self.inner.map_logits(logits, rows, visit)?;
        let again = if self.has(Fault::RowVisitedTwice) { 1 } else { 0 };
        self.inner.map_logits(logits, again, visit)
    }

    fn read_tensor(&mut self, tensor: &ReferenceTensor, rows: usize) -> Result<Vec<f32>, BackendError> {
        self.inner.read_tensor(tensor, rows)
    }

    fn write_tensor(&mut self, tensor: &mut ReferenceTensor, values: &[f32]) -> Result<(), BackendError> {
        self.inner.write_tensor(tensor, values)
    }
}

/// A part of the suite.
type Part = fn(&Claims, &mut Broken);

/// Whether a part of the suite ends with a complaint.
fn complains(part: Part, fault: Fault) -> bool {
    let run = AssertUnwindSafe(|| part(&Claims::f32_activations(), &mut Broken::new(fault)));
    catch_unwind(run).is_err()
}

#[test]
fn every_fault_is_found() {
    let faults: [(Fault, Part); 25] = [
        (Fault::LastProductLost, octet_conformance::linear),
        (Fault::BiasForgotten, octet_conformance::linear),
        (Fault::OtherKernelForManyRows, octet_conformance::linear_invariance),
        (Fault::OtherTypeKept, octet_conformance::kept_weights),
        (Fault::FirstScaleForAllRows, octet_conformance::kept_weights),
        (Fault::GateAndUpSwapped, octet_conformance::gated_linear),
        (Fault::OtherActivation, octet_conformance::gated_linear),
        (Fault::EpsilonForgotten, octet_conformance::rms_norm),
        (Fault::ResidualForgotten, octet_conformance::join),
        (Fault::PostNormForgotten, octet_conformance::join),
        (Fault::FactorForgotten, octet_conformance::join),
        (Fault::EmbeddingFactorForgotten, octet_conformance::embed),
        (Fault::LogitFactorForgotten, octet_conformance::logits),
        (Fault::CapForgotten, octet_conformance::logits),
        (Fault::CapForgotten, octet_conformance::attention),
        (Fault::KeyNormForgotten, octet_conformance::rotary),
        (Fault::RotationWithoutMagnitude, octet_conformance::rotary),
        (Fault::WindowOneTooLong, octet_conformance::attention),
        (Fault::WindowForgotten, octet_conformance::attention),
        (Fault::OtherLayerRead, octet_conformance::attention),
        (Fault::OtherCacheType, octet_conformance::stored_values),
        (Fault::CacheScalesForgotten, octet_conformance::stored_values),
        (Fault::NextRowGathered, octet_conformance::logits),
        (Fault::RowVisitedTwice, octet_conformance::logits),
        (Fault::DamageMisplaced, octet_conformance::errors),
    ];
    for (fault, part) in faults {
        assert!(complains(part, fault), "{fault:?} was not found");
    }
}

#[test]
fn the_wrapper_itself_is_right() {
    let parts: [Part; 4] = [
        octet_conformance::kept_weights,
        octet_conformance::stored_values,
        octet_conformance::logits,
        octet_conformance::errors,
    ];
    for part in parts {
        assert!(!complains(part, Fault::None));
    }
}
