//! Requests in, plans out, tokens back: scheduler, KV block pool, prefix cache, ledger and step loop.
//!
//! Nothing in here does I/O, reads a clock or knows a device, except `thread.rs`, which gives an [`Engine`] a thread
//! and a clock. The model is behind the [`Executor`] trait.
//!
//! # The life of a request
//!
//! 1. [`EngineHandle::submit`] checks a [`Request`] and puts it in the mailbox, if fewer than `max_queued` are inside.
//! 2. Between two steps the thread takes it out: the ledger opens an account, the scheduler queues a sequence.
//! 3. [`Engine::step`] asks the scheduler for a plan, in which prompts get as many tokens as `pace.rs` measured to be
//!    computed in the time that other streams may pause. There is no prefill phase and no decode phase: a sequence has
//!    tokens known and tokens computed, and each step closes some of the difference. Admission gives it a [`Slot`] for
//!    its sampling state, whatever the prefix cache has of its prompt, and blocks for the rest. A sequence that must
//!    give way loses its blocks, keeps its slot and its tokens, and is computed again later.
//! 4. [`Executor::execute`] runs the [`StepPlan`]; the engine books each row's outcome: prompt logprobs are gathered,
//!    a token is appended, reported and held against the stop rules.
//! 5. At the end, blocks and slot go back, and the ledger closes the account with the sink's last [`Event`].
//!
//! # Invariants
//!
//! - A request ends exactly once and its blocks return exactly once: `ledger.rs` and `block_pool.rs` assert it.
//! - The same submissions, prompt budgets and outcomes lead to the same plans; a plan carries its budget.
//! - No client request keeps more than its equal part of slots, blocks and places while another waits.
//! - It cannot deadlock: a request that is taken fits alone, and one that runs alone gets its blocks.
//! - Equal prefixes are found by hash and then compared; a hash collision costs time, never correctness.
//! - After warm-up, planning and booking a step of running sequences allocates nothing.
//! - A request's fault ends that request; a device's fault or a panic ends all of them, and the thread says why.

mod block_pool;
mod budget;
mod config;
mod engine;
mod error;
mod executor;
mod groups;
mod handle;
mod kv_blocks;
mod ledger;
mod mailbox;
mod pace;
mod places;
mod prefix_cache;
mod queue;
mod request;
mod scheduler;
mod sequence;
mod stats;
mod thread;

pub use config::{EngineConfig, SchedulingPolicy};
pub use engine::{Engine, Refused, StepSummary};
pub use error::{ConfigError, SubmitError};
pub use executor::{Executor, ExecutorError, OutputRow, RowOutcome, Slot, StepOutput, StepPlan};
pub use handle::EngineHandle;
pub use request::{
    Delivery, Event, EventSink, Finish, FinishReason, Finished, GroupId, Pooling, Request, RequestFault,
    RequestId, RequestTiming, Task,
};
pub use stats::{EngineStats, ITERATION_TOKEN_BUCKETS, IterationTokens};
pub use thread::{EngineExit, EngineThread, spawn};
