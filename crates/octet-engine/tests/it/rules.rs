//! One test for each rule of the scheduler and of the step loop.

use std::sync::Arc;
use std::time::Duration;

use octet_engine::{
    Engine, EngineConfig, Event, FinishReason, GroupId, OutputRow, Pooling, RequestFault, RequestId,
    RequestTiming, SchedulingPolicy, SubmitError, Task,
};
use octet_sample::SamplingParams;

use crate::fake::{
    Expected, FAULTY, Fake, Record, drain, embed_alone, engine, impatient_request, request, run_alone,
    sampling, task, with_prompt_logprobs,
};

/// Twenty usable blocks of four tokens; nothing in the way.
fn roomy() -> EngineConfig {
    EngineConfig { max_num_seqs: 4, max_num_batched_tokens: 64, ..EngineConfig::new(21, 4, 80) }
}

fn submit(engine: &mut Engine<Fake>, id: u64, prompt: &[u32], max_tokens: usize) -> Record {
    let (request, record) = request(id, prompt, max_tokens);
    engine.submit(request, Duration::ZERO).unwrap();
    record
}

fn submit_with(engine: &mut Engine<Fake>, id: u64, prompt: &[u32], sampling: SamplingParams) -> Record {
    let (mut request, record) = request(id, prompt, 8);
    request.task = task(sampling, 8);
    engine.submit(request, Duration::ZERO).unwrap();
    record
}

fn step(engine: &mut Engine<Fake>) {
    engine.step(&|| Duration::ZERO).unwrap();
}

/// Tokens of each sequence in the last step.
fn shares(engine: &Engine<Fake>) -> Vec<usize> {
    let plan = engine.executor().plans.last().unwrap();
    plan.batch.sequences.iter().map(|sequence| sequence.rows).collect()
}

fn numbers(count: u32) -> Vec<u32> {
    (0..count).map(|index| index % 7).collect()
}

/// A prompt that shares no block with those of other numbers.
fn distinct(number: u32, count: u32) -> Vec<u32> {
    (0..count).map(|index| 100 * (number + 1) + index).collect()
}

#[test]
fn a_long_prompt_is_computed_in_chunks_of_the_budget_beside_decodes() {
    let mut engine = engine(&EngineConfig { max_num_batched_tokens: 10, ..roomy() });
    submit(&mut engine, 0, &distinct(0, 3), 10);
    step(&mut engine);
    submit(&mut engine, 1, &distinct(1, 25), 10);
    let mut seen = Vec::new();
    for _ in 0..4 {
        step(&mut engine);
        seen.push(shares(&engine));
    }
    assert_eq!(seen, [vec![1, 9], vec![1, 9], vec![1, 7], vec![1, 1]]);
}

/// A prompt of 300 tokens comes in beside a stream, on a machine that computes a hundred rows a second; the tokens of
/// each step until the prompt is done, and the longest of these steps.
fn long_prompt_beside_a_stream(max_stream_gap: Duration) -> (Vec<Vec<usize>>, Duration) {
    let config = EngineConfig { max_stream_gap, max_num_seqs: 4, ..EngineConfig::new(200, 4, 400) };
    let mut executor = Fake::new(&config);
    executor.row_time = Duration::from_millis(10);
    let clock = executor.clock();
    let mut engine = Engine::new(config, executor).unwrap();
    submit(&mut engine, 0, &distinct(0, 100), 200);
    for _ in 0..10 {
        engine.step(&clock).unwrap();
    }
    let prompt = submit(&mut engine, 1, &distinct(1, 300), 1);
    let (mut seen, mut longest) = (Vec::new(), Duration::ZERO);
    while prompt.end().is_none() {
        let start = clock();
        engine.step(&clock).unwrap();
        seen.push(shares(&engine));
        longest = longest.max(clock() - start);
    }
    (seen, longest)
}

#[test]
fn a_prompt_is_cut_so_that_streams_keep_their_gap() {
    let (seen, longest) = long_prompt_beside_a_stream(Duration::from_millis(500));
    assert!(longest < Duration::from_millis(500), "{longest:?}");
    assert!(seen.len() >= 300 / 40 && seen.len() <= 300 / 16 + 1, "{seen:?}");
    assert!(seen.iter().all(|shares| shares[0] == 1), "the stream has a token of every step: {seen:?}");
    assert_eq!(long_prompt_beside_a_stream(Duration::ZERO).0, [[1, 300]], "without a bound nothing is cut");
}

