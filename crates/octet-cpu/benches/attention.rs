//! Attention alone: decode over long contexts as a fraction of this machine's read bandwidth, and prefill.
//!
//! `cargo bench -p octet-cpu --bench attention`. Each decode step goes through several layers, so that keys and values
//! come from memory and not from a cache. Each figure is the best of several rounds, as the bandwidth it is held against
//! is, so that a disturbed round does not count.
#![allow(clippy::print_stdout, reason = "a benchmark prints its results")]
#![allow(missing_docs, clippy::expect_used, reason = "a benchmark")]

use std::time::{Duration, Instant};

use octet_backend::{
    AttentionSpec, Backend as _, Batch, DataType, KvCacheSpec, KvScale, RopeSpec, RotaryAndCache, TensorRole,
    TensorSpec,
};
use octet_cpu::{CpuBackend, CpuKvCache, CpuOptions, CpuRope, CpuTensor, PoolOptions};
use octet_float8::Float8Format;

const BLOCK_SIZE: usize = 128;
const CHUNK_ROWS: usize = 512;
const E4M3: DataType = DataType::F8(Float8Format::E4M3);

/// The heads of a model.
#[derive(Clone, Copy)]
struct Heads {
    name: &'static str,
    query_heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

const MODELS: [Heads; 2] = [
    Heads { name: "llama-3.2-1b", query_heads: 32, kv_heads: 8, head_dim: 64 },
    Heads { name: "llama-3-8b", query_heads: 32, kv_heads: 8, head_dim: 128 },
];

impl Heads {
    fn spec(self, layer: usize) -> AttentionSpec {
        let scale = (self.head_dim as f32).powf(-0.5);
        AttentionSpec { layer, query_heads: self.query_heads, scale, score_cap: None, sliding_window: None }
    }

    fn qkv_width(self) -> usize {
        (self.query_heads + 2 * self.kv_heads) * self.head_dim
    }
}

/// The backend; `OCTET_BENCH_THREADS` may give the number of threads.
fn start() -> CpuBackend {
    let workers = std::env::var("OCTET_BENCH_THREADS").ok().and_then(|text| text.parse().ok());
    let threads = PoolOptions { workers, ..PoolOptions::default() };
    CpuBackend::new(&CpuOptions { threads, isa: None }).expect("the backend starts")
}

/// A backend with a cache whose sequences are filled.
struct Bench {
    backend: CpuBackend,
    heads: Heads,
    layers: usize,
    context: usize,
    rope: CpuRope,
    cache: CpuKvCache,
    qkv: CpuTensor,
    output: CpuTensor,
}

impl Bench {
    fn new(heads: Heads, data_type: DataType, (sequences, context): (usize, usize), layers: usize) -> Self {
        let mut backend = start();
        let rope = RopeSpec { inverse_frequencies: vec![0.1; heads.head_dim / 2], magnitude: 1.0 };
        let tensor = |backend: &mut CpuBackend, columns| {
            let spec = TensorSpec { role: TensorRole::Activation, rows: CHUNK_ROWS.max(context), columns };
            backend.allocate(spec).expect("memory for a tensor")
        };
        let cache = KvCacheSpec {
            layers,
            kv_heads: heads.kv_heads,
            head_dim: heads.head_dim,
            block_size: BLOCK_SIZE,
            blocks: 1 + sequences * context.div_ceil(BLOCK_SIZE),
            data_type,
            scales: vec![KvScale::ONE; layers],
        };
        let mut qkv = tensor(&mut backend, heads.qkv_width());
        let values: Vec<f32> = (0..CHUNK_ROWS * heads.qkv_width())
            .map(|index| ((index * 7919) % 1009) as f32 / 504.0 - 1.0)
            .collect();
        backend.write_tensor(&mut qkv, &values).expect("values that fit");
        Self {
            rope: backend.load_rope(&rope, CHUNK_ROWS).expect("memory for a rope"),
            cache: backend.allocate_kv_cache(&cache).expect("memory for the cache"),
            output: tensor(&mut backend, heads.query_heads * heads.head_dim),
            qkv,
            backend,
            heads,
            layers,
            context,
        }
    }

