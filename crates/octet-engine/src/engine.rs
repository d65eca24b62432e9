//! The step loop's logic, without a thread and without a clock.

use std::collections::HashMap;
use std::time::Duration;

use octet_sample::SampledToken;

use crate::config::EngineConfig;
use crate::error::{ConfigError, SubmitError};
use crate::executor::{Executor, ExecutorError, OutputRow, RowOutcome, StepOutput, StepPlan};
use crate::ledger::Ledger;
use crate::pace::{Measured, Pace};
use crate::request::{Delivery, Event, Finish, FinishReason, Request, RequestFault, RequestId, Task};
use crate::scheduler::Scheduler;
use crate::sequence::SequenceKey;
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

/// How a request ends.
enum Ending {
    Finished(Finish),
    Failed(RequestFault),
}

impl Ending {
    /// Nobody wants the rest.
    const ABORT: Self = Self::Finished(Finish::by(FinishReason::Abort));
}

/// Requests and an executor; [`Engine::step`] moves all of them on.
pub struct Engine<E> {
    config: EngineConfig,
    executor: E,
    scheduler: Scheduler,
    pace: Pace,
    ledger: Ledger,
    keys: HashMap<RequestId, SequenceKey>,
    plan: StepPlan,
    output: StepOutput,
    /// Counters; the gauges among them are filled in when they are read.
    stats: EngineStats,
    /// The time of the last step or submission, for events between steps.
    now: Duration,
    /// Set by a device fault: no request is taken any more.
    dead: bool,
}

impl<E: Executor> Engine<E> {
    /// An idle engine.
    ///
    /// # Errors
    /// The configuration cannot work.
    pub fn new(config: EngineConfig, executor: E) -> Result<Self, ConfigError> {
        config.validate()?;
        let stats = EngineStats {
            capacity_blocks: config.usable_blocks(),
            block_size: config.block_size,
            ..EngineStats::default()
        };
        Ok(Self {
            scheduler: Scheduler::new(&config),
            ledger: Ledger::default(),
            keys: HashMap::new(),
            plan: StepPlan::default(),
            output: StepOutput::default(),
            pace: Pace::new(config.max_stream_gap),
            now: Duration::ZERO,
            dead: false,
            config,
            executor,
            stats,
        })
    }

    /// Takes a request; `now` is its arrival. From here on its sink gets events, the last of them `Finished` or
    /// `Failed`.
    ///
    /// # Errors
    /// The request, handed back, with the reason.
    pub fn submit(&mut self, request: Request, now: Duration) -> Result<(), Box<Refused>> {
        let id = request.id;
        let refusal = if self.dead {
            Some(SubmitError::Stopped)
        } else if self.ledger.is_open(id) {
            Some(SubmitError::DuplicateId { id: id.0 })
        } else {
            self.config.check_request(&request).err()
        };
        if let Some(reason) = refusal {
            return Err(Box::new(Refused { request, reason }));
        }
        self.now = self.now.max(now);
        let (key, sink) = self.scheduler.enqueue(request);
        self.ledger.open(id, sink, now);
        self.keys.insert(id, key);
        Ok(())
    }

    /// Gives a request up: its sink gets `Finished` with `FinishReason::Abort`. An unknown id is ignored: the request
    /// may just have ended.
    pub fn abort(&mut self, id: RequestId) {
        if let Some(key) = self.keys.get(&id) {
            self.end(*key, Ending::ABORT);
        }
    }

    /// Gives all requests up.
    pub fn abort_all(&mut self) {
        self.ledger.ids().into_iter().for_each(|id| self.abort(id));
    }

    /// Ends all requests with `fault`; the engine takes no more. It needs the ledger alone, so it may follow a panic in
    /// the middle of a step.
    pub fn fail_all(&mut self, fault: &RequestFault) {
        self.dead = true;
        self.keys.clear();
        for id in self.ledger.ids() {
            self.ledger.fail(id, fault.clone());
        }
    }

    /// Gives the executor back. Requests that are inside get no end, so there should be none.
    #[must_use]
    pub fn into_executor(self) -> E {
        self.executor
    }

    /// Lets the executor do a slice of work of its own, if there is no request, and says whether it has more.
    ///
    /// # Errors
    /// The device failed.
    pub fn idle(&mut self) -> Result<bool, ExecutorError> {
        if self.has_work() { Ok(false) } else { self.executor.idle() }
    }

