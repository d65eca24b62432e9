//! The trait that a device implements.

use std::ops::Range;

use crate::{BackendError, Batch, DataType, KvCacheSpec, LinearPart, LinearSpec, StepKey};

/// What a workspace tensor is for; the backend chooses its element type accordingly (a CPU keeps `f32` throughout, a
/// GPU 16 bits for activations).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TensorRole {
    /// The residual stream, summed into by every layer.
    Residual,
    /// The input or output of a linear.
    Activation,
    /// Logits, read by the sampler.
    Logits,
}

/// A workspace tensor, `[rows, columns]`, allocated once for the largest batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// What it is for.
    pub role: TensorRole,
    /// The most rows that a step will use.
    pub rows: usize,
    /// Columns of each row.
    pub columns: usize,
}

/// Holds an operand, `[rows, columns]`, to its operation, which reads at least `rows` of its rows.
///
/// # Panics
/// A model that passes another tensor is wrong itself; `what` names the operand.
#[track_caller]
pub fn check_operand(what: &str, found: [usize; 2], rows: usize, columns: usize) {
    let [found_rows, found_columns] = found;
    assert!(
        found_columns == columns && found_rows >= rows,
        "{what} is [{found_rows}, {found_columns}] where at least {rows} rows of {columns} columns were expected"
    );
}

/// What the device is, for the start-up report and the tuning file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Kind of backend: `cpu`, `hip`, `cuda`, `reference`.
    pub kind: &'static str,
    /// The device's name as its maker gives it.
    pub name: String,
    /// The instruction set or architecture chosen, such as `avx2` or `gfx942`.
    pub architecture: String,
    /// Threads or compute units in use.
    pub units: usize,
}

/// Memory of the device in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceMemory {
    /// All of it (on a CPU, what the control group allows).
    pub total_bytes: usize,
    /// What is free now.
    pub free_bytes: usize,
}

/// Rotary embedding of one kind of layer: `angle = position * inverse_frequencies[i]`, cosines and sines times
/// `magnitude`. Pairs are (first half, second half) of the rotated dimensions, as in GPT-NeoX.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    /// One for each pair, `[rotary_dim / 2]`; dimensions of a head beyond `rotary_dim` pass through.
    pub inverse_frequencies: Vec<f32>,
    /// Factor on cosines and sines (YaRN's attention factor), else 1.
    pub magnitude: f32,
}

/// The gate's activation in a gated MLP: `activation(gate) * up`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// GELU by its tanh approximation.
    GeluTanh,
}

/// Attention's constants for one layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionSpec {
    /// The layer, for its part of the KV cache.
    pub layer: usize,
    /// Query heads on this rank; a multiple of the cache's `kv_heads`.
    pub query_heads: usize,
    /// Factor on scores, usually `head_dim^-0.5`.
    pub scale: f32,
    /// If set, scores are bounded smoothly: `cap * tanh(score / cap)`, as Gemma 2 has it.
    pub score_cap: Option<f32>,
    /// If set, a token sees itself and the `window - 1` tokens before it.
    pub sliding_window: Option<usize>,
}

/// An RMS norm: `x / sqrt(mean(x²) + epsilon) * weight`, row by row, in 32-bit.
pub struct Norm<'a, B: Backend> {
    /// `[columns]`.
    pub weight: &'a B::Vector,
    /// Added to the mean square.
    pub epsilon: f32,
}

impl<B: Backend> Clone for Norm<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for Norm<'_, B> {}

/// Operands of [`Backend::rms_norm`].
pub struct RmsNorm<'a, B: Backend> {
    /// `[rows, columns]`.
    pub input: &'a B::Tensor,
    /// What is done to each row.
    pub norm: Norm<'a, B>,
    /// `[rows, columns]`.
    pub output: &'a mut B::Tensor,
}

/// Operands of [`Backend::join`].
pub struct Join<'a, B: Backend> {
    /// `[rows, columns]`, in 32 bits; receives the sum.
    pub residual: &'a mut B::Tensor,
    /// `[rows, columns]`: what the branch's last projection wrote.
    pub branch: &'a B::Tensor,
    /// The norm of the branch before it is added, as Gemma 2 and OLMo 2 have it.
    pub post_norm: Option<Norm<'a, B>>,
    /// Factor on the branch, after its norm; usually 1.
    pub scale: f32,
    /// The norm of the sum that the next projection reads, and where it goes `[rows, columns]`. Together with the sum
    /// it costs no pass over memory of its own.
    pub next: Option<(Norm<'a, B>, &'a mut B::Tensor)>,
}

/// How hidden states become logits: `cap * tanh(scale * (weight · hidden) / cap)`, or without the cap.
pub struct Head<'a, B: Backend> {
    /// `[vocabulary, hidden]`.
    pub weight: &'a B::Linear,
    /// Factor on each product, usually 1.
    pub scale: f32,
    /// If set, logits are bounded smoothly, as Gemma 2 has it.
    pub cap: Option<f32>,
}

