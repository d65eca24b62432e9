//! The CPU backend: every operation of a decoder on vectors of whatever instruction set the processor has.
//!
//! - [`CpuBackend`] carries out the seam's operations; [`CpuOptions`] say on how many threads, and with which
//!   instructions.
//! - [`Isa`] is asked of the processor once, at start. Kernels are written once, over the sixteen-lane vector of
//!   `simd`, compiled for each set, and give the same bits on all.
//! - [`Pool`] keeps pinned workers that spin between the operations of a step and park when there is nothing to do.
//! - `kernels/linear` multiplies packed weights, `kernels/attention` reads the paged cache, and the rest of `kernels`
//!   is a file for each operation.
//! - `tuning` offers schedules of products to a tuner and keeps what was chosen.
//! - `memory` has aligned buffers on huge pages, and the limits of the control group.
//!
//! # The life of a backend
//!
//! 1. [`CpuBackend::new`] reads the affinity mask and the quota, starts the workers, and chooses instructions.
//! 2. Weights are packed by the workers that will read them, in the order in which kernels read them; the cache and
//!    the workspace are mapped.
//! 3. Each step, operations run one after another: fork, compute, join. What layers share (the plan of attention,
//!    cosines and sines) is made once a step. Nothing is allocated after the first steps.
//! 4. Dropping it ends the workers and frees the caller from its CPU.
//!
//! # Invariant
//!
//! A row's result depends on that row alone, to the bit: every sum is a chain in one fixed order, whatever the batch,
//! the chunks of a prefill or the number of workers. Instruction sets that multiply in the same arithmetic agree too.

// Pairs and tiles are x86-64's: elsewhere their kernels are compiled for tests alone.
#![cfg_attr(not(any(test, target_arch = "x86_64")), allow(dead_code, unused_imports, unused_variables))]

mod backend;
mod cgroup;
mod error;
mod isa;
mod kernels;
mod memory;
mod roofline;
mod simd;
mod threads;
mod tuning;

pub use backend::{CpuBackend, CpuLinear, CpuOptions, CpuRope, CpuTensor, CpuVector};
pub use error::CpuError;
pub use isa::{ISA_VARIABLE, Isa};
pub use kernels::cache::CpuKvCache;
pub use memory::last_cache_bytes;
pub use roofline::Roofline;
pub use threads::{Pool, PoolOptions, ThreadBinding};
