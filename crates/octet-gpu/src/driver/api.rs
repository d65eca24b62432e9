//! The runtime's functions as a table: HIP's, or CUDA's, which are the same but for their names.
//!
//! Both runtimes are looked up when the program runs, so that it builds without an SDK and starts without a GPU. The
//! table is our own for both, because of all that they offer some thirty functions are needed, and because these agree
//! in every argument: what differs is in [`Kind`] and in `device.rs`, nowhere else.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::path::{Path, PathBuf};
use std::ptr;

use crate::GpuError;
use crate::library::{self, Found, Wanted};

/// A pointer that the runtime gave us: a stream, an event, a module, memory.
pub(crate) type Handle = *mut c_void;

/// Whose runtime it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// AMD's.
    Hip,
    /// NVIDIA's.
    Cuda,
}

impl Kind {
    /// `hip` or `cuda`, as on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hip => "hip",
            Self::Cuda => "cuda",
        }
    }

    fn runtime(self) -> Wanted {
        match self {
            Self::Hip => Wanted {
                what: "the HIP runtime",
                names: &["libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so"],
                roots: &["ROCM_PATH", "HIP_PATH"],
                folders: &["/opt/rocm/lib"],
            },
            Self::Cuda => Wanted {
                what: "the CUDA driver",
                names: &["libcuda.so.1", "libcuda.so"],
                roots: &[],
                folders: &["/usr/lib/wsl/lib", "/usr/local/cuda/compat"],
            },
        }
    }

    fn compiler(self) -> Wanted {
        match self {
            Self::Hip => Wanted {
                what: "the run-time compiler hiprtc",
                names: &["libhiprtc.so.7", "libhiprtc.so.6", "libhiprtc.so"],
                roots: &["ROCM_PATH", "HIP_PATH"],
                folders: &["/opt/rocm/lib"],
            },
            Self::Cuda => Wanted {
                what: "the run-time compiler NVRTC",
                names: &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"],
                roots: &["CUDA_PATH", "CUDA_HOME"],
                folders: &["/usr/local/cuda/lib64"],
            },
        }
    }
}

/// Declares a table of functions: field, name in AMD's library, name in NVIDIA's, arguments; all return a status.
macro_rules! table {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $hip:literal, $cuda:literal, ($($argument:ty),*);)* }) => {
        $(#[$doc])*
        pub(crate) struct $name {
            $(pub(crate) $field: unsafe extern "C" fn($($argument),*) -> std::ffi::c_int,)*
        }

        impl $name {
            fn load(
                found: &$crate::library::Found,
                kind: $crate::Kind,
                what: &'static str,
            ) -> Result<Self, $crate::GpuError> {
                Ok(Self {
                    $($field: {
                        let name = match kind { $crate::Kind::Hip => $hip, $crate::Kind::Cuda => $cuda };
                        // SAFETY: the signatures are those of the headers of ROCm 6 and 7 and of CUDA 12 and 13.
                        unsafe { $crate::library::function(found, what, name)? }
                    },)*
                })
            }

            /// A function's name in its library, for messages.
            pub(crate) fn name_of(kind: $crate::Kind, field: &str) -> &'static str {
                match (field, kind) {
                    $((stringify!($field), $crate::Kind::Hip) => $hip,
                    (stringify!($field), $crate::Kind::Cuda) => $cuda,)*
                    _ => "an unknown function",
                }
            }
        }
    };
}
pub(crate) use table;

table! {
    /// What steps need of the runtime.
    Functions {
        init: "hipInit", "cuInit", (c_uint);
        runtime_version: "hipRuntimeGetVersion", "cuDriverGetVersion", (*mut c_int);
        device_count: "hipGetDeviceCount", "cuDeviceGetCount", (*mut c_int);
        memory_info: "hipMemGetInfo", "cuMemGetInfo_v2", (*mut usize, *mut usize);
        allocate: "hipMalloc", "cuMemAlloc_v2", (*mut Handle, usize);
        free: "hipFree", "cuMemFree_v2", (Handle);
        allocate_host: "hipHostMalloc", "cuMemHostAlloc", (*mut Handle, usize, c_uint);
        free_host: "hipHostFree", "cuMemFreeHost", (Handle);
        fill: "hipMemsetAsync", "cuMemsetD8Async", (Handle, c_int, usize, Handle);
        create_stream: "hipStreamCreateWithFlags", "cuStreamCreate", (*mut Handle, c_uint);
        destroy_stream: "hipStreamDestroy", "cuStreamDestroy_v2", (Handle);
        wait_for_stream: "hipStreamSynchronize", "cuStreamSynchronize", (Handle);
        query_stream: "hipStreamQuery", "cuStreamQuery", (Handle);
        create_event: "hipEventCreateWithFlags", "cuEventCreate", (*mut Handle, c_uint);
        destroy_event: "hipEventDestroy", "cuEventDestroy_v2", (Handle);
        record_event: "hipEventRecord", "cuEventRecord", (Handle, Handle);
        wait_for_event: "hipEventSynchronize", "cuEventSynchronize", (Handle);
        query_event: "hipEventQuery", "cuEventQuery", (Handle);
        elapsed_time: "hipEventElapsedTime", "cuEventElapsedTime", (*mut f32, Handle, Handle);
        begin_capture: "hipStreamBeginCapture", "cuStreamBeginCapture_v2", (Handle, c_int);
        end_capture: "hipStreamEndCapture", "cuStreamEndCapture", (Handle, *mut Handle);
        instantiate_graph: "hipGraphInstantiate", "cuGraphInstantiate_v2",
            (*mut Handle, Handle, *mut Handle, *mut c_char, usize);
        launch_graph: "hipGraphLaunch", "cuGraphLaunch", (Handle, Handle);
        destroy_graph: "hipGraphDestroy", "cuGraphDestroy", (Handle);
        destroy_graph_exec: "hipGraphExecDestroy", "cuGraphExecDestroy", (Handle);
        load_module: "hipModuleLoadData", "cuModuleLoadData", (*mut Handle, *const c_void);
        unload_module: "hipModuleUnload", "cuModuleUnload", (Handle);
        get_function: "hipModuleGetFunction", "cuModuleGetFunction", (*mut Handle, Handle, *const c_char);
        launch_kernel: "hipModuleLaunchKernel", "cuLaunchKernel",
            (Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *mut *mut c_void, *mut *mut c_void);
    }
}

