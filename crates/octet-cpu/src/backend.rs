//! [`CpuBackend`]: the operations of the seam, carried out by the kernels.

use std::fs;
use std::ops::Range;

use octet_backend::{
    Activation, AttentionSpec, Backend, BackendError, Batch, DataType, DeviceInfo, DeviceMemory, Head, Join,
    KvCacheSpec, LinearPart, LinearSpec, Norm, RmsNorm, RopeSpec, RotaryAndCache, TensorSpec, check_operand,
};

use crate::isa::Isa;
use crate::kernels::attention::{Attention, AttentionCall};
use crate::kernels::cache::CpuKvCache;
use crate::kernels::embed::embed;
use crate::kernels::head::{FinishLogits, finish_logits};
use crate::kernels::linear::{self, LinearContext, LinearScratch, PackedLinear, Schedule};
use crate::kernels::norm::{self, JoinOperands, NormOf, NormOperands};
use crate::kernels::rotary::{RopeTable, RotaryOperands, rotary_and_cache};
use crate::kernels::rows::SharedRows;
use crate::kernels::{for_rows, storage};
use crate::memory::{AlignedBuffer, device_memory};
use crate::tuning::{Choices, FamilyId, problem_of};
use crate::{CpuError, Pool, PoolOptions, Roofline};

/// How to start the backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuOptions {
    /// How many threads, and where.
    pub threads: PoolOptions,
    /// Name of an instruction set to use instead of the best one; see [`crate::ISA_VARIABLE`].
    pub isa: Option<String>,
}

/// A workspace matrix, `[rows, columns]`, in `f32`.
pub struct CpuTensor {
    rows: usize,
    columns: usize,
    values: AlignedBuffer<f32>,
}

impl CpuTensor {
    /// Holds an operand to its operation.
    #[track_caller]
    pub(crate) fn check(&self, what: &str, rows: usize, columns: usize) {
        check_operand(what, [self.rows, self.columns], rows, columns);
    }

    /// All values, row-major.
    pub(crate) fn values(&self) -> &[f32] {
        &self.values
    }

    /// All values, to be changed.
    pub(crate) fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }
}

/// A parameter vector.
pub struct CpuVector(AlignedBuffer<f32>);

/// A packed weight, and which choices of schedules are its own.
pub struct CpuLinear(PackedLinear, FamilyId);

impl CpuLinear {
    pub(crate) fn packed(&self) -> &PackedLinear {
        &self.0
    }

    pub(crate) fn family(&self) -> FamilyId {
        self.1
    }
}

/// A rotary embedding: its table's number in the backend, which computes angles once a step for all layers.
pub struct CpuRope(usize);

/// The backend: workers, an instruction set, and the working memory of kernels.
pub struct CpuBackend {
    pool: Pool,
    isa: Isa,
    /// The step's batch, copied by `begin_step`.
    batch: Batch,
    /// The largest block id of the batch.
    last_block: u32,
    /// Counts `begin_step`, so that what layers share is computed once a step.
    step: u64,
    /// Rows of the largest workspace tensor: what a batch may have.
    workspace_rows: usize,
    ropes: Vec<RopeTable>,
    linear_scratch: LinearScratch,
    attention: Attention,
    /// What tuning chose.
    pub(crate) choices: Choices,
    /// What the machine can do, once it was asked for.
    pub(crate) floor: Option<Roofline>,
}

/// Weight and epsilon.
fn norm_of<'a>(norm: Norm<'a, CpuBackend>) -> NormOf<'a> {
    (&norm.weight.0, norm.epsilon)
}

impl CpuBackend {
    /// Starts the workers and chooses the instruction set.
    ///
    /// # Errors
    /// Options that this machine cannot follow.
    pub fn new(options: &CpuOptions) -> Result<Self, CpuError> {
        let isa = match &options.isa {
            Some(name) => Isa::choose(Some(name))?,
            None => Isa::from_environment()?,
        };
        let pool = Pool::new(&options.threads)?;
        Ok(Self {
            linear_scratch: LinearScratch::new(&pool)?,
            attention: Attention::new(pool.workers())?,
            pool,
            isa,
            batch: Batch::default(),
            last_block: 0,
            step: 0,
            workspace_rows: 0,
            ropes: Vec::new(),
            choices: Choices::default(),
            floor: None,
        })
    }

