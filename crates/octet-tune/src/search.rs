//! The search for the best solution of one problem, in steps of one run each.
//!
//! 1. Every solution runs once and its numbers are held against the default's; one that differs is refused. Then it is
//!    timed a few times, and dropped if even its best time is far from the best of all. Where a library has a thousand
//!    solutions, half of the time is for this pass: those that it names first are those that it thinks fastest.
//! 2. What is left takes turns, so that a machine that slows down slows all of them, on operands that are not in a
//!    cache. After some rounds, whoever is clearly behind leaves. It ends when one is left, when two cannot be told
//!    apart, or at a limit.
//! 3. The smallest median wins, if it gains enough; else the default does.

use std::time::Duration;

use octet_backend::{BackendError, GemmDevice, GemmProblem};

use crate::error::TuneError;
use crate::settings::{TuningLimits, TuningSettings};
use crate::statistics::{least, median, quartile};

/// Timed runs in the first pass.
const QUICK_RUNS: usize = 3;
/// Times the best time so far: a single run above it ends a solution's first pass, and a best run the solution.
const HOPELESS_RUN: f64 = 2.0;
const HOPELESS: f64 = 1.15;
/// Solutions that go into the second pass at most.
const FINALISTS: usize = 6;
/// Rounds before anybody leaves, and rounds after which equals are told apart no longer.
const FEWEST_ROUNDS: usize = 5;
const ENOUGH_ROUNDS: usize = 15;
/// Rounds without which a second pass that was cut short says nothing.
const MEANINGFUL_ROUNDS: usize = 3;
/// Medians this near are equal.
const EQUAL: f64 = 1.005;
/// What a solution must gain to replace the default: after a whole second pass, and without one.
const GAIN: f64 = 1.01;
const GAIN_AT_A_GLANCE: f64 = 1.05;

/// Why a solution was not considered.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// The device cannot run it, for this reason.
    Unsupported(String),
    /// Its numbers differ from the default's.
    Wrong {
        /// The first element that does.
        index: usize,
        /// Its value by the default.
        expected: f32,
        /// And by the solution.
        found: f32,
    },
}

/// How far a solution came.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It was never run: time was over.
    Untried,
    /// It cannot be used.
    Refused(Refusal),
    /// It was hopeless in the first pass.
    Dropped,
    /// It took part in the second pass.
    Measured,
}

/// One solution of an [`Outcome`].
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Its name.
    pub solution: String,
    /// Its time, if it was timed.
    pub seconds: Option<f64>,
    /// How far it came.
    pub verdict: Verdict,
}

/// What a search found.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The problem.
    pub problem: GemmProblem,
    /// The best solution.
    pub solution: String,
    /// Its time.
    pub seconds: f64,
    /// The default's time.
    pub default_seconds: f64,
    /// Whether the search came to its own end, not to that of a limit in its first pass.
    pub is_complete: bool,
    /// All solutions, the default first.
    pub all: Vec<Measured>,
}

/// What a step of a search did.
#[derive(Debug)]
pub(crate) enum SearchStep {
    /// One run, or the preparation.
    Ran,
    /// The end.
    Found(Outcome),
    /// The end, without a result: a single run takes longer than it may, or there was no time for one.
    TooSlow,
}

/// A solution under way.
#[derive(Debug)]
struct Candidate {
    solution: String,
    verdict: Verdict,
    /// Seconds of the runs of the first pass.
    quick: Vec<f64>,
    /// Seconds of the runs of the second pass.
    samples: Vec<f64>,
    /// Whether it still takes turns.
    is_running: bool,
    /// Time of its measured runs in the current pass.
    spent: Duration,
    /// Time and number of its unmeasured runs.
    warmed: (Duration, usize),
}

impl Candidate {
    fn new(solution: String) -> Self {
        Self {
            solution,
            verdict: Verdict::Untried,
            quick: Vec::new(),
            samples: Vec::new(),
            is_running: true,
            spent: Duration::ZERO,
            warmed: (Duration::ZERO, 0),
        }
    }

