//! From a checkpoint to a running model.
//!
//! - [`ModelSource`]: a folder, a model of the Hub, or a shape that ships with the program.
//! - [`ModelConfig`]: `config.json`, checked, every default filled in. [`GenerationConfig`]: its makers' advice on sampling.
//! - [`LoadedModel`]: weights on a device. [`MemoryPlan`]: where its memory goes.
//! - [`Runner`]: the decoder with workspace and KV cache; it is the engine's `Executor`.
//!
//! The life of a model:
//!
//! 1. [`ResolvedModel::new`] finds the folder and reads the configs; a file in `families/` says in what a family
//!    differs from plain Llama, one in `quantization/` how a layout stores FP8.
//! 2. What the model consists of is a list (`layer/mod.rs`). A plan of all its tensors is made and checked against the checkpoint's headers (`weights/plan.rs`): what is missing
//!    or has the wrong shape is named before a weight is read.
//! 3. One thread reads, another hands each linear to the device, quantized on the way if asked for
//!    (`weights/pack.rs`). No more than two linears are in host memory besides the packed ones.
//! 4. [`LoadedModel::plan_memory`] divides what is left; [`LoadedModel::into_runner`] allocates it. Nothing is
//!    allocated after that.
//! 5. [`Runner`] runs steps: the one decoder (`decoder.rs`) over the flat batch, then `octet-sample` on its logits.
//!
//! For a device with several kernels for a product, the model's projections are what a tuner drives (`tuning.rs`).
//!
//! Nothing here prints: progress is a callback, warnings are values.
#![forbid(unsafe_code)]

mod checkpoint;
mod config;
mod decoder;
mod error;
mod families;
mod files;
mod kv_scales;
mod layer;
mod load;
mod memory;
mod options;
mod quantization;
mod runner;
pub mod shapes;
mod source;
mod tuning;
mod weights;
mod workspace;

pub use checkpoint::hub::HubModel;
pub use config::{
    ConfigOverrides, GenerationConfig, GenerationKeys, ModelConfig, PoolingConfig, RopeConfig, RopeScaling,
    Yarn,
};
pub use error::ModelError;
pub use families::{HeadNorm, NormPlacement, NormWeights, Scales, Traits};
pub use load::{LoadedModel, Progress, ResolvedModel, Warning};
pub use memory::{DoesNotFit, KvBudget, MaxModelLen, MemoryPlan, MemoryRequest, RequestBudget};
pub use options::{KvCacheChoice, LoadFormat, LoadOptions, WeightType};
pub use quantization::OnlineQuantization;
pub use runner::{Runner, RunnerLimits};
pub use source::ModelSource;
pub use tuning::ProjectionBench;
pub use weights::WeightForm;
