//! The same logits, to the bit, however a prompt is cut and whatever else is in the batch.

use octet_backend::{Backend, Batch};
use octet_model::{KvCacheChoice, LoadOptions, WeightType};
use octet_reference::ReferenceBackend;

use crate::support::{
    BLOCK_SIZE, EXACT, Golden, MAX_MODEL_LEN, block_table, continue_logits, cpu, limits, load_on, logits,
};

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// In f32, and as a server runs it: weights as stored, an FP8 cache.
fn options() -> [LoadOptions; 2] {
    let served = LoadOptions { weight_type: WeightType::Auto, kv_cache_type: KvCacheChoice::Fp8, ..EXACT };
    [EXACT, served]
}

#[test]
fn chunks_and_prefix_hits_change_nothing() {
    for options in options() {
        chunks_and_hits(ReferenceBackend::new, options);
        chunks_and_hits(cpu, options);
    }
}

fn chunks_and_hits<B: Backend>(backend: impl Fn() -> B, options: LoadOptions) {
    for case in ["llama-gqa-rope-llama3", "mistral-sliding-window", "qwen3"] {
        let golden = Golden::read(case);
        let model = load_on(backend(), &golden.folder, options).unwrap();
        let mut runner = model.into_runner(limits(MAX_MODEL_LEN)).unwrap();
        let whole = logits(&mut runner, &golden.prompt, usize::MAX / 2);
        for chunk in [1, 7, 16] {
            assert_eq!(bits(&logits(&mut runner, &golden.prompt, chunk)), bits(&whole), "{case} {chunk}");
        }
        // The first block is that of the sequence above, as after a prefix hit; the others are new.
        let mut blocks = block_table(golden.prompt.len(), 20);
        blocks[0] = 1;
        let hit = continue_logits(&mut runner, &golden.prompt, (BLOCK_SIZE, usize::MAX / 2), &blocks);
        let vocabulary = golden.logits.len() / golden.prompt.len();
        assert_eq!(bits(&hit), bits(&whole[BLOCK_SIZE * vocabulary..]), "{case} prefix hit");
    }
}

#[test]
fn neighbours_change_nothing() {
    for options in options() {
        neighbours(ReferenceBackend::new(), options);
        neighbours(cpu(), options);
    }
}

fn neighbours<B: Backend>(backend: B, options: LoadOptions) {
    let golden = Golden::read("qwen2-tied");
    let model = load_on(backend, &golden.folder, options).unwrap();
    let mut runner = model.into_runner(limits(MAX_MODEL_LEN)).unwrap();
    let prompt = &golden.prompt[..20];
    let alone = logits(&mut runner, prompt, usize::MAX / 2);
    let mut batch = Batch::default();
    batch.push_sequence(&golden.prompt[3..20], 0, &block_table(17, 10));
    let first = batch.push_sequence(prompt, 0, &block_table(20, 1));
    batch.push_sequence(&golden.prompt[7..12], 0, &block_table(5, 20));
    batch.output_rows = (first..first + 20).map(|row| u32::try_from(row).unwrap()).collect();
    assert_eq!(bits(&runner.logits(&batch).unwrap()), bits(&alone));
}
