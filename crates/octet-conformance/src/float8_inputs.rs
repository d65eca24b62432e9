//! Linears whose inputs are quantized to FP8, for devices that multiply FP8 by FP8.
//!
//! The oracle quantizes alike: `octet_float8` makes codes and scales of the input's rows, and the reference multiplies
//! what these mean. Codes times codes are exact in 32 bits, so that a product differs by the order of its sum only.
//! Where the input is itself a result of the device (a norm, a gate), a value may fall between two codes otherwise than
//! the reference's; what the device wrote is then held to half a code's step, and the product to what it wrote.

use octet_backend::{
    Activation, Backend, DataType, InputScale, Join, LinearUse, Norm, RmsNorm, ScaleShape, TensorRole,
};
use octet_float8::scale::{quantize_rows, quantize_with_scale};
use octet_float8::{E4M3, Float8Format};
use octet_reference::ReferenceBackend;

use crate::compare::{Found, sum_error};
use crate::device::{begin_rows, filled, read, undefined};
use crate::gated::run as run_gated;
use crate::host_weight::{HostLinear, HostWeight};
use crate::linear::{expected_products, multiply};
use crate::random::Random;

/// Input and output features: a multiple of the padding of codes, below it, of nothing, a long sum.
const SHAPES: [(usize, usize); 4] = [(128, 48), (80, 96), (517, 35), (1536, 24)];

/// Rows for each of the kernels of a linear.
const ROWS: [usize; 4] = [1, 13, 40, 70];
const MOST_ROWS: usize = 70;

/// The rounding of 16 bits: gate and up are rounded before the activation, whose slope is below 1.13.
const SIXTEEN_BITS: f64 = 1.0 / 256.0;

/// Half the distance between neighbouring codes, relative to a value, and in the last place of subnormal ones.
fn half_step(value: f32, scale: f32) -> f64 {
    f64::from(value.abs()) / 16.0 + f64::from(scale) / 1024.0
}

/// What a row's codes mean.
fn quantized(values: &[f32], columns: usize, scale: InputScale) -> (Vec<f32>, Vec<f32>) {
    let mut codes = vec![0; values.len()];
    let mut scales = vec![0.0; values.len() / columns];
    match scale {
        InputScale::Dynamic => {
            quantize_rows::<E4M3, f32>(values, columns, &mut codes, &mut scales).expect("finite rows");
        }
        InputScale::Static(scale) => {
            quantize_with_scale::<E4M3, f32>(values, scale, &mut codes).expect("finite values");
            scales.fill(scale);
        }
    }
    let value = |(index, &code): (usize, &u8)| Float8Format::E4M3.decode(code) * scales[index / columns];
    (codes.iter().enumerate().map(value).collect(), scales)
}

/// Rows of different magnitudes, in bf16: one of zeros, one so small that its scale is the smallest.
fn rows_of_magnitudes(random: &mut Random, columns: usize) -> Vec<f32> {
    let mut input = random.bells(MOST_ROWS * columns);
    for (row, values) in input.chunks_mut(columns).enumerate() {
        let magnitude = [1.0, 0.0, 1e-4, 30.0, 0.2][row % 5];
        values.iter_mut().for_each(|value| *value *= magnitude);
    }
    input.iter().map(|&value| octet_reference::round_to(DataType::BF16, value)).collect()
}

fn some_linear(random: &mut Random, kind: ScaleShape, (columns, rows): (usize, usize)) -> HostLinear {
    let parts = [rows / 2, rows - rows / 2]
        .map(|rows| HostWeight::random(random, (DataType::F8(Float8Format::E4M3), kind), rows, columns));
    let target = DataType::F8(Float8Format::E4M3);
    HostLinear { parts: parts.to_vec(), target, usage: LinearUse::Multiply, bias: Some(random.bells(rows)) }
}

