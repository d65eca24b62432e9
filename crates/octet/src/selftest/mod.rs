//! `octet selftest`: every operation on the user's device against the scalar reference, with its error, its time and the
//! part of that which the device's own floor would take.
//!
//! It is how a device is brought up that nobody here has: its table is what belongs into a report of a fault.
//! `startup.rs` is the short form that every model goes through before it serves.

mod speed;
pub(crate) mod startup;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use octet_backend::{
    Activation, AttentionSpec, Backend, BackendError, Batch, DataType, KvCacheSpec, KvScale, LinearPart,
    LinearSpec, LinearUse, Norm, RmsNorm, RopeSpec, RotaryAndCache, TensorRole, TensorSpec, TunableBackend,
    WeightScale, WeightView,
};
use octet_float8::Float8Format;
use octet_reference::ReferenceBackend;

use crate::cli::Device;
use crate::device::{DevicePlan, DeviceTask};
use crate::report;
use crate::roofline::{PendingRoofline, Roofline};

/// Input and output features of linears.
const FEATURES: (usize, usize) = (512, 384);
/// Rows of steps: each kernel has a range of them.
const ROWS: [usize; 4] = [1, 16, 40, 130];
const MOST_ROWS: usize = 160;
const NORM_COLUMNS: usize = 4096;
const HEAD_DIM: usize = 128;
const QUERY_HEADS: usize = 8;
const KV_HEADS: usize = 2;
const BLOCK_SIZE: usize = 16;
/// What 16-bit activations may cost, relative to the largest result.
const ALLOWED: f32 = 1.0 / 64.0;
/// How often an operation is timed.
const REPETITIONS: u32 = 5;

/// One line of the table.
struct Line {
    name: String,
    /// The largest difference, relative to the largest expected value; nothing if only the time was asked for.
    error: Option<f32>,
    time: Duration,
    work: Work,
}

/// What an operation has to do at least.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Work {
    /// Bytes read and written, each operand once.
    bytes: f64,
    multiply_adds: f64,
}

/// An operation with its shape. Its numbers follow from it, the same on every device.
enum Case {
    /// RMS norm of 4096 columns.
    Norm { rows: usize },
    /// A linear, gated or not, with a scale for each channel or for blocks of 128.
    Linear { rows: usize, usage: LinearUse, data_type: DataType, has_blocks: bool },
    /// `rows` tokens after `context` others.
    Attention { data_type: DataType, context: usize, rows: usize },
}

/// Runs the test on the chosen device.
///
/// # Errors
/// The device is not there, an operation failed, or its results are wrong.
pub(crate) fn run(wanted: Device) -> Result<()> {
    let device = DevicePlan::plain(wanted)?;
    let has_times = matches!(&device, DevicePlan::Gpu(gpu, _) if !gpu.is_simulated());
    let lines = device.clone().run(Test { has_times })?;
    // A CPU's workers are free for the measurement now.
    conclude(&lines, PendingRoofline::of(&device)?.finish()?)
}

/// Every operation of a device, held against the reference.
struct Test {
    /// Whether to time those that are timed on GPUs alone.
    has_times: bool,
}

impl DeviceTask for Test {
    type Output = Vec<Line>;

    fn run<B: TunableBackend>(self, open: impl FnOnce() -> Result<B> + Send) -> Result<Vec<Line>> {
        let mut device = open()?;
        report::device(&device.info());
        let mut lines = test(&mut device)?;
        if self.has_times {
            lines.extend(speed::lines(&mut device)?);
        }
        Ok(lines)
    }
}

/// Holds every operation against the reference.
fn test<B: Backend>(device: &mut B) -> Result<Vec<Line>> {
    // What an activation takes.
    let activation_bytes = if device.info().kind == "cpu" { 4.0 } else { 2.0 };
    let mut reference = ReferenceBackend::new();
    let mut lines = Vec::new();
    for (name, case) in cases() {
        let (expected, _) = case.run(&mut reference, 1)?;
        let (found, time) = case.run(device, REPETITIONS)?;
        let error = Some(relative_error(&found, &expected));
        lines.push(Line { name, error, time, work: case.work(activation_bytes) });
    }
    Ok(lines)
}

