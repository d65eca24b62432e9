//! Memory of the device and pinned memory of the host.

use std::ffi::c_int;
use std::ptr::{self, NonNull};
use std::slice;

use crate::GpuError;
use crate::driver::api::Special;
use crate::driver::device::Pointer;
use crate::driver::{Device, Stream};

/// Direction of a copy, as HIP numbers it.
#[derive(Clone, Copy)]
#[repr(i32)]
enum Direction {
    ToDevice = 1,
    ToHost = 2,
    Within = 3,
}

/// `hipErrorOutOfMemory` and `CUDA_ERROR_OUT_OF_MEMORY`.
const OUT_OF_MEMORY: c_int = 2;

/// Device memory, given back when it is dropped.
pub(crate) struct DeviceBuffer {
    device: Device,
    pointer: Pointer,
    bytes: usize,
}

impl DeviceBuffer {
    /// Allocates; contents are undefined.
    ///
    /// # Errors
    /// The device has no room: `what` goes into the message.
    pub(crate) fn new(device: &Device, what: &'static str, bytes: usize) -> Result<Self, GpuError> {
        device.bind()?;
        let full = GpuError::OutOfMemory { what, requested_bytes: bytes };
        // No runtime is asked for what no device has: some answer other than by an error.
        if bytes > isize::MAX as usize / 2 || bytes > device.memory().total_bytes {
            return Err(full);
        }
        let mut pointer = ptr::null_mut();
        // SAFETY: the pointer is to a local variable; both runtimes round sizes up, and 0 is made 1.
        let status = unsafe { (device.api().functions.allocate)(&raw mut pointer, bytes.max(1)) };
        if status == OUT_OF_MEMORY {
            return Err(full);
        }
        device.api().check("allocate", status)?;
        Ok(Self { device: device.clone(), pointer: Pointer(pointer), bytes })
    }

    /// Allocates and fills with `bytes`, waiting for the copy.
    ///
    /// # Errors
    /// No room, or the driver's.
    pub(crate) fn holding(stream: &Stream, what: &'static str, bytes: &[u8]) -> Result<Self, GpuError> {
        let mut buffer = Self::new(stream.device(), what, bytes.len())?;
        buffer.write(stream, 0, bytes)?;
        Ok(buffer)
    }

    /// The address on the device.
    pub(crate) fn address(&self) -> u64 {
        self.pointer.0 as u64
    }

    /// Its size.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Copies `source` to `offset` and waits.
    pub(crate) fn write(&mut self, stream: &Stream, offset: usize, source: &[u8]) -> Result<(), GpuError> {
        self.check_range(offset, source.len());
        // SAFETY: the range was checked, and the source lives until the wait is over.
        unsafe { self.copy(stream, offset, source.as_ptr().cast_mut(), source.len(), Direction::ToDevice)? };
        stream.wait()
    }

    /// Starts a copy of the first `bytes` of pinned memory. The host must not touch it before the copy is done.
    pub(crate) fn write_pinned(
        &mut self,
        stream: &Stream,
        offset: usize,
        source: &HostBuffer,
        bytes: usize,
    ) -> Result<(), GpuError> {
        self.check_range(offset, bytes);
        assert!(bytes <= source.bytes, "the source holds {} bytes", source.bytes);
        // SAFETY: both ranges were checked; pinned memory lives until its owner has waited for the stream.
        unsafe { self.copy(stream, offset, source.pointer.as_ptr(), bytes, Direction::ToDevice) }
    }

    /// Starts a copy of `bytes` from `offset` into pinned memory.
    pub(crate) fn read_pinned(
        &self,
        stream: &Stream,
        offset: usize,
        target: &mut HostBuffer,
        bytes: usize,
    ) -> Result<(), GpuError> {
        self.check_range(offset, bytes);
        assert!(bytes <= target.bytes, "the target holds {} bytes", target.bytes);
        // SAFETY: as above.
        unsafe { self.copy(stream, offset, target.pointer.as_ptr(), bytes, Direction::ToHost) }
    }

    /// Copies the range from `offset` on into `target` and waits.
    pub(crate) fn read(&self, stream: &Stream, offset: usize, target: &mut [u8]) -> Result<(), GpuError> {
        self.check_range(offset, target.len());
        // SAFETY: the range was checked, and the target lives until the wait is over.
        unsafe { self.copy(stream, offset, target.as_mut_ptr(), target.len(), Direction::ToHost)? };
        stream.wait()
    }

    /// Starts a copy of all of another buffer of this size.
    pub(crate) fn copy_from(&mut self, stream: &Stream, source: &Self) -> Result<(), GpuError> {
        source.check_range(0, self.bytes);
        // SAFETY: both are whole allocations of this size; freeing either waits for the copy, as both runtimes do.
        unsafe { self.copy(stream, 0, source.pointer.0.cast(), self.bytes, Direction::Within) }
    }

    /// Starts filling all of it with zeros.
    pub(crate) fn clear(&mut self, stream: &Stream) -> Result<(), GpuError> {
        self.fill(stream, 0)
    }

