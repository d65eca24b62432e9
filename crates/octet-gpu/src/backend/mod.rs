//! The trait, operation by operation.

mod attention;
mod batch;
mod float8;
mod gemm;
mod linear;
mod pack;
mod parameters;
mod roofline;
mod sample;
mod step;
mod tensor;
mod tuning;

use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use octet_backend::{
    Activation, AttentionSpec, Backend, BackendError, Batch, DataType, DeviceInfo, DeviceMemory, Head, Join,
    KvCacheSpec, LinearPart, LinearSpec, LinearUse, Norm, RmsNorm, RopeSpec, RotaryAndCache, SampleRow,
    StepKey, TensorRole, TensorSpec, check_operand,
};
use octet_float8::Float8Format;

use crate::cache::CodeCache;
use crate::driver::{Activity, Device, DeviceBuffer, Function, HostBuffer, Module, Stream};
use crate::kernels::{Code, ElementType, Source};
use crate::modules::{self, Pending};
use crate::{BlasOptions, GpuError};
use attention::{AttentionKernels, CacheKernels, CachePlan};
use batch::DeviceBatch;
use float8::Float8Kernels;
use gemm::{Gemms, ProductRun};
use linear::{LinearKernels, LinearPlan};
use parameters::size;
use sample::{SampleKernel, Sampling};
use step::{Bounds, Recordings};
use tensor::PADDING;

pub use attention::{GpuKvCache, GpuRope};
pub use linear::GpuLinear;
pub use tensor::GpuTensor;

/// Element type of activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ActivationType {
    /// 16 bits: what models run in.
    #[default]
    BF16,
    /// 32 bits, multiplied by the same instructions as sums of terms: for comparison with the reference.
    F32,
}

/// How a backend is set up.
#[derive(Clone, Debug, Default)]
pub struct GpuOptions {
    /// Element type of activations.
    pub activations: ActivationType,
    /// Folder of compiled kernels; without one, each start compiles.
    pub kernel_cache: Option<PathBuf>,
    /// Code that was made at release time, for machines without a run-time compiler.
    pub kernel_bundle: Option<PathBuf>,
    /// Folder whose files replace the kernels' sources of the same name: for work on kernels without building anew.
    pub kernel_sources: Option<PathBuf>,
    /// How long the device may work while the host waits for it. A step that takes longer is an error, and the device
    /// is lost to the process; without a limit the driver's own wait is used, which may be for ever.
    pub step_limit: Option<Duration>,
    /// Runs every step's operations one by one instead of replaying recorded ones.
    pub without_graphs: bool,
    /// Whether inputs are quantized for linears whose checkpoint foresees it, on devices that multiply FP8 by FP8; by
    /// default with activations of 16 bits, because those of 32 are for comparisons.
    pub float8_inputs: Option<bool>,
    /// The library that computes products of many rows, if there is one.
    pub blas: BlasOptions,
    /// Over how many blocks attention splits a context, instead of what the device and the batch suggest.
    pub attention_splits: Option<usize>,
}

/// A parameter vector on the device, padded with zeros.
pub struct GpuVector {
    buffer: DeviceBuffer,
    columns: usize,
}

/// The kernels of `rows.cu`.
struct RowKernels {
    rms_norm: Function,
    join: Function,
    gate: Function,
    embed: Function,
    finish_logits: Function,
    gather_rows: Function,
}

impl RowKernels {
    fn of(module: &Module) -> Result<Self, GpuError> {
        Ok(Self {
            rms_norm: module.function("rms_norm")?,
            join: module.function("join")?,
            gate: module.function("gate")?,
            embed: module.function("embed")?,
            finish_logits: module.function("finish_logits")?,
            gather_rows: module.function("gather_rows")?,
        })
    }
}

