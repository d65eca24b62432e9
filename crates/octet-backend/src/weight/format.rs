//! A weight's format as a value: what an element is, and which elements share a scale.

use std::fmt;

use crate::DataType;

/// How a weight is stored, in a checkpoint or on a device. A format that packs elements otherwise, or shares scales
/// otherwise, is another value of the two fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WeightFormat {
    /// What an element is.
    pub element: DataType,
    /// What shares a scale.
    pub scale: ScaleShape,
}

impl WeightFormat {
    /// Elements that are the weights themselves.
    #[must_use]
    pub const fn plain(element: DataType) -> Self {
        Self { element, scale: ScaleShape::None }
    }

    /// Bytes of a row of `columns` elements.
    #[must_use]
    pub const fn row_bytes(self, columns: usize) -> usize {
        self.element.row_bytes(columns)
    }
}

/// For people: `int8 per channel`, `fp8_e4m3 in blocks of 128x128`.
impl fmt::Display for WeightFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { element, scale } = self;
        match scale {
            ScaleShape::None => write!(formatter, "{element}"),
            ScaleShape::Tensor => write!(formatter, "{element} per tensor"),
            ScaleShape::Channel => write!(formatter, "{element} per channel"),
            ScaleShape::Block { rows, columns } => {
                write!(formatter, "{element} in blocks of {rows}x{columns}")
            }
        }
    }
}

/// Which elements of a weight share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScaleShape {
    /// There are no scales: the stored values are the weights.
    None,
    /// All of a part.
    Tensor,
    /// A row, that is, an output channel.
    Channel,
    /// A block.
    Block {
        /// Rows of a block.
        rows: usize,
        /// Columns of a block.
        columns: usize,
    },
}

impl ScaleShape {
    /// How many scales a part `[rows, columns]` has; none if a block is empty.
    #[must_use]
    pub const fn count(self, rows: usize, columns: usize) -> Option<usize> {
        match self {
            Self::None => Some(0),
            Self::Tensor => Some(1),
            Self::Channel => Some(rows),
            Self::Block { rows: 0, .. } | Self::Block { columns: 0, .. } => None,
            Self::Block { rows: down, columns: across } => {
                Some(rows.div_ceil(down) * columns.div_ceil(across))
            }
        }
    }

    /// The view of these scales.
    ///
    /// # Panics
    /// There is none where there should be one.
    #[must_use]
    pub fn of(self, scales: &[f32]) -> WeightScale<'_> {
        match self {
            Self::None => WeightScale::None,
            Self::Tensor => WeightScale::Tensor(scales[0]),
            Self::Channel => WeightScale::Channel(scales),
            Self::Block { rows, columns } => {
                WeightScale::Block { scales, rows_per_block: rows, columns_per_block: columns }
            }
        }
    }

    /// The finest of several.
    #[must_use]
    pub fn finest(shapes: impl Iterator<Item = Self>) -> Self {
        let rank = |shape: &Self| match shape {
            Self::None => 0,
            Self::Tensor => 1,
            Self::Channel => 2,
            Self::Block { .. } => 3,
        };
        shapes.max_by_key(rank).unwrap_or(Self::None)
    }
}

/// Dequantization scales of one part: `weight ≈ stored * scale`.
#[derive(Clone, Copy, Debug)]
pub enum WeightScale<'a> {
    /// The stored values are the weights.
    None,
    /// One scale for the part.
    Tensor(f32),
    /// One scale a row.
    Channel(&'a [f32]),
    /// One scale for each block of `rows_per_block` by `columns_per_block` elements, row-major,
    /// `[ceil(rows / rows_per_block), ceil(columns / columns_per_block)]`.
    Block {
        /// The scales.
        scales: &'a [f32],
        /// Rows that share a scale.
        rows_per_block: usize,
        /// Columns that share a scale.
        columns_per_block: usize,
    },
}

impl WeightScale<'_> {
    /// What shares a scale.
    #[must_use]
    pub const fn shape(&self) -> ScaleShape {
        match *self {
            Self::None => ScaleShape::None,
            Self::Tensor(_) => ScaleShape::Tensor,
            Self::Channel(_) => ScaleShape::Channel,
            Self::Block { rows_per_block, columns_per_block, .. } => {
                ScaleShape::Block { rows: rows_per_block, columns: columns_per_block }
            }
        }
    }

    /// How many scales are there.
    #[must_use]
    pub const fn count(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Tensor(_) => 1,
            Self::Channel(scales) | Self::Block { scales, .. } => scales.len(),
        }
    }

    /// The scale of an element of a part of `columns`.
    #[must_use]
    pub fn at(&self, columns: usize, row: usize, column: usize) -> f32 {
        match *self {
            Self::None => 1.0,
            Self::Tensor(scale) => scale,
            Self::Channel(scales) => scales[row],
            Self::Block { scales, rows_per_block, columns_per_block } => {
                scales
                    [row / rows_per_block * columns.div_ceil(columns_per_block) + column / columns_per_block]
            }
        }
    }
}