/// Products with inputs in FP8: quantized by the linear itself, by a norm and by a gated linear before it.
///
/// Only for devices that multiply FP8 by FP8; activations are bf16.
///
/// # Panics
/// Where the device and the oracle disagree.
pub fn float8_inputs<B: Backend>(backend: &mut B) {
    let mut random = Random::new(21);
    for kind in [ScaleShape::Tensor, ScaleShape::Channel] {
        // The static scale is too small for the largest rows: they are clamped.
        for scale in [InputScale::Dynamic, InputScale::Static(0.0625)] {
            for shape in SHAPES {
                let linear = some_linear(&mut random, kind, shape);
                let input = rows_of_magnitudes(&mut random, shape.0);
                let what = format!("linear of {shape:?} features, {kind:?}, inputs {scale:?}");
                plain(backend, &linear, (&input, scale), &what);
            }
        }
    }
    for scale in [InputScale::Dynamic, InputScale::Static(0.0625)] {
        for columns in [80, 517, 1536] {
            normed(backend, &mut random, columns, scale, false);
            normed(backend, &mut random, columns, scale, true);
            gated(backend, &mut random, columns, scale);
        }
    }
}

/// Multiplies quantized inputs; `input` is what their codes mean.
fn expect_products<B: Backend>(
    backend: &mut B,
    linear: &HostLinear,
    (wide, input, scale): (&[f32], &[f32], InputScale),
    what: &str,
) {
    let shape = (linear.columns(), linear.rows());
    let (products, magnitudes) = expected_products(linear, input);
    let weight = linear.load_with(backend, scale);
    for rows in ROWS {
        // As logits, which keep 32 bits.
        let output = multiply(backend, &weight, shape, &wide[..rows * shape.0], TensorRole::Logits);
        let what = format!("{rows} rows of a {what}");
        let found = Found { what: &what, columns: shape.1, values: &output };
        found.is_near(&products[..rows * shape.1], |index| sum_error(shape.0) * f64::from(magnitudes[index]));
    }
}

fn plain<B: Backend>(backend: &mut B, linear: &HostLinear, (input, scale): (&[f32], InputScale), what: &str) {
    let (means, _) = quantized(input, linear.columns(), scale);
    expect_products(backend, linear, (input, &means, scale), what);
}

/// Reads what a device wrote for `reader` and holds the reader's product to it.
fn read_and_multiply<B: Backend>(
    backend: &mut B,
    (reader, weight): (&HostLinear, &B::Linear),
    written: &B::Tensor,
    what: &str,
) -> Vec<f32> {
    let rows = ROWS[1];
    let means = read(backend, written, rows);
    let features = reader.rows();
    let mut output = undefined(backend, TensorRole::Logits, rows, features);
    backend.linear(weight, written, &mut output).expect("a linear");
    let (products, magnitudes) = expected_products(reader, &means);
    let products_of = format!("product of a {what}");
    let output = read(backend, &output, rows);
    Found { what: &products_of, columns: features, values: &output }
        .is_near(&products, |index| sum_error(reader.columns()) * f64::from(magnitudes[index]));
    means
}

/// A norm that writes what a linear of FP8 inputs reads, alone or as the end of a join.
fn normed<B: Backend>(backend: &mut B, random: &mut Random, columns: usize, scale: InputScale, joins: bool) {
    let rows = ROWS[1];
    let what = format!("norm of {columns} columns, inputs {scale:?}, in a join {joins}");
    let input = rows_of_magnitudes(random, columns)[..rows * columns].to_vec();
    let norm = random.bells(columns);
    let branch = joins.then(|| random.bells_in(DataType::BF16, rows * columns));
    let reader = some_linear(random, ScaleShape::Channel, (columns, 24));
    let (expected, _) = norm_of(&mut ReferenceBackend::new(), (&input, branch.as_deref()), &norm, None);
    let weight = reader.load_with(backend, scale);
    let (_, output) = norm_of(backend, (&input, branch.as_deref()), &norm, Some(&weight));
    let means = read_and_multiply(backend, (&reader, &weight), &output, &what);
    let (oracle, scales) = quantized(&expected, columns, scale);
    let found = Found { what: &what, columns, values: &means };
    found.is_near(&oracle, |index| {
        let near_a_tie = 2.0 * half_step(oracle[index], scales[index / columns]);
        if means[index] == oracle[index] { 0.0 } else { near_a_tie }
    });
    let off = |(found, expected): &(&f32, &f32)| (*found - *expected).abs() > expected.abs() * 1e-5;
    let differing = means.iter().zip(&oracle).filter(off).count();
    assert!(differing <= 1 + means.len() / 200, "{what}: {differing} of {} codes differ", means.len());
}

