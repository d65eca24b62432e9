//! What can go wrong in tuning. A file that cannot be used is no error: see [`crate::FileState`].

use std::io;
use std::path::PathBuf;

use octet_backend::BackendError;

use crate::results::Mismatch;

/// An error that ends tuning, or keeps it from beginning.
#[derive(Debug, thiserror::Error)]
pub enum TuneError {
    /// An environment variable with a value that means nothing.
    #[error("{variable} is {value:?}, expected {expected}")]
    Environment {
        /// The variable.
        variable: String,
        /// Its value.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
    /// A file that was asked for by name cannot be read.
    #[error("{path} cannot be read: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The device failed, as opposed to one of its solutions.
    #[error("tuning {problem}: {source}")]
    Device {
        /// The problem that was being tuned.
        problem: String,
        /// The device's answer.
        source: BackendError,
    },
}

/// Why PyTorch's results cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file cannot be read.
    #[error("{path} cannot be read: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file was not written by PyTorch.
    #[error(
        "{path} has no PT_VERSION validator, so PyTorch did not write it; a file of Octet's own is named by --gemm-tuning-file"
    )]
    NotPyTorch {
        /// The file.
        path: PathBuf,
    },
    /// The device computes with other libraries than PyTorch did.
    #[error(
        "{path} cannot be imported: its solutions belong to {libraries}, and this device ({device}) uses none of PyTorch's libraries"
    )]
    OtherLibraries {
        /// The file.
        path: PathBuf,
        /// The validators of the file.
        libraries: String,
        /// The device.
        device: String,
    },
    /// The libraries or the device are not those of the file.
    #[error("{path} cannot be imported: {mismatch}")]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// The first validator that differs.
        mismatch: Mismatch,
    },
}
