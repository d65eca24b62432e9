//! The same tokens and logprobs, to the bit, for sequences that lose their blocks in mid-life and are computed again.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use octet_cpu::CpuBackend;
use octet_engine::{Delivery, Engine, EngineConfig, Event, EventSink, GroupId, Request, RequestId, Task};
use octet_model::{KvCacheChoice, LoadOptions, Runner, WeightType};
use octet_sample::{LogprobCount, SamplingParams};

use crate::support::{BLOCK_SIZE, EXACT, Golden, MAX_MODEL_LEN, cpu, greedy_params, limits, load_on};

/// Sequences at a time.
const SEQUENCES: usize = 4;
/// Tokens generated for each.
const TOKENS: usize = 40;
/// 11 usable blocks where the sequences together need 4 * 4.
const FEW_BLOCKS: usize = 12;

/// Token ids with the bits of their logprobs.
type Tokens = Vec<(u32, Vec<(u32, u32)>)>;

struct Sink {
    sequence: usize,
    events: Sender<(usize, Event)>,
}

impl EventSink for Sink {
    fn deliver(&mut self, event: Event) -> Delivery {
        self.events.send((self.sequence, event)).unwrap();
        Delivery::Taken
    }
}

fn prompt(golden: &Golden, sequence: usize) -> Vec<u32> {
    golden.prompt[sequence..sequence + 17 + sequence].to_vec()
}

/// Greedy and drawn, in turn.
fn sampling(sequence: usize) -> SamplingParams {
    let temperature = if sequence.is_multiple_of(2) { 0.0 } else { 0.9 };
    let (seed, logprobs) = (sequence as u64, Some(LogprobCount::Top(2)));
    SamplingParams { temperature, seed, logprobs, repetition_penalty: 1.2, ..greedy_params() }
}

/// Runs `sequences` together until their end.
fn run(engine: &mut Engine<Runner<CpuBackend>>, golden: &Golden, sequences: &[usize]) -> Vec<Tokens> {
    let (sender, events) = channel();
    for &sequence in sequences {
        let request = Request {
            id: RequestId(sequence as u64),
            group: GroupId(sequence as u64),
            prompt: prompt(golden, sequence).into(),
            task: Task::Generate { sampling: Arc::new(sampling(sequence)), max_tokens: TOKENS },
            priority: 0,
            cache_salt: None,
            sink: Box::new(Sink { sequence, events: sender.clone() }),
        };
        engine.submit(request, Duration::ZERO).unwrap();
    }
    while engine.has_work() {
        engine.step(&|| Duration::ZERO).unwrap();
    }
    let mut all = vec![Tokens::new(); SEQUENCES];
    for (sequence, event) in events.try_iter() {
        match event {
            Event::Token { token, .. } => {
                let top = token.logprobs.unwrap().top;
                let bits = top.iter().map(|entry| (entry.token, entry.logprob.to_bits())).collect();
                all[sequence].push((token.token, bits));
            }
            Event::Failed(fault) => panic!("{fault}"),
            _ => {}
        }
    }
    all
}

#[test]
fn giving_way_changes_nothing() {
    let served = LoadOptions { weight_type: WeightType::Auto, kv_cache_type: KvCacheChoice::Fp8, ..EXACT };
    for (case, options, prefix_caching) in [
        ("llama-gqa-rope-llama3", EXACT, false),
        ("llama-gqa-rope-llama3", served, true),
        ("qwen3", served, false),
        ("qwen2-tied", EXACT, true),
    ] {
        let golden = Golden::read(case);
        let engine = |num_blocks| {
            let model = load_on(cpu(), &golden.folder, options).unwrap();
            let runner = model.into_runner(limits(MAX_MODEL_LEN)).unwrap();
            let config = EngineConfig {
                max_num_seqs: SEQUENCES,
                max_num_batched_tokens: 64,
                enable_prefix_caching: prefix_caching,
                ..EngineConfig::new(num_blocks, BLOCK_SIZE, MAX_MODEL_LEN)
            };
            Engine::new(config, runner).unwrap()
        };
        let mut roomy = engine(40);
        let alone: Vec<Tokens> = (0..SEQUENCES)
            .map(|sequence| run(&mut roomy, &golden, &[sequence]).swap_remove(sequence))
            .collect();
        assert!(alone.iter().all(|tokens| tokens.len() == TOKENS), "{case}");
        let mut narrow = engine(FEW_BLOCKS);
        let together = run(&mut narrow, &golden, &[0, 1, 2, 3]);
        assert_eq!(roomy.stats().preemptions, 0, "{case}");
        assert!(narrow.stats().preemptions > 0, "{case}: nobody gave way");
        assert_eq!(together, alone, "{case}");
    }
}