    /// Starts filling all of it with a byte.
    pub(crate) fn fill(&self, stream: &Stream, byte: u8) -> Result<(), GpuError> {
        if self.bytes == 0 {
            return Ok(());
        }
        let functions = &self.device.api().functions;
        // SAFETY: the whole allocation, on a stream of the same device.
        let status =
            unsafe { (functions.fill)(self.pointer.0, c_int::from(byte), self.bytes, stream.handle()) };
        self.device.api().check("fill", status)
    }

    fn check_range(&self, offset: usize, bytes: usize) {
        let is_inside = offset.checked_add(bytes).is_some_and(|end| end <= self.bytes);
        assert!(is_inside, "{bytes} bytes at {offset} of a buffer of {} bytes", self.bytes);
    }

    /// # Safety
    /// The device's range must have been checked, and `host` (the other buffer, of a copy within the device) be valid for `bytes` until the stream is waited for.
    unsafe fn copy(
        &self,
        stream: &Stream,
        offset: usize,
        host: *mut u8,
        bytes: usize,
        direction: Direction,
    ) -> Result<(), GpuError> {
        if bytes == 0 {
            return Ok(());
        }
        let device = self.pointer.0.cast::<u8>().wrapping_add(offset);
        let (target, source) = match direction {
            Direction::ToDevice | Direction::Within => (device, host),
            Direction::ToHost => (host, device),
        };
        let api = self.device.api();
        let (call, status) = match api.special {
            Special::Hip { copy, .. } => {
                let direction = direction as c_int;
                // SAFETY: the caller's promise.
                let status = unsafe { copy(target.cast(), source.cast(), bytes, direction, stream.handle()) };
                ("hipMemcpyAsync", status)
            }
            Special::Cuda { copy, .. } => {
                // SAFETY: the caller's promise; CUDA finds the direction by the addresses.
                let status = unsafe { copy(target.cast(), source.cast(), bytes, stream.handle()) };
                ("cuMemcpyAsync", status)
            }
        };
        if status == 0 { Ok(()) } else { api.failure(call, status) }
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        // The thread that drops need not be the one that worked.
        if self.device.bind().is_ok() {
            // SAFETY: allocated by this runtime and freed once; both runtimes wait for work that uses it.
            unsafe { (self.device.api().functions.free)(self.pointer.0) };
        }
    }
}

/// Pinned host memory: copies to and from it run beside the host.
pub(crate) struct HostBuffer {
    device: Device,
    pointer: NonNull<u8>,
    bytes: usize,
}

// SAFETY: it is plain memory with one owner.
unsafe impl Send for HostBuffer {}

impl HostBuffer {
    /// Allocates `bytes`, zeroed.
    ///
    /// # Errors
    /// The host has no memory to pin.
    pub(crate) fn new(device: &Device, bytes: usize) -> Result<Self, GpuError> {
        device.bind()?;
        let bytes = bytes.max(16);
        let mut pointer = ptr::null_mut();
        // SAFETY: the pointer is to a local variable.
        let status = unsafe { (device.api().functions.allocate_host)(&raw mut pointer, bytes, 0) };
        let full = GpuError::OutOfMemory { what: "pinned host memory", requested_bytes: bytes };
        if status == OUT_OF_MEMORY {
            return Err(full);
        }
        device.api().check("allocate_host", status)?;
        let pointer = NonNull::new(pointer.cast::<u8>()).ok_or(full)?;
        // SAFETY: just allocated with this size.
        unsafe { pointer.as_ptr().write_bytes(0, bytes) };
        Ok(Self { device: device.clone(), pointer, bytes })
    }

    /// Its size.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Its contents. The caller has waited for copies into it.
    pub(crate) fn as_bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: allocated with this size, initialised at the start, and borrowed for as long as the slice lives.
        unsafe { slice::from_raw_parts_mut(self.pointer.as_ptr(), self.bytes) }
    }

    /// The first `count` floats. The caller has waited for copies into it.
    pub(crate) fn floats(&self, count: usize) -> &[f32] {
        assert!(count * size_of::<f32>() <= self.bytes, "{count} floats in {} bytes", self.bytes);
        // SAFETY: the size was checked; pinned memory is aligned to pages, and every pattern of bits is an f32.
        unsafe { slice::from_raw_parts(self.pointer.as_ptr().cast(), count) }
    }

    /// The same, to change them.
    pub(crate) fn floats_mut(&mut self, count: usize) -> &mut [f32] {
        assert!(count * size_of::<f32>() <= self.bytes, "{count} floats in {} bytes", self.bytes);
        // SAFETY: the size was checked; pinned memory is aligned to pages, and every pattern of bits is an f32.
        unsafe { slice::from_raw_parts_mut(self.pointer.as_ptr().cast(), count) }
    }
}

impl Drop for HostBuffer {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            // SAFETY: allocated by this runtime and freed once; owners wait for copies before they drop it.
            unsafe { (self.device.api().functions.free_host)(self.pointer.as_ptr().cast()) };
        }
    }
}
