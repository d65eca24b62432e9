//! Requests, scheduler, KV block pool, prefix cache and step loop. No I/O, no clock, no device.

mod executor;
mod request;

pub use executor::{Executor, ExecutorError, OutputRow, RowOutcome, Slot, StepOutput, StepPlan};
pub use request::{
    Delivery, Event, EventSink, FinishReason, Finished, Request, RequestFault, RequestId, RequestTiming,
};
