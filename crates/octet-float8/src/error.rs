//! What can be wrong with a tensor that is to be quantized.

/// Why a tensor cannot be converted or quantized.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// A value has no FP8 code within any scale.
    #[error("element {index} is {value}: only finite values can be quantized")]
    NotFinite {
        /// Position of the first such element in the slice.
        index: usize,
        /// The value, NaN or an infinity.
        value: f32,
    },

    /// A code of the source format means NaN or infinity.
    #[error("code {index} is 0x{code:02X}, which means {value} in {format}: the weights are damaged")]
    CodeNotFinite {
        /// Position of the first such code in the slice.
        index: usize,
        /// The byte.
        code: u8,
        /// What the byte means.
        value: f32,
        /// The format in which it was read.
        format: crate::Float8Format,
    },

    /// Two slices that belong together differ in length.
    #[error("{what} has {actual} elements, {expected} were expected")]
    Length {
        /// Which slice.
        what: &'static str,
        /// What the shape demands.
        expected: usize,
        /// What was given.
        actual: usize,
    },

    /// A scale that is not a positive finite number.
    #[error("scale {scale} cannot be used: a dequantization scale is a positive finite number")]
    Scale {
        /// The scale as given.
        scale: f32,
    },

    /// A block, group or row of size zero.
    #[error("{what} is 0: it must be at least 1")]
    Zero {
        /// Which size.
        what: &'static str,
    },

    /// A name that is no FP8 format.
    #[error("{name:?} is not an FP8 format: use {}", crate::Float8Format::NAMES)]
    UnknownFormat {
        /// The name as given.
        name: String,
    },
}
