//! Memory: allocation, copies, fills.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::Arc;

use super::{current, store};
use crate::memory::{self, Found, Place};
use crate::status::{self, HipError, HipResult, code};
use crate::stream::{Stream, Work, refuse_in_capture, synchronize_device};

/// Kinds of copies: `hipMemcpyKind`.
const HOST_TO_HOST: c_int = 0;
const HOST_TO_DEVICE: c_int = 1;
const DEVICE_TO_HOST: c_int = 2;
const DEVICE_TO_DEVICE: c_int = 3;
const BY_ADDRESS: c_int = 4;

fn allocate(place: impl FnOnce(usize) -> Place, bytes: usize) -> HipResult<*mut c_void> {
    status::check_fault()?;
    refuse_in_capture()?;
    memory::allocate(place(current()?), bytes).map(|address| address as *mut c_void)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hipMalloc(to: *mut *mut c_void, bytes: usize) -> c_int {
    // SAFETY: the caller passes a pointer to a result.
    code(allocate(Place::Device, bytes).and_then(|address| unsafe { store(to, address) }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hipHostMalloc(to: *mut *mut c_void, bytes: usize, _flags: c_uint) -> c_int {
    // SAFETY: the caller passes a pointer to a result.
    code(allocate(|_| Place::Pinned, bytes).and_then(|address| unsafe { store(to, address) }))
}

fn free(address: *mut c_void, pinned: bool) -> HipResult<()> {
    refuse_in_capture()?;
    // As in HIP: what still uses the memory ends first.
    let waited = synchronize_device(current()?);
    memory::free(address as usize, pinned)?;
    waited
}

#[unsafe(no_mangle)]
extern "C" fn hipFree(address: *mut c_void) -> c_int {
    code(free(address, false))
}

#[unsafe(no_mangle)]
extern "C" fn hipHostFree(address: *mut c_void) -> c_int {
    code(free(address, true))
}

/// A copy as it was asked for.
struct Request {
    to: usize,
    from: usize,
    bytes: usize,
    kind: c_int,
}

/// Checks that the ends of a copy are what its kind says.
fn check(request: &Request) -> HipResult<(Found, Found)> {
    let to = memory::find(request.to, request.bytes)?;
    let from = memory::find(request.from, request.bytes)?;
    let is_device = |found: Found| matches!(found, Found::Inside(Place::Device(_)));
    let (to_device, from_device) = match request.kind {
        HOST_TO_HOST => (false, false),
        HOST_TO_DEVICE => (true, false),
        DEVICE_TO_HOST => (false, true),
        // Pinned memory is also reached from devices.
        DEVICE_TO_DEVICE => (to != Found::Elsewhere, from != Found::Elsewhere),
        BY_ADDRESS => (is_device(to), is_device(from)),
        _ => return Err(HipError::InvalidValue),
    };
    let device_wanted = request.kind == DEVICE_TO_DEVICE && !(to_device && from_device);
    let kinds_differ =
        request.kind != DEVICE_TO_DEVICE && (to_device, from_device) != (is_device(to), is_device(from));
    if device_wanted || kinds_differ { Err(HipError::InvalidValue) } else { Ok((to, from)) }
}

/// Submits a copy.
///
/// # Safety
///
/// Ends that are not ours are memory of the host of `bytes` length.
unsafe fn submit(stream: &Arc<Stream>, request: &Request) -> HipResult<()> {
    if request.bytes == 0 {
        return Ok(());
    }
    let (to, from) = check(request)?;
    let Request { to: to_address, from: from_address, bytes, .. } = *request;
    if from == Found::Elsewhere {
        // Pageable memory is read before the call returns, as HIP does by way of a staging buffer.
        // SAFETY: the caller passes as much readable memory of the host.
        let read = unsafe { std::slice::from_raw_parts(from_address as *const u8, bytes) };
        stream.submit(Work::CopyRead { to: to_address, bytes: Arc::from(read) })?;
    } else {
        stream.submit(Work::Copy { to: to_address, from: from_address, bytes })?;
    }
    // And written before it returns.
    if to == Found::Elsewhere { stream.synchronize() } else { Ok(()) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hipMemcpyAsync(
    to: *mut c_void,
    from: *const c_void,
    bytes: usize,
    kind: c_int,
    stream: usize,
) -> c_int {
    let request = Request { to: to as usize, from: from as usize, bytes, kind };
    let stream = current().and_then(|device| Stream::of_handle(stream, device));
    // SAFETY: the caller passes memory of that length.
    code(stream.and_then(|stream| unsafe { submit(&stream, &request) }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hipMemcpy(to: *mut c_void, from: *const c_void, bytes: usize, kind: c_int) -> c_int {
    let request = Request { to: to as usize, from: from as usize, bytes, kind };
    let result = refuse_in_capture().and_then(|()| {
        let stream = Stream::of_handle(0, current()?)?;
        // SAFETY: the caller passes memory of that length.
        unsafe { submit(&stream, &request) }?;
        stream.synchronize()
    });
    code(result)
}

fn fill(stream: &Arc<Stream>, to: *mut c_void, value: c_int, bytes: usize) -> HipResult<()> {
    if bytes == 0 {
        return Ok(());
    }
    let to = to as usize;
    match memory::find(to, bytes)? {
        Found::Inside(_) => {
            let value = value.to_le_bytes()[0];
            stream.submit(Work::Fill { to, value, bytes })
        }
        Found::Elsewhere => Err(HipError::InvalidValue),
    }
}

#[unsafe(no_mangle)]
extern "C" fn hipMemsetAsync(to: *mut c_void, value: c_int, bytes: usize, stream: usize) -> c_int {
    let stream = current().and_then(|device| Stream::of_handle(stream, device));
    code(stream.and_then(|stream| fill(&stream, to, value, bytes)))
}

#[unsafe(no_mangle)]
extern "C" fn hipMemset(to: *mut c_void, value: c_int, bytes: usize) -> c_int {
    let result = refuse_in_capture().and_then(|()| {
        let stream = Stream::of_handle(0, current()?)?;
        fill(&stream, to, value, bytes)?;
        stream.synchronize()
    });
    code(result)
}