fn norm_of<B: Backend>(
    backend: &mut B,
    (input, branch): (&[f32], Option<&[f32]>),
    norm: &[f32],
    reader: Option<&B::Linear>,
) -> (Vec<f32>, B::Tensor) {
    let columns = norm.len();
    let rows = input.len() / columns;
    let mut input = filled(backend, TensorRole::Residual, columns, input);
    let mut output = undefined(backend, TensorRole::Activation, rows, columns);
    let weight = backend.load_vector(norm).expect("a vector");
    if let Some(reader) = reader {
        backend.prepare_input(&mut output, reader);
    }
    begin_rows(backend, rows);
    let norm = Norm { weight: &weight, epsilon: 1e-5 };
    match branch {
        None => backend.rms_norm(RmsNorm { input: &input, norm, output: &mut output }).expect("a norm"),
        Some(branch) => {
            let branch = filled(backend, TensorRole::Activation, columns, branch);
            let next = Some((norm, &mut output));
            let join = Join { residual: &mut input, branch: &branch, post_norm: None, scale: 1.0, next };
            backend.join(join).expect("a join");
        }
    }
    (read(backend, &output, rows), output)
}

/// A gated linear that writes what a linear of FP8 inputs reads.
fn gated<B: Backend>(backend: &mut B, random: &mut Random, features: usize, scale: InputScale) {
    const COLUMNS: usize = 64;
    let rows = ROWS[1];
    let what = format!("gate of {features} features, inputs {scale:?}");
    let parts =
        [(); 2].map(|()| HostWeight::random(random, (DataType::BF16, ScaleShape::None), features, COLUMNS));
    let linear = |usage| HostLinear { parts: parts.to_vec(), target: DataType::BF16, usage, bias: None };
    let input = random.bells_in(DataType::BF16, rows * COLUMNS);
    let mut reference = ReferenceBackend::new();
    let weight = linear(LinearUse::Gated).load(&mut reference);
    let shape = (COLUMNS, features);
    let expected = run_gated(&mut reference, &weight, Activation::Silu, shape, &input);
    let (products, _) = expected_products(&linear(LinearUse::Multiply), &input);
    let reader = some_linear(random, ScaleShape::Tensor, (features, 24));
    let reader_weight = reader.load_with(backend, scale);
    let weight = linear(LinearUse::Gated).load(backend);
    let input = filled(backend, TensorRole::Activation, COLUMNS, &input);
    let mut output = undefined(backend, TensorRole::Activation, rows, features);
    backend.prepare_input(&mut output, &reader_weight);
    begin_rows(backend, rows);
    backend.gated_linear(&weight, Activation::Silu, &input, &mut output).expect("a gated linear");
    let means = read_and_multiply(backend, (&reader, &reader_weight), &output, &what);
    let (_, scales) = quantized(&expected, features, scale);
    // Values beyond the largest code are clamped.
    let limit = |index: usize| 448.0 * scales[index / features];
    let clamped: Vec<f32> =
        expected.iter().enumerate().map(|(at, value)| value.clamp(-limit(at), limit(at))).collect();
    let rounding = |index: usize| {
        let at = index / features * 2 * features + index % features;
        let product = f64::from((products[at] * products[at + features]).abs());
        SIXTEEN_BITS * (2.3 * product + f64::from(expected[index].abs()))
    };
    Found { what: &what, columns: features, values: &means }.is_near(&clamped, |index| {
        // The scale is off by as much as the largest value of the row.
        half_step(clamped[index], scales[index / features])
            + rounding(index)
            + 2.3 * SIXTEEN_BITS * f64::from(clamped[index].abs())
    });
    // A tensor that was written so may be written wide again.
    let wide = linear(LinearUse::Multiply).load(backend);
    backend.prepare_input(&mut output, &wide);
    backend.gated_linear(&weight, Activation::Silu, &input, &mut output).expect("a gated linear");
    let again = read(backend, &output, rows);
    Found { what: &what, columns: features, values: &again }.is_near(&expected, rounding);
}
