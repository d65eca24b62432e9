//! Events: points in a stream that can be waited for and whose times can be compared.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::capture::Mark;
use crate::status::{HipError, HipResult};

/// An event. It may be recorded again and again: a wait is for the record that was the last one when it was asked for.
#[derive(Debug, Default)]
pub(crate) struct Event {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Records asked for, and records that happened.
    recorded: u64,
    happened: u64,
    time: Option<Instant>,
    /// Where the event stands in a capture, if its last record was captured.
    mark: Option<Mark>,
}

impl Event {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new record, which has not happened yet. Returns its number.
    pub(super) fn begin(&self) -> u64 {
        let mut state = self.lock();
        state.recorded += 1;
        state.mark = None;
        state.recorded
    }

    /// The record with a number happens.
    pub(super) fn happen(&self, generation: u64) {
        let mut state = self.lock();
        state.happened = state.happened.max(generation);
        state.time = Some(Instant::now());
        drop(state);
        self.changed.notify_all();
    }

    /// Number of the last record, 0 before the first.
    pub(super) fn recorded(&self) -> u64 {
        self.lock().recorded
    }

    pub(super) fn set_capture_mark(&self, mark: Mark) {
        self.lock().mark = Some(mark);
    }

    pub(super) fn capture_mark(&self) -> Option<Mark> {
        self.lock().mark.clone()
    }

    /// Waits in this thread until a record has happened.
    pub(super) fn wait(&self, generation: u64) {
        let mut state = self.lock();
        while state.happened < generation {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for the last record.
    pub(crate) fn synchronize(&self) -> HipResult<()> {
        self.refuse_if_captured()?;
        self.wait(self.recorded());
        crate::status::check_fault()
    }

    /// Fails with `NotReady` if the last record has not happened.
    pub(crate) fn query(&self) -> HipResult<()> {
        self.refuse_if_captured()?;
        crate::status::check_fault()?;
        let state = self.lock();
        if state.happened < state.recorded { Err(HipError::NotReady) } else { Ok(()) }
    }

    fn refuse_if_captured(&self) -> HipResult<()> {
        if self.lock().mark.is_some() { Err(HipError::CapturedEvent) } else { Ok(()) }
    }

    /// When the last record happened.
    pub(crate) fn time(&self) -> HipResult<Instant> {
        self.refuse_if_captured()?;
        let state = self.lock();
        match state.time {
            Some(time) if state.happened == state.recorded => Ok(time),
            _ if state.recorded > 0 => Err(HipError::NotReady),
            _ => Err(HipError::InvalidHandle),
        }
    }
}