/// A GPU: see the crate's documentation.
pub struct GpuBackend {
    // Recordings name memory that the fields below own, so they go first.
    recordings: Recordings,
    bounds: Bounds,
    records_graphs: bool,
    is_recording: bool,
    stream: Arc<Stream>,
    device: Device,
    activation: ElementType,
    takes_float8_inputs: bool,
    forced_splits: Option<usize>,
    code: Code,
    rows: RowKernels,
    linears: HashMap<Source, Arc<Pending<LinearKernels>>>,
    gemms: Gemms,
    batch: DeviceBatch,
    /// Rows of the largest workspace tensor: what a batch may have.
    workspace_rows: usize,
    /// KV heads of the last cache, for the choice of splits.
    kv_heads: usize,
    splits: usize,
    /// Counts steps, so that a tensor knows whether its copy on the host is this step's.
    step: u64,
    /// Pinned memory through which weights go.
    staging: HostBuffer,
    /// Gate and up of a gated linear.
    products: Option<DeviceBuffer>,
    /// What splits of attention leave.
    partial: Option<DeviceBuffer>,
    /// Kernels for inputs in FP8, there as soon as a linear wants them.
    float8: Option<Arc<Pending<Float8Kernels>>>,
    /// Codes and scales of inputs that arrived wide.
    codes: Option<DeviceBuffer>,
    code_scales: Option<DeviceBuffer>,
    /// Begun with the first weight.
    sample: Option<Pending<SampleKernel>>,
    /// There with the first tensor of logits.
    sampling: Option<Sampling>,
}

/// Bytes of pinned memory for loading.
const STAGING_BYTES: usize = 16 << 20;

impl GpuBackend {
    /// A backend with nothing loaded.
    ///
    /// # Errors
    /// Of the driver or the compiler.
    pub fn new(device: Device, options: &GpuOptions) -> Result<Self, GpuError> {
        let code = Code {
            cache: CodeCache::new(options.kernel_cache.as_deref()),
            bundle: options.kernel_bundle.clone(),
            sources: options.kernel_sources.clone(),
        };
        device.set_limit(options.step_limit);
        let stream = Arc::new(device.stream()?);
        let rows = RowKernels::of(&modules::load(&device, &code, &Source::rows())?)?;
        let activation = match options.activations {
            ActivationType::BF16 => ElementType::BF16,
            ActivationType::F32 => ElementType::F32,
        };
        Ok(Self {
            recordings: Recordings::new(),
            bounds: Bounds::default(),
            records_graphs: !options.without_graphs,
            is_recording: false,
            batch: DeviceBatch::new(&device, 1 << 12)?,
            staging: HostBuffer::new(&device, STAGING_BYTES)?,
            stream,
            activation,
            takes_float8_inputs: options.float8_inputs.unwrap_or(activation == ElementType::BF16),
            forced_splits: options.attention_splits,
            code,
            rows,
            linears: HashMap::new(),
            gemms: Gemms::new(&device, &options.blas),
            workspace_rows: 0,
            kv_heads: 1,
            splits: 1,
            step: 0,
            products: None,
            partial: None,
            float8: None,
            codes: None,
            code_scales: None,
            sample: None,
            sampling: None,
            device,
        })
    }

    /// Kernels for linears of these types, compiled once, while weights are loaded.
    fn linear_kernels(&mut self, plan: &LinearPlan) -> Result<Arc<Pending<LinearKernels>>, GpuError> {
        let source = match plan.input_scale {
            Some(_) => Source::linear_float8(),
            None => Source::linear(plan.element_type, self.activation, plan.is_grouped()),
        };
        if let Some(kernels) = self.linears.get(&source) {
            return Ok(Arc::clone(kernels));
        }
        let kernels = Pending::start(&self.device, &self.code, &source, LinearKernels::of)?;
        let kernels = Arc::new(kernels);
        self.linears.insert(source, Arc::clone(&kernels));
        Ok(kernels)
    }

    /// Scratch memory of at least `bytes` bytes. It grows outside of recordings only, which it voids.
    fn scratch(
        &mut self,
        which: fn(&mut Self) -> &mut Option<DeviceBuffer>,
        bytes: usize,
    ) -> Result<u64, BackendError> {
        if let Some(buffer) = which(self)
            && buffer.bytes() >= bytes
        {
            return Ok(buffer.address());
        }
        if self.is_recording {
            return Err(BackendError::Device(
                "a step needs more memory when recorded than when run".to_owned(),
            ));
        }
        self.stream.wait()?;
        self.recordings.clear();
        *which(self) = None;
        let buffer = DeviceBuffer::new(&self.device, "the workspace", bytes)?;
        let address = buffer.address();
        *which(self) = Some(buffer);
        Ok(address)
    }

