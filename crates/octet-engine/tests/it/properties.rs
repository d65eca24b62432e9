//! Random arrivals, lengths, aborts, priorities and faults in caches far too small: whatever happens, every request
//! gives what it would give alone, ends once, and leaves no block behind.

use std::time::Duration;

use octet_engine::{
    Engine, EngineConfig, Event, FinishReason, Finished, GroupId, Pooling, RequestFault, RequestId,
    SchedulingPolicy, StepPlan, Task,
};
use octet_sample::{LogprobCount, SamplingParams};
use proptest::prelude::*;

use crate::fake::{
    Expected, FAULTY, Fake, Record, VOCABULARY, drain, embed_alone, engine, impatient_request, run_alone,
    sampling, task,
};

/// A row's time on the fake's clock.
const ROW_TIME: Duration = Duration::from_millis(1);

/// One request of a scenario.
#[derive(Clone, Debug)]
struct Plan {
    prompt: Vec<u32>,
    sampling: SamplingParams,
    max_tokens: usize,
    /// Asks for a vector instead.
    pooling: Option<Pooling>,
    priority: i32,
    salt: Option<String>,
    patience: usize,
    /// Requests of one group, if any.
    group: Option<u64>,
}

#[derive(Clone, Debug)]
enum Action {
    Submit(Box<Plan>),
    Step,
    Abort(u64),
    ResetPrefixes,
}

fn config() -> impl Strategy<Value = EngineConfig> {
    let sizes = (2..14_usize, 1..5_usize, 3..40_usize, 1..6_usize, 0..12_usize);
    let rules =
        (any::<bool>(), any::<bool>(), prop::bool::weighted(0.8), 0..6_usize, prop::option::of(2..9_usize));
    let gap = prop::option::of((1..60_u32).prop_map(|rows| rows * ROW_TIME));
    (sizes, rules, 0.0..0.4, gap).prop_map(|(sizes, rules, watermark, gap)| {
        let (num_blocks, block_size, max_model_len, max_num_seqs, spare_budget) = sizes;
        let (priority, enable_prefix_caching, enable_chunked_prefill, threshold, sliding_window) = rules;
        let least = if enable_chunked_prefill { max_num_seqs } else { max_num_seqs.max(max_model_len) };
        EngineConfig {
            max_num_seqs,
            max_num_batched_tokens: least + spare_budget,
            policy: if priority {
                SchedulingPolicy::Priority
            } else {
                SchedulingPolicy::FirstComeFirstServed
            },
            enable_prefix_caching,
            enable_chunked_prefill,
            long_prefill_token_threshold: if enable_chunked_prefill { threshold } else { 0 },
            max_stream_gap: gap.filter(|_| enable_chunked_prefill).unwrap_or_default(),
            watermark,
            sliding_window,
            ..EngineConfig::new(num_blocks, block_size, max_model_len)
        }
    })
}

/// Prompts share beginnings: each is a cut of one of three sources, with a tail of its own.
fn prompt() -> impl Strategy<Value = Vec<u32>> {
    (0..3_u32, 0..20_usize, prop::collection::vec(0..VOCABULARY, 1..4)).prop_map(|(source, shared, tail)| {
        let beginning =
            (0..shared).map(|index| (source + u32::try_from(index).unwrap() * source) % VOCABULARY);
        beginning.chain(tail).collect()
    })
}

fn sampling_params() -> impl Strategy<Value = SamplingParams> {
    let stops = (prop::option::of(0..VOCABULARY), prop::collection::vec(0..VOCABULARY, 0..2), 0..5_u32);
    (0..4_u64, prop::bool::weighted(0.1), prop::bool::weighted(0.2), stops).prop_map(
        |(seed, faulty, prompt_logprobs, (eos_token_id, stop_token_ids, min_tokens))| SamplingParams {
            eos_token_id,
            stop_token_ids: stop_token_ids.into(),
            min_tokens,
            prompt_logprobs: prompt_logprobs.then_some(LogprobCount::Top(0)),
            ..sampling(if faulty { seed | FAULTY } else { seed })
        },
    )
}

