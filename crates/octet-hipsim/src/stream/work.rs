//! One piece of work of a stream.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Event, Stream};
use crate::blaslt::Product;
use crate::execute::{self, Launch};
use crate::memory;
use crate::settings::{NthLaunch, settings};
use crate::status::{self, HipError};

/// What a stream's thread does.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    /// Executes a kernel.
    Launch(Launch),
    /// Copies between two places in device or pinned memory, or to pageable memory whose owner waits.
    Copy { to: usize, from: usize, bytes: usize },
    /// Copies from pageable memory that was read when the call was made.
    CopyRead { to: usize, bytes: Arc<[u8]> },
    /// Fills memory with a byte.
    Fill { to: usize, value: u8, bytes: usize },
    /// Computes a matrix product.
    Product(Arc<Product>),
    /// An event happens.
    Record { event: Arc<Event>, generation: u64 },
    /// Waits for an event.
    WaitForEvent { event: Arc<Event>, generation: u64 },
    /// Waits for another stream.
    WaitForStream { stream: Arc<Stream>, ticket: u64 },
    /// Replays a graph.
    Graph(Arc<Vec<Work>>),
}

impl Work {
    /// Does the work. After a fault only order is kept: who waits must not wait forever.
    pub(super) fn run(&self) {
        let failed = status::check_fault().is_err();
        match self {
            Self::Record { event, generation } => event.happen(*generation),
            Self::WaitForEvent { event, generation } => event.wait(*generation),
            Self::WaitForStream { stream, ticket } => stream.wait_until(*ticket),
            Self::Graph(works) => works.iter().for_each(Self::run),
            _ if failed => {}
            Self::Launch(launch) => run_launch(launch),
            Self::Product(product) => {
                if let Err(message) = product.compute() {
                    status::set_fault(HipError::IllegalAddress, message);
                }
            }
            Self::Copy { to, from, bytes } => copy(*to, *from, *bytes),
            Self::CopyRead { to, bytes } => copy(*to, bytes.as_ptr() as usize, bytes.len()),
            Self::Fill { to, value, bytes } => {
                if in_reach(*to, *bytes) {
                    // SAFETY: the range lies in an allocation that is live, or the check would have failed.
                    unsafe { std::ptr::write_bytes(*to as *mut u8, *value, *bytes) };
                }
            }
        }
    }
}

/// Whether memory can be reached; if not, that is a fault. Looked at again here, because a graph may be replayed after
/// its memory was freed.
fn in_reach(address: usize, bytes: usize) -> bool {
    let reached = memory::find(address, bytes).is_ok();
    if !reached {
        let message =
            format!("a copy or fill of {bytes} bytes at {address:#x} reaches memory that is not allocated");
        status::set_fault(HipError::IllegalAddress, message);
    }
    reached
}

fn copy(to: usize, from: usize, bytes: usize) {
    if in_reach(to, bytes) && in_reach(from, bytes) {
        // SAFETY: both ranges are live allocations, or memory of the host that the caller of the C function vouches for.
        unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) };
    }
}

/// Counts launches of kernels that a fault was asked for.
fn is_meant(meant: Option<&NthLaunch>, launch: &Launch) -> bool {
    static LAUNCHES: Mutex<Option<HashMap<String, u64>>> = Mutex::new(None);
    let Some(meant) = meant.filter(|meant| meant.kernel == launch.function.name) else { return false };
    let mut launches = LAUNCHES.lock().unwrap_or_else(PoisonError::into_inner);
    let count = launches.get_or_insert_default().entry(meant.kernel.clone()).or_default();
    *count += 1;
    *count == meant.launch
}

fn run_launch(launch: &Launch) {
    let name = &launch.function.name;
    if is_meant(settings().hang.as_ref(), launch) {
        status::report(&format!("kernel {name} never ends, as OCTET_HIPSIM_HANG asks"));
        loop {
            std::thread::park();
        }
    }
    if is_meant(settings().fault.as_ref(), launch) {
        let message = format!("kernel {name} fails, as OCTET_HIPSIM_FAULT asks");
        status::set_fault(HipError::LaunchFailure, message);
        return;
    }
    if let Err(fault) = execute::run(launch.clone()) {
        status::set_fault(fault.error, fault.message);
    }
}