    fn normalise(&self, rows: usize, operands: &mut RmsNorm<'_, Self>) -> Result<(), BackendError> {
        let RmsNorm { input, norm: Norm { weight, epsilon }, output } = operands;
        let columns = weight.columns;
        input.check("the norm's input", rows, columns);
        output.check("the norm's output", rows, columns);
        if let (Some(target), Some(kernels)) = (output.begin_write(), &self.float8) {
            let kernels = kernels.get()?;
            let parameters = parameters::NormFloat8 {
                input: input.address(),
                weight: weight.buffer.address(),
                target,
                input_type: input.data_type as u32,
                stride: size(input.stride),
                inverse_columns: 1.0 / columns as f32,
                epsilon: *epsilon,
            };
            // SAFETY: as below; codes of a row are no longer than its elements of 16 bits.
            unsafe { kernels.rms_norm.launch(&self.stream, [rows, 1, 1], &parameters)? };
            return Ok(());
        }
        let parameters = parameters::Norm {
            input: input.address(),
            weight: weight.buffer.address(),
            output: output.address(),
            input_type: input.data_type as u32,
            output_type: output.data_type as u32,
            stride: size(input.stride),
            inverse_columns: 1.0 / columns as f32,
            epsilon: *epsilon,
        };
        // SAFETY: the parameters are the kernel's, shapes were checked, and strides follow from columns.
        unsafe { self.rows.rms_norm.launch(&self.stream, [rows, 1, 1], &parameters)? };
        Ok(())
    }

    fn join_rows(&self, rows: usize, operands: Join<'_, Self>) -> Result<(), BackendError> {
        let Join { residual, branch, post_norm, scale, next } = operands;
        let columns = residual.columns;
        residual.check("the residual", rows, columns);
        branch.check("the branch", rows, columns);
        for norm in post_norm.iter().chain(next.iter().map(|(norm, _)| norm)) {
            check_operand("a join's norm", [1, norm.weight.columns], 1, columns);
        }
        residual.host_step = None;
        let join = parameters::JoinOperands {
            residual: residual.address(),
            branch: branch.address(),
            post_weight: post_norm.map_or(0, |norm| norm.weight.buffer.address()),
            residual_type: residual.data_type as u32,
            branch_type: branch.data_type as u32,
            stride: size(residual.stride),
            inverse_columns: 1.0 / columns as f32,
            post_epsilon: post_norm.map_or(0.0, |norm| norm.epsilon),
            scale,
        };
        let Some((norm, output)) = next else {
            let parameters = parameters::Join { join, weight: 0, output: 0, output_type: 0, epsilon: 0.0 };
            // SAFETY: the parameters are the kernel's, shapes were checked, strides follow from columns; without a
            // weight there is no output.
            unsafe { self.rows.join.launch(&self.stream, [rows, 1, 1], &parameters)? };
            return Ok(());
        };
        output.check("the norm's output", rows, columns);
        let (weight, epsilon) = (norm.weight.buffer.address(), norm.epsilon);
        if let (Some(target), Some(kernels)) = (output.begin_write(), &self.float8) {
            let parameters = parameters::JoinFloat8 { join, weight, target, epsilon };
            // SAFETY: as above; codes of a row are no longer than its elements of 16 bits.
            unsafe { kernels.get()?.join.launch(&self.stream, [rows, 1, 1], &parameters)? };
            return Ok(());
        }
        let (output, output_type) = (output.address(), output.data_type as u32);
        let parameters = parameters::Join { join, weight, output, output_type, epsilon };
        // SAFETY: as above.
        unsafe { self.rows.join.launch(&self.stream, [rows, 1, 1], &parameters)? };
        Ok(())
    }

