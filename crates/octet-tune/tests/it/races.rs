//! Several writers of one file: threads, and processes that are killed in the middle.

use std::collections::HashSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use octet_backend::TokenBucket;
use octet_tune::{FileState, Store};

use crate::fake::{problem, validators};

/// Names the file to a process that a test starts.
const FILE_VARIABLE: &str = "OCTET_TUNE_TEST_FILE";

/// Adds a result for every bucket, as fast as it can.
fn write_all(path: &Path, solution: &str) {
    let mut store = Store::open(path.to_owned(), validators());
    for bucket in TokenBucket::up_to(usize::MAX) {
        store.insert(problem(bucket.tokens()), solution, 0.5);
    }
}

/// The file is whole: a header once, no line torn, no problem twice.
fn check(path: &Path, complete: bool) {
    let text = fs::read_to_string(path).unwrap();
    let store = Store::open(path.to_owned(), validators());
    assert_eq!((store.state(), store.notes()), (&FileState::Applies, &[][..]), "{text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("Validator")).count(), validators().len());
    let results: Vec<&str> = text.lines().filter(|line| !line.starts_with("Validator")).collect();
    let problems: HashSet<&str> = results.iter().filter_map(|line| line.split(',').nth(1)).collect();
    assert_eq!(problems.len(), results.len(), "{text}");
    assert!(!complete || results.len() == TokenBucket::COUNT, "{text}");
}

#[test]
fn threads_write_one_whole_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("results.csv");
    thread::scope(|scope| {
        for writer in 0..8 {
            let path = &path;
            scope.spawn(move || write_all(path, &format!("Solution_{writer}")));
        }
    });
    check(&path, true);
}

/// What processes of the test below do; by itself it has no file to write to.
#[test]
fn a_process_writes() {
    if let Some(path) = env::var_os(FILE_VARIABLE) {
        write_all(&PathBuf::from(path), &format!("Solution_{}", std::process::id()));
    }
}

#[test]
fn processes_write_one_whole_file_even_when_some_are_killed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("results.csv");
    let start = || {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "races::a_process_writes"]).env(FILE_VARIABLE, &path);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let mut processes: Vec<_> = (0..6).map(|_| start()).collect();
    while fs::metadata(&path).is_ok_and(|file| file.len() < 500) {
        thread::yield_now();
    }
    for victim in &mut processes[..3] {
        // It may have ended by itself.
        let _ = victim.kill();
    }
    let ended: Vec<bool> = processes.iter_mut().map(|process| process.wait().unwrap().success()).collect();
    assert!(ended[3..].iter().all(|success| *success));
    check(&path, true);
}
