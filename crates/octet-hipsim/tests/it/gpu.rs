//! A small client of HIP: what tests need of it, with results checked.

use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

use libloading::Library;

/// A handle of HIP.
pub(crate) type Handle = usize;

/// The functions by their types, so that a call needs only a name.
macro_rules! functions {
    ($($name:ident($($argument:ident: $type:ty),*);)*) => {
        $(#[allow(non_snake_case, clippy::too_many_arguments, reason = "name and signature are HIP's")]
        pub(crate) fn $name($($argument: $type),*) -> c_int {
            type Function = unsafe extern "C" fn($($type),*) -> c_int;
            // SAFETY: the types are those of HIP, and tests pass pointers that are good or null.
            unsafe {
                let function = library().get::<Function>(concat!(stringify!($name), "\0").as_bytes()).unwrap();
                function($($argument),*)
            }
        })*
    };
}

functions! {
    hipGetDeviceCount(count: *mut c_int);
    hipSetDevice(device: c_int);
    hipGetDevicePropertiesR0600(properties: *mut u8, device: c_int);
    hipMemGetInfo(free: *mut usize, total: *mut usize);
    hipMalloc(address: *mut *mut c_void, bytes: usize);
    hipFree(address: *mut c_void);
    hipHostMalloc(address: *mut *mut c_void, bytes: usize, flags: c_uint);
    hipHostFree(address: *mut c_void);
    hipMemcpy(to: *mut c_void, from: *const c_void, bytes: usize, kind: c_int);
    hipMemcpyAsync(to: *mut c_void, from: *const c_void, bytes: usize, kind: c_int, stream: Handle);
    hipMemsetAsync(to: *mut c_void, value: c_int, bytes: usize, stream: Handle);
    hipDeviceSynchronize();
    hipGetLastError();
    hipStreamCreateWithFlags(stream: *mut Handle, flags: c_uint);
    hipStreamDestroy(stream: Handle);
    hipStreamSynchronize(stream: Handle);
    hipStreamQuery(stream: Handle);
    hipStreamWaitEvent(stream: Handle, event: Handle, flags: c_uint);
    hipEventCreateWithFlags(event: *mut Handle, flags: c_uint);
    hipEventDestroy(event: Handle);
    hipEventRecord(event: Handle, stream: Handle);
    hipEventSynchronize(event: Handle);
    hipEventQuery(event: Handle);
    hipEventElapsedTime(milliseconds: *mut f32, from: Handle, until: Handle);
    hipStreamBeginCapture(stream: Handle, mode: c_int);
    hipStreamEndCapture(stream: Handle, graph: *mut Handle);
    hipStreamIsCapturing(stream: Handle, status: *mut c_int);
    hipGraphInstantiate(executable: *mut Handle, graph: Handle, node: *mut c_void, log: *mut c_char, bytes: usize);
    hipGraphLaunch(executable: Handle, stream: Handle);
    hipGraphDestroy(graph: Handle);
    hipGraphExecDestroy(executable: Handle);
    hipModuleLoadData(module: *mut Handle, image: *const c_void);
    hipModuleUnload(module: Handle);
    hipModuleGetFunction(function: *mut Handle, module: Handle, name: *const c_char);
    hipModuleLaunchKernel(
        function: Handle, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint, block_y: c_uint,
        block_z: c_uint, lds: c_uint, stream: Handle, parameters: *const *const c_void, extra: *const *const c_void
    );
    hiprtcCreateProgram(
        program: *mut Handle, source: *const c_char, name: *const c_char, headers: c_int,
        texts: *const *const c_char, names: *const *const c_char
    );
    hiprtcCompileProgram(program: Handle, count: c_int, options: *const *const c_char);
    hiprtcGetCodeSize(program: Handle, bytes: *mut usize);
    hiprtcGetCode(program: Handle, code: *mut u8);
    hiprtcGetProgramLogSize(program: Handle, bytes: *mut usize);
    hiprtcGetProgramLog(program: Handle, log: *mut u8);
    hiprtcDestroyProgram(program: *mut Handle);
    hipblasLtCreate(context: *mut Handle);
    hipblasLtDestroy(context: Handle);
    hipblasLtGetVersion(context: Handle, version: *mut c_int);
    hipblasLtMatmulDescCreate(description: *mut Handle, compute: c_int, scale: c_int);
    hipblasLtMatmulDescSetAttribute(description: Handle, attribute: c_int, value: *const c_void, bytes: usize);
    hipblasLtMatmulDescDestroy(description: Handle);
    hipblasLtMatrixLayoutCreate(layout: *mut Handle, element: c_int, rows: u64, columns: u64, leading: i64);
    hipblasLtMatrixLayoutSetAttribute(layout: Handle, attribute: c_int, value: *const c_void, bytes: usize);
    hipblasLtMatmulPreferenceCreate(preference: *mut Handle);
    hipblasLtMatmulPreferenceSetAttribute(preference: Handle, attribute: c_int, value: *const c_void, bytes: usize);
    hipblasLtMatmulAlgoGetHeuristic(
        context: Handle, description: Handle, a: Handle, b: Handle, c: Handle, d: Handle, preference: Handle,
        requested: c_int, results: *mut c_void, returned: *mut c_int
    );
    hipblasLtMatmul(
        context: Handle, description: Handle, alpha: *const c_void, a: usize, a_layout: Handle, b: usize,
        b_layout: Handle, beta: *const c_void, c: usize, c_layout: Handle, d: usize, d_layout: Handle,
        algorithm: *const c_void, workspace: usize, workspace_bytes: usize, stream: Handle
    );
}

