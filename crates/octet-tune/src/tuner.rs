//! Works off problems, one run at a time, and keeps what it finds.

use std::collections::VecDeque;
use std::time::Duration;

use octet_backend::{GemmDevice, GemmProblem};

use crate::error::TuneError;
use crate::search::{Outcome, Search, SearchStep};
use crate::settings::TuningSettings;
use crate::store::{Kept, Store};

/// A problem that was tuned.
#[derive(Clone, Debug, PartialEq)]
pub struct Tuned {
    /// What was found. Its solution is the one that the device now uses.
    pub outcome: Outcome,
    /// Where the result is.
    pub kept: Kept,
}

/// What a step of a [`Tuner`] did.
#[derive(Debug)]
pub enum TunerStep {
    /// A run of a search.
    Ran,
    /// A problem was tuned.
    Tuned(Box<Tuned>),
    /// A problem stays untuned, since a single run of it takes too long or time is over.
    Skipped(GemmProblem),
    /// Nothing is left to do: no problem, or no time.
    Idle,
}

/// Tunes a queue of problems. Each step is one run at most, so the caller may stop or turn to something else between
/// any two.
pub struct Tuner {
    store: Store,
    settings: TuningSettings,
    /// Small batches first: they are quick to tune, and a server meets them all the time.
    queue: VecDeque<GemmProblem>,
    current: Option<Search>,
    /// Time since some beginning; never goes back.
    clock: Box<dyn Fn() -> Duration + Send>,
    /// When all must end.
    deadline: Option<Duration>,
}

impl Tuner {
    /// A tuner without work. `clock` tells the time since some beginning.
    #[must_use]
    pub fn new(store: Store, settings: TuningSettings, clock: Box<dyn Fn() -> Duration + Send>) -> Self {
        let deadline = settings.limits.total.map(|total| clock() + total);
        Self { store, settings, queue: VecDeque::new(), current: None, clock, deadline }
    }

    /// Puts problems into the queue that have no result and are not in it.
    pub fn add(&mut self, problems: impl IntoIterator<Item = GemmProblem>) {
        for problem in problems {
            let is_current = self.current.as_ref().is_some_and(|search| *search.problem() == problem);
            if self.store.results().get(&problem).is_none() && !is_current && !self.queue.contains(&problem) {
                self.queue.push_back(problem);
            }
        }
        self.queue.make_contiguous().sort_by_key(|problem| problem.bucket);
    }

    /// Problems that are not tuned yet, the current one included.
    #[must_use]
    pub fn left(&self) -> usize {
        self.queue.len() + usize::from(self.current.is_some())
    }

    /// The problem that is being tuned.
    #[must_use]
    pub fn current(&self) -> Option<&GemmProblem> {
        self.current.as_ref().map(Search::problem)
    }

    /// Whether there is something to do and time for it.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.left() > 0 && !self.is_over()
    }

    /// What is known.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The store, for results from elsewhere.
    pub fn store_mut(&mut self) -> &mut Store {
        &mut self.store
    }

    fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| (self.clock)() >= deadline)
    }

    /// Does one run at most. A result is chosen on the device and written at once.
    ///
    /// # Errors
    /// The device failed. Problems that were tuned before are kept.
    pub fn step(&mut self, device: &mut dyn GemmDevice) -> Result<TunerStep, TuneError> {
        let now = (self.clock)();
        let mut search = match self.current.take() {
            Some(search) => search,
            None if self.is_over() => return Ok(TunerStep::Idle),
            None => match self.queue.pop_front() {
                Some(problem) => {
                    let (share_end, deadline) = self.deadlines_of_next(now);
                    Search::new(problem, self.settings, share_end, deadline)
                }
                None => return Ok(TunerStep::Idle),
            },
        };
        match search.step(device, now)? {
            SearchStep::Ran => {
                self.current = Some(search);
                Ok(TunerStep::Ran)
            }
            SearchStep::TooSlow => {
                self.skip_larger(search.problem());
                Ok(TunerStep::Skipped(*search.problem()))
            }
            // Cut short by the end of everything: the next session will do better.
            SearchStep::Found(outcome) if !outcome.is_complete && self.is_over() => {
                Ok(TunerStep::Skipped(outcome.problem))
            }
            SearchStep::Found(outcome) => Ok(TunerStep::Tuned(Box::new(self.keep(device, outcome)))),
        }
    }

    /// When the next problem has had its share of what is left of the whole time, so that all have their turn, and
    /// when it must end.
    fn deadlines_of_next(&self, now: Duration) -> (Duration, Duration) {
        let own = now + self.settings.limits.problem;
        let Some(deadline) = self.deadline else { return (own, own) };
        let problems = u32::try_from(self.queue.len() + 1).unwrap_or(u32::MAX);
        let share_end = now + deadline.saturating_sub(now) / problems;
        (share_end.min(own), deadline.min(own))
    }

    /// If a product takes too long for some tokens, it does for more.
    fn skip_larger(&mut self, slow: &GemmProblem) {
        if self.settings.limits.longest_run.is_some() {
            self.queue.retain(|problem| {
                let same = problem.with_tokens(1) == slow.with_tokens(1);
                !(same && problem.bucket > slow.bucket)
            });
        }
    }

    fn keep(&mut self, device: &mut dyn GemmDevice, mut outcome: Outcome) -> Tuned {
        let kept = self.store.insert(outcome.problem, &outcome.solution, outcome.seconds * 1e3);
        if let Kept::Known(theirs) = &kept {
            outcome.solution.clone_from(&theirs.solution);
        }
        device.choose(&outcome.problem, &outcome.solution);
        Tuned { outcome, kept }
    }
}
