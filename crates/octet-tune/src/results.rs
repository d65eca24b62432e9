//! What a results file says, without regard to where it lies.

use std::collections::HashMap;
use std::fmt;

use octet_backend::{GemmProblem, Validator};

use crate::line::{Line, LineFault};

/// Key of the validator that PyTorch always writes.
pub(crate) const PYTORCH_VERSION: &str = "PT_VERSION";

/// The solution of a problem.
#[derive(Clone, Debug, PartialEq)]
pub struct TunedGemm {
    /// Its name.
    pub solution: String,
    /// What it took when it was tuned; 0 if that is not known.
    pub milliseconds: f64,
    /// Its line in the file, from 1; none if it was not read from there.
    pub line: Option<usize>,
}

/// Solutions by problem. The first entry for a problem wins.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Results {
    entries: HashMap<GemmProblem, TunedGemm>,
    order: Vec<GemmProblem>,
}

impl Results {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The solution of a problem.
    #[must_use]
    pub fn get(&self, problem: &GemmProblem) -> Option<&TunedGemm> {
        self.entries.get(problem)
    }

    /// All, in the order in which they came.
    pub fn iter(&self) -> impl Iterator<Item = (&GemmProblem, &TunedGemm)> {
        self.order.iter().filter_map(|problem| Some((problem, self.entries.get(problem)?)))
    }

    /// Adds a solution, or returns the one that the problem has.
    pub(crate) fn insert(&mut self, problem: GemmProblem, tuned: TunedGemm) -> Option<&TunedGemm> {
        if self.entries.contains_key(&problem) {
            return self.entries.get(&problem);
        }
        self.order.push(problem);
        self.entries.insert(problem, tuned);
        None
    }
}

/// Something about a line that its reader should know; the line is not used.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub text: String,
}

impl fmt::Display for Note {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "line {}: {}", self.line, self.text)
    }
}

/// A validator on which file and device disagree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The validator.
    pub key: String,
    /// Its value in the file, if it is there.
    pub file: Option<String>,
    /// Its value on the device, if that has it.
    pub device: Option<String>,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, file, device } = self;
        match (file, device) {
            (Some(file), Some(device)) => {
                write!(formatter, "validator {key} differs: {file:?} in the file, {device:?} here")
            }
            (None, Some(device)) => {
                write!(formatter, "validator {key} is missing in the file; it is {device:?} here")
            }
            (Some(file), None) if key == PYTORCH_VERSION => {
                write!(formatter, "PyTorch {file} wrote it; --import-tunableop takes such files over")
            }
            (Some(file), None) => {
                write!(formatter, "validator {key} ({file:?} in the file) is none of this device's")
            }
            (None, None) => write!(formatter, "validator {key} is missing"),
        }
    }
}

/// The first validator on which a file and a device disagree. PyTorch's own says most, so it comes first.
pub(crate) fn first_mismatch(file: &[Validator], device: &[Validator]) -> Option<Mismatch> {
    let of_device = |key: &str| device.iter().find(|validator| validator.key == key);
    let foreign = |validator: &&Validator| of_device(&validator.key).is_none();
    let by_pytorch = file.iter().find(|validator| validator.key == PYTORCH_VERSION).filter(foreign);
    let differing = || {
        device.iter().find_map(|here| {
            let mut there = file.iter().filter(|validator| validator.key == here.key).peekable();
            let missing = there.peek().is_none();
            let other = there.find(|validator| validator.value != here.value);
            (missing || other.is_some()).then(|| Mismatch {
                key: here.key.clone(),
                file: other.map(|validator| validator.value.clone()),
                device: Some(here.value.clone()),
            })
        })
    };
    let unknown = |validator: &Validator| Mismatch {
        key: validator.key.clone(),
        file: Some(validator.value.clone()),
        device: None,
    };
    by_pytorch.map(unknown).or_else(differing).or_else(|| file.iter().find(foreign).map(unknown))
}

/// A file's contents.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Parsed {
    pub(crate) validators: Vec<Validator>,
    pub(crate) results: Results,
    pub(crate) notes: Vec<Note>,
}

