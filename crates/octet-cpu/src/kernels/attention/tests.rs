//! Attention, with the cache that it reads, against plain loops in `f64`.

use octet_backend::{AttentionSpec, Batch, DataType, KvCacheSpec, KvScale, RopeSpec};
use octet_float8::Float8Format;

use super::*;
use crate::kernels::rotary::{RopeTable, RotaryOperands, rotary_and_cache};
use crate::kernels::storage::TYPES;
use crate::threads::{PoolOptions, ThreadBinding};

const E4M3: DataType = DataType::F8(Float8Format::E4M3);

/// What a test varies.
#[derive(Clone, Copy, Debug)]
struct Case {
    query_heads: usize,
    kv_heads: usize,
    head_dim: usize,
    block_size: usize,
    data_type: DataType,
    window: Option<usize>,
    workers: usize,
}

const PLAIN: Case = Case {
    query_heads: 4,
    kv_heads: 2,
    head_dim: 32,
    block_size: 16,
    data_type: DataType::F32,
    window: None,
    workers: 2,
};

/// Reproducible values in -1..1.
fn noise(index: usize) -> f32 {
    let mut bits = (index as u64).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    bits ^= bits >> 29;
    bits = bits.wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits ^= bits >> 32;
    (bits >> 40) as f32 / (1 << 23) as f32 - 1.0
}

/// A row `[queries | keys | values]` that depends on the sequence and the position alone.
fn qkv_row(case: Case, sequence: usize, position: usize) -> Vec<f32> {
    let width = (case.query_heads + 2 * case.kv_heads) * case.head_dim;
    let start = (sequence * 100_000 + position) * 4096;
    (0..width).map(|column| 2.0 * noise(start + column)).collect()
}

/// Sequences with their own blocks, computed step by step.
struct Machine {
    case: Case,
    pool: Pool,
    isa: Isa,
    cache: CpuKvCache,
    attention: Attention,
    rope: RopeTable,
    step: u64,
}

/// Blocks of a sequence of up to 2048 tokens, in an order that is not ascending.
fn blocks(case: Case, sequence: usize) -> Vec<u32> {
    let count = 2048 / case.block_size;
    (0..count).map(|block| (1 + sequence * count + (block * 37) % count) as u32).collect()
}

impl Machine {
    fn new(case: Case, isa: Isa) -> Self {
        let options =
            PoolOptions { workers: Some(case.workers), binding: ThreadBinding::Unbound, reserved_cores: 0 };
        let pool = Pool::new(&options).unwrap();
        let mut cache = CpuKvCache::allocate(&KvCacheSpec {
            layers: 2,
            kv_heads: case.kv_heads,
            head_dim: case.head_dim,
            block_size: case.block_size,
            blocks: 1 + 4 * 2048 / case.block_size,
            data_type: case.data_type,
            scales: vec![KvScale::ONE, KvScale { key: 0.05, value: 0.03 }],
        })
        .unwrap();
        // What nobody wrote must not be read: zeros would hide that.
        let poison = match case.data_type.bytes() {
            4 => &[0, 0, 0xC0, 0x7F][..],
            2 => &[0xFF, 0x7F],
            _ => &[0x7E],
        };
        cache.fill(poison);
        let mut attention = Attention::new(pool.workers()).unwrap();
        attention.reserve(cache.layout).unwrap();
        let rope = RopeSpec { inverse_frequencies: vec![0.5, 0.01], magnitude: 1.0 };
        Self { case, pool, isa, cache, attention, rope: RopeTable::new(&rope, 64), step: 0 }
    }

    /// Runs a step of `(sequence, computed, rows)` and returns the output of each sequence's rows.
    fn step(&mut self, shares: &[(usize, usize, usize)]) -> Vec<Vec<f32>> {
        let case = self.case;
        let mut batch = Batch::default();
        let mut qkv = Vec::new();
        for &(sequence, computed, rows) in shares {
            let needed = (computed + rows).div_ceil(case.block_size);
            batch.push_sequence(&vec![0; rows], computed, &blocks(case, sequence)[..needed]);
            (computed..computed + rows).for_each(|position| qkv.extend(qkv_row(case, sequence, position)));
        }
        self.step += 1;
        self.rope.prepare(&self.pool, &batch, self.step);
        let operands = RotaryOperands {
            batch: &batch,
            layer: 1,
            query_heads: case.query_heads,
            qkv: &mut qkv,
            query_norm: None,
            key_norm: None,
            epsilon: 0.0,
            rope: &self.rope,
            cache: &mut self.cache,
        };
        rotary_and_cache(&self.pool, self.isa, operands);
        let width = case.query_heads * case.head_dim;
        let mut output = vec![f32::NAN; batch.rows() * width];
        let attention = AttentionSpec {
            layer: 1,
            query_heads: case.query_heads,
            scale: (case.head_dim as f32).powf(-0.5),
            score_cap: None,
            sliding_window: case.window,
        };
        let call = AttentionCall {
            batch: &batch,
            step: self.step,
            attention,
            qkv: &qkv,
            cache: &self.cache,
            output: &mut output,
        };
        self.attention.run(&self.pool, self.isa, call);
        let rows = |sequence: &octet_backend::BatchSequence| {
            output[sequence.first_row * width..(sequence.first_row + sequence.rows) * width].to_vec()
        };
        batch.sequences.iter().map(rows).collect()
    }
}