#[test]
fn a_brief_prompt_is_waited_for_as_a_stream_is() {
    let max_stream_gap = Duration::from_millis(500);
    let config = EngineConfig { max_stream_gap, max_num_seqs: 4, ..EngineConfig::new(400, 4, 1000) };
    let mut executor = Fake::new(&config);
    executor.row_time = Duration::from_millis(10);
    let clock = executor.clock();
    let mut engine = Engine::new(config, executor).unwrap();
    submit(&mut engine, 0, &distinct(0, 900), 1);
    for _ in 0..3 {
        engine.step(&clock).unwrap();
    }
    let start = clock();
    engine.step(&clock).unwrap();
    assert!(clock() - start > Duration::from_secs(1), "nobody waits: {:?}", shares(&engine));
    let brief = submit(&mut engine, 1, &distinct(1, 8), 1);
    let start = clock();
    engine.step(&clock).unwrap();
    assert!(brief.end().is_some() && clock() - start < max_stream_gap, "{:?}", shares(&engine));
}

#[test]
fn a_stream_has_its_token_however_few_are_left_to_prompts() {
    let mut engine = engine(&EngineConfig { long_prefill_token_threshold: 4, ..roomy() });
    submit(&mut engine, 0, &distinct(0, 30), 4);
    submit(&mut engine, 1, &distinct(1, 2), 20);
    step(&mut engine);
    assert_eq!(shares(&engine), [4, 2]);
    for (budget, expected) in [(3, [3, 1]), (1, [1, 1]), (0, [1, 1]), (64, [4, 1])] {
        engine.step_within(budget, &|| Duration::ZERO).unwrap();
        assert_eq!(shares(&engine), expected);
    }
}

/// A book of `book` tokens is being read, `others` come in, and a step has 20 tokens; the tokens of each sequence in the
/// next steps.
fn beside_a_book(book: u32, others: &[(u32, i32)], config: &EngineConfig) -> Vec<Vec<usize>> {
    let mut engine = engine(&EngineConfig { max_num_batched_tokens: 20, ..config.clone() });
    submit(&mut engine, 0, &distinct(0, book), 4);
    step(&mut engine);
    let records: Vec<Record> = (1..)
        .zip(others)
        .map(|(id, (length, priority))| {
            let (mut request, record) = request(id, &distinct(u32::try_from(id).unwrap(), *length), 4);
            request.priority = *priority;
            engine.submit(request, Duration::ZERO).unwrap();
            record
        })
        .collect();
    let mut seen = Vec::new();
    for _ in 0..3 {
        step(&mut engine);
        seen.push(shares(&engine));
    }
    drain(&mut engine, 100);
    assert!(records.iter().all(|record| record.end().is_some()));
    seen
}

#[test]
fn a_brief_prompt_does_not_wait_for_a_long_one() {
    let wide = EngineConfig { max_num_seqs: 8, ..EngineConfig::new(200, 4, 300) };
    let check = |others: &[(u32, i32)], expected: [&[usize]; 3]| {
        assert_eq!(beside_a_book(220, others, &wide), expected, "{others:?}");
    };
    check(&[(12, 0)], [&[10, 10], &[18, 2], &[19, 1]]);
    // The briefest first; what it leaves is for the next.
    check(&[(30, 0), (4, 0)], [&[10, 4, 6], &[10, 1, 9], &[10, 1, 9]]);
    // Prompts of about the same length are computed one after the other, so that a common prefix is found.
    check(&[(150, 0)], [&[20], &[20], &[20]]);
    // A long one that waits before it is no obstacle.
    check(&[(150, 0), (5, 0)], [&[15, 5], &[19, 1], &[19, 1]]);
    // Without priority scheduling, priorities say nothing.
    check(&[(5, 3)], [&[15, 5], &[19, 1], &[19, 1]]);
    assert_eq!(beside_a_book(30, &[(4, 0)], &wide)[0], [10, 4], "who is nearly done is not held up");
}

#[test]
fn a_brief_prompt_overtakes_nobody_who_lacks_a_place() {
    let narrow = EngineConfig { max_num_seqs: 8, ..EngineConfig::new(81, 4, 300) };
    assert_eq!(beside_a_book(220, &[(150, 0), (5, 0)], &narrow)[0], [20], "the next one needs these blocks");
    assert_eq!(beside_a_book(220, &[(80, 0), (5, 0)], &narrow)[0], [10, 5, 5], "it has its blocks");
    let two_slots = EngineConfig { max_num_seqs: 2, ..EngineConfig::new(200, 4, 300) };
    assert_eq!(beside_a_book(220, &[(150, 0), (5, 0)], &two_slots)[0], [20], "the next one needs the slot");
    let ranked = EngineConfig {
        policy: SchedulingPolicy::Priority,
        max_num_seqs: 8,
        ..EngineConfig::new(200, 4, 300)
    };
    assert_eq!(beside_a_book(220, &[(5, 1)], &ranked)[0], [20], "a worse priority waits");
    assert_eq!(beside_a_book(220, &[(5, 0)], &ranked)[0], [15, 5]);
}

