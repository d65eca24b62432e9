//! Streams: queues of work, each with a thread that does it later.
//!
//! A call that submits returns at once, as on a GPU. So a result that is read without waiting is not there yet, and a
//! buffer that is changed too early is seen changed.

mod capture;
mod event;
mod work;

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};

use capture::Capture;
pub(crate) use capture::{Mode, begin, end, refuse_in_capture};
pub(crate) use event::Event;
pub(crate) use work::Work;

use crate::registry::Registry;
use crate::settings::settings;
use crate::status::{self, HipError, HipResult};

/// Streams that programs made.
pub(crate) static STREAMS: Registry<Stream> = Registry::new();

/// Events that programs made.
pub(crate) static EVENTS: Registry<Event> = Registry::new();

/// Graphs.
pub(crate) static GRAPHS: Registry<Vec<Work>> = Registry::new();

/// Executable graphs.
pub(crate) static EXECUTABLES: Registry<Vec<Work>> = Registry::new();

/// The default stream of each device.
static DEFAULTS: LazyLock<Vec<Arc<Stream>>> = LazyLock::new(|| {
    (0..settings().architectures.len()).map(|device| Stream::start(device, Kind::Default)).collect()
});

/// How a stream stands to the default stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It is the default stream: it waits for blocking streams, and they for it.
    Default,
    /// Made without flags.
    Blocking,
    /// Made with `hipStreamNonBlocking`.
    NonBlocking,
}

/// A stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) device: usize,
    pub(crate) kind: Kind,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Work>,
    /// Works ever submitted, and ever done.
    submitted: u64,
    done: u64,
    /// No work will come: the thread ends with the queue.
    closed: bool,
    /// The capture that the stream takes part in, instead of working.
    capture: Option<Arc<Capture>>,
}

impl Stream {
    /// Makes a stream and starts its thread.
    pub(crate) fn start(device: usize, kind: Kind) -> Arc<Self> {
        let stream = Arc::new(Self { device, kind, state: Mutex::default(), changed: Condvar::new() });
        let own = Arc::clone(&stream);
        let started = std::thread::Builder::new().name("hipsim-stream".to_owned()).spawn(move || own.work());
        if let Err(error) = started {
            status::report(&format!("no thread for a stream: {error}"));
        }
        stream
    }

    /// The stream of a handle; 0 is the device's default stream.
    pub(crate) fn of_handle(handle: usize, device: usize) -> HipResult<Arc<Self>> {
        if handle == 0 {
            return DEFAULTS.get(device).cloned().ok_or(HipError::InvalidDevice);
        }
        STREAMS.get(handle)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        loop {
            let mut state = self.lock();
            while state.queue.is_empty() {
                if state.closed {
                    return;
                }
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let Some(work) = state.queue.pop_front() else { continue };
            drop(state);
            if !settings().delay.is_zero() {
                std::thread::sleep(settings().delay);
            }
            work.run();
            // What the work holds (events, modules) goes before anybody hears that it is done.
            drop(work);
            self.lock().done += 1;
            self.changed.notify_all();
        }
    }

    /// Ends the stream when its work is done.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn push(&self, work: Work) {
        let mut state = self.lock();
        state.queue.push_back(work);
        state.submitted += 1;
        drop(state);
        self.changed.notify_all();
    }

    /// Works submitted until now, and whether some are not done.
    fn ticket(&self) -> (u64, bool) {
        let state = self.lock();
        (state.submitted, state.submitted > state.done)
    }

    /// Waits until as many works are done.
    fn wait_until(&self, ticket: u64) {
        let mut state = self.lock();
        while state.done < ticket {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn capture(&self) -> Option<Arc<Capture>> {
        self.lock().capture.clone()
    }

    /// `hipStreamCaptureStatus`: 0 none, 1 active, 2 invalidated.
    pub(crate) fn capture_status(&self) -> i32 {
        self.capture().map_or(0, |capture| if capture.is_valid() { 1 } else { 2 })
    }

    /// Submits work: to the queue, or to the capture if there is one.
    pub(crate) fn submit(self: &Arc<Self>, work: Work) -> HipResult<()> {
        status::check_fault()?;
        if let Some(capture) = self.capture() {
            return capture.push(self, work);
        }
        match self.kind {
            Kind::NonBlocking => {}
            Kind::Default => {
                capture::refuse_default_stream()?;
                for other in STREAMS.all() {
                    if other.device == self.device && other.kind == Kind::Blocking {
                        self.wait_for_stream(&other);
                    }
                }
            }
            Kind::Blocking => {
                if let Some(default) = DEFAULTS.get(self.device) {
                    self.wait_for_stream(default);
                }
            }
        }
        self.push(work);
        Ok(())
    }

    fn wait_for_stream(&self, other: &Arc<Self>) {
        let (ticket, busy) = other.ticket();
        if busy {
            self.push(Work::WaitForStream { stream: Arc::clone(other), ticket });
        }
    }

    /// Waits for all work submitted until now.
    pub(crate) fn synchronize(&self) -> HipResult<()> {
        if let Some(capture) = self.capture() {
            capture.invalidate();
            return Err(HipError::CaptureUnsupported);
        }
        self.wait_until(self.ticket().0);
        status::check_fault()
    }

    /// Fails with `NotReady` while work is left.
    pub(crate) fn query(&self) -> HipResult<()> {
        if let Some(capture) = self.capture() {
            capture.invalidate();
            return Err(HipError::CaptureUnsupported);
        }
        status::check_fault()?;
        if self.ticket().1 { Err(HipError::NotReady) } else { Ok(()) }
    }

    /// Records an event: it happens when the work submitted until now is done.
    pub(crate) fn record(self: &Arc<Self>, event: &Arc<Event>) -> HipResult<()> {
        if let Some(capture) = self.capture() {
            return capture.record(self, event);
        }
        let generation = event.begin();
        self.submit(Work::Record { event: Arc::clone(event), generation })
    }

    /// Lets work submitted from now on wait for an event.
    pub(crate) fn wait_for(self: &Arc<Self>, event: &Arc<Event>) -> HipResult<()> {
        if let Some(mark) = event.capture_mark() {
            return capture::join(self, &mark);
        }
        if let Some(capture) = self.capture() {
            capture.invalidate();
            return Err(HipError::CaptureIsolation);
        }
        let generation = event.recorded();
        if generation == 0 {
            return Ok(());
        }
        self.submit(Work::WaitForEvent { event: Arc::clone(event), generation })
    }
}

/// Waits for all work of a device.
pub(crate) fn synchronize_device(device: usize) -> HipResult<()> {
    refuse_in_capture()?;
    let mut streams = STREAMS.all();
    streams.extend(DEFAULTS.get(device).cloned());
    for stream in streams.iter().filter(|stream| stream.device == device && stream.capture().is_none()) {
        stream.wait_until(stream.ticket().0);
    }
    status::check_fault()
}
