//! The conformance suite on simulated devices, with activations of 32 bits: every type is then multiplied as a sum of
//! terms by the same matrix instructions, so that nothing but the order of sums may differ from the reference.

use octet_backend::DataType;
use octet_conformance::Claims;
use octet_float8::Float8Format;
use octet_gpu::{ActivationType, GpuBackend, GpuOptions};

use crate::simulator::backend;

fn claims() -> Claims {
    Claims {
        int8_weights: false,
        float8_weights: vec![Float8Format::E4M3, Float8Format::E5M2],
        activation_type: DataType::F32,
        // Queries and probabilities are bf16.
        attention_rounding: 1.0 / 512.0,
        batch_invariant: false,
    }
}

/// Recorded steps are for callers that give a key one meaning; the suite gives it several.
fn exact() -> GpuOptions {
    GpuOptions { activations: ActivationType::F32, without_graphs: true, ..GpuOptions::default() }
}

/// As models run: activations of 16 bits, and FP8 times FP8 where the checkpoint foresees it.
#[test]
fn float8_times_float8_is_what_the_oracle_quantizes() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let options = GpuOptions { without_graphs: true, ..GpuOptions::default() };
    for device in ["gfx942", "gfx950", "gfx1201"] {
        octet_conformance::float8_inputs(&mut backend(device, &options));
    }
}

/// Waves of 64 and of 32.
#[test]
fn sampling_gfx942() {
    octet_unrun::needs!(octet_hipsim::compiler());
    octet_conformance::sample(&mut backend("gfx942", &exact()));
}

#[test]
fn sampling_gfx1100() {
    octet_unrun::needs!(octet_hipsim::compiler());
    octet_conformance::sample(&mut backend("gfx1100", &exact()));
}

/// A test for each part and device, so that they run beside each other and a failure names its place.
macro_rules! parts {
    ($device:ident: $($part:ident),*) => {
        mod $device {
            use super::*;

            $(#[test]
            fn $part() {
                octet_unrun::needs!(octet_hipsim::compiler());
                let mut backend: GpuBackend = backend(stringify!($device), &exact());
                octet_conformance::$part(&claims(), &mut backend);
            })*
        }
    };
}

parts!(gfx942: kept_weights, embed, rms_norm, join, linear, gated_linear, rotary, stored_values, attention, logits, errors);
parts!(gfx1100: kept_weights, embed, rms_norm, join, linear, gated_linear, rotary, stored_values, attention, logits, errors);
