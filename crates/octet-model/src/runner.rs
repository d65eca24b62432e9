//! Runs plans: the decoder on a device, and sampling of its logits.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use octet_backend::{
    Backend, BackendError, Batch, BucketSet, KvCacheSpec, SampleRow, StepKey, TokenBucket, TunableBackend,
};
use octet_engine::{Executor, ExecutorError, OutputRow, RowOutcome, Slot, StepOutput, StepPlan, Task};
use octet_sample::{SampleError, SampledToken, Sampler, SequenceState};

use crate::decoder::Decoder;
use crate::layer::sites::Operand;
use crate::tuning::{ProjectionBench, TuningState};
use crate::workspace::Workspace;
use crate::{ModelConfig, ModelError};

/// What a runner is built for; all memory is allocated for it at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunnerLimits {
    /// The most tokens in a step.
    pub max_batched_tokens: usize,
    /// The most sequences in a step.
    pub max_sequences: usize,
    /// The longest sequence, for rotary embeddings that depend on it.
    pub max_model_len: usize,
    /// Tokens in a block of the KV cache.
    pub block_size: usize,
    /// Blocks, the null block included.
    pub num_blocks: usize,
}

/// Logits take at most this much at a time, unless one row is larger.
const LOGITS_BYTES_MAX: usize = 64 << 20;

/// How many rows of logits are computed together: more than these are done in pieces.
#[must_use]
pub(crate) fn logit_rows(config: &ModelConfig, limits: &RunnerLimits) -> usize {
    let affordable = LOGITS_BYTES_MAX / (config.vocabulary * size_of::<f32>());
    affordable.clamp(1, limits.max_sequences.max(16)).min(limits.max_batched_tokens.max(1))
}

/// A model on a device, ready to run steps: the engine's executor.
pub struct Runner<B: Backend> {
    backend: B,
    decoder: Decoder<B>,
    rope: B::Rope,
    cache: B::KvCache,
    workspace: Workspace<B>,
    sampling: Sampling,
    /// Vectors that are being made.
    pools: HashMap<Slot, Pool>,
    /// Rows of a step.
    max_batched_tokens: usize,
    /// Rows of logits computed together.
    logit_rows: usize,
    tuning: TuningState,
    /// Whether the device samples simple rows; asked once.
    device_samples: bool,
    device_rows: Vec<SampleRow>,
    device_tokens: Vec<u32>,
    /// By row of the piece: what the device sampled.
    device_chosen: Vec<Option<u32>>,
}

/// What sampling on the host needs, so made that rows can be sampled by several threads at once.
struct Sampling {
    /// By slot. A step has at most one row to sample for each.
    sequences: Vec<Mutex<Option<SequenceState>>>,
    /// Scratch memory, one more than the device has threads, so that one is always free.
    samplers: Vec<Mutex<Sampler>>,
    /// By row of the piece that is being sampled.
    outcomes: Vec<Mutex<Option<RowOutcome>>>,
}

impl<B: Backend> Runner<B> {
    pub(crate) fn new(
        mut backend: B,
        config: &ModelConfig,
        decoder: Decoder<B>,
        limits: RunnerLimits,
        cache: &KvCacheSpec,
    ) -> Result<Self, ModelError> {
        let logit_rows = logit_rows(config, &limits);
        let rope = backend
            .load_rope(&config.rope.spec(), limits.max_batched_tokens)
            .map_err(ModelError::backend("the rotary embedding"))?;
        let workspace = Workspace::allocate(&mut backend, config, limits.max_batched_tokens, logit_rows)
            .map_err(ModelError::backend("the workspace"))?;
        let cache = backend.allocate_kv_cache(cache).map_err(ModelError::backend("the KV cache"))?;
        let threads = backend.info().units.max(1) + 1;
        let sampling = Sampling {
            sequences: (0..limits.max_sequences).map(|_| Mutex::new(None)).collect(),
            samplers: (0..threads).map(|_| Mutex::new(Sampler::new(config.vocabulary))).collect(),
            outcomes: (0..logit_rows).map(|_| Mutex::new(None)).collect(),
        };
        Ok(Self {
            backend,
            decoder,
            rope,
            cache,
            workspace,
            sampling,
            pools: HashMap::new(),
            max_batched_tokens: limits.max_batched_tokens,
            logit_rows,
            tuning: TuningState::default(),
            device_samples: true,
            device_rows: Vec::with_capacity(logit_rows),
            device_tokens: Vec::with_capacity(logit_rows),
            device_chosen: Vec::with_capacity(logit_rows),
        })
    }

