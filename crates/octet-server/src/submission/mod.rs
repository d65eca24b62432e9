//! The sequences of a client request in the engine, whatever is asked of them. Dropped before their end (the client went
//! away, one of them failed), it gives up the rest.

mod sink;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use octet_engine::{GroupId, Request, RequestFault, RequestId, SubmitError, Task};
use tokio::sync::mpsc::{self, UnboundedReceiver};

use crate::error::ApiError;
use crate::intake::Lease;
use crate::state::App;
pub(crate) use sink::Stamped;
use sink::{Backlog, ChannelSink};

/// What a sequence keeps beside its prompt and what comes of it: its accounts here and in the engine.
pub(crate) const SEQUENCE_BYTES: usize = 4 << 10;

/// What all sequences of a client request share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shared {
    pub(crate) priority: i32,
    pub(crate) cache_salt: Option<Arc<str>>,
}

/// One sequence: a prompt, and what is asked of it.
pub(crate) struct Asked {
    pub(crate) prompt: Arc<[u32]>,
    pub(crate) task: Task,
}

/// Sequences in the engine.
pub(crate) struct Submission {
    app: Arc<App>,
    events: UnboundedReceiver<Stamped>,
    backlog: Arc<Backlog>,
    /// Those that have not ended.
    live: Vec<Option<RequestId>>,
    /// Stands for the memory that is kept until the end.
    _lease: Lease,
}

impl Submission {
    /// Hands all sequences to the engine. `lease` stood for the request's body, and stands from here on for
    /// `kept_bytes`, which are kept until the end.
    pub(crate) fn start(
        app: &Arc<App>,
        sequences: impl ExactSizeIterator<Item = Asked>,
        shared: &Shared,
        kept_bytes: usize,
        mut lease: Lease,
    ) -> Result<Self, ApiError> {
        check_share(app, sequences.len())?;
        lease.resize(kept_bytes)?;
        let (sender, events) = mpsc::unbounded_channel();
        let backlog = Arc::<Backlog>::default();
        app.load.fetch_add(1, Ordering::Relaxed);
        let live = Vec::with_capacity(sequences.len());
        let mut submission =
            Self { app: Arc::clone(app), events, backlog: Arc::clone(&backlog), live, _lease: lease };
        let mut group = None;
        for (index, Asked { prompt, task }) in sequences.enumerate() {
            let id = app.engine.next_request_id();
            let request = Request {
                id,
                group: *group.get_or_insert(GroupId::from(id)),
                prompt,
                task,
                priority: shared.priority,
                cache_salt: shared.cache_salt.clone(),
                sink: Box::new(ChannelSink::new(index, sender.clone(), Arc::clone(&backlog))),
            };
            // If the engine takes only some of them, dropping `submission` gives those up.
            app.engine.submit(request).map_err(|error| match error {
                SubmitError::Stopped if app.stopping() => ApiError::ShuttingDown,
                other => ApiError::Submit(other),
            })?;
            submission.live.push(Some(id));
        }
        Ok(submission)
    }

    /// The next event of any sequence that has not ended; `None` when all have. After an error nothing more comes.
    pub(crate) async fn next(&mut self) -> Option<Result<Stamped, ApiError>> {
        while self.live.iter().any(Option::is_some) {
            let Some(stamped) = self.events.recv().await else {
                self.live.clear();
                let fault = ApiError::Fault(RequestFault::EngineStopped);
                return Some(Err(self.backlog.overflow().map_or(fault, |bytes| ApiError::NotRead { bytes })));
            };
            self.backlog.remove(&stamped.event);
            // What comes after the end is the engine's answer to our own giving up.
            if self.live[stamped.sequence].is_some() {
                return Some(Ok(stamped));
            }
        }
        None
    }

    /// A sequence has ended by the engine's word.
    pub(crate) fn ended(&mut self, sequence: usize) {
        self.live[sequence] = None;
    }

    /// Ends a sequence in the engine, if it has not ended.
    pub(crate) fn give_up(&mut self, sequence: usize) {
        if let Some(id) = self.live[sequence].take() {
            self.app.engine.abort(id);
        }
    }
}

impl Drop for Submission {
    fn drop(&mut self) {
        self.app.load.fetch_sub(1, Ordering::Relaxed);
        (0..self.live.len()).for_each(|sequence| self.give_up(sequence));
    }
}

/// Refuses more sequences at once than half of the places that are free. A single sequence may have the last place;
/// a request for many must leave some to others.
fn check_share(app: &App, count: usize) -> Result<(), ApiError> {
    let limit = app.engine.config().max_queued;
    let stats = app.engine.stats();
    let free = limit.saturating_sub(stats.running + stats.waiting);
    if count > 1 && count > free / 2 { Err(SubmitError::QueueFull { limit }.into()) } else { Ok(()) }
}