#[test]
fn the_threshold_caps_the_share_of_one_sequence() {
    let mut engine = engine(&EngineConfig { long_prefill_token_threshold: 6, ..roomy() });
    submit(&mut engine, 0, &distinct(0, 8), 4);
    submit(&mut engine, 1, &distinct(1, 20), 4);
    step(&mut engine);
    assert_eq!(shares(&engine), [6, 6]);
    step(&mut engine);
    assert_eq!(shares(&engine), [2, 6]);
}

#[test]
fn without_chunks_a_prompt_waits_until_the_whole_of_it_fits_a_step() {
    let config = EngineConfig { enable_chunked_prefill: false, max_model_len: 60, ..roomy() };
    let mut engine = engine(&config);
    submit(&mut engine, 0, &distinct(0, 40), 4);
    submit(&mut engine, 1, &distinct(1, 30), 4);
    step(&mut engine);
    assert_eq!(shares(&engine), [40]);
    step(&mut engine);
    assert_eq!(shares(&engine), [1, 30]);
}

#[test]
fn no_more_sequences_run_than_allowed() {
    let mut engine = engine(&EngineConfig { max_num_seqs: 2, ..roomy() });
    let records: Vec<_> = (0..3).map(|id| submit(&mut engine, id, &[1, 2], 2)).collect();
    step(&mut engine);
    assert_eq!((engine.stats().running, engine.stats().waiting), (2, 1));
    assert_eq!(records[2].cached_tokens(), None);
    drain(&mut engine, 10);
    assert!(records.iter().all(|record| record.tokens().len() == 2));
}

#[test]
fn a_sequence_that_waits_shares_its_prompt_instead_of_copying_it() {
    let mut engine = engine(&EngineConfig { max_num_seqs: 1, ..roomy() });
    let prompt: Arc<[u32]> = numbers(9).into();
    for id in 0..3 {
        let (mut request, _) = request(id, &[], 2);
        request.prompt = Arc::clone(&prompt);
        engine.submit(request, Duration::ZERO).unwrap();
    }
    step(&mut engine);
    assert_eq!(Arc::strong_count(&prompt), 3, "ours, and those of the two that wait");
    drain(&mut engine, 10);
    assert_eq!(Arc::strong_count(&prompt), 1);
}

#[test]
fn a_prompt_is_admitted_only_if_all_of_it_fits_beside_what_was_promised() {
    // Ten blocks; the first prompt takes eight over four steps, so three more must wait although eight are free.
    let config = EngineConfig {
        max_num_seqs: 4,
        max_num_batched_tokens: 12,
        long_prefill_token_threshold: 8,
        ..EngineConfig::new(11, 4, 40)
    };
    let mut engine = engine(&config);
    submit(&mut engine, 0, &distinct(0, 31), 2);
    step(&mut engine);
    let waiting = submit(&mut engine, 1, &distinct(1, 12), 2);
    for _ in 0..3 {
        step(&mut engine);
    }
    assert_eq!(waiting.cached_tokens(), None);
    assert_eq!(engine.stats().preemptions, 0);
    drain(&mut engine, 20);
    assert_eq!(waiting.tokens().len(), 2);
    assert_eq!(engine.stats().preemptions, 0);
}

#[test]
fn the_watermark_stays_free_unless_nothing_runs() {
    let config = EngineConfig { watermark: 0.5, enable_prefix_caching: false, ..roomy() };
    let mut engine = engine(&config);
    submit(&mut engine, 0, &distinct(0, 60), 3);
    step(&mut engine);
    assert_eq!(shares(&engine), [60], "alone it may take more than half");
    let second = submit(&mut engine, 1, &distinct(1, 4), 3);
    step(&mut engine);
    assert_eq!(second.cached_tokens(), None);
    drain(&mut engine, 20);
    assert_eq!(second.tokens().len(), 3);
}

/// Two sequences outgrow a cache of four blocks; says who lost its blocks.
fn who_gives_way(policy: SchedulingPolicy, priorities: [i32; 2]) -> u64 {
    let config = EngineConfig { policy, ..EngineConfig::new(5, 4, 16) };
    let mut engine = engine(&config);
    let mut records = Vec::new();
    for (id, priority) in priorities.into_iter().enumerate() {
        let (mut request, record) = request(id as u64, &distinct(u32::try_from(id).unwrap(), 8), 6);
        request.priority = priority;
        engine.submit(request, Duration::ZERO).unwrap();
        records.push(record);
    }
    while engine.stats().preemptions == 0 {
        step(&mut engine);
    }
    let survivor = match engine.executor().plans.last().unwrap().outputs[..] {
        [OutputRow::Sample(slot)] => engine.executor().seed(slot),
        ref other => panic!("one goes on alone: {other:?}"),
    };
    drain(&mut engine, 50);
    assert!(records.iter().all(|record| record.tokens().len() == 6));
    1 - survivor
}

