//! Sequences that come and go over several steps: what attention and the cache are tried with.

use octet_backend::{
    AttentionSpec, Backend, Batch, DataType, KvCacheSpec, KvScale, RopeSpec, RotaryAndCache, StepKey,
    TensorRole,
};
use octet_reference::round_to;

use crate::device::{filled, read, undefined};
use crate::random::Random;

/// Layers of the cache; only [`LAYER`] is used, the other stays undefined.
const LAYERS: usize = 2;

/// The layer that steps work on.
const LAYER: usize = 1;

/// Shape and storage of heads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) kv_heads: usize,
    /// Query heads that share a KV head.
    pub(crate) group: usize,
    pub(crate) head_dim: usize,
    pub(crate) block_size: usize,
    pub(crate) cap: Option<f32>,
    pub(crate) window: Option<usize>,
    pub(crate) data_type: DataType,
    pub(crate) scale: KvScale,
}

impl Layout {
    pub(crate) fn query_heads(&self) -> usize {
        self.kv_heads * self.group
    }

    /// Columns of queries, keys and values together.
    pub(crate) fn width(&self) -> usize {
        (self.query_heads() + 2 * self.kv_heads) * self.head_dim
    }

    pub(crate) fn attention(&self) -> AttentionSpec {
        AttentionSpec {
            layer: LAYER,
            query_heads: self.query_heads(),
            scale: 1.0 / (self.head_dim as f32).sqrt(),
            score_cap: self.cap,
            sliding_window: self.window,
        }
    }

    pub(crate) fn cache(&self, blocks: usize) -> KvCacheSpec {
        KvCacheSpec {
            layers: LAYERS,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            block_size: self.block_size,
            blocks,
            data_type: self.data_type,
            scales: vec![KvScale { key: 3.0, value: 5.0 }, self.scale],
        }
    }

    /// Queries, keys and values of one token; keys and values as they are, or moved away from where rounding could go
    /// either way: `x / scale` and `x * (1 / scale)` may differ in the last place.
    fn token(&self, sequence: usize, position: usize) -> Vec<f32> {
        let mut random = Random::new((sequence as u64) << 32 | position as u64);
        let mut token = random.bells(self.width());
        let keys = self.query_heads() * self.head_dim;
        let values = keys + self.kv_heads * self.head_dim;
        token[..keys].iter_mut().for_each(|query| *query *= 1.5);
        token[keys..values].iter_mut().for_each(|key| *key = self.settled(*key, self.scale.key));
        token[values..].iter_mut().for_each(|value| *value = self.settled(*value, self.scale.value));
        token
    }

    pub(crate) fn settled(&self, value: f32, scale: f32) -> f32 {
        const STEP: f32 = 1.0 / (1 << 18) as f32;
        let stored = |factor: f32| round_to(self.data_type, value * factor / scale);
        if self.data_type == DataType::F32 || stored(1.0 - STEP) == stored(1.0 + STEP) {
            value
        } else {
            stored(1.0) * scale
        }
    }
}

/// What happens to heads before they are stored.
#[derive(Clone, Debug)]
pub(crate) struct Heads {
    pub(crate) rope: RopeSpec,
    /// Weights of the norms of queries and keys: of a head, or of all of a side.
    pub(crate) norms: Option<(Vec<f32>, Vec<f32>)>,
}

impl Heads {
    /// Nothing: all angles are 0, so that cosines are 1 and sines 0 exactly.
    pub(crate) fn untouched(head_dim: usize) -> Self {
        Self { rope: RopeSpec { inverse_frequencies: vec![0.0; head_dim / 2], magnitude: 1.0 }, norms: None }
    }

    /// Norms, and a rotation of the first `rotary_dim` dimensions with base 10,000.
    pub(crate) fn turned(head_dim: usize, rotary_dim: usize, normalised: bool) -> Self {
        let frequency = |pair: usize| 10_000f32.powf(-2.0 * pair as f32 / rotary_dim as f32);
        let inverse_frequencies = (0..rotary_dim / 2).map(frequency).collect();
        let mut random = Random::new(head_dim as u64);
        let mut weight = || random.bells(head_dim).into_iter().map(|value| 1.0 + value / 4.0).collect();
        Self {
            rope: RopeSpec { inverse_frequencies, magnitude: 1.0 },
            norms: normalised.then(|| (weight(), weight())),
        }
    }

    /// The same, but with norms over all heads of a side together.
    pub(crate) fn normed_across(mut self, layout: &Layout) -> Self {
        let mut random = Random::new(layout.width() as u64);
        let mut weight = |heads: usize| {
            random.bells(heads * layout.head_dim).into_iter().map(|value| 1.0 + value / 4.0).collect()
        };
        self.norms = Some((weight(layout.query_heads()), weight(layout.kv_heads)));
        self
    }
}

/// Rows of one sequence in one step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub(crate) sequence: usize,
    /// Position of the first row: more than was computed before where a prefix was found in the cache.
    pub(crate) from: usize,
    pub(crate) rows: usize,
}

/// One step.
#[derive(Clone, Debug, Default)]
pub(crate) struct Step {
    pub(crate) pieces: Vec<Piece>,
}

impl Step {
    /// A step of `(sequence, from, rows)`.
    pub(crate) fn of(pieces: &[(usize, usize, usize)]) -> Self {
        let piece = |&(sequence, from, rows): &(usize, usize, usize)| Piece { sequence, from, rows };
        Self { pieces: pieces.iter().map(piece).collect() }
    }