    fn multiply(
        &mut self,
        rows: usize,
        weight: &GpuLinear,
        input: &GpuTensor,
        output: &mut GpuTensor,
    ) -> Result<(), BackendError> {
        input.check("the linear's input", rows, weight.columns);
        output.check("the linear's output", rows, weight.rows);
        assert!(input.data_type == self.activation, "a linear's input is an activation");
        output.host_step = None;
        let target = (output.address(), output.stride, output.data_type);
        let input = (self.input_of(rows, weight, input)?, self.activation);
        self.product(&ProductRun { weight, rows, input, target })
    }

    /// Where gate and up of a gated linear go: address, stride and type.
    fn gated_products(&mut self, weight: &GpuLinear) -> Result<(u64, usize, ElementType), BackendError> {
        let stride = weight.rows.next_multiple_of(PADDING);
        // Room for the largest step at once, so that it is made once.
        let bytes = self.workspace_rows * stride * self.activation.bytes();
        let products = self.scratch(|backend| &mut backend.products, bytes)?;
        Ok((products, stride, self.activation))
    }

    /// Combines gate and up.
    fn gate(
        &mut self,
        rows: usize,
        (products, stride, data_type): (u64, usize, ElementType),
        activation: Activation,
        output: &mut GpuTensor,
    ) -> Result<(), BackendError> {
        let features = output.columns;
        let activation = match activation {
            Activation::Silu => 0,
            Activation::GeluTanh => 1,
        };
        if let (Some(target), Some(kernels)) = (output.begin_write(), &self.float8) {
            let kernels = kernels.get()?;
            let parameters = parameters::GateFloat8 {
                products,
                target,
                data_type: data_type as u32,
                features: size(features),
                stride: size(stride),
                activation,
            };
            // SAFETY: as below; codes of a row are no longer than its elements of 16 bits.
            unsafe { kernels.gate.launch(&self.stream, [rows, 1, 1], &parameters)? };
            return Ok(());
        }
        let parameters = parameters::Gate {
            products,
            output: output.address(),
            products_type: data_type as u32,
            output_type: output.data_type as u32,
            features: size(features),
            products_stride: size(stride),
            output_stride: size(output.stride),
            activation,
        };
        // SAFETY: the parameters are the kernel's, and shapes were checked.
        unsafe { self.rows.gate.launch(&self.stream, [output.stride.div_ceil(256), rows, 1], &parameters)? };
        Ok(())
    }

    /// Waits for the step's logits and copies them to the host.
    fn fetch(&self, logits: &mut GpuTensor, rows: usize) -> Result<(), BackendError> {
        let bytes = rows * logits.stride * size_of::<f32>();
        let GpuTensor { buffer, host, .. } = logits;
        let Some(host) = host else { panic!("only logits are read on the host") };
        buffer.read_pinned(&self.stream, 0, host, bytes)?;
        Ok(self.stream.wait()?)
    }
}

impl Drop for GpuBackend {
    fn drop(&mut self) {
        // Copies may still read pinned memory that is about to go. Who cannot be waited for does nothing any more.
        let _ = self.stream.wait();
    }
}

impl Backend for GpuBackend {
    type Tensor = GpuTensor;
    type Vector = GpuVector;
    type Linear = GpuLinear;
    type Rope = GpuRope;
    type KvCache = GpuKvCache;

    fn info(&self) -> DeviceInfo {
        let report = self.device.report();
        DeviceInfo {
            kind: self.device.api().kind.name(),
            name: report.name.clone(),
            architecture: report.architecture.clone(),
            units: report.units,
        }
    }

    fn memory(&self) -> DeviceMemory {
        self.device.memory()
    }