/// Prints the table; an error if something in it is wrong.
fn conclude(lines: &[Line], floor: Option<Roofline>) -> Result<()> {
    report::result(&table(lines, floor))?;
    let wrong = lines.iter().filter(|line| !line.is_right()).count();
    if wrong > 0 {
        bail!("{wrong} of {} results are wrong: this device must not serve", lines.len());
    }
    Ok(())
}

fn cases() -> Vec<(String, Case)> {
    let e4m3 = DataType::F8(Float8Format::E4M3);
    let e5m2 = DataType::F8(Float8Format::E5M2);
    let mut cases = Vec::new();
    for rows in ROWS {
        cases.push((format!("norm [{rows}, {NORM_COLUMNS}]"), Case::Norm { rows }));
        for (data_type, has_blocks) in [
            (DataType::BF16, false),
            (DataType::F16, false),
            (DataType::F32, false),
            (e4m3, false),
            (e5m2, false),
            (e4m3, true),
        ] {
            for (what, usage) in [("linear", LinearUse::Multiply), ("gated linear", LinearUse::Gated)] {
                let blocks = if has_blocks { " in blocks" } else { "" };
                let (columns, features) = FEATURES;
                let name = format!("{what} {data_type}{blocks} [{rows}, {columns}] x {features}");
                cases.push((name, Case::Linear { rows, usage, data_type, has_blocks }));
            }
        }
    }
    for data_type in [DataType::BF16, e4m3, e5m2] {
        for (context, rows) in [(0, 130), (129, 1), (700, 1), (700, 20)] {
            let name = format!("attention, cache {data_type}, {rows} rows after {context}");
            cases.push((name, Case::Attention { data_type, context, rows }));
        }
    }
    cases
}

/// NaN if a value is.
fn relative_error(found: &[f32], expected: &[f32]) -> f32 {
    let largest = expected.iter().fold(f32::MIN_POSITIVE, |largest, value| largest.max(value.abs()));
    let differences = found.iter().zip(expected).map(|(found, expected)| (found - expected).abs());
    let worst =
        differences.fold(0.0f32, |worst, next| if next.is_nan() || next > worst { next } else { worst });
    if found.len() == expected.len() { worst / largest } else { f32::NAN }
}

impl Line {
    /// NaN is not.
    fn is_right(&self) -> bool {
        self.error.is_none_or(|error| error < ALLOWED)
    }
}

/// The lines, each with its part of the floor. Without one, as on a simulated device, times mean nothing and are left out.
fn table(lines: &[Line], floor: Option<Roofline>) -> String {
    let mut text = format!("{:62} {:>10} {:>12} {:>8}\n", "operation", "error", "time", "floor");
    for Line { name, error, time, work } in lines {
        let verdict = if error.is_none_or(|error| error < ALLOWED) { "" } else { "  WRONG" };
        let error = error.map_or_else(|| "-".to_owned(), |error| format!("{error:.2e}"));
        let (mut time_text, mut share_text) = ("-".to_owned(), "-".to_owned());
        if let Some(floor) = floor {
            let seconds = time.as_secs_f64();
            let share = floor.seconds(work.bytes, work.multiply_adds) / seconds;
            time_text = format!("{:.1} us", seconds * 1e6);
            share_text = format!("{:.1}%", 100.0 * share);
        }
        text.push_str(&format!("{name:62} {error:>10} {time_text:>12} {share_text:>8}{verdict}\n"));
    }
    match floor {
        Some(floor) => text.push_str(&format!(
            "floor: {:.3} TB/s and {:.2} TFLOP/s, measured by {}; small operations take longer to start than to run\n",
            floor.bytes_per_second / 1e12,
            2.0 * floor.multiply_add_per_second / 1e12,
            floor.measure.name()
        )),
        None => text.push_str("the device is simulated: its times mean nothing and are left out\n"),
    }
    text
}

