//! The work of vLLM's `bench latency`: whole batches of random prompts, generated to a fixed length, one after another.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use octet_engine::{Delivery, Engine, Event, EventSink, Executor, FinishReason, Request, RequestId};
use octet_sample::{LogprobsMode, SamplingParams};

/// Prompts are of ids below this, as vLLM's are.
const PROMPT_ID_LIMIT: u32 = 10_000;

/// What one iteration computes, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LatencyShape {
    /// Prompts of a batch.
    pub(crate) batch_size: usize,
    /// Sequences generated from each prompt.
    pub(crate) sequences_per_prompt: usize,
    /// Tokens of a prompt.
    pub(crate) input_len: usize,
    /// Tokens generated for each sequence.
    pub(crate) output_len: usize,
    /// Iterations that are not counted.
    pub(crate) warmups: usize,
    /// Iterations that are.
    pub(crate) iterations: usize,
    /// Ids of prompts are below it too.
    pub(crate) vocabulary: usize,
    /// Of the prompts and of sampling.
    pub(crate) seed: u64,
}

impl LatencyShape {
    /// Sequences of a batch.
    pub(crate) const fn sequences(&self) -> usize {
        self.batch_size * self.sequences_per_prompt
    }

    /// Checks that there is something to measure and that it fits `longest` tokens a sequence.
    fn validate(&self, longest: usize) -> Result<()> {
        let sizes = [
            ("--batch-size", self.batch_size),
            ("--n", self.sequences_per_prompt),
            ("--input-len", self.input_len),
            ("--output-len", self.output_len),
            ("--num-iters", self.iterations),
            ("the vocabulary", self.vocabulary),
        ];
        if let Some((name, _)) = sizes.into_iter().find(|(_, size)| *size == 0) {
            bail!("{name} is 0; it must be at least 1");
        }
        let wanted = self.input_len + self.output_len;
        if wanted > longest {
            bail!(
                "--input-len {} and --output-len {} make {wanted} tokens; a sequence can have at most {longest} \
                 (raise --max-model-len or the KV cache's memory)",
                self.input_len,
                self.output_len
            );
        }
        Ok(())
    }
}

/// One timed batch. Its prefill lasts until every sequence has its first token; what follows is decode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Iteration {
    /// The whole of it.
    pub(crate) elapsed: Duration,
    /// From the start to the last sequence's first token.
    pub(crate) prefill: Duration,
    /// Prompt tokens that were computed: all but those found in the prefix cache.
    pub(crate) prefill_tokens: usize,
    /// From there to the end.
    pub(crate) decode: Duration,
    /// Tokens generated in that time.
    pub(crate) decode_tokens: usize,
    /// Steps in that time.
    pub(crate) decode_steps: usize,
    /// Cached tokens that these steps' attention read, summed over steps and sequences.
    pub(crate) decode_context_tokens: usize,
}

/// All timed batches.
#[derive(Clone, Debug)]
pub(crate) struct LatencyRun {
    /// What was run.
    pub(crate) shape: LatencyShape,
    /// One entry for each timed batch.
    pub(crate) iterations: Vec<Iteration>,
    /// Sequences that lost their blocks while timed: above 0, the KV cache was too small for the batch.
    pub(crate) preemptions: u64,
}

/// Warms up and measures, with a progress bar on standard error if that is a terminal. `clock` only moves forward.
///
/// # Errors
/// A shape that cannot run; a fault of the model.
pub(crate) fn run<E: Executor>(
    engine: &mut Engine<E>,
    shape: LatencyShape,
    clock: &dyn Fn() -> Duration,
) -> Result<LatencyRun> {
    shape.validate(engine.config().longest_sequence())?;
    let mut bench = Bench { engine, shape, clock, prompts: random_prompts(&shape), next_id: 0 };
    bench.repeat("Warmup iterations", shape.warmups)?;
    let before = bench.engine.stats().preemptions;
    let iterations = bench.repeat("Bench iterations", shape.iterations)?;
    let preemptions = bench.engine.stats().preemptions - before;
    Ok(LatencyRun { shape, iterations, preemptions })
}

struct Bench<'a, E> {
    engine: &'a mut Engine<E>,
    shape: LatencyShape,
    clock: &'a dyn Fn() -> Duration,
    /// The same in every iteration.
    prompts: Vec<Vec<u32>>,
    next_id: u64,
}

