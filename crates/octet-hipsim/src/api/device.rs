//! Devices: how many, which, what they are, and what went wrong last.

use std::ffi::{c_char, c_int, c_uint};

use super::{CURRENT, current, profile, store, visible};
use crate::profile::Profile;
use crate::settings::settings;
use crate::status::{self, HipError, HipResult, code};
use crate::{memory, stream};

/// Bytes of `hipDeviceProp_tR0600`.
const PROPERTIES_BYTES: usize = 1472;

#[unsafe(no_mangle)]
extern "C" fn hipInit(flags: c_uint) -> c_int {
    code(if flags == 0 { visible(0).map(|_| ()) } else { Err(HipError::InvalidValue) })
}

/// Versions that the simulator gives for itself.
fn version() -> c_int {
    if settings().rocm_major == 6 { 60_443_484 } else { 70_151_831 }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hipRuntimeGetVersion(to: *mut c_int) -> c_int {
    // SAFETY: the caller passes a pointer to a result.
    code(unsafe { store(to, version()) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hipDriverGetVersion(to: *mut c_int) -> c_int {
    // SAFETY: the caller passes a pointer to a result.
    code(unsafe { store(to, version()) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hipGetDeviceCount(to: *mut c_int) -> c_int {
    let count = settings().visible.len();
    // SAFETY: the caller passes a pointer to a result.
    let stored = unsafe { store(to, c_int::try_from(count).unwrap_or(0)) };
    code(if count == 0 { stored.and(Err(HipError::NoDevice)) } else { stored })
}

#[unsafe(no_mangle)]
extern "C" fn hipSetDevice(device: c_int) -> c_int {
    code(visible(device).map(|_| CURRENT.set(usize::try_from(device).unwrap_or(0))))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hipGetDevice(to: *mut c_int) -> c_int {
    // SAFETY: the caller passes a pointer to a result.
    code(unsafe { store(to, c_int::try_from(CURRENT.get()).unwrap_or(0)) })
}

/// A device's properties in the layout of ROCm 6 and later. What Octet does not read is zero.
fn properties(profile: &Profile, index: usize) -> [u8; PROPERTIES_BYTES] {
    let mut bytes = [0_u8; PROPERTIES_BYTES];
    let mut put = |offset: usize, value: &[u8]| bytes[offset..offset + value.len()].copy_from_slice(value);
    let lds = profile.lds_bytes as u64;
    put(0, profile.product.as_bytes());
    put(288, &(settings().memory_bytes as u64).to_le_bytes()); // totalGlobalMem
    put(296, &lds.to_le_bytes()); // sharedMemPerBlock
    put(360, &9_u32.to_le_bytes()); // major
    put(568, &256_u64.to_le_bytes()); // surfaceAlignment
    put(640, &lds.to_le_bytes()); // sharedMemPerMultiprocessor
    put(1160, profile.full_name.as_bytes()); // gcnArchName
    let numbers: [(usize, u32); 16] = [
        (304, 65_536),       // regsPerBlock
        (308, profile.wave), // warpSize
        (320, 1024),         // maxThreadsPerBlock
        (324, 1024),         // maxThreadsDim
        (328, 1024),
        (332, 1024),
        (336, i32::MAX.unsigned_abs()), // maxGridSize
        (340, 65_536),
        (344, 65_536),
        (348, profile.clock),                         // clockRate
        (388, profile.units),                         // multiProcessorCount
        (584, u32::try_from(index).unwrap_or(0) + 1), // pciBusID
        (608, profile.memory_bus.1),                  // memoryClockRate
        (612, profile.memory_bus.0),                  // memoryBusWidth
        (616, profile.l2_bytes),                      // l2CacheSize
        (624, 2048),                                  // maxThreadsPerMultiProcessor
    ];
    for (offset, number) in numbers {
        put(offset, &number.to_le_bytes());
    }
    bytes
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hipGetDevicePropertiesR0600(to: *mut [u8; PROPERTIES_BYTES], device: c_int) -> c_int {
    let found = visible(device).and_then(|index| Ok(properties(profile(index)?, index)));
    // SAFETY: the caller passes a pointer to a struct of this size.
    code(found.and_then(|properties| unsafe { store(to, properties) }))
}

/// Attributes by their number since ROCm 6.
fn attribute(number: c_int, profile: &Profile) -> HipResult<u32> {
    match number {
        56 => Ok(1024),
        63 => Ok(profile.units),
        74 => Ok(u32::try_from(profile.lds_bytes).unwrap_or(0)),
        87 => Ok(profile.wave),
        _ => Err(HipError::NotSupported),
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hipDeviceGetAttribute(to: *mut c_int, number: c_int, device: c_int) -> c_int {
    let found = visible(device).and_then(profile).and_then(|profile| attribute(number, profile));
    // SAFETY: the caller passes a pointer to a result.
    code(found.and_then(|value| unsafe { store(to, c_int::try_from(value).unwrap_or(0)) }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hipMemGetInfo(free: *mut usize, total: *mut usize) -> c_int {
    let found = current().map(memory::information);
    // SAFETY: the caller passes two pointers to results.
    code(found.and_then(|values| unsafe { store(free, values.0).and(store(total, values.1)) }))
}

#[unsafe(no_mangle)]
extern "C" fn hipDeviceSynchronize() -> c_int {
    code(current().and_then(stream::synchronize_device))
}

/// Forgets a fault. Unlike HIP's it frees nothing: tests that want to go on after a fault need no more.
#[unsafe(no_mangle)]
extern "C" fn hipDeviceReset() -> c_int {
    let _ = current().and_then(stream::synchronize_device);
    status::clear_fault();
    status::last(true);
    0
}

#[unsafe(no_mangle)]
extern "C" fn hipGetLastError() -> c_int {
    status::last(true)
}

#[unsafe(no_mangle)]
extern "C" fn hipPeekAtLastError() -> c_int {
    status::last(false)
}

#[unsafe(no_mangle)]
extern "C" fn hipGetErrorName(error: c_int) -> *const c_char {
    status::texts(error).0.as_ptr()
}

#[unsafe(no_mangle)]
extern "C" fn hipGetErrorString(error: c_int) -> *const c_char {
    status::texts(error).1.as_ptr()
}

/// Not HIP's: copies the message of the fault, with a zero behind it, and returns its whole length; 0 without a fault.
#[unsafe(no_mangle)]
unsafe extern "C" fn octet_hipsim_fault_message(to: *mut c_char, bytes: usize) -> usize {
    let Some(message) = status::fault_message() else { return 0 };
    if !to.is_null() && bytes > 0 {
        let copied = message.len().min(bytes - 1);
        // SAFETY: the caller passes a buffer of `bytes`, of which at most all are written.
        unsafe {
            std::ptr::copy_nonoverlapping(message.as_ptr(), to.cast(), copied);
            *to.add(copied) = 0;
        }
    }
    message.len()
}