    /// The workers, for what else must be done in parallel between steps.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Measures for about a second what this machine's memory and multipliers can do at best.
    ///
    /// # Errors
    /// No memory.
    pub fn measure_roofline(&self) -> Result<Roofline, BackendError> {
        Roofline::measure(&self.pool, self.isa)
    }

    /// The instruction set.
    pub(crate) fn isa(&self) -> Isa {
        self.isa
    }

    /// What a product runs on, by a schedule or by its default.
    pub(crate) fn linear_context(&mut self, schedule: Option<Schedule>) -> LinearContext<'_> {
        LinearContext { pool: &self.pool, isa: self.isa, scratch: &mut self.linear_scratch, schedule }
    }

    /// Normalises the first `rows` rows.
    fn normalise(&self, rows: usize, operands: RmsNorm<'_, Self>) {
        let RmsNorm { input, norm, output } = operands;
        let columns = norm.weight.0.len();
        input.check("the norm's input", rows, columns);
        output.check("the norm's output", rows, columns);
        let operands = NormOperands { input: &input.values, norm: norm_of(norm), output: &mut output.values };
        norm::rms_norm(&self.pool, self.isa, rows, operands);
    }

    /// Multiplies the first `rows` rows.
    fn multiply(
        &mut self,
        rows: usize,
        weight: &CpuLinear,
        input: &CpuTensor,
        output: &mut CpuTensor,
    ) -> Result<(), BackendError> {
        let schedule = self.choices.get(weight.1, rows);
        let weight = &weight.0;
        input.check("the linear's input", rows, weight.columns());
        output.check("the linear's output", rows, weight.output_columns());
        let (input, output) = (&input.values, &mut output.values);
        linear::linear(&mut self.linear_context(schedule), weight, input, rows, output)
    }

    /// Holds queries, keys and values to the cache that they meet, and the batch's blocks too.
    fn check_heads(
        &self,
        attention: AttentionSpec,
        qkv: &CpuTensor,
        cache: &CpuKvCache,
    ) -> Result<(), BackendError> {
        let (heads, kv_heads) = (attention.query_heads, cache.layout.kv_heads);
        assert!(heads.is_multiple_of(kv_heads), "{heads} query heads cannot share {kv_heads} KV heads");
        assert!(attention.layer < cache.spec.layers, "layer {} of too small a cache", attention.layer);
        let columns = (heads + 2 * kv_heads) * cache.layout.head_dim;
        qkv.check("queries, keys and values", self.batch.rows(), columns);
        for sequence in &self.batch.sequences {
            let tokens = sequence.computed + sequence.rows;
            let room = sequence.blocks * cache.layout.block_size;
            assert!(tokens <= room, "{tokens} tokens of a sequence with blocks for {room}");
        }
        cache.check_block(self.last_block)
    }
}

/// The processor's name as its maker gives it.
fn processor_name() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

