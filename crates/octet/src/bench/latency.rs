//! The work of vLLM's `bench latency`: whole batches of random prompts, generated to a fixed length, one after another.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use indicatif::ProgressBar;
use octet_engine::{Engine, Executor, GroupId, Request, RequestId, Task};

use super::progress::Progress;
use super::random::Random;
use super::{progress_bar, sampling};

/// Ids of a probe's requests: other than those of the benchmark.
const PROBE_IDS: u64 = 1 << 60;

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

/// Tokens of each sequence of a probe: enough for steps of every kind that a whole batch has.
const PROBE_TOKENS: usize = 4;

/// Runs the beginning of a batch, so that whoever watches the executor sees which steps a whole one has.
///
/// # Errors
/// As [`run`].
pub(crate) fn probe<E: Executor>(
    engine: &mut Engine<E>,
    shape: LatencyShape,
    clock: &dyn Fn() -> Duration,
) -> Result<()> {
    shape.validate(engine.config().longest_sequence())?;
    let shape = LatencyShape { output_len: shape.output_len.min(PROBE_TOKENS), ..shape };
    let mut bench = Bench { engine, shape, clock, prompts: random_prompts(&shape), next_id: PROBE_IDS };
    bench.iterate(&ProgressBar::hidden())?;
    Ok(())
}

struct Bench<'a, E> {
    engine: &'a mut Engine<E>,
    shape: LatencyShape,
    clock: &'a dyn Fn() -> Duration,
    /// The same in every iteration.
    prompts: Vec<Arc<[u32]>>,
    next_id: u64,
}

impl<E: Executor> Bench<'_, E> {
    fn repeat(&mut self, name: &'static str, count: usize) -> Result<Vec<Iteration>> {
        let tokens = (self.shape.sequences() * self.shape.output_len) as u64;
        let bar = progress_bar(tokens * count as u64);
        let mut iterations = Vec::with_capacity(count);
        for index in 0..count {
            // Nothing, unless tuning was asked for and a batch met what the one before had not.
            while self.engine.idle()? {}
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
            let context_tokens = context_tokens(&progress, &self.shape);
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
        iteration.prefill_tokens = sequences * self.shape.input_len - progress.cached();
        progress.check(|_| self.shape.output_len)?;
        Ok(iteration)
    }

    fn submit(&mut self, progress: &Arc<Progress>, now: Duration) -> Result<()> {
        let first_id = self.next_id;
        for index in 0..self.shape.sequences() {
            let request = Request {
                id: RequestId(self.next_id),
                group: GroupId(first_id + (index / self.shape.sequences_per_prompt) as u64),
                prompt: Arc::clone(&self.prompts[index / self.shape.sequences_per_prompt]),
                task: Task::Generate {
                    sampling: Arc::new(sampling(self.shape.seed.wrapping_add(index as u64))),
                    max_tokens: self.shape.output_len,
                },
                priority: 0,
                cache_salt: None,
                sink: progress.sink(index),
            };
            self.next_id += 1;
            self.engine.submit(request, now).map_err(|refused| refused.reason)?;
        }
        Ok(())
    }
}

/// Known tokens of all sequences that are not done: what the attention of their next rows reads.
fn context_tokens(progress: &Progress, shape: &LatencyShape) -> usize {
    let going_on = progress.counts().filter(|count| *count < shape.output_len);
    going_on.map(|count| shape.input_len + count).sum()
}

fn random_prompts(shape: &LatencyShape) -> Vec<Arc<[u32]>> {
    let limit = u32::try_from(shape.vocabulary).unwrap_or(u32::MAX).min(PROMPT_ID_LIMIT);
    let mut random = Random::new(shape.seed);
    let mut prompt = || (0..shape.input_len).map(|_| random.id_below(limit)).collect();
    (0..shape.batch_size).map(|_| prompt()).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

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
        fn admit(&mut self, _: Slot, task: &Task, prompt: &[u32]) {
            let sampling = task.sampling().expect("tokens are asked for");
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
