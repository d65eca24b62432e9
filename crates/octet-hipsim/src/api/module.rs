//! Modules, kernels and their launches.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Arc;

use super::{current, profile, store};
use crate::execute::Launch;
use crate::module::{Function, Module};
use crate::profile::Profile;
use crate::registry::Registry;
use crate::status::{self, HipError, HipResult, code};
use crate::stream::{Stream, Work, refuse_in_capture};

static MODULES: Registry<Module> = Registry::new();
static FUNCTIONS: Registry<Function> = Registry::new();

/// Threads that a block may have at most.
const BLOCK_THREADS_MAX: u32 = 1024;
/// Blocks that a grid may have at most in y and z.
const GRID_MAX: u32 = 65_536;

/// Loads a code object for the current device.
///
/// # Safety
///
/// `image` is a whole code object, or at least eight bytes of something else.
unsafe fn load(image: *const c_void) -> HipResult<usize> {
    status::check_fault()?;
    refuse_in_capture()?;
    if image.is_null() {
        return Err(HipError::InvalidValue);
    }
    let profile = profile(current()?)?;
    // SAFETY: the caller's promise.
    Ok(MODULES.insert(Arc::new(unsafe { Module::load(image.cast(), profile) }?)))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hipModuleLoadData(to: *mut usize, image: *const c_void) -> c_int {
    // SAFETY: the caller passes a code object and a pointer to a result.
    code(unsafe { load(image).and_then(|handle| store(to, handle)) })
}

/// The module stays loaded while launches of its kernels are queued.
#[unsafe(no_mangle)]
extern "C" fn hipModuleUnload(handle: usize) -> c_int {
    let unload = || {
        refuse_in_capture()?;
        MODULES.remove(handle)
    };
    code(unload().map(|_| ()))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hipModuleGetFunction(to: *mut usize, module: usize, name: *const c_char) -> c_int {
    if name.is_null() {
        return code(Err(HipError::InvalidValue));
    }
    // SAFETY: the caller passes a name that ends with a zero.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
    let function = MODULES.get(module).and_then(|module| module.function(&name));
    // SAFETY: the caller passes a pointer to a result.
    code(function.and_then(|function| unsafe { store(to, FUNCTIONS.insert(Arc::new(function))) }))
}

/// Checks a launch against the limits of the device and of the kernel.
fn check(function: &Function, grid: [u32; 3], block: [u32; 3], profile: &Profile) -> HipResult<()> {
    if function.module.profile != profile {
        return Err(HipError::InvalidHandle);
    }
    let refuse = |what: String| {
        status::report(&format!("kernel {}: {what}", function.name));
        Err(HipError::InvalidConfiguration)
    };
    let threads = block.iter().try_fold(1_u32, |product, count| product.checked_mul(*count));
    match threads {
        None | Some(0) => return refuse(format!("a block of {block:?} threads")),
        Some(threads) if threads > BLOCK_THREADS_MAX.min(function.threads_max) => {
            let limit = BLOCK_THREADS_MAX.min(function.threads_max);
            return refuse(format!("a block of {block:?} threads is larger than {limit}"));
        }
        Some(_) => {}
    }
    let threads_in_x = u64::from(grid[0]) * u64::from(block[0]);
    if grid.contains(&0) || grid[1] > GRID_MAX || grid[2] > GRID_MAX || threads_in_x > u64::from(u32::MAX) {
        return refuse(format!("a grid of {grid:?} blocks of {block:?} threads"));
    }
    if function.lds_bytes > profile.lds_bytes {
        let has = profile.lds_bytes;
        return refuse(format!(
            "it needs {} bytes of LDS and {} has {has}",
            function.lds_bytes, profile.name
        ));
    }
    Ok(())
}

/// Copies the parameters: the caller may change them when the launch has returned.
///
/// # Safety
///
/// `parameters` is null or points to a pointer to the kernel's parameter struct; `extra` is null or a list as HIP
/// describes it.
unsafe fn copy_parameters(
    function: &Function,
    parameters: *const *const c_void,
    extra: *const *const c_void,
) -> HipResult<Arc<[u128]>> {
    let bytes = function.parameter_bytes;
    let mut copy = vec![0_u128; bytes.div_ceil(size_of::<u128>())];
    // SAFETY: by the caller's promise; the list is HIP_LAUNCH_PARAM_BUFFER_POINTER (1), the pointer,
    // HIP_LAUNCH_PARAM_BUFFER_SIZE (2), a pointer to the size, HIP_LAUNCH_PARAM_END (3).
    let from = unsafe {
        match (parameters.is_null(), extra.is_null()) {
            (false, true) => *parameters,
            (true, false) if *extra as usize == 1 && *extra.add(2) as usize == 2 => {
                if *(*extra.add(3)).cast::<usize>() != bytes {
                    return Err(HipError::InvalidValue);
                }
                *extra.add(1)
            }
            _ => return Err(HipError::InvalidValue),
        }
    };
    if from.is_null() {
        return Err(HipError::InvalidValue);
    }
    // SAFETY: the struct has as many bytes, and the copy at least as many.
    unsafe { std::ptr::copy_nonoverlapping(from.cast::<u8>(), copy.as_mut_ptr().cast(), bytes) };
    Ok(Arc::from(copy))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hipModuleLaunchKernel(
    function: usize,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    dynamic_lds_bytes: c_uint,
    stream: usize,
    parameters: *const *const c_void,
    extra: *const *const c_void,
) -> c_int {
    let launch = || {
        status::check_fault()?;
        let device = current()?;
        let (function, stream) = (FUNCTIONS.get(function)?, Stream::of_handle(stream, device)?);
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        check(&function, grid, block, profile(device)?)?;
        if dynamic_lds_bytes != 0 {
            // Octet's kernels declare all of their LDS.
            return Err(HipError::NotSupported);
        }
        // SAFETY: the caller passes parameters as HIP describes.
        let parameters = unsafe { copy_parameters(&function, parameters, extra) }?;
        stream.submit(Work::Launch(Launch { function, grid, block, parameters }))
    };
    code(launch())
}
