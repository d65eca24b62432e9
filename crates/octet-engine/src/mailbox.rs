//! Commands to the engine's thread, and what it publishes. One mutex, held for moments; a condition variable wakes the
//! thread, so that an idle engine uses no processor time.

use std::sync::mpsc::SyncSender;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::SubmitError;
use crate::places::{PlacedSink, Places};
use crate::request::{Request, RequestId};
use crate::stats::EngineStats;

/// What other threads ask of the engine.
pub(crate) enum Command {
    /// Take a request.
    Submit(Request),
    /// Give a request up.
    Abort(RequestId),
    /// Forget cached prefixes and say whether that was possible. Dropped unanswered when the engine is gone.
    ResetPrefixCache(SyncSender<bool>),
}

/// Why the engine's thread was woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    /// There are commands, or there is work.
    Work,
    /// Nothing has come for as long as the thread would wait.
    Idle,
    /// The time to drain is over: abort what is left.
    DeadlinePassed,
    /// Nothing is left and nothing will come.
    End,
}

struct State {
    commands: Vec<Command>,
    /// Whether requests are taken.
    admission: bool,
    /// When draining ends, once admission is closed.
    deadline: Option<Instant>,
    /// Whether anybody empties the mailbox.
    open: bool,
    /// Why requests are refused, once they are.
    refusal: SubmitError,
    stats: EngineStats,
}

/// The two sides' common state.
pub(crate) struct Mailbox {
    state: Mutex<State>,
    wake: Condvar,
    /// Sequences inside: what the engine has, and what is queued here.
    places: Places,
}

impl Mailbox {
    /// An open mailbox.
    pub(crate) fn new(stats: EngineStats) -> Self {
        let state = State {
            commands: Vec::new(),
            admission: true,
            deadline: None,
            open: true,
            refusal: SubmitError::Stopped,
            stats,
        };
        Self { state: Mutex::new(state), wake: Condvar::new(), places: Places::default() }
    }

    /// The state is a plain value that every holder leaves whole, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // The side of the handles.

    /// Queues a request if there is a place among `limit`. From here on its sink will get an end.
    pub(crate) fn submit(&self, mut request: Request, limit: usize) -> Result<(), SubmitError> {
        let mut state = self.lock();
        if !state.open || !state.admission {
            return Err(state.refusal.clone());
        }
        let place = self.places.take(request.group, limit)?;
        request.sink = Box::new(PlacedSink { sink: request.sink, _place: place });
        state.commands.push(Command::Submit(request));
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    /// Queues a command that is no submission; drops it if nobody listens.
    pub(crate) fn push(&self, command: Command) {
        let mut state = self.lock();
        if state.open {
            state.commands.push(command);
            drop(state);
            self.wake.notify_one();
        }
    }

    /// Takes no more requests. With a deadline, what is inside is aborted then; without, it may finish.
    pub(crate) fn close_admission(&self, deadline: Option<Instant>) {
        let mut state = self.lock();
        state.admission = false;
        state.deadline = match (state.deadline, deadline) {
            (Some(earlier), Some(later)) => Some(earlier.min(later)),
            (earlier, later) => earlier.or(later),
        };
        drop(state);
        self.wake.notify_one();
    }

    /// Whether the engine's thread listens.
    pub(crate) fn is_open(&self) -> bool {
        self.lock().open
    }

    /// The last published numbers; `waiting` counts whatever is inside and not running.
    pub(crate) fn stats(&self) -> EngineStats {
        let stats = self.lock().stats;
        EngineStats { waiting: self.places.total().saturating_sub(stats.running), ..stats }
    }

    // The side of the engine's thread.

    /// Publishes numbers, then swaps the commands into `commands` (which must be empty). Sleeps while there are none
    /// and `stats` shows neither running nor waiting requests, but no longer than `patience`, if there is one.
    pub(crate) fn take(
        &self,
        stats: &EngineStats,
        commands: &mut Vec<Command>,
        patience: Option<Duration>,
    ) -> Wake {
        debug_assert!(commands.is_empty(), "commands are carried out before new ones are taken");
        let mut state = self.lock();
        state.stats = *stats;
        let busy = stats.running + stats.waiting > 0;
        let until = patience.and_then(|patience| Instant::now().checked_add(patience));
        while state.commands.is_empty() && !busy && state.admission {
            let Some(until) = until else {
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Wake::Idle;
            }
            state = self.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        if !state.commands.is_empty() {
            std::mem::swap(&mut state.commands, commands);
            return Wake::Work;
        }
        if !busy {
            return Wake::End;
        }
        match state.deadline {
            Some(deadline) if Instant::now() >= deadline => Wake::DeadlinePassed,
            _ => Wake::Work,
        }
    }

    /// Closes the mailbox for good, with what later requests are told, and hands over what was never carried out.
    pub(crate) fn close(&self, stats: &EngineStats, refusal: SubmitError) -> Vec<Command> {
        let mut state = self.lock();
        state.open = false;
        state.refusal = refusal;
        state.admission = false;
        state.stats = EngineStats { running: 0, waiting: 0, ..*stats };
        std::mem::take(&mut state.commands)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn an_idle_engine_sleeps_until_a_command_comes() {
        let mailbox = Mailbox::new(EngineStats::default());
        std::thread::scope(|scope| {
            let (woken, wakes) = mpsc::channel();
            let mailbox = &mailbox;
            scope.spawn(move || {
                let mut commands = Vec::new();
                let wake = mailbox.take(&EngineStats::default(), &mut commands, None);
                woken.send((wake, commands.len())).expect("the test waits");
            });
            let early = wakes.recv_timeout(Duration::from_millis(30));
            assert_eq!(early, Err(mpsc::RecvTimeoutError::Timeout), "there is nothing to do");
            mailbox.push(Command::Abort(RequestId(1)));
            assert_eq!(wakes.recv_timeout(Duration::from_secs(30)), Ok((Wake::Work, 1)));
        });
    }

    #[test]
    fn a_thread_with_patience_is_told_that_nothing_came() {
        let (mailbox, mut commands) = (Mailbox::new(EngineStats::default()), Vec::new());
        let patience = Duration::from_millis(20);
        let start = Instant::now();
        let mut take = || mailbox.take(&EngineStats::default(), &mut commands, Some(patience));
        assert_eq!(take(), Wake::Idle);
        assert!(start.elapsed() >= patience);
        mailbox.push(Command::Abort(RequestId(1)));
        assert_eq!(take(), Wake::Work);
    }

    #[test]
    fn the_earlier_deadline_holds_and_the_end_comes_when_nothing_is_left() {
        let mailbox = Mailbox::new(EngineStats::default());
        let busy = EngineStats { running: 1, ..EngineStats::default() };
        let mut commands = Vec::new();
        mailbox.close_admission(Some(Instant::now()));
        mailbox.close_admission(Some(Instant::now() + Duration::from_secs(30)));
        mailbox.close_admission(None);
        assert_eq!(mailbox.take(&busy, &mut commands, None), Wake::DeadlinePassed);
        assert_eq!(mailbox.take(&EngineStats::default(), &mut commands, None), Wake::End);
    }
}