impl Backend for CpuBackend {
    type Tensor = CpuTensor;
    type Vector = CpuVector;
    type Linear = CpuLinear;
    type Rope = CpuRope;
    type KvCache = CpuKvCache;

    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            kind: "cpu",
            name: processor_name(),
            architecture: self.isa.name().to_owned(),
            units: self.pool.workers(),
        }
    }

    fn memory(&self) -> DeviceMemory {
        device_memory()
    }

    fn load_linear(&mut self, spec: LinearSpec, parts: &[LinearPart<'_>]) -> Result<CpuLinear, BackendError> {
        let packed = PackedLinear::pack(&self.pool, self.isa, &spec, parts)?;
        Ok(CpuLinear(packed, self.choices.family(&problem_of(&spec, parts))))
    }

    fn linear_bytes(&self, linear: &CpuLinear) -> usize {
        linear.0.bytes()
    }

    fn load_vector(&mut self, values: &[f32]) -> Result<CpuVector, BackendError> {
        let mut vector = AlignedBuffer::zeroed(values.len())?;
        vector.copy_from_slice(values);
        Ok(CpuVector(vector))
    }

    fn load_rope(&mut self, spec: &RopeSpec, max_rows: usize) -> Result<CpuRope, BackendError> {
        self.ropes.push(RopeTable::new(spec, max_rows));
        Ok(CpuRope(self.ropes.len() - 1))
    }

    fn allocate(&mut self, spec: TensorSpec) -> Result<CpuTensor, BackendError> {
        let elements = spec
            .rows
            .checked_mul(spec.columns)
            .ok_or(BackendError::OutOfMemory { what: "a workspace tensor", requested_bytes: usize::MAX })?;
        let values = AlignedBuffer::zeroed(elements)?;
        self.workspace_rows = self.workspace_rows.max(spec.rows);
        Ok(CpuTensor { rows: spec.rows, columns: spec.columns, values })
    }

    fn allocate_kv_cache(&mut self, spec: &KvCacheSpec) -> Result<CpuKvCache, BackendError> {
        let cache = CpuKvCache::allocate(spec)?;
        self.attention.reserve(cache.layout)?;
        Ok(cache)
    }

    fn kv_cache_types(&self) -> &'static [DataType] {
        storage::TYPES
    }

    fn begin_step(&mut self, batch: &Batch) -> Result<(), BackendError> {
        BackendError::check_limit("the batch's number of rows", batch.rows(), self.workspace_rows)?;
        batch.check();
        self.batch.copy_from(batch);
        self.last_block = batch.block_tables.iter().copied().max().unwrap_or(0);
        self.step += 1;
        Ok(())
    }

    fn embed(&mut self, table: &CpuLinear, scale: f32, output: &mut CpuTensor) -> Result<(), BackendError> {
        output.check("the embedding's output", self.batch.rows(), table.0.columns());
        embed(&self.pool, &table.0, &self.batch.tokens, scale, &mut output.values)
    }

    fn rms_norm(&mut self, operands: RmsNorm<'_, Self>) -> Result<(), BackendError> {
        self.normalise(self.batch.rows(), operands);
        Ok(())
    }

    fn join(&mut self, operands: Join<'_, Self>) -> Result<(), BackendError> {
        let Join { residual, branch, post_norm, scale, mut next } = operands;
        let (rows, columns) = (self.batch.rows(), residual.columns);
        residual.check("the residual", rows, columns);
        branch.check("the branch", rows, columns);
        for norm in post_norm.iter().chain(next.iter().map(|(norm, _)| norm)) {
            check_operand("a join's norm", [1, norm.weight.0.len()], 1, columns);
        }
        if let Some((_, output)) = &next {
            output.check("the norm's output", rows, columns);
        }
        let operands = JoinOperands {
            columns,
            residual: &mut residual.values,
            branch: &branch.values,
            post_norm: post_norm.map(norm_of),
            scale,
            next: next.as_mut().map(|(norm, output)| (norm_of(*norm), &mut *output.values)),
        };
        norm::join(&self.pool, self.isa, rows, operands);
        Ok(())
    }

    fn linear(
        &mut self,
        weight: &CpuLinear,
        input: &CpuTensor,
        output: &mut CpuTensor,
    ) -> Result<(), BackendError> {
        self.multiply(self.batch.rows(), weight, input, output)
    }

    fn gated_linear(
        &mut self,
        weight: &CpuLinear,
        activation: Activation,
        input: &CpuTensor,
        output: &mut CpuTensor,
    ) -> Result<(), BackendError> {
        let rows = self.batch.rows();
        let schedule = self.choices.get(weight.1, rows);
        let weight = &weight.0;
        input.check("the gated linear's input", rows, weight.columns());
        output.check("the gated linear's output", rows, weight.output_columns());
        let (input, output) = (&input.values, &mut output.values);
        linear::gated_linear(&mut self.linear_context(schedule), weight, activation, input, rows, output)
    }

    fn rotary_and_cache(
        &mut self,
        attention: AttentionSpec,
        operands: RotaryAndCache<'_, Self>,
    ) -> Result<(), BackendError> {
        let RotaryAndCache { qkv, query_norm, key_norm, epsilon, rope, cache } = operands;
        self.check_heads(attention, qkv, cache)?;
        let head_dim = cache.layout.head_dim;
        let rope = &mut self.ropes[rope.0];
        assert!(2 * rope.pairs() <= head_dim, "rotation of {} pairs in heads of {head_dim}", rope.pairs());
        let norms = [query_norm, key_norm].map(|norm| norm.map(|norm| &*norm.0));
        for (norm, heads) in norms.iter().zip([attention.query_heads, cache.layout.kv_heads]) {
            let fits = norm.is_none_or(|norm| [head_dim, heads * head_dim].contains(&norm.len()));
            assert!(fits, "a norm has the size of a head, or of all heads of its side");
        }
        rope.prepare(&self.pool, &self.batch, self.step);
        let operands = RotaryOperands {
            batch: &self.batch,
            layer: attention.layer,
            query_heads: attention.query_heads,
            qkv: &mut qkv.values,
            query_norm: norms[0],
            key_norm: norms[1],
            epsilon,
            rope,
            cache,
        };
        rotary_and_cache(&self.pool, self.isa, operands);
        Ok(())
    }

    fn attention(
        &mut self,
        attention: AttentionSpec,
        qkv: &CpuTensor,
        cache: &CpuKvCache,
        output: &mut CpuTensor,
    ) -> Result<(), BackendError> {
        self.check_heads(attention, qkv, cache)?;
        let columns = attention.query_heads * cache.layout.head_dim;
        output.check("attention's output", self.batch.rows(), columns);
        let call = AttentionCall {
            batch: &self.batch,
            step: self.step,
            attention,
            qkv: &qkv.values,
            cache,
            output: &mut output.values,
        };
        self.attention.run(&self.pool, self.isa, call);
        Ok(())
    }

    fn gather_rows(
        &mut self,
        selection: Range<usize>,
        input: &CpuTensor,
        output: &mut CpuTensor,
    ) -> Result<(), BackendError> {
        let columns = input.columns;
        input.check("the rows to gather from", self.batch.rows(), output.columns);
        output.check("the gathered rows", selection.len(), columns);
        let rows = &self.batch.output_rows[selection];
        let gathered = SharedRows::new(&mut output.values, columns);
        for_rows(&self.pool, rows.len(), columns, &|row| {
            let start = rows[row] as usize * columns;
            // SAFETY: each row is given to one worker.
            unsafe { gathered.row(row) }.copy_from_slice(&input.values[start..start + columns]);
        });
        Ok(())
    }

    fn norm_gathered(&mut self, rows: usize, norm: RmsNorm<'_, Self>) -> Result<(), BackendError> {
        self.normalise(rows, norm);
        Ok(())
    }

    fn logits(
        &mut self,
        rows: usize,
        norm: RmsNorm<'_, Self>,
        head: Head<'_, Self>,
        logits: &mut CpuTensor,
    ) -> Result<(), BackendError> {
        let RmsNorm { input, norm, output } = norm;
        self.normalise(rows, RmsNorm { input, norm, output: &mut *output });
        let Head { weight, scale, cap } = head;
        self.multiply(rows, weight, output, logits)?;
        if scale != 1.0 || cap.is_some() {
            let logits = &mut logits.values[..rows * weight.0.rows()];
            finish_logits(&self.pool, self.isa, FinishLogits { scale, cap }, logits);
        }
        Ok(())
    }

    fn map_logits(
        &mut self,
        logits: &mut CpuTensor,
        rows: usize,
        visit: &(dyn Fn(usize, &mut [f32]) + Sync),
    ) -> Result<(), BackendError> {
        logits.check("the logits", rows, logits.columns);
        let columns = logits.columns;
        let logits = SharedRows::new(&mut logits.values, columns);
        self.pool.run_tasks(rows, &|_, row| {
            // SAFETY: each row is one task.
            visit(row, unsafe { logits.row(row) });
        });
        Ok(())
    }

    fn read_tensor(&mut self, tensor: &CpuTensor, rows: usize) -> Result<Vec<f32>, BackendError> {
        tensor.check("the tensor to read", rows, tensor.columns);
        Ok(tensor.values[..rows * tensor.columns].to_vec())
    }

    fn write_tensor(&mut self, tensor: &mut CpuTensor, values: &[f32]) -> Result<(), BackendError> {
        BackendError::check_limit("the number of values", values.len(), tensor.values.len())?;
        tensor.values[..values.len()].copy_from_slice(values);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_has_a_name() {
        assert!(!processor_name().is_empty());
    }
}
