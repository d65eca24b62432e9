//! Requests, scheduler, KV block pool, prefix cache and step loop. No I/O, no clock, no device.

mod block_pool;
mod config;
mod engine;
mod error;
mod executor;
mod handle;
mod kv_blocks;
mod ledger;
mod mailbox;
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
    Delivery, Event, EventSink, FinishReason, Finished, Request, RequestFault, RequestId, RequestTiming,
};
pub use stats::{EngineStats, ITERATION_TOKEN_BUCKETS, IterationTokens};
pub use thread::{EngineExit, EngineThread, spawn};
