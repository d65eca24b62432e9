//! Streams, events, captures and graphs.

use std::ffi::{c_char, c_int, c_uint, c_ulonglong, c_void};
use std::sync::Arc;

use super::{current, store};
use crate::status::{HipError, HipResult, code};
use crate::stream::{self, EVENTS, EXECUTABLES, Event, GRAPHS, Kind, Mode, STREAMS, Stream, Work};

/// `hipStreamNonBlocking`.
const NON_BLOCKING: c_uint = 1;

fn of_handle(handle: usize) -> HipResult<Arc<Stream>> {
    Stream::of_handle(handle, current()?)
}

fn create(flags: c_uint) -> HipResult<usize> {
    stream::refuse_in_capture()?;
    let kind = match flags {
        0 => Kind::Blocking,
        NON_BLOCKING => Kind::NonBlocking,
        _ => return Err(HipError::InvalidValue),
    };
    Ok(STREAMS.insert(Stream::start(current()?, kind)))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hipStreamCreateWithFlags(to: *mut usize, flags: c_uint) -> c_int {
    // SAFETY: the caller passes a pointer to a result.
    code(create(flags).and_then(|handle| unsafe { store(to, handle) }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hipStreamCreate(to: *mut usize) -> c_int {
    // SAFETY: the caller's promise is the same.
    unsafe { hipStreamCreateWithFlags(to, 0) }
}

#[unsafe(no_mangle)]
extern "C" fn hipStreamDestroy(handle: usize) -> c_int {
    code(STREAMS.remove(handle).map(|stream| stream.close()))
}

#[unsafe(no_mangle)]
extern "C" fn hipStreamSynchronize(handle: usize) -> c_int {
    code(of_handle(handle).and_then(|stream| stream.synchronize()))
}

#[unsafe(no_mangle)]
extern "C" fn hipStreamQuery(handle: usize) -> c_int {
    code(of_handle(handle).and_then(|stream| stream.query()))
}

#[unsafe(no_mangle)]
extern "C" fn hipStreamWaitEvent(handle: usize, event: usize, flags: c_uint) -> c_int {
    let wait = || {
        let (stream, event) = (of_handle(handle)?, EVENTS.get(event)?);
        if flags == 0 { stream.wait_for(&event) } else { Err(HipError::InvalidValue) }
    };
    code(wait())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hipEventCreateWithFlags(to: *mut usize, _flags: c_uint) -> c_int {
    let handle = EVENTS.insert(Arc::new(Event::default()));
    // SAFETY: the caller passes a pointer to a result.
    code(unsafe { store(to, handle) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hipEventCreate(to: *mut usize) -> c_int {
    // SAFETY: the caller's promise is the same.
    unsafe { hipEventCreateWithFlags(to, 0) }
}

#[unsafe(no_mangle)]
extern "C" fn hipEventDestroy(event: usize) -> c_int {
    code(EVENTS.remove(event).map(|_| ()))
}

#[unsafe(no_mangle)]
extern "C" fn hipEventRecord(event: usize, handle: usize) -> c_int {
    let record = || of_handle(handle)?.record(&EVENTS.get(event)?);
    code(record())
}

#[unsafe(no_mangle)]
extern "C" fn hipEventSynchronize(event: usize) -> c_int {
    code(EVENTS.get(event).and_then(|event| event.synchronize()))
}

#[unsafe(no_mangle)]
extern "C" fn hipEventQuery(event: usize) -> c_int {
    code(EVENTS.get(event).and_then(|event| event.query()))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hipEventElapsedTime(to: *mut f32, from: usize, until: usize) -> c_int {
    let elapsed = || {
        let (from, until) = (EVENTS.get(from)?.time()?, EVENTS.get(until)?.time()?);
        Ok(until.saturating_duration_since(from).as_secs_f32() * 1e3)
    };
    // SAFETY: the caller passes a pointer to a result.
    code(elapsed().and_then(|milliseconds| unsafe { store(to, milliseconds) }))
}

#[unsafe(no_mangle)]
extern "C" fn hipStreamBeginCapture(handle: usize, mode: c_int) -> c_int {
    let mode = match mode {
        0 => Ok(Mode::Global),
        1 => Ok(Mode::ThreadLocal),
        2 => Ok(Mode::Relaxed),
        _ => Err(HipError::InvalidValue),
    };
    code(mode.and_then(|mode| stream::begin(&of_handle(handle)?, mode)))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hipStreamEndCapture(handle: usize, to: *mut usize) -> c_int {
    let end = || stream::end(&of_handle(handle)?).map(|works| GRAPHS.insert(Arc::new(works)));
    // SAFETY: the caller passes a pointer to a result.
    code(end().and_then(|graph| unsafe { store(to, graph) }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hipStreamIsCapturing(handle: usize, to: *mut c_int) -> c_int {
    let status = of_handle(handle).map(|stream| stream.capture_status());
    // SAFETY: the caller passes a pointer to a result.
    code(status.and_then(|status| unsafe { store(to, status) }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hipGraphInstantiate(
    to: *mut usize,
    graph: usize,
    _error_node: *mut c_void,
    _log: *mut c_char,
    _log_bytes: usize,
) -> c_int {
    // The works do not change, so that graph and executable graph share them.
    // SAFETY: the caller passes a pointer to a result.
    code(GRAPHS.get(graph).and_then(|works| unsafe { store(to, EXECUTABLES.insert(works)) }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hipGraphInstantiateWithFlags(
    to: *mut usize,
    graph: usize,
    _flags: c_ulonglong,
) -> c_int {
    // SAFETY: the caller passes a pointer to a result.
    code(GRAPHS.get(graph).and_then(|works| unsafe { store(to, EXECUTABLES.insert(works)) }))
}

/// Uploading early makes no difference here.
#[unsafe(no_mangle)]
extern "C" fn hipGraphUpload(executable: usize, handle: usize) -> c_int {
    code(EXECUTABLES.get(executable).and_then(|_| of_handle(handle)).map(|_| ()))
}

#[unsafe(no_mangle)]
extern "C" fn hipGraphLaunch(executable: usize, handle: usize) -> c_int {
    let launch = || of_handle(handle)?.submit(Work::Graph(EXECUTABLES.get(executable)?));
    code(launch())
}

/// Number of works of a graph; the nodes themselves are not shown.
#[unsafe(no_mangle)]
unsafe extern "C" fn hipGraphGetNodes(graph: usize, nodes: *mut c_void, count: *mut usize) -> c_int {
    let works = if nodes.is_null() { GRAPHS.get(graph) } else { Err(HipError::NotSupported) };
    // SAFETY: the caller passes a pointer to a result.
    code(works.and_then(|works| unsafe { store(count, works.len()) }))
}

#[unsafe(no_mangle)]
extern "C" fn hipGraphDestroy(graph: usize) -> c_int {
    code(GRAPHS.remove(graph).map(|_| ()))
}

#[unsafe(no_mangle)]
extern "C" fn hipGraphExecDestroy(executable: usize) -> c_int {
    code(EXECUTABLES.remove(executable).map(|_| ()))
}
