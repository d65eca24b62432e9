//! The library's functions and numbers: hipBLASLt's, or cuBLASLt's, which has the same calls with other numbers.
//!
//! Numbers are those of `hipblaslt.h` of ROCm 6 and 7 and of `cublasLt.h` of CUDA 12 and 13.

use std::ffi::{c_char, c_int, c_void};
use std::path::Path;

use octet_backend::DataType;
use octet_float8::Float8Format;

use crate::driver::{Handle, Kind, table};
use crate::library::{self, Found, Wanted};
use crate::{Device, GpuError};

/// The oldest hipBLASLt: that of ROCm 6.0, the first with FP8.
const OLDEST_HIPBLASLT: usize = 600;
/// From here on, hipBLASLt has modes of scales, and 102 and 103 mean something else: ROCm 7.0.
const HIPBLASLT_WITH_MODES: usize = 100_000;
/// The oldest cuBLASLt, of CUDA 12.0, and the first with a scale for each row.
const OLDEST_CUBLASLT: usize = 120_000;
const CUBLASLT_WITH_ROW_SCALES: usize = 120_900;

table! {
    /// What products need of the library.
    Functions {
        create: "hipblasLtCreate", "cublasLtCreate", (*mut Handle);
        destroy: "hipblasLtDestroy", "cublasLtDestroy", (Handle);
        create_operation: "hipblasLtMatmulDescCreate", "cublasLtMatmulDescCreate", (*mut Handle, c_int, c_int);
        set_operation: "hipblasLtMatmulDescSetAttribute", "cublasLtMatmulDescSetAttribute",
            (Handle, c_int, *const c_void, usize);
        destroy_operation: "hipblasLtMatmulDescDestroy", "cublasLtMatmulDescDestroy", (Handle);
        create_layout: "hipblasLtMatrixLayoutCreate", "cublasLtMatrixLayoutCreate",
            (*mut Handle, c_int, u64, u64, i64);
        destroy_layout: "hipblasLtMatrixLayoutDestroy", "cublasLtMatrixLayoutDestroy", (Handle);
        create_preference: "hipblasLtMatmulPreferenceCreate", "cublasLtMatmulPreferenceCreate", (*mut Handle);
        set_preference: "hipblasLtMatmulPreferenceSetAttribute", "cublasLtMatmulPreferenceSetAttribute",
            (Handle, c_int, *const c_void, usize);
        destroy_preference: "hipblasLtMatmulPreferenceDestroy", "cublasLtMatmulPreferenceDestroy", (Handle);
        heuristic: "hipblasLtMatmulAlgoGetHeuristic", "cublasLtMatmulAlgoGetHeuristic",
            (Handle, Handle, Handle, Handle, Handle, Handle, Handle, c_int, *mut c_void, *mut c_int);
        multiply: "hipblasLtMatmul", "cublasLtMatmul",
            (Handle, Handle, *const c_void, Handle, Handle, Handle, Handle, *const c_void, Handle, Handle, Handle,
             Handle, *const c_void, Handle, usize, Handle);
    }
}

/// How the version is asked for.
enum VersionOf {
    Hip {
        number: unsafe extern "C" fn(Handle, *mut c_int) -> c_int,
        /// Of its source, a name for the build; not in every version.
        revision: Option<unsafe extern "C" fn(Handle, *mut c_char) -> c_int>,
    },
    Cuda {
        number: unsafe extern "C" fn() -> usize,
    },
}

/// A BLAS library, loaded. It stays loaded for the life of the process.
pub(crate) struct BlasApi {
    pub(crate) kind: Kind,
    pub(crate) functions: Functions,
    version_of: VersionOf,
    /// Where it was found.
    pub(crate) found: String,
}

impl BlasApi {
    /// Loads the library from `path` or from where it usually lies.
    ///
    /// # Errors
    /// It is missing, or a function of it is.
    pub(crate) fn load(kind: Kind, path: Option<&Path>) -> Result<Self, GpuError> {
        let wanted = wanted(kind);
        let library = wanted.open(path)?;
        let functions = Functions::load(&library, kind, wanted.what)?;
        let version_of = VersionOf::load(&library, kind, wanted.what)?;
        let found = library.name.clone();
        // Function pointers outlive the handle only because the library is never closed.
        std::mem::forget(library);
        Ok(Self { kind, functions, version_of, found })
    }

