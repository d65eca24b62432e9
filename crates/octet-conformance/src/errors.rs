//! What a backend must refuse, and how.

use octet_backend::{
    Backend, BackendError, Batch, DataType, KvScale, LinearUse, ScaleShape, TensorRole, TensorSpec,
};

use crate::host_weight::{HostLinear, HostWeight};
use crate::random::Random;
use crate::scenario::Layout;
use crate::{Claims, WIDE_TYPES};

/// Damaged weights, shapes that disagree, impossible sizes and batches: each is an error, not a crash or a result.
///
/// # Panics
/// Where something was accepted, or refused for another reason.
pub fn errors<B: Backend>(claims: &Claims, backend: &mut B) {
    damaged_weights(claims, backend);
    wrong_shapes(backend);
    float8_conversions(claims, backend);
    impossible_sizes(backend);
}

fn expect_error<T>(what: &str, result: Result<T, BackendError>, right: impl Fn(&BackendError) -> bool) {
    match result {
        Ok(_) => panic!("{what} was accepted"),
        Err(error) => assert!(right(&error), "{what} was refused for another reason: {error:?}"),
    }
}

fn damaged_weights<B: Backend>(claims: &Claims, backend: &mut B) {
    let mut random = Random::new(11);
    let narrow = claims.float8_weights.iter().map(|&format| DataType::F8(format));
    for data_type in WIDE_TYPES.into_iter().chain(narrow) {
        for usage in [LinearUse::Multiply, LinearUse::Gated, LinearUse::Embed, LinearUse::EmbedAndMultiply] {
            for (row, column) in [(0, 0), (17, 37), (32, 79)] {
                let kind = (data_type, ScaleShape::None);
                let good = HostWeight::random(&mut random, kind, 33, 80).within_a_wider_matrix(3);
                let mut bad = good.clone();
                bad.damage(row, column);
                let linear =
                    HostLinear { parts: vec![good, bad], ..HostLinear::of_nothing(data_type, usage) };
                expect_error(
                    &format!("NaN at row {row}, column {column} of {data_type} for {usage:?}"),
                    linear.try_load(backend),
                    |error| *error == BackendError::NotFinite { row, column },
                );
            }
        }
    }
    // Finite as it is stored, infinite as it would be kept.
    let mut values = vec![1.0; 160];
    values[83] = 1e6;
    let linear = HostLinear {
        parts: vec![HostWeight::new(DataType::F32, 80, &values)],
        ..HostLinear::of_nothing(DataType::F16, LinearUse::Multiply)
    };
    expect_error("1e6 kept as float16", linear.try_load(backend), |error| {
        *error == BackendError::NotFinite { row: 1, column: 3 }
    });
}

fn wrong_shapes<B: Backend>(backend: &mut B) {
    let part =
        |rows: usize, columns: usize| HostWeight::new(DataType::BF16, columns, &vec![0.5; rows * columns]);
    let of =
        |parts: Vec<HostWeight>, usage| HostLinear { parts, ..HostLinear::of_nothing(DataType::BF16, usage) };
    let is_shape = |error: &BackendError| matches!(error, BackendError::Shape { .. });
    let multiply = LinearUse::Multiply;
    let linear = of(vec![part(16, 32), part(16, 48)], multiply);
    expect_error("parts of different widths", linear.try_load(backend), is_shape);
    let linear = of(vec![part(16, 32), part(17, 32)], LinearUse::Gated);
    expect_error("gate and up of different heights", linear.try_load(backend), is_shape);
    let linear = of(vec![part(16, 32)], LinearUse::Gated);
    expect_error("a gate without up", linear.try_load(backend), is_shape);
    let linear = HostLinear { bias: Some(vec![0.0; 15]), ..of(vec![part(16, 32)], multiply) };
    expect_error("a bias that is too short", linear.try_load(backend), is_shape);
    let mut short = part(16, 32);
    short.rows = 17;
    expect_error("fewer bytes than the shape needs", of(vec![short], multiply).try_load(backend), is_shape);
    expect_error("no parts", of(Vec::new(), multiply).try_load(backend), is_shape);
}

fn float8_conversions<B: Backend>(claims: &Claims, backend: &mut B) {
    let mut random = Random::new(12);
    for &format in &claims.float8_weights {
        let stored = DataType::F8(format);
        let targets = claims.float8_weights.iter().map(|&other| DataType::F8(other)).chain(WIDE_TYPES);
        // The FNUZ twin is a conversion that a device that multiplies FNUZ does at load.
        for target in targets.filter(|&target| target != stored && target != DataType::F8(format.to_fnuz())) {
            let part = HostWeight::random(&mut random, (stored, ScaleShape::Tensor), 16, 32);
            let linear =
                HostLinear { parts: vec![part], ..HostLinear::of_nothing(target, LinearUse::Multiply) };
            expect_error(
                &format!("{stored} kept as {target}"),
                linear.try_load(backend),
                |error| matches!(error, BackendError::UnsupportedDataType { data_type, .. } if *data_type == stored),
            );
        }
    }
}

fn impossible_sizes<B: Backend>(backend: &mut B) {
    let is_memory = |error: &BackendError| matches!(error, BackendError::OutOfMemory { .. });
    for (rows, columns) in [(usize::MAX / 2, 8), (1 << 40, 1 << 12)] {
        let spec = TensorSpec { role: TensorRole::Activation, rows, columns };
        expect_error(&format!("a workspace of {rows} rows"), backend.allocate(spec), is_memory);
    }
    let layout = Layout {
        kv_heads: 2,
        group: 1,
        head_dim: 64,
        block_size: 16,
        cap: None,
        window: None,
        data_type: DataType::BF16,
        scale: KvScale::ONE,
    };
    for blocks in [usize::MAX / 4, 1 << 40] {
        let result = backend.allocate_kv_cache(&layout.cache(blocks));
        expect_error(&format!("a cache of {blocks} blocks"), result, is_memory);
    }
    for block_size in [0, 1, 24] {
        let spec = Layout { block_size, ..layout }.cache(4);
        let refusal = BackendError::BlockSize { block_size, multiple_of: 16 };
        expect_error("an odd block size", backend.allocate_kv_cache(&spec), |error| *error == refusal);
    }
    let mut tensor =
        backend.allocate(TensorSpec { role: TensorRole::Activation, rows: 4, columns: 8 }).expect("a tensor");
    let is_limit = |error: &BackendError| matches!(error, BackendError::Limit { .. });
    expect_error("33 values for a tensor of 32", backend.write_tensor(&mut tensor, &[0.0; 33]), is_limit);
    let mut batch = Batch::default();
    batch.push_sequence(&vec![0; 1 << 20], 0, &vec![1; 1 << 16]);
    expect_error("a batch larger than any workspace", backend.begin_step(&batch), is_limit);
}