    /// The device.
    #[must_use]
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Runs a batch and returns the logits of its output rows, `[output rows, vocabulary]`: for self-tests,
    /// calibration and comparison with other implementations.
    ///
    /// # Errors
    /// Of the device.
    pub fn logits(&mut self, batch: &Batch) -> Result<Vec<f32>, BackendError> {
        let mut all = Vec::new();
        let rows = batch.output_rows.len();
        for start in (0..rows.max(1)).step_by(self.logit_rows) {
            let piece = start..rows.min(start + self.logit_rows);
            if start == 0 {
                self.step(batch, piece.clone())?;
            } else {
                self.decoder.logits(&mut self.backend, &mut self.workspace, piece.clone())?;
            }
            all.extend(self.backend.read_tensor(self.workspace.tensor(Operand::Logits), piece.len())?);
        }
        Ok(all)
    }

    /// Computes a batch, and the logits of some of its output rows in the same recorded step.
    fn step(&mut self, batch: &Batch, piece: Range<usize>) -> Result<(), BackendError> {
        let Self { backend, decoder, rope, cache, workspace, tuning, .. } = self;
        tuning.met_by_layers.insert(TokenBucket::of(batch.rows()));
        if !piece.is_empty() {
            tuning.met_by_head.insert(TokenBucket::of(piece.len()));
        }
        backend.begin_step(batch)?;
        backend.run_step(StepKey::of(batch, piece.len()), &mut |backend| {
            decoder.forward(backend, rope, cache, workspace)?;
            if piece.is_empty() { Ok(()) } else { decoder.logits(backend, workspace, piece.clone()) }
        })
    }

    /// Turns a piece's logits into outcomes.
    fn sample(&mut self, rows: &[OutputRow], output: &mut StepOutput) -> Result<(), BackendError> {
        self.sample_on_device(rows)?;
        let (sampling, chosen) = (&self.sampling, &self.device_chosen);
        if chosen.iter().any(Option::is_none) {
            let [logits] = self.workspace.tensors([Operand::Logits]);
            self.backend.map_logits(logits, rows.len(), &|row, logits| {
                if chosen[row].is_none() {
                    let outcome = sampling.sample(rows[row], logits);
                    *lock(&sampling.outcomes[row]) = Some(outcome);
                }
            })?;
        }
        for ((row, &token), outcome) in rows.iter().zip(chosen).zip(&sampling.outcomes) {
            let outcome = match token {
                Some(token) => Some(sampling.book(*row, token)),
                None => lock(outcome).take(),
            };
            output
                .rows
                .push(outcome.unwrap_or_else(|| RowOutcome::Fault("the device skipped a row".to_owned())));
        }
        Ok(())
    }