fn library() -> &'static Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let path = octet_hipsim::library_path().expect("Cargo builds the shared library beside the tests");
        // SAFETY: the library's initialisers are those of Rust's standard library.
        unsafe { Library::new(path) }.unwrap()
    })
}

/// Message of the fault that ended a kernel.
pub(crate) fn fault_message() -> String {
    let mut buffer = [0_u8; 1024];
    // SAFETY: the function has this type and writes at most as many bytes.
    let length = unsafe {
        let function = library()
            .get::<unsafe extern "C" fn(*mut u8, usize) -> usize>(b"octet_hipsim_fault_message\0")
            .unwrap();
        function(buffer.as_mut_ptr(), buffer.len())
    };
    String::from_utf8_lossy(&buffer[..length.min(buffer.len() - 1)]).into_owned()
}

/// Index of an architecture's device.
pub(crate) fn device(arch: &str) -> c_int {
    let position = ["gfx942", "gfx1100", "gfx950", "gfx1201", "gfx90a"].iter().position(|name| *name == arch);
    c_int::try_from(position.expect("an architecture of the simulator")).unwrap()
}

/// Makes an architecture's device the current one of this thread.
pub(crate) fn use_device(arch: &str) {
    assert_eq!(hipSetDevice(device(arch)), 0);
}

/// Compiles a source: the code object, or the result's code and the log.
pub(crate) fn compile(arch: &str, source: &str, definitions: &[&str]) -> Result<Vec<u8>, (c_int, String)> {
    let text = |text: &str| CString::new(text).unwrap();
    let (source, name) = (text(source), text("test.hip"));
    let mut program = 0;
    let null = std::ptr::null();
    assert_eq!(hiprtcCreateProgram(&raw mut program, source.as_ptr(), name.as_ptr(), 0, null, null), 0);
    let mut options = vec![text(&format!("--offload-arch={arch}")), text("-O3")];
    options.extend(definitions.iter().map(|definition| text(definition)));
    let pointers: Vec<_> = options.iter().map(|option| option.as_ptr()).collect();
    let result = hiprtcCompileProgram(program, c_int::try_from(pointers.len()).unwrap(), pointers.as_ptr());
    let mut bytes = 0;
    assert_eq!(hiprtcGetProgramLogSize(program, &raw mut bytes), 0);
    let mut log = vec![0_u8; bytes];
    assert_eq!(hiprtcGetProgramLog(program, log.as_mut_ptr()), 0);
    assert_eq!(hiprtcGetCodeSize(program, &raw mut bytes), 0);
    let mut code = vec![0_u8; bytes];
    assert_eq!(hiprtcGetCode(program, code.as_mut_ptr()), 0);
    assert_eq!(hiprtcDestroyProgram(&raw mut program), 0);
    let log = String::from_utf8_lossy(&log[..log.len() - 1]).into_owned();
    if result == 0 { Ok(code) } else { Err((result, log)) }
}

