//! Every operation against the reference, on every instruction set that this machine has.

use octet_conformance::Claims;
use octet_cpu::{CpuBackend, CpuOptions, Isa, PoolOptions, ThreadBinding};

fn backend(isa: Isa, workers: usize) -> CpuBackend {
    let threads = PoolOptions { workers: Some(workers), binding: ThreadBinding::Unbound, reserved_cores: 0 };
    CpuBackend::new(&CpuOptions { threads, isa: Some(isa.name().to_owned()) }).unwrap()
}

#[test]
fn operations_agree_with_the_reference() {
    for isa in Isa::available() {
        octet_conformance::all(&Claims::f32_activations(), || backend(isa, 2));
    }
}
