//! FP8 by FP8 through the simulator's hipBLASLt, in both forms of scales. Other products are tested where they are used.

use half::bf16;
use octet_backend::DataType;
use octet_float8::Float8Format;

use super::{BlasOptions, Description, Library, Operands, Product, solution_name};
use crate::driver::{Device, DeviceBuffer, Stream};
use crate::{Kind, Runtime};
use std::process::Command;
use std::sync::Arc;

const FEATURES: usize = 48;
const K: usize = 64;
const ROWS: usize = 5;
/// A workspace in which two of the simulator's solutions have no room.
const WORKSPACE_BYTES: usize = 1 << 20;

fn device(architecture: &str) -> Device {
    let path = octet_hipsim::library_path().expect("Cargo builds the simulator beside the test");
    let runtime = Runtime::load(Kind::Hip, Some(&path)).unwrap();
    let devices = runtime.devices().unwrap();
    let found = devices.iter().find(|device| device.architecture == architecture).unwrap();
    runtime.open(found.index).unwrap()
}

/// Small numbers, whose products and sums are exact.
fn numbers(count: usize, modulus: usize) -> Vec<f32> {
    (0..count).map(|index| (index * 7 % modulus) as f32 - (modulus / 2) as f32).collect()
}

fn floats(stream: &Stream, values: &[f32]) -> DeviceBuffer {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    DeviceBuffer::holding(stream, "floats", &bytes).unwrap()
}

/// Multiplies by every solution and compares with a scalar product.
fn multiply_float8(architecture: &str, format: Float8Format, version: &str) {
    let device = device(architecture);
    let stream = Stream::new(&device).unwrap();
    let options = BlasOptions { workspace_bytes: Some(WORKSPACE_BYTES), ..BlasOptions::default() };
    let library = Arc::new(Library::open(&device, &options).unwrap());
    assert!(library.describe().contains(version), "{}", library.describe());
    let description = Description {
        features: FEATURES,
        k: K,
        output_stride: 64,
        operand: DataType::F8(format),
        output: DataType::BF16,
        has_scales: true,
        has_bias: false,
    };
    let mut product = Product::new(&library, description).unwrap().unwrap();
    let (weight, input) = (numbers(FEATURES * K, 5), numbers(ROWS * K, 3));
    let codes = |values: &[f32]| -> Vec<u8> { values.iter().map(|value| format.encode(*value)).collect() };
    let scales = |count: usize| -> Vec<f32> { (0..count).map(|at| 2f32.powi((at % 5) as i32 - 2)).collect() };
    let (weight_scales, input_scales) = (scales(FEATURES), scales(ROWS));
    let buffers = [codes(&weight), codes(&input), vec![0; ROWS * 64 * 2]]
        .map(|bytes| DeviceBuffer::holding(&stream, "a matrix", &bytes).unwrap());
    let scale_buffers = [floats(&stream, &weight_scales), floats(&stream, &input_scales)];
    let operands = Operands {
        weight: buffers[0].address(),
        input: buffers[1].address(),
        output: buffers[2].address(),
        bias: 0,
        weight_scales: scale_buffers[0].address(),
        input_scales: scale_buffers[1].address(),
    };
    let solutions = product.solutions(ROWS, 100).unwrap();
    assert_eq!(solutions.len(), 2, "those that take 48 features and need no large workspace");
    for algorithm in &solutions {
        // SAFETY: the buffers are of the description's shapes and outlive the wait.
        unsafe { product.multiply(&stream, ROWS, &operands, algorithm).unwrap() };
        let mut bytes = vec![0u8; ROWS * 64 * 2];
        buffers[2].read(&stream, 0, &mut bytes).unwrap();
        for (row, feature) in (0..ROWS).flat_map(|row| (0..FEATURES).map(move |feature| (row, feature))) {
            let pairs = weight[feature * K..][..K].iter().zip(&input[row * K..][..K]);
            let sum: f32 = pairs.map(|(left, right)| left * right).sum();
            let right = bf16::from_f32(sum * weight_scales[feature] * input_scales[row]);
            let at = 2 * (row * 64 + feature);
            let found = bf16::from_le_bytes([bytes[at], bytes[at + 1]]);
            assert_eq!(found, right, "{row}, {feature} by {}", solution_name(Kind::Hip, algorithm));
        }
    }
}

#[test]
fn float8_with_scales_of_rows_as_rocm_7_says_them() {
    multiply_float8("gfx942", Float8Format::E4M3Fnuz, "hipBLASLt 1.1.0");
    multiply_float8("gfx950", Float8Format::E4M3, "hipBLASLt 1.1.0");
}

/// The simulator reads which version it is from the environment, once: another version needs another process.
#[test]
fn float8_with_scales_of_rows_as_rocm_6_says_them() {
    const NAME: &str = "blas::tests::float8_with_scales_of_rows_as_rocm_6_says_them";
    const VARIABLE: &str = "OCTET_HIPSIM_ROCM";
    if std::env::var_os(VARIABLE).is_some() {
        multiply_float8("gfx942", Float8Format::E4M3Fnuz, "hipBLASLt 0.12.1");
        return;
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    let output = child.args([NAME, "--exact"]).env(VARIABLE, "6").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
