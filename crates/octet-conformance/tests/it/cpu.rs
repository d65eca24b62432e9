//! The CPU backend, on every instruction set that this machine has.

use std::panic::{AssertUnwindSafe, catch_unwind};

use octet_backend::DataType;
use octet_conformance::Claims;
use octet_cpu::{CpuBackend, CpuOptions, Isa, PoolOptions, ThreadBinding};

/// Runs one part of the suite on each instruction set, each with another number of workers: how work is divided must not
/// matter.
fn on_each(part: fn(&Claims, &mut CpuBackend)) {
    for (isa, workers) in Isa::available().into_iter().zip([3, 2, 1].into_iter().cycle()) {
        let mut backend = backend(isa, workers);
        let run = AssertUnwindSafe(|| part(&claims(isa), &mut backend));
        assert!(catch_unwind(run).is_ok(), "on {} with {workers} workers", isa.name());
    }
}

fn backend(isa: Isa, workers: usize) -> CpuBackend {
    let threads = PoolOptions { workers: Some(workers), binding: ThreadBinding::Unbound, reserved_cores: 0 };
    let options = CpuOptions { threads, isa: Some(isa.name().to_owned()) };
    CpuBackend::new(&options).expect("an instruction set that is available")
}

#[test]
fn the_number_of_workers_does_not_matter() {
    for isa in Isa::available() {
        octet_conformance::agreement(&mut backend(isa, 1), &mut backend(isa, 3));
    }
}

fn claims(isa: Isa) -> Claims {
    let claims = Claims::f32_activations();
    match isa.name() {
        // Its dot products take bfloat16.
        "avx512bf16" => Claims { activation_type: DataType::BF16, ..claims },
        // Its tiles do, of queries and of attention's weights too.
        "amx" => Claims { activation_type: DataType::BF16, attention_rounding: f64::exp2(-9.0), ..claims },
        _ => claims,
    }
}

macro_rules! conformance_on_each {
    ($($part:ident),*) => {
        $(
            #[test]
            fn $part() {
                on_each(octet_conformance::$part);
            }
        )*
    };
}

conformance_on_each!(
    kept_weights,
    embed,
    rms_norm,
    join,
    linear,
    linear_invariance,
    gated_linear,
    rotary,
    stored_values,
    attention,
    attention_invariance,
    logits,
    errors
);
