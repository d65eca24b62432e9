//! The CPU backend through its public interface.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod allocation;

use octet_cpu::{CpuBackend, CpuOptions, Isa, PoolOptions, ThreadBinding};

/// A backend whose threads are not bound, so that tests can run side by side.
fn backend(isa: Isa, workers: usize) -> CpuBackend {
    let threads = PoolOptions { workers: Some(workers), binding: ThreadBinding::Unbound, reserved_cores: 0 };
    CpuBackend::new(&CpuOptions { threads, isa: Some(isa.name().to_owned()) }).unwrap()
}