    /// Begins a step in which each of these sequences has `rows` rows after `computed` tokens.
    fn begin(&mut self, sequences: std::ops::Range<usize>, computed: usize, rows: usize) {
        let blocks = self.context.div_ceil(BLOCK_SIZE);
        let mut batch = Batch::default();
        for sequence in sequences {
            let table: Vec<u32> = (0..blocks).map(|block| (1 + sequence * blocks + block) as u32).collect();
            batch.push_sequence(&vec![0; rows], computed, &table);
        }
        self.backend.begin_step(&batch).expect("a batch that fits");
    }

    /// Writes keys and values of the first `tokens` tokens.
    fn fill(&mut self, sequences: usize, tokens: usize) {
        for sequence in 0..sequences {
            for start in (0..tokens).step_by(CHUNK_ROWS) {
                self.begin(sequence..sequence + 1, start, CHUNK_ROWS.min(tokens - start));
                for layer in 0..self.layers {
                    let operands = RotaryAndCache {
                        qkv: &mut self.qkv,
                        query_norm: None,
                        key_norm: None,
                        epsilon: 0.0,
                        rope: &self.rope,
                        cache: &mut self.cache,
                    };
                    self.backend.rotary_and_cache(self.heads.spec(layer), operands).expect("no error");
                }
            }
        }
    }

    /// Time of one layer's attention.
    fn time(&mut self, rounds: usize) -> Duration {
        let times = (0..rounds).map(|_| {
            let start = Instant::now();
            for layer in 0..self.layers {
                let spec = self.heads.spec(layer);
                self.backend.attention(spec, &self.qkv, &self.cache, &mut self.output).expect("no error");
            }
            start.elapsed() / self.layers as u32
        });
        times.min().unwrap_or_default()
    }
}

fn decode(heads: Heads, bandwidth: f64) {
    for sequences in [1, 8] {
        for context in [512, 4096, 8192] {
            let mut times = [Duration::ZERO; 2];
            for (time, data_type) in times.iter_mut().zip([DataType::BF16, E4M3]) {
                let bytes = 2 * sequences * context * heads.kv_heads * heads.head_dim * data_type.bytes();
                let layers = (2 * octet_cpu::last_cache_bytes()).div_ceil(bytes).clamp(1, 256);
                let mut bench = Bench::new(heads, data_type, (sequences, context), layers);
                bench.fill(sequences, context - 1);
                bench.begin(0..sequences, context - 1, 1);
                *time = bench.time(30);
                let rate = bytes as f64 / time.as_secs_f64();
                println!(
                    "{:<13} decode  batch {sequences} context {context:>5} {data_type:>9}: {:>9.1} us, {:>5.2} GB/s, {:>4.0} % of reading",
                    heads.name,
                    time.as_secs_f64() * 1e6,
                    rate / 1e9,
                    rate / bandwidth * 100.0
                );
            }
            println!("{:46} fp8 is {:.2} times as fast", "", times[0].as_secs_f64() / times[1].as_secs_f64());
        }
    }
}

fn prefill(heads: Heads) {
    for rows in [512, 2048] {
        for data_type in [DataType::BF16, E4M3] {
            let mut bench = Bench::new(heads, data_type, (1, rows), 1);
            bench.fill(1, rows);
            bench.begin(0..1, 0, rows);
            let time = bench.time(10);
            // Two products of each query with half of the keys, on average.
            let operations = 2 * rows * (rows + 1) * heads.query_heads * heads.head_dim;
            println!(
                "{:<13} prefill {rows:>4} {data_type:>9}: {:>9.1} us, {:>6.1} GFLOP/s",
                heads.name,
                time.as_secs_f64() * 1e6,
                operations as f64 / time.as_secs_f64() / 1e9
            );
        }
    }
}

fn main() {
    // `cargo test --benches` runs this too, and only wants to see it start.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let bandwidth = start().measure_roofline().expect("room for the floor").read_bytes_per_second;
    println!("reading: {:.2} GB/s", bandwidth / 1e9);
    for heads in MODELS {
        decode(heads, bandwidth);
        prefill(heads);
    }
}
