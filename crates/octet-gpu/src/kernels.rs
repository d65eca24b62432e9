//! The kernels' source, its compilation, and the launch parameters' other side.

use std::ffi::{CString, c_int};
use std::fs;
use std::path::PathBuf;
use std::ptr;

use crate::GpuError;
use crate::architecture::Architecture;
use crate::cache::CodeCache;
use crate::driver::{Kind, LoadedCompiler};

/// The files of `kernels/`, which live in the program.
const DEVICE: &str = include_str!("../kernels/device.h");
const MATRIX: &str = include_str!("../kernels/matrix.h");

/// A source file with the options that make it one module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    name: &'static str,
    text: &'static str,
    options: Vec<String>,
}

impl Source {
    /// Norms, gates, look-ups and copies.
    #[must_use]
    pub fn rows() -> Self {
        Self { name: "rows", text: include_str!("../kernels/rows.cu"), options: Vec::new() }
    }

    /// Rotary positions and the write into a cache of this type.
    #[must_use]
    pub fn rotary(head_dim: usize, cache_type: ElementType) -> Self {
        let options = vec![format!("-DHEAD_DIM={head_dim}"), cache_type.option("CACHE_TYPE")];
        Self { name: "rotary", text: include_str!("../kernels/rotary.cu"), options }
    }

    /// Attention over a cache of this type.
    #[must_use]
    pub fn attention(head_dim: usize, cache_type: ElementType) -> Self {
        let options = vec![format!("-DHEAD_DIM={head_dim}"), cache_type.option("CACHE_TYPE")];
        Self { name: "attention", text: include_str!("../kernels/attention.cu"), options }
    }

    /// Linears of these weights and inputs; `is_grouped` if their scales are blocks.
    #[must_use]
    pub fn linear(weight_type: ElementType, input_type: ElementType, is_grouped: bool) -> Self {
        let options = vec![
            weight_type.option("WEIGHT_TYPE"),
            input_type.option("INPUT_TYPE"),
            format!("-DGROUPED={}", u8::from(is_grouped)),
        ];
        Self { name: "linear", text: include_str!("../kernels/linear.cu"), options }
    }

    /// Linears of E4M3 weights by E4M3 inputs, for devices that multiply these.
    #[must_use]
    pub fn linear_float8() -> Self {
        let options =
            ["-DWEIGHT_TYPE=TYPE_E4M3_PAIR", "-DINPUT_TYPE=TYPE_E4M3_PAIR", "-DGROUPED=0"].map(str::to_owned);
        Self { name: "linear", text: include_str!("../kernels/linear.cu"), options: options.to_vec() }
    }

    /// Inputs in E4M3: of norms, of gates, and of any activation.
    #[must_use]
    pub fn quantize() -> Self {
        Self { name: "quantize", text: include_str!("../kernels/quantize.cu"), options: Vec::new() }
    }

    /// Logits to tokens.
    #[must_use]
    pub fn sample() -> Self {
        Self { name: "sample", text: include_str!("../kernels/sample.cu"), options: Vec::new() }
    }

    /// The modules that a release brings along for an architecture: those of the types that models come in, for heads of
    /// the usual sizes.
    #[must_use]
    pub fn released(architecture: Architecture) -> Vec<Self> {
        use ElementType::{BF16, E4M3, E5M2, F16, F32};
        let mut sources = vec![Self::rows(), Self::sample()];
        for head_dim in [64, 80, 96, 128, 256] {
            for cache_type in [BF16, F16, E4M3, E5M2] {
                sources.extend([Self::rotary(head_dim, cache_type), Self::attention(head_dim, cache_type)]);
            }
        }
        sources.extend([BF16, F16, F32, E4M3, E5M2].map(|weight| Self::linear(weight, BF16, false)));
        sources.extend([E4M3, E5M2].map(|weight| Self::linear(weight, BF16, true)));
        if architecture.multiplies_float8() {
            sources.extend([Self::quantize(), Self::linear_float8()]);
        }
        sources
    }

