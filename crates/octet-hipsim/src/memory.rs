//! Device and pinned memory.
//!
//! An allocation ends at a page that faults and begins behind another, is filled with 0xff (a NaN in every format that
//! Octet uses but FNUZ), and its addresses are never given out again: reading what nobody wrote, running over an end
//! and using what was freed all show.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::settings::settings;
use crate::status::{HipError, HipResult};

/// Allocations are aligned to this and end within it of their guard page. HIP aligns to 256, but then an overrun by a
/// vector would stay unseen; no kernel of ours needs more than a vector's alignment.
const ALIGNMENT: usize = 16;

/// What fresh memory and LDS hold.
pub(crate) const POISON: u8 = 0xff;

/// Where an allocation's bytes belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A device's memory, by index.
    Device(usize),
    /// Pinned memory of the host, which devices reach too.
    Pinned,
    /// Memory that was freed: its addresses stay taken, so that using them is seen.
    Freed,
}

#[derive(Debug)]
struct Allocation {
    place: Place,
    start: usize,
    bytes: usize,
    mapping_bytes: usize,
}

/// Allocations by the address of their mapping, guard pages included.
static ALLOCATIONS: Mutex<BTreeMap<usize, Allocation>> = Mutex::new(BTreeMap::new());

fn allocations() -> MutexGuard<'static, BTreeMap<usize, Allocation>> {
    ALLOCATIONS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes of a page.
pub(crate) fn page_bytes() -> usize {
    // SAFETY: sysconf only reads a constant of the system.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).unwrap_or(4096)
}

fn used(allocations: &BTreeMap<usize, Allocation>, place: Place) -> usize {
    allocations.values().filter(|allocation| allocation.place == place).map(|found| found.bytes).sum()
}

/// Maps `bytes` of readable memory between two pages that fault. Returns the mapping and its whole length.
fn map_guarded(bytes: usize) -> HipResult<(usize, usize)> {
    let page = page_bytes();
    let whole = bytes.next_multiple_of(page) + 2 * page;
    // SAFETY: a fresh anonymous mapping; nothing is placed at a fixed address.
    let mapping = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            whole,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if mapping == libc::MAP_FAILED {
        return Err(HipError::OutOfMemory);
    }
    // SAFETY: the range lies within the mapping just made.
    let opened = unsafe {
        libc::mprotect(mapping.byte_add(page), whole - 2 * page, libc::PROT_READ | libc::PROT_WRITE)
    };
    if opened == 0 { Ok((mapping as usize, whole)) } else { Err(HipError::OutOfMemory) }
}

/// Allocates `bytes`; the address of the first is returned. Zero bytes are a null pointer, as in HIP.
pub(crate) fn allocate(place: Place, bytes: usize) -> HipResult<usize> {
    if bytes == 0 {
        return Ok(0);
    }
    let mut allocations = allocations();
    if let Place::Device(_) = place
        && bytes > settings().memory_bytes.saturating_sub(used(&allocations, place))
    {
        return Err(HipError::OutOfMemory);
    }
    let (mapping, mapping_bytes) = map_guarded(bytes)?;
    let end = mapping + mapping_bytes - page_bytes();
    let start = end - bytes.next_multiple_of(ALIGNMENT);
    // SAFETY: the mapping is open from its second page to `end`, and nobody else knows it yet.
    unsafe {
        std::ptr::write_bytes((mapping + page_bytes()) as *mut u8, POISON, mapping_bytes - 2 * page_bytes())
    };
    allocations.insert(mapping, Allocation { place, start, bytes, mapping_bytes });
    Ok(start)
}

/// Frees the allocation that begins at `start`; its addresses fault from now on.
pub(crate) fn free(start: usize, pinned: bool) -> HipResult<()> {
    if start == 0 {
        return Ok(());
    }
    let mut allocations = allocations();
    let (mapping, freed) = allocations.range_mut(..=start).next_back().ok_or(HipError::InvalidValue)?;
    let is_kind = match freed.place {
        Place::Device(_) => !pinned,
        Place::Pinned => pinned,
        Place::Freed => false,
    };
    if freed.start != start || !is_kind {
        return Err(HipError::InvalidValue);
    }
    freed.place = Place::Freed;
    // SAFETY: the range is the mapping that `map_guarded` made. It is replaced, not unmapped, so that the addresses
    // stay taken and keep faulting.
    unsafe {
        libc::mmap(
            *mapping as *mut libc::c_void,
            freed.mapping_bytes,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED,
            -1,
            0,
        );
    }
    Ok(())
}

/// What stands at `address..address + bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Wholly inside an allocation.
    Inside(Place),
    /// Not ours: pageable memory of the host.
    Elsewhere,
}

/// Looks an address range up. A range that begins in an allocation and leaves it is an error.
pub(crate) fn find(address: usize, bytes: usize) -> HipResult<Found> {
    let allocations = allocations();
    if address == 0 && bytes > 0 {
        return Err(HipError::InvalidValue);
    }
    let below = allocations.range(..=address).next_back();
    if let Some((mapping, allocation)) = below
        && address < mapping + allocation.mapping_bytes
    {
        let Allocation { place, start, bytes: allocated, .. } = *allocation;
        let end = address.checked_add(bytes);
        let inside = address >= start && end.is_some_and(|end| end <= start + allocated);
        let live = place != Place::Freed;
        return if inside && live { Ok(Found::Inside(place)) } else { Err(HipError::InvalidValue) };
    }
    Ok(Found::Elsewhere)
}

/// Free and total bytes of a device.
pub(crate) fn information(device: usize) -> (usize, usize) {
    let total = settings().memory_bytes;
    (total.saturating_sub(used(&allocations(), Place::Device(device))), total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allocation_is_poisoned_and_ends_at_its_guard() {
        let start = allocate(Place::Device(0), 1000).unwrap();
        assert_eq!(start % ALIGNMENT, 0);
        assert_eq!((start + 1008) % page_bytes(), 0, "only the slack of the alignment is behind the end");
        // SAFETY: the thousand bytes were just allocated.
        let bytes = unsafe { std::slice::from_raw_parts(start as *const u8, 1000) };
        assert!(bytes.iter().all(|byte| *byte == POISON));
        assert_eq!(find(start, 1000), Ok(Found::Inside(Place::Device(0))));
        assert_eq!(find(start + 8, 992), Ok(Found::Inside(Place::Device(0))));
        assert_eq!(find(start + 8, 993), Err(HipError::InvalidValue));
        assert_eq!(free(start, true), Err(HipError::InvalidValue), "it is not pinned memory");
        assert_eq!(free(start + 16, false), Err(HipError::InvalidValue), "not its first byte");
        assert_eq!(free(start, false), Ok(()));
        assert_eq!(free(start, false), Err(HipError::InvalidValue), "twice");
        assert_eq!(find(start, 1), Err(HipError::InvalidValue), "freed");
        assert_eq!(find((&raw const bytes) as usize, 1), Ok(Found::Elsewhere));
    }

    #[test]
    fn memory_runs_out() {
        let (_, total) = information(3);
        assert_eq!(allocate(Place::Device(3), total + 1), Err(HipError::OutOfMemory));
        let half = allocate(Place::Device(3), total / 2).unwrap();
        assert_eq!(information(3).0, total - total / 2);
        assert_eq!(allocate(Place::Device(3), total), Err(HipError::OutOfMemory));
        free(half, false).unwrap();
        assert_eq!(information(3), (total, total));
    }
}