    pub(crate) fn rows(&self) -> usize {
        self.pieces.iter().map(|piece| piece.rows).sum()
    }
}

/// A story of several steps on one cache.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) layout: Layout,
    pub(crate) heads: Heads,
    /// Blocks of the cache.
    pub(crate) blocks: usize,
    /// Block table of each sequence.
    pub(crate) tables: Vec<Vec<u32>>,
    pub(crate) steps: Vec<Step>,
}

/// What a step left: `[rows, width]` after norms and rotation, and attention's `[rows, query_heads * head_dim]`.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) qkv: Vec<f32>,
    pub(crate) output: Vec<f32>,
}

impl Scenario {
    /// Queries, keys and values of a step as the linear before would give them.
    fn input(&self, step: &Step) -> Vec<f32> {
        let tokens = step.pieces.iter().flat_map(|piece| {
            (piece.from..piece.from + piece.rows)
                .flat_map(|position| self.layout.token(piece.sequence, position))
        });
        tokens.collect()
    }

    fn batch(&self, step: &Step) -> Batch {
        let mut batch = Batch::default();
        for piece in &step.pieces {
            let blocks = (piece.from + piece.rows).div_ceil(self.layout.block_size);
            let mut table = self.tables[piece.sequence][..blocks].to_vec();
            if let Some(window) = self.layout.window {
                // Blocks that no row of the piece sees any more are given back: the null block stands for them.
                let unseen = (piece.from + 1).saturating_sub(window) / self.layout.block_size;
                table[..unseen].fill(0);
            }
            batch.push_sequence(&vec![0; piece.rows], piece.from, &table);
        }
        batch
    }

    /// Runs the story and returns what each step left.
    pub(crate) fn run<B: Backend>(&self, backend: &mut B) -> Vec<Outcome> {
        let inputs: Vec<Vec<f32>> = self.steps.iter().map(|step| self.input(step)).collect();
        self.run_on(backend, &inputs)
    }

    /// The same with given queries, keys and values for each step.
    pub(crate) fn run_on<B: Backend>(&self, backend: &mut B, inputs: &[Vec<f32>]) -> Vec<Outcome> {
        let mut cache = backend.allocate_kv_cache(&self.layout.cache(self.blocks)).expect("a small cache");
        self.fill_with_nan(backend, &mut cache);
        let most_rows = self.steps.iter().map(Step::rows).max().expect("a scenario has steps");
        let rope = backend.load_rope(&self.heads.rope, most_rows).expect("a rotary embedding");
        let mut outcomes = Vec::new();
        for (step, input) in self.steps.iter().zip(inputs) {
            outcomes.push(self.step(backend, &mut cache, (&rope, &self.heads), &self.batch(step), input));
        }
        outcomes
    }

    /// What a cache holds before it is written must not show: a row that nobody may see could still be multiplied by
    /// a probability of zero.
    fn fill_with_nan<B: Backend>(&self, backend: &mut B, cache: &mut B::KvCache) {
        const CHUNK: usize = 256;
        let heads = Heads::untouched(self.layout.head_dim);
        let rope = backend.load_rope(&heads.rope, CHUNK).expect("a rotary embedding");
        let table: Vec<u32> = (0..self.blocks as u32).collect();
        let tokens = self.blocks * self.layout.block_size;
        for from in (0..tokens).step_by(CHUNK) {
            let mut batch = Batch::default();
            let rows = CHUNK.min(tokens - from);
            batch.push_sequence(&vec![0; rows], from, &table);
            let input = vec![f32::NAN; rows * self.layout.width()];
            self.write(backend, cache, (&rope, &heads), &batch, &input);
        }
    }

    /// Rotates and stores; returns the tensor of queries, keys and values.
    fn write<B: Backend>(
        &self,
        backend: &mut B,
        cache: &mut B::KvCache,
        (rope, heads): (&B::Rope, &Heads),
        batch: &Batch,
        input: &[f32],
    ) -> B::Tensor {
        let mut qkv = filled(backend, TensorRole::Activation, self.layout.width(), input);
        let mut vector = |values: &Vec<f32>| backend.load_vector(values).expect("a vector");
        let norms = heads.norms.as_ref().map(|(query, key)| (vector(query), vector(key)));
        backend.begin_step(batch).expect("a batch that the workspace holds");
        let attention = self.layout.attention();
        let mut body = |backend: &mut B| {
            let operands = RotaryAndCache {
                qkv: &mut qkv,
                query_norm: norms.as_ref().map(|(query, _)| query),
                key_norm: norms.as_ref().map(|(_, key)| key),
                epsilon: 1e-6,
                rope,
                cache: &mut *cache,
            };
            backend.rotary_and_cache(attention, operands)
        };
        backend.run_step(StepKey::of(batch, 0), &mut body).expect("a rotation");
        qkv
    }

    fn step<B: Backend>(
        &self,
        backend: &mut B,
        cache: &mut B::KvCache,
        heads: (&B::Rope, &Heads),
        batch: &Batch,
        input: &[f32],
    ) -> Outcome {
        let rows = batch.rows();
        let columns = self.layout.query_heads() * self.layout.head_dim;
        let mut output = undefined(backend, TensorRole::Activation, rows, columns);
        let qkv = self.write(backend, cache, heads, batch, input);
        let mut body = |backend: &mut B| backend.attention(self.layout.attention(), &qkv, cache, &mut output);
        backend.run_step(StepKey::of(batch, 0), &mut body).expect("attention");
        Outcome { qkv: read(backend, &qkv, rows), output: read(backend, &output, rows) }
    }
}
