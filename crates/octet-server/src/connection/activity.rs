//! What a connection is doing: the ground on which it is closed for idling, or to make room for another.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::limits::ConnectionLimits;

/// Written by the connection's own task, read by whoever looks for one that can go.
#[derive(Debug)]
pub(crate) struct Activity(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Whether a request has been taken and its answer is not complete.
    busy: bool,
    /// Whether bytes wait to be sent.
    sending: bool,
    /// Since when there has been no request.
    idle_since: Instant,
    /// When the first bytes of the next request came.
    head_began: Option<Instant>,
}

/// What the limits say about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Look again then.
    LookAt(Instant),
    /// It has idled too long between requests.
    Idle,
    /// It has begun a request and does not get on with it.
    SlowHead,
}

impl Activity {
    pub(super) fn new() -> Self {
        let state = State { busy: false, sending: false, idle_since: Instant::now(), head_began: None };
        Self(Mutex::new(state))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The head of a request is complete.
    pub(super) fn request_began(&self) {
        let mut state = self.state();
        state.busy = true;
        state.head_began = None;
    }

    /// Its answer is complete, or given up.
    pub(super) fn request_ended(&self) {
        let mut state = self.state();
        state.busy = false;
        state.idle_since = Instant::now();
    }

    pub(super) fn bytes_came(&self, count: usize) {
        let mut state = self.state();
        if count > 0 && !state.busy && state.head_began.is_none() {
            state.head_began = Some(Instant::now());
        }
    }

    /// Bytes are to be sent.
    pub(super) fn bytes_wait(&self) {
        self.state().sending = true;
    }

    /// All bytes are sent.
    pub(super) fn bytes_left(&self) {
        self.state().sending = false;
    }

    /// Whether something of an answer waits to be sent.
    pub(super) fn is_sending(&self) -> bool {
        self.state().sending
    }

    /// Since when the connection has carried nothing; `None` while it does.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let state = self.state();
        (!state.busy && !state.sending).then_some(state.idle_since)
    }

    pub(super) fn judge(&self, limits: &ConnectionLimits, now: Instant) -> Verdict {
        let state = self.state();
        // A head that begins right after a look is still met within twice its limit.
        let later = now + limits.head;
        if state.busy || state.sending {
            return Verdict::LookAt(later);
        }
        let (deadline, verdict) = match state.head_began {
            Some(began) => (began + limits.head, Verdict::SlowHead),
            None => (state.idle_since + limits.keep_alive, Verdict::Idle),
        };
        if deadline <= now { verdict } else { Verdict::LookAt(deadline.min(later)) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn limits() -> ConnectionLimits {
        ConnectionLimits {
            head: Duration::from_secs(10),
            keep_alive: Duration::from_secs(100),
            ..ConnectionLimits::default()
        }
    }

    #[test]
    fn a_head_has_less_time_than_an_idle_connection() {
        let activity = Activity::new();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(activity.judge(&limits(), at(1)), Verdict::LookAt(at(11)));
        assert_eq!(activity.judge(&limits(), at(101)), Verdict::Idle);
        activity.bytes_came(1);
        assert_eq!(activity.judge(&limits(), at(11)), Verdict::SlowHead);
    }

    #[test]
    fn what_carries_something_is_not_idle() {
        let activity = Activity::new();
        let late = Instant::now() + Duration::from_secs(1000);
        activity.request_began();
        assert_eq!(activity.idle_since(), None);
        assert!(matches!(activity.judge(&limits(), late), Verdict::LookAt(_)));
        activity.bytes_wait();
        activity.request_ended();
        assert_eq!(activity.idle_since(), None);
        activity.bytes_left();
        assert!(activity.idle_since().is_some());
        assert_eq!(activity.judge(&limits(), late), Verdict::Idle);
    }
}