#[test]
fn the_newest_gives_way_first_come_first_served_whatever_its_priority() {
    assert_eq!(who_gives_way(SchedulingPolicy::FirstComeFirstServed, [0, 0]), 1);
    assert_eq!(who_gives_way(SchedulingPolicy::FirstComeFirstServed, [5, 0]), 1);
}

#[test]
fn the_largest_priority_then_the_newest_gives_way_under_priority_scheduling() {
    assert_eq!(who_gives_way(SchedulingPolicy::Priority, [5, 0]), 0);
    assert_eq!(who_gives_way(SchedulingPolicy::Priority, [0, 0]), 1);
}

#[test]
fn a_sequence_that_gives_way_within_its_step_computes_nothing_and_caches_nothing() {
    let config = EngineConfig {
        policy: SchedulingPolicy::Priority,
        max_num_seqs: 4,
        max_num_batched_tokens: 6,
        long_prefill_token_threshold: 4,
        ..EngineConfig::new(15, 1, 20)
    };
    let mut engine = engine(&config);
    let submit = |engine: &mut Engine<Fake>, id: u64, prompt: &[u32], max_tokens: usize, priority: i32| {
        let (mut request, record) = request(id, prompt, max_tokens);
        request.priority = priority;
        engine.submit(request, Duration::ZERO).unwrap();
        record
    };
    // The first takes four blocks a step; the others one. In the third step the second finds no block, after the
    // first has got its last four.
    let first = submit(&mut engine, 0, &distinct(0, 12), 2, 5);
    step(&mut engine);
    submit(&mut engine, 1, &[1], 2, 0);
    submit(&mut engine, 2, &[2], 2, 0);
    step(&mut engine);
    assert_eq!(shares(&engine), [4, 1, 1]);
    let waiting = submit(&mut engine, 3, &[3], 1, 5);
    step(&mut engine);
    assert_eq!(shares(&engine), [1, 1], "both others go on");
    assert_eq!(waiting.cached_tokens(), None, "nobody is admitted in a step in which somebody gave way");
    step(&mut engine);
    // Eight tokens of the first had been computed; their blocks went to the back of the queue and are found again.
    assert_eq!(shares(&engine), [4, 1]);
    assert_eq!(engine.executor().plans[3].batch.sequences[0].computed, 8);
    drain(&mut engine, 10);
    assert_eq!(first.tokens(), run_alone(&distinct(0, 12), &sampling(0), 2, 20).tokens);
}

#[test]
fn priority_decides_who_is_admitted_first() {
    let config = EngineConfig { policy: SchedulingPolicy::Priority, max_num_seqs: 1, ..roomy() };
    let mut engine = engine(&config);
    let mut records = Vec::new();
    for (id, priority) in [3, 1, 2].into_iter().enumerate() {
        let (mut request, record) = request(id as u64, &[1, 2], 1);
        request.priority = priority;
        engine.submit(request, Duration::ZERO).unwrap();
        records.push(record);
    }
    step(&mut engine);
    assert_eq!(records.iter().map(|record| record.end().is_some()).collect::<Vec<_>>(), [false, true, false]);
    step(&mut engine);
    assert!(records[2].end().is_some());
}

#[test]
fn a_better_priority_does_not_wait_for_a_slot_and_an_equal_one_does() {
    let config = EngineConfig { policy: SchedulingPolicy::Priority, max_num_seqs: 2, ..roomy() };
    let mut engine = engine(&config);
    let submit = |engine: &mut Engine<Fake>, id: u64, priority: i32, max_tokens: usize| {
        let (mut request, record) = request(id, &distinct(u32::try_from(id).unwrap(), 5), max_tokens);
        request.priority = priority;
        engine.submit(request, Duration::ZERO).unwrap();
        record
    };
    let first = submit(&mut engine, 0, 3, 9);
    let second = submit(&mut engine, 1, 5, 9);
    step(&mut engine);
    let equal = submit(&mut engine, 2, 5, 1);
    step(&mut engine);
    assert_eq!(equal.cached_tokens(), None, "equals wait");
    assert_eq!(engine.stats().preemptions, 0);
    let better = submit(&mut engine, 3, -1, 3);
    step(&mut engine);
    assert_eq!(better.tokens().len(), 1, "the better one runs at once");
    assert_eq!((first.tokens().len(), second.tokens().len()), (3, 2), "in place of the worst");
    drain(&mut engine, 60);
    assert_eq!(engine.stats().preemptions, 1, "it gave way once");
    for (id, record, count) in [(0, &first, 9), (1, &second, 9), (2, &equal, 1), (3, &better, 3)] {
        let alone = run_alone(&distinct(id, 5), &sampling(u64::from(id)), count, 80);
        assert_eq!(record.tokens(), alone.tokens);
    }
}

