//! A device that takes as long as it is told, on a clock of its own.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use octet_backend::{BackendError, DataType, GemmDevice, GemmProblem, ScaleShape, TokenBucket, Validator};
use octet_tune::{Outcome, Store, Tuned, Tuner, TunerStep, TuningSettings};

/// Time that only runs of the device move on.
#[derive(Clone, Default)]
pub(crate) struct Clock(Arc<AtomicU64>);

impl Clock {
    pub(crate) fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.0.fetch_add(u64::try_from(by.as_nanos()).unwrap(), Ordering::Relaxed);
    }

    pub(crate) fn boxed(&self) -> Box<dyn Fn() -> Duration + Send> {
        let clock = self.clone();
        Box::new(move || clock.now())
    }
}

/// What a solution does.
#[derive(Clone)]
pub(crate) struct Solution {
    pub(crate) name: &'static str,
    /// Microseconds of its n-th run.
    pub(crate) micros: fn(usize) -> u64,
    pub(crate) output: &'static [f32],
    pub(crate) error: Option<fn() -> BackendError>,
}

pub(crate) const RIGHT: &[f32] = &[1.0, -2.0, 3.0];

pub(crate) fn solution(name: &'static str, micros: fn(usize) -> u64) -> Solution {
    Solution { name, micros, output: RIGHT, error: None }
}

/// The device.
pub(crate) struct Fake {
    pub(crate) clock: Clock,
    pub(crate) solutions: Vec<Solution>,
    /// Runs by solution.
    pub(crate) runs: HashMap<String, usize>,
    /// Turns of all runs.
    pub(crate) turns: Vec<usize>,
    /// What was chosen, in order.
    pub(crate) chosen: Vec<(GemmProblem, String)>,
    pub(crate) pytorch: Vec<Validator>,
    last: usize,
}

impl Fake {
    pub(crate) fn new(solutions: Vec<Solution>) -> Self {
        Self {
            clock: Clock::default(),
            solutions,
            runs: HashMap::new(),
            turns: Vec::new(),
            chosen: Vec::new(),
            pytorch: Vec::new(),
            last: 0,
        }
    }

    /// A tuner on the device's clock.
    pub(crate) fn tuner(&self, path: &Path, settings: TuningSettings) -> Tuner {
        Tuner::new(Store::open(path.to_owned(), self.validators()), settings, self.clock.boxed())
    }

    /// Tunes one problem, in a file that is thrown away.
    pub(crate) fn tune(&mut self, settings: TuningSettings) -> Option<Outcome> {
        let folder = tempfile::tempdir().unwrap();
        let mut tuner = self.tuner(&folder.path().join("results.csv"), settings);
        tuner.add([problem(8)]);
        drain(&mut tuner, self).pop().map(|tuned| tuned.outcome)
    }
}

/// Steps until nothing is left.
pub(crate) fn drain(tuner: &mut Tuner, device: &mut Fake) -> Vec<Tuned> {
    let mut all = Vec::new();
    loop {
        match tuner.step(device).unwrap() {
            TunerStep::Ran | TunerStep::Skipped(_) => {}
            TunerStep::Tuned(tuned) => all.push(*tuned),
            TunerStep::Idle => return all,
        }
    }
}

pub(crate) fn problem(tokens: usize) -> GemmProblem {
    GemmProblem {
        rows: 64,
        bucket: TokenBucket::of(tokens),
        columns: 32,
        weight: DataType::BF16,
        activation: DataType::BF16,
        output: DataType::BF16,
        scales: ScaleShape::None,
        has_bias: false,
        is_gated: false,
    }
}

pub(crate) fn validators() -> Vec<Validator> {
    vec![Validator::new("OCTET_VERSION", "1.2.3"), Validator::new("DEVICE_NAME", "a fake, for tests")]
}

impl GemmDevice for Fake {
    fn validators(&self) -> Vec<Validator> {
        validators()
    }

    fn pytorch_validators(&self) -> Vec<Validator> {
        self.pytorch.clone()
    }

    fn solutions(&self, problem: &GemmProblem) -> Vec<String> {
        // It has weights of one shape only.
        let has = problem.with_tokens(1) == self::problem(1);
        self.solutions.iter().filter(|_| has).map(|solution| solution.name.to_owned()).collect()
    }

    fn begin(&mut self, _: &GemmProblem) -> Result<(), BackendError> {
        self.runs.clear();
        Ok(())
    }

    fn run(&mut self, _: &GemmProblem, solution: &str, turn: usize) -> Result<Duration, BackendError> {
        self.last = self.solutions.iter().position(|known| known.name == solution).unwrap();
        let known = &self.solutions[self.last];
        if let Some(error) = known.error {
            return Err(error());
        }
        let runs = self.runs.entry(solution.to_owned()).or_default();
        let duration = Duration::from_micros((known.micros)(*runs));
        *runs += 1;
        self.turns.push(turn);
        self.clock.advance(duration);
        Ok(duration)
    }

    fn output(&mut self, _: &GemmProblem) -> Result<Vec<f32>, BackendError> {
        Ok(self.solutions[self.last].output.to_vec())
    }

    fn choose(&mut self, problem: &GemmProblem, solution: &str) -> bool {
        let known = self.solutions.iter().any(|known| known.name == solution);
        if known {
            self.chosen.push((*problem, solution.to_owned()));
        }
        known
    }
}
