//! Every operation against the reference, on every instruction set that this machine has.

use octet_conformance::Claims;
use octet_cpu::Isa;

use crate::backend;

/// The set that users get, and the one that every machine has: what lies between is held to the portable one, to the
/// bit, by the tests beside the kernels.
#[test]
fn operations_agree_with_the_reference_on_the_best_instruction_set() {
    let isa = Isa::choose(None).unwrap();
    octet_conformance::all(&Claims::f32_activations(), || backend(isa, 2));
}

#[test]
fn operations_agree_with_the_reference_on_portable_code() {
    let isa = Isa::choose(Some("portable")).unwrap();
    octet_conformance::all(&Claims::f32_activations(), || backend(isa, 2));
}