#[test]
fn a_client_request_of_many_sequences_leaves_others_their_share() {
    let mut engine = engine(&EngineConfig { max_num_seqs: 4, ..EngineConfig::new(200, 4, 80) });
    let many: Vec<_> = (0..40)
        .map(|id| {
            let (mut request, record) = request(id, &numbers(6), 12);
            request.group = GroupId(0);
            engine.submit(request, Duration::ZERO).unwrap();
            record
        })
        .collect();
    step(&mut engine);
    assert_eq!(shares(&engine).len(), 4, "alone it has all slots");
    let others: Vec<_> = (40..42).map(|id| submit(&mut engine, id, &distinct(1, 5), 12)).collect();
    (0..2).for_each(|_| step(&mut engine));
    assert!(others.iter().all(|record| !record.tokens().is_empty()), "others do not wait for it");
    for _ in 0..12 {
        step(&mut engine);
    }
    assert!(others.iter().all(|record| record.tokens().len() == 12));
    assert!(engine.stats().preemptions <= 2, "one gives way to each");
    drain(&mut engine, 300);
    for (id, record) in (0..).zip(&many) {
        assert_eq!(record.tokens(), run_alone(&numbers(6), &sampling(id), 12, 80).tokens);
    }
}

#[test]
fn a_client_request_of_many_sequences_leaves_others_their_blocks() {
    // Nineteen blocks of four: sequences of sixteen tokens; four of them and part of a fifth.
    let config = EngineConfig { max_num_seqs: 16, ..EngineConfig::new(20, 4, 60) };
    let mut engine = engine(&config);
    let many: Vec<_> = (0..20)
        .map(|id| {
            let (mut request, record) = request(id, &distinct(u32::try_from(id).unwrap(), 10), 16);
            request.group = GroupId(0);
            engine.submit(request, Duration::ZERO).unwrap();
            record
        })
        .collect();
    step(&mut engine);
    let other = submit(&mut engine, 30, &distinct(30, 10), 12);
    for _ in 0..14 {
        step(&mut engine);
    }
    assert_eq!(other.tokens().len(), 12, "it got its blocks at once and kept them");
    drain(&mut engine, 600);
    assert!(many.iter().all(|record| record.tokens().len() == 16));
}

#[test]
fn a_common_prefix_is_computed_once_even_within_a_step() {
    let mut engine = engine(&roomy());
    let prompt = numbers(11);
    let records: Vec<_> = (0..3).map(|id| submit(&mut engine, id, &prompt, 2)).collect();
    step(&mut engine);
    assert_eq!(shares(&engine), [11, 3, 3]);
    assert_eq!(records.iter().map(Record::cached_tokens).collect::<Vec<_>>(), [Some(0), Some(8), Some(8)]);
    assert_eq!((engine.stats().prefix_cache_queries, engine.stats().prefix_cache_hits), (33, 16));
    // A prompt of one token is asked for too, though it can never be found.
    submit(&mut engine, 3, &numbers(1), 2);
    step(&mut engine);
    assert_eq!((engine.stats().prefix_cache_queries, engine.stats().prefix_cache_hits), (34, 16));
}

#[test]
fn a_prompt_that_is_cached_to_its_end_computes_its_last_block_again() {
    let mut engine = engine(&roomy());
    submit(&mut engine, 0, &numbers(12), 1);
    step(&mut engine);
    let again = submit(&mut engine, 1, &numbers(12), 1);
    step(&mut engine);
    assert_eq!(again.cached_tokens(), Some(8));
    assert_eq!(shares(&engine), [4]);
}

#[test]
fn generated_tokens_are_found_by_the_next_turn() {
    let mut engine = engine(&roomy());
    let first = submit(&mut engine, 0, &numbers(6), 11);
    drain(&mut engine, 20);
    let mut conversation = numbers(6);
    conversation.extend(first.tokens());
    conversation.push(1);
    let second = submit(&mut engine, 1, &conversation, 1);
    drain(&mut engine, 5);
    // The last generated token was never computed: 16 of 17 were.
    assert_eq!(second.cached_tokens(), Some(16));
}

#[test]
fn salts_and_a_reset_separate_prefixes() {
    let mut engine = engine(&roomy());
    let mut cached = |salt: Option<&str>, id: u64| {
        let (mut request, record) = request(id, &numbers(9), 1);
        request.cache_salt = salt.map(Into::into);
        engine.submit(request, Duration::ZERO).unwrap();
        step(&mut engine);
        if id == 3 {
            assert!(engine.reset_prefix_cache());
        }
        record.cached_tokens()
    };
    assert_eq!([cached(None, 0), cached(Some("a"), 1), cached(Some("b"), 2)], [Some(0); 3]);
    assert_eq!(cached(Some("a"), 3), Some(8));
    assert_eq!(cached(Some("a"), 4), Some(0));
}