    /// Has the device sample the rows that it can; `device_chosen` has their tokens.
    fn sample_on_device(&mut self, rows: &[OutputRow]) -> Result<(), BackendError> {
        self.device_chosen.clear();
        self.device_chosen.resize(rows.len(), None);
        if !self.device_samples {
            return Ok(());
        }
        self.device_rows.clear();
        self.device_rows
            .extend(rows.iter().enumerate().filter_map(|(at, row)| self.sampling.describe(at, *row)));
        if self.device_rows.is_empty() {
            return Ok(());
        }
        self.device_tokens.clear();
        self.device_tokens.resize(self.device_rows.len(), SampleRow::NOT_SAMPLED);
        let Self { backend, workspace, device_rows, device_tokens, .. } = self;
        let [logits] = workspace.tensors([Operand::Logits]);
        self.device_samples = backend.sample(logits, device_rows, device_tokens)?;
        if self.device_samples {
            for (row, &token) in self.device_rows.iter().zip(&self.device_tokens) {
                self.device_chosen[row.row] = (token != SampleRow::NOT_SAMPLED).then_some(token);
            }
        }
        Ok(())
    }

    fn run(&mut self, plan: &StepPlan, output: &mut StepOutput) -> Result<(), BackendError> {
        if plan.batch.rows() == 0 {
            return Ok(());
        }
        let mut pieces = pieces(&plan.outputs, self.logit_rows).peekable();
        let first = pieces.next_if(|piece| !is_pooled(&plan.outputs[piece.start])).unwrap_or(0..0);
        self.step(&plan.batch, first.clone())?;
        if !first.is_empty() {
            self.sample(&plan.outputs[first], output)?;
        }
        for piece in pieces {
            let rows = &plan.outputs[piece.clone()];
            if is_pooled(&rows[0]) {
                self.decoder.hidden(&mut self.backend, &mut self.workspace, piece)?;
                self.pool(rows, output)?;
            } else {
                self.tuning.met_by_head.insert(TokenBucket::of(piece.len()));
                self.decoder.logits(&mut self.backend, &mut self.workspace, piece)?;
                self.sample(rows, output)?;
            }
        }
        Ok(())
    }

    /// Adds a piece's hidden states to the vectors that they count for.
    fn pool(&mut self, rows: &[OutputRow], output: &mut StepOutput) -> Result<(), BackendError> {
        let hidden = self.backend.read_tensor(self.workspace.tensor(Operand::Hidden), rows.len())?;
        for (row, hidden) in rows.iter().zip(hidden.chunks_exact(hidden.len() / rows.len())) {
            let OutputRow::Pool { slot, is_first, is_last } = *row else {
                unreachable!("the pieces tell hidden states from logits")
            };
            let pool = self.pools.entry(slot).or_default();
            if is_first {
                *pool = Pool { sums: vec![0.0; hidden.len()], rows: 0 };
            }
            output.rows.push(pool.add(hidden, is_last));
        }
        Ok(())
    }
}

impl<B: TunableBackend> Runner<B> {
    /// The model's projections, to be tuned.
    #[must_use]
    pub fn projections(&mut self) -> ProjectionBench<'_, B> {
        let rows = (self.max_batched_tokens, self.logit_rows);
        let Self { backend, decoder, workspace, tuning, .. } = self;
        ProjectionBench::new(backend, decoder, workspace, tuning, rows)
    }

    /// Groups of batch sizes that steps have met, of layers and of the head: they change when
    /// [`ProjectionBench::met_problems`] does.
    #[must_use]
    pub fn met_buckets(&self) -> (BucketSet, BucketSet) {
        (self.tuning.met_by_layers, self.tuning.met_by_head)
    }
}

impl<B: Backend> Executor for Runner<B> {
    fn admit(&mut self, slot: Slot, task: &Task, prompt: &[u32]) {
        let Some(sampling) = task.sampling() else { return };
        let slot = slot.0 as usize;
        // Preempted sequences keep their slots, so there may be more slots than sequences in a step.
        while self.sampling.sequences.len() <= slot {
            self.sampling.sequences.push(Mutex::new(None));
        }
        *lock(&self.sampling.sequences[slot]) = Some(SequenceState::new(sampling, prompt));
    }

    fn release(&mut self, slot: Slot) {
        self.pools.remove(&slot);
        if let Some(sequence) = self.sampling.sequences.get(slot.0 as usize) {
            *lock(sequence) = None;
        }
    }

