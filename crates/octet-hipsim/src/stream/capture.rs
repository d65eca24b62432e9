//! Captures: work that is noted instead of done, to be replayed as a graph.
//!
//! Works are kept in the order in which they were submitted, over all streams of the capture. That is one of the orders
//! that the captured dependencies allow, so that a replay is right whenever the capture is; a dependency that is missing
//! between two streams is not found.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

use super::{Event, Kind, Stream, Work};
use crate::memory::{self, Found, Place};
use crate::status::{HipError, HipResult};

/// Which other calls a capture forbids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Unsafe calls of any thread.
    Global,
    /// Unsafe calls of the thread that began it.
    ThreadLocal,
    /// None.
    Relaxed,
}

/// A capture in progress.
#[derive(Debug)]
pub(crate) struct Capture {
    origin: usize,
    mode: Mode,
    thread: ThreadId,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    works: Vec<Work>,
    valid: bool,
    members: HashMap<usize, Member>,
}

/// A stream of a capture.
#[derive(Debug)]
struct Member {
    stream: Arc<Stream>,
    /// Works it has submitted, and how many of them another stream of the capture waits for.
    submitted: u64,
    joined: u64,
}

/// Where a captured event stands.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    capture: Arc<Capture>,
    stream: usize,
    submitted: u64,
}

/// Captures that have begun and not ended.
static ACTIVE: Mutex<Vec<Arc<Capture>>> = Mutex::new(Vec::new());

fn active() -> MutexGuard<'static, Vec<Arc<Capture>>> {
    ACTIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A stream's identity, as long as it lives.
fn identity(stream: &Arc<Stream>) -> usize {
    Arc::as_ptr(stream) as usize
}

impl Capture {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The capture is worth nothing from now on; its end will say so.
    pub(super) fn invalidate(&self) {
        self.lock().valid = false;
    }

    /// Whether nothing has spoilt it.
    pub(super) fn is_valid(&self) -> bool {
        self.lock().valid
    }

    /// Notes a work.
    pub(super) fn push(&self, stream: &Arc<Stream>, work: Work) -> HipResult<()> {
        let mut state = self.lock();
        if !state.valid {
            return Err(HipError::CaptureInvalidated);
        }
        if !can_be_replayed(&work) {
            state.valid = false;
            return Err(HipError::CaptureUnsupported);
        }
        state.works.push(work);
        if let Some(member) = state.members.get_mut(&identity(stream)) {
            member.submitted += 1;
        }
        Ok(())
    }

    /// Notes an event: only where it stands, as events of a graph are edges and not works.
    pub(super) fn record(self: &Arc<Self>, stream: &Arc<Stream>, event: &Event) -> HipResult<()> {
        let state = self.lock();
        if !state.valid {
            return Err(HipError::CaptureInvalidated);
        }
        let submitted = state.members.get(&identity(stream)).map_or(0, |member| member.submitted);
        drop(state);
        event.set_capture_mark(Mark { capture: Arc::clone(self), stream: identity(stream), submitted });
        Ok(())
    }
}

/// Whether a work means the same when it is done later: not if it needs pageable memory of the host. HIP lets that pass
/// and reads whatever is there at the replay; no program of ours can want it.
fn can_be_replayed(work: &Work) -> bool {
    let ours = |address, bytes| matches!(memory::find(address, bytes), Ok(Found::Inside(_)));
    match work {
        Work::Copy { to, from, bytes } => ours(*to, *bytes) && ours(*from, *bytes),
        Work::CopyRead { .. } => false,
        Work::Fill { to, bytes, .. } => {
            matches!(memory::find(*to, *bytes), Ok(Found::Inside(Place::Device(_) | Place::Pinned)))
        }
        _ => true,
    }
}