    /// Its name with its options, for messages and for the table of limits.
    #[must_use]
    pub fn title(&self) -> String {
        let options: Vec<&str> =
            self.options.iter().filter_map(|option| option.split('=').next_back()).collect();
        if options.is_empty() {
            return self.name.to_owned();
        }
        format!("{}({})", self.name, options.join(",").replace("TYPE_", "").to_lowercase())
    }

    /// All of it as one text without includes.
    #[must_use]
    pub fn text(&self) -> String {
        [DEVICE, MATRIX, self.text].concat()
    }

    /// Its own options, without those of an architecture.
    #[must_use]
    pub fn options(&self) -> &[String] {
        &self.options
    }
}

/// Element types in kernels. The numbers are those of `device.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum ElementType {
    /// IEEE binary32.
    F32 = 0,
    /// IEEE binary16.
    F16 = 1,
    /// bfloat16.
    BF16 = 2,
    /// FP8 with 3 bits of mantissa, OCP or FNUZ as the device has it.
    E4M3 = 3,
    /// FP8 with 2 bits of mantissa.
    E5M2 = 4,
}

impl ElementType {
    /// Size of one element.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::E4M3 | Self::E5M2 => 1,
        }
    }

    /// How many bf16 numbers sum up to it exactly.
    #[must_use]
    pub const fn terms(self) -> usize {
        match self {
            Self::F32 => 3,
            Self::F16 => 2,
            Self::BF16 | Self::E4M3 | Self::E5M2 => 1,
        }
    }

    fn option(self, name: &str) -> String {
        let value = match self {
            Self::F32 => "TYPE_F32",
            Self::F16 => "TYPE_F16",
            Self::BF16 => "TYPE_BF16",
            Self::E4M3 => "TYPE_E4M3",
            Self::E5M2 => "TYPE_E5M2",
        };
        format!("-D{name}={value}")
    }
}

/// Where code comes from: a folder of compiled kernels, and perhaps one of sources and a file made at release time.
#[derive(Clone, Debug)]
pub(crate) struct Code {
    pub(crate) cache: CodeCache,
    /// Used where there is no compiler.
    pub(crate) bundle: Option<PathBuf>,
    /// Files of it replace those of the same name inside the program.
    pub(crate) sources: Option<PathBuf>,
}

impl Code {
    pub(crate) fn text_of(&self, source: &Source) -> String {
        let read = |name: &str, built_in: &str| {
            let replaced =
                self.sources.as_ref().and_then(|folder| fs::read_to_string(folder.join(name)).ok());
            replaced.unwrap_or_else(|| built_in.to_owned())
        };
        let file = format!("{}.cu", source.name);
        [read("device.h", DEVICE), read("matrix.h", MATRIX), read(&file, source.text)].concat()
    }
}

/// What a compilation made.
pub struct Compiled {
    /// Code that the driver loads.
    pub code: Vec<u8>,
    /// The compiler's log.
    pub log: String,
}

/// A run-time compiler without a device: for gates, and for code that is made at release time.
pub struct OfflineCompiler(LoadedCompiler);

impl OfflineCompiler {
    /// Loads the compiler from `path` or from where it usually lies.
    ///
    /// # Errors
    /// It is not there.
    pub fn load(kind: Kind, path: Option<&std::path::Path>) -> Result<Self, GpuError> {
        LoadedCompiler::load(kind, path).map(Self)
    }

    /// Compiles a source for an architecture, with further options.
    ///
    /// # Errors
    /// The compiler's, with its log.
    pub fn compile(
        &self,
        source: &Source,
        architecture: Architecture,
        further: &[&str],
    ) -> Result<Compiled, GpuError> {
        let further = further.iter().map(|&option| option.to_owned());
        let options: Vec<String> = all_options(source, architecture).chain(further).collect();
        compile(&self.0, (source, &source.text()), &architecture.name(), &options)
    }