#[test]
fn prefixes_cannot_be_reset_while_a_sequence_holds_blocks() {
    let mut engine = engine(&roomy());
    submit(&mut engine, 0, &numbers(9), 5);
    step(&mut engine);
    assert!(!engine.reset_prefix_cache());
    let second = submit(&mut engine, 1, &numbers(9), 5);
    step(&mut engine);
    assert_eq!(second.cached_tokens(), Some(8));
}

#[test]
fn the_tail_of_a_prefix_is_forgotten_before_its_head() {
    let mut engine = engine(&EngineConfig::new(6, 4, 20));
    submit(&mut engine, 0, &numbers(17), 1);
    drain(&mut engine, 2);
    // Takes two of the five blocks: the last two of the first request.
    submit(&mut engine, 1, &distinct(0, 5), 1);
    drain(&mut engine, 2);
    let again = submit(&mut engine, 2, &numbers(17), 1);
    drain(&mut engine, 2);
    assert_eq!(again.cached_tokens(), Some(12));
}

#[test]
fn prompt_logprobs_are_assembled_over_chunks_and_read_no_cache() {
    let mut engine = engine(&EngineConfig { max_num_batched_tokens: 5, max_num_seqs: 1, ..roomy() });
    submit(&mut engine, 0, &numbers(13), 1);
    drain(&mut engine, 10);
    let record = submit_with(&mut engine, 1, &numbers(13), with_prompt_logprobs(1));
    drain(&mut engine, 20);
    let Expected { prompt_logprobs, tokens, .. } = run_alone(&numbers(13), &with_prompt_logprobs(1), 8, 80);
    assert_eq!(record.cached_tokens(), Some(0));
    assert_eq!(record.prompt_logprobs(), prompt_logprobs);
    assert_eq!(record.tokens(), tokens);
    let events = record.events();
    let place = events.iter().position(|event| matches!(event, Event::PromptLogprobs(_)));
    assert_eq!(place, Some(1), "after Started and before the first token");
}

#[test]
fn a_request_for_prompt_logprobs_alone_samples_nothing() {
    let mut engine = engine(&roomy());
    for (id, length) in [(0, 13), (1, 1)] {
        let (mut request, record) = request(id, &numbers(length), 0);
        request.task = task(with_prompt_logprobs(0), 0);
        engine.submit(request, Duration::ZERO).unwrap();
        drain(&mut engine, 2);
        assert_eq!(record.prompt_logprobs().map(|logprobs| logprobs.len() + 1), Some(length as usize));
        assert_eq!(record.tokens(), []);
        assert_eq!(record.finish(), Some((FinishReason::Length, None)));
    }
    assert_eq!(engine.stats().generation_tokens, 0);
}

#[test]
fn a_prompt_becomes_a_vector_whatever_its_chunks_and_what_is_cached() {
    let config = EngineConfig { max_num_batched_tokens: 5, ..roomy() };
    for pooling in [Pooling::Last, Pooling::Mean, Pooling::First] {
        let mut engine = engine(&config);
        // The second finds the blocks of the first.
        for id in 0..2 {
            let (mut request, record) = request(id, &numbers(13), 1);
            request.task = Task::Embed(pooling);
            engine.submit(request, Duration::ZERO).unwrap();
            drain(&mut engine, 4);
            assert_eq!(record.pooled(), embed_alone(&numbers(13), pooling).pooled);
            assert_eq!((record.tokens(), record.finish()), (vec![], Some((FinishReason::Stop, None))));
            let cached = if id == 1 && pooling == Pooling::Last { 12 } else { 0 };
            assert_eq!(record.cached_tokens(), Some(cached));
        }
        let queries = if pooling == Pooling::Last { 2 * 13 } else { 0 };
        assert_eq!(engine.stats().prefix_cache_queries, queries);
        assert_eq!(engine.stats().generation_tokens, 0);
    }
}

#[test]
fn a_request_that_asks_for_nothing_is_refused() {
    let mut engine = engine(&roomy());
    let nothing = Task::Generate { sampling: sampling(0).into(), max_tokens: 0 };
    for task in [nothing, task(sampling(0), 0)] {
        let (mut request, _) = request(0, &numbers(3), 1);
        request.task = task;
        let refused = engine.submit(request, Duration::ZERO).unwrap_err();
        assert_eq!(refused.reason, SubmitError::AsksForNothing);
    }
}

#[test]
fn blocks_before_the_sliding_window_are_freed_and_a_sequence_may_outgrow_the_cache() {
    let config = EngineConfig {
        sliding_window: Some(6),
        max_num_batched_tokens: 4,
        max_num_seqs: 1,
        ..EngineConfig::new(5, 4, 60)
    };
    assert_eq!(config.longest_sequence(), 60);
    let mut engine = engine(&config);
    let record = submit(&mut engine, 0, &numbers(30), 30);
    drain(&mut engine, 60);
    assert_eq!(record.tokens(), run_alone(&numbers(30), &sampling(0), 30, 60).tokens);
    assert_eq!(engine.stats().preemptions, 0);
    let last = engine.executor().plans.last().unwrap();
    assert_eq!(last.batch.block_tables.iter().filter(|block| **block != 0).count(), 2);
}

