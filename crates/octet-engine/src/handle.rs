//! The engine as other threads see it: requests in, stops and numbers; events come out through each request's sink.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::config::EngineConfig;
use crate::error::SubmitError;
use crate::mailbox::{Command, Mailbox};
use crate::request::{Request, RequestId};
use crate::stats::EngineStats;

/// Talks to an engine's thread. Clones talk to the same one; when the last is dropped, the engine finishes what it has
/// and ends.
#[derive(Clone)]
pub struct EngineHandle {
    core: Arc<HandleCore>,
}

/// What all clones share. Dropped with the last of them.
struct HandleCore {
    mailbox: Arc<Mailbox>,
    config: EngineConfig,
    next_request_id: AtomicU64,
}

impl Drop for HandleCore {
    fn drop(&mut self) {
        self.mailbox.close_admission(None);
    }
}

impl fmt::Debug for EngineHandle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("EngineHandle").field("alive", &self.is_alive()).finish_non_exhaustive()
    }
}

impl EngineHandle {
    /// A handle to the engine that empties `mailbox`.
    pub(crate) fn new(mailbox: Arc<Mailbox>, config: EngineConfig) -> Self {
        let core = HandleCore { mailbox, config, next_request_id: AtomicU64::new(0) };
        Self { core: Arc::new(core) }
    }

    /// An id that no other request of this engine has had from here. Callers that choose ids themselves must keep
    /// them unique among requests in flight.
    #[must_use]
    pub fn next_request_id(&self) -> RequestId {
        RequestId(self.core.next_request_id.fetch_add(1, Ordering::Relaxed))
    }

    /// Hands a request over. From `Ok` on its sink gets events, the last of which is `Finished` or `Failed`; after an
    /// error the sink is dropped unused. Never blocks for long: the engine takes requests between steps.
    ///
    /// # Errors
    /// The queue is full, the engine is stopping, or the request could not run even alone.
    pub fn submit(&self, request: Request) -> Result<(), SubmitError> {
        self.core.config.check_request(&request)?;
        self.core.mailbox.submit(request, self.core.config.max_queued)
    }

    /// Gives a request up: its sink gets `Finished` with `FinishReason::Abort`, unless it has ended by then. An
    /// unknown id is ignored.
    pub fn abort(&self, id: RequestId) {
        self.core.mailbox.push(Command::Abort(id));
    }

    /// Numbers as of the last step. `waiting` includes requests that the engine has not looked at yet.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        self.core.mailbox.stats()
    }

    /// The engine's configuration.
    #[must_use]
    pub fn config(&self) -> &EngineConfig {
        &self.core.config
    }

    /// Whether the engine's thread runs: false after a device fault, and after an orderly end.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.core.mailbox.is_open()
    }

    /// Forgets all cached prefixes, if no sequence holds a block; says whether it did. Blocks the caller until the
    /// current step is over.
    #[must_use]
    pub fn reset_prefix_cache(&self) -> bool {
        let (reply, answer) = mpsc::sync_channel(1);
        self.core.mailbox.push(Command::ResetPrefixCache(reply));
        answer.recv().unwrap_or(false)
    }

    /// Stops admission at once and returns. What is inside may go on for `drain`, then it is aborted; then the thread
    /// ends. Called again, the earlier deadline holds. A time too long to be counted is no deadline.
    pub fn shutdown(&self, drain: Duration) {
        self.core.mailbox.close_admission(Instant::now().checked_add(drain));
    }
}