    fn execute(&mut self, plan: &StepPlan, output: &mut StepOutput) -> Result<(), ExecutorError> {
        output.rows.clear();
        self.run(plan, output).map_err(|error| match error {
            BackendError::Unfinished(message) => ExecutorError::Unfinished(message),
            other => ExecutorError::Failed(other.to_string()),
        })
    }
}

impl Sampling {
    /// Describes a row for the device; nothing if it needs the host.
    fn describe(&self, at: usize, row: OutputRow) -> Option<SampleRow> {
        let OutputRow::Sample(slot) = row else { return None };
        let sequence = self.sequence(slot);
        let sequence = sequence.as_ref()?;
        let params = sequence.params();
        let is_simple = !sequence.changes_logits() && params.min_p == 0.0 && params.logprobs.is_none();
        is_simple.then(|| SampleRow {
            row: at,
            temperature: if params.is_greedy() { 0.0 } else { params.temperature },
            top_k: params.top_k,
            top_p: params.top_p,
            fraction: sequence.next_fraction(),
        })
    }

    /// Books what the device sampled.
    fn book(&self, row: OutputRow, token: u32) -> RowOutcome {
        if let OutputRow::Sample(slot) = row
            && let Some(sequence) = self.sequence(slot).as_mut()
        {
            sequence.record(token);
        }
        RowOutcome::Token(SampledToken { token, logprobs: None })
    }

    /// Turns one row into its outcome. A fault stays with the row.
    fn sample(&self, row: OutputRow, logits: &mut [f32]) -> RowOutcome {
        let (OutputRow::Sample(slot) | OutputRow::PromptLogprob { slot, .. } | OutputRow::Pool { slot, .. }) =
            row;
        let mut sequence = self.sequence(slot);
        let Some(sequence) = sequence.as_mut() else {
            return RowOutcome::Fault(format!("slot {} was not admitted", slot.0));
        };
        let mut sampler = self.sampler();
        let outcome = match row {
            OutputRow::Sample(_) => sampler.sample(sequence, logits).map(RowOutcome::Token),
            OutputRow::PromptLogprob { target, .. } => {
                sampler.prompt_logprobs(sequence.params(), logits, target).map(RowOutcome::PromptLogprobs)
            }
            OutputRow::Pool { .. } => unreachable!("the pieces tell hidden states from logits"),
        };
        outcome.unwrap_or_else(|error: SampleError| match error {
            SampleError::NothingLeft { .. } => RowOutcome::NothingLeft(error.to_string()),
            error => RowOutcome::Fault(error.to_string()),
        })
    }

    fn sequence(&self, slot: Slot) -> MutexGuard<'_, Option<SequenceState>> {
        lock(&self.sequences[slot.0 as usize])
    }

    /// Scratch memory that no other thread uses now.
    fn sampler(&self) -> MutexGuard<'_, Sampler> {
        let free = self.samplers.iter().find_map(|sampler| sampler.try_lock().ok());
        free.unwrap_or_else(|| lock(&self.samplers[0]))
    }
}

/// The hidden states that make a prompt's vector, summed in the order of its tokens: so chunks change no bit.
#[derive(Default)]
struct Pool {
    sums: Vec<f64>,
    rows: u32,
}

impl Pool {
    fn add(&mut self, hidden: &[f32], is_last: bool) -> RowOutcome {
        if let Some(column) = hidden.iter().position(|value| !value.is_finite()) {
            let value = hidden[column];
            return RowOutcome::Fault(format!("hidden state {column} of a token is {value}"));
        }
        self.rows += 1;
        self.sums.iter_mut().zip(hidden).for_each(|(sum, &value)| *sum += f64::from(value));
        let mean = |sum: &f64| (sum / f64::from(self.rows)) as f32;
        RowOutcome::Pooled(is_last.then(|| self.sums.iter().map(mean).collect()))
    }
}

