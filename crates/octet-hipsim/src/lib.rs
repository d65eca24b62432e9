//! A HIP runtime without a GPU, for tests: it executes Octet's kernels on the CPU.
//!
//! The shared library of this crate exports the functions of HIP, hiprtc and hipBLASLt that Octet uses, and is opened in
//! place of AMD's libraries. What a GPU does and a CPU does not is made explicit, so that mistakes show:
//!
//! * `hiprtcCompileProgram` (`compile.rs`) compiles the same source, in its branch for AMD, with clang for the host. The
//!   headers in `device/` define AMD's builtins with the wave sizes, lane maps and FP8 formats of each architecture.
//! * A launch (`execute/`) runs threads of a block as fibers. Waves and lanes run in an order that `OCTET_HIPSIM_SEED`
//!   chooses, and meet only where the kernel says so: a missing barrier gives wrong values with some seed. A collective
//!   or a barrier to which not all lanes come is a fault.
//! * Memory (`memory.rs`) is poisoned, ends at guard pages, and is never reused. A trap inside of a kernel becomes
//!   `hipErrorIllegalAddress`, after which, as on a GPU, every call fails.
//! * Streams (`stream/`) work later, in threads of their own; captures become graphs and refuse what HIP refuses.
//!
//! What it cannot tell: speed, memory models (caches that are not coherent, missing fences), bank conflicts, the order of
//! summation in matrix units, last bits of approximations, whatever AMD's compiler makes of the source, and a pointer to
//! the host's ordinary memory in a kernel. A kernel that loops forever hangs; blocks that wait for each other may.
//!
//! The environment: `OCTET_HIPSIM_ARCH` (devices, comma-separated), `HIP_VISIBLE_DEVICES`, `OCTET_HIPSIM_SEED`,
//! `OCTET_HIPSIM_THREADS`, `OCTET_HIPSIM_MEMORY_BYTES` (of each device), `OCTET_HIPSIM_DELAY_US` (before each work of a
//! stream), `OCTET_HIPSIM_HANG` and `OCTET_HIPSIM_FAULT` (`kernel` or `kernel:n`, its n-th launch), `OCTET_HIPSIM_CXX`,
//! `OCTET_HIPSIM_CACHE` (folder of compiled kernels), `OCTET_HIPSIM_ROCM` (6 or 7),
//! `OCTET_HIPSIM_NO_COMPILER` (1: hiprtc is as good as missing).

mod api;
mod blaslt;
mod compile;
mod execute;
mod lds;
mod memory;
mod module;
mod profile;
mod registry;
mod settings;
mod status;
mod stream;

use std::path::PathBuf;

/// File name of the shared library.
const LIBRARY: &str = "liboctet_hipsim.so";

/// Where the shared library lies, for tests of crates that depend on this one: Cargo puts it beside the test's program,
/// or, for programs that are not tests, into the folder `deps` beside them.
///
/// `None` if it is not there, as when the program was moved.
#[must_use]
pub fn library_path() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    let folder = program.parent()?;
    [folder.join(LIBRARY), folder.join("deps").join(LIBRARY)].into_iter().find(|path| path.exists())
}

/// Whether kernels can be compiled, for tests that need it.
///
/// # Errors
///
/// What is missing and how to come by it, where no compiler is found. A compiler that `OCTET_HIPSIM_CXX` names is taken for
/// there: if it is of no use, tests are to fail.
pub fn compiler() -> Result<(), String> {
    compile::availability()
}

/// Path of the file that this code was loaded from.
fn own_path() -> Option<PathBuf> {
    // SAFETY: the struct is plain data, filled by dladdr, whose first argument is an address in this file.
    let path = unsafe {
        let mut found: libc::Dl_info = std::mem::zeroed();
        let address = own_path as *const () as *const libc::c_void;
        if libc::dladdr(address, &raw mut found) == 0 || found.dli_fname.is_null() {
            return None;
        }
        std::ffi::CStr::from_ptr(found.dli_fname).to_string_lossy().into_owned()
    };
    std::fs::canonicalize(path).ok()
}