/// Numbers from -1 to 1 (splitmix64), representable in 16 bits, so that their rounding is no part of the error.
fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let next = move |_| {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        // Seven bits and a sign: a bf16's mantissa.
        ((mixed >> 56) as f32 - 127.5) / 128.0
    };
    (0..count).map(next).collect()
}

fn filled<B: Backend>(
    device: &mut B,
    role: TensorRole,
    columns: usize,
    values: &[f32],
) -> Result<B::Tensor, BackendError> {
    let mut tensor = device.allocate(TensorSpec { role, rows: MOST_ROWS, columns })?;
    device.write_tensor(&mut tensor, values)?;
    Ok(tensor)
}

/// Begins a step of one sequence.
fn begin<B: Backend>(device: &mut B, computed: usize, rows: usize) -> Result<(), BackendError> {
    let mut batch = Batch::default();
    // Blocks in descending order, so that their order matters.
    let blocks: Vec<u32> =
        (0..(computed + rows).div_ceil(BLOCK_SIZE) as u32).map(|block| 60 - block).collect();
    batch.push_sequence(&vec![0; rows], computed, &blocks);
    batch.output_rows.push(rows as u32 - 1);
    device.begin_step(&batch)
}

/// Begins a step of `rows` rows, for operations that need no cache.
fn begin_rows<B: Backend>(device: &mut B, rows: usize) -> Result<(), BackendError> {
    let mut batch = Batch::default();
    batch.push_sequence(&vec![0; rows], 0, &(1..=rows.div_ceil(BLOCK_SIZE) as u32).collect::<Vec<u32>>());
    device.begin_step(&batch)
}

/// Runs `start` some times and waits; the time of each, and what `output` then holds.
fn timed<B: Backend>(
    device: &mut B,
    repetitions: u32,
    output: &mut B::Tensor,
    rows: usize,
    mut start: impl FnMut(&mut B, &mut B::Tensor) -> Result<(), BackendError>,
) -> Result<(Vec<f32>, Duration), BackendError> {
    start(device, output)?;
    // Reading waits for what was started.
    device.read_tensor(output, 1)?;
    let begun = Instant::now();
    for _ in 0..repetitions {
        start(device, output)?;
    }
    device.read_tensor(output, 1)?;
    let time = begun.elapsed() / repetitions;
    Ok((device.read_tensor(output, rows)?, time))
}

impl Case {
    /// What it has to do at least, with activations of `activation_bytes` each.
    fn work(&self, activation_bytes: f64) -> Work {
        match *self {
            Self::Norm { rows } => {
                // The residual is read, and the weight; the output is written.
                let bytes = (rows * NORM_COLUMNS) as f64 * (4.0 + activation_bytes);
                Work { bytes: bytes + 4.0 * NORM_COLUMNS as f64, multiply_adds: 0.0 }
            }
            Self::Linear { rows, usage, data_type, .. } => {
                let parts = if usage == LinearUse::Gated { 2 } else { 1 };
                linear_work((rows, FEATURES.0, parts * FEATURES.1), data_type, activation_bytes)
            }
            Self::Attention { data_type, context, rows } => {
                let cached = ((context + rows) * 2 * KV_HEADS * HEAD_DIM * data_type.bytes()) as f64;
                let moved = (rows * 2 * QUERY_HEADS * HEAD_DIM) as f64 * activation_bytes;
                // Of the step's own tokens each sees those before it: half of them, on average.
                let seen = rows as f64 * (context as f64 + (rows as f64 + 1.0) / 2.0);
                let multiply_adds = seen * (2 * QUERY_HEADS * HEAD_DIM) as f64;
                Work { bytes: cached + moved, multiply_adds }
            }
        }
    }

    fn run<B: Backend>(
        &self,
        device: &mut B,
        repetitions: u32,
    ) -> Result<(Vec<f32>, Duration), BackendError> {
        match *self {
            Self::Norm { rows } => norm(device, repetitions, rows),
            Self::Linear { rows, usage, data_type, has_blocks } => {
                linear(device, repetitions, rows, (usage, data_type, has_blocks))
            }
            Self::Attention { data_type, context, rows } => {
                attention(device, repetitions, data_type, (context, rows))
            }
        }
    }
}

