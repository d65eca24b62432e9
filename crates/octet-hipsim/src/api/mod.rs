//! The functions that the shared library exports, with AMD's names and signatures.
//!
//! Each turns numbers and pointers of C into values, calls the simulator, and turns the result into a code. Pointers are
//! checked for null where HIP checks them; that the others are good is the caller's promise, as in C.

mod blaslt;
mod device;
mod hiprtc;
mod memory;
mod module;
mod stream;

use std::cell::Cell;

use crate::profile::{Profile, of_name};
use crate::settings::settings;
use crate::status::{HipError, HipResult};

thread_local! {
    /// The current device of a thread, as an index into the visible ones.
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// The index of a visible device among all.
fn visible(device: i32) -> HipResult<usize> {
    let visible = &settings().visible;
    if visible.is_empty() {
        return Err(HipError::NoDevice);
    }
    let device = usize::try_from(device).map_err(|_| HipError::InvalidDevice)?;
    visible.get(device).copied().ok_or(HipError::InvalidDevice)
}

/// The current device of this thread, as an index among all.
fn current() -> HipResult<usize> {
    visible(i32::try_from(CURRENT.get()).unwrap_or(-1))
}

fn profile(device: usize) -> HipResult<&'static Profile> {
    settings().architectures.get(device).and_then(|name| of_name(name)).ok_or(HipError::InvalidDevice)
}

/// Stores a result for the caller.
///
/// # Safety
///
/// `to` is null or can be written.
unsafe fn store<T>(to: *mut T, value: T) -> HipResult<()> {
    if to.is_null() {
        return Err(HipError::InvalidValue);
    }
    // SAFETY: not null, so by the caller's promise it can be written. It need not be aligned in foreign structs.
    unsafe { to.write_unaligned(value) };
    Ok(())
}
