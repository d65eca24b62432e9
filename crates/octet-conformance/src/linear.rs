//! Linears: what a packed weight keeps, products, and independence of the batch.

use octet_backend::{Backend, DataType, LinearUse, ScaleShape, TensorRole};
use octet_float8::Float8Format;
use octet_reference::ReferenceBackend;

use crate::compare::{Found, sum_error};
use crate::device::{DIFFERENT_ROWS, MOST_ROWS, ROWS, begin_rows, filled, read, repeated, undefined};
use crate::host_weight::{HostLinear, HostWeight, weight_kinds};
use crate::random::Random;
use crate::{Claims, WIDE_TYPES};

/// Input and output features: multiples of every register width, of none, smaller than a tile, head dims 80 and 96,
/// a long sum, a wide output.
const SHAPES: [(usize, usize); 8] =
    [(16, 16), (80, 96), (96, 80), (33, 517), (517, 35), (768, 130), (2048, 24), (24, 1000)];

/// Multiplies `input [rows, in]` and returns `[rows, out]`, as they are kept in a tensor of this role.
pub(crate) fn multiply<B: Backend>(
    backend: &mut B,
    weight: &B::Linear,
    features: (usize, usize),
    input: &[f32],
    role: TensorRole,
) -> Vec<f32> {
    let rows = input.len() / features.0;
    let input = filled(backend, TensorRole::Activation, features.0, input);
    let mut output = undefined(backend, role, rows, features.1);
    begin_rows(backend, rows);
    backend.linear(weight, &input, &mut output).expect("a linear");
    read(backend, &output, rows)
}

/// The reference's results for `input`, and the sums of absolute products that their tolerance is relative to.
pub(crate) fn expected_products(linear: &HostLinear, input: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let mut reference = ReferenceBackend::new();
    let features = (linear.columns(), linear.rows());
    let weight = linear.load(&mut reference);
    let products = multiply(&mut reference, &weight, features, input, TensorRole::Activation);
    let absolute: Vec<f32> = input.iter().map(|value| value.abs()).collect();
    let weight = linear.absolute().load(&mut reference);
    (products, multiply(&mut reference, &weight, features, &absolute, TensorRole::Activation))
}

/// A linear of this shape: some as three fused parts with a bias, as a model's queries, keys and values are.
fn some_linear(
    random: &mut Random,
    kind: (DataType, ScaleShape),
    (columns, rows): (usize, usize),
) -> HostLinear {
    let fused = rows % 2 == 0 && rows > 16;
    let parts = if fused { vec![rows / 2, rows / 4, rows - rows / 2 - rows / 4] } else { vec![rows] };
    let usage = if rows > 512 { LinearUse::EmbedAndMultiply } else { LinearUse::Multiply };
    HostLinear {
        parts: parts.into_iter().map(|rows| HostWeight::random(random, kind, rows, columns)).collect(),
        target: kind.0,
        usage,
        bias: fused.then(|| random.bells(rows)),
    }
}

/// `linear` against the reference: all types and scales, odd shapes, fused parts, bias, wide outputs.
///
/// # Panics
/// Where they disagree.
pub fn linear<B: Backend>(claims: &Claims, backend: &mut B) {
    let mut random = Random::new(3);
    for kind in weight_kinds(claims) {
        for shape in SHAPES {
            let linear = some_linear(&mut random, kind, shape);
            let input = random.bells_in(claims.activation_type, DIFFERENT_ROWS * shape.0);
            let (products, magnitudes) = expected_products(&linear, &input);
            let (products, magnitudes) = (repeated(shape.1, &products), repeated(shape.1, &magnitudes));
            let input = repeated(shape.0, &input);
            let weight = linear.load(backend);
            for rows in ROWS {
                let what = format!("linear of {rows} rows, {shape:?} features, {kind:?}");
                let output =
                    multiply(backend, &weight, shape, &input[..rows * shape.0], TensorRole::Activation);
                let found = Found { what: &what, columns: shape.1, values: &output };
                found.is_near(&products[..rows * shape.1], |index| {
                    sum_error(shape.0) * f64::from(magnitudes[index])
                });
            }
            // As a head's.
            let output = multiply(backend, &weight, shape, &input[..5 * shape.0], TensorRole::Logits);
            let what = format!("logits of 5 rows, {shape:?} features, {kind:?}");
            Found { what: &what, columns: shape.1, values: &output }
                .is_near(&products[..5 * shape.1], |index| sum_error(shape.0) * f64::from(magnitudes[index]));
        }
    }
}

