//! HIP's result codes, the last error of a thread, and the fault after which a device answers nothing else.

use std::cell::Cell;
use std::ffi::CStr;
use std::sync::Mutex;

/// A result that is not success. The numbers are those of `hipError_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum HipError {
    InvalidValue = 1,
    OutOfMemory = 2,
    InvalidConfiguration = 9,
    NoDevice = 100,
    InvalidDevice = 101,
    InvalidImage = 200,
    NoBinaryForDevice = 209,
    InvalidHandle = 400,
    NotFound = 500,
    NotReady = 600,
    IllegalAddress = 700,
    LaunchFailure = 719,
    NotSupported = 801,
    CaptureUnsupported = 900,
    CaptureInvalidated = 901,
    CaptureUnmatched = 903,
    CaptureUnjoined = 904,
    CaptureIsolation = 905,
    CaptureImplicit = 906,
    CapturedEvent = 907,
    CaptureWrongThread = 908,
}

/// What an internal function returns.
pub(crate) type HipResult<T> = Result<T, HipError>;

/// Name and description of a code, as `hipGetErrorName` and `hipGetErrorString` give them.
pub(crate) fn texts(code: i32) -> (&'static CStr, &'static CStr) {
    match code {
        0 => (c"hipSuccess", c"no error"),
        1 => (c"hipErrorInvalidValue", c"invalid argument"),
        2 => (c"hipErrorOutOfMemory", c"out of memory"),
        9 => (c"hipErrorInvalidConfiguration", c"invalid configuration argument"),
        100 => (c"hipErrorNoDevice", c"no ROCm-capable device is detected"),
        101 => (c"hipErrorInvalidDevice", c"invalid device ordinal"),
        200 => (c"hipErrorInvalidImage", c"device kernel image is invalid"),
        209 => (c"hipErrorNoBinaryForGpu", c"no kernel image is available for execution on the device"),
        400 => (c"hipErrorInvalidHandle", c"invalid resource handle"),
        500 => (c"hipErrorNotFound", c"named symbol not found"),
        600 => (c"hipErrorNotReady", c"device not ready"),
        700 => (c"hipErrorIllegalAddress", c"an illegal memory access was encountered"),
        719 => (c"hipErrorLaunchFailure", c"unspecified launch failure"),
        801 => (c"hipErrorNotSupported", c"operation not supported"),
        900 => (c"hipErrorStreamCaptureUnsupported", c"operation not permitted when stream is capturing"),
        901 => {
            (c"hipErrorStreamCaptureInvalidated", c"operation failed due to a previous error during capture")
        }
        903 => (c"hipErrorStreamCaptureUnmatched", c"capture was not initiated in this stream"),
        904 => (c"hipErrorStreamCaptureUnjoined", c"capturing stream has unjoined work"),
        905 => {
            (c"hipErrorStreamCaptureIsolation", c"dependency created on uncaptured work in another stream")
        }
        906 => {
            (c"hipErrorStreamCaptureImplicit", c"operation would make the legacy stream depend on a capture")
        }
        907 => (c"hipErrorCapturedEvent", c"operation not permitted on an event last recorded in a capture"),
        908 => (
            c"hipErrorStreamCaptureWrongThread",
            c"attempt to terminate a thread-local capture sequence from another thread",
        ),
        _ => (c"hipErrorUnknown", c"unknown error"),
    }
}

thread_local! {
    static LAST: Cell<i32> = const { Cell::new(0) };
}

/// The code of the last call that failed in this thread, and none after it if `take`.
pub(crate) fn last(take: bool) -> i32 {
    LAST.with(|last| if take { last.replace(0) } else { last.get() })
}

/// A result as C returns it; failures are remembered for `hipGetLastError`.
pub(crate) fn code(result: HipResult<()>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(error) => {
            if error != HipError::NotReady {
                LAST.with(|last| last.set(error as i32));
            }
            error as i32
        }
    }
}

/// The first fault of a kernel and its message. As on a GPU, nothing works after it.
static FAULT: Mutex<Option<(HipError, String)>> = Mutex::new(None);

fn lock_fault() -> std::sync::MutexGuard<'static, Option<(HipError, String)>> {
    FAULT.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Fails if a kernel has faulted.
pub(crate) fn check_fault() -> HipResult<()> {
    lock_fault().as_ref().map_or(Ok(()), |(error, _)| Err(*error))
}

/// The message of the fault, if there was one.
pub(crate) fn fault_message() -> Option<String> {
    lock_fault().as_ref().map(|(_, message)| message.clone())
}

/// Notes a fault and reports it: silence would hide which kernel it was.
pub(crate) fn set_fault(error: HipError, message: String) {
    report(&message);
    lock_fault().get_or_insert((error, message));
}

/// Forgets the fault, as `hipDeviceReset` does.
pub(crate) fn clear_fault() {
    *lock_fault() = None;
}

/// Tells the person at the terminal; the C interface has no channel for text.
#[expect(clippy::print_stderr, reason = "the one place where the simulator speaks")]
pub(crate) fn report(message: &str) {
    eprintln!("octet-hipsim: {message}");
}
