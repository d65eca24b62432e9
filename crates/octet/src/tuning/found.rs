//! What is said at the start: what a results file holds, and whether it applies.

use std::fmt::Display;

use octet_backend::GemmDevice;
use octet_tune::{FileState, Note, Store, apply};

use super::GemmPlan;
use crate::report;

/// Notes about lines that are shown; of the others, only the number.
const NOTES_SHOWN: usize = 5;

/// Hands the file's results to the device and says in one line what was found, and in further ones what is wrong with
/// single lines.
pub(super) fn apply_and_report(store: &Store, device: &mut dyn GemmDevice, plan: &GemmPlan) {
    let applied = apply(store.results(), device);
    let path = store.path().display();
    match store.state() {
        FileState::Missing if !plan.is_explicit => {}
        FileState::Missing => line(format_args!("there is no {path}; built-in choices are used")),
        FileState::Unreadable(reason) => {
            line(format_args!("{path} cannot be read ({reason}); built-in choices are used"));
        }
        FileState::Rejected(mismatch) => {
            let found = counted(store.found(), "result");
            line(format_args!("{path} does not apply, {found}: {mismatch}; built-in choices are used"));
        }
        FileState::Applies => {
            let found = counted(store.found(), "result");
            let mut rest = String::new();
            if applied.of_others > 0 {
                rest += &format!(", {} for other products than this model's", applied.of_others);
            }
            if !applied.unknown.is_empty() {
                rest += &format!(", {} with unknown solutions", applied.unknown.len());
            }
            line(format_args!("{path} has {found}: {} in use{rest}", applied.chosen));
        }
    }
    notes(store.path().display(), store.notes());
    notes(store.path().display(), &applied.unknown);
}

/// Says what is wrong with lines of a file.
pub(super) fn notes(path: impl Display, notes: &[Note]) {
    for note in notes.iter().take(NOTES_SHOWN) {
        report::line(format_args!("warning: {path}, {note}; it is skipped"));
    }
    if notes.len() > NOTES_SHOWN {
        let more = notes.len() - NOTES_SHOWN;
        report::line(format_args!("warning: {path}: {} more are skipped", counted(more, "line")));
    }
}

/// `1 result`, `2 results`.
pub(super) fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// One line about tuning.
pub(super) fn line(text: impl Display) {
    report::line(format_args!("GEMM tuning: {text}"));
}