fn is_pooled(row: &OutputRow) -> bool {
    matches!(row, OutputRow::Pool { .. })
}

/// Output rows in pieces of at most `size`, each of rows of one kind.
fn pieces(rows: &[OutputRow], size: usize) -> impl Iterator<Item = Range<usize>> {
    let runs = rows.chunk_by(|before, after| is_pooled(before) == is_pooled(after));
    let mut start = 0;
    runs.flat_map(move |run| run.chunks(size)).map(move |piece| {
        start += piece.len();
        start - piece.len()..start
    })
}

/// A panic while sampling a row leaves nothing half done that a later row would read.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use octet_sample::SamplingParams;

    use super::*;

    fn params() -> SamplingParams {
        SamplingParams { temperature: 0.7, top_k: 3, top_p: 0.9, seed: 5, ..SamplingParams::default() }
    }

    fn sampling(sequences: &[SamplingParams]) -> Sampling {
        Sampling {
            sequences: sequences.iter().map(|it| Mutex::new(Some(SequenceState::new(it, &[1])))).collect(),
            samplers: vec![Mutex::new(Sampler::new(8))],
            outcomes: Vec::new(),
        }
    }

    #[test]
    fn devices_get_simple_rows_only() {
        let mut penalised = params();
        penalised.presence_penalty = 0.5;
        let mut truncated = params();
        truncated.min_p = 0.1;
        let mut reported = params();
        reported.logprobs = Some(octet_sample::LogprobCount::Top(0));
        let greedy = SamplingParams { temperature: 1e-6, ..SamplingParams::default() };
        let sampling = sampling(&[params(), penalised, truncated, reported, greedy]);
        let describe = |at, slot| sampling.describe(at, OutputRow::Sample(Slot(slot)));
        let fraction = SequenceState::new(&params(), &[1]).next_fraction();
        let row = SampleRow { row: 2, temperature: 0.7, top_k: 3, top_p: 0.9, fraction };
        assert_eq!(describe(2, 0), Some(row));
        assert_eq!([1, 2, 3].map(|slot| describe(0, slot)), [None; 3]);
        assert_eq!(describe(1, 4).map(|row| (row.row, row.temperature)), Some((1, 0.0)));
        assert_eq!(sampling.describe(0, OutputRow::PromptLogprob { slot: Slot(0), target: 1 }), None);
    }

    #[test]
    fn what_a_device_sampled_moves_the_counter() {
        let sampling = sampling(&[params()]);
        let row = OutputRow::Sample(Slot(0));
        let before = sampling.describe(0, row).map(|row| row.fraction);
        assert_eq!(sampling.book(row, 6), RowOutcome::Token(SampledToken { token: 6, logprobs: None }));
        let after = sampling.describe(0, row).map(|row| row.fraction);
        assert!(before.is_some() && after.is_some() && before != after);
    }

    #[test]
    fn pieces_cover_all_rows() {
        let row = OutputRow::Sample(Slot(0));
        let pooled = OutputRow::Pool { slot: Slot(1), is_first: true, is_last: true };
        assert_eq!(pieces(&[row; 7], 3).collect::<Vec<_>>(), [0..3, 3..6, 6..7]);
        assert_eq!(pieces(&[], 3).count(), 0);
        let mixed = [row, pooled, pooled, pooled, row, row];
        assert_eq!(pieces(&mixed, 2).collect::<Vec<_>>(), [0..1, 1..3, 3..4, 4..6]);
    }

    #[test]
    fn rows_that_are_not_numbers_are_faults() {
        let sampling = sampling(&[params()]);
        let mut logits = [0.0, f32::NAN, 1.0];
        let outcome = sampling.sample(OutputRow::Sample(Slot(0)), &mut logits);
        assert!(matches!(&outcome, RowOutcome::Fault(text) if text.contains("NaN")), "{outcome:?}");
    }
}