impl<E: Executor> Bench<'_, E> {
    fn repeat(&mut self, name: &'static str, count: usize) -> Result<Vec<Iteration>> {
        let tokens = (self.shape.sequences() * self.shape.output_len) as u64;
        let style = "{msg} {bar:30} {percent:>3}% [{elapsed_precise}, {eta_precise} left]";
        let style = ProgressStyle::with_template(style).expect("the template is a constant and valid");
        let bar = ProgressBar::new(tokens * count as u64).with_style(style);
        let mut iterations = Vec::with_capacity(count);
        for index in 0..count {
            bar.set_message(format!("{name} {}/{count}", index + 1));
            let iteration = self.iterate(&bar);
            if iteration.is_err() {
                bar.finish_and_clear();
            }
            iterations.push(iteration?);
        }
        bar.finish_and_clear();
        Ok(iterations)
    }

    /// Runs one batch to its end.
    fn iterate(&mut self, bar: &ProgressBar) -> Result<Iteration> {
        let sequences = self.shape.sequences();
        let progress = Arc::new(Progress::new(sequences));
        let mut iteration = Iteration::default();
        let start = (self.clock)();
        self.submit(&progress, start)?;
        while self.engine.has_work() {
            let decodes = progress.started() == sequences;
            let context_tokens = progress.context_tokens(&self.shape);
            let summary = self.engine.step(self.clock)?;
            bar.inc(summary.generated as u64);
            if decodes {
                iteration.decode_steps += 1;
                iteration.decode_tokens += summary.generated;
                iteration.decode_context_tokens += context_tokens;
            } else {
                iteration.prefill = (self.clock)().saturating_sub(start);
            }
        }
        iteration.elapsed = (self.clock)().saturating_sub(start);
        iteration.decode = iteration.elapsed.saturating_sub(iteration.prefill);
        iteration.prefill_tokens = sequences * self.shape.input_len - progress.cached.load(Ordering::Relaxed);
        progress.check(&self.shape)?;
        Ok(iteration)
    }

    fn submit(&mut self, progress: &Arc<Progress>, now: Duration) -> Result<()> {
        for index in 0..self.shape.sequences() {
            let request = Request {
                id: RequestId(self.next_id),
                prompt: self.prompts[index / self.shape.sequences_per_prompt].clone(),
                sampling: Arc::new(sampling(self.shape.seed.wrapping_add(index as u64))),
                max_tokens: self.shape.output_len,
                priority: 0,
                cache_salt: None,
                sink: Box::new(Sink { progress: Arc::clone(progress), index }),
            };
            self.next_id += 1;
            self.engine.submit(request, now).map_err(|refused| refused.reason)?;
        }
        Ok(())
    }
}

/// What the sinks of one batch have seen.
struct Progress {
    /// By sequence.
    generated: Vec<AtomicUsize>,
    /// Prompt tokens found in the prefix cache.
    cached: AtomicUsize,
    /// The first end that was not by length.
    fault: Mutex<Option<String>>,
}

impl Progress {
    fn new(sequences: usize) -> Self {
        let generated = (0..sequences).map(|_| AtomicUsize::new(0)).collect();
        Self { generated, cached: AtomicUsize::new(0), fault: Mutex::new(None) }
    }

    fn counts(&self) -> impl Iterator<Item = usize> {
        self.generated.iter().map(|count| count.load(Ordering::Relaxed))
    }

    /// Sequences that have their first token.
    fn started(&self) -> usize {
        self.counts().filter(|count| *count > 0).count()
    }

    /// Known tokens of all sequences that are not done: what the attention of their next rows reads.
    fn context_tokens(&self, shape: &LatencyShape) -> usize {
        let going_on = self.counts().filter(|count| *count < shape.output_len);
        going_on.map(|count| shape.input_len + count).sum()
    }

    fn check(&self, shape: &LatencyShape) -> Result<()> {
        if let Some(fault) = self.fault.lock().unwrap_or_else(PoisonError::into_inner).take() {
            bail!("a sequence of the benchmark ended early: {fault}");
        }
        if let Some(count) = self.counts().find(|count| *count != shape.output_len) {
            bail!("a sequence of the benchmark ended after {count} of {} tokens", shape.output_len);
        }
        Ok(())
    }
}

struct Sink {
    progress: Arc<Progress>,
    index: usize,
}

impl EventSink for Sink {
    fn deliver(&mut self, event: Event) -> Delivery {
        let fault = match event {
            Event::Started { cached_tokens } => {
                self.progress.cached.fetch_add(cached_tokens, Ordering::Relaxed);
                None
            }
            Event::Token(_) => {
                self.progress.generated[self.index].fetch_add(1, Ordering::Relaxed);
                None
            }
            Event::PromptLogprobs(_) => None,
            Event::Finished(finished) => {
                (finished.reason != FinishReason::Length).then(|| format!("{:?}", finished.reason))
            }
            Event::Failed(fault) => Some(fault.to_string()),
        };
        if fault.is_some() {
            let mut first = self.progress.fault.lock().unwrap_or_else(PoisonError::into_inner);
            *first = first.take().or(fault);
        }
        Delivery::Taken
    }
}

/// Temperature 1, nothing truncated, no end of sequence.
fn sampling(seed: u64) -> SamplingParams {
    SamplingParams {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        seed,
        min_tokens: 0,
        eos_token_id: None,
        stop_token_ids: Vec::new(),
        logit_bias: Vec::new(),
        allowed_token_ids: None,
        bad_words: Vec::new(),
        logprobs: None,
        prompt_logprobs: None,
        logprobs_mode: LogprobsMode::RawLogprobs,
    }
}