    fn load_linear(&mut self, spec: LinearSpec, parts: &[LinearPart<'_>]) -> Result<GpuLinear, BackendError> {
        self.device.bind()?;
        let architecture = self.device.architecture();
        let mut plan = LinearPlan::new(architecture, &spec, parts)?;
        if self.takes_float8_inputs
            && let Some(scale) = float8::input_scale(architecture, &spec, parts)
        {
            plan = plan.with_float8_inputs(scale);
            self.begin_float8()?;
        }
        // A model with an embedding will also sample.
        if matches!(spec.usage, LinearUse::Embed | LinearUse::EmbedAndMultiply) {
            self.begin_sampling()?;
        }
        let kernels = match spec.usage {
            LinearUse::Embed => None,
            LinearUse::Multiply | LinearUse::Gated | LinearUse::EmbedAndMultiply => {
                Some(self.linear_kernels(&plan)?)
            }
        };
        let has_float8_inputs = plan.input_scale.is_some();
        let families = kernels.is_some().then(|| self.families(&spec, parts, has_float8_inputs));
        GpuLinear::load(&self.stream, &mut self.staging, &spec, parts, (plan, kernels, families))
    }

    fn linear_bytes(&self, linear: &GpuLinear) -> usize {
        linear.bytes()
    }

    fn load_vector(&mut self, values: &[f32]) -> Result<GpuVector, BackendError> {
        self.device.bind()?;
        let padded = values.len().next_multiple_of(PADDING);
        let mut bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        bytes.resize(padded * size_of::<f32>(), 0);
        let buffer = DeviceBuffer::holding(&self.stream, "a vector", &bytes)?;
        Ok(GpuVector { buffer, columns: values.len() })
    }

    fn load_rope(&mut self, spec: &RopeSpec, _max_rows: usize) -> Result<GpuRope, BackendError> {
        self.device.bind()?;
        let bytes: Vec<u8> = spec.inverse_frequencies.iter().flat_map(|value| value.to_le_bytes()).collect();
        let frequencies = DeviceBuffer::holding(&self.stream, "a rotary embedding", &bytes)?;
        Ok(GpuRope { frequencies, pairs: spec.inverse_frequencies.len(), magnitude: spec.magnitude })
    }

    fn allocate(&mut self, spec: TensorSpec) -> Result<GpuTensor, BackendError> {
        self.device.bind()?;
        let tensor = GpuTensor::allocate(&self.stream, spec, self.activation)?;
        self.workspace_rows = self.workspace_rows.max(spec.rows);
        if spec.role == TensorRole::Logits {
            self.make_room_for_sampling(spec.rows)?;
        }
        Ok(tensor)
    }

    fn allocate_kv_cache(&mut self, spec: &KvCacheSpec) -> Result<GpuKvCache, BackendError> {
        self.device.bind()?;
        let plan = CachePlan::new(self.device.architecture(), spec)?;
        let attention = Source::attention(spec.head_dim, plan.element_type);
        let attention = Pending::start(&self.device, &self.code, &attention, AttentionKernels::of)?;
        let rotary = Source::rotary(spec.head_dim, plan.element_type);
        let rotary = modules::load(&self.device, &self.code, &rotary)?;
        let kernels = CacheKernels::of(&rotary, attention.finish()?)?;
        // What was begun while weights were loaded is there before the first step.
        self.linears.values().try_for_each(|kernels| kernels.get().map(drop))?;
        self.float8.iter().try_for_each(|kernels| kernels.get().map(drop))?;
        let cache = GpuKvCache::allocate(&self.stream, spec, &plan, kernels)?;
        self.kv_heads = spec.kv_heads;
        Ok(cache)
    }

    fn kv_cache_types(&self) -> &'static [DataType] {
        &[
            DataType::BF16,
            DataType::F8(Float8Format::E4M3),
            DataType::F8(Float8Format::E5M2),
            DataType::F16,
            DataType::F32,
        ]
    }

    fn begin_step(&mut self, batch: &Batch) -> Result<(), BackendError> {
        if batch.rows() > self.workspace_rows {
            return Err(BackendError::Limit {
                what: "the batch's number of rows",
                value: batch.rows(),
                limit: self.workspace_rows,
            });
        }
        self.device.bind()?;
        if self.batch.reserve(&self.stream, batch)? {
            self.recordings.clear();
        }
        self.batch.send(&self.stream, batch)?;
        self.step += 1;
        let facts = &self.batch.facts;
        let (rows, longest_context) = (facts.rows, facts.longest_context);
        let sequences = batch.sequences.len();
        self.stream.begin(Activity { step: self.step, rows, sequences, longest_context });
        let units = self.device.report().units;
        self.splits = self
            .forced_splits
            .unwrap_or_else(|| attention::splits(units, facts.rows, self.kv_heads, facts.longest_context));
        Ok(())
    }

