//! How a weight is handed over: views into the checkpoint, scales, and what the linear is for.

mod check;
mod format;

use crate::DataType;
pub use format::{ScaleShape, WeightFormat, WeightScale};

/// A matrix in host memory, row-major, `[rows, columns]`, possibly a window of a larger one.
///
/// A window is how tensor parallelism shards: a column-parallel shard is a range of rows, a row-parallel shard a range
/// of columns (the bytes then start at the first column and `row_stride` stays the full width).
#[derive(Clone, Copy, Debug)]
pub struct WeightView<'a> {
    /// Little-endian elements; row `r` starts at element `r * row_stride`.
    pub bytes: &'a [u8],
    /// Element type as stored.
    pub data_type: DataType,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub columns: usize,
    /// Elements from one row's start to the next's; at least `columns`.
    pub row_stride: usize,
}

impl WeightView<'_> {
    /// The bytes of one row.
    #[must_use]
    pub fn row(&self, row: usize) -> &[u8] {
        let start = self.data_type.row_bytes(row * self.row_stride);
        &self.bytes[start..start + self.data_type.row_bytes(self.columns)]
    }
}

/// One logical shard of a fused linear: q, k or v of the attention's input, gate or up of the MLP's.
#[derive(Clone, Copy, Debug)]
pub struct LinearPart<'a> {
    /// The values.
    pub weight: WeightView<'a>,
    /// Their scales.
    pub scale: WeightScale<'a>,
}

/// What a packed matrix must be able to do; it decides the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinearUse {
    /// Multiply only.
    Multiply,
    /// Two parts of equal shape, gate then up, for [`crate::Backend::gated_linear`].
    Gated,
    /// Row look-up only: an embedding table whose head is separate.
    Embed,
    /// Both: an embedding table that is also the head ("tied").
    EmbedAndMultiply,
}

/// The linear that the parts become: rows of all parts one after another, `[sum of rows, columns]`.
#[derive(Clone, Debug)]
pub struct LinearSpec {
    /// Element type to keep in device memory. Parts of another floating type are converted; codes
    /// (FP8, INT8) stay what they are (or become FNUZ, where the device multiplies that).
    pub data_type: DataType,
    /// What the matrix is for.
    pub usage: LinearUse,
    /// Bias, one for each output row.
    pub bias: Option<Vec<f32>>,
    /// How the checkpoint wants the input quantized, on devices that multiply FP8 by FP8; others, and weights whose
    /// scales are blocks, widen the weight instead. None: the input stays wide everywhere.
    pub input_scale: Option<InputScale>,
}

/// The scale of an input in FP8: `input ≈ code * scale`, codes E4M3 (or FNUZ, which holds the same values under half of
/// their codes' values and twice the scale), values beyond the largest clamped to it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum InputScale {
    /// Found at run time for each row: `max(largest magnitude / 448, 1 / (448 * 512))`, as vLLM does.
    Dynamic,
    /// One for all rows, from the checkpoint.
    Static(f32),
}