/// Begins a capture on a stream.
pub(crate) fn begin(stream: &Arc<Stream>, mode: Mode) -> HipResult<()> {
    if stream.kind == Kind::Default {
        return Err(HipError::CaptureUnsupported);
    }
    let mut state = stream.lock();
    if state.capture.is_some() {
        return Err(HipError::CaptureUnsupported);
    }
    let member = Member { stream: Arc::clone(stream), submitted: 0, joined: 0 };
    let members = HashMap::from([(identity(stream), member)]);
    let capture = Arc::new(Capture {
        origin: identity(stream),
        mode,
        thread: std::thread::current().id(),
        state: Mutex::new(State { works: Vec::new(), valid: true, members }),
    });
    state.capture = Some(Arc::clone(&capture));
    active().push(capture);
    Ok(())
}

/// Ends the capture of a stream. Returns its works.
pub(crate) fn end(stream: &Arc<Stream>) -> HipResult<Vec<Work>> {
    let capture = stream.capture().ok_or(HipError::CaptureUnmatched)?;
    if capture.origin != identity(stream) {
        return Err(HipError::CaptureUnmatched);
    }
    if capture.mode == Mode::ThreadLocal && capture.thread != std::thread::current().id() {
        return Err(HipError::CaptureWrongThread);
    }
    active().retain(|other| !Arc::ptr_eq(other, &capture));
    let mut state = capture.lock();
    let members = std::mem::take(&mut state.members);
    let (works, valid) = (std::mem::take(&mut state.works), state.valid);
    drop(state);
    for member in members.values() {
        member.stream.lock().capture = None;
    }
    if !valid {
        return Err(HipError::CaptureInvalidated);
    }
    let unjoined = |(stream, member): (&usize, &Member)| {
        *stream != capture.origin && member.joined < member.submitted.max(1)
    };
    if members.iter().any(unjoined) { Err(HipError::CaptureUnjoined) } else { Ok(works) }
}

/// A stream waits for an event of a capture: it becomes part of it, or joins another stream's work to its own.
pub(super) fn join(stream: &Arc<Stream>, mark: &Mark) -> HipResult<()> {
    let mut own = stream.lock();
    match &own.capture {
        Some(capture) if !Arc::ptr_eq(capture, &mark.capture) => return Err(HipError::CaptureIsolation),
        Some(_) => {}
        None if stream.kind == Kind::Default => return Err(HipError::CaptureImplicit),
        None if !active().iter().any(|capture| Arc::ptr_eq(capture, &mark.capture)) => {
            return Err(HipError::CapturedEvent);
        }
        None => own.capture = Some(Arc::clone(&mark.capture)),
    }
    drop(own);
    let mut state = mark.capture.lock();
    let new = || Member { stream: Arc::clone(stream), submitted: 0, joined: 0 };
    state.members.entry(identity(stream)).or_insert_with(new);
    if mark.stream != identity(stream)
        && let Some(member) = state.members.get_mut(&mark.stream)
    {
        // An event behind no work joins an otherwise empty branch.
        member.joined = member.joined.max(mark.submitted.max(1));
    }
    Ok(())
}

/// Fails, and spoils the capture, if a capture forbids unsafe calls here: allocation, waiting for the device and such.
pub(crate) fn refuse_in_capture() -> HipResult<()> {
    let here = std::thread::current().id();
    let forbids = |capture: &Arc<Capture>| match capture.mode {
        Mode::Global => true,
        Mode::ThreadLocal => capture.thread == here,
        Mode::Relaxed => false,
    };
    let forbidding: Vec<_> = active().iter().filter(|capture| forbids(capture)).cloned().collect();
    forbidding.iter().for_each(|capture| capture.invalidate());
    if forbidding.is_empty() { Ok(()) } else { Err(HipError::CaptureUnsupported) }
}

/// Fails if work of the default stream would have to wait for a stream that is being captured.
pub(super) fn refuse_default_stream() -> HipResult<()> {
    let blocking = |capture: &&Arc<Capture>| {
        capture.lock().members.values().any(|member| member.stream.kind == Kind::Blocking)
    };
    let captures: Vec<_> = active().iter().filter(blocking).cloned().collect();
    captures.iter().for_each(|capture| capture.invalidate());
    if captures.is_empty() { Ok(()) } else { Err(HipError::CaptureImplicit) }
}