    /// Whether unmeasured runs are still wanted.
    fn is_cold(&self, limits: &TuningLimits) -> bool {
        let (time, runs) = self.warmed;
        let enough = limits.warmup_iterations > 0 && runs >= limits.warmup_iterations;
        time < limits.warmup && !enough
    }

    fn is_spent(&self, limits: &TuningLimits) -> bool {
        !limits.solution.is_zero() && self.spent >= limits.solution
    }
}

/// Where a search stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing has run.
    Begin,
    /// The solution's numbers are to be looked at.
    Check(usize),
    /// The solution is timed for the first time.
    Quick(usize),
    /// The solution's turn.
    Turn(usize),
}

/// A search under way.
#[derive(Debug)]
pub(crate) struct Search {
    problem: GemmProblem,
    settings: TuningSettings,
    /// After this, a second pass that says enough goes no further.
    share_end: Duration,
    /// When it must end.
    deadline: Duration,
    /// After this the first pass looks at no further solution, if it has seen as many as the second takes.
    first_pass_end: Duration,
    phase: Phase,
    /// Empty until it begins.
    candidates: Vec<Candidate>,
    /// The default's numbers.
    expected: Vec<f32>,
    /// Runs so far: which weight is next.
    turn: usize,
}

/// Weight that numbers are compared on.
const CHECK_TURN: usize = 0;

impl Search {
    /// A search that ends at `deadline` at the latest, plus what its last run takes, and soon after `share_end`.
    pub(crate) fn new(
        problem: GemmProblem,
        settings: TuningSettings,
        share_end: Duration,
        deadline: Duration,
    ) -> Self {
        Self {
            problem,
            settings,
            share_end,
            deadline,
            first_pass_end: deadline,
            phase: Phase::Begin,
            candidates: Vec::new(),
            expected: Vec::new(),
            turn: CHECK_TURN,
        }
    }

    pub(crate) fn problem(&self) -> &GemmProblem {
        &self.problem
    }

    /// Goes on by one run.
    pub(crate) fn step(
        &mut self,
        device: &mut dyn GemmDevice,
        now: Duration,
    ) -> Result<SearchStep, TuneError> {
        if now >= self.deadline {
            return Ok(self.conclude());
        }
        match self.phase {
            Phase::Begin => {
                device.begin(&self.problem).map_err(|source| self.fault(source))?;
                self.candidates = device.solutions(&self.problem).into_iter().map(Candidate::new).collect();
                if self.candidates.is_empty() {
                    return Ok(SearchStep::TooSlow);
                }
                self.first_pass_end = now + self.share_end.min(self.deadline).saturating_sub(now) / 2;
                self.phase = Phase::Check(0);
                Ok(SearchStep::Ran)
            }
            Phase::Check(index) if index >= FINALISTS && now >= self.first_pass_end => {
                Ok(self.begin_second_pass())
            }
            Phase::Check(index) => self.check(device, index),
            Phase::Quick(index) => self.quick(device, index),
            Phase::Turn(index) => self.take_turn(device, index, now),
        }
    }

    fn fault(&self, source: BackendError) -> TuneError {
        TuneError::Device { problem: self.problem.to_string(), source }
    }

    /// Runs a solution once; refuses it if it cannot run.
    fn run(
        &mut self,
        device: &mut dyn GemmDevice,
        index: usize,
        turn: usize,
    ) -> Result<Option<Duration>, TuneError> {
        match device.run(&self.problem, &self.candidates[index].solution, turn) {
            Ok(duration) => Ok(Some(duration)),
            // Without the default there is nothing to compare with, and a broken device has no solutions.
            Err(error @ (BackendError::Device(_) | BackendError::Unfinished(_))) => Err(self.fault(error)),
            Err(error) if index == 0 => Err(self.fault(error)),
            Err(error) => {
                self.refuse(index, Refusal::Unsupported(error.to_string()));
                Ok(None)
            }
        }
    }

    fn refuse(&mut self, index: usize, refusal: Refusal) {
        let candidate = &mut self.candidates[index];
        candidate.verdict = Verdict::Refused(refusal);
        candidate.is_running = false;
    }

