//! Rotary positions, norms of heads, and the write of keys and values into the cache.

use octet_backend::{Batch, RopeSpec};

use super::cache::{CpuKvCache, with_storage};
use super::norm::{NormRow, load, store};
use super::rows::SharedRows;
use super::storage::Storage;
use crate::isa::Isa;
use crate::simd::{Kernel, LANES, Simd};
use crate::threads::Pool;

/// Cosines and sines of one rotary embedding at the positions of the current step: layers share them.
pub(crate) struct RopeTable {
    spec: RopeSpec,
    /// `[rows, pairs]`.
    cosines: Vec<f32>,
    /// `[rows, pairs]`.
    sines: Vec<f32>,
    /// The step that they are of.
    step: Option<u64>,
}

impl RopeTable {
    /// A table for steps of at most `max_rows` rows.
    pub(crate) fn new(spec: &RopeSpec, max_rows: usize) -> Self {
        let elements = max_rows * spec.inverse_frequencies.len();
        let (cosines, sines) = (Vec::with_capacity(elements), Vec::with_capacity(elements));
        Self { spec: spec.clone(), cosines, sines, step: None }
    }

    /// Pairs of dimensions that are rotated.
    pub(crate) fn pairs(&self) -> usize {
        self.spec.inverse_frequencies.len()
    }

    /// Computes the table of a step, once.
    ///
    /// The angle is an `f32` product, as in transformers and vLLM: its rounding at far positions is part of what
    /// models were trained with.
    pub(crate) fn prepare(&mut self, pool: &Pool, batch: &Batch, step: u64) {
        let pairs = self.pairs();
        if self.step == Some(step) || pairs == 0 {
            return;
        }
        self.step = Some(step);
        let rows = batch.rows();
        self.cosines.resize(rows * pairs, 0.0);
        self.sines.resize(rows * pairs, 0.0);
        let cosines = SharedRows::new(&mut self.cosines, pairs);
        let sines = SharedRows::new(&mut self.sines, pairs);
        let spec = &self.spec;
        // A sine costs about as much as copying sixteen values.
        super::for_rows(pool, rows, pairs * LANES, &|row| {
            // SAFETY: each row is given to one worker.
            let (cosines, sines) = unsafe { (cosines.row(row), sines.row(row)) };
            for (pair, &frequency) in spec.inverse_frequencies.iter().enumerate() {
                let (sine, cosine) = (batch.positions[row] as f32 * frequency).sin_cos();
                cosines[pair] = cosine * spec.magnitude;
                sines[pair] = sine * spec.magnitude;
            }
        });
    }
}

/// Rotates one head.
struct Rotate<'a> {
    /// At least twice as many values as there are pairs: first halves, then second halves.
    head: &'a mut [f32],
    /// `[pairs]`.
    cosines: &'a [f32],
    /// `[pairs]`.
    sines: &'a [f32],
}

impl Kernel for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let pairs = self.cosines.len();
        let (first, second) = self.head[..2 * pairs].split_at_mut(pairs);
        for start in (0..pairs).step_by(LANES) {
            let count = (pairs - start).min(LANES);
            // SAFETY: all four have `pairs` values; `sines` is as long as `cosines`.
            unsafe {
                let cosines = load(simd, self.cosines.as_ptr().add(start), count);
                let sines = load(simd, self.sines[..pairs].as_ptr().add(start), count);
                let a = load(simd, first.as_ptr().add(start), count);
                let b = load(simd, second.as_ptr().add(start), count);
                let minus_b = simd.subtract(simd.splat(0.0), b);
                let turned_a = simd.multiply_add(a, cosines, simd.multiply(minus_b, sines));
                let turned_b = simd.multiply_add(b, cosines, simd.multiply(a, sines));
                store(simd, first.as_mut_ptr().add(start), turned_a, count);
                store(simd, second.as_mut_ptr().add(start), turned_b, count);
            }
        }
    }
}

/// Operands of [`rotary_and_cache`].
pub(crate) struct RotaryOperands<'a> {
    pub(crate) batch: &'a Batch,
    pub(crate) layer: usize,
    pub(crate) query_heads: usize,
    /// `[rows, (query_heads + 2 * kv_heads) * head_dim]`.
    pub(crate) qkv: &'a mut [f32],
    /// `[head_dim]`, or of all query heads.
    pub(crate) query_norm: Option<&'a [f32]>,
    /// `[head_dim]`, or of all key heads.
    pub(crate) key_norm: Option<&'a [f32]>,
    pub(crate) epsilon: f32,
    /// Prepared for the batch.
    pub(crate) rope: &'a RopeTable,
    pub(crate) cache: &'a mut CpuKvCache,
}

/// Normalises and rotates queries and keys in place, and stores keys and values.
pub(crate) fn rotary_and_cache(pool: &Pool, isa: Isa, operands: RotaryOperands<'_>) {
    with_storage!(operands.cache.kind, K => run_stored::<K>(pool, isa, operands));
}

fn run_stored<K: Storage>(pool: &Pool, isa: Isa, operands: RotaryOperands<'_>) {
    let RotaryOperands { batch, layer, query_heads, qkv, epsilon, rope, cache, .. } = operands;
    let (query_norm, key_norm) = (operands.query_norm, operands.key_norm);
    let layout = cache.layout;
    let (head_dim, kv_heads, block_size) = (layout.head_dim, layout.kv_heads, layout.block_size);
    let pairs = rope.pairs();
    let writer = cache.layer_mut::<K>(layer);
    let width = (query_heads + 2 * kv_heads) * head_dim;
    let qkv = SharedRows::new(qkv, width);
    super::for_rows(pool, batch.rows(), width, &|row| {
        // SAFETY: each row is given to one worker.
        let (turned, values) = unsafe { qkv.row(row) }.split_at_mut((query_heads + kv_heads) * head_dim);
        let cosines = &rope.cosines[row * pairs..(row + 1) * pairs];
        let sines = &rope.sines[row * pairs..(row + 1) * pairs];
        let (queries, keys) = turned.split_at_mut(query_heads * head_dim);
        for (side, weight) in [(queries, query_norm), (keys, key_norm)] {
            let Some(weight) = weight else { continue };
            for values in side.chunks_exact_mut(weight.len()) {
                let values = values.as_mut_ptr();
                isa.run(NormRow { input: values, weight, epsilon, output: values });
            }
        }
        for head in turned.chunks_exact_mut(head_dim) {
            isa.run(Rotate { head, cosines, sines });
        }
        let keys = turned[query_heads * head_dim..].chunks_exact(head_dim);
        let position = batch.positions[row] as usize;
        let block = batch.block_table(sequence_of(batch, row))[position / block_size];
        for (head, (key, value)) in keys.zip(values.chunks_exact(head_dim)).enumerate() {
            // SAFETY: a slot belongs to one token of one sequence, as the block pool deals them out, and nothing reads
            // the cache during this operation.
            unsafe { writer.write((block, position % block_size), head, key, value) };
        }
    });
}

/// The sequence that a row belongs to.
fn sequence_of(batch: &Batch, row: usize) -> &octet_backend::BatchSequence {
    let after = batch.sequences.partition_point(|sequence| sequence.first_row <= row);
    &batch.sequences[after - 1]
}