    /// As [`OfflineCompiler::compile`], but code that the drivers of later devices of the family load too: NVIDIA's PTX.
    /// AMD has no such thing, and this is its usual code.
    ///
    /// # Errors
    /// The compiler's, with its log.
    pub fn compile_portably(
        &self,
        source: &Source,
        architecture: Architecture,
    ) -> Result<Compiled, GpuError> {
        let options: Vec<String> = all_options(source, architecture).collect();
        let text = source.text();
        compile_to(&self.0, (source, &text), (&architecture.name(), &options), Form::Portable)
    }
}

pub(crate) fn all_options(source: &Source, architecture: Architecture) -> impl Iterator<Item = String> {
    architecture.options().into_iter().chain(source.options.clone())
}

/// Destroys the program however the compilation ends.
struct Program<'a> {
    compiler: &'a LoadedCompiler,
    handle: *mut std::ffi::c_void,
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        // SAFETY: created by this compiler and destroyed once.
        unsafe { (self.compiler.functions.destroy)(&raw mut self.handle) };
    }
}

impl Program<'_> {
    fn log(&self) -> String {
        let functions = &self.compiler.functions;
        let mut bytes = 0;
        // SAFETY: the first call writes the size of what the second writes.
        unsafe {
            if (functions.log_bytes)(self.handle, &raw mut bytes) != 0 || bytes == 0 {
                return "no log".to_owned();
            }
            let mut log = vec![0u8; bytes + 1];
            (functions.log)(self.handle, log.as_mut_ptr().cast());
            let end = log.iter().position(|&byte| byte == 0).unwrap_or(bytes);
            String::from_utf8_lossy(&log[..end]).trim().to_owned()
        }
    }
}

/// Which of a compiler's two results is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// For exactly this architecture.
    Native,
    /// For it and later ones, where the maker has that.
    Portable,
}

/// Compiles a text under a source's name.
///
/// # Errors
/// The compiler's, with its log.
pub(crate) fn compile(
    compiler: &LoadedCompiler,
    source: (&Source, &str),
    architecture: &str,
    options: &[String],
) -> Result<Compiled, GpuError> {
    compile_to(compiler, source, (architecture, options), Form::Native)
}

fn compile_to(
    compiler: &LoadedCompiler,
    (source, text): (&Source, &str),
    (architecture, options): (&str, &[String]),
    form: Form,
) -> Result<Compiled, GpuError> {
    let text = CString::new(text).unwrap_or_default();
    let name = CString::new(source.name).unwrap_or_default();
    let options: Vec<CString> =
        options.iter().map(|option| CString::new(option.as_str()).unwrap_or_default()).collect();
    let pointers: Vec<_> = options.iter().map(|option| option.as_ptr()).collect();
    let functions = &compiler.functions;
    let mut program = Program { compiler, handle: ptr::null_mut() };
    // SAFETY: all texts end with 0 and outlive the calls; counts are those of the arrays.
    unsafe {
        let handle = &raw mut program.handle;
        let status = (functions.create)(handle, text.as_ptr(), name.as_ptr(), 0, ptr::null(), ptr::null());
        compiler.check("create", status)?;
        let count = c_int::try_from(pointers.len()).unwrap_or(0);
        if (functions.compile)(program.handle, count, pointers.as_ptr()) != 0 {
            let (module, architecture) = (source.title(), architecture.to_owned());
            return Err(GpuError::Compile { module, architecture, log: program.log() });
        }
        let (size_of_code, code_of) = match form {
            Form::Native => (functions.code_bytes, functions.code),
            Form::Portable => (functions.portable_bytes, functions.portable),
        };
        let mut bytes = 0;
        compiler.check("code_bytes", size_of_code(program.handle, &raw mut bytes))?;
        let mut code = vec![0u8; bytes];
        compiler.check("code", code_of(program.handle, code.as_mut_ptr().cast()))?;
        Ok(Compiled { code, log: program.log() })
    }
}
