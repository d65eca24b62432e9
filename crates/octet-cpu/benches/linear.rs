//! Products of real models' shapes against the floor of this machine.
//!
//! `cargo bench -p octet-cpu --bench linear -- [words]` runs the lines whose name contains all words, as in
//! `1b bf16 rows=1`; the word `workers=1` sets the number of threads. Weights were not just read: copies take turns. A
//! line gives the median and the shortest time, and which fraction of the floor measured beside it the shortest is;
//! on a quiet machine the two are close.
#![allow(clippy::print_stdout, reason = "a benchmark prints its results")]
#![allow(missing_docs, clippy::expect_used, reason = "a benchmark")]

use std::time::Instant;

use octet_backend::{
    Activation, Backend, Batch, DataType, LinearPart, LinearSpec, LinearUse, TensorRole, TensorSpec,
    WeightScale, WeightView,
};
use octet_cpu::{CpuBackend, CpuLinear, CpuOptions, CpuTensor};
use octet_float8::Float8Format;

/// Name, rows (output features), columns (input features), and whether gate and up become one.
const SHAPES: [(&str, usize, usize, bool); 9] = [
    ("1b qkv", 3072, 2048, false),
    ("1b o", 2048, 2048, false),
    ("1b gate_up", 16384, 2048, true),
    ("1b down", 2048, 8192, false),
    ("1b head", 128_256, 2048, false),
    ("160m qkv", 2304, 768, false),
    ("160m gate_up", 4096, 768, true),
    ("160m down", 768, 2048, false),
    ("160m head", 32_000, 768, false),
];

const ROWS: [usize; 7] = [1, 2, 4, 8, 16, 64, 512];

const TYPES: [(&str, DataType); 5] = [
    ("bf16", DataType::BF16),
    ("fp8", DataType::F8(Float8Format::E4M3)),
    ("int8", DataType::I8),
    ("f16", DataType::F16),
    ("f32", DataType::F32),
];

/// Bytes of weights that take turns: more than the last cache holds.
fn cold_bytes() -> usize {
    2 * octet_cpu::last_cache_bytes().max(96 << 20)
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let (settings, words): (Vec<_>, Vec<_>) =
        words.into_iter().partition(|word| word.starts_with("workers="));
    let mut options = CpuOptions::default();
    options.threads.workers =
        settings.first().map(|word| word["workers=".len()..].parse().expect("a number"));
    let mut backend = CpuBackend::new(&options).expect("the backend starts");
    println!("{:?}", backend.info());
    for (type_name, data_type) in TYPES {
        for shape in SHAPES {
            let rows: Vec<usize> = ROWS
                .into_iter()
                .filter(|rows| {
                    let name = format!("{} {type_name} rows={rows} ", shape.0);
                    words.iter().all(|word| name.contains(word.as_str()))
                })
                .collect();
            if !rows.is_empty() {
                run_shape(&mut backend, shape, (type_name, data_type), &rows);
            }
        }
    }
}

/// Loads copies of one weight and times all row counts.
fn run_shape(
    backend: &mut CpuBackend,
    (name, outputs, columns, gated): (&str, usize, usize, bool),
    (type_name, data_type): (&str, DataType),
    rows: &[usize],
) {
    let weights = load(backend, (outputs, columns, gated), data_type);
    let bytes = backend.linear_bytes(&weights[0]) as f64;
    let largest = rows.iter().copied().max().unwrap_or(1);
    let output_columns = if gated { outputs / 2 } else { outputs };
    let mut tensor = |columns| {
        let spec = TensorSpec { role: TensorRole::Activation, rows: largest, columns };
        backend.allocate(spec).expect("room for activations")
    };
    let (mut input, mut output) = (tensor(columns), tensor(output_columns));
    let values: Vec<f32> = (0..largest * columns).map(|index| (index % 61) as f32 / 61.0 - 0.5).collect();
    backend.write_tensor(&mut input, &values).expect("the tensor is large enough");
    for &rows in rows {
        let floor = backend.measure_roofline().expect("room for the floor");
        let mut batch = Batch::default();
        batch.push_sequence(&vec![0; rows], 0, &[0]);
        backend.begin_step(&batch).expect("the batch fits");
        let (middle, seconds) = times(backend, &weights, gated, (&input, &mut output));
        let operations = 2.0 * (rows * outputs * columns) as f64;
        println!(
            "{name:13} {type_name:5} rows={rows:<4} median {:9.1} us, best {:9.1} us {:6.2} GB/s {:6.1} GFLOP/s, \
             {:5.1} % of read {:5.1} % of peak, {:5.1} % of the floor",
            middle * 1e6,
            seconds * 1e6,
            bytes / seconds / 1e9,
            operations / seconds / 1e9,
            100.0 * bytes / seconds / floor.read_bytes_per_second,
            100.0 * operations / seconds / floor.operations_per_second,
            100.0 * floor.seconds(bytes, operations) / seconds,
        );
    }
}

/// As many copies of a weight as the cache cannot hold.
fn load(
    backend: &mut CpuBackend,
    (outputs, columns, gated): (usize, usize, bool),
    data_type: DataType,
) -> Vec<CpuLinear> {
    let bytes: Vec<u8> = (0..outputs * columns)
        .flat_map(|index| {
            let value = (index * 31 % 97) as f32 / 97.0 - 0.5;
            let (bits, size) = match data_type {
                DataType::F32 => (value.to_bits(), 4),
                DataType::F16 => (u32::from(half::f16::from_f32(value).to_bits()), 2),
                DataType::BF16 => (u32::from(half::bf16::from_f32(value).to_bits()), 2),
                DataType::F8(format) => (u32::from(format.encode(value * 448.0)), 1),
                DataType::I8 => (u32::from(((value * 254.0) as i8).cast_unsigned()), 1),
            };
            bits.to_le_bytes().into_iter().take(size)
        })
        .collect();
    let parts = if gated { 2 } else { 1 };
    let scale = if data_type.is_quantized() { WeightScale::Tensor(1.0 / 448.0) } else { WeightScale::None };
    let rows = outputs / parts;
    let parts: Vec<_> = bytes
        .chunks(bytes.len() / parts)
        .map(|bytes| WeightView { bytes, data_type, rows, columns, row_stride: columns })
        .map(|weight| LinearPart { weight, scale })
        .collect();
    let usage = if gated { LinearUse::Gated } else { LinearUse::Multiply };
    let spec = LinearSpec { data_type, usage, bias: None, input_scale: None };
    let copies = cold_bytes().div_ceil(bytes.len()).clamp(1, 256);
    (0..copies).map(|_| backend.load_linear(spec.clone(), &parts).expect("the weight is packed")).collect()
}

/// Median and least seconds of one product.
fn times(
    backend: &mut CpuBackend,
    weights: &[CpuLinear],
    gated: bool,
    (input, output): (&CpuTensor, &mut CpuTensor),
) -> (f64, f64) {
    let mut times = Vec::new();
    let begin = Instant::now();
    for weight in weights.iter().cycle() {
        let start = Instant::now();
        if gated {
            backend.gated_linear(weight, Activation::Silu, input, output).expect("the product is made");
        } else {
            backend.linear(weight, input, output).expect("the product is made");
        }
        times.push(start.elapsed().as_secs_f64());
        if times.len() > 2 && begin.elapsed().as_millis() > 500 {
            break;
        }
    }
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[0])
}
