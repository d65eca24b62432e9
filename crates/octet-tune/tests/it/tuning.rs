//! What the search finds, and what becomes of it.

use std::fs;

use octet_backend::{BackendError, GemmProblem};
use octet_tune::{Kept, NumericalCheck, Refusal, Store, TuningSettings, Verdict, apply};

use crate::fake::{Fake, Solution, drain, problem, solution, validators};

fn defaults() -> TuningSettings {
    TuningSettings::default()
}

#[test]
fn the_fastest_solution_is_chosen_written_and_used_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("results.csv");
    let solutions =
        || vec![solution("Default", |_| 100), solution("Better", |_| 80), solution("Worse", |_| 300)];
    let mut device = Fake::new(solutions());
    let mut tuner = device.tuner(&path, defaults());
    tuner.add([problem(16), problem(1), problem(16)]);
    assert_eq!(tuner.left(), 2);
    let tuned = drain(&mut tuner, &mut device);
    assert_eq!(tuned.iter().map(|it| it.outcome.problem).collect::<Vec<_>>(), [problem(1), problem(16)]);
    for it in &tuned {
        assert_eq!((it.outcome.solution.as_str(), &it.kept), ("Better", &Kept::Written));
        assert!(
            (it.outcome.seconds - 80e-6).abs() < 1e-9 && (it.outcome.default_seconds - 100e-6).abs() < 1e-9
        );
    }
    assert_eq!(device.chosen.len(), 2, "better kernels are taken up at once");
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(
        text,
        "Validator,OCTET_VERSION,1.2.3\nValidator,DEVICE_NAME,a fake for tests\n\
         GemmTunableOp_BFloat16_TN,tn_64_1_32_ld_32_32_64,Better,0.08000\n\
         GemmTunableOp_BFloat16_TN,tn_64_16_32_ld_32_32_64,Better,0.08000\n"
    );
    // A later run loads it, chooses the same, and has nothing to tune.
    let mut device = Fake::new(solutions());
    let mut tuner = device.tuner(&path, defaults());
    let applied = apply(tuner.store().results(), &mut device);
    assert_eq!((applied.chosen, applied.of_others, applied.unknown.len()), (2, 0, 0));
    assert_eq!(device.chosen[0], (problem(1), "Better".to_owned()));
    tuner.add([problem(1), problem(16)]);
    assert!(drain(&mut tuner, &mut device).is_empty() && device.turns.is_empty());
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn a_solution_with_other_numbers_is_refused_however_fast() {
    let wrong = Solution { output: &[1.0, -2.0, 3.2], ..solution("Wrong", |_| 1) };
    let rounded = Solution { output: &[1.001, -2.0, 3.0], ..solution("Rounded", |_| 50) };
    let not_numbers = Solution { output: &[f32::NAN; 3], ..solution("NotNumbers", |_| 1) };
    let solutions = vec![solution("Default", |_| 100), wrong, rounded, not_numbers];
    let outcome = Fake::new(solutions.clone()).tune(defaults()).unwrap();
    assert_eq!(outcome.solution, "Rounded");
    let expected = Refusal::Wrong { index: 2, expected: 3.0, found: 3.2 };
    assert_eq!(outcome.all[1].verdict, Verdict::Refused(expected));
    assert!(matches!(outcome.all[3].verdict, Verdict::Refused(Refusal::Wrong { index: 0, .. })));
    let exact = NumericalCheck::Close { absolute: 1e-5, relative: 1e-5 };
    let outcome = Fake::new(solutions.clone()).tune(TuningSettings { check: exact, ..defaults() }).unwrap();
    assert_eq!(outcome.solution, "Default");
    let unchecked = TuningSettings { check: NumericalCheck::Off, ..defaults() };
    assert_eq!(Fake::new(solutions).tune(unchecked).unwrap().solution, "Wrong");
}