    /// Whether a step would do anything.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.ledger.len() > 0
    }

    /// Plans, executes and books one step. `clock` is read when it starts and when the model is done. Without
    /// requests it does nothing.
    ///
    /// # Errors
    /// The device failed. Requests have not had their end: [`Engine::fail_all`] gives it, once nobody can mistake the
    /// engine for a healthy one.
    pub fn step(&mut self, clock: &dyn Fn() -> Duration) -> Result<StepSummary, ExecutorError> {
        let budget = if self.pace.is_off() { usize::MAX } else { self.pace.budget(self.scheduler.demand()) };
        self.step_within(budget, clock)
    }

    /// The same with a given number of prompt tokens at most (one at least), such as a recorded plan carries.
    ///
    /// # Errors
    /// As [`Engine::step`].
    pub fn step_within(
        &mut self,
        prompt_budget: usize,
        clock: &dyn Fn() -> Duration,
    ) -> Result<StepSummary, ExecutorError> {
        if !self.has_work() {
            return Ok(StepSummary::default());
        }
        self.now = clock();
        self.scheduler.schedule(prompt_budget, &mut self.plan);
        assert!(!self.plan.batch.sequences.is_empty(), "a step with requests computes something");
        self.start_sequences();
        self.output.rows.clear();
        self.executor.execute(&self.plan, &mut self.output)?;
        check_output(&self.plan, &self.output)?;
        let start = std::mem::replace(&mut self.now, clock());
        self.pace.observe(measured(&self.plan, self.now.saturating_sub(start)));
        Ok(self.book())
    }

    /// Forgets all cached prefixes, if no sequence holds a block; says whether it did.
    pub fn reset_prefix_cache(&mut self) -> bool {
        self.scheduler.reset_prefixes()
    }

    /// Numbers as of now.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a fraction for people")]
    pub fn stats(&self) -> EngineStats {
        if self.dead {
            return self.stats;
        }
        let held = self.scheduler.kv().held_blocks() as f64;
        EngineStats {
            running: self.scheduler.running(),
            waiting: self.scheduler.waiting(),
            kv_cache_usage: held / self.stats.capacity_blocks as f64,
            ..self.stats
        }
    }

    /// The configuration.
    #[must_use]
    pub const fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// The executor, for tests and benchmarks.
    #[must_use]
    pub fn executor(&self) -> &E {
        &self.executor
    }

    /// Sets up the sampling state of sequences that enter, and tells their sinks.
    fn start_sequences(&mut self) {
        for (key, cached_tokens) in self.scheduler.decisions.started.iter().copied() {
            let sequence = &mut self.scheduler.sequences[key];
            let slot = sequence.slot.expect("a sequence that starts has a slot");
            self.executor.admit(slot, &sequence.task, &sequence.tokens);
            if self.config.enable_prefix_caching && sequence.asks_prefix_cache() {
                self.stats.prefix_cache_queries += sequence.prompt_tokens as u64;
                self.stats.prefix_cache_hits += cached_tokens as u64;
            }
            sequence.abandoned = self.ledger.start(sequence.id, cached_tokens, self.now) == Delivery::Gone;
        }
    }

    /// Books an executed step: what was computed, what was sampled, who ended.
    fn book(&mut self) -> StepSummary {
        let mut summary =
            StepSummary { preempted: self.scheduler.decisions.preempted, ..StepSummary::default() };
        // Taken and given back, so that they keep their memory.
        let plan = std::mem::take(&mut self.plan);
        let scheduled = std::mem::take(&mut self.scheduler.decisions.scheduled);
        let mut rows = std::mem::take(&mut self.output.rows);
        summary.tokens = plan.batch.rows();
        summary.sequences = plan.batch.sequences.len();
        let mut outcomes = rows.drain(..);
        let mut booked = 0;
        for (key, planned) in scheduled.iter().zip(&plan.batch.sequences) {
            let end_row = planned.first_row + planned.rows;
            let outputs = plan.batch.output_rows[booked..].partition_point(|row| (*row as usize) < end_row);
            booked += outputs;
            let ending = self.book_sequence(*key, outcomes.by_ref().take(outputs), &mut summary);
            if let Some(ending) = ending {
                summary.ended += 1;
                self.end(*key, ending);
            }
        }
        drop(outcomes);
        self.output.rows = rows;
        self.scheduler.decisions.scheduled = scheduled;
        self.plan = plan;
        self.stats.steps += 1;
        self.stats.preemptions += summary.preempted as u64;
        self.stats.generation_tokens += summary.generated as u64;
        self.stats.iteration_tokens.observe(summary.tokens as u64);
        self.assert_balance();
        summary
    }

    /// Books one sequence's share of a step; returns its end, if this was it. Consumes all `outcomes`.
    fn book_sequence(
        &mut self,
        key: SequenceKey,
        outcomes: impl Iterator<Item = RowOutcome>,
        summary: &mut StepSummary,
    ) -> Option<Ending> {
        let sequence = &mut self.scheduler.sequences[key];
        sequence.computed += std::mem::take(&mut sequence.scheduled);
        let mut ending = sequence.abandoned.then_some(Ending::ABORT);
        let (mut sampled, mut pooled) = (None, None);
        for outcome in outcomes {
            match outcome {
                RowOutcome::PromptLogprobs(logprobs) => {
                    self.scheduler.sequences[key].prompt_logprobs.push(logprobs);
                }
                RowOutcome::Token(token) => sampled = Some(token),
                RowOutcome::Pooled(vector) => pooled = vector,
                RowOutcome::Fault(text) => {
                    ending.get_or_insert(Ending::Failed(RequestFault::Output(text)));
                    self.scheduler.distrust(key);
                }
                RowOutcome::NothingLeft(text) => {
                    ending.get_or_insert(Ending::Failed(RequestFault::NothingLeft(text)));
                }
            }
        }
        ending
            .or_else(|| self.complete_prompt(key))
            .or_else(|| pooled.map(|vector| self.deliver_pooled(key, vector)))
            .or_else(|| {
                sampled.and_then(|token| {
                    summary.generated += 1;
                    self.append(key, token)
                })
            })
    }

    /// Reports the vector of a prompt, which is all that was asked for.
    fn deliver_pooled(&mut self, key: SequenceKey, vector: Vec<f32>) -> Ending {
        let id = self.scheduler.sequences[key].id;
        match self.ledger.deliver(id, Event::Pooled(vector), self.now) {
            Delivery::Taken => Ending::Finished(Finish::by(FinishReason::Stop)),
            Delivery::Gone => Ending::ABORT,
        }
    }

    /// Books the completion of the prompt, if this step was it.
    fn complete_prompt(&mut self, key: SequenceKey) -> Option<Ending> {
        let sequence = &mut self.scheduler.sequences[key];
        if sequence.prompt_done || sequence.computed < sequence.prompt_tokens {
            return None;
        }
        sequence.prompt_done = true;
        self.stats.prompt_tokens += sequence.prompt_tokens as u64;
        if sequence.task.sampling().is_some_and(|sampling| sampling.prompt_logprobs.is_some()) {
            let logprobs = std::mem::take(&mut sequence.prompt_logprobs);
            assert_eq!(
                logprobs.len() + 1,
                sequence.prompt_tokens,
                "each prompt token but the first has a logprob"
            );
            if self.ledger.deliver(sequence.id, Event::PromptLogprobs(logprobs), self.now) == Delivery::Gone {
                return Some(Ending::ABORT);
            }
        }
        matches!(sequence.task, Task::Score { .. })
            .then_some(Ending::Finished(Finish::by(FinishReason::Length)))
    }

    /// Appends a sampled token, reports it, and says whether the sequence ends with it.
    fn append(&mut self, key: SequenceKey, token: SampledToken) -> Option<Ending> {
        let sequence = &mut self.scheduler.sequences[key];
        sequence.tokens.push(token.token);
        let finish = sequence.finish(&self.config);
        let delivery = self.ledger.deliver(sequence.id, Event::Token { token, finish }, self.now);
        finish.map(Ending::Finished).or((delivery == Delivery::Gone).then_some(Ending::ABORT))
    }

    /// Ends a request: blocks, slot and account go back, and the sink gets its last event.
    fn end(&mut self, key: SequenceKey, ending: Ending) {
        let sequence = self.scheduler.remove(key);
        self.keys.remove(&sequence.id);
        if let Some(slot) = sequence.slot {
            self.executor.release(slot);
        }
        match ending {
            Ending::Finished(finish) => self.ledger.finish(sequence.id, finish, self.now),
            Ending::Failed(fault) => self.ledger.fail(sequence.id, fault),
        }
    }

    /// Every account has its sequence, and an idle engine holds no block.
    fn assert_balance(&self) {
        let inside = self.scheduler.running() + self.scheduler.waiting();
        assert_eq!(self.ledger.len(), inside, "every account has a sequence, and the reverse");
        assert_eq!(self.keys.len(), inside, "every sequence is known by its request's id");
        if inside == 0 {
            assert_eq!(self.scheduler.kv().held_blocks(), 0, "an idle engine holds no block");
        }
    }
}

