//! Limits hold, by a clock that only the device moves.

use std::time::Duration;

use octet_tune::{TunerStep, TuningLimits, TuningSettings, Verdict};

use crate::fake::{Fake, drain, problem, solution};

const MS: Duration = Duration::from_millis(1);

fn limited(change: impl FnOnce(&mut TuningLimits)) -> TuningSettings {
    let mut settings = TuningSettings::default();
    change(&mut settings.limits);
    settings
}

/// Two solutions that cannot be told apart quickly, a millisecond each.
fn twins() -> Fake {
    let about = |run: usize| [1000, 1100, 900][run % 3];
    Fake::new(vec![solution("Default", |_| 1000), solution("Twin", about)])
}

#[test]
fn a_solution_is_measured_for_no_longer_than_its_limit() {
    let mut device = twins();
    device.tune(limited(|limits| limits.solution = 6 * MS)).unwrap();
    // One run for its numbers, three at first, and six or seven of about a millisecond.
    for (name, &runs) in &device.runs {
        assert!((9..=11).contains(&runs), "{name} ran {runs} times");
    }
}

#[test]
fn a_solution_is_measured_no_more_often_than_its_limit() {
    let mut device = twins();
    device.tune(limited(|limits| limits.iterations = 4)).unwrap();
    assert!(device.runs.values().all(|&runs| runs == 8), "{:?}", device.runs);
}

#[test]
fn warm_up_runs_are_as_many_as_asked_for() {
    let mut device = twins();
    let settings = limited(|limits| {
        limits.iterations = 4;
        (limits.warmup, limits.warmup_iterations) = (100 * MS, 2);
    });
    device.tune(settings).unwrap();
    assert!(device.runs.values().all(|&runs| runs == 10), "{:?}", device.runs);
}

#[test]
fn a_problem_ends_at_its_limit_with_what_is_known() {
    let solutions =
        vec![solution("Default", |_| 10_000), solution("Better", |_| 5_000), solution("C", |_| 4_000)];
    let mut device = Fake::new(solutions);
    let outcome = device.tune(limited(|limits| limits.problem = 70 * MS)).unwrap();
    assert!(device.clock.now() < 80 * MS, "{:?}", device.clock.now());
    assert_eq!((outcome.solution.as_str(), outcome.is_complete), ("C", false));
    // Not even the default could be timed.
    assert!(device.tune(limited(|limits| limits.problem = 5 * MS)).is_none());
}

#[test]
fn no_run_starts_after_the_whole_time_and_the_next_session_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("results.csv");
    let solutions = || vec![solution("Default", |_| 1000), solution("Better", |_| 700)];
    let problems = [1, 2, 3, 4, 5, 6, 7, 8].map(problem);
    let mut device = Fake::new(solutions());
    let settings = limited(|limits| limits.total = Some(60 * MS));
    let mut tuner = device.tuner(&path, settings);
    tuner.add(problems);
    let first = drain(&mut tuner, &mut device).len();
    assert!(device.clock.now() <= 61 * MS, "{:?}", device.clock.now());
    assert!((3..8).contains(&first), "{first} of 8 in the time of a few");
    assert!(!tuner.has_work() && tuner.left() > 0);
    // Again, with time enough: only the rest is tuned.
    let mut device = Fake::new(solutions());
    let mut tuner = device.tuner(&path, limited(|_| {}));
    tuner.add(problems);
    assert_eq!(drain(&mut tuner, &mut device).len() + first, 8);
}

#[test]
fn a_share_of_the_time_is_kept_for_each_problem() {
    let mut device = twins();
    let folder = tempfile::tempdir().unwrap();
    let settings = limited(|limits| {
        limits.total = Some(400 * MS);
        limits.solution = 1000 * MS;
        limits.iterations = 100_000;
    });
    let mut tuner = device.tuner(&folder.path().join("results.csv"), settings);
    tuner.add([1, 2, 3, 4].map(problem));
    let tuned = drain(&mut tuner, &mut device);
    assert!(tuned.iter().all(|tuned| tuned.outcome.is_complete), "{tuned:?}");
    assert_eq!(tuned.len(), 4, "the first problem does not take the time of the others");
}

#[test]
fn what_takes_too_long_for_a_device_in_use_stays_untuned() {
    let mut device = Fake::new(vec![solution("Default", |_| 30_000), solution("Better", |_| 20_000)]);
    let folder = tempfile::tempdir().unwrap();
    let settings = limited(|limits| limits.longest_run = Some(20 * MS));
    let mut tuner = device.tuner(&folder.path().join("results.csv"), settings);
    tuner.add([8, 16, 32].map(problem));
    let mut skipped = Vec::new();
    loop {
        match tuner.step(&mut device).unwrap() {
            TunerStep::Skipped(problem) => skipped.push(problem),
            TunerStep::Ran => {}
            TunerStep::Tuned(tuned) => panic!("{tuned:?}"),
            TunerStep::Idle => break,
        }
    }
    assert_eq!(skipped, [problem(8)], "and so do larger batches of the same product");
    assert_eq!(device.turns.len(), 1);
}

#[test]
fn a_step_is_one_run_at_most() {
    let mut device = Fake::new(vec![solution("Default", |_| 1000), solution("Better", |_| 700)]);
    let folder = tempfile::tempdir().unwrap();
    let mut tuner = device.tuner(&folder.path().join("results.csv"), TuningSettings::default());
    tuner.add([problem(1)]);
    while tuner.has_work() {
        let before = device.turns.len();
        tuner.step(&mut device).unwrap();
        assert!(device.turns.len() <= before + 1);
    }
}

#[test]
fn a_thousand_solutions_leave_time_to_compare_the_best() {
    let mut solutions = vec![solution("Default", |_| 1000), solution("Better", |_| 700)];
    solutions.resize(1000, solution("Other", |_| 1300));
    let mut device = Fake::new(solutions);
    let outcome = device.tune(limited(|limits| limits.problem = 100 * MS)).unwrap();
    assert_eq!((outcome.solution.as_str(), outcome.is_complete), ("Better", true));
    let untried = outcome.all.iter().filter(|one| one.verdict == Verdict::Untried).count();
    assert!(untried > 900, "{untried}");
    assert!(device.clock.now() < 102 * MS, "{:?}", device.clock.now());
}