    fn prepare_input(&mut self, tensor: &mut GpuTensor, reader: &GpuLinear) {
        tensor.wanted = reader.input_scale;
    }

    fn run_step(
        &mut self,
        key: StepKey,
        body: &mut dyn FnMut(&mut Self) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        self.run(key, body)
    }

    fn embed(&mut self, table: &GpuLinear, scale: f32, output: &mut GpuTensor) -> Result<(), BackendError> {
        assert!(
            matches!(table.usage, LinearUse::Embed | LinearUse::EmbedAndMultiply),
            "a weight loaded as {:?} is no table",
            table.usage
        );
        let rows = self.batch.facts.rows;
        output.check("the embedding's output", rows, table.columns);
        self.batch.facts.check_tokens(table.rows)?;
        self.bounds.table_rows = Some(table.rows);
        let grid = [table.columns.div_ceil(256), rows, 1];
        let parameters = table.look_up(self.batch.tokens, scale, output);
        // SAFETY: the parameters are the kernel's, and every token has a row.
        unsafe { self.rows.embed.launch(&self.stream, grid, &parameters)? };
        Ok(())
    }

    fn rms_norm(&mut self, mut operands: RmsNorm<'_, Self>) -> Result<(), BackendError> {
        self.normalise(self.batch.facts.rows, &mut operands)
    }

    fn join(&mut self, operands: Join<'_, Self>) -> Result<(), BackendError> {
        self.join_rows(self.batch.facts.rows, operands)
    }

    fn linear(
        &mut self,
        weight: &GpuLinear,
        input: &GpuTensor,
        output: &mut GpuTensor,
    ) -> Result<(), BackendError> {
        self.multiply(self.batch.facts.rows, weight, input, output)
    }

    fn gated_linear(
        &mut self,
        weight: &GpuLinear,
        activation: Activation,
        input: &GpuTensor,
        output: &mut GpuTensor,
    ) -> Result<(), BackendError> {
        assert!(weight.usage == LinearUse::Gated, "gate and up must be loaded as one gated weight");
        let rows = self.batch.facts.rows;
        let features = weight.rows / 2;
        input.check("the gated linear's input", rows, weight.columns);
        output.check("the gated linear's output", rows, features);
        let target = self.gated_products(weight)?;
        let input = (self.input_of(rows, weight, input)?, self.activation);
        self.product(&ProductRun { weight, rows, input, target })?;
        self.gate(rows, target, activation, output)
    }

    fn rotary_and_cache(
        &mut self,
        attention: AttentionSpec,
        operands: RotaryAndCache<'_, Self>,
    ) -> Result<(), BackendError> {
        let spec = &operands.cache.spec;
        self.bounds.cache = Some((spec.blocks, spec.block_size));
        attention::rotary_and_cache(&self.stream, &self.batch, attention, operands)
    }

    fn attention(
        &mut self,
        attention: AttentionSpec,
        qkv: &GpuTensor,
        cache: &GpuKvCache,
        output: &mut GpuTensor,
    ) -> Result<(), BackendError> {
        self.bounds.cache = Some((cache.spec.blocks, cache.spec.block_size));
        let (splits, rows) = (self.splits, self.batch.facts.rows);
        let bytes = attention::partial_bytes(splits, rows, attention.query_heads, cache.spec.head_dim);
        let partial = if bytes == 0 { 0 } else { self.scratch(|backend| &mut backend.partial, bytes)? };
        attention::attend(&self.stream, &self.batch, attention, (qkv, cache, output), (splits, partial))
    }

