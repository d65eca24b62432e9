//! What the engine needs of the code that runs the model: the plan of a step, its outcome, and the trait between them.

use octet_backend::Batch;
use octet_sample::{PositionLogprobs, SampledToken};

use crate::request::Task;

/// Index of a sequence's sampling state in the executor. The engine hands slots out and reuses them; a preempted sequence
/// keeps its own, so there may be more than `EngineConfig::max_num_seqs`, and never more than requests inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u32);

/// What a row is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputRow {
    /// The row completes what is known of its sequence: sample the next token.
    Sample(Slot),
    /// The row predicts a prompt token whose logprob was asked for.
    PromptLogprob {
        /// The sequence.
        slot: Slot,
        /// The prompt token that follows the row.
        target: u32,
    },
    /// The row's final hidden state counts for the vector of its prompt.
    Pool {
        /// The sequence.
        slot: Slot,
        /// It is the first that counts: what was summed before a preemption is forgotten.
        is_first: bool,
        /// It is the last that counts: the vector is complete.
        is_last: bool,
    },
}

/// A step as a value. The engine refills the same plan each step; nothing in it is allocated after warm-up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepPlan {
    /// Tokens, positions, block tables and output rows.
    pub batch: Batch,
    /// What each of `batch.output_rows` is for, in the same order.
    pub outputs: Vec<OutputRow>,
    /// The most prompt tokens that the step was allowed: with it, [`crate::Engine::step_within`] replays the step.
    pub prompt_budget: usize,
}

/// What became of one output row.
#[derive(Clone, Debug, PartialEq)]
pub enum RowOutcome {
    /// The sampled token.
    Token(SampledToken),
    /// The prompt token's logprobs.
    PromptLogprobs(PositionLogprobs),
    /// The mean of the hidden states that count, `[hidden]`, with the last of them.
    Pooled(Option<Vec<f32>>),
    /// This row's request cannot go on; others are not affected. The text says why.
    Fault(String),
    /// The same, by what the request itself asked for: its masks leave no token.
    NothingLeft(String),
}

/// The outcome of a step: one entry for each of [`StepPlan::outputs`].
#[derive(Clone, Debug, Default)]
pub struct StepOutput {
    /// In the order of the plan's outputs.
    pub rows: Vec<RowOutcome>,
}

/// Why the engine cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExecutorError {
    /// The device failed.
    #[error("the model could not run a step: {0}")]
    Failed(String),
    /// The device did not finish a step in the time that it was given.
    #[error("the model did not finish a step: {0}")]
    Unfinished(String),
}

/// Runs plans. The engine owns it and calls it from its own thread alone.
pub trait Executor: Send {
    /// A sequence enters: its state is set up under `slot`, which is free.
    fn admit(&mut self, slot: Slot, task: &Task, prompt: &[u32]);

    /// A sequence leaves: its slot is free again.
    fn release(&mut self, slot: Slot);

    /// Computes the plan's tokens, writes their keys and values into the planned blocks, and fills `output`.
    ///
    /// In each layer all of the plan's keys and values are written before any is read: a sequence that shares a prefix
    /// may read blocks that another sequence of the same plan fills. Entries of a block table that are 0 (the null
    /// block) lie before the sliding window and are never read.
    ///
    /// # Errors
    /// Only when the device failed; a fault of one request is a [`RowOutcome::Fault`].
    fn execute(&mut self, plan: &StepPlan, output: &mut StepOutput) -> Result<(), ExecutorError>;

    /// Does a slice of work of its own, such as tuning, and says whether there is more. It is called only while no
    /// request is inside; a request that comes meanwhile waits for the slice's end, so it should take milliseconds.
    ///
    /// # Errors
    /// Only when the device failed.
    fn idle(&mut self) -> Result<bool, ExecutorError> {
        Ok(false)
    }
}
