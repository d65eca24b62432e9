//! Paged attention over ragged batches, and what the cache keeps.

use octet_backend::{Backend, DataType, KvScale};
use octet_float8::Float8Format;
use octet_reference::{ReferenceBackend, round_to};

use crate::Claims;
use crate::compare::{ELEMENTARY, Found, ROUNDING, sum_error};
use crate::random::Random;
use crate::scenario::{Heads, Layout, Outcome, Scenario, Step};

/// KV heads, queries to a KV head, head dimension, block size, sliding window, bound of scores.
type Shape = (usize, usize, usize, usize, Option<usize>, Option<f32>);

const SHAPES: [Shape; 9] = [
    (1, 1, 16, 16, None, Some(1.5)),
    (1, 4, 64, 16, None, None),
    (2, 1, 80, 16, Some(23), None),
    (2, 3, 96, 32, None, None),
    (2, 4, 128, 16, None, None),
    (1, 7, 64, 32, Some(16), Some(2.0)),
    (1, 8, 128, 128, Some(100), None),
    (3, 2, 64, 128, None, Some(50.0)),
    (1, 2, 256, 16, Some(40), Some(2.5)),
];

/// All shapes for the types that are used most, some for the others: the code that depends on the type is small.
fn layouts(data_type: DataType, scale: KvScale) -> impl Iterator<Item = Layout> {
    let used_most = matches!(data_type, DataType::BF16 | DataType::F8(Float8Format::E4M3));
    SHAPES.into_iter().step_by(if used_most { 1 } else { 3 }).map(
        move |(kv_heads, group, head_dim, block_size, window, cap)| Layout {
            kv_heads,
            group,
            head_dim,
            block_size,
            cap,
            window,
            data_type,
            scale,
        },
    )
}

/// Chunks of prefill, decode rows and a prefix found in the cache, mixed; steps of decode rows alone; a block that is
/// just full and one that is just begun; a context of many blocks.
pub(crate) fn ragged(layout: Layout, heads: Heads) -> Scenario {
    let block = layout.block_size;
    // Sequence 2 begins with the first block of sequence 0, and computes only what follows.
    let steps = vec![
        Step::of(&[(0, 0, block + 1), (1, 0, 5), (4, 0, 64)]),
        Step::of(&[(1, 5, 1), (0, block + 1, 17), (2, block, 3), (4, 64, 40)]),
        Step::of(&[(0, block + 18, 1), (1, 6, 1), (2, block + 3, 1), (4, 104, 1)]),
        Step::of(&[(3, 0, 33), (0, block + 19, 1), (2, block + 4, 7), (4, 105, 1), (1, 7, 1)]),
        Step::of(&[(4, 106, 30), (3, 33, 1)]),
        Step::of(&[(4, 136, 1)]),
    ];
    let longest = [block + 20, 8, block + 11, 34, 137];
    let mut ids = Random::new(block as u64).shuffled(1, 60).into_iter();
    let mut tables: Vec<Vec<u32>> =
        longest.iter().map(|&tokens| ids.by_ref().take(tokens.div_ceil(block)).collect()).collect();
    tables[2][0] = tables[0][0];
    Scenario { layout, heads, blocks: 61, tables, steps }
}

/// Compares each step of a story with the reference.
///
/// The reference starts from the queries and keys as the backend rotated them: rotation is compared on its own, and
/// here a difference in its last place must not decide how a key is rounded for the cache.
fn compare<B: Backend>(claims: &Claims, backend: &mut B, scenario: &Scenario) {
    let outcomes = scenario.run(backend);
    let rotated: Vec<Vec<f32>> = outcomes.iter().map(|outcome| outcome.qkv.clone()).collect();
    let layout = scenario.layout;
    let untouched = Scenario { heads: Heads::untouched(layout.head_dim), ..scenario.clone() };
    let expected = untouched.run_on(&mut ReferenceBackend::new(), &rotated);
    let bounds = Bounds::of(layout, &rotated);
    for (index, (outcome, expected)) in outcomes.iter().zip(&expected).enumerate() {
        let what = format!("attention, step {index} of {:?}, {layout:?}", scenario.steps[index].pieces);
        let columns = layout.query_heads() * layout.head_dim;
        let found = Found { what: &what, columns, values: &outcome.output };
        found.is_near(&expected.output, |at| {
            let (row, head) = (at / columns, at % columns / layout.head_dim);
            bounds.tolerance(claims, &outcome.qkv[row * layout.width() + head * layout.head_dim..])
        });
    }
}

/// The largest keys and values of a story: what errors are relative to.
struct Bounds {
    layout: Layout,
    /// Euclidean norm of a key head.
    key: f64,
    /// Magnitude of an element of a value.
    value: f64,
}

