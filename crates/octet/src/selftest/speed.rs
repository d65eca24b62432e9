//! How fast products of a model's size are. Their results were held against the reference at smaller sizes.

use std::time::Instant;

use octet_backend::{
    Backend, BackendError, DataType, LinearPart, LinearSpec, LinearUse, TensorRole, TensorSpec, WeightScale,
    WeightView,
};
use octet_float8::Float8Format;

use super::{Line, begin_rows, linear_work};

/// Input and output features: the gate of Llama-3-8B's MLP.
const SHAPE: (usize, usize) = (4096, 14336);
/// Rows: what a decode step and what a prefill has.
const ROWS: [usize; 5] = [1, 8, 64, 512, 2048];
/// Weights that take turns, so that none is in a cache when its turn comes.
const WEIGHTS: usize = 6;
/// Rounds over all weights that are timed together, and how often.
const TURNS: u32 = 4;
const ROUNDS: usize = 8;

/// A line for each type and number of rows.
pub(super) fn lines<B: Backend>(device: &mut B) -> Result<Vec<Line>, BackendError> {
    let mut lines = Vec::new();
    for data_type in [DataType::BF16, DataType::F8(Float8Format::E4M3)] {
        for rows in ROWS {
            lines.push(line(device, data_type, rows)?);
        }
    }
    Ok(lines)
}

/// Bytes of numbers of many patterns; none is infinite.
fn pattern(data_type: DataType, count: usize) -> Vec<u8> {
    let mixed = |at: usize| (at.wrapping_mul(2_654_435_761) >> 8) as u8;
    match data_type {
        // The upper byte: signs and exponents of numbers around 1.
        DataType::BF16 => {
            (0..2 * count).map(|at| if at % 2 == 1 { 0x3f | mixed(at) & 0x80 } else { mixed(at) }).collect()
        }
        _ => (0..count * data_type.bytes()).map(|at| mixed(at) & 0xb7).collect(),
    }
}

fn line<B: Backend>(device: &mut B, data_type: DataType, rows: usize) -> Result<Line, BackendError> {
    let (columns, features) = SHAPE;
    let stored = pattern(data_type, columns * features);
    let view = WeightView { bytes: &stored, data_type, rows: features, columns, row_stride: columns };
    let scales = vec![0.01; features];
    let scale = if data_type.is_float8() { WeightScale::Channel(&scales) } else { WeightScale::None };
    let weights = (0..WEIGHTS)
        .map(|_| {
            let usage = LinearUse::Multiply;
            let spec = LinearSpec { data_type, usage, bias: None, input_scale: None };
            device.load_linear(spec, &[LinearPart { weight: view, scale }])
        })
        .collect::<Result<Vec<_>, _>>()?;
    let mut tensor = |columns| device.allocate(TensorSpec { role: TensorRole::Activation, rows, columns });
    let (mut input, mut output) = (tensor(columns)?, tensor(features)?);
    let values: Vec<f32> = (0..rows * columns).map(|at| (at % 251) as f32 / 125.0 - 1.0).collect();
    device.write_tensor(&mut input, &values)?;
    begin_rows(device, rows)?;
    let mut best = std::time::Duration::MAX;
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        for _ in 0..TURNS {
            for weight in &weights {
                device.linear(weight, &input, &mut output)?;
            }
        }
        // Reading waits for what was started.
        device.read_tensor(&output, 1)?;
        best = best.min(begun.elapsed() / (TURNS * WEIGHTS as u32));
    }
    let name = format!("linear {data_type} [{rows}, {columns}] x {features}");
    let work = linear_work((rows, columns, features), data_type, 2.0);
    Ok(Line { name, error: None, time: best, work })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_numbers() {
        for data_type in [DataType::BF16, DataType::F8(Float8Format::E4M3)] {
            let bytes = pattern(data_type, 4096);
            assert_eq!(bytes.len(), 4096 * data_type.bytes());
            let finite = |bytes: &[u8]| match (data_type, bytes) {
                (DataType::F8(format), &[code]) => format.decode(code).is_finite(),
                (_, &[low, high]) => f32::from_le_bytes([0, 0, low, high]).is_finite(),
                _ => false,
            };
            assert!(bytes.chunks(data_type.bytes()).all(finite), "{data_type}");
        }
    }
}