table! {
    /// The run-time compiler.
    Compiler {
        version: "hiprtcVersion", "nvrtcVersion", (*mut c_int, *mut c_int);
        create: "hiprtcCreateProgram", "nvrtcCreateProgram",
            (*mut Handle, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char);
        compile: "hiprtcCompileProgram", "nvrtcCompileProgram", (Handle, c_int, *const *const c_char);
        code_bytes: "hiprtcGetCodeSize", "nvrtcGetCUBINSize", (Handle, *mut usize);
        code: "hiprtcGetCode", "nvrtcGetCUBIN", (Handle, *mut c_char);
        portable_bytes: "hiprtcGetCodeSize", "nvrtcGetPTXSize", (Handle, *mut usize);
        portable: "hiprtcGetCode", "nvrtcGetPTX", (Handle, *mut c_char);
        log_bytes: "hiprtcGetProgramLogSize", "nvrtcGetProgramLogSize", (Handle, *mut usize);
        log: "hiprtcGetProgramLog", "nvrtcGetProgramLog", (Handle, *mut c_char);
        destroy: "hiprtcDestroyProgram", "nvrtcDestroyProgram", (*mut Handle);
    }
}

/// What only one of the two has.
pub(crate) enum Special {
    Hip {
        set_device: unsafe extern "C" fn(c_int) -> c_int,
        properties: unsafe extern "C" fn(*mut c_void, c_int) -> c_int,
        copy: unsafe extern "C" fn(Handle, *const c_void, usize, c_int, Handle) -> c_int,
        error_text: unsafe extern "C" fn(c_int) -> *const c_char,
    },
    Cuda {
        device: unsafe extern "C" fn(*mut c_int, c_int) -> c_int,
        device_name: unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int,
        attribute: unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int,
        retain_context: unsafe extern "C" fn(*mut Handle, c_int) -> c_int,
        set_context: unsafe extern "C" fn(Handle) -> c_int,
        copy: unsafe extern "C" fn(Handle, *const c_void, usize, Handle) -> c_int,
        error_text: unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int,
    },
}

impl Special {
    fn load(found: &Found, kind: Kind, what: &'static str) -> Result<Self, GpuError> {
        // SAFETY: the signatures are those of the headers; `R0600` is the layout of properties since HIP 6.
        unsafe {
            Ok(match kind {
                Kind::Hip => Self::Hip {
                    set_device: library::function(found, what, "hipSetDevice")?,
                    properties: library::function(found, what, "hipGetDevicePropertiesR0600")?,
                    copy: library::function(found, what, "hipMemcpyAsync")?,
                    error_text: library::function(found, what, "hipGetErrorString")?,
                },
                Kind::Cuda => Self::Cuda {
                    device: library::function(found, what, "cuDeviceGet")?,
                    device_name: library::function(found, what, "cuDeviceGetName")?,
                    attribute: library::function(found, what, "cuDeviceGetAttribute")?,
                    retain_context: library::function(found, what, "cuDevicePrimaryCtxRetain")?,
                    set_context: library::function(found, what, "cuCtxSetCurrent")?,
                    copy: library::function(found, what, "cuMemcpyAsync")?,
                    error_text: library::function(found, what, "cuGetErrorString")?,
                },
            })
        }
    }
}

/// A run-time compiler, loaded.
pub(crate) struct LoadedCompiler {
    pub(crate) kind: Kind,
    pub(crate) functions: Compiler,
    pub(crate) version: (i32, i32),
    /// Where it was found.
    pub(crate) found: String,
}