#[test]
fn a_block_is_freed_as_soon_as_the_next_token_does_not_see_it() {
    let config = EngineConfig { sliding_window: Some(4), ..roomy() };
    let mut engine = engine(&config);
    submit(&mut engine, 0, &numbers(6), 3);
    drain(&mut engine, 4);
    // Positions 5, 6 and 7; the last sees 4 to 7, which is the second block.
    let freed = |step: usize| engine.executor().plans[step].batch.block_tables[0] == 0;
    assert_eq!([freed(0), freed(1), freed(2)], [false, false, true]);
}

#[test]
fn a_sequence_alone_runs_until_the_cache_is_full_and_ends_with_length() {
    let mut engine = engine(&EngineConfig::new(4, 4, 100));
    let record = submit(&mut engine, 0, &numbers(5), 50);
    drain(&mut engine, 20);
    assert_eq!(record.tokens().len(), 7);
    assert_eq!(record.finish(), Some((FinishReason::Length, None)));
}

#[test]
fn what_cannot_run_even_alone_is_refused() {
    let mut engine = engine(&EngineConfig::new(4, 4, 100));
    let mut reason = |id: u64, length: u32, max_tokens: usize| {
        let (mut request, _) = request(id, &numbers(length), max_tokens);
        if max_tokens == 0 {
            request.task = task(with_prompt_logprobs(0), 0);
        }
        let refused = engine.submit(request, Duration::ZERO);
        refused.err().map(|refused| refused.reason)
    };
    assert_eq!(reason(0, 0, 1), Some(SubmitError::EmptyPrompt));
    assert_eq!(reason(0, 12, 1), Some(SubmitError::DoesNotFit { prompt_tokens: 12, capacity_tokens: 12 }));
    assert_eq!(reason(0, 12, 0), None, "no room is needed for output");
    assert_eq!(reason(1, 11, 1), None);
    assert_eq!(reason(1, 11, 1), Some(SubmitError::DuplicateId { id: 1 }));
}

/// The end of a request whose first token is known, with the stop rules that `rules` makes of that token.
fn end_with(rules: impl Fn(u32) -> SamplingParams) -> (usize, Option<(FinishReason, Option<u32>)>) {
    let first_token = run_alone(&numbers(5), &sampling(3), 1, 80).tokens[0];
    let mut engine = engine(&roomy());
    let record = submit_with(&mut engine, 0, &numbers(5), rules(first_token));
    drain(&mut engine, 20);
    (record.tokens().len(), record.finish())
}

#[test]
fn ends_are_checked_in_their_order() {
    let eos = |token| SamplingParams { eos_token_id: Some(token), ..sampling(3) };
    let stop = |token| SamplingParams { stop_token_ids: [token].into(), ..sampling(3) };
    let both = |token| SamplingParams { stop_token_ids: [token].into(), ..eos(token) };
    assert_eq!(end_with(eos), (1, Some((FinishReason::Stop, None))));
    assert_eq!(end_with(both), (1, Some((FinishReason::Stop, None))), "end of sequence comes first");
    assert!(matches!(end_with(stop), (1, Some((FinishReason::Stop, Some(_))))));
    let (length, _) = end_with(|token| SamplingParams { min_tokens: 2, ..eos(token) });
    assert!(length >= 2, "no stop before min_tokens");
    assert_eq!(end_with(|_| sampling(3)), (8, Some((FinishReason::Length, None))));
}

#[test]
fn a_fault_ends_its_request_alone_and_its_blocks_are_not_found_again() {
    let mut engine = engine(&roomy());
    let bad = submit_with(&mut engine, 0, &numbers(9), sampling(FAULTY | 1));
    let good = submit(&mut engine, 1, &distinct(0, 9), 4);
    drain(&mut engine, 10);
    assert_eq!(bad.end(), Some(Event::Failed(RequestFault::Output("it is not a number".into()))));
    assert_eq!(bad.tokens().len(), 1);
    assert_eq!(good.tokens().len(), 4);
    let again = submit(&mut engine, 2, &numbers(9), 1);
    drain(&mut engine, 2);
    assert_eq!(again.cached_tokens(), Some(0));
}

#[test]
fn a_client_that_goes_away_frees_its_blocks() {
    for patience in [0, 2] {
        let mut engine = engine(&roomy());
        let (request, record) = impatient_request(0, &numbers(9), 50, patience);
        engine.submit(request, Duration::ZERO).unwrap();
        drain(&mut engine, 3);
        assert_eq!(record.finish(), Some((FinishReason::Abort, None)));
        assert_eq!(engine.stats().kv_cache_usage, 0.0);
    }
}

