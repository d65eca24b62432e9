//! The gated linear of the MLP.

use octet_backend::{Activation, Backend, LinearUse, TensorRole};
use octet_reference::ReferenceBackend;

use crate::Claims;
use crate::compare::{ELEMENTARY, Found, sum_error};
use crate::device::{DIFFERENT_ROWS, begin_rows, filled, read, repeated, undefined};
use crate::host_weight::{HostLinear, HostWeight, weight_kinds};
use crate::linear::expected_products;
use crate::random::Random;

/// Input features and features of gate and of up.
const SHAPES: [(usize, usize); 5] = [(16, 16), (80, 96), (517, 35), (768, 72), (96, 259)];

/// Rows that are tried: the products below are the linear's, which is tried with more.
const ROWS_OF_GATES: [usize; 6] = [1, 2, 6, 7, 17, 130];

/// Neither activation is steeper than this anywhere (GELU by tanh at 1.4 reaches 1.129).
const STEEPEST: f64 = 1.13;

pub(crate) fn run<B: Backend>(
    backend: &mut B,
    weight: &B::Linear,
    activation: Activation,
    features: (usize, usize),
    input: &[f32],
) -> Vec<f32> {
    let rows = input.len() / features.0;
    let input = filled(backend, TensorRole::Activation, features.0, input);
    let mut output = undefined(backend, TensorRole::Activation, rows, features.1);
    begin_rows(backend, rows);
    backend.gated_linear(weight, activation, &input, &mut output).expect("a gated linear");
    read(backend, &output, rows)
}

/// `gated_linear` against the reference, and its rows to the bit alone and in company.
///
/// # Panics
/// Where they disagree.
pub fn gated_linear<B: Backend>(claims: &Claims, backend: &mut B) {
    let mut random = Random::new(6);
    for kind in weight_kinds(claims) {
        for (index, shape) in SHAPES.into_iter().enumerate() {
            // Gates of several units, where the activations bend.
            let parts = [(); 2].map(|()| HostWeight::random(&mut random, kind, shape.1, shape.0));
            let bias = (index % 2 == 1).then(|| random.bells(2 * shape.1));
            let linear = HostLinear { parts: parts.to_vec(), target: kind.0, usage: LinearUse::Gated, bias };
            let mut different = random.bells_in(claims.activation_type, DIFFERENT_ROWS * shape.0);
            different.iter_mut().for_each(|value| *value *= 4.0);
            let input = repeated(shape.0, &different);
            let weight = linear.load(backend);
            for activation in [Activation::Silu, Activation::GeluTanh] {
                let (expected, tolerances) = expect(&linear, activation, shape, &different);
                let expected = repeated(shape.1, &expected);
                let whole = run(backend, &weight, activation, shape, &input);
                for rows in ROWS_OF_GATES {
                    let what = format!("gated linear of {rows} rows, {shape:?}, {activation:?}, {kind:?}");
                    let output = run(backend, &weight, activation, shape, &input[..rows * shape.0]);
                    let found = Found { what: &what, columns: shape.1, values: &output };
                    found.is_near(&expected[..rows * shape.1], |index| tolerances[index % tolerances.len()]);
                    if claims.batch_invariant {
                        found.is_to_the_bit(&whole[..rows * shape.1]);
                    }
                }
            }
        }
    }
}

/// The reference's results, and what the rounding of gate, up and activation allows:
/// `|activation'| * error(gate) * |up| + |activation(gate)| * error(up) + error(activation) * |gate * up|`.
fn expect(
    linear: &HostLinear,
    activation: Activation,
    features: (usize, usize),
    input: &[f32],
) -> (Vec<f32>, Vec<f64>) {
    let mut reference = ReferenceBackend::new();
    let weight = linear.load(&mut reference);
    let expected = run(&mut reference, &weight, activation, features, input);
    let multiply = HostLinear {
        parts: linear.parts.clone(),
        target: linear.target,
        usage: LinearUse::Multiply,
        bias: linear.bias.clone(),
    };
    let (products, magnitudes) = expected_products(&multiply, input);
    let error = sum_error(features.0);
    let tolerances = (0..expected.len()).map(|index| {
        let gate = index / features.1 * 2 * features.1 + index % features.1;
        let [gate, up] = [gate, gate + features.1]
            .map(|at| (f64::from(products[at].abs()), error * f64::from(magnitudes[at])));
        // |activation(gate)| is at most |gate|.
        STEEPEST * gate.1 * (up.0 + up.1) + gate.0 * up.1 + ELEMENTARY * gate.0 * up.0
    });
    let tolerances = tolerances.collect();
    (expected, tolerances)
}