/// The nearest value that a cache can hold.
fn stored(data_type: DataType, value: f32, scale: f32) -> f64 {
    let value = value / scale;
    let kept = match data_type {
        DataType::F32 => value,
        DataType::F16 => half::f16::from_f32(value).to_f32(),
        DataType::BF16 => half::bf16::from_f32(value).to_f32(),
        DataType::F8(format) => format.decode(format.encode_saturating(value)),
        DataType::I8 => unreachable!("no cache is kept in integers"),
    };
    f64::from(kept) * f64::from(scale)
}

/// Rotated row of a token: the first two pairs of each query and key head.
fn rotated_row(case: Case, sequence: usize, position: usize) -> Vec<f32> {
    let mut row = qkv_row(case, sequence, position);
    for head in row.chunks_exact_mut(case.head_dim).take(case.query_heads + case.kv_heads) {
        for (pair, frequency) in [0.5f32, 0.01].into_iter().enumerate() {
            let (sine, cosine) = f64::from(position as f32 * frequency).sin_cos();
            let (a, b) = (f64::from(head[pair]), f64::from(head[pair + 2]));
            head[pair] = (a * cosine - b * sine) as f32;
            head[pair + 2] = (b * cosine + a * sine) as f32;
        }
    }
    row
}

/// Attention of one row of a sequence, `[query_heads * head_dim]`.
fn expected_row(case: Case, sequence: usize, position: usize) -> Vec<f64> {
    let (head_dim, group) = (case.head_dim, case.query_heads / case.kv_heads);
    let first = case.window.map_or(0, |window| (position + 1).saturating_sub(window));
    let rows: Vec<_> = (first..=position).map(|position| rotated_row(case, sequence, position)).collect();
    let query_row = &rows[rows.len() - 1];
    let mut output = Vec::new();
    for head in 0..case.query_heads {
        let query = &query_row[head * head_dim..][..head_dim];
        let key_start = (case.query_heads + head / group) * head_dim;
        let value_start = key_start + case.kv_heads * head_dim;
        let part = |row: &[f32], start: usize, scale: f32| -> Vec<f64> {
            row[start..start + head_dim].iter().map(|&value| stored(case.data_type, value, scale)).collect()
        };
        let scores: Vec<f64> = rows
            .iter()
            .map(|row| {
                let key = part(row, key_start, 0.05);
                query.iter().zip(key).map(|(&query, key)| f64::from(query) * key).sum::<f64>()
                    / (head_dim as f64).sqrt()
            })
            .collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
        let mut sums = vec![0.0; head_dim];
        for (row, score) in rows.iter().zip(&scores) {
            for (sum, value) in sums.iter_mut().zip(part(row, value_start, 0.03)) {
                *sum += (score - largest).exp() / total * value;
            }
        }
        output.extend(sums);
    }
    output
}

/// The largest difference of a sequence's rows from what they should be.
fn error(case: Case, sequence: usize, positions: std::ops::Range<usize>, output: &[f32]) -> f64 {
    let width = case.query_heads * case.head_dim;
    positions
        .zip(output.chunks_exact(width))
        .flat_map(|(position, row)| {
            let expected = expected_row(case, sequence, position);
            row.iter()
                .zip(expected)
                .map(|(&found, expected)| (f64::from(found) - expected).abs())
                .collect::<Vec<_>>()
        })
        // `max` would drop NaN.
        .fold(0.0, |largest, error| if error <= largest { largest } else { error })
}

/// A rounding of a rotated key that falls on the other side moves an FP8 element by an eighth. Tiles round queries and
/// weights to bfloat16.
fn tolerance(data_type: DataType, isa: Isa) -> f64 {
    match data_type {
        DataType::F32 | DataType::I8 => 2e-5,
        DataType::F16 => 5e-4,
        DataType::BF16 => {
            if isa.has_tiles() {
                1e-2
            } else {
                5e-4
            }
        }
        DataType::F8(_) => {
            if isa.has_tiles() {
                1.5e-2
            } else {
                5e-3
            }
        }
    }
}

/// The best set of this machine, the best one without matrix tiles, and the twin of those with them.
fn both_ways() -> impl Iterator<Item = Isa> {
    let vectors = Isa::available().into_iter().rfind(|isa| !isa.has_tiles());
    let tiles = Isa::available().into_iter().rfind(|isa| isa.has_tiles());
    vectors.into_iter().chain(tiles).chain([Isa::portable_tiles()])
}

/// Prefill in two chunks, then a decode step, each compared.
fn check(case: Case, isa: Isa) {
    let mut machine = Machine::new(case, isa);
    let mut computed = 0;
    for rows in [21, 19, 1] {
        let output = machine.step(&[(1, computed, rows)]).swap_remove(0);
        let error = error(case, 1, computed..computed + rows, &output);
        assert!(error < tolerance(case.data_type, isa), "{case:?} on {}: {error}", isa.name());
        computed += rows;
    }
}

