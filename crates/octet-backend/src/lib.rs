//! The seam between models and devices.
//!
//! A model above this crate is written once, generic over [`Backend`]; a device below it implements about fifteen
//! fused operations of a decoder, not a tensor algebra. Nobody above the seam names an instruction set, HIP or CUDA,
//! and nothing below it knows what a Llama is.
//!
//! # The life of a step
//!
//! 1. At load, each weight is handed over once as a [`LinearPart`] view and becomes the backend's own packed `Linear`;
//!    workspace tensors and the paged KV cache are allocated, and nothing is allocated after that.
//! 2. A step begins with [`Backend::begin_step`]: the [`Batch`] (flat tokens of all planned sequences, prefill and
//!    decode mixed) is copied into the device's fixed buffers.
//! 3. [`Backend::run_step`] gets the whole step as a closure with a [`StepKey`]: a GPU records it once for each key and
//!    replays it, a CPU just runs it. Every operation inside reads the batch from the fixed buffers, so that a
//!    recorded step stays valid for the next batch with the same key.
//! 4. Logits are read by [`Backend::map_logits`] on the host, or turned into tokens by [`Backend::sample`] where the
//!    device does that itself.
//!
//! A device with several kernels for a product also implements [`TunableBackend`], by which `gemm` lets a tuner choose.
//!
//! Shapes stand in brackets, rows first: `[tokens, hidden]`. Rows are tokens of the flat batch.
//!
//! # Architecture invariant
//!
//! A row of any operation's output depends on that row's inputs alone, never on which other rows are in the batch. The
//! CPU and reference backends keep this to the bit; it is what makes results independent of batching and chunking.

mod backend;
mod batch;
mod data_type;
mod error;
mod gemm;
mod kv_cache;
mod weight;

pub use backend::{
    Activation, AttentionSpec, Backend, DeviceInfo, DeviceMemory, Head, Join, Norm, RmsNorm, RopeSpec,
    RotaryAndCache, SampleRow, TensorRole, TensorSpec, check_operand,
};
pub use batch::{Batch, BatchSequence, StepKey};
pub use data_type::DataType;
pub use error::BackendError;
pub use gemm::{
    BucketSet, GemmDevice, GemmProblem, GemmRun, SignatureError, TokenBucket, TunableBackend, Validator,
};
pub use kv_cache::{KvCacheSpec, KvScale};
pub use weight::{
    InputScale, LinearPart, LinearSpec, LinearUse, ScaleShape, WeightFormat, WeightScale, WeightView,
};