impl Bounds {
    fn of(layout: Layout, steps: &[Vec<f32>]) -> Self {
        let keys = layout.query_heads() * layout.head_dim;
        let values = keys + layout.kv_heads * layout.head_dim;
        let mut bounds = Self { layout, key: 0.0, value: 0.0 };
        for row in steps.iter().flat_map(|step| step.chunks_exact(layout.width())) {
            for key in row[keys..values].chunks_exact(layout.head_dim) {
                bounds.key = bounds.key.max(euclidean(key));
            }
            bounds.value =
                row[values..].iter().map(|value| f64::from(value.abs())).fold(bounds.value, f64::max);
        }
        bounds
    }

    /// What the result of a query may be off by.
    ///
    /// A score is a sum of `head_dim` products, so it is off by `sum_error * |query| |key| * scale` at most (the
    /// storage type adds up to an eighth to a key's length). That moves a probability by as much, relatively; the
    /// exponential and the sums over the context add their roundings; and twice the error of the probabilities times
    /// the largest value bounds the error of their mean, because they are also divided by their sum.
    fn tolerance(&self, claims: &Claims, query: &[f32]) -> f64 {
        const LONGEST_CONTEXT: usize = 160;
        let layout = &self.layout;
        let reach =
            1.125 * euclidean(&query[..layout.head_dim]) * self.key * f64::from(layout.attention().scale);
        let score = (sum_error(layout.head_dim) + 2.0 * claims.attention_rounding) * reach;
        let probability = score + ELEMENTARY + LONGEST_CONTEXT as f64 * ROUNDING + claims.attention_rounding;
        2.0 * probability * 1.125 * self.value
    }
}

fn euclidean(values: &[f32]) -> f64 {
    values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt()
}

/// Scales of a cache of this type: FP8 with one that is no power of two, others without.
fn odd_scale(data_type: DataType) -> KvScale {
    if data_type.is_float8() { KvScale { key: 0.037, value: 0.011 } } else { KvScale::ONE }
}

/// The types that a cache is tried with: those that the backend offers, which must include FP8 and bf16.
fn cache_types<B: Backend>(backend: &B) -> Vec<DataType> {
    let offered = backend.kv_cache_types().to_vec();
    for needed in [DataType::BF16, DataType::F8(Float8Format::E4M3), DataType::F8(Float8Format::E5M2)] {
        assert!(offered.contains(&needed), "a KV cache in {needed} is not offered, only {offered:?}");
    }
    offered
}

/// `attention` against the reference: ragged batches, prefix hits, grouped queries, windows, bounds of
/// scores, all cache types.
///
/// # Panics
/// Where they disagree.
pub fn attention<B: Backend>(claims: &Claims, backend: &mut B) {
    for data_type in cache_types(backend) {
        for layout in layouts(data_type, odd_scale(data_type)) {
            compare(claims, backend, &ragged(layout, Heads::untouched(layout.head_dim)));
        }
    }
    // With rotation and norms in between. Powers of two: see `compare`.
    for data_type in [DataType::BF16, DataType::F8(Float8Format::E4M3)] {
        let scale = KvScale { key: 0.5, value: 0.25 };
        let scale = if data_type.is_float8() { scale } else { KvScale::ONE };
        for layout in layouts(data_type, scale) {
            let heads = Heads::turned(layout.head_dim, layout.head_dim, layout.kv_heads > 1);
            compare(claims, backend, &ragged(layout, heads));
        }
    }
}

/// The same outputs to the bit whether a sequence is prefilled whole, in chunks or token by token, alone or in
/// company, and wherever its blocks lie.
///
/// # Panics
/// Where they are not, for a backend that claims it.
pub fn attention_invariance<B: Backend>(claims: &Claims, backend: &mut B) {
    if !claims.batch_invariant {
        return;
    }
    for data_type in cache_types(backend) {
        for layout in layouts(data_type, odd_scale(data_type)) {
            invariance_of(backend, layout);
        }
    }
}

/// Tokens of the sequence that is computed in three ways.
const TOKENS: usize = 150;

fn invariance_of<B: Backend>(backend: &mut B, layout: Layout) {
    let heads = Heads::turned(layout.head_dim, layout.head_dim, true);
    let story = |seed: u64, steps: Vec<Step>| {
        let blocks = TOKENS.div_ceil(layout.block_size);
        let mut ids = Random::new(seed).shuffled(1, 4 * blocks as u32).into_iter();
        let tables = (0..4).map(|_| ids.by_ref().take(blocks).collect()).collect();
        Scenario { layout, heads: heads.clone(), blocks: 4 * blocks + 1, tables, steps }
    };
    let whole = of_sequence(&story(1, vec![Step::of(&[(0, 0, TOKENS)])]), backend);
    let in_company = story(
        2,
        vec![
            Step::of(&[(1, 0, 3), (0, 0, 1), (2, 0, 20)]),
            Step::of(&[(0, 1, 30), (1, 3, 1)]),
            Step::of(&[(0, 31, 7), (2, 20, 1), (3, 0, 9)]),
            Step::of(&[(1, 4, 1), (2, 21, 1), (0, 38, 1), (3, 9, 1)]),
            Step::of(&[(0, 39, 64), (1, 5, 40)]),
            Step::of(&[(3, 10, 2), (0, 103, 46)]),
            Step::of(&[(0, 149, 1)]),
        ],
    );
    let token_by_token = story(3, (0..TOKENS).map(|position| Step::of(&[(0, position, 1)])).collect());
    let columns = layout.query_heads() * layout.head_dim;
    for (how, scenario) in [("in chunks and company", in_company), ("token by token", token_by_token)] {
        let outcome = of_sequence(&scenario, backend);
        let what = format!("queries, keys and values {how}, {layout:?}");
        Found { what: &what, columns: layout.width(), values: &outcome.qkv }.is_to_the_bit(&whole.qkv);
        let what = format!("attention {how}, {layout:?}");
        Found { what: &what, columns, values: &outcome.output }.is_to_the_bit(&whole.output);
    }
}

