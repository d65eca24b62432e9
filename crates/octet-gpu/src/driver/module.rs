//! Loaded code and its kernels.

use std::ffi::{CString, c_void};
use std::ptr;
use std::sync::Arc;

use crate::GpuError;
use crate::driver::api::Handle;
use crate::driver::device::Pointer;
use crate::driver::{Device, Stream};

/// Threads of every block, as in `device.h`.
const THREADS: u32 = 256;

struct Loaded {
    device: Device,
    handle: Pointer,
}

impl Drop for Loaded {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            // SAFETY: ours, unloaded once, after the last function that keeps it.
            unsafe { (self.device.api().functions.unload_module)(self.handle.0) };
        }
    }
}

/// Code on a device.
pub(crate) struct Module(Arc<Loaded>);

impl Module {
    /// Loads what the compiler made.
    ///
    /// # Errors
    /// It is no code for this device.
    pub(crate) fn load(device: &Device, code: &[u8]) -> Result<Self, GpuError> {
        device.bind()?;
        let mut handle = ptr::null_mut();
        // SAFETY: both runtimes read the code's size from its header; it came from the compiler or passed the check of
        // the cache.
        let status = unsafe { (device.api().functions.load_module)(&raw mut handle, code.as_ptr().cast()) };
        device.api().check("load_module", status)?;
        Ok(Self(Arc::new(Loaded { device: device.clone(), handle: Pointer(handle) })))
    }

    /// A kernel by name. It keeps the module.
    ///
    /// # Errors
    /// There is none of this name.
    pub(crate) fn function(&self, name: &str) -> Result<Function, GpuError> {
        let name = CString::new(name).unwrap_or_default();
        let mut handle: Handle = ptr::null_mut();
        let api = self.0.device.api();
        // SAFETY: the pointer is to a local variable, the name ends with 0.
        let status = unsafe { (api.functions.get_function)(&raw mut handle, self.0.handle.0, name.as_ptr()) };
        api.check("get_function", status)?;
        Ok(Function { module: Arc::clone(&self.0), handle: Pointer(handle) })
    }
}

/// A kernel.
pub(crate) struct Function {
    module: Arc<Loaded>,
    handle: Pointer,
}

impl Function {
    /// Starts it on `grid` blocks with one structure of parameters.
    ///
    /// # Errors
    /// Of the driver; what goes wrong while it runs shows at the next wait.
    ///
    /// # Safety
    /// `parameters` must be the structure that the kernel takes, and its addresses valid until it has run.
    pub(crate) unsafe fn launch<P>(
        &self,
        stream: &Stream,
        grid: [usize; 3],
        parameters: &P,
    ) -> Result<(), GpuError> {
        // SAFETY: the caller's promise.
        unsafe { self.launch_threads(stream, grid, THREADS, parameters) }
    }

    /// The same with this many threads a block.
    ///
    /// # Errors
    /// As above.
    ///
    /// # Safety
    /// As above.
    pub(crate) unsafe fn launch_threads<P>(
        &self,
        stream: &Stream,
        grid: [usize; 3],
        threads: u32,
        parameters: &P,
    ) -> Result<(), GpuError> {
        if grid.contains(&0) {
            return Ok(());
        }
        let [x, y, z] = grid.map(|blocks| u32::try_from(blocks).unwrap_or(u32::MAX));
        let mut arguments = [ptr::from_ref(parameters).cast_mut().cast::<c_void>()];
        let api = self.module.device.api();
        // SAFETY: the caller's promise; the runtime copies the structure before it returns.
        let status = unsafe {
            (api.functions.launch_kernel)(
                self.handle.0,
                x,
                y,
                z,
                threads,
                1,
                1,
                0,
                stream.handle(),
                arguments.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        api.check("launch_kernel", status)
    }
}
