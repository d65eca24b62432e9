//! The reference held against itself: what must be invariant is, and the suite asks for nothing impossible.

use octet_conformance::Claims;
use octet_float8::Float8Format;
use octet_reference::ReferenceBackend;

/// Formats that other backends do not keep: theirs are computed here whenever they are tested.
fn claims() -> Claims {
    let float8_weights = vec![Float8Format::E4M3Fnuz, Float8Format::E5M2Fnuz];
    Claims { float8_weights, ..Claims::f32_activations() }
}

conformance!(claims(), ReferenceBackend::new());