    /// The first run of a solution: are its numbers the default's?
    fn check(&mut self, device: &mut dyn GemmDevice, index: usize) -> Result<SearchStep, TuneError> {
        let Some(duration) = self.run(device, index, CHECK_TURN)? else {
            return Ok(self.next_candidate(index));
        };
        if index == 0 && self.settings.limits.longest_run.is_some_and(|longest| duration > longest) {
            return Ok(SearchStep::TooSlow);
        }
        let found = device.output(&self.problem).map_err(|source| self.fault(source))?;
        if index == 0 {
            self.expected = found;
        } else if let Some((index_of_fault, expected, found)) =
            self.settings.check.first_fault(&self.expected, &found)
        {
            self.refuse(index, Refusal::Wrong { index: index_of_fault, expected, found });
            return Ok(self.next_candidate(index));
        }
        self.phase = Phase::Quick(index);
        Ok(SearchStep::Ran)
    }

    /// The shortest run of all solutions in the first pass.
    fn best_quick(&self) -> f64 {
        let runs = self.candidates.iter().flat_map(|candidate| &candidate.quick);
        runs.copied().fold(f64::INFINITY, f64::min)
    }

    /// A timed run of the first pass.
    fn quick(&mut self, device: &mut dyn GemmDevice, index: usize) -> Result<SearchStep, TuneError> {
        self.turn += 1;
        let Some(duration) = self.run(device, index, self.turn)? else {
            return Ok(self.next_candidate(index));
        };
        let (best, limits) = (self.best_quick(), self.settings.limits);
        let candidate = &mut self.candidates[index];
        candidate.verdict = Verdict::Dropped;
        candidate.quick.push(duration.as_secs_f64());
        candidate.spent += duration;
        let hopeless = duration.as_secs_f64() > HOPELESS_RUN * best;
        if hopeless || candidate.quick.len() >= QUICK_RUNS || candidate.is_spent(&limits) {
            return Ok(self.next_candidate(index));
        }
        Ok(SearchStep::Ran)
    }

    /// Goes on with the next solution, or with the second pass after the last one.
    fn next_candidate(&mut self, index: usize) -> SearchStep {
        if index + 1 < self.candidates.len() {
            self.phase = Phase::Check(index + 1);
            return SearchStep::Ran;
        }
        self.begin_second_pass()
    }

    /// Lets the best of the first pass take turns.
    fn begin_second_pass(&mut self) -> SearchStep {
        let best = self.best_quick();
        let mut finalists: Vec<(f64, usize)> = Vec::new();
        for (index, candidate) in self.candidates.iter_mut().enumerate() {
            let own = least(&candidate.quick).unwrap_or(f64::INFINITY);
            candidate.spent = Duration::ZERO;
            candidate.is_running &= index == 0 || own <= HOPELESS * best;
            if candidate.is_running {
                // The default stays in, because what is gained is told by its time.
                finalists.push((if index == 0 { 0.0 } else { own }, index));
            }
        }
        finalists.sort_by(|one, other| one.0.total_cmp(&other.0));
        for &(_, index) in finalists.iter().skip(FINALISTS) {
            self.candidates[index].is_running = false;
        }
        for candidate in self.candidates.iter_mut().filter(|candidate| candidate.is_running) {
            candidate.verdict = Verdict::Measured;
        }
        self.phase = Phase::Turn(0);
        SearchStep::Ran
    }

    /// A run of the second pass.
    fn take_turn(
        &mut self,
        device: &mut dyn GemmDevice,
        index: usize,
        now: Duration,
    ) -> Result<SearchStep, TuneError> {
        self.turn += 1;
        let limits = self.settings.limits;
        if let Some(duration) = self.run(device, index, self.turn)? {
            let candidate = &mut self.candidates[index];
            if candidate.is_cold(&limits) {
                candidate.warmed = (candidate.warmed.0 + duration, candidate.warmed.1 + 1);
                return Ok(SearchStep::Ran);
            }
            candidate.samples.push(duration.as_secs_f64());
            candidate.spent += duration;
        }
        let running = |candidate: &Candidate| candidate.is_running;
        if let Some(next) = self.candidates[index + 1..].iter().position(running) {
            self.phase = Phase::Turn(index + 1 + next);
            return Ok(SearchStep::Ran);
        }
        let out_of_share = now >= self.share_end && self.rounds() >= MEANINGFUL_ROUNDS;
        if out_of_share || self.round_is_last() {
            return Ok(self.conclude());
        }
        self.phase = Phase::Turn(self.candidates.iter().position(running).unwrap_or(0));
        Ok(SearchStep::Ran)
    }

