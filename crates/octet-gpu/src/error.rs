//! What can go wrong between here and the device.

use std::time::Duration;

use octet_backend::BackendError;

use crate::driver::Activity;
use crate::library::Attempt;

/// An error of the GPU backend.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// A library is not there, or not as it must be.
    #[error("{what} was not found; looked for:{}", list(.attempts))]
    LibraryMissing {
        /// Which library.
        what: &'static str,
        /// Where it was looked for, and what was wrong there.
        attempts: Vec<Attempt>,
    },
    /// A library is older than this program needs.
    #[error("{library} has version {found}; {needed} or newer is needed")]
    TooOld {
        /// Which library.
        library: &'static str,
        /// Its version.
        found: String,
        /// The oldest that will do.
        needed: &'static str,
    },
    /// A call returned an error.
    #[error("{call} failed with status {status}: {text}")]
    Call {
        /// The function's name in the library.
        call: &'static str,
        /// What it returned.
        status: i32,
        /// The library's own words for it.
        text: String,
    },
    /// There is no such device.
    #[error("there is no {kind} device {index}: {count} found")]
    NoDevice {
        /// `hip` or `cuda`.
        kind: &'static str,
        /// The index that was asked for.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// The device's architecture has no kernels here.
    #[error("architecture {architecture} is not supported; supported are {supported}")]
    Architecture {
        /// What the device says it is.
        architecture: String,
        /// Those that are supported.
        supported: &'static str,
    },
    /// A kernel source was not compiled.
    #[error("{module} was not compiled for {architecture}: {log}")]
    Compile {
        /// The source's name.
        module: String,
        /// For which architecture.
        architecture: String,
        /// The compiler's log.
        log: String,
    },
    /// Work did not end in time. Nothing more is asked of the device.
    #[error(
        "{name} ({architecture}) did not finish within {} s, {activity}; the process must end, and if the device does \
         not answer the next one either it needs a reset", .limit.as_secs_f64()
    )]
    Unfinished {
        /// The time that it had.
        limit: Duration,
        /// What it was at work on.
        activity: Activity,
        /// The device's name.
        name: String,
        /// Its architecture.
        architecture: String,
    },
    /// The device was given up before.
    #[error("{name} was given up because it did not finish earlier work")]
    Lost {
        /// The device's name.
        name: String,
    },
    /// The operating system gives no thread to compile on.
    #[error("no thread to compile kernels: {0}")]
    Thread(std::io::Error),
    /// A thread that compiled kernels did not come to its end.
    #[error("a thread that compiled kernels panicked, or its error was told before")]
    Panicked,
    /// There is neither a compiler nor code that was made at release time.
    #[error(
        "there is no code of {module} for {architecture}: {bundle}, and {compiler}\ninstall the compiler, or name a file \
         made by tools/kernels/build for this version in OCTET_KERNEL_BUNDLE"
    )]
    NoCode {
        /// The source's name.
        module: String,
        /// For which architecture.
        architecture: String,
        /// What is wrong with the code that was made at release time.
        bundle: String,
        /// What is wrong with the compiler.
        compiler: String,
    },
    /// The device has no room.
    #[error("the device has no room for {requested_bytes} bytes of {what}")]
    OutOfMemory {
        /// What the memory was for.
        what: &'static str,
        /// Bytes that were asked for.
        requested_bytes: usize,
    },
}

fn list(attempts: &[Attempt]) -> String {
    attempts.iter().map(|attempt| format!("\n  {attempt}")).collect()
}

impl From<GpuError> for BackendError {
    fn from(error: GpuError) -> Self {
        match error {
            GpuError::OutOfMemory { what, requested_bytes } => Self::OutOfMemory { what, requested_bytes },
            unfinished @ (GpuError::Unfinished { .. } | GpuError::Lost { .. }) => {
                Self::Unfinished(unfinished.to_string())
            }
            other => Self::Device(other.to_string()),
        }
    }
}
