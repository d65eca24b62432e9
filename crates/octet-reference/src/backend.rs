//! The trait, operation by operation.

use std::ops::Range;

use octet_backend::{
    Activation, AttentionSpec, Backend, BackendError, Batch, DataType, DeviceInfo, DeviceMemory, Head, Join,
    KvCacheSpec, LinearPart, LinearSpec, LinearUse, Norm, RmsNorm, RopeSpec, RotaryAndCache, TensorSpec,
    check_operand,
};
use octet_float8::Float8Format;

use crate::attention::{self, HeadOptions, capped};
use crate::kv_cache::ReferenceKvCache;
use crate::memory;
use crate::weight::ReferenceLinear;

/// A workspace tensor in host memory, row-major.
#[derive(Debug)]
pub struct ReferenceTensor {
    rows: usize,
    columns: usize,
    values: Vec<f32>,
}

impl ReferenceTensor {
    fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.columns..(row + 1) * self.columns]
    }

    fn row_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.values[row * self.columns..(row + 1) * self.columns]
    }

    /// Holds an operand to its operation.
    #[track_caller]
    fn check(&self, what: &str, rows: usize, columns: usize) {
        check_operand(what, [self.rows, self.columns], rows, columns);
    }
}

/// The scalar backend: see the crate's documentation.
#[derive(Debug, Default)]
pub struct ReferenceBackend {
    /// The step's batch, copied by `begin_step`.
    batch: Batch,
    /// Rows of the largest workspace tensor: what a batch may have.
    workspace_rows: usize,
    /// Whether inputs are quantized where the weight's specification has a scale for them.
    quantizes_inputs: bool,
}

impl ReferenceBackend {
    /// A backend with nothing loaded.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A backend that stands for devices that multiply FP8 by FP8: it quantizes the inputs of linears whose
    /// specification says how, and multiplies what the codes mean.
    #[must_use]
    pub fn with_float8_inputs() -> Self {
        Self { quantizes_inputs: true, ..Self::default() }
    }

    fn normalise(rows: usize, operands: RmsNorm<'_, Self>) {
        let RmsNorm { input, norm: Norm { weight, epsilon }, output } = operands;
        input.check("the norm's input", rows, weight.len());
        output.check("the norm's output", rows, weight.len());
        for row in 0..rows {
            attention::rms_norm(input.row(row), weight, epsilon, output.row_mut(row));
        }
    }

    fn multiply(
        rows: usize,
        weight: &ReferenceLinear,
        input: &ReferenceTensor,
        output: &mut ReferenceTensor,
    ) {
        assert!(
            matches!(weight.usage, LinearUse::Multiply | LinearUse::EmbedAndMultiply),
            "a weight loaded as {:?} cannot be multiplied by",
            weight.usage
        );
        input.check("the linear's input", rows, weight.columns);
        output.check("the linear's output", rows, weight.rows);
        for row in 0..rows {
            let input = weight.as_read(input.row(row));
            for column in 0..weight.rows {
                let product = dot(&input, weight.row(column)) + weight.bias_of(column);
                output.row_mut(row)[column] = product as f32;
            }
        }
    }
}

fn dot(left: &[f32], right: &[f32]) -> f64 {
    left.iter().zip(right).map(|(&left, &right)| f64::from(left) * f64::from(right)).sum()
}

/// The activation of a gate.
fn activate(activation: Activation, gate: f64) -> f64 {
    match activation {
        Activation::Silu => gate / (1.0 + (-gate).exp()),
        // Hendrycks and Gimpel, "Gaussian Error Linear Units": the approximation by tanh.
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (gate + 0.044_715 * gate.powi(3));
            0.5 * gate * (1.0 + inner.tanh())
        }
    }
}

