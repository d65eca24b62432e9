//! A handle of the library on one device, and the workspace that all products share.

use std::ptr;

use super::BlasOptions;
use super::api::{self, BlasApi, BlasVersion};
use crate::GpuError;
use crate::driver::{Device, DeviceBuffer, Handle, Pointer, Stream};

/// PyTorch's for the MI300X.
const WORKSPACE_BYTES: usize = 76 << 20;

/// The library at work on a device. A handle serves one stream at a time, so each owner uses one stream.
pub(crate) struct Library {
    pub(crate) api: BlasApi,
    handle: Pointer,
    device: Device,
    pub(crate) version: BlasVersion,
    pub(crate) workspace: DeviceBuffer,
}

impl Library {
    /// Opens the library for a device and allocates the workspace.
    ///
    /// # Errors
    /// It is missing or too old; no room for the workspace.
    pub(crate) fn open(device: &Device, options: &BlasOptions) -> Result<Self, GpuError> {
        let api = api::load_for(device, options.library.as_deref())?;
        // hipBLASLt ends the process if there is no device: there is one, which is the thread's from here on.
        device.bind()?;
        let workspace_bytes = options.workspace_bytes.unwrap_or(WORKSPACE_BYTES);
        let workspace = DeviceBuffer::new(device, "the workspace of matrix products", workspace_bytes)?;
        let mut handle = ptr::null_mut();
        // SAFETY: the pointer is to a local variable.
        let status = unsafe { (api.functions.create)(&raw mut handle) };
        api.check("create", status)?;
        let handle = Pointer(handle);
        match api.version(handle.0) {
            Ok(version) => Ok(Self { api, handle, device: device.clone(), version, workspace }),
            Err(error) => {
                // SAFETY: just created, and destroyed once.
                unsafe { (api.functions.destroy)(handle.0) };
                Err(error)
            }
        }
    }

    pub(crate) fn handle(&self) -> Handle {
        self.handle.0
    }

    /// Starts filling the workspace, which nobody's results are in: that takes the device longer than the host needs to
    /// start what comes next, and leaves the caches with nothing of use.
    ///
    /// # Errors
    /// Of the driver.
    pub(crate) fn fill_workspace(&self, stream: &Stream) -> Result<(), GpuError> {
        self.workspace.fill(stream, 0)
    }

    /// What it is and where it was found, for people.
    pub(crate) fn describe(&self) -> String {
        format!("{} {} from {}", self.api.name(), self.version.dotted(), self.api.found)
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            // SAFETY: ours, destroyed once, after the products that keep it.
            unsafe { (self.api.functions.destroy)(self.handle.0) };
        }
    }
}
