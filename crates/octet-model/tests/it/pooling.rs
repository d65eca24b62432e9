//! Vectors of prompts against transformers' hidden states, and the same to the bit in chunks, with prefix hits, beside
//! other requests and after a preemption.

use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use octet_backend::Backend;
use octet_engine::{
    Delivery, Engine, EngineConfig, Event, EventSink, GroupId, Pooling, Request, RequestId, Task,
};
use octet_model::Runner;
use octet_reference::ReferenceBackend;

use crate::support::{BLOCK_SIZE, EXACT, Golden, MAX_MODEL_LEN, cpu, greedy_params, limits, load_on};

const POOLINGS: [Pooling; 3] = [Pooling::Last, Pooling::Mean, Pooling::First];

struct Sink {
    request: u64,
    events: Sender<(u64, Event)>,
}

impl EventSink for Sink {
    fn deliver(&mut self, event: Event) -> Delivery {
        self.events.send((self.request, event)).unwrap();
        Delivery::Taken
    }
}

/// An engine over `num_blocks` blocks, with at most `tokens` in a step.
fn engine<B: Backend>(backend: B, golden: &Golden, num_blocks: usize, tokens: usize) -> Engine<Runner<B>> {
    let runner = load_on(backend, &golden.folder, EXACT).unwrap().into_runner(limits(MAX_MODEL_LEN)).unwrap();
    let config = EngineConfig {
        max_num_batched_tokens: tokens,
        max_num_seqs: 4,
        watermark: 0.0,
        ..EngineConfig::new(num_blocks, BLOCK_SIZE, MAX_MODEL_LEN)
    };
    Engine::new(config, runner).unwrap()
}

/// Runs requests together; gives the vectors of those that ask for one, in their order.
fn run<B: Backend>(engine: &mut Engine<Runner<B>>, requests: &[(&[u32], Task)]) -> Vec<Vec<f32>> {
    let (sender, events) = channel();
    for (id, (prompt, task)) in (0..).zip(requests) {
        let request = Request {
            id: RequestId(id),
            group: GroupId(id),
            prompt: (*prompt).into(),
            task: task.clone(),
            priority: 0,
            cache_salt: None,
            sink: Box::new(Sink { request: id, events: sender.clone() }),
        };
        engine.submit(request, Duration::ZERO).unwrap();
    }
    while engine.has_work() {
        engine.step(&|| Duration::ZERO).unwrap();
    }
    drop(sender);
    let vectors = events.iter().filter_map(|(id, event)| match event {
        Event::Pooled(vector) => Some((id, vector)),
        Event::Failed(fault) => panic!("{fault}"),
        _ => None,
    });
    let mut vectors: Vec<_> = vectors.collect();
    vectors.sort_by_key(|&(id, _)| id);
    vectors.into_iter().map(|(_, vector)| vector).collect()
}

fn embed<B: Backend>(engine: &mut Engine<Runner<B>>, prompt: &[u32], pooling: Pooling) -> Vec<f32> {
    run(engine, &[(prompt, Task::Embed(pooling))]).remove(0)
}

/// What transformers' hidden states make.
fn expected(golden: &Golden, pooling: Pooling) -> Vec<f32> {
    let hidden = golden.hidden.as_ref().unwrap();
    let columns = hidden.len() / golden.prompt.len();
    let mut rows = hidden.chunks_exact(columns);
    match pooling {
        Pooling::Last => rows.next_back().unwrap().to_vec(),
        Pooling::First => rows.next().unwrap().to_vec(),
        Pooling::Mean => (0..columns)
            .map(|column| {
                let sum: f64 = rows.clone().map(|row| f64::from(row[column])).sum();
                (sum / golden.prompt.len() as f64) as f32
            })
            .collect(),
    }
}

fn agrees<B: Backend>(backend: B, case: &str) {
    let golden = Golden::read(case);
    let mut engine = engine(backend, &golden, 64, MAX_MODEL_LEN);
    for pooling in POOLINGS {
        let found = embed(&mut engine, &golden.prompt, pooling);
        for (found, expected) in found.iter().zip(expected(&golden, pooling)) {
            assert!((found - expected).abs() < 2e-4, "{case}, {pooling:?}: {found} for {expected}");
        }
    }
}

#[test]
fn vectors_are_those_of_transformers() {
    for case in ["gemma2", "granite", "qwen3"] {
        agrees(ReferenceBackend::new(), case);
        agrees(cpu(), case);
    }
}

#[test]
fn neither_chunks_nor_prefixes_nor_company_nor_preemption_change_a_bit() {
    let golden = Golden::read("qwen3");
    let (prompt, whole) = (golden.prompt.as_slice(), &mut engine(cpu(), &golden, 64, MAX_MODEL_LEN));
    let mut preemptions = 0;
    let vectors = POOLINGS.map(|pooling| embed(whole, prompt, pooling));
    for (pooling, vector) in POOLINGS.into_iter().zip(&vectors) {
        assert_eq!(&embed(whole, prompt, pooling), vector, "{pooling:?} after the same prompt");
        let mut chunked = engine(cpu(), &golden, 64, 5);
        assert_eq!(&embed(&mut chunked, prompt, pooling), vector, "{pooling:?} in chunks");
        // Four usable blocks, two for each; the first soon needs one more for its output.
        let mut crowded = engine(cpu(), &golden, 5, 4);
        let generate = Task::Generate { sampling: greedy_params().into(), max_tokens: 30 };
        let found = run(&mut crowded, &[(&prompt[..30], generate), (prompt, Task::Embed(pooling))]);
        assert_eq!(&found[0], vector, "{pooling:?} beside another");
        preemptions += crowded.stats().preemptions;
    }
    assert!(preemptions > 0, "the cache was too large to test anything");
}