    fn gather_rows(
        &mut self,
        selection: Range<usize>,
        input: &GpuTensor,
        output: &mut GpuTensor,
    ) -> Result<(), BackendError> {
        assert!(selection.end <= self.batch.facts.output_rows, "rows {selection:?} of the output rows");
        input.check("the rows to gather from", self.batch.facts.rows, output.columns);
        output.check("the gathered rows", selection.len(), input.columns);
        assert!(input.data_type == output.data_type, "rows are gathered as they are");
        let parameters = parameters::Gather {
            input: input.address(),
            rows: self.batch.output_rows + (selection.start * size_of::<u32>()) as u64,
            output: output.address(),
            data_type: input.data_type as u32,
            stride: size(input.stride),
        };
        // SAFETY: the parameters are the kernel's, and output rows are rows of the batch.
        unsafe { self.rows.gather_rows.launch(&self.stream, [selection.len(), 1, 1], &parameters)? };
        Ok(())
    }

    fn norm_gathered(&mut self, rows: usize, mut norm: RmsNorm<'_, Self>) -> Result<(), BackendError> {
        self.normalise(rows, &mut norm)
    }

    fn logits(
        &mut self,
        rows: usize,
        mut norm: RmsNorm<'_, Self>,
        head: Head<'_, Self>,
        logits: &mut GpuTensor,
    ) -> Result<(), BackendError> {
        let Head { weight, scale, cap } = head;
        self.normalise(rows, &mut norm)?;
        self.multiply(rows, weight, norm.output, logits)?;
        if scale == 1.0 && cap.is_none() {
            return Ok(());
        }
        let columns = weight.rows;
        let parameters = parameters::Finish {
            logits: logits.address(),
            columns: size(columns),
            stride: size(logits.stride),
            scale,
            cap: cap.unwrap_or(0.0),
        };
        // SAFETY: the parameters are the kernel's, and logits are in 32 bits.
        unsafe {
            self.rows.finish_logits.launch(&self.stream, [columns.div_ceil(256), rows, 1], &parameters)
        }?;
        Ok(())
    }

    fn sample(
        &mut self,
        logits: &mut GpuTensor,
        rows: &[SampleRow],
        tokens: &mut [u32],
    ) -> Result<bool, BackendError> {
        self.device.bind()?;
        assert_eq!(rows.len(), tokens.len(), "a token for each row");
        self.sample_rows(logits, rows, tokens)
    }

    fn map_logits(
        &mut self,
        logits: &mut GpuTensor,
        rows: usize,
        visit: &(dyn Fn(usize, &mut [f32]) + Sync),
    ) -> Result<(), BackendError> {
        /// Rows that are worth a thread of their own.
        const MOST_THREADS: usize = 8;
        self.device.bind()?;
        self.fetch(logits, rows)?;
        let GpuTensor { columns, stride, host: Some(host), .. } = logits else { return Ok(()) };
        let (columns, stride) = (*columns, *stride);
        let values = host.floats_mut(rows * stride);
        let each = rows.div_ceil(MOST_THREADS.min(rows.max(1))).max(1);
        std::thread::scope(|scope| {
            for (chunk, values) in values.chunks_mut(each * stride).enumerate() {
                let mut visit_chunk = move || {
                    for (row, values) in values.chunks_mut(stride).enumerate() {
                        visit(chunk * each + row, &mut values[..columns]);
                    }
                };
                // One row alone needs no other thread.
                if rows == 1 { visit_chunk() } else { drop(scope.spawn(visit_chunk)) }
            }
        });
        logits.host_step = Some(self.step);
        Ok(())
    }

    fn read_tensor(&mut self, tensor: &GpuTensor, rows: usize) -> Result<Vec<f32>, BackendError> {
        self.device.bind()?;
        tensor.check("the tensor to read", rows, tensor.columns);
        if let (Some(host), Some(step)) = (&tensor.host, tensor.host_step)
            && step == self.step
        {
            // What visitors changed.
            let values = host.floats(rows * tensor.stride).chunks(tensor.stride.max(1));
            return Ok(values.flat_map(|row| &row[..tensor.columns]).copied().collect());
        }
        Ok(tensor.read(&self.stream, rows)?)
    }

    fn write_tensor(&mut self, tensor: &mut GpuTensor, values: &[f32]) -> Result<(), BackendError> {
        self.device.bind()?;
        tensor.write(&self.stream, values)
    }
}
