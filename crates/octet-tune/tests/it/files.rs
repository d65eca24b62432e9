//! Results files: what may be wrong with one, and that tuning goes on.

use std::fs;
use std::path::Path;

use octet_backend::Validator;
use octet_tune::{FileState, Kept, Store, TuningSettings, Untuned, read_untuned};

use crate::fake::{Fake, drain, problem, solution, validators};

const HEADER: &str = "Validator,OCTET_VERSION,1.2.3\nValidator,DEVICE_NAME,a fake for tests\n";
const RESULT: &str = "GemmTunableOp_BFloat16_TN,tn_64_8_32_ld_32_32_64,Better,0.08000\n";

fn open(path: &Path) -> Store {
    Store::open(path.to_owned(), validators())
}

#[test]
fn a_missing_or_empty_file_is_begun_with_the_validators() {
    let folder = tempfile::tempdir().unwrap();
    for (name, contents) in [("missing", None), ("empty", Some("")), ("blank", Some("\n\n"))] {
        let path = folder.path().join(name);
        if let Some(contents) = contents {
            fs::write(&path, contents).unwrap();
        }
        let mut store = open(&path);
        assert_eq!(store.state(), &FileState::Missing);
        assert_eq!(store.prepare_to_write().unwrap(), None);
        assert_eq!(store.insert(problem(8), "Better", 0.08), Kept::Written);
        assert_eq!(fs::read_to_string(&path).unwrap().trim_start(), format!("{HEADER}{RESULT}"));
        let again = open(&path);
        assert_eq!((again.state(), again.results().len()), (&FileState::Applies, 1));
        assert_eq!(again.results().get(&problem(8)).unwrap().milliseconds, 0.08);
    }
}

#[test]
fn a_file_for_another_machine_is_rejected_as_a_whole_and_set_aside_when_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("results.csv");
    let foreign = HEADER.replace("1.2.3", "0.9") + RESULT;
    for round in ["results.csv.rejected", "results.csv.rejected2"] {
        fs::write(&path, &foreign).unwrap();
        let mut store = open(&path);
        let FileState::Rejected(mismatch) = store.state() else { panic!("{:?}", store.state()) };
        let text = mismatch.to_string();
        assert!(["OCTET_VERSION", "0.9", "1.2.3"].iter().all(|word| text.contains(word)), "{text}");
        assert!(store.results().is_empty());
        assert_eq!(fs::read_to_string(&path).unwrap(), foreign, "reading changes nothing");
        let aside = store.prepare_to_write().unwrap().unwrap();
        assert_eq!(aside, folder.path().join(round));
        assert_eq!(fs::read_to_string(&aside).unwrap(), foreign);
        assert_eq!(store.insert(problem(1), "Better", 0.1), Kept::Written);
        assert_eq!(open(&path).results().len(), 1);
    }
}

#[test]
fn a_file_of_pytorch_or_without_validators_is_rejected() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("results.csv");
    fs::write(&path, format!("Validator,PT_VERSION,2.5.0\nValidator,GCN_ARCH_NAME,gfx942\n{RESULT}"))
        .unwrap();
    let FileState::Rejected(mismatch) = open(&path).state().clone() else { panic!("it was taken") };
    assert!(mismatch.to_string().contains("--import-tunableop"), "{mismatch}");
    fs::write(&path, RESULT).unwrap();
    let FileState::Rejected(mismatch) = open(&path).state().clone() else { panic!("it was taken") };
    assert_eq!((mismatch.key.as_str(), mismatch.file), ("OCTET_VERSION", None));
}

#[test]
fn bad_lines_are_named_and_the_others_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("results.csv");
    let bad = "nonsense\nGemmTunableOp_BFloat16_TN,tn_0_1_32,Better,0.1\n";
    let contradiction = RESULT.replace("Better", "Other");
    fs::write(&path, format!("{HEADER}{bad}{RESULT}{RESULT}{contradiction}Gemm")).unwrap();
    let mut store = open(&path);
    assert_eq!((store.state(), store.results().len()), (&FileState::Applies, 1));
    assert_eq!(store.notes().iter().map(|note| note.line).collect::<Vec<_>>(), [3, 4, 7, 8]);
    assert_eq!(store.results().get(&problem(8)).unwrap().solution, "Better");
    // The next result does not continue the half-written line.
    assert_eq!(store.insert(problem(1), "Better", 0.1), Kept::Written);
    let again = open(&path);
    assert_eq!((again.results().len(), again.notes().len()), (2, 4));
}