#[test]
fn an_abort_ends_a_request_wherever_it_is() {
    let mut engine = engine(&EngineConfig { max_num_seqs: 1, ..roomy() });
    let running = submit(&mut engine, 0, &numbers(9), 50);
    let waiting = submit(&mut engine, 1, &numbers(9), 50);
    step(&mut engine);
    for (id, record) in [(1, &waiting), (0, &running)] {
        engine.abort(RequestId(id));
        assert_eq!(record.finish(), Some((FinishReason::Abort, None)));
        engine.abort(RequestId(id));
    }
    assert!(!engine.has_work());
    assert_eq!(engine.stats().kv_cache_usage, 0.0);
}

#[test]
fn a_device_fault_ends_every_request_and_the_engine() {
    let config = roomy();
    let mut executor = Fake::new(&config);
    executor.fails_at = Some(2);
    let mut engine = Engine::new(config, executor).unwrap();
    let records: Vec<_> = (0..6).map(|id| submit(&mut engine, id, &numbers(9), 50)).collect();
    step(&mut engine);
    step(&mut engine);
    let error = engine.step(&|| Duration::ZERO).unwrap_err();
    assert_eq!(error.to_string(), "the model could not run a step: the device is lost");
    assert!(records.iter().all(|record| record.end().is_none()), "whoever runs the engine says so first");
    engine.fail_all(&RequestFault::EngineStopped);
    for record in &records {
        assert_eq!(record.end(), Some(Event::Failed(RequestFault::EngineStopped)));
    }
    assert!(!engine.has_work());
    let refused = engine.submit(request(9, &[1], 1).0, Duration::ZERO).unwrap_err();
    assert_eq!(refused.reason, SubmitError::Stopped);
}

#[test]
fn stages_are_timed_by_the_clock_that_is_passed_in() {
    let mut engine = engine(&EngineConfig { max_num_batched_tokens: 5, max_num_seqs: 1, ..roomy() });
    let (request, record) = request(0, &numbers(9), 3);
    engine.submit(request, Duration::from_secs(1)).unwrap();
    let ticks = std::cell::Cell::new(3);
    let clock = || {
        ticks.set(ticks.get() + 1);
        Duration::from_secs(ticks.get())
    };
    while engine.has_work() {
        engine.step(&clock).unwrap();
    }
    // Steps: 4 to 5 and 6 to 7 compute the prompt; 8 to 9 and 10 to 11 one token each.
    let second = Duration::from_secs;
    let Some(Event::Finished(finished)) = record.end() else { panic!("it finishes") };
    assert_eq!(finished.timing, RequestTiming { queued: second(3), prefill: second(3), decode: second(4) });
}

#[test]
fn steps_are_counted_by_their_tokens() {
    let mut engine = engine(&roomy());
    submit(&mut engine, 0, &numbers(9), 3);
    drain(&mut engine, 5);
    let stats = engine.stats();
    assert_eq!((stats.steps, stats.prompt_tokens, stats.generation_tokens), (3, 9, 3));
    assert_eq!(stats.iteration_tokens.sum, 11);
    assert_eq!(stats.iteration_tokens.counts[..3], [2, 0, 1], "two steps of 1 token, one of 9 to 16");
    assert_eq!((stats.capacity_blocks, stats.block_size), (20, 4));
}

#[test]
fn configurations_that_cannot_work_are_refused_with_the_numbers() {
    let message = |config: EngineConfig| config.validate().unwrap_err().to_string();
    assert!(roomy().validate().is_ok());
    assert_eq!(message(EngineConfig { block_size: 0, ..roomy() }), "block_size is 0; it must be at least 1");
    assert!(message(EngineConfig { num_blocks: 1, ..roomy() }).starts_with("the KV cache has 1 blocks"));
    assert!(
        message(EngineConfig { max_num_batched_tokens: 3, ..roomy() }).contains("below max_num_seqs (4)")
    );
    let whole = EngineConfig { enable_chunked_prefill: false, ..roomy() };
    assert!(message(whole.clone()).contains("raise it to 80"));
    let whole = EngineConfig { max_model_len: 64, ..whole };
    let threshold = EngineConfig { long_prefill_token_threshold: 4, ..whole.clone() };
    assert!(message(threshold).contains("needs chunked prefill"));
    let gap = EngineConfig { max_stream_gap: Duration::from_secs(1), ..whole };
    assert!(message(gap).starts_with("max_stream_gap is 1s, which needs chunked prefill"));
    assert!(message(EngineConfig { watermark: 1.0, ..roomy() }).contains("below 1"));
    assert!(message(EngineConfig { sliding_window: Some(0), ..roomy() }).contains("sliding_window"));
}