/// An executed step in numbers.
fn measured(plan: &StepPlan, took: Duration) -> Measured {
    let mut step = Measured { streams: 0, prompt_tokens: 0, context: 0, budget: plan.prompt_budget, took };
    for sequence in &plan.batch.sequences {
        if sequence.rows == 1 {
            step.streams += 1;
        } else {
            step.prompt_tokens += sequence.rows;
            step.context += sequence.rows * (sequence.computed + sequence.rows / 2);
        }
    }
    step.context /= step.prompt_tokens.max(1);
    step
}

/// Checks that the executor answered each output in its kind: anything else is a defect that would mix up requests.
fn check_output(plan: &StepPlan, output: &StepOutput) -> Result<(), ExecutorError> {
    let (wanted, got) = (plan.outputs.len(), output.rows.len());
    if wanted != got {
        return Err(ExecutorError::Failed(format!("the plan asked for {wanted} output rows and got {got}")));
    }
    let fits = |(wanted, got): (&OutputRow, &RowOutcome)| {
        matches!(
            (wanted, got),
            (OutputRow::Sample(_), RowOutcome::Token(_))
                | (OutputRow::PromptLogprob { .. }, RowOutcome::PromptLogprobs(_))
                | (OutputRow::Pool { is_last: false, .. }, RowOutcome::Pooled(None))
                | (OutputRow::Pool { is_last: true, .. }, RowOutcome::Pooled(Some(_)))
                | (_, RowOutcome::Fault(_) | RowOutcome::NothingLeft(_))
        )
    };
    match plan.outputs.iter().zip(&output.rows).position(|pair| !fits(pair)) {
        None => Ok(()),
        Some(row) => {
            Err(ExecutorError::Failed(format!("output row {row} is not of the kind that the plan asked for")))
        }
    }
}