/// The rows of sequence 0, in order.
fn of_sequence<B: Backend>(scenario: &Scenario, backend: &mut B) -> Outcome {
    let mut rows = Outcome { qkv: Vec::new(), output: Vec::new() };
    let width = scenario.layout.width();
    let columns = scenario.layout.query_heads() * scenario.layout.head_dim;
    for (step, outcome) in scenario.steps.iter().zip(scenario.run(backend)) {
        let mut first = 0;
        for piece in &step.pieces {
            if piece.sequence == 0 {
                rows.qkv.extend(&outcome.qkv[first * width..(first + piece.rows) * width]);
                rows.output.extend(&outcome.output[first * columns..(first + piece.rows) * columns]);
            }
            first += piece.rows;
        }
    }
    rows
}

/// What the cache keeps of a value, read back by sequences of one token: their attention is that value. Ties go to
/// even, FP8 saturates, small values become subnormal or zero.
///
/// # Panics
/// Where something else was kept.
pub fn stored_values<B: Backend>(_claims: &Claims, backend: &mut B) {
    const SEQUENCES: usize = 40;
    for data_type in cache_types(backend) {
        let scales = [KvScale::ONE, KvScale { key: 8.0, value: 0.25 }, odd_scale(data_type)];
        for scale in scales.into_iter().take(if data_type.is_float8() { 3 } else { 1 }) {
            let shape = (2, 2, 64, 16);
            let (kv_heads, group, head_dim, block_size) = shape;
            let layout =
                Layout { kv_heads, group, head_dim, block_size, cap: None, window: None, data_type, scale };
            let pieces: Vec<_> = (0..SEQUENCES).map(|sequence| (sequence, 0, 1)).collect();
            let tables = (0..SEQUENCES).map(|sequence| vec![1 + sequence as u32]).collect();
            let heads = Heads::untouched(head_dim);
            let steps = vec![Step::of(&pieces)];
            let scenario = Scenario { layout, heads, blocks: SEQUENCES + 1, tables, steps };
            let mut input = Random::new(10).bells(SEQUENCES * layout.width());
            let mut special = special_values(data_type).into_iter().cycle();
            for row in input.chunks_exact_mut(layout.width()) {
                for value in &mut row[(group + 1) * kv_heads * head_dim..] {
                    let candidate = special.next().expect("a cycle does not end");
                    *value = layout.settled(candidate * scale.value, scale.value);
                }
            }
            let expected = scenario.run_on(&mut ReferenceBackend::new(), &[input.clone()]);
            let outcome = scenario.run_on(backend, &[input]);
            let what = format!("values kept in {data_type} with scale {}", scale.value);
            let columns = layout.query_heads() * head_dim;
            // The scale may be multiplied in before or after the sum: two roundings, which are always allowed.
            Found { what: &what, columns, values: &outcome[0].output }.is_near(&expected[0].output, |_| 0.0);
        }
    }
}

/// Values on, between and beyond those of a type.
fn special_values(data_type: DataType) -> Vec<f32> {
    let mut values = vec![0.0, -0.0];
    match data_type {
        DataType::F8(format) => {
            let codes = (0..128).map(|code| format.decode(code)).filter(|value| value.is_finite());
            let exact: Vec<f32> = codes.collect();
            values.extend(exact.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0));
            values.extend(exact);
            values.extend([format.max() * 1.01, format.max() * 1000.0]);
        }
        DataType::F32 => values.extend([1.0, 0.1, 1e-30, 1e30]),
        DataType::I8 => unreachable!("no cache is kept in integers"),
        DataType::F16 | DataType::BF16 => {
            let bits = if data_type == DataType::F16 { 10 } else { 7 };
            values.extend((0..64).map(|step| 1.0 + step as f32 * 2f32.powi(-bits - 2)));
            values.extend([6e-8, 2.4e-7, 6.1e-5, 65_000.0].map(|value| round_to(data_type, value)));
        }
    }
    let negative: Vec<f32> = values.iter().map(|value| -value).collect();
    values.extend(negative);
    values
}