/// A kernel, ready to be launched on its architecture's device.
#[derive(Clone, Copy)]
pub(crate) struct Kernel(Handle);

impl Kernel {
    /// Compiles a source and takes the kernel `name` of it.
    pub(crate) fn new(arch: &str, name: &str, source: &str) -> Self {
        use_device(arch);
        let code = compile(arch, source, &[]).unwrap_or_else(|(code, log)| panic!("result {code}: {log}"));
        let (mut module, mut function) = (0, 0);
        assert_eq!(hipModuleLoadData(&raw mut module, code.as_ptr().cast()), 0);
        let name = CString::new(name).unwrap();
        assert_eq!(hipModuleGetFunction(&raw mut function, module, name.as_ptr()), 0);
        Self(function)
    }

    /// Launches on a stream, without waiting.
    pub(crate) fn launch<P>(self, stream: Handle, grid: [u32; 3], block: u32, parameters: &P) -> c_int {
        let pointers = [std::ptr::from_ref(parameters).cast::<c_void>()];
        let [x, y, z] = grid;
        hipModuleLaunchKernel(self.0, x, y, z, block, 1, 1, 0, stream, pointers.as_ptr(), std::ptr::null())
    }

    /// Launches one row of blocks and waits.
    pub(crate) fn run<P>(self, blocks: u32, block: u32, parameters: &P) -> c_int {
        let launched = self.launch(0, [blocks, 1, 1], block, parameters);
        if launched == 0 { hipStreamSynchronize(0) } else { launched }
    }
}

/// Device memory with values of one type.
pub(crate) struct Buffer<T> {
    pub(crate) address: *mut T,
    count: usize,
}

impl<T: Copy + Default> Buffer<T> {
    /// Memory that nobody has written.
    pub(crate) fn new(count: usize) -> Self {
        let mut address = std::ptr::null_mut();
        assert_eq!(hipMalloc(&raw mut address, count * size_of::<T>()), 0);
        Self { address: address.cast(), count }
    }

    /// Memory with these values.
    pub(crate) fn of(values: &[T]) -> Self {
        let buffer = Self::new(values.len());
        let bytes = size_of_val(values);
        assert_eq!(hipMemcpy(buffer.address.cast(), values.as_ptr().cast(), bytes, 1), 0);
        buffer
    }

    /// The values, when all work of the default stream is done.
    pub(crate) fn values(&self) -> Vec<T> {
        let mut values = vec![T::default(); self.count];
        let bytes = size_of_val(values.as_slice());
        assert_eq!(hipMemcpy(values.as_mut_ptr().cast(), self.address.cast(), bytes, 2), 0);
        values
    }
}

/// A stream that does not know the default one.
pub(crate) fn stream() -> Handle {
    let mut stream = 0;
    assert_eq!(hipStreamCreateWithFlags(&raw mut stream, 1), 0);
    stream
}

/// Runs this test program's test `name` in a process of its own, with an environment; its output.
pub(crate) fn in_process(name: &str, environment: &[(&str, &str)]) -> String {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .envs(environment.iter().copied())
        .env("OCTET_HIPSIM_TEST_CHILD", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("1 passed") || text.contains("1 failed"), "no test {name}:\n{text}");
    assert!(output.status.success(), "{name} failed:\n{text}");
    text.into_owned()
}

/// Whether this process was started by [`in_process`].
pub(crate) fn is_child() -> bool {
    std::env::var_os("OCTET_HIPSIM_TEST_CHILD").is_some()
}