/// Operands of [`Backend::rotary_and_cache`].
pub struct RotaryAndCache<'a, B: Backend> {
    /// `[rows, (query_heads + 2 * kv_heads) * head_dim]`: queries, keys, values. Queries and keys are normalised (if
    /// asked for) and rotated in place.
    pub qkv: &'a mut B::Tensor,
    /// RMS norm of the queries before the rotation: over each head for a weight `[head_dim]`, over all of them together
    /// for one of `[query_heads * head_dim]`.
    pub query_norm: Option<&'a B::Vector>,
    /// The same of the keys: `[head_dim]` or `[kv_heads * head_dim]`.
    pub key_norm: Option<&'a B::Vector>,
    /// Epsilon of both norms.
    pub epsilon: f32,
    /// The layer's rotary embedding.
    pub rope: &'a B::Rope,
    /// Keys and values are written here, at the batch's positions.
    pub cache: &'a mut B::KvCache,
}

/// One row to be sampled by the device. Only what devices do themselves; everything else is sampled on the host.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampleRow {
    /// Which row of the logits.
    pub row: usize,
    /// 0 is greedy: the largest logit, of equal ones the first.
    pub temperature: f32,
    /// Keep the k most likely; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Where to draw, in `[0, 1)`: the sequence's next number of its generator. The token is the first, in the order of
    /// ids, at which the running sum of what is left passes this share of its whole.
    pub fraction: f64,
}

impl SampleRow {
    /// Instead of a token: the device leaves the row to the host, which knows what is wrong with it.
    pub const NOT_SAMPLED: u32 = u32::MAX;
}