impl Backend for ReferenceBackend {
    type Tensor = ReferenceTensor;
    type Vector = Vec<f32>;
    type Linear = ReferenceLinear;
    type Rope = RopeSpec;
    type KvCache = ReferenceKvCache;

    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            kind: "reference",
            name: "scalar reference".to_owned(),
            architecture: "scalar".to_owned(),
            units: 1,
        }
    }

    fn memory(&self) -> DeviceMemory {
        memory::of_machine()
    }

    fn load_linear(
        &mut self,
        spec: LinearSpec,
        parts: &[LinearPart<'_>],
    ) -> Result<ReferenceLinear, BackendError> {
        let quantizes = self.quantizes_inputs;
        let linear = ReferenceLinear::load(spec, parts)?;
        Ok(if quantizes { linear } else { linear.without_input_scale() })
    }

    fn linear_bytes(&self, linear: &ReferenceLinear) -> usize {
        size_of_val(&linear.values[..]) + linear.bias.as_deref().map_or(0, size_of_val)
    }

    fn load_vector(&mut self, values: &[f32]) -> Result<Vec<f32>, BackendError> {
        Ok(values.to_vec())
    }

    fn load_rope(&mut self, spec: &RopeSpec, _max_rows: usize) -> Result<RopeSpec, BackendError> {
        Ok(spec.clone())
    }

    fn allocate(&mut self, spec: TensorSpec) -> Result<ReferenceTensor, BackendError> {
        let values = memory::filled("workspace", spec.rows.checked_mul(spec.columns), 0.0)?;
        self.workspace_rows = self.workspace_rows.max(spec.rows);
        Ok(ReferenceTensor { rows: spec.rows, columns: spec.columns, values })
    }

    fn allocate_kv_cache(&mut self, spec: &KvCacheSpec) -> Result<ReferenceKvCache, BackendError> {
        ReferenceKvCache::allocate(spec)
    }

    fn kv_cache_types(&self) -> &'static [DataType] {
        &[
            DataType::F32,
            DataType::F16,
            DataType::BF16,
            DataType::F8(Float8Format::E4M3),
            DataType::F8(Float8Format::E4M3Fnuz),
            DataType::F8(Float8Format::E5M2),
            DataType::F8(Float8Format::E5M2Fnuz),
        ]
    }

    fn begin_step(&mut self, batch: &Batch) -> Result<(), BackendError> {
        BackendError::check_limit("the batch's number of rows", batch.rows(), self.workspace_rows)?;
        batch.check();
        self.batch.copy_from(batch);
        Ok(())
    }

    fn embed(
        &mut self,
        table: &ReferenceLinear,
        scale: f32,
        output: &mut ReferenceTensor,
    ) -> Result<(), BackendError> {
        assert!(
            matches!(table.usage, LinearUse::Embed | LinearUse::EmbedAndMultiply),
            "a weight loaded as {:?} is no table",
            table.usage
        );
        output.check("the embedding's output", self.batch.rows(), table.columns);
        for (row, &token) in self.batch.tokens.iter().enumerate() {
            let token = token as usize;
            if token >= table.rows {
                return Err(BackendError::Limit { what: "a token id", value: token, limit: table.rows - 1 });
            }
            for (output, value) in output.row_mut(row).iter_mut().zip(table.row(token)) {
                *output = value * scale;
            }
        }
        Ok(())
    }

    fn rms_norm(&mut self, operands: RmsNorm<'_, Self>) -> Result<(), BackendError> {
        Self::normalise(self.batch.rows(), operands);
        Ok(())
    }

    fn join(&mut self, operands: Join<'_, Self>) -> Result<(), BackendError> {
        let Join { residual, branch, post_norm, scale, next } = operands;
        let (rows, columns) = (self.batch.rows(), residual.columns);
        branch.check("the branch", rows, columns);
        if let Some(norm) = post_norm {
            check_operand("a branch's norm", [1, norm.weight.len()], 1, columns);
        }
        residual.check("the residual", rows, branch.columns);
        let mut normed = vec![0.0; columns];
        for row in 0..rows {
            let branch = match post_norm {
                Some(Norm { weight, epsilon }) => {
                    attention::rms_norm(branch.row(row), weight, epsilon, &mut normed);
                    &normed
                }
                None => branch.row(row),
            };
            for (sum, &value) in residual.row_mut(row).iter_mut().zip(branch) {
                *sum = (f64::from(*sum) + f64::from(scale) * f64::from(value)) as f32;
            }
        }
        if let Some((norm, output)) = next {
            Self::normalise(rows, RmsNorm { input: residual, norm, output });
        }
        Ok(())
    }

    fn linear(
        &mut self,
        weight: &ReferenceLinear,
        input: &ReferenceTensor,
        output: &mut ReferenceTensor,
    ) -> Result<(), BackendError> {
        Self::multiply(self.batch.rows(), weight, input, output);
        Ok(())
    }

    fn gated_linear(
        &mut self,
        weight: &ReferenceLinear,
        activation: Activation,
        input: &ReferenceTensor,
        output: &mut ReferenceTensor,
    ) -> Result<(), BackendError> {
        assert_eq!(weight.usage, LinearUse::Gated, "gate and up must be loaded as one gated weight");
        let features = weight.rows / 2;
        input.check("the gated linear's input", self.batch.rows(), weight.columns);
        output.check("the gated linear's output", self.batch.rows(), features);
        for row in 0..self.batch.rows() {
            let input = weight.as_read(input.row(row));
            for (column, output) in output.row_mut(row).iter_mut().enumerate() {
                let gate = dot(&input, weight.row(column)) + weight.bias_of(column);
                let up = dot(&input, weight.row(features + column)) + weight.bias_of(features + column);
                *output = (activate(activation, gate) * up) as f32;
            }
        }
        Ok(())
    }

    fn rotary_and_cache(
        &mut self,
        attention: AttentionSpec,
        operands: RotaryAndCache<'_, Self>,
    ) -> Result<(), BackendError> {
        let RotaryAndCache { qkv, query_norm, key_norm, epsilon, rope, cache } = operands;
        let heads = attention.query_heads + 2 * cache.spec.kv_heads;
        qkv.check("queries, keys and values", self.batch.rows(), heads * cache.spec.head_dim);
        let options = HeadOptions {
            query_norm: query_norm.map(Vec::as_slice),
            key_norm: key_norm.map(Vec::as_slice),
            epsilon,
            rope,
        };
        attention::rotary_and_cache(&self.batch, attention, &options, &mut qkv.values, cache)
    }

    fn attention(
        &mut self,
        attention: AttentionSpec,
        qkv: &ReferenceTensor,
        cache: &ReferenceKvCache,
        output: &mut ReferenceTensor,
    ) -> Result<(), BackendError> {
        let KvCacheSpec { kv_heads, head_dim, .. } = cache.spec;
        let rows = self.batch.rows();
        qkv.check("queries, keys and values", rows, (attention.query_heads + 2 * kv_heads) * head_dim);
        output.check("attention's output", rows, attention.query_heads * head_dim);
        attention::attend(&self.batch, attention, &qkv.values, cache, &mut output.values)
    }

    fn gather_rows(
        &mut self,
        selection: Range<usize>,
        input: &ReferenceTensor,
        output: &mut ReferenceTensor,
    ) -> Result<(), BackendError> {
        input.check("the rows to gather from", self.batch.rows(), output.columns);
        output.check("the gathered rows", selection.len(), input.columns);
        for (row, &source) in self.batch.output_rows[selection].iter().enumerate() {
            output.row_mut(row).copy_from_slice(input.row(source as usize));
        }
        Ok(())
    }

    fn norm_gathered(&mut self, rows: usize, norm: RmsNorm<'_, Self>) -> Result<(), BackendError> {
        Self::normalise(rows, norm);
        Ok(())
    }

    fn logits(
        &mut self,
        rows: usize,
        norm: RmsNorm<'_, Self>,
        head: Head<'_, Self>,
        logits: &mut ReferenceTensor,
    ) -> Result<(), BackendError> {
        let RmsNorm { input, norm, output } = norm;
        Self::normalise(rows, RmsNorm { input, norm, output });
        Self::multiply(rows, head.weight, output, logits);
        for row in 0..rows {
            for logit in logits.row_mut(row) {
                *logit = capped(f64::from(*logit) * f64::from(head.scale), head.cap) as f32;
            }
        }
        Ok(())
    }

    fn map_logits(
        &mut self,
        logits: &mut ReferenceTensor,
        rows: usize,
        visit: &(dyn Fn(usize, &mut [f32]) + Sync),
    ) -> Result<(), BackendError> {
        for row in 0..rows {
            visit(row, logits.row_mut(row));
        }
        Ok(())
    }

    fn read_tensor(&mut self, tensor: &ReferenceTensor, rows: usize) -> Result<Vec<f32>, BackendError> {
        tensor.check("the tensor to read", rows, tensor.columns);
        Ok(tensor.values[..rows * tensor.columns].to_vec())
    }

    fn write_tensor(&mut self, tensor: &mut ReferenceTensor, values: &[f32]) -> Result<(), BackendError> {
        BackendError::check_limit("the number of values", values.len(), tensor.values.len())?;
        tensor.values[..values.len()].copy_from_slice(values);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