    /// After a round: sends away who is clearly behind, and says whether enough is known.
    fn round_is_last(&mut self) -> bool {
        let limits = self.settings.limits;
        let rounds = self.rounds();
        let out_of_runs = limits.iterations > 0 && rounds >= limits.iterations;
        let is_spent = |candidate: &Candidate| candidate.is_running && candidate.is_spent(&limits);
        if out_of_runs || self.candidates.iter().any(is_spent) {
            return true;
        }
        if rounds < FEWEST_ROUNDS {
            return false;
        }
        let running = || self.candidates.iter().filter(|candidate| candidate.is_running);
        let medians = running().filter_map(|candidate| median(&candidate.samples));
        let best_median = medians.clone().fold(f64::INFINITY, f64::min);
        let best = running().find(|candidate| median(&candidate.samples) == Some(best_median));
        let upper = best.and_then(|candidate| quartile(&candidate.samples, 3)).unwrap_or(best_median);
        let equal = medians.into_iter().all(|other| other <= EQUAL * best_median);
        for candidate in self.candidates.iter_mut().filter(|candidate| candidate.is_running) {
            let lower = quartile(&candidate.samples, 1).unwrap_or(0.0);
            candidate.is_running = lower <= upper;
        }
        let left = self.candidates.iter().filter(|candidate| candidate.is_running).count();
        left <= 1 || (equal && rounds >= ENOUGH_ROUNDS)
    }

    /// Whole rounds of the second pass.
    fn rounds(&self) -> usize {
        let running = self.candidates.iter().filter(|candidate| candidate.is_running);
        running.map(|candidate| candidate.samples.len()).min().unwrap_or(0)
    }

    /// The result of what was measured.
    fn conclude(&mut self) -> SearchStep {
        let limits = self.settings.limits;
        let enough = match limits.iterations {
            0 => MEANINGFUL_ROUNDS,
            most => MEANINGFUL_ROUNDS.min(most),
        };
        // A run that takes longer than a solution may take in all is all that there is to know.
        let is_spent = |it: &Candidate| it.is_running && it.is_spent(&limits) && !it.samples.is_empty();
        let is_complete = self.rounds() >= enough || self.candidates.iter().any(is_spent);
        let time = |candidate: &Candidate| match candidate.verdict {
            Verdict::Refused(_) | Verdict::Untried => None,
            Verdict::Measured if is_complete => median(&candidate.samples),
            Verdict::Dropped if is_complete => None,
            Verdict::Measured | Verdict::Dropped => median(&candidate.quick),
        };
        let times: Vec<Option<f64>> = self.candidates.iter().map(time).collect();
        let Some(default_seconds) = times.first().copied().flatten() else { return SearchStep::TooSlow };
        let timed = times.iter().enumerate().filter_map(|(index, time)| Some((index, (*time)?)));
        let (mut best, mut seconds) =
            timed.min_by(|one, other| one.1.total_cmp(&other.1)).unwrap_or((0, default_seconds));
        let gain = if is_complete { GAIN } else { GAIN_AT_A_GLANCE };
        if seconds * gain > default_seconds {
            (best, seconds) = (0, default_seconds);
        }
        let shown = |candidate: &Candidate| Measured {
            solution: candidate.solution.clone(),
            seconds: median(&candidate.samples).or_else(|| median(&candidate.quick)),
            verdict: candidate.verdict.clone(),
        };
        SearchStep::Found(Outcome {
            problem: self.problem,
            solution: self.candidates[best].solution.clone(),
            seconds,
            default_seconds,
            is_complete,
            all: self.candidates.iter().map(shown).collect(),
        })
    }
}
