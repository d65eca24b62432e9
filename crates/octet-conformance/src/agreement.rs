//! Two backends that must give the same to the bit: one with fewer workers and one with more.

use octet_backend::{Activation, Backend, DataType, KvScale, LinearUse, ScaleShape, TensorRole};
use octet_float8::Float8Format;

use crate::attention::ragged;
use crate::compare::Found;
use crate::gated;
use crate::host_weight::{HostLinear, HostWeight};
use crate::linear::multiply;
use crate::random::Random;
use crate::scenario::{Heads, Layout};

/// Linears, gated linears and attention, with enough work to be divided.
///
/// # Panics
/// Where the two differ in a single bit.
pub fn agreement<A: Backend, B: Backend>(first: &mut A, second: &mut B) {
    let mut random = Random::new(13);
    for kind in [
        (DataType::BF16, ScaleShape::None),
        (DataType::F32, ScaleShape::None),
        (DataType::F8(Float8Format::E4M3), ScaleShape::Block { rows: 128, columns: 128 }),
        (DataType::F8(Float8Format::E4M3), ScaleShape::Channel),
    ] {
        let parts = [(); 2].map(|()| HostWeight::random(&mut random, kind, 131, 517));
        for rows in [1, 7, 40] {
            let input = random.bells(rows * 517);
            let what = format!("{rows} rows, {kind:?}");
            let of = |usage| HostLinear { parts: parts.to_vec(), ..HostLinear::of_nothing(kind.0, usage) };
            let linear = of(LinearUse::Multiply);
            let (one, other) = (linear.load(first), linear.load(second));
            let features = (517, 262);
            let expected = multiply(first, &one, features, &input, TensorRole::Activation);
            let values = &multiply(second, &other, features, &input, TensorRole::Activation);
            Found { what: &what, columns: features.1, values }.is_to_the_bit(&expected);
            let linear = of(LinearUse::Gated);
            let (one, other) = (linear.load(first), linear.load(second));
            let features = (517, 131);
            let expected = gated::run(first, &one, Activation::Silu, features, &input);
            let values = &gated::run(second, &other, Activation::Silu, features, &input);
            Found { what: &what, columns: features.1, values }.is_to_the_bit(&expected);
        }
    }
    for data_type in [DataType::BF16, DataType::F8(Float8Format::E4M3)] {
        same_attention(first, second, data_type);
    }
}

fn same_attention<A: Backend, B: Backend>(first: &mut A, second: &mut B, data_type: DataType) {
    let layout = Layout {
        kv_heads: 2,
        group: 4,
        head_dim: 128,
        block_size: 16,
        cap: None,
        window: None,
        data_type,
        scale: KvScale::ONE,
    };
    let scenario = ragged(layout, Heads::turned(128, 128, true));
    let columns = layout.query_heads() * layout.head_dim;
    for (one, other) in scenario.run(first).iter().zip(scenario.run(second)) {
        Found { what: "attention", columns, values: &other.output }.is_to_the_bit(&one.output);
    }
}