fn plan() -> impl Strategy<Value = Plan> {
    let salt = prop::option::weighted(0.2, prop::sample::select(vec!["red".to_owned(), "blue".to_owned()]));
    let patience = prop_oneof![9 => Just(usize::MAX), 1 => 0..6_usize];
    let group = prop::option::of(1000..1002_u64);
    let poolings = prop::sample::select(vec![Pooling::Last, Pooling::Mean, Pooling::First]);
    let task = (1..30_usize, prop::option::weighted(0.2, poolings));
    (prompt(), sampling_params(), task, -2..3_i32, salt, patience, group).prop_map(
        |(prompt, sampling, (max_tokens, pooling), priority, salt, patience, group)| {
            let only_logprobs = sampling.prompt_logprobs.is_some() && max_tokens % 4 == 0;
            let max_tokens = if only_logprobs { 0 } else { max_tokens };
            let max_tokens = if pooling.is_some() { 0 } else { max_tokens };
            Plan { prompt, sampling, max_tokens, pooling, priority, salt, patience, group }
        },
    )
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => plan().prop_map(|plan| Action::Submit(Box::new(plan))),
        10 => Just(Action::Step),
        1 => (0..40_u64).prop_map(Action::Abort),
        1 => Just(Action::ResetPrefixes),
    ]
}

/// A request that the engine took.
struct Taken {
    record: Record,
    expected: Expected,
    patience: usize,
    aborted: bool,
}

/// How many prompt tokens a step may have.
#[derive(Clone, Copy)]
enum Pacing<'a> {
    /// As many as the engine measures to be right.
    Measured,
    /// As many as in these plans.
    Recorded(&'a [StepPlan]),
    /// As many as chance will have it.
    Random(u64),
}

impl Pacing<'_> {
    fn step(self, engine: &mut Engine<Fake>) {
        let (at, clock) = (engine.executor().plans.len(), engine.executor().clock());
        if engine.has_work() {
            let budget = match self {
                Self::Measured => {
                    engine.step(&clock).unwrap();
                    return;
                }
                Self::Recorded(plans) => plans[at].prompt_budget,
                Self::Random(seed) => usize::try_from(crate::fake::mix(seed, at as u64) % 20).unwrap(),
            };
            engine.step_within(budget, &clock).unwrap();
        }
    }
}

/// Plays a scenario to its end.
fn play(config: &EngineConfig, actions: &[Action], pacing: Pacing<'_>) -> (Engine<Fake>, Vec<Taken>) {
    let mut executor = Fake::new(config);
    executor.row_time = ROW_TIME;
    let mut engine = Engine::new(config.clone(), executor).unwrap();
    let mut taken: Vec<Taken> = Vec::new();
    for action in actions {
        match action {
            Action::Step => pacing.step(&mut engine),
            Action::ResetPrefixes => {
                let _ = engine.reset_prefix_cache();
            }
            Action::Abort(id) => {
                engine.abort(RequestId(*id));
                if let Some(taken) = taken.get_mut(usize::try_from(*id).unwrap()) {
                    taken.aborted = true;
                }
            }
            Action::Submit(plan) => {
                let id = taken.len() as u64;
                let (mut request, record) =
                    impatient_request(id, &plan.prompt, plan.max_tokens, plan.patience);
                request.task = match plan.pooling {
                    Some(pooling) => Task::Embed(pooling),
                    None => task(plan.sampling.clone(), plan.max_tokens),
                };
                request.priority = plan.priority;
                request.group = plan.group.map_or(request.group, GroupId);
                request.cache_salt = plan.salt.as_deref().map(Into::into);
                let longest = config.longest_sequence();
                let fits = plan.prompt.len() + plan.max_tokens.min(1) <= longest;
                assert_eq!(engine.submit(request, Duration::ZERO).is_ok(), fits);
                if fits {
                    let expected = match plan.pooling {
                        Some(pooling) => embed_alone(&plan.prompt, pooling),
                        None => run_alone(&plan.prompt, &plan.sampling, plan.max_tokens, longest),
                    };
                    taken.push(Taken { record, expected, patience: plan.patience, aborted: false });
                }
            }
        }
    }
    for _ in 0..20_000 {
        pacing.step(&mut engine);
    }
    assert!(!engine.has_work(), "requests are left: {:?}", engine.stats());
    (engine, taken)
}

