//! After its first steps, a decoder allocates nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use octet_backend::{
    Activation, AttentionSpec, Backend as _, BackendError, Batch, DataType, Head, KvCacheSpec, KvScale,
    LinearPart, LinearSpec, LinearUse, Norm, RmsNorm, RopeSpec, RotaryAndCache, StepKey, TensorRole,
    TensorSpec, WeightScale, WeightView,
};
use octet_cpu::{CpuBackend, CpuKvCache, CpuLinear, CpuRope, CpuTensor, CpuVector, Isa};

use crate::backend;

/// The system's allocator, which counts what marked threads ask of it: other tests run meanwhile.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static IS_COUNTED: Cell<bool> = const { Cell::new(false) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call is passed on unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if IS_COUNTED.get() {
            ALLOCATIONS.fetch_add(1, Relaxed);
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

const HIDDEN: usize = 64;
const HEAD_DIM: usize = 16;
const KV_HEADS: usize = 2;
const QUERY_HEADS: usize = 4;
const VOCABULARY: usize = 96;
const QKV: usize = (QUERY_HEADS + 2 * KV_HEADS) * HEAD_DIM;
const ROWS: usize = 80;

/// A decoder of one layer.
struct Decoder {
    backend: CpuBackend,
    table: CpuLinear,
    qkv: CpuLinear,
    gate_up: CpuLinear,
    norm: CpuVector,
    rope: CpuRope,
    cache: CpuKvCache,
    hidden: CpuTensor,
    normed: CpuTensor,
    projected: CpuTensor,
    attended: CpuTensor,
    logits: CpuTensor,
}

fn load(backend: &mut CpuBackend, usage: LinearUse, rows: usize, parts: usize) -> CpuLinear {
    let bytes: Vec<u8> =
        (0..rows * HIDDEN).flat_map(|index| ((index % 7) as f32 * 0.1).to_le_bytes()).collect();
    let weight =
        WeightView { bytes: &bytes, data_type: DataType::F32, rows, columns: HIDDEN, row_stride: HIDDEN };
    let part = LinearPart { weight, scale: WeightScale::None };
    let spec = LinearSpec { data_type: DataType::BF16, usage, bias: None, input_scale: None };
    backend.load_linear(spec, &vec![part; parts]).unwrap()
}

impl Decoder {
    fn new() -> Self {
        let mut backend = backend(Isa::choose(None).unwrap(), 2);
        let tensor = |backend: &mut CpuBackend, columns| {
            backend.allocate(TensorSpec { role: TensorRole::Activation, rows: ROWS, columns }).unwrap()
        };
        let cache = KvCacheSpec {
            layers: 1,
            kv_heads: KV_HEADS,
            head_dim: HEAD_DIM,
            block_size: 16,
            blocks: 64,
            data_type: DataType::BF16,
            scales: vec![KvScale::ONE],
        };
        let rope = RopeSpec { inverse_frequencies: vec![0.1; HEAD_DIM / 2], magnitude: 1.0 };
        Self {
            table: load(&mut backend, LinearUse::EmbedAndMultiply, VOCABULARY, 1),
            qkv: load(&mut backend, LinearUse::Multiply, QKV, 1),
            gate_up: load(&mut backend, LinearUse::Gated, HIDDEN, 2),
            norm: backend.load_vector(&[1.0; HIDDEN]).unwrap(),
            rope: backend.load_rope(&rope, ROWS).unwrap(),
            cache: backend.allocate_kv_cache(&cache).unwrap(),
            hidden: tensor(&mut backend, HIDDEN),
            normed: tensor(&mut backend, HIDDEN),
            projected: tensor(&mut backend, QKV),
            attended: tensor(&mut backend, HIDDEN),
            logits: tensor(&mut backend, VOCABULARY),
            backend,
        }
    }

    fn step(&mut self, batch: &Batch) -> Result<(), BackendError> {
        let attention = AttentionSpec {
            layer: 0,
            query_heads: QUERY_HEADS,
            scale: 0.25,
            score_cap: None,
            sliding_window: None,
        };
        self.backend.begin_step(batch)?;
        let Self {
            backend,
            table,
            qkv,
            gate_up,
            norm,
            rope,
            cache,
            hidden,
            normed,
            projected,
            attended,
            logits,
        } = self;
        backend.run_step(StepKey::of(batch, batch.output_rows.len()), &mut |backend| {
            backend.embed(table, 2.0, hidden)?;
            let operands =
                RmsNorm { input: &*hidden, norm: Norm { weight: norm, epsilon: 1e-5 }, output: &mut *normed };
            backend.rms_norm(operands)?;
            backend.linear(qkv, normed, projected)?;
            let operands = RotaryAndCache {
                qkv: &mut *projected,
                query_norm: None,
                key_norm: None,
                epsilon: 0.0,
                rope,
                cache: &mut *cache,
            };
            backend.rotary_and_cache(attention, operands)?;
            backend.attention(attention, projected, cache, attended)?;
            backend.gated_linear(gate_up, Activation::Silu, attended, hidden)?;
            backend.gather_rows(0..batch.output_rows.len(), hidden, normed)?;
            let operands = RmsNorm {
                input: &*normed,
                norm: Norm { weight: norm, epsilon: 1e-5 },
                output: &mut *attended,
            };
            let head = Head { weight: table, scale: 2.0, cap: Some(30.0) };
            backend.logits(batch.output_rows.len(), operands, head, logits)?;
            backend.map_logits(logits, batch.output_rows.len(), &|_, row| row[0] = 0.0)
        })
    }
}

/// A prefill of most rows beside a decode whose context is long enough to be split among workers.
fn batch(computed: usize) -> Batch {
    let mut batch = Batch::default();
    let blocks: Vec<u32> = (1..=48).collect();
    batch.push_sequence(&[1], computed, &blocks);
    batch.push_sequence(&[2; ROWS - 1], 0, &[49, 50, 51, 52, 53]);
    batch.output_rows.extend([0, ROWS as u32 - 1]);
    batch
}

#[test]
fn steps_after_the_first_allocate_nothing() {
    let mut decoder = Decoder::new();
    let batches: Vec<Batch> = (700..710).map(batch).collect();
    decoder.step(&batches[0]).unwrap();
    let mark = |decoder: &Decoder, counted| decoder.backend.pool().run(&|_| IS_COUNTED.set(counted));
    mark(&decoder, true);
    for batch in &batches[1..] {
        decoder.step(batch).unwrap();
    }
    mark(&decoder, false);
    assert_eq!(ALLOCATIONS.load(Relaxed), 0);
}