    /// Its name, for people.
    pub(crate) fn name(&self) -> &'static str {
        match self.kind {
            Kind::Hip => "hipBLASLt",
            Kind::Cuda => "cuBLASLt",
        }
    }

    /// Its name and where it was found, for people: only a handle, which needs a device, knows the version.
    pub(crate) fn describe(&self) -> String {
        format!("{} from {}", self.name(), self.found)
    }

    /// Turns a status into an error.
    pub(crate) fn check(&self, field: &str, status: c_int) -> Result<(), GpuError> {
        if status == 0 {
            return Ok(());
        }
        let text = status_text(self.kind, status).to_owned();
        Err(GpuError::Call { call: Functions::name_of(self.kind, field), status, text })
    }

    /// The version of a handle's library.
    ///
    /// # Errors
    /// The library's, or it is too old.
    pub(crate) fn version(&self, handle: Handle) -> Result<BlasVersion, GpuError> {
        let mut revision = String::new();
        let number = match self.version_of {
            VersionOf::Hip { number, revision: revision_of } => {
                let mut version = 0;
                // SAFETY: the handle is the library's, the pointer is to a local variable.
                let status = unsafe { number(handle, &raw mut version) };
                self.check("version", status)?;
                if let Some(revision_of) = revision_of {
                    revision = revision_text(handle, revision_of);
                }
                usize::try_from(version).unwrap_or(0)
            }
            // SAFETY: it takes nothing.
            VersionOf::Cuda { number } => unsafe { number() },
        };
        let version = BlasVersion { kind: self.kind, number, revision };
        let (oldest, library, needed) = match self.kind {
            Kind::Hip => (OLDEST_HIPBLASLT, "hipBLASLt", "0.6.0"),
            Kind::Cuda => (OLDEST_CUBLASLT, "cuBLASLt", "12.0.0"),
        };
        if number < oldest {
            return Err(GpuError::TooOld { library, found: version.dotted(), needed });
        }
        Ok(version)
    }
}

impl VersionOf {
    fn load(found: &Found, kind: Kind, what: &'static str) -> Result<Self, GpuError> {
        // SAFETY: the signatures are those of the headers.
        unsafe {
            Ok(match kind {
                Kind::Hip => Self::Hip {
                    number: library::function(found, what, "hipblasLtGetVersion")?,
                    revision: library::function(found, what, "hipblasLtGetGitRevision").ok(),
                },
                Kind::Cuda => Self::Cuda { number: library::function(found, what, "cublasLtGetVersion")? },
            })
        }
    }
}

fn revision_text(handle: Handle, of: unsafe extern "C" fn(Handle, *mut c_char) -> c_int) -> String {
    // It writes a text without being told of how much room there is; PyTorch gives it 128 bytes.
    let mut bytes = [0u8; 4096];
    // SAFETY: the handle is the library's, and the buffer is many times larger than what it writes.
    let status = unsafe { of(handle, bytes.as_mut_ptr().cast()) };
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(0);
    if status == 0 { String::from_utf8_lossy(&bytes[..end]).trim().to_owned() } else { String::new() }
}

/// What the library is called and where it may lie.
fn wanted(kind: Kind) -> Wanted {
    match kind {
        Kind::Hip => Wanted {
            what: "hipBLASLt",
            names: &["libhipblaslt.so.1", "libhipblaslt.so.0", "libhipblaslt.so"],
            roots: &["ROCM_PATH", "HIP_PATH"],
            folders: &["/opt/rocm/lib"],
        },
        Kind::Cuda => Wanted {
            what: "cuBLASLt",
            names: &["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"],
            roots: &["CUDA_PATH", "CUDA_HOME"],
            folders: &["/usr/local/cuda/lib64"],
        },
    }
}

/// What a status means, in the words of its header.
fn status_text(kind: Kind, status: c_int) -> &'static str {
    match (kind, status) {
        (_, 1) => "not initialised",
        (Kind::Hip, 2) | (Kind::Cuda, 3) => "allocation failed",
        (Kind::Hip, 3) | (Kind::Cuda, 7) => "invalid value",
        (Kind::Hip, 5) | (Kind::Cuda, 13) => "execution failed",
        (Kind::Hip, 6) | (Kind::Cuda, 14) => "internal error",
        (Kind::Hip, 7) | (Kind::Cuda, 15) => "not supported",
        (Kind::Hip | Kind::Cuda, 8) => "the architecture does not match",
        _ => "no description",
    }
}

/// A version of the library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BlasVersion {
    kind: Kind,
    /// As the library numbers it: hipBLASLt 1.1.0 is 100100, cuBLASLt 13.2.1 is 130201 or so.
    pub(crate) number: usize,
    /// Of its source; empty if it does not say.
    pub(crate) revision: String,
}

impl BlasVersion {
    /// `1.1.0`.
    pub(crate) fn dotted(&self) -> String {
        let (major, minor) = match self.kind {
            Kind::Hip => (self.number / 100_000, self.number / 100 % 1000),
            Kind::Cuda => (self.number / 10_000, self.number / 100 % 100),
        };
        format!("{major}.{minor}.{}", self.number % 100)
    }

    /// The ways in which PyTorch names this version in its files: with the library's number, as newer ones do, and
    /// with dots.
    pub(crate) fn pytorch_names(&self) -> [String; 2] {
        [format!("{}-{}", self.number, self.revision), format!("{}-{}", self.dotted(), self.revision)]
    }

