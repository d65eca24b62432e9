//! The CPU backend.

mod backend;
mod cgroup;
mod error;
mod floor;
mod isa;
mod kernels;
mod memory;
mod simd;
mod threads;

pub use backend::{CpuBackend, CpuLinear, CpuOptions, CpuRope, CpuTensor, CpuVector};
pub use error::CpuError;
pub use floor::Floor;
pub use kernels::cache::CpuKvCache;
pub use isa::{ISA_VARIABLE, Isa};
pub use threads::{Pool, PoolOptions, ThreadBinding};
