//! What a run of the tests left out, and why.
//!
//! Some tests need more than Rust and a C compiler: clang for the simulated GPU, NVIDIA's compiler for a gate. Such a
//! test begins with [`needs!`], which ends it where that is missing. To libtest it then has passed, and what it printed is
//! hidden; so it says `NOT RUN` past libtest's capture, and writes its name into a file of this run. The test binary of
//! this crate reads that file and reports. Cargo runs it last, because the crate's name is the last of the workspace.
//!
//! Where `OCTET_REQUIRE_COMPILERS` is 1, as in `tools/check`, a test that lacks something fails instead.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Makes a missing compiler a failure.
const REQUIRE: &str = "OCTET_REQUIRE_COMPILERS";

/// What a `Result` holds, or else the end of the test: it is noted as not run, for the reason that is the error's text.
/// A test begins with `octet_unrun::needs!(octet_hipsim::compiler());`.
#[macro_export]
macro_rules! needs {
    ($found:expr) => {
        match $found {
            Ok(found) => found,
            Err(missing) => return $crate::not_run(env!("CARGO_PKG_NAME"), &missing.to_string()),
        }
    };
}

/// A test that did not run, or ran only in part. They are ordered by what they lack.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NotRun {
    /// What it lacks, and how to come by it.
    pub missing: String,
    /// The package it belongs to.
    pub package: String,
    /// Its name, with its modules.
    pub test: String,
}

impl NotRun {
    fn to_line(&self) -> String {
        format!("{}\t{}\t{}\n", self.package, self.test, self.missing)
    }

    fn of_line(line: &str) -> Option<Self> {
        let mut fields = line.split('\t').map(str::to_owned);
        let (package, test, missing) = (fields.next()?, fields.next()?, fields.next()?);
        Some(Self { missing, package, test })
    }
}

/// Notes that the test of this thread did not run.
///
/// # Panics
///
/// If `OCTET_REQUIRE_COMPILERS` is 1, or the note cannot be written.
#[track_caller]
pub fn not_run(package: &str, missing: &str) {
    let is_required = std::env::var(REQUIRE).is_ok_and(|value| value == "1");
    assert!(!is_required, "{REQUIRE} is 1, and {missing}");
    // libtest names a test's thread after the test.
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test in a thread without a name").to_owned();
    let note = NotRun { missing: missing.replace(['\n', '\t'], " "), package: package.to_owned(), test };
    // A macro would write into libtest's capture.
    let said = format!("NOT RUN: {} {}: {}\n", note.package, note.test, note.missing);
    io::stderr().write_all(said.as_bytes()).expect("standard error takes a line");
    let path = notes_path();
    write_note(&path, &note).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn write_note(path: &Path, note: &NotRun) -> io::Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(path))?;
    // One write to the file's end: lines of tests that end together stay whole.
    OpenOptions::new().create(true).append(true).open(path)?.write_all(note.to_line().as_bytes())
}

/// Folder of what runs left out: beside `deps`, where Cargo puts the binaries of tests.
fn folder() -> PathBuf {
    let program = std::env::current_exe().expect("a program knows its path");
    program.ancestors().nth(2).expect("a test's program lies in a folder of a profile").join("not-run")
}

/// The notes of this run: all its binaries are children of one process.
fn notes_path() -> PathBuf {
    let runner = std::os::unix::process::parent_id();
    // Containers give the same numbers again, so the time at which the process began is part of its name.
    let status = fs::read_to_string(format!("/proc/{runner}/stat")).unwrap_or_default();
    let fields = status.rsplit(')').next().unwrap_or_default();
    let begun = fields.split_whitespace().nth(19).unwrap_or("0");
    folder().join(format!("{runner}-{begun}"))
}

/// Ends the notes of this run: takes what they hold, and leaves it in the file `last`, a line for each test.
///
/// # Errors
///
/// If files cannot be read or written.
pub fn take() -> io::Result<BTreeSet<NotRun>> {
    take_from(&notes_path(), &folder().join("last"))
}