/// A device that runs decoders. One thread owns it; methods that start work may return before the work is done, and
/// whatever reads a result on the host waits for it.
///
/// A failed operation leaves the step's results undefined but the device usable, unless the error is
/// [`BackendError::Device`] or [`BackendError::Unfinished`].
pub trait Backend: Sized + Send + 'static {
    /// A workspace matrix in device memory.
    type Tensor: Send;
    /// A small parameter vector in device memory: a norm's weight.
    type Vector: Send;
    /// A packed weight with its scales and bias.
    type Linear: Send;
    /// A rotary embedding, registered once and shared by layers.
    type Rope: Send;
    /// The paged KV cache of all layers.
    type KvCache: Send;

    // What the device is.

    /// Name, architecture and size of the device.
    fn info(&self) -> DeviceInfo;

    /// Its memory, now.
    fn memory(&self) -> DeviceMemory;

    // Loading. Everything that lives in device memory is made here, before the first step.

    /// Packs a weight. Its parts lie one after another along the rows.
    ///
    /// # Errors
    /// Shapes that disagree, values that are not finite, an unsupported type, no memory.
    fn load_linear(
        &mut self,
        spec: LinearSpec,
        parts: &[LinearPart<'_>],
    ) -> Result<Self::Linear, BackendError>;

    /// Bytes of device memory that a packed weight holds.
    fn linear_bytes(&self, linear: &Self::Linear) -> usize;

    /// Loads a parameter vector.
    ///
    /// # Errors
    /// No memory.
    fn load_vector(&mut self, values: &[f32]) -> Result<Self::Vector, BackendError>;

    /// Registers a rotary embedding for use by steps of at most `max_rows` rows.
    ///
    /// # Errors
    /// No memory.
    fn load_rope(&mut self, spec: &RopeSpec, max_rows: usize) -> Result<Self::Rope, BackendError>;

    /// Allocates a workspace tensor.
    ///
    /// # Errors
    /// No memory.
    fn allocate(&mut self, spec: TensorSpec) -> Result<Self::Tensor, BackendError>;

    /// Allocates the KV cache. Its contents are undefined until written.
    ///
    /// # Errors
    /// An unsupported element type or block size, no memory.
    fn allocate_kv_cache(&mut self, spec: &KvCacheSpec) -> Result<Self::KvCache, BackendError>;

    /// Element types that this device's KV cache can hold.
    fn kv_cache_types(&self) -> &'static [DataType];

    // A step.

    /// Copies the batch into the device's fixed buffers. Operations until the next call read it from there.
    ///
    /// # Errors
    /// A batch larger than the workspace.
    fn begin_step(&mut self, batch: &Batch) -> Result<(), BackendError>;

    /// Says which linear reads `tensor` next, before the operation that writes it (a norm, a join or a gated linear). A device
    /// that multiplies FP8 then writes the tensor quantized as that linear wants its input, until it is told otherwise;
    /// no other operation may read it. Devices that multiply wide numbers have nothing to do.
    fn prepare_input(&mut self, tensor: &mut Self::Tensor, reader: &Self::Linear) {
        let _ = (tensor, reader);
    }

    /// Runs the operations that `body` issues, or replays what they were the last time that `key` was seen.
    ///
    /// # Errors
    /// Whatever the body returns.
    fn run_step(
        &mut self,
        key: StepKey,
        body: &mut dyn FnMut(&mut Self) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        let _ = key;
        body(self)
    }

    // Operations, in the order in which a decoder uses them. Row counts come from the batch.

    /// Looks up the batch's tokens: `output [rows, hidden] = scale * table[tokens]`.
    ///
    /// # Errors
    /// Of the device.
    fn embed(
        &mut self,
        table: &Self::Linear,
        scale: f32,
        output: &mut Self::Tensor,
    ) -> Result<(), BackendError>;

    /// `output = norm(input)`.
    ///
    /// # Errors
    /// Of the device.
    fn rms_norm(&mut self, operands: RmsNorm<'_, Self>) -> Result<(), BackendError>;

    /// `residual += scale * post_norm(branch)`, and then `output = next(residual)`: the end of a branch and the beginning
    /// of the next one.
    ///
    /// # Errors
    /// Of the device.
    fn join(&mut self, operands: Join<'_, Self>) -> Result<(), BackendError>;

    /// `output [rows, out] = input [rows, in] · weightᵀ + bias`.
    ///
    /// # Errors
    /// Of the device.
    fn linear(
        &mut self,
        weight: &Self::Linear,
        input: &Self::Tensor,
        output: &mut Self::Tensor,
    ) -> Result<(), BackendError>;

    /// `output [rows, out] = activation(gate(input)) * up(input)` for a weight loaded as
    /// [`crate::LinearUse::Gated`].
    ///
    /// # Errors
    /// Of the device.
    fn gated_linear(
        &mut self,
        weight: &Self::Linear,
        activation: Activation,
        input: &Self::Tensor,
        output: &mut Self::Tensor,
    ) -> Result<(), BackendError>;

    /// Rotates queries and keys at the batch's positions and writes keys and values into the cache.
    ///
    /// # Errors
    /// Of the device.
    fn rotary_and_cache(
        &mut self,
        attention: AttentionSpec,
        operands: RotaryAndCache<'_, Self>,
    ) -> Result<(), BackendError>;

    /// Causal attention of every row over its sequence's cached keys and values (this step's included):
    /// `output [rows, query_heads * head_dim]`. Query head `h` reads KV head `h / (query_heads / kv_heads)`.
    ///
    /// # Errors
    /// Of the device.
    fn attention(
        &mut self,
        attention: AttentionSpec,
        qkv: &Self::Tensor,
        cache: &Self::KvCache,
        output: &mut Self::Tensor,
    ) -> Result<(), BackendError>;

    /// Copies the rows `batch.output_rows[selection]` of `input` to the first rows of `output`.
    ///
    /// # Errors
    /// Of the device.
    fn gather_rows(
        &mut self,
        selection: Range<usize>,
        input: &Self::Tensor,
        output: &mut Self::Tensor,
    ) -> Result<(), BackendError>;

    /// As [`Backend::rms_norm`] for the first `rows` gathered rows instead of the batch's: final hidden states, where
    /// they are the result.
    ///
    /// # Errors
    /// Of the device.
    fn norm_gathered(&mut self, rows: usize, norm: RmsNorm<'_, Self>) -> Result<(), BackendError>;

    /// The final norm and the head: as [`Backend::norm_gathered`], then [`Backend::linear`] on its output, then what
    /// [`Head`] says. `logits [rows, vocabulary]`.
    ///
    /// # Errors
    /// Of the device.
    fn logits(
        &mut self,
        rows: usize,
        norm: RmsNorm<'_, Self>,
        head: Head<'_, Self>,
        logits: &mut Self::Tensor,
    ) -> Result<(), BackendError>;

    /// Sums a tensor's batch rows over all ranks, in place. One rank: nothing to do.
    ///
    /// # Errors
    /// Of the interconnect.
    fn all_reduce(&mut self, tensor: &mut Self::Tensor) -> Result<(), BackendError> {
        let _ = tensor;
        Ok(())
    }

    // Results.

    /// Samples rows of `logits` on the device: temperature, then top-k, then top-p of what that leaves, then the draw, one
    /// token for each of `rows` or [`SampleRow::NOT_SAMPLED`]. Returns whether it did: `false` means that the device
    /// leaves sampling to the host, always.
    ///
    /// # Errors
    /// Of the device.
    fn sample(
        &mut self,
        logits: &mut Self::Tensor,
        rows: &[SampleRow],
        tokens: &mut [u32],
    ) -> Result<bool, BackendError> {
        let _ = (logits, rows, tokens);
        Ok(false)
    }

    /// Waits for the step and calls `visit(row, logits)` for each of the first `rows` rows, possibly from several
    /// threads at once, each row once. The visitor may change the row.
    ///
    /// # Errors
    /// Of the device.
    fn map_logits(
        &mut self,
        logits: &mut Self::Tensor,
        rows: usize,
        visit: &(dyn Fn(usize, &mut [f32]) + Sync),
    ) -> Result<(), BackendError>;

    /// Waits for the step and reads the first `rows` rows of a tensor as `f32`, row-major.
    ///
    /// # Errors
    /// Of the device.
    fn read_tensor(&mut self, tensor: &Self::Tensor, rows: usize) -> Result<Vec<f32>, BackendError>;

    /// Writes the first rows of a tensor from `values`, row-major. For tests and self-tests.
    ///
    /// # Errors
    /// More values than the tensor holds.
    fn write_tensor(&mut self, tensor: &mut Self::Tensor, values: &[f32]) -> Result<(), BackendError>;
}