fn norm<B: Backend>(
    device: &mut B,
    repetitions: u32,
    rows: usize,
) -> Result<(Vec<f32>, Duration), BackendError> {
    let input = filled(device, TensorRole::Residual, NORM_COLUMNS, &numbers(1, rows * NORM_COLUMNS))?;
    let mut output = filled(device, TensorRole::Activation, NORM_COLUMNS, &[])?;
    let weight = device.load_vector(&numbers(2, NORM_COLUMNS))?;
    begin(device, 0, rows)?;
    timed(device, repetitions, &mut output, rows, |device, output| {
        device.rms_norm(RmsNorm { input: &input, norm: Norm { weight: &weight, epsilon: 1e-5 }, output })
    })
}

/// The work of a product `[rows, columns] x features`.
fn linear_work(
    (rows, columns, features): (usize, usize, usize),
    data_type: DataType,
    activation_bytes: f64,
) -> Work {
    let weights = (columns * features * data_type.bytes()) as f64;
    let moved = (rows * (columns + features)) as f64 * activation_bytes;
    Work { bytes: weights + moved, multiply_adds: (rows * columns) as f64 * features as f64 }
}

fn linear<B: Backend>(
    device: &mut B,
    repetitions: u32,
    rows: usize,
    (usage, data_type, has_blocks): (LinearUse, DataType, bool),
) -> Result<(Vec<f32>, Duration), BackendError> {
    let (columns, features) = FEATURES;
    let parts = if usage == LinearUse::Gated { 2 } else { 1 };
    let stored: Vec<Vec<u8>> = (0..parts)
        .map(|part| {
            let values = numbers(3 + part, features * columns);
            values.into_iter().flat_map(|value| encoded(data_type, value)).collect()
        })
        .collect();
    let scale_count = if has_blocks { features.div_ceil(128) * columns.div_ceil(128) } else { features };
    let scales: Vec<f32> = numbers(5, scale_count).iter().map(|value| 0.1 + 0.02 * value).collect();
    let parts: Vec<LinearPart<'_>> = stored
        .iter()
        .map(|bytes| LinearPart {
            weight: WeightView { bytes, data_type, rows: features, columns, row_stride: columns },
            scale: match (data_type.is_float8(), has_blocks) {
                (false, _) => WeightScale::None,
                (true, false) => WeightScale::Channel(&scales),
                (true, true) => {
                    WeightScale::Block { scales: &scales, rows_per_block: 128, columns_per_block: 128 }
                }
            },
        })
        .collect();
    let bias = Some(numbers(6, features * parts.len()));
    let weight = device.load_linear(LinearSpec { data_type, usage, bias, input_scale: None }, &parts)?;
    let input = filled(device, TensorRole::Activation, columns, &numbers(7, rows * columns))?;
    let mut output = filled(device, TensorRole::Activation, features, &[])?;
    begin(device, 0, rows)?;
    timed(device, repetitions, &mut output, rows, |device, output| match usage {
        LinearUse::Gated => device.gated_linear(&weight, Activation::Silu, &input, output),
        _ => device.linear(&weight, &input, output),
    })
}

/// A number as a checkpoint stores it.
fn encoded(data_type: DataType, value: f32) -> Vec<u8> {
    match data_type {
        DataType::F32 => value.to_le_bytes().to_vec(),
        // Exact: seven bits of mantissa fit both.
        DataType::BF16 => value.to_le_bytes()[2..].to_vec(),
        DataType::F16 => half::f16::from_f32(value).to_le_bytes().to_vec(),
        DataType::F8(format) => vec![format.encode_saturating(value)],
        DataType::I8 => vec![((64.0 * value).round() as i8).cast_unsigned()],
    }
}