fn random_prompts(shape: &LatencyShape) -> Vec<Vec<u32>> {
    let limit = u32::try_from(shape.vocabulary).unwrap_or(u32::MAX).min(PROMPT_ID_LIMIT);
    let mut state = shape.seed;
    let mut prompt = || (0..shape.input_len).map(|_| random_below(&mut state, limit)).collect();
    (0..shape.batch_size).map(|_| prompt()).collect()
}

/// The next number of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014), scaled.
#[expect(clippy::cast_possible_truncation, reason = "the product's upper half is below the limit")]
fn random_below(state: &mut u64, limit: u32) -> u32 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut number = *state;
    number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^= number >> 31;
    ((u128::from(number) * u128::from(limit)) >> 64) as u32
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use octet_engine::{EngineConfig, ExecutorError, OutputRow, RowOutcome, Slot, StepOutput, StepPlan};
    use octet_sample::SampledToken;

    use super::*;

    /// Takes a millisecond for each row and ten for each step, on a clock of its own.
    struct Fake {
        time_ms: Arc<AtomicU64>,
        largest_id: Arc<AtomicU64>,
        faults: bool,
    }

    impl Executor for Fake {
        fn admit(&mut self, _: Slot, sampling: &SamplingParams, prompt: &[u32]) {
            assert_eq!((sampling.temperature, sampling.eos_token_id), (1.0, None));
            let largest = prompt.iter().max().copied().map(u64::from);
            self.largest_id.fetch_max(largest.expect("a prompt has tokens"), Ordering::Relaxed);
        }

        fn release(&mut self, _: Slot) {}

        fn execute(&mut self, plan: &StepPlan, output: &mut StepOutput) -> Result<(), ExecutorError> {
            self.time_ms.fetch_add(10 + plan.batch.rows() as u64, Ordering::Relaxed);
            output.rows.extend(plan.outputs.iter().map(|wanted| match wanted {
                OutputRow::Sample(_) if !self.faults => {
                    RowOutcome::Token(SampledToken { token: 1, logprobs: None })
                }
                _ => RowOutcome::Fault("not a number".to_owned()),
            }));
            Ok(())
        }
    }

    fn shape() -> LatencyShape {
        LatencyShape {
            batch_size: 2,
            sequences_per_prompt: 2,
            input_len: 16,
            output_len: 3,
            warmups: 1,
            iterations: 2,
            vocabulary: 50,
            seed: 1,
        }
    }

    /// Runs the shape with steps of at most 40 tokens; also returns the largest prompt id.
    fn run_fake(shape: LatencyShape, faults: bool, prefix_caching: bool) -> (Result<LatencyRun>, u64) {
        let config = EngineConfig {
            max_num_seqs: 8,
            max_num_batched_tokens: 40,
            enable_prefix_caching: prefix_caching,
            ..EngineConfig::new(32, 8, 64)
        };
        let (time_ms, largest_id) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let clock = || Duration::from_millis(time_ms.load(Ordering::Relaxed));
        let fake = Fake { time_ms: Arc::clone(&time_ms), largest_id: Arc::clone(&largest_id), faults };
        let mut engine = Engine::new(config, fake).expect("the configuration works");
        let run = run(&mut engine, shape, &clock);
        (run, largest_id.load(Ordering::Relaxed))
    }

    #[test]
    fn prefill_and_decode_are_told_apart_by_the_last_first_token() {
        let run = run_fake(shape(), false, false).0.expect("it runs");
        // Rows of the steps: 40, then two decodes and the remaining 24 prompt tokens, then 4, then 2.
        let expected = Iteration {
            prefill: Duration::from_millis(50 + 36),
            prefill_tokens: 64,
            decode: Duration::from_millis(14 + 12),
            decode_tokens: 6,
            decode_steps: 2,
            decode_context_tokens: 18 + 18 + 17 + 17 + 18 + 18,
            elapsed: Duration::from_millis(112),
        };
        assert_eq!(run.iterations, [expected, expected]);
        assert_eq!(run.preemptions, 0);
    }

    #[test]
    fn cached_prompt_tokens_do_not_count_as_computed() {
        let run = run_fake(shape(), false, true).0.expect("it runs");
        // Eight of each prompt's 16 tokens are found: the block with the last token is computed again.
        assert!(run.iterations.iter().all(|iteration| iteration.prefill_tokens == 32));
    }

    #[test]
    fn prompt_ids_stay_below_the_vocabulary_and_below_ten_thousand() {
        assert!((30..50).contains(&run_fake(shape(), false, false).1));
        let wide = LatencyShape { vocabulary: 1_000_000, input_len: 60, ..shape() };
        assert!((5000..10_000).contains(&run_fake(wide, false, false).1));
    }

    #[test]
    fn what_cannot_be_measured_is_an_error() {
        let message = |shape: LatencyShape, faults: bool| {
            run_fake(shape, faults, false).0.expect_err("it cannot be measured").to_string()
        };
        assert_eq!(
            message(LatencyShape { output_len: 0, ..shape() }, false),
            "--output-len is 0; it must be at least 1"
        );
        assert!(message(LatencyShape { input_len: 62, ..shape() }, false).contains("make 65 tokens"));
        assert_eq!(message(shape(), true), "a sequence of the benchmark ended early: not a number");
    }
}
