//! The GPU backend: AMD's devices by HIP, NVIDIA's by CUDA, kernels from one source in `kernels/`.
//!
//! # The life of a device
//!
//! 1. [`Runtime::load`] looks for the runtime's libraries when the program runs: there is no SDK at build time, and on a
//!    machine without a GPU an error says what was looked for where. [`survey`] does it for every runtime, for
//!    `octet devices`.
//! 2. [`Runtime::open`] gives a [`Device`]; [`GpuBackend::new`] makes it an `octet_backend::Backend`.
//! 3. Kernels are compiled while weights are loaded, each module on a thread of its own (`modules.rs`), for the
//!    architecture and the types in use, and kept on disk (`cache.rs`); never inside a step. Where there is no compiler,
//!    they come from a file that was made at release time (`bundle.rs`).
//!    A step that does not end within a limit is an error (`driver/wait.rs`).
//! 4. A step is one transfer of the batch and then kernels on one stream. Steps of decode rows alone are recorded as
//!    graphs by their key and replayed (`backend/step.rs`).
//!
//! # Types
//!
//! Activations are bf16, the residual and logits `f32`, sums `f32`. Weights stay as they are stored and are widened to
//! bf16 in registers: FP8 exactly, `f16` as a sum of two terms, `f32` of three. gfx94x keeps FP8 as FNUZ: the byte 0x80
//! becomes 0x00 and scales double.

mod architecture;
mod backend;
mod blas;
mod bundle;
mod cache;
mod driver;
mod end;
mod error;
mod kernels;
mod library;
mod modules;
mod survey;

pub use architecture::Architecture;
pub use backend::{
    ActivationType, GpuBackend, GpuKvCache, GpuLinear, GpuOptions, GpuRope, GpuTensor, GpuVector,
};
pub use blas::BlasOptions;
pub use bundle::BundleWriter;
pub use driver::{Activity, Device, DeviceReport, Kind, Runtime, device_was_lost};
pub use end::end_process;
pub use error::GpuError;
pub use kernels::{Compiled, ElementType, OfflineCompiler, Source};
pub use library::Attempt;
pub use survey::{RuntimeReport, survey};