#[test]
fn what_cannot_be_read_or_written_is_said_and_tuning_goes_on_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let in_a_missing_folder = folder.path().join("missing/results.csv");
    let is_a_folder = folder.path().to_owned();
    for (path, is_unreadable) in [(in_a_missing_folder, false), (is_a_folder, true)] {
        let mut device = Fake::new(vec![solution("Default", |_| 100), solution("Better", |_| 80)]);
        let mut tuner = device.tuner(&path, TuningSettings::default());
        assert_eq!(matches!(tuner.store().state(), FileState::Unreadable(_)), is_unreadable);
        assert!(tuner.store_mut().prepare_to_write().is_err());
        tuner.add([problem(1), problem(2)]);
        let tuned = drain(&mut tuner, &mut device);
        assert!(tuned.iter().all(|it| it.kept == Kept::InMemory(None)), "{tuned:?}");
        assert_eq!((tuned.len(), device.chosen.len(), tuner.store().results().len()), (2, 2, 2));
    }
}

#[test]
fn the_first_failed_write_says_why_and_is_the_last() {
    let folder = tempfile::tempdir().unwrap();
    let below = folder.path().join("below");
    fs::create_dir(&below).unwrap();
    let mut store = open(&below.join("results.csv"));
    store.prepare_to_write().unwrap();
    fs::remove_dir_all(&below).unwrap();
    let Kept::InMemory(Some(reason)) = store.insert(problem(1), "Better", 0.1) else {
        panic!("it was written")
    };
    assert!(!reason.is_empty());
    fs::create_dir(&below).unwrap();
    assert_eq!(store.insert(problem(2), "Better", 0.1), Kept::InMemory(None));
}

#[test]
fn a_file_that_somebody_replaced_is_not_mixed_with_ours() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("results.csv");
    let mut store = open(&path);
    store.prepare_to_write().unwrap();
    let foreign = HEADER.replace("a fake", "another");
    fs::write(&path, &foreign).unwrap();
    let Kept::InMemory(Some(reason)) = store.insert(problem(1), "Better", 0.1) else {
        panic!("it was written")
    };
    assert!(reason.contains("DEVICE_NAME") && reason.contains("another"), "{reason}");
    assert_eq!(fs::read_to_string(&path).unwrap(), foreign);
}

#[test]
fn the_first_entry_wins_whoever_wrote_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("results.csv");
    let (mut one, mut other) = (open(&path), open(&path));
    assert_eq!(one.insert(problem(8), "First", 0.1), Kept::Written);
    let Kept::Known(known) = other.insert(problem(8), "Second", 0.05) else { panic!("it was replaced") };
    assert_eq!(known.solution, "First");
    assert_eq!(other.results().get(&problem(8)).unwrap().solution, "First");
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 3);
}

#[test]
fn untuned_problems_are_recorded_once_and_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("untuned0.csv");
    assert!(read_untuned(&path).is_err());
    let (mut one, mut other) = (Untuned::new(path.clone()), Untuned::new(path.clone()));
    one.record(&[problem(1), problem(8)]).unwrap();
    one.record(&[problem(8)]).unwrap();
    other.record(&[problem(8), problem(2)]).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().next(), Some("GemmTunableOp_BFloat16_TN,tn_64_1_32_ld_32_32_64"));
    fs::write(&path, text + "\nGemmTunableOp_tf32_NN,nn_1_2_3\n").unwrap();
    let (problems, notes) = read_untuned(&path).unwrap();
    assert_eq!(problems, [1, 8, 2].map(problem));
    assert_eq!(notes.iter().map(|note| note.line).collect::<Vec<_>>(), [5]);
}

#[test]
fn validators_of_the_device_are_compared_as_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("results.csv");
    let odd = vec![Validator::new("DEVICE_NAME", "AMD EPYC, \"9B14\"  96-Core\n")];
    let mut store = Store::open(path.clone(), odd.clone());
    assert_eq!(store.insert(problem(1), "Better", 0.1), Kept::Written);
    assert_eq!(Store::open(path, odd).state(), &FileState::Applies);
}