fn attention<B: Backend>(
    device: &mut B,
    repetitions: u32,
    data_type: DataType,
    (context, rows): (usize, usize),
) -> Result<(Vec<f32>, Duration), BackendError> {
    let width = (QUERY_HEADS + 2 * KV_HEADS) * HEAD_DIM;
    let spec = AttentionSpec {
        layer: 0,
        query_heads: QUERY_HEADS,
        scale: 0.09,
        score_cap: None,
        sliding_window: None,
    };
    let scale = if data_type.is_float8() { KvScale { key: 0.03, value: 0.02 } } else { KvScale::ONE };
    let mut cache = device.allocate_kv_cache(&KvCacheSpec {
        layers: 1,
        kv_heads: KV_HEADS,
        head_dim: HEAD_DIM,
        block_size: BLOCK_SIZE,
        blocks: 64,
        data_type,
        scales: vec![scale],
    })?;
    // No angle: then what is stored depends on the device's rounding alone.
    let rope = device
        .load_rope(&RopeSpec { inverse_frequencies: vec![0.0; HEAD_DIM / 2], magnitude: 1.0 }, MOST_ROWS)?;
    let mut qkv = filled(device, TensorRole::Activation, width, &[])?;
    let mut output = filled(device, TensorRole::Activation, QUERY_HEADS * HEAD_DIM, &[])?;
    let mut computed = 0;
    while computed < context + rows {
        let end = if computed < context { context.min(computed + 128) } else { context + rows };
        let values = numbers(100 + computed as u64, (end - computed) * width);
        device.write_tensor(&mut qkv, &values)?;
        begin(device, computed, end - computed)?;
        let (query_norm, key_norm, epsilon) = (None, None, 0.0);
        let operands =
            RotaryAndCache { qkv: &mut qkv, query_norm, key_norm, epsilon, rope: &rope, cache: &mut cache };
        device.rotary_and_cache(spec, operands)?;
        computed = end;
    }
    timed(device, repetitions, &mut output, rows, |device, output| {
        device.attention(spec, &qkv, &cache, output)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_seen() {
        assert!(relative_error(&[1.0, 2.0], &[1.0, 2.0]) == 0.0);
        assert!(relative_error(&[1.0, 2.5], &[1.0, 2.0]) == 0.25);
        assert!(relative_error(&[1.0, f32::NAN, 1.0], &[1.0, 2.0, 1.0]).is_nan());
        assert!(relative_error(&[1.0], &[1.0, 2.0]).is_nan());
        let line = |error| Line {
            name: String::new(),
            error: Some(error),
            time: Duration::ZERO,
            work: Work::default(),
        };
        assert!(line(0.001).is_right() && !line(0.1).is_right() && !line(f32::NAN).is_right());
        assert!(Line { error: None, ..line(0.0) }.is_right());
    }

    #[test]
    fn times_are_held_against_the_floor_and_left_out_without_one() {
        let work = linear_work((2, 100, 50), DataType::BF16, 2.0);
        assert_eq!(work, Work { bytes: 10_000.0 + 600.0, multiply_adds: 10_000.0 });
        let line =
            Line { name: "linear".to_owned(), error: Some(0.5), time: Duration::from_micros(100), work };
        let measure = crate::roofline::Measure::CopyAndProduct;
        let floor = Roofline { bytes_per_second: 212e6, multiply_add_per_second: 1e12, measure };
        let measured = table(std::slice::from_ref(&line), Some(floor));
        assert!(measured.contains("100.0 us    50.0%  WRONG"), "{measured}");
        assert!(measured.contains("measured by copying"), "{measured}");
        let simulated = table(&[line], None);
        assert!(simulated.contains("WRONG") && simulated.contains("simulated"), "{simulated}");
        assert!(!simulated.contains(" us"), "{simulated}");
    }

    #[test]
    fn the_numbers_are_exact_in_16_bits() {
        let values = numbers(1, 1000);
        assert!(values.iter().all(|value| value.abs() <= 1.0 && value.to_bits() & 0xffff == 0));
        assert!(values.iter().any(|value| *value < -0.5) && values.iter().any(|value| *value > 0.5));
    }
}
