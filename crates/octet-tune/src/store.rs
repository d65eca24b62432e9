//! The results file of one device, and what is known of it in memory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use octet_backend::{GemmProblem, Validator};

use crate::file;
use crate::line;
use crate::results::{Mismatch, Note, Parsed, Results, TunedGemm, first_mismatch};

/// What a results file turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileState {
    /// There is none, or it is empty.
    Missing,
    /// Its results hold here.
    Applies,
    /// It was written for another device or version: none of its results are used.
    Rejected(Mismatch),
    /// It cannot be read. The text says why.
    Unreadable(String),
}

/// What became of a new result.
#[derive(Clone, Debug, PartialEq)]
pub enum Kept {
    /// It is in the file.
    Written,
    /// Somebody else wrote one for the same problem first, and that is what counts.
    Known(TunedGemm),
    /// It is kept in memory alone. The first time, the text says why.
    InMemory(Option<String>),
}

/// A results file: read once, appended to after each result.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    validators: Vec<Validator>,
    state: FileState,
    results: Results,
    /// Results that were found in the file, whether they hold here or not.
    found: usize,
    notes: Vec<Note>,
    /// Set once the file could not be written: it is not tried again.
    is_read_only: bool,
}

impl Store {
    /// Reads a file for a device with these validators. Whatever is wrong with the file is found in
    /// [`Store::state`] and [`Store::notes`].
    #[must_use]
    pub fn open(path: PathBuf, validators: Vec<Validator>) -> Self {
        let mut store = Self {
            path,
            validators,
            state: FileState::Missing,
            results: Results::default(),
            found: 0,
            notes: Vec::new(),
            is_read_only: false,
        };
        match file::read(&store.path) {
            Err(error) => store.state = FileState::Unreadable(error.to_string()),
            Ok(Some(bytes)) if !bytes.iter().all(u8::is_ascii_whitespace) => store.take(Parsed::new(&bytes)),
            Ok(_) => {}
        }
        store
    }

    /// Takes a file's contents if they hold here.
    fn take(&mut self, parsed: Parsed) {
        self.notes = parsed.notes;
        self.found = parsed.results.len();
        match first_mismatch(&parsed.validators, &self.validators) {
            Some(mismatch) => self.state = FileState::Rejected(mismatch),
            None => {
                self.state = FileState::Applies;
                self.results = parsed.results;
            }
        }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it turned out to be.
    #[must_use]
    pub fn state(&self) -> &FileState {
        &self.state
    }

    /// How many results the file had, whether they hold here or not.
    #[must_use]
    pub fn found(&self) -> usize {
        self.found
    }

    /// Lines that were skipped.
    #[must_use]
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// What is known: of the file, and found since.
    #[must_use]
    pub fn results(&self) -> &Results {
        &self.results
    }

    /// Makes the file ready for results: a rejected one is renamed, never overwritten, and a new one gets its
    /// validators. Returns the new name of a renamed file.
    ///
    /// # Errors
    /// It cannot be written. Results are then kept in memory alone.
    pub fn prepare_to_write(&mut self) -> io::Result<Option<PathBuf>> {
        let prepared = self.try_to_prepare();
        self.is_read_only = prepared.is_err();
        prepared
    }

    fn try_to_prepare(&mut self) -> io::Result<Option<PathBuf>> {
        let renamed = match &self.state {
            FileState::Rejected(_) => Some(set_aside(&self.path)?),
            FileState::Unreadable(reason) => return Err(io::Error::other(reason.clone())),
            FileState::Missing | FileState::Applies => None,
        };
        if renamed.is_some() {
            self.state = FileState::Missing;
            self.notes.clear();
        }
        let header = self.header();
        let is_new = |existing: &[u8]| existing.iter().all(u8::is_ascii_whitespace);
        file::append(&self.path, |existing| is_new(existing).then_some(header))?;
        Ok(renamed)
    }

    fn header(&self) -> String {
        self.validators.iter().map(line::validator).collect()
    }

    /// Adds a result, in memory and at the end of the file. The first entry for a problem wins, whoever wrote it.
    pub fn insert(&mut self, problem: GemmProblem, solution: &str, milliseconds: f64) -> Kept {
        if let Some(known) = self.results.get(&problem) {
            return Kept::Known(known.clone());
        }
        let kept = if self.is_read_only {
            Kept::InMemory(None)
        } else {
            let kept = self.write(problem, solution, milliseconds);
            self.is_read_only = matches!(kept, Kept::InMemory(_));
            kept
        };
        let tuned = match &kept {
            Kept::Known(theirs) => theirs.clone(),
            Kept::Written | Kept::InMemory(_) => {
                TunedGemm { solution: solution.to_owned(), milliseconds, line: None }
            }
        };
        self.results.insert(problem, tuned);
        kept
    }

    fn write(&self, problem: GemmProblem, solution: &str, milliseconds: f64) -> Kept {
        let mut kept = Kept::Written;
        let written = file::append(&self.path, |existing| {
            let line = line::result(&problem, solution, milliseconds);
            if existing.iter().all(u8::is_ascii_whitespace) {
                return Some(self.header() + &line);
            }
            let there = Parsed::new(existing);
            if let Some(mismatch) = first_mismatch(&there.validators, &self.validators) {
                kept = Kept::InMemory(Some(format!("somebody else replaced the file: {mismatch}")));
                return None;
            }
            if let Some(theirs) = there.results.get(&problem) {
                kept = Kept::Known(theirs.clone());
                return None;
            }
            Some(line)
        });
        match written {
            Ok(()) => kept,
            Err(error) => Kept::InMemory(Some(error.to_string())),
        }
    }
}

/// Renames a file to a name that nothing has: `NAME.rejected`, `NAME.rejected2` and so on.
fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = |number: usize| {
        let mut name = path.as_os_str().to_owned();
        name.push(".rejected");
        if number > 1 {
            name.push(number.to_string());
        }
        PathBuf::from(name)
    };
    let free = (1..1000).map(aside).find(|candidate| !candidate.exists());
    let free = free.ok_or_else(|| io::Error::other("there are too many rejected files beside it"))?;
    fs::rename(path, &free)?;
    Ok(free)
}
