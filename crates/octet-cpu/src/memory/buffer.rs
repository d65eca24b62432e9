//! A zeroed array with the alignment that kernels want.
//!
//! Large buffers are mapped, aligned to 2 MiB and marked for huge pages: a decode step reads every weight once, and
//! with 4 KiB pages the walks of the page table cost more than a tenth of the bandwidth. Their pages are not touched
//! here, so that on a machine with several memory nodes each page lands near the thread that first writes it.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice;

use octet_backend::BackendError;

/// A cache line, and the widest vector.
const SMALL_ALIGNMENT: usize = 64;
/// A huge page on x86-64, and on aarch64 with 4 KiB pages.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Types for which every pattern of bits is a value, zero included.
///
/// # Safety
/// That must be so, and the type must have no padding.
pub(crate) unsafe trait Plain: Copy + Send + Sync + 'static {}

// SAFETY: integers and floating-point numbers have no invalid patterns and no padding.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for u16 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for usize {}
// SAFETY: as above.
unsafe impl Plain for f32 {}

/// A fixed array of zeros on its own memory: 64-byte aligned, and 2 MiB aligned on huge pages when it is that large.
pub(crate) struct AlignedBuffer<T: Plain> {
    start: NonNull<T>,
    len: usize,
    /// Bytes of the allocation, or of the mapping if `mapped`; 0 if there is none.
    bytes: usize,
    mapped: bool,
}

// SAFETY: the buffer owns its memory, as a Vec does.
unsafe impl<T: Plain> Send for AlignedBuffer<T> {}
// SAFETY: shared access only reads.
unsafe impl<T: Plain> Sync for AlignedBuffer<T> {}

impl<T: Plain> AlignedBuffer<T> {
    /// Allocates `len` zeros.
    ///
    /// # Errors
    /// No memory, or more than the process may use.
    pub(crate) fn zeroed(len: usize) -> Result<Self, BackendError> {
        let no_room = |requested_bytes| BackendError::OutOfMemory { what: "a buffer", requested_bytes };
        let bytes = len.checked_mul(size_of::<T>()).ok_or_else(|| no_room(usize::MAX))?;
        if bytes == 0 {
            return Ok(Self { start: NonNull::dangling(), len, bytes, mapped: false });
        }
        if bytes >= HUGE_PAGE_BYTES && cfg!(unix) {
            // A mapping larger than memory would succeed, and the process be killed when it is touched.
            if bytes > super::device_memory().free_bytes {
                return Err(no_room(bytes));
            }
            let mapped_bytes = bytes.next_multiple_of(HUGE_PAGE_BYTES);
            let start = map_huge(mapped_bytes).ok_or_else(|| no_room(bytes))?;
            return Ok(Self { start: start.cast(), len, bytes: mapped_bytes, mapped: true });
        }
        let layout = Self::layout(bytes).ok_or_else(|| no_room(bytes))?;
        // SAFETY: the layout's size is not zero.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(|| no_room(bytes))?;
        Ok(Self { start: start.cast(), len, bytes, mapped: false })
    }

    fn layout(bytes: usize) -> Option<Layout> {
        Layout::from_size_align(bytes, SMALL_ALIGNMENT).ok()
    }
}

impl<T: Plain> Deref for AlignedBuffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `start` is aligned and points to `len` initialised elements (zeros at first), or is dangling for 0.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Plain> DerefMut for AlignedBuffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `self` is borrowed alone.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T: Plain> Drop for AlignedBuffer<T> {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        if self.mapped {
            unmap(self.start.cast(), self.bytes);
        } else if let Some(layout) = Self::layout(self.bytes) {
            // SAFETY: allocated in `zeroed` with this layout, and freed once.
            unsafe { dealloc(self.start.as_ptr().cast(), layout) };
        }
    }
}

/// Maps `bytes` (a multiple of a huge page) of zeros at a multiple of a huge page.
#[cfg(unix)]
fn map_huge(bytes: usize) -> Option<NonNull<u8>> {
    let reserved = bytes.checked_add(HUGE_PAGE_BYTES)?;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a fresh anonymous mapping touches no other memory.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), reserved, protection, flags, -1, 0) };
    if base == libc::MAP_FAILED {
        return None;
    }
    let base = base.cast::<u8>();
    let before = base.addr().next_multiple_of(HUGE_PAGE_BYTES) - base.addr();
    let after = reserved - before - bytes;
    // SAFETY: `before + bytes + after` is the whole mapping, so each piece lies inside it, and nothing uses the ends.
    unsafe {
        let start = base.add(before);
        if before > 0 {
            libc::munmap(base.cast(), before);
        }
        if after > 0 {
            libc::munmap(start.add(bytes).cast(), after);
        }
        // Advice: without huge pages the buffer works as well, only slower.
        #[cfg(target_os = "linux")]
        libc::madvise(start.cast(), bytes, libc::MADV_HUGEPAGE);
        NonNull::new(start)
    }
}

#[cfg(not(unix))]
fn map_huge(_bytes: usize) -> Option<NonNull<u8>> {
    None
}

#[cfg(unix)]
fn unmap(start: NonNull<u8>, bytes: usize) {
    // SAFETY: the owner of this whole mapping drops it, so nothing refers to it.
    unsafe { libc::munmap(start.as_ptr().cast(), bytes) };
}

#[cfg(not(unix))]
fn unmap(_start: NonNull<u8>, _bytes: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_zero() {
        for len in [0, 1, 17, 4096, HUGE_PAGE_BYTES / 4 - 1, HUGE_PAGE_BYTES / 4, 3_000_001] {
            let mut buffer = AlignedBuffer::<f32>::zeroed(len).unwrap();
            assert_eq!(buffer.len(), len);
            assert!(buffer.iter().all(|&value| value == 0.0));
            let alignment = if len * 4 >= HUGE_PAGE_BYTES { HUGE_PAGE_BYTES } else { SMALL_ALIGNMENT };
            assert!(len == 0 || buffer.as_ptr().addr().is_multiple_of(alignment), "{len}");
            if let Some(last) = buffer.last_mut() {
                *last = 1.0;
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        for len in [usize::MAX, usize::MAX / 8, 1 << 50] {
            assert!(matches!(AlignedBuffer::<f32>::zeroed(len), Err(BackendError::OutOfMemory { .. })));
        }
    }
}
