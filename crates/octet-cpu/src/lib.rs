//! The CPU backend.

mod cgroup;
mod error;
mod memory;
mod threads;

pub use error::CpuError;
pub use threads::{Pool, PoolOptions, ThreadBinding};
