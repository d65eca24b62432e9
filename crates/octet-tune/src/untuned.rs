//! The file of problems that a run has met: `operation,parameters` lines, for tuning later.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use octet_backend::GemmProblem;

use crate::error::TuneError;
use crate::file;
use crate::line;
use crate::results::Note;

/// Collects problems in a file. Each is written once, by whichever process meets it first.
#[derive(Debug)]
pub struct Untuned {
    path: PathBuf,
    written: HashSet<GemmProblem>,
}

impl Untuned {
    /// Collects into a file, which need not exist yet.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, written: HashSet::new() }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends those problems that are not in the file yet. They are not tried again, even after an error.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn record(&mut self, problems: &[GemmProblem]) -> io::Result<()> {
        let new: Vec<GemmProblem> =
            problems.iter().copied().filter(|problem| self.written.insert(*problem)).collect();
        if new.is_empty() {
            return Ok(());
        }
        file::append(&self.path, |existing| {
            let there = String::from_utf8_lossy(existing);
            let there: HashSet<&str> = there.lines().collect();
            let lines = new.iter().map(line::untuned);
            let lines: String = lines.filter(|line| !there.contains(line.trim_end())).collect();
            (!lines.is_empty()).then_some(lines)
        })
    }
}

/// Reads a file of untuned problems, each once and in order. Lines that cannot be used are noted and skipped.
///
/// # Errors
/// The file cannot be read, or does not exist.
pub fn read_untuned(path: &Path) -> Result<(Vec<GemmProblem>, Vec<Note>), TuneError> {
    let bytes = file::read(path).and_then(|bytes| bytes.ok_or_else(|| io::ErrorKind::NotFound.into()));
    let bytes = bytes.map_err(|source| TuneError::Read { path: path.to_owned(), source })?;
    let (mut problems, mut notes) = (Vec::new(), Vec::new());
    for (index, line) in String::from_utf8_lossy(&bytes).lines().enumerate() {
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        // A results file may be named too: what follows the second field is not looked at.
        let mut fields = line.split(',').map(str::trim);
        let (operation, parameters) = (fields.next().unwrap_or(""), fields.next().unwrap_or(""));
        match GemmProblem::from_signatures(operation, parameters) {
            Ok(problem) if problems.contains(&problem) => {}
            Ok(problem) => problems.push(problem),
            Err(_) if operation == "Validator" => {}
            Err(fault) => notes.push(Note { line: index + 1, text: fault.to_string() }),
        }
    }
    Ok((problems, notes))
}
