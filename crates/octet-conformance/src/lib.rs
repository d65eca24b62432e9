//! Every operation of a backend, held against the reference.
//!
//! A backend's tests call [`all`] with a way to make the backend and its [`Claims`]: what it can store and how it
//! rounds. Each operation then runs over element types, scales and odd shapes, on the backend and on
//! [`octet_reference::ReferenceBackend`], and the first number that differs by more than rounding can explain ends
//! the test with its place, both values and the tolerance. The parts can be called one by one.
//!
//! # How tight the comparison is
//!
//! The reference sums in `f64` and rounds once. A sum of `k` products in `f32`, in whatever order, differs from that
//! by at most about `k * 2^-24` of the sum of their magnitudes, and this is what a linear is allowed: less than the
//! mean product while `k < 4096`, so that one lost or doubled product shows. Where exactness is possible it is
//! demanded: one-hot inputs read a packed weight back to the bit, a sequence of one token reads a value back through
//! the cache.
//!
//! Inputs come from a generator with fixed seeds, in the type to which the backend rounds activations
//! ([`Claims::activation_type`]), so that this rounding is no part of what is compared.
//!
//! What a cache or an output held before is filled with NaN, so that it cannot leak into a result unseen.
#![forbid(unsafe_code)]

use octet_backend::{Backend, DataType};
use octet_float8::Float8Format;

mod agreement;
mod attention;
mod compare;
mod device;
mod embed;
mod errors;
mod float8_inputs;
mod gated;
mod host_weight;
mod linear;
mod logits;
mod norm;
mod random;
mod rotary;
mod sample;
mod scenario;

pub use agreement::agreement;
pub use attention::{attention, attention_invariance, stored_values};
pub use embed::embed;
pub use errors::errors;
pub use float8_inputs::float8_inputs;
pub use gated::gated_linear;
pub use linear::{kept_weights, linear, linear_invariance};
pub use logits::logits;
pub use norm::{join, rms_norm};
pub use rotary::rotary;
pub use sample::{sample, sample_vocabulary};

/// Floating types of weights that every backend must be able to keep.
const WIDE_TYPES: [DataType; 3] = [DataType::F32, DataType::F16, DataType::BF16];

/// What a backend says of itself, and what it is then held to.
#[derive(Clone, Debug)]
pub struct Claims {
    /// FP8 formats that weights can be kept in, besides `f32`, `f16` and `bf16`.
    pub float8_weights: Vec<Float8Format>,
    /// Whether weights can be kept in eight-bit integers too.
    pub int8_weights: bool,
    /// What an activation is rounded to before it is multiplied: `f32`, or `bf16` where the device multiplies that.
    pub activation_type: DataType,
    /// Relative rounding error of queries and of attention's probabilities: 0 for `f32`, `2^-9` for `bf16`.
    pub attention_rounding: f64,
    /// Whether a row's result is the same to the bit in whatever batch and chunk it is computed.
    pub batch_invariant: bool,
}

impl Claims {
    /// A backend that keeps activations in `f32` throughout, whatever the type of its weights.
    #[must_use]
    pub fn f32_activations() -> Self {
        Self {
            float8_weights: vec![Float8Format::E4M3, Float8Format::E5M2],
            int8_weights: true,
            activation_type: DataType::F32,
            attention_rounding: 0.0,
            batch_invariant: true,
        }
    }
}

/// Runs everything.
///
/// # Panics
/// Where the backend and the reference disagree.
pub fn all<B: Backend>(claims: &Claims, make: impl Fn() -> B) {
    let parts: [fn(&Claims, &mut B); 13] = [
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
        errors,
    ];
    for part in parts {
        part(claims, &mut make());
    }
}