/// What is kept of each element, to the bit, read back through one-hot inputs: conversions, every FP8 code, windows of
/// wider matrices, every kind of scale.
///
/// # Panics
/// Where another value was kept.
pub fn kept_weights<B: Backend>(claims: &Claims, backend: &mut B) {
    let mut random = Random::new(4);
    for stored in WIDE_TYPES {
        for target in WIDE_TYPES {
            let part = HostWeight::random(&mut random, (stored, ScaleShape::None), 37, 48);
            let more = HostWeight::random(&mut random, (stored, ScaleShape::None), 19, 48);
            let parts = vec![part.within_a_wider_matrix(5), more];
            let linear = HostLinear { parts, target, usage: LinearUse::Multiply, bias: None };
            expect_kept(claims, backend, &linear, &format!("{stored} kept as {target}"));
        }
    }
    for &format in &claims.float8_weights {
        let linear = HostLinear::of(HostWeight::all_codes(format, 21), LinearUse::Multiply);
        expect_kept(claims, backend, &linear, &format!("every code of {format}"));
        for kind in [
            ScaleShape::Tensor,
            ScaleShape::Channel,
            ScaleShape::Block { rows: 16, columns: 32 },
            ScaleShape::Block { rows: 128, columns: 128 },
        ] {
            let parts = [(144, 5), (40, 0)].map(|(rows, gap)| {
                HostWeight::random(&mut random, (DataType::F8(format), kind), rows, 144)
                    .within_a_wider_matrix(gap)
            });
            let (target, usage) = (DataType::F8(format), LinearUse::Multiply);
            let linear = HostLinear { parts: parts.to_vec(), target, usage, bias: None };
            expect_kept(claims, backend, &linear, &format!("{format} with {kind:?} scales"));
        }
    }
    ties_to_even(claims, backend);
}

/// Values that lie halfway between two of the target: rounding that only looks right on random numbers shows.
fn ties_to_even<B: Backend>(claims: &Claims, backend: &mut B) {
    let halves = |bits: i32| (0..64).map(move |step| 1.0 + step as f32 * 2f32.powi(-bits - 1));
    for (target, bits) in [(DataType::BF16, 7), (DataType::F16, 10)] {
        let values: Vec<f32> = halves(bits).chain(halves(bits).map(|value| -value)).collect();
        let weight = HostWeight::new(DataType::F32, 16, &values);
        let linear = HostLinear { target, ..HostLinear::of(weight, LinearUse::Multiply) };
        expect_kept(claims, backend, &linear, &format!("ties of {target}"));
    }
}

fn expect_kept<B: Backend>(claims: &Claims, backend: &mut B, linear: &HostLinear, what: &str) {
    let features = (linear.columns(), linear.rows());
    let mut one_hot = vec![0.0; features.0 * features.0];
    one_hot.iter_mut().step_by(features.0 + 1).for_each(|value| *value = 1.0);
    let mut reference = ReferenceBackend::new();
    let weight = linear.load(&mut reference);
    let expected = multiply(&mut reference, &weight, features, &one_hot, TensorRole::Activation);
    let weight = linear.load(backend);
    let output = multiply(backend, &weight, features, &one_hot, TensorRole::Activation);
    let found = Found { what, columns: features.1, values: &output };
    if claims.activation_type == DataType::F32 || linear.target != DataType::F32 {
        found.is_exactly(&expected);
    } else {
        // A device that multiplies 16 bits may round `f32` weights too.
        found.is_near(&expected, |index| f64::from(expected[index].abs()) / 256.0);
    }
}

/// A row's product is the same to the bit alone and among others, wherever it stands.
///
/// # Panics
/// Where it is not, for a backend that claims it.
pub fn linear_invariance<B: Backend>(claims: &Claims, backend: &mut B) {
    if !claims.batch_invariant {
        return;
    }
    let mut random = Random::new(5);
    let shapes = [(96, 80), (517, 35), (768, 130)];
    let float8 = claims.float8_weights.contains(&Float8Format::E4M3);
    let block = (DataType::F8(Float8Format::E4M3), ScaleShape::Block { rows: 128, columns: 128 });
    let kinds =
        WIDE_TYPES.map(|data_type| (data_type, ScaleShape::None)).into_iter().chain(float8.then_some(block));
    for kind in kinds {
        for shape in shapes {
            let linear = some_linear(&mut random, kind, shape);
            let weight = linear.load(backend);
            let input = random.bells(MOST_ROWS * shape.0);
            let whole = multiply(backend, &weight, shape, &input, TensorRole::Activation);
            for rows in ROWS {
                // Ends of the batch, so that each row also meets other tiles than before.
                let skipped = MOST_ROWS - rows;
                let output =
                    multiply(backend, &weight, shape, &input[skipped * shape.0..], TensorRole::Activation);
                let what = format!("the last {rows} of {MOST_ROWS} rows, {shape:?} features, {kind:?}");
                let found = Found { what: &what, columns: shape.1, values: &output };
                found.is_to_the_bit(&whole[skipped * shape.1..]);
            }
        }
    }
}