#[test]
fn a_solution_that_cannot_run_is_skipped_and_a_broken_device_is_an_error() {
    let limit = || BackendError::Limit { what: "workspace", value: 2, limit: 1 };
    let cannot = Solution { error: Some(limit), ..solution("Cannot", |_| 1) };
    let mut device =
        Fake::new(vec![solution("Default", |_| 100), cannot.clone(), solution("Better", |_| 90)]);
    let outcome = device.tune(defaults()).unwrap();
    assert_eq!(outcome.solution, "Better");
    let Verdict::Refused(Refusal::Unsupported(reason)) = &outcome.all[1].verdict else {
        panic!("{outcome:?}")
    };
    assert!(reason.contains("workspace"), "{reason}");
    let broken = Solution { error: Some(|| BackendError::Device("lost".to_owned())), ..cannot };
    let mut device = Fake::new(vec![solution("Default", |_| 100), broken]);
    let folder = tempfile::tempdir().unwrap();
    let mut tuner = device.tuner(&folder.path().join("results.csv"), defaults());
    tuner.add([problem(8)]);
    let error = loop {
        if let Err(error) = tuner.step(&mut device) {
            break error.to_string();
        }
    };
    assert!(error.contains("lost") && error.contains("[64, 32]"), "{error}");
}

#[test]
fn noise_does_not_replace_the_default() {
    // Both take 100 on average; the other has the luckier best run.
    let other = |run: usize| [101, 95, 105, 99][run % 4];
    let outcome = Fake::new(vec![solution("Default", |_| 100), solution("Other", other)]).tune(defaults());
    assert_eq!(outcome.unwrap().solution, "Default");
}

#[test]
fn a_machine_that_slows_down_does_not_punish_who_comes_last() {
    // Each further run of anybody takes longer, and the better one is tried last. Taking turns makes that equal.
    let slowing = |run: usize| 100 + 2 * run as u64;
    let better = |run: usize| 90 + 2 * run as u64;
    let solutions = vec![solution("Default", slowing), solution("Same", slowing), solution("Better", better)];
    assert_eq!(Fake::new(solutions).tune(defaults()).unwrap().solution, "Better");
}

#[test]
fn hopeless_solutions_cost_little() {
    let mut device = Fake::new(vec![solution("Default", |_| 100), solution("Awful", |_| 900)]);
    device.tune(defaults()).unwrap();
    assert_eq!(device.runs["Awful"], 2, "one run for its numbers and one for its time");
}

#[test]
fn runs_use_one_weight_after_another() {
    let mut device = Fake::new(vec![solution("Default", |_| 100), solution("Better", |_| 80)]);
    device.tune(defaults()).unwrap();
    let timed: Vec<usize> = device.turns.iter().copied().filter(|&turn| turn > 0).collect();
    assert!(timed.len() > 6 && timed.windows(2).all(|pair| pair[1] == pair[0] + 1), "{timed:?}");
}

#[test]
fn results_that_mean_nothing_here_are_counted_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("results.csv");
    let header = "Validator,DEVICE_NAME,a fake for tests\nValidator,OCTET_VERSION,1.2.3\n";
    let lines = "GemmTunableOp_BFloat16_TN,tn_64_8_32,Better,0.1\n\
                 GemmTunableOp_BFloat16_TN,tn_64_1_32,Vanished,0.1\n\
                 GemmTunableOp_BFloat16_TN,tn_999_1_32,Better,0.1\n";
    fs::write(&path, format!("{header}{lines}")).unwrap();
    let store = Store::open(path, validators());
    let mut device = Fake::new(vec![solution("Default", |_| 100), solution("Better", |_| 80)]);
    let applied = apply(store.results(), &mut device);
    assert_eq!((applied.chosen, applied.of_others), (1, 1));
    let [note] = &applied.unknown[..] else { panic!("{applied:?}") };
    assert!(note.line == 4 && note.text.contains("Vanished"), "{note}");
    let chosen: Vec<GemmProblem> = device.chosen.iter().map(|(problem, _)| *problem).collect();
    assert_eq!(chosen, [problem(8)]);
}
