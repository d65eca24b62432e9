//! Opening the simulated devices.

use octet_gpu::{GpuBackend, GpuOptions, Kind, Runtime};
use std::path::PathBuf;
use std::sync::OnceLock;

/// The folder in which all tests of a run keep compiled kernels.
pub(crate) fn kernel_cache() -> PathBuf {
    // A test's child shares its parent's.
    if let Some(folder) = std::env::var_os("OCTET_TEST_CACHE") {
        return folder.into();
    }
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    FOLDER.get_or_init(|| tempfile::tempdir().unwrap()).path().to_path_buf()
}

/// The simulator's runtime.
pub(crate) fn runtime() -> Runtime {
    let path = octet_hipsim::library_path().expect("Cargo builds the simulator beside the test");
    Runtime::load(Kind::Hip, Some(&path)).expect("the simulator loads like HIP")
}

/// A backend on the simulated device of this architecture.
pub(crate) fn backend(architecture: &str, options: &GpuOptions) -> GpuBackend {
    let runtime = runtime();
    let devices = runtime.devices().unwrap();
    let device = devices.iter().find(|device| device.architecture == architecture);
    let index = device.unwrap_or_else(|| panic!("{architecture} among {devices:?}")).index;
    let options = GpuOptions { kernel_cache: Some(kernel_cache()), ..options.clone() };
    GpuBackend::new(runtime.open(index).unwrap(), &options).unwrap()
}
