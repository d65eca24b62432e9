//! The reference held against itself: what must be invariant is, and the suite asks for nothing impossible.

use octet_conformance::Claims;
use octet_float8::Float8Format;
use octet_reference::ReferenceBackend;

/// All four formats: there is no other backend yet that keeps FNUZ.
fn claims() -> Claims {
    Claims { float8_weights: Float8Format::ALL.to_vec(), ..Claims::f32_activations() }
}

conformance!(claims(), ReferenceBackend::new());
