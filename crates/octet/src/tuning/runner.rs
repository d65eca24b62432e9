//! A model with a session of tuning: what engines of this program run.

use anyhow::Result;
use octet_backend::{BucketSet, GemmProblem, TunableBackend};
use octet_engine::{Executor, ExecutorError, Slot, StepOutput, StepPlan, Task};
use octet_model::{ProjectionBench, Runner};

use super::{GemmMode, GemmPlan, Session};

/// Tokens of the largest batch that is tuned while a server serves. A larger one keeps the device for longer than a
/// new request should wait.
const BACKGROUND_TOKENS: usize = 256;

/// A model, and what is being done about its products.
pub(crate) struct TunedRunner<B: TunableBackend> {
    runner: Runner<B>,
    session: Option<Session>,
    /// Groups of batch sizes that the session knows about.
    known: (BucketSet, BucketSet),
}

impl<B: TunableBackend> TunedRunner<B> {
    /// A model whose products are as the device chooses.
    pub(crate) fn new(runner: Runner<B>) -> Self {
        Self { runner, session: None, known: <(BucketSet, BucketSet)>::default() }
    }

    /// Begins a session, unless tuning is off.
    ///
    /// # Errors
    /// As [`Session::begin`].
    pub(crate) fn begin_tuning(&mut self, plan: GemmPlan) -> Result<()> {
        let info = self.runner.backend().info();
        if plan.mode == GemmMode::Off {
            plan.warn(&info);
            return Ok(());
        }
        let mut projections = self.runner.projections();
        projections.set_rotating_bytes(plan.rotating_bytes);
        self.session = Some(Session::begin(plan, &info, &mut projections)?);
        Ok(())
    }

    /// What is to be done about tuning.
    pub(crate) fn mode(&self) -> GemmMode {
        self.session.as_ref().map_or(GemmMode::Off, |session| session.plan().mode)
    }

    /// The session and the device that it works on.
    pub(crate) fn session(&mut self) -> Option<(&mut Session, ProjectionBench<'_, B>)> {
        self.session.as_mut().map(|session| (session, self.runner.projections()))
    }

    /// All products that batches of at most `tokens` tokens of `sequences` sequences can have.
    pub(crate) fn possible_problems(&mut self, tokens: usize, sequences: usize) -> Vec<GemmProblem> {
        self.runner.projections().possible_problems(tokens, sequences)
    }

    /// The products that steps have had.
    pub(crate) fn met_problems(&mut self) -> Vec<GemmProblem> {
        self.runner.projections().met_problems()
    }

    /// Tunes what a server with these limits can meet: all of it now, or small batches in its idle time.
    ///
    /// # Errors
    /// The device failed.
    pub(crate) fn tune_for_serving(&mut self, tokens: usize, sequences: usize) -> Result<()> {
        let tokens = match self.mode() {
            GemmMode::Off | GemmMode::Use => return Ok(()),
            GemmMode::Tune => tokens,
            GemmMode::Background => tokens.min(BACKGROUND_TOKENS),
        };
        let problems = self.possible_problems(tokens, sequences);
        let Self { runner, session: Some(session), .. } = self else { return Ok(()) };
        session.meet(&problems);
        if session.plan().mode == GemmMode::Tune {
            session.show_bar();
            while session.has_work() {
                session.step(&mut runner.projections())?;
            }
            session.summarise();
            // What is left keeps its default: a server that was asked to tune first does not tune later.
            self.session = None;
        }
        Ok(())
    }

    /// Tells the session about products that were not met before.
    fn note_new(&mut self) {
        let met = self.runner.met_buckets();
        if met == self.known {
            return;
        }
        self.known = met;
        if let Some(session) = &mut self.session
            && session.plan().mode != GemmMode::Background
        {
            session.meet(&self.runner.projections().met_problems());
        }
    }
}

impl<B: TunableBackend> Executor for TunedRunner<B> {
    fn admit(&mut self, slot: Slot, task: &Task, prompt: &[u32]) {
        self.runner.admit(slot, task, prompt);
    }

    fn release(&mut self, slot: Slot) {
        self.runner.release(slot);
    }

    fn execute(&mut self, plan: &StepPlan, output: &mut StepOutput) -> Result<(), ExecutorError> {
        self.runner.execute(plan, output)?;
        self.note_new();
        Ok(())
    }

    fn idle(&mut self) -> Result<bool, ExecutorError> {
        let Some(session) = &mut self.session else { return Ok(false) };
        if !session.has_work() {
            return Ok(false);
        }
        let goes_on = session
            .step(&mut self.runner.projections())
            .map_err(|error| ExecutorError::Failed(format!("{error:#}")))?;
        if !goes_on {
            session.summarise();
        }
        Ok(goes_on)
    }
}
