//! Hands known results to a device.

use octet_backend::GemmDevice;

use crate::results::{Note, Results};

/// What a device made of results.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Applied {
    /// Those that it uses from now on.
    pub chosen: usize,
    /// Those for products that it does not have: another model's.
    pub of_others: usize,
    /// Those that name a solution which it does not know.
    pub unknown: Vec<Note>,
}

/// Chooses all solutions that the device has problems for.
pub fn apply(results: &Results, device: &mut dyn GemmDevice) -> Applied {
    let mut applied = Applied::default();
    for (problem, tuned) in results.iter() {
        let known = device.solutions(problem);
        if known.is_empty() {
            applied.of_others += 1;
        } else if device.choose(problem, &tuned.solution) {
            applied.chosen += 1;
        } else {
            let text = format!("{} is no solution of this device for {problem}", tuned.solution);
            applied.unknown.push(Note { line: tuned.line.unwrap_or(0), text });
        }
    }
    applied
}