impl LoadedCompiler {
    /// Loads the compiler from `path` or from where it usually lies. It stays loaded.
    ///
    /// # Errors
    /// It is missing, or a function of it is.
    pub(crate) fn load(kind: Kind, path: Option<&Path>) -> Result<Self, GpuError> {
        let wanted = kind.compiler();
        let library = wanted.open(path)?;
        let functions = Compiler::load(&library, kind, wanted.what)?;
        let found = library.name.clone();
        std::mem::forget(library);
        let (mut major, mut minor) = (0, 0);
        let compiler = Self { kind, functions, version: (0, 0), found };
        // SAFETY: pointers to local integers.
        let status = unsafe { (compiler.functions.version)(&raw mut major, &raw mut minor) };
        compiler.check("version", status)?;
        Ok(Self { version: (major, minor), ..compiler })
    }

    /// Turns a status into an error.
    pub(crate) fn check(&self, field: &str, status: c_int) -> Result<(), GpuError> {
        if status == 0 {
            return Ok(());
        }
        let text = "see the compiler's log".to_owned();
        Err(GpuError::Call { call: Compiler::name_of(self.kind, field), status, text })
    }
}

/// A runtime and its compiler, loaded. They stay loaded for the life of the process: drivers do not like to go.
pub(crate) struct Api {
    pub(crate) kind: Kind,
    pub(crate) functions: Functions,
    pub(crate) special: Special,
    /// The compiler, or why there is none: kernels then come from a bundle.
    pub(crate) compiler: Result<LoadedCompiler, GpuError>,
    /// Whether this is Octet's own simulator, whose times mean nothing.
    pub(crate) is_simulated: bool,
    /// Where the runtime was found.
    pub(crate) found: String,
    /// What was given instead of where it usually lies: it then stands for the BLAS too.
    pub(crate) given: Option<PathBuf>,
    /// The runtime's version: HIP 7.1 is (7, 1), CUDA 13.0 is (13, 0).
    pub(crate) version: (i32, i32),
}

impl Api {
    /// Loads a runtime: from `path`, which then holds the compiler too, or from where it usually lies.
    ///
    /// # Errors
    /// A library or function of the runtime is missing, or too old.
    pub(crate) fn load(kind: Kind, path: Option<&Path>) -> Result<Self, GpuError> {
        /// What only the simulator has.
        const SIMULATORS_OWN: &str = "octet_hipsim_fault_message";
        let wanted = kind.runtime();
        let runtime = wanted.open(path)?;
        let functions = Functions::load(&runtime, kind, wanted.what)?;
        let special = Special::load(&runtime, kind, wanted.what)?;
        let compiler = LoadedCompiler::load(kind, path);
        // SAFETY: the function is not called; only whether it is there is asked.
        let own = unsafe { library::function::<Handle>(&runtime, wanted.what, SIMULATORS_OWN) };
        let is_simulated = own.is_ok();
        let found = runtime.name.clone();
        // Function pointers outlive the handle only because the library is never closed.
        std::mem::forget(runtime);
        let given = path.map(Path::to_path_buf);
        let version = (0, 0);
        let mut api = Self { kind, functions, special, compiler, is_simulated, found, given, version };
        api.read_version()?;
        Ok(api)
    }

    fn read_version(&mut self) -> Result<(), GpuError> {
        let mut version = 0;
        // SAFETY: the pointer is to a local integer.
        unsafe {
            self.check("init", (self.functions.init)(0))?;
            self.check("runtime_version", (self.functions.runtime_version)(&raw mut version))?;
        }
        self.version = match self.kind {
            Kind::Hip => (version / 10_000_000, version / 100_000 % 100),
            Kind::Cuda => (version / 1000, version % 1000 / 10),
        };
        let (oldest, library, needed) = match self.kind {
            Kind::Hip => (6, "the HIP runtime", "6.0"),
            Kind::Cuda => (12, "the CUDA driver", "12.0"),
        };
        if self.version.0 < oldest {
            let found = format!("{}.{}", self.version.0, self.version.1);
            return Err(GpuError::TooOld { library, found, needed });
        }
        Ok(())
    }

    /// Turns a status into an error.
    pub(crate) fn check(&self, field: &str, status: c_int) -> Result<(), GpuError> {
        if status == 0 {
            return Ok(());
        }
        self.failure(Functions::name_of(self.kind, field), status)
    }

    /// An error of a call by its name in the library.
    pub(crate) fn failure(&self, call: &'static str, status: c_int) -> Result<(), GpuError> {
        Err(GpuError::Call { call, status, text: self.error_text(status) })
    }

    fn error_text(&self, status: c_int) -> String {
        let mut text = ptr::null();
        // SAFETY: both return pointers to constants of the library.
        unsafe {
            match self.special {
                Special::Hip { error_text, .. } => text = error_text(status),
                Special::Cuda { error_text, .. } => {
                    error_text(status, &raw mut text);
                }
            }
            if text.is_null() {
                return "no description".to_owned();
            }
            CStr::from_ptr(text).to_string_lossy().into_owned()
        }
    }
}