#[test]
fn every_type_on_every_instruction_set() {
    for isa in Isa::available().into_iter().chain([Isa::portable_tiles()]) {
        for &data_type in TYPES {
            check(Case { data_type, ..PLAIN }, isa);
        }
    }
}

#[test]
fn every_head_size_and_group() {
    for isa in both_ways() {
        for head_dim in [4, 16, 20, 64, 80, 96, 128, 256, 512] {
            for data_type in [DataType::BF16, E4M3] {
                check(Case { head_dim, data_type, ..PLAIN }, isa);
            }
        }
        for data_type in [DataType::F32, DataType::BF16] {
            for group in 1..=8 {
                check(Case { query_heads: group, kv_heads: 1, data_type, ..PLAIN }, isa);
            }
            let wide = Case { query_heads: 60, kv_heads: 1, head_dim: 16, block_size: 48, ..PLAIN };
            check(Case { data_type, ..wide }, isa);
        }
    }
}

#[test]
fn windows_of_every_size() {
    for isa in both_ways() {
        for (window, data_type) in [1, 2, 15, 16, 17, 33, 1000]
            .into_iter()
            .flat_map(|window| [(window, DataType::F32), (window, DataType::BF16)])
        {
            check(Case { window: Some(window), block_size: 32, data_type, ..PLAIN }, isa);
        }
    }
}

#[test]
fn several_partitions_split_among_workers() {
    for isa in both_ways() {
        for (workers, data_type) in [(1, DataType::F32), (3, DataType::F32), (1, E4M3), (3, E4M3)] {
            let case = Case { query_heads: 2, kv_heads: 1, head_dim: 16, workers, data_type, ..PLAIN };
            let mut machine = Machine::new(case, isa);
            machine.step(&[(0, 0, 600)]);
            let output = machine.step(&[(0, 600, 1)]).swap_remove(0);
            assert!(error(case, 0, 600..601, &output) < tolerance(data_type, isa));
        }
    }
}

/// All outputs of a sequence of `tokens`, from steps that compute it in chunks of `chunk`, among others.
fn outputs(
    (case, isa): (Case, Isa),
    tokens: usize,
    chunk: usize,
    others: &[(usize, usize, usize)],
) -> Vec<u32> {
    let mut machine = Machine::new(case, isa);
    let mut bits = Vec::new();
    for computed in (0..tokens).step_by(chunk) {
        let mut shares = others.to_vec();
        shares.insert(others.len() / 2, (3, computed, chunk.min(tokens - computed)));
        let output = machine.step(&shares).swap_remove(others.len() / 2);
        bits.extend(output.into_iter().map(f32::to_bits));
    }
    bits
}

#[test]
fn chunks_batches_and_workers_change_no_bit() {
    for isa in both_ways() {
        // The twin of tiles makes one multiply-add at a time.
        let (tokens, head_dims) =
            if isa.name() == "portable-tiles" { (270, &[16][..]) } else { (555, &[16, 80][..]) };
        for (data_type, window) in
            [(DataType::BF16, None), (E4M3, None), (DataType::F32, Some(300)), (DataType::BF16, Some(77))]
        {
            for &head_dim in head_dims {
                let case = Case { head_dim, data_type, window, workers: 1, ..PLAIN };
                let whole = outputs((case, isa), tokens, tokens, &[]);
                assert!(whole == outputs((case, isa), tokens, 100, &[]), "chunks of 100: {case:?}");
                assert!(whole == outputs((case, isa), tokens, 7, &[]), "chunks of 7: {case:?}");
                let others = [(0, 0, 3), (1, 0, 40), (2, 0, 1)];
                assert!(whole == outputs((case, isa), tokens, 64, &others), "in a batch: {case:?}");
                let three = Case { workers: 3, ..case };
                assert!(whole == outputs((three, isa), tokens, tokens, &[]), "three workers: {case:?}");
                assert!(
                    whole == outputs((three, isa), tokens, 1, &[]),
                    "three workers, one by one: {case:?}"
                );
            }
        }
    }
}

/// Sets that compute alike: with vectors, and with tiles.
#[test]
fn instruction_sets_agree_to_the_bit() {
    let cases = [
        Case { data_type: E4M3, ..PLAIN },
        Case { data_type: DataType::BF16, head_dim: 80, window: Some(45), ..PLAIN },
        Case { data_type: DataType::F8(Float8Format::E5M2), query_heads: 7, kv_heads: 1, ..PLAIN },
    ];
    for case in cases {
        for tiles in [false, true] {
            let sets = Isa::available().into_iter().chain([Isa::portable_tiles()]);
            let results: Vec<_> = sets
                .filter(|isa| isa.has_tiles() == tiles)
                .map(|isa| outputs((case, isa), 300, 150, &[]))
                .collect();
            assert!(results.iter().all(|result| *result == results[0]), "{case:?}, tiles: {tiles}");
        }
    }
}
