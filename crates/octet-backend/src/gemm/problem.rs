//! One product as a value.

use std::fmt;

use super::TokenBucket;
use crate::{DataType, ScaleShape};

/// A product `output [tokens, rows] = input [tokens, columns] · weightᵀ`: everything that decides which kernel is the
/// fastest. Two weights of the same problem share their tuning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GemmProblem {
    /// Rows of the weight, of all its parts: `m` of the BLAS. Half as many columns come out if it is gated.
    pub rows: usize,
    /// Tokens: `n` of the BLAS.
    pub bucket: TokenBucket,
    /// Columns of the weight: `k` of the BLAS.
    pub columns: usize,
    /// Element type of the weight.
    pub weight: DataType,
    /// Element type of the input.
    pub activation: DataType,
    /// Element type of the output.
    pub output: DataType,
    /// Scales of the weight.
    pub scales: ScaleShape,
    /// Whether a bias is added.
    pub has_bias: bool,
    /// Whether rows are gate and up projection, which the kernel combines: [`crate::LinearUse::Gated`].
    pub is_gated: bool,
}

impl GemmProblem {
    /// The same product for another number of tokens.
    #[must_use]
    pub const fn with_tokens(self, tokens: usize) -> Self {
        Self { bucket: TokenBucket::of(tokens), ..self }
    }

    /// Columns of the output.
    #[must_use]
    pub const fn output_columns(&self) -> usize {
        if self.is_gated { self.rows / 2 } else { self.rows }
    }

    /// Bytes of the weight, without its scales.
    #[must_use]
    pub const fn weight_bytes(&self) -> usize {
        self.rows * self.weight.row_bytes(self.columns)
    }

    /// Floating-point operations for `tokens` tokens, two for each multiply-add.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a rate does not need the last digits")]
    pub const fn operations(&self, tokens: usize) -> f64 {
        2.0 * self.rows as f64 * self.columns as f64 * tokens as f64
    }
}

/// For people: `bfloat16 [16384, 2048] gated, 8 tokens`.
impl fmt::Display for GemmProblem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, bucket, columns, weight, .. } = self;
        write!(formatter, "{weight} [{rows}, {columns}]")?;
        match self.scales {
            ScaleShape::Block { rows, columns } => write!(formatter, " in blocks of {rows}x{columns}")?,
            ScaleShape::None | ScaleShape::Tensor | ScaleShape::Channel => {}
        }
        if self.is_gated {
            formatter.write_str(" gated")?;
        }
        let tokens = if bucket.tokens() == 1 { "token" } else { "tokens" };
        write!(formatter, ", {bucket} {tokens}")
    }
}