impl Parsed {
    /// Reads a whole file. Lines that cannot be used are noted and skipped.
    pub(crate) fn new(bytes: &[u8]) -> Self {
        let mut parsed = Self::default();
        for (index, line) in bytes.split_inclusive(|&byte| byte == b'\n').enumerate() {
            let number = index + 1;
            let text = String::from_utf8_lossy(line);
            let read = if text.ends_with('\n') { Line::parse(&text) } else { Err(LineFault::HalfWritten) };
            match read {
                Ok(Line::Empty) => {}
                Ok(Line::Validator(validator)) => parsed.validators.push(validator),
                Ok(Line::Result { problem, solution, milliseconds }) => {
                    parsed.add(problem, TunedGemm { solution, milliseconds, line: Some(number) });
                }
                Err(fault) => parsed.notes.push(Note { line: number, text: fault.to_string() }),
            }
        }
        parsed
    }

    /// Adds a result; one that contradicts an earlier one is noted.
    fn add(&mut self, problem: GemmProblem, tuned: TunedGemm) {
        let (line, solution) = (tuned.line.unwrap_or(0), tuned.solution.clone());
        if let Some(first) = self.results.insert(problem, tuned)
            && first.solution != solution
        {
            let (first_line, kept) = (first.line.unwrap_or(0), &first.solution);
            let text =
                format!("{solution} for {problem} contradicts {kept} of line {first_line}, which holds");
            self.notes.push(Note { line, text });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validators(pairs: &[(&str, &str)]) -> Vec<Validator> {
        pairs.iter().map(|(key, value)| Validator::new(key, value)).collect()
    }

    #[test]
    fn the_first_entry_wins_and_contradictions_are_noted() {
        let parsed = Parsed::new(
            b"Validator,A,1\n\
              GemmTunableOp_Half_TN,tn_8_1_8,One,0.5\n\
              GemmTunableOp_Half_TN,tn_8_1_8,One,0.7\n\
              \n\
              GemmTunableOp_Half_TN,tn_8_1_8_ld_8_8_8,Two,0.1\n",
        );
        assert_eq!(parsed.validators, validators(&[("A", "1")]));
        let (_, tuned) = parsed.results.iter().next().unwrap();
        assert_eq!(
            (parsed.results.len(), tuned),
            (1, &TunedGemm { solution: "One".to_owned(), milliseconds: 0.5, line: Some(2) })
        );
        let [note] = &parsed.notes[..] else { panic!("{:?}", parsed.notes) };
        assert!(note.line == 5 && note.text.contains("line 2"), "{note}");
    }

    #[test]
    fn corrupt_and_half_written_lines_are_skipped_with_their_number() {
        let parsed = Parsed::new(
            b"Validator,A,1\n\xff\xfe garbage\nGemmTunableOp_Half_TN,tn_0_1_8,One,0.5\n\
              GemmTunableOp_Half_TN,tn_8_1_8,One,0.5\nGemmTunableOp_Half_TN,tn_8_2_8,One,0",
        );
        assert_eq!(parsed.results.len(), 1);
        assert_eq!(parsed.notes.iter().map(|note| note.line).collect::<Vec<_>>(), [2, 3, 5]);
        assert!(parsed.notes[2].text.contains("interrupted"), "{}", parsed.notes[2]);
    }

    #[test]
    fn validators_are_compared_as_a_set() {
        let device = validators(&[("A", "1"), ("B", "2")]);
        assert_eq!(first_mismatch(&validators(&[("B", "2"), ("A", "1")]), &device), None);
        let cases = [
            (vec![("A", "1"), ("B", "3")], "B", Some("3"), Some("2")),
            (vec![("A", "1")], "B", None, Some("2")),
            (vec![("A", "1"), ("B", "2"), ("C", "4")], "C", Some("4"), None),
            (vec![("A", "1"), ("B", "2"), ("A", "0")], "A", Some("0"), Some("1")),
            (vec![("GCN_ARCH_NAME", "gfx942"), ("PT_VERSION", "2.5.0")], "PT_VERSION", Some("2.5.0"), None),
        ];
        for (file, key, of_file, of_device) in cases {
            let mismatch = first_mismatch(&validators(&file), &device).unwrap();
            let found = (mismatch.key.as_str(), mismatch.file.as_deref(), mismatch.device.as_deref());
            assert_eq!(found, (key, of_file, of_device));
            let text = mismatch.to_string();
            assert!([of_file, of_device].into_iter().flatten().all(|value| text.contains(value)), "{text}");
        }
    }
}