    /// How scales of rows are said, if they can be.
    pub(crate) fn row_scales(&self) -> Option<RowScales> {
        match self.kind {
            Kind::Hip if self.number >= HIPBLASLT_WITH_MODES => {
                Some(RowScales::Mode { pointers: [5, 6], modes: [31, 32] })
            }
            Kind::Hip => Some(RowScales::Vectors { pointers: [102, 103] }),
            Kind::Cuda if self.number >= CUBLASLT_WITH_ROW_SCALES => {
                Some(RowScales::Mode { pointers: [17, 18], modes: [31, 32] })
            }
            Kind::Cuda => None,
        }
    }
}

/// Attributes by which scales of rows, of `A` and of `B`, are said. To mistake one form for the other is no error but
/// wrong numbers: hipBLASLt 1.0 gave 102 and 103 another meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowScales {
    /// Pointers, and modes that say what they point to.
    Mode { pointers: [c_int; 2], modes: [c_int; 2] },
    /// Pointers of their own.
    Vectors { pointers: [c_int; 2] },
}

impl RowScales {
    /// `OUTER_VEC_32F`: a scale for each row of the weight and each row of the input.
    pub(crate) const OUTER_VECTOR: c_int = 3;

    pub(crate) fn pointers(self) -> [c_int; 2] {
        match self {
            Self::Mode { pointers, .. } | Self::Vectors { pointers } => pointers,
        }
    }
}

/// Numbers that differ between the two.
#[derive(Clone, Copy)]
pub(crate) struct Numbers {
    pub(crate) compute_f32: c_int,
    pub(crate) transposed: c_int,
    /// Attributes of an operation.
    pub(crate) transpose_a: c_int,
    pub(crate) epilogue: c_int,
    pub(crate) bias_pointer: c_int,
    pub(crate) bias_type: c_int,
    /// 64-bit words of an algorithm and of a result of the heuristic, which begins with one.
    pub(crate) algorithm_words: usize,
    pub(crate) result_words: usize,
}

impl Numbers {
    /// The epilogue that adds a bias.
    pub(crate) const BIAS: c_int = 4;
    /// Attribute of a preference: the most bytes of workspace.
    pub(crate) const MAX_WORKSPACE_BYTES: c_int = 1;

    pub(crate) const fn of(kind: Kind) -> Self {
        match kind {
            Kind::Hip => Self {
                compute_f32: 2,
                transposed: 112,
                transpose_a: 0,
                epilogue: 2,
                bias_pointer: 3,
                bias_type: 4,
                algorithm_words: 3,
                result_words: 7,
            },
            Kind::Cuda => Self {
                compute_f32: 68,
                transposed: 1,
                transpose_a: 3,
                epilogue: 7,
                bias_pointer: 8,
                bias_type: 26,
                algorithm_words: 8,
                result_words: 12,
            },
        }
    }
}

/// An element type in `hipDataType` and `cudaDataType`, which number alike.
pub(crate) const fn type_number(data_type: DataType) -> c_int {
    match data_type {
        DataType::F32 => 0,
        DataType::F16 => 2,
        DataType::I8 => 3,
        DataType::BF16 => 14,
        DataType::F8(Float8Format::E4M3) => 28,
        DataType::F8(Float8Format::E5M2) => 29,
        DataType::F8(Float8Format::E4M3Fnuz) => 1000,
        DataType::F8(Float8Format::E5M2Fnuz) => 1001,
    }
}

/// Loads the library for a device: from what was given for the runtime, too, if that was given.
///
/// # Errors
/// It is missing.
pub(crate) fn load_for(device: &Device, path: Option<&Path>) -> Result<BlasApi, GpuError> {
    let api = device.api();
    BlasApi::load(api.kind, path.or(api.given.as_deref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_decide_how_scales_of_rows_are_said() {
        let version = |kind, number| BlasVersion { kind, number, revision: "abc".to_owned() };
        let (rocm_6, rocm_7) = (version(Kind::Hip, 1201), version(Kind::Hip, 100_100));
        assert_eq!((rocm_6.dotted(), rocm_7.dotted()), ("0.12.1".to_owned(), "1.1.0".to_owned()));
        assert_eq!(rocm_7.pytorch_names(), ["100100-abc", "1.1.0-abc"]);
        assert_eq!(rocm_6.row_scales(), Some(RowScales::Vectors { pointers: [102, 103] }));
        let modes = RowScales::Mode { pointers: [5, 6], modes: [31, 32] };
        assert_eq!(rocm_7.row_scales(), Some(modes));
        assert_eq!(version(Kind::Cuda, 120_800).row_scales(), None);
        assert_eq!(version(Kind::Cuda, 130_001).dotted(), "13.0.1");
    }
}
