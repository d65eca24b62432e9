//! What can go wrong below the seam.

use crate::DataType;

/// An error of a backend. The caller adds which tensor or step it concerns.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum BackendError {
    /// The device cannot give this much memory.
    #[error("the device has no room for {requested_bytes} bytes of {what}")]
    OutOfMemory {
        /// What the memory was for.
        what: &'static str,
        /// Bytes that were asked for.
        requested_bytes: usize,
    },
    /// The device has no kernel for this element type in this place.
    #[error("{what} in {data_type} is not supported by this device; supported: {supported}")]
    UnsupportedDataType {
        /// The place: weights, KV cache.
        what: &'static str,
        /// The type that was asked for.
        data_type: DataType,
        /// The types that would do, for the message.
        supported: &'static str,
    },
    /// A weight's shape disagrees with the linear that it is to become part of.
    #[error(
        "a weight has shape [{found_rows}, {found_columns}] where [{expected_rows}, {expected_columns}] was expected"
    )]
    Shape {
        /// Rows found.
        found_rows: usize,
        /// Columns found.
        found_columns: usize,
        /// Rows expected.
        expected_rows: usize,
        /// Columns expected.
        expected_columns: usize,
    },
    /// A weight holds NaN or an infinity.
    #[error("a weight is not finite at row {row}, column {column}")]
    NotFinite {
        /// Row of the first such element, within its part.
        row: usize,
        /// Column of the first such element.
        column: usize,
    },
    /// A limit of the device or of its kernels was passed.
    #[error("{what} is {value}, which is above this device's limit of {limit}")]
    Limit {
        /// The quantity.
        what: &'static str,
        /// Its value.
        value: usize,
        /// The largest that is supported.
        limit: usize,
    },
    /// The paged kernels cannot address blocks of this size.
    #[error(
        "KV blocks of {block_size} tokens are not supported by this device: use a multiple of {multiple_of}"
    )]
    BlockSize {
        /// Tokens in a block, as asked for.
        block_size: usize,
        /// What it must be a positive multiple of.
        multiple_of: usize,
    },
    /// One of the device's ways to solve a product does not take this one.
    #[error("solution {solution} does not compute this product: {reason}")]
    Solution {
        /// Its name.
        solution: String,
        /// Why not, in the device's or its library's words.
        reason: String,
    },
    /// The device itself failed: a driver or library call, a lost device.
    #[error("the device failed: {0}")]
    Device(String),
    /// The device did not finish its work within the time that it was given. It is lost to this process: nothing that
    /// was started can be taken back.
    #[error("the device did not finish in time: {0}")]
    Unfinished(String),
}

impl BackendError {
    /// Holds a quantity to a limit.
    ///
    /// # Errors
    /// [`BackendError::Limit`] if it is above.
    pub fn check_limit(what: &'static str, value: usize, limit: usize) -> Result<(), Self> {
        if value <= limit { Ok(()) } else { Err(Self::Limit { what, value, limit }) }
    }
}
