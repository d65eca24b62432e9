//! The CPU backend.

mod cgroup;
mod error;
mod isa;
mod kernels;
mod memory;
mod simd;
mod threads;

pub use error::CpuError;
pub use isa::{ISA_VARIABLE, Isa};
pub use threads::{Pool, PoolOptions, ThreadBinding};