fn take_from(notes: &Path, last: &Path) -> io::Result<BTreeSet<NotRun>> {
    let text = match fs::read_to_string(notes) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        read => read?,
    };
    let tests: BTreeSet<NotRun> = text.lines().filter_map(NotRun::of_line).collect();
    fs::create_dir_all(last.parent().unwrap_or(last))?;
    fs::write(last, tests.iter().map(NotRun::to_line).collect::<String>())?;
    if !text.is_empty() {
        fs::remove_file(notes)?;
    }
    Ok(tests)
}

/// The report at a run's end: names first, the count last, where it is seen.
#[must_use]
pub fn report(tests: &BTreeSet<NotRun>) -> String {
    if tests.is_empty() {
        return "\nno test was left out\n".to_owned();
    }
    let mut by_reason: BTreeMap<&str, BTreeMap<(&str, &str), Vec<&str>>> = BTreeMap::new();
    for NotRun { missing, package, test } in tests {
        let (module, name) = test.rsplit_once("::").unwrap_or(("", test));
        by_reason.entry(missing).or_default().entry((package, module)).or_default().push(name);
    }
    let mut text = "\n**** NOT RUN ****\n".to_owned();
    let write = "a string takes everything";
    for (missing, modules) in &by_reason {
        let count: usize = modules.values().map(Vec::len).sum();
        writeln!(text, "\n{count} because {missing}:").expect(write);
        for ((package, module), names) in modules {
            writeln!(text, "    {package} {module}: {}", names.join(", ")).expect(write);
        }
    }
    let count = tests.len();
    let (noun, verb) = if count == 1 { ("test", "was") } else { ("tests", "were") };
    writeln!(
        text,
        "\n**** {count} {noun} {verb} NOT RUN. `tools/check` brings what is missing and runs all. ****"
    )
    .expect(write);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(missing: &str, package: &str, test: &str) -> NotRun {
        NotRun { missing: missing.to_owned(), package: package.to_owned(), test: test.to_owned() }
    }

    #[test]
    fn notes_are_taken_once_and_kept_for_the_next_command() {
        let folder = tempfile::tempdir().expect("a folder");
        let (notes, last) = (folder.path().join("not-run/7-1"), folder.path().join("not-run/last"));
        let (first, second) = (note("no clang", "octet-gpu", "a::b"), note("no NVRTC", "octet", "c"));
        for note in [&first, &second, &first] {
            write_note(&notes, note).expect("a note");
        }
        let taken = take_from(&notes, &last).expect("notes");
        assert_eq!(taken.into_iter().collect::<Vec<_>>(), [second, first]);
        let kept = fs::read_to_string(&last).expect("a file");
        assert_eq!(kept, "octet\tc\tno NVRTC\noctet-gpu\ta::b\tno clang\n");
        // The next run finds nothing of this one.
        assert!(take_from(&notes, &last).expect("no notes").is_empty());
        assert_eq!(fs::read_to_string(&last).expect("a file"), "");
    }

    #[test]
    fn a_report_names_tests_by_reason_and_ends_with_their_number() {
        let tests = ["conformance::gfx942::linear", "conformance::gfx942::embed", "cache::kept"];
        let mut tests: BTreeSet<NotRun> =
            tests.iter().map(|test| note("there is no clang++", "octet-gpu", test)).collect();
        tests.insert(note("there is no NVRTC", "octet-gpu", "gates::nvidia"));
        let text = report(&tests);
        assert!(text.contains("3 because there is no clang++:\n    octet-gpu cache: kept\n"), "{text}");
        assert!(text.contains("    octet-gpu conformance::gfx942: embed, linear\n"), "{text}");
        assert!(text.contains("1 because there is no NVRTC:\n    octet-gpu gates: nvidia\n"), "{text}");
        let end = "**** 4 tests were NOT RUN. `tools/check` brings what is missing and runs all. ****\n";
        assert!(text.ends_with(end), "{text}");
        assert_eq!(report(&BTreeSet::new()), "\nno test was left out\n");
    }
}
