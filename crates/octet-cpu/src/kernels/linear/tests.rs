//! Every format on every instruction set: against a sum in 64-bit, and rows alone against rows in a batch.

use octet_backend::{DataType, LinearPart, LinearSpec, WeightScale, WeightView};
use octet_float8::{E4M3, E5M2, Float8, Float8Format};

use super::*;
use crate::threads::PoolOptions;

const E4M3_TYPE: DataType = DataType::F8(Float8Format::E4M3);
const E5M2_TYPE: DataType = DataType::F8(Float8Format::E5M2);
const TYPES: [DataType; 6] =
    [DataType::F32, DataType::F16, DataType::BF16, E4M3_TYPE, E5M2_TYPE, DataType::I8];

/// A reproducible value in [-1, 1), with few of them tiny.
fn random(index: usize) -> f32 {
    let mut state = (index as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5555;
    state = (state ^ (state >> 31)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    ((state >> 40) as f32) / (1 << 23) as f32 - 1.0
}

fn randoms(seed: usize, count: usize) -> Vec<f32> {
    (0..count).map(|index| random(seed * 1_000_003 + index)).collect()
}

/// A matrix as a checkpoint has it, and the values that its bytes stand for.
struct Matrix {
    data_type: DataType,
    rows: usize,
    columns: usize,
    bytes: Vec<u8>,
    values: Vec<f32>,
}

impl Matrix {
    fn random(seed: usize, data_type: DataType, rows: usize, columns: usize) -> Self {
        let mut bytes = Vec::new();
        let mut values = Vec::new();
        for value in randoms(seed, rows * columns) {
            values.push(match data_type {
                DataType::F32 => {
                    bytes.extend(value.to_le_bytes());
                    value
                }
                DataType::F16 => {
                    let value = half::f16::from_f32(value);
                    bytes.extend(value.to_le_bytes());
                    value.to_f32()
                }
                DataType::BF16 => {
                    let value = half::bf16::from_f32(value);
                    bytes.extend(value.to_le_bytes());
                    value.to_f32()
                }
                DataType::I8 => {
                    let value = (value * 127.0).round() as i8;
                    bytes.push(value.cast_unsigned());
                    f32::from(value)
                }
                DataType::F8(Float8Format::E5M2) => {
                    bytes.push(E5M2::from_f32(value).to_bits());
                    E5M2::from_f32(value).to_f32()
                }
                DataType::F8(_) => {
                    // From subnormal codes up to the largest.
                    let value = E4M3::from_f32(value * [0.01, 1.0, 448.0][bytes.len() % 3]);
                    bytes.push(value.to_bits());
                    value.to_f32()
                }
            });
        }
        Self { data_type, rows, columns, bytes, values }
    }

    fn view(&self) -> WeightView<'_> {
        WeightView {
            bytes: &self.bytes,
            data_type: self.data_type,
            rows: self.rows,
            columns: self.columns,
            row_stride: self.columns,
        }
    }

    fn part<'a>(&'a self, scale: WeightScale<'a>) -> LinearPart<'a> {
        LinearPart { weight: self.view(), scale }
    }
}

fn spec(data_type: DataType, usage: LinearUse, bias: Option<Vec<f32>>) -> LinearSpec {
    LinearSpec { data_type, usage, bias, input_scale: None }
}

/// A pool and scratch memory.
struct Bench {
    pool: Pool,
    scratch: LinearScratch,
}

impl Bench {
    fn new() -> Self {
        let pool = Pool::new(&PoolOptions::default()).unwrap();
        let scratch = LinearScratch::new(&pool).unwrap();
        Self { pool, scratch }
    }

    fn pack(&self, isa: Isa, spec: &LinearSpec, parts: &[LinearPart<'_>]) -> PackedLinear {
        PackedLinear::pack(&self.pool, isa, spec, parts).unwrap()
    }

    fn linear(&mut self, isa: Isa, weight: &PackedLinear, input: &[f32]) -> Vec<f32> {
        self.scheduled(isa, weight, input, None)
    }

    fn scheduled(
        &mut self,
        isa: Isa,
        weight: &PackedLinear,
        input: &[f32],
        schedule: Option<Schedule>,
    ) -> Vec<f32> {
        let rows = input.len() / weight.columns();
        let mut output = vec![f32::NAN; rows * weight.output_columns()];
        let mut context = LinearContext { pool: &self.pool, isa, scratch: &mut self.scratch, schedule };
        if weight.usage == LinearUse::Gated {
            gated_linear(&mut context, weight, Activation::Silu, input, rows, &mut output).unwrap();
        } else {
            linear(&mut context, weight, input, rows, &mut output).unwrap();
        }
        output
    }
}

/// All instruction sets of this machine, and the twins of those that multiply pairs and tiles.
fn sets() -> Vec<Isa> {
    let mut sets = Isa::available();
    sets.extend([Isa::portable_pairs(), Isa::portable_tiles()]);
    sets
}

/// The sum in 64-bit of one element, and the sum of the products' magnitudes. Pairs round their inputs.
fn expected(matrix: &Matrix, scale: &dyn Fn(usize, usize) -> f32, input: &[f32], row: usize) -> (f64, f64) {
    let mut sums = (0.0, 0.0);
    for (column, value) in input.iter().enumerate() {
        let weight = matrix.values[row * matrix.columns + column];
        let product = f64::from(weight) * f64::from(scale(row, column)) * f64::from(*value);
        sums = (sums.0 + product, sums.1 + product.abs());
    }
    sums
}

/// Inputs that bfloat16 holds exactly, so that all arithmetics may be held to the same tolerance.
fn inputs(seed: usize, count: usize) -> Vec<f32> {
    randoms(seed, count).into_iter().map(|value| half::bf16::from_f32(value).to_f32()).collect()
}

const SHAPES: [(usize, usize); 7] = [(16, 64), (17, 3), (80, 96), (5, 517), (96, 80), (517, 33), (129, 300)];

#[test]
fn products_agree_with_sums_in_64_bit() {
    let mut bench = Bench::new();
    for data_type in TYPES {
        for (rows, columns) in SHAPES {
            let matrix = Matrix::random(rows, data_type, rows, columns);
            for isa in sets() {
                let spec = spec(data_type, LinearUse::Multiply, None);
                let weight = bench.pack(isa, &spec, &[matrix.part(WeightScale::None)]);
                for batch in [1, 2, 3, 4, 5, 6, 7, 13, 33, 50] {
                    let input = inputs(batch, batch * columns);
                    let output = bench.linear(isa, &weight, &input);
                    for (index, found) in output.into_iter().enumerate() {
                        let (token, row) = (index / rows, index % rows);
                        let input = &input[token * columns..(token + 1) * columns];
                        let (sum, magnitude) = expected(&matrix, &|_, _| 1.0, input, row);
                        let error = (f64::from(found) - sum).abs();
                        assert!(
                            error <= 1e-6 * magnitude,
                            "{data_type} {} [{rows}, {columns}] batch {batch}: {found} {sum}",
                            isa.name()
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_the_batch() {
    let mut bench = Bench::new();
    let (rows, columns) = (83_usize, 530_usize);
    let scales = randoms(5, rows.div_ceil(32) * columns.div_ceil(128));
    let block = WeightScale::Block { scales: &scales, rows_per_block: 32, columns_per_block: 128 };
    for (data_type, scale) in TYPES.map(|data_type| (data_type, WeightScale::None)).into_iter().chain([
        (E4M3_TYPE, WeightScale::Tensor(0.37)),
        (E4M3_TYPE, block),
        (E5M2_TYPE, block),
    ]) {
        let matrix = Matrix::random(3, data_type, rows, columns);
        let bias = Some(randoms(9, rows));
        let spec = spec(data_type, LinearUse::Multiply, bias);
        for isa in sets() {
            let weight = bench.pack(isa, &spec, &[matrix.part(scale)]);
            let batch = 203;
            let input = randoms(77, batch * columns);
            let together = bench.linear(isa, &weight, &input);
            for (first, count) in
                [(0, 1), (202, 1), (100, 2), (50, 3), (7, 4), (9, 5), (195, 6), (64, 7), (3, 64)]
            {
                let alone = bench.linear(isa, &weight, &input[first * columns..(first + count) * columns]);
                let same =
                    alone.iter().zip(&together[first * rows..]).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{data_type} {scale:?} {} rows {first}+{count}", isa.name());
            }
        }
    }
}

#[test]
fn sets_with_the_same_arithmetic_agree_to_the_bit() {
    let mut bench = Bench::new();
    for data_type in TYPES {
        let matrix = Matrix::random(8, data_type, 50, 270);
        let spec = spec(data_type, LinearUse::Multiply, None);
        let input = randoms(4, 9 * 270);
        let results: Vec<_> = Isa::available()
            .into_iter()
            .filter(|isa| !isa.has_pair_dot())
            .map(|isa| {
                let weight = bench.pack(isa, &spec, &[matrix.part(WeightScale::None)]);
                bench.linear(isa, &weight, &input).into_iter().map(f32::to_bits).collect::<Vec<_>>()
            })
            .collect();
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{data_type}");
    }
}

#[test]
fn pairs_and_tiles_agree_with_their_twins_to_the_bit() {
    let mut bench = Bench::new();
    let scales = randoms(5, 5 * 5);
    let block = WeightScale::Block { scales: &scales, rows_per_block: 16, columns_per_block: 64 };
    for (name, twin) in [("avx512bf16", Isa::portable_pairs()), ("amx", Isa::portable_tiles())] {
        let Ok(isa) = Isa::choose(Some(name)) else { continue };
        for (data_type, scale) in [
            (DataType::BF16, WeightScale::None),
            (E4M3_TYPE, WeightScale::Tensor(0.5)),
            (E4M3_TYPE, block),
            (E5M2_TYPE, WeightScale::None),
        ] {
            let matrix = Matrix::random(8, data_type, 75, 290);
            let spec = spec(data_type, LinearUse::Multiply, None);
            for batch in [1, 7, 16, 35] {
                let mut input = randoms(4, batch * 290);
                // From numbers that are zero in bfloat16's arithmetic up to large ones.
                input.iter_mut().step_by(7).for_each(|value| *value *= 1e-38);
                input.iter_mut().step_by(11).for_each(|value| *value *= 1e9);
                let [found, expected] = [isa, twin].map(|isa| {
                    let weight = bench.pack(isa, &spec, &[matrix.part(scale)]);
                    bench.linear(isa, &weight, &input).into_iter().map(f32::to_bits).collect::<Vec<_>>()
                });
                assert_eq!(found, expected, "{name} {data_type} {scale:?} batch {batch}");
            }
        }
    }
}

#[test]
fn parts_scales_and_bias() {
    let mut bench = Bench::new();
    let columns = 260;
    let (first, second) =
        (Matrix::random(1, E4M3_TYPE, 40, columns), Matrix::random(2, E4M3_TYPE, 9, columns));
    let channel = randoms(3, 9);
    let blocks = randoms(4, 3 * 5);
    let block = WeightScale::Block { scales: &blocks, rows_per_block: 16, columns_per_block: 64 };
    let bias = randoms(5, 49);
    let input = inputs(6, 8 * columns);
    for (scale, scale_of) in [
        (WeightScale::Tensor(0.25), Box::new(|_, _| 0.25_f32) as Box<dyn Fn(usize, usize) -> f32>),
        (block, Box::new(|row, column| blocks[row / 16 * 5 + column / 64])),
    ] {
        let parts = [first.part(scale), second.part(WeightScale::Channel(&channel))];
        for isa in sets() {
            let spec = spec(E4M3_TYPE, LinearUse::Multiply, Some(bias.clone()));
            let weight = bench.pack(isa, &spec, &parts);
            let once = bench.linear(isa, &weight, &input);
            for (index, found) in once.iter().enumerate() {
                let (token, row) = (index / 49, index % 49);
                let input = &input[token * columns..(token + 1) * columns];
                let (sum, magnitude) = if row < 40 {
                    expected(&first, &scale_of, input, row)
                } else {
                    expected(&second, &|row, _| channel[row], input, row - 40)
                };
                let error = (f64::from(*found) - sum - f64::from(bias[row])).abs();
                assert!(error <= 1e-6 * magnitude, "{} row {row}: {found} {sum}", isa.name());
            }
        }
    }
}

#[test]
fn gate_and_up_become_one() {
    let mut bench = Bench::new();
    let (rows, columns) = (75, 64);
    for data_type in [DataType::BF16, E4M3_TYPE] {
        let (gate, up) =
            (Matrix::random(1, data_type, rows, columns), Matrix::random(2, data_type, rows, columns));
        let scale = WeightScale::Tensor(0.02);
        let parts = [gate.part(scale), up.part(scale)];
        for isa in sets() {
            let weight = bench.pack(isa, &spec(data_type, LinearUse::Gated, None), &parts);
            for batch in [1, 2, 4, 20] {
                let input = inputs(batch, batch * columns);
                for (index, found) in bench.linear(isa, &weight, &input).into_iter().enumerate() {
                    let (token, row) = (index / rows, index % rows);
                    let input = &input[token * columns..(token + 1) * columns];
                    let (gate, gate_magnitude) = expected(&gate, &|_, _| 0.02, input, row);
                    let (up, up_magnitude) = expected(&up, &|_, _| 0.02, input, row);
                    let sum = gate / (1.0 + (-gate).exp()) * up;
                    let magnitude = gate_magnitude * up.abs() + gate.abs() * up_magnitude;
                    let error = (f64::from(found) - sum).abs();
                    assert!(error <= 2e-6 * magnitude + 1e-30, "{} {found} {sum}", isa.name());
                }
            }
        }
    }
}

#[test]
fn floating_types_are_converted_to_one_another() {
    let mut bench = Bench::new();
    let isa = Isa::choose(None).unwrap();
    for from in [DataType::F32, DataType::F16, DataType::BF16] {
        for to in [DataType::F32, DataType::F16, DataType::BF16] {
            let matrix = Matrix::random(6, from, 30, 48);
            let weight =
                bench.pack(isa, &spec(to, LinearUse::Multiply, None), &[matrix.part(WeightScale::None)]);
            let mut unit = vec![0.0; 48];
            unit[17] = 1.0;
            for (row, found) in bench.linear(isa, &weight, &unit).into_iter().enumerate() {
                let value = matrix.values[row * 48 + 17];
                let expected = match to {
                    DataType::F16 => half::f16::from_f32(value).to_f32(),
                    DataType::BF16 => half::bf16::from_f32(value).to_f32(),
                    DataType::F32 | DataType::F8(_) | DataType::I8 => value,
                };
                assert_eq!(found, expected, "{from} to {to}");
            }
        }
    }
}

#[test]
fn windows_of_larger_matrices_are_packed() {
    let mut bench = Bench::new();
    let isa = Isa::choose(None).unwrap();
    let matrix = Matrix::random(6, DataType::BF16, 20, 100);
    let mut weight = matrix.view();
    // Rows 4 to 11, columns 30 to 79.
    (weight.bytes, weight.rows, weight.columns) = (&matrix.bytes[(4 * 100 + 30) * 2..], 8, 50);
    let part = LinearPart { weight, scale: WeightScale::None };
    let packed = bench.pack(isa, &spec(DataType::BF16, LinearUse::Multiply, None), &[part]);
    let mut unit = vec![0.0; 50];
    unit[49] = 1.0;
    for (row, found) in bench.linear(isa, &packed, &unit).into_iter().enumerate() {
        assert_eq!(found, matrix.values[(row + 4) * 100 + 79]);
    }
}

#[test]
fn what_cannot_be_packed_is_refused() {
    let bench = Bench::new();
    let isa = Isa::choose(None).unwrap();
    let pack = |data_type, usage, bias, parts: &[LinearPart<'_>]| {
        PackedLinear::pack(&bench.pool, isa, &spec(data_type, usage, bias), parts).err()
    };
    let mut matrix = Matrix::random(1, DataType::BF16, 20, 300);
    let plain = LinearUse::Multiply;
    let other = Matrix::random(1, DataType::BF16, 20, 299);
    let parts = [matrix.part(WeightScale::None), other.part(WeightScale::None)];
    assert!(matches!(pack(DataType::BF16, plain, None, &parts), Some(BackendError::Shape { .. })));
    let one = &parts[..1];
    assert!(matches!(pack(DataType::BF16, LinearUse::Gated, None, one), Some(BackendError::Shape { .. })));
    assert!(matches!(
        pack(DataType::BF16, plain, Some(vec![0.0; 19]), one),
        Some(BackendError::Shape { .. })
    ));
    assert!(matches!(pack(DataType::BF16, plain, None, &[]), Some(BackendError::Shape { .. })));
    let unsupported = pack(E4M3_TYPE, plain, None, one);
    assert!(matches!(unsupported, Some(BackendError::UnsupportedDataType { .. })));
    let fnuz = pack(DataType::F8(Float8Format::E4M3Fnuz), plain, None, &[]);
    assert!(fnuz.is_some());
    let scales = [1.0; 19];
    let part = matrix.part(WeightScale::Channel(&scales));
    assert!(matches!(pack(DataType::BF16, plain, None, &[part]), Some(BackendError::Shape { .. })));
    let part = matrix.part(WeightScale::Tensor(f32::NAN));
    assert!(matches!(pack(DataType::BF16, plain, None, &[part]), Some(BackendError::NotFinite { .. })));
    let block = WeightScale::Block { scales: &[1.0; 50], rows_per_block: 128, columns_per_block: 6 };
    assert!(matches!(
        pack(DataType::BF16, plain, None, &[matrix.part(block)]),
        Some(BackendError::Limit { .. })
    ));
    let index = (13 * 300 + 259) * 2;
    matrix.bytes[index..index + 2].copy_from_slice(&half::bf16::NAN.to_le_bytes());
    let found = pack(DataType::BF16, plain, None, &[matrix.part(WeightScale::None)]);
    assert_eq!(found, Some(BackendError::NotFinite { row: 13, column: 259 }));
    matrix.bytes[index..index + 2].copy_from_slice(&half::bf16::INFINITY.to_le_bytes());
    let found = pack(DataType::F32, plain, None, &[matrix.part(WeightScale::None)]);
    assert_eq!(found, Some(BackendError::NotFinite { row: 13, column: 259 }));
    let mut truncated = matrix.part(WeightScale::None);
    truncated.weight.bytes = &truncated.weight.bytes[..20 * 600 - 1];
    assert!(matches!(pack(DataType::BF16, plain, None, &[truncated]), Some(BackendError::Shape { .. })));
}

#[test]
fn infinities_are_found_in_every_type() {
    let bench = Bench::new();
    let isa = Isa::choose(None).unwrap();
    for (data_type, bytes) in [
        (DataType::F32, f32::INFINITY.to_le_bytes().to_vec()),
        (DataType::F16, half::f16::NEG_INFINITY.to_le_bytes().to_vec()),
        (DataType::BF16, half::bf16::NEG_INFINITY.to_le_bytes().to_vec()),
        (E4M3_TYPE, vec![0xFF]),
        (E5M2_TYPE, vec![0x7C]),
        (E5M2_TYPE, vec![0xFE]),
    ] {
        for usage in [LinearUse::Multiply, LinearUse::Embed] {
            let mut matrix = Matrix::random(1, data_type, 33, 10);
            let size = data_type.bytes();
            let start = (20 * 10 + 9) * size;
            matrix.bytes[start..start + size].copy_from_slice(&bytes);
            let spec = spec(data_type, usage, None);
            let found = PackedLinear::pack(&bench.pool, isa, &spec, &[matrix.part(WeightScale::None)]);
            assert_eq!(found.err(), Some(BackendError::NotFinite { row: 20, column: 9 }), "{data_type}");
        }
    }
}

#[test]
fn every_schedule_gives_the_bits_of_the_default() {
    let (rows, columns): (usize, usize) = (48, 600);
    let mut bench = Bench::new();
    let scales = vec![0.5; rows.div_ceil(32) * columns.div_ceil(128)];
    let blocks = WeightScale::Block { scales: &scales, rows_per_block: 32, columns_per_block: 128 };
    let cases = [
        (DataType::BF16, LinearUse::Multiply, WeightScale::None),
        (DataType::BF16, LinearUse::Gated, WeightScale::None),
        (E4M3_TYPE, LinearUse::Multiply, WeightScale::Tensor(0.5)),
        (E4M3_TYPE, LinearUse::Gated, blocks),
    ];
    for (case, (data_type, usage, scale)) in cases.into_iter().enumerate() {
        let matrix = Matrix::random(case, data_type, rows, columns);
        let parts = vec![matrix.part(scale); if usage == LinearUse::Gated { 2 } else { 1 }];
        let spec = spec(data_type, usage, None);
        let problem = crate::tuning::problem_of(&spec, &parts);
        // The best set, and the form that a machine without tiles only has by its twin.
        for isa in [Isa::choose(None).unwrap(), Isa::portable_tiles()] {
            let weight = bench.pack(isa, &spec, &parts);
            for tokens in [1, 7, 17, 100] {
                let input = randoms(tokens, tokens * columns);
                let expected = bench.linear(isa, &weight, &input);
                for (name, schedule) in candidates(isa, &problem.with_tokens(tokens)) {
                    let found = bench.scheduled(isa, &weight, &input, Some(schedule));
                    let equal =
                        expected.iter().zip(&found).all(|(one, other)| one.to_bits() == other.to_bits());
                    assert!(equal, "{name} on {} for {tokens} tokens of {problem}", isa.name());
                }
            }
        }
    }
}

#[test]
fn a_schedule_that_is_given_is_the_one_that_is_used() {
    let matrix = Matrix::random(1, DataType::BF16, 1024, 64);
    let mut bench = Bench::new();
    let isa = Isa::choose(None).unwrap();
    let weight =
        bench.pack(isa, &spec(DataType::BF16, LinearUse::Multiply, None), &[matrix.part(WeightScale::None)]);
    let input = randoms(2, 64);
    bench.linear(isa, &weight, &input);
    // A task's sums need room by its number of panels.
    let by_default = bench.scratch.sums.len();
    let default = Schedule::default_for(&weight, 1, bench.pool.workers());
    let wide = Schedule { panels_per_task: 4 * default.panels_per_task, ..default };
    bench.scheduled(isa, &weight, &input, Some(wide));
    assert_eq!(bench.scratch.sums.len(), 4 * by_default);
}