fn check(taken: &Taken) {
    let Taken { record, expected, patience, aborted } = taken;
    let tokens = record.tokens();
    let end = record.end().expect("every request ends");
    assert!(expected.tokens.starts_with(&tokens), "{tokens:?} instead of {:?}", expected.tokens);
    match end {
        Event::Finished(Finished { finish, .. }) if finish.reason == FinishReason::Abort => {
            let gone = record.events().len() > *patience;
            assert!(*aborted || gone, "nobody gave the request up");
        }
        Event::Finished(Finished { finish, .. }) => {
            assert_eq!(tokens, expected.tokens);
            assert_eq!(expected.end, Some((finish.reason, finish.stop_token_id)));
            let mut finishes = record.token_finishes();
            let last = finishes.pop();
            assert!(last.is_none_or(|last| last == Some(finish)), "the last token says {last:?}: {finish:?}");
            assert!(finishes.iter().all(Option::is_none), "only the last token says the end: {finishes:?}");
            assert_eq!(record.prompt_logprobs(), expected.prompt_logprobs);
            assert_eq!(record.pooled(), expected.pooled);
        }
        Event::Failed(RequestFault::Output(_)) => {
            assert_eq!(expected.end, None, "a request failed that should not");
            assert_eq!(tokens, expected.tokens);
        }
        other => panic!("an unexpected end: {other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_every_request_gives_what_it_gives_alone(
        config in config(),
        actions in prop::collection::vec(action(), 1..70),
        random in prop::option::of(any::<u64>()),
    ) {
        let chunks = config.enable_chunked_prefill;
        let pacing = random.filter(|_| chunks).map_or(Pacing::Measured, Pacing::Random);
        let (mut engine, taken) = play(&config, &actions, pacing);
        taken.iter().for_each(check);
        let stats = engine.stats();
        prop_assert_eq!((stats.running, stats.waiting), (0, 0));
        prop_assert_eq!(stats.kv_cache_usage, 0.0);
        prop_assert!(engine.reset_prefix_cache(), "no block is held");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_recorded_run_replays_to_the_same_plans(
        config in config(),
        actions in prop::collection::vec(action(), 1..70),
        other_seed in any::<u64>(),
    ) {
        let plans = |config: &EngineConfig, pacing| -> Vec<StepPlan> {
            play(config, &actions, pacing).0.executor().plans.clone()
        };
        let first = plans(&config, Pacing::Measured);
        prop_assert_eq!(&first, &plans(&config, Pacing::Recorded(&first)));
        let elsewhere = EngineConfig { hash_seed: other_seed, max_stream_gap: Duration::ZERO, ..config };
        prop_assert_eq!(&first, &plans(&elsewhere, Pacing::Recorded(&first)), "the plans carry the budgets");
    }
}

/// Some thousand requests through a busy cache.
#[test]
fn a_soak_of_four_thousand_requests() {
    let config = EngineConfig {
        max_num_seqs: 24,
        max_num_batched_tokens: 96,
        policy: SchedulingPolicy::Priority,
        ..EngineConfig::new(64, 4, 120)
    };
    let mut engine = engine(&config);
    let mut records = Vec::new();
    let mut random = 1_u64;
    let mut below = |limit: u64| {
        random = crate::fake::mix(random, limit);
        usize::try_from(random % limit).unwrap()
    };
    for id in 0..4000_u64 {
        let mut prompt: Vec<u32> =
            (0..16).map(|index| index % (1 + u32::try_from(below(3)).unwrap())).collect();
        prompt.truncate(1 + below(16));
        prompt.extend((0..below(24)).map(|index| u32::try_from(index).unwrap() % VOCABULARY));
        let max_tokens = 1 + below(20);
        let (mut request, record) = impatient_request(id, &prompt, max_tokens, usize::MAX);
        request.priority = i32::try_from(below(3)).unwrap();
        let expected = run_alone(&prompt, &sampling(id), max_tokens, config.longest_sequence());
        engine.submit(request, Duration::ZERO).unwrap();
        records.push(Taken { record, expected, patience: usize::MAX, aborted: id % 50 == 0 });
        if id % 50 == 0 {
            engine.abort(RequestId(id));
        }
        for _ in 0..below(3) {
            engine.step(&|| Duration::ZERO).unwrap();
        }
    }
    drain(&mut engine, 100_000);
    records.iter().for_each(check);
    let stats = engine.stats();
    assert!(stats.preemptions > 100, "the cache was too large to test anything: {stats:?}");
    assert!(stats.prefix_cache_hits > 1000, "no prefix was shared: {stats:?}");
}
