//! A packed weight: what a matrix from a checkpoint becomes at load.

use std::ops::Range;

use octet_backend::{BackendError, DataType, LinearUse};
use octet_float8::Float8Format;

use super::input::InputOrder;
use super::plan::TILE_PANELS;
use super::schedule::Schedule;
use crate::isa::{Isa, Level};
use crate::memory::AlignedBuffer;
use crate::simd::tiles::TILE_COLUMNS;
use crate::simd::{E4M3_FACTOR, E5M2_FACTOR, LANES, power_of_two};

/// Storage formats that the kernels multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    F32,
    F16,
    BF16,
    E4M3,
    E5M2,
    I8,
}

impl Encoding {
    /// The encoding of a seam's type.
    pub(super) fn of(data_type: DataType) -> Result<Self, BackendError> {
        match data_type {
            DataType::F32 => Ok(Self::F32),
            DataType::F16 => Ok(Self::F16),
            DataType::BF16 => Ok(Self::BF16),
            DataType::F8(Float8Format::E4M3) => Ok(Self::E4M3),
            DataType::F8(Float8Format::E5M2) => Ok(Self::E5M2),
            DataType::I8 => Ok(Self::I8),
            DataType::F8(Float8Format::E4M3Fnuz | Float8Format::E5M2Fnuz) => {
                Err(BackendError::UnsupportedDataType {
                    what: "weights",
                    data_type,
                    supported: "float32, float16, bfloat16, fp8_e4m3, fp8_e5m2, int8",
                })
            }
        }
    }

    /// Bytes of an element.
    pub(super) const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::E4M3 | Self::E5M2 | Self::I8 => 1,
        }
    }

    /// Columns of a group; see `format`.
    pub(super) const fn group_columns(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::I8 => 1,
            Self::BF16 => 2,
            Self::E4M3 | Self::E5M2 => 4,
        }
    }

    /// Bytes of a group of sixteen rows.
    pub(super) const fn group_bytes(self) -> usize {
        LANES * self.group_columns() * self.bytes()
    }
}

/// What a product is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Vectors of sixteen outputs.
    Vectors,
    /// Matrix tiles.
    Tiles,
}

/// How the kernels of an instruction set multiply an encoding: what is done to inputs before and to sums after.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Arithmetic {
    /// What products are made of.
    pub form: Form,
    /// How steps read inputs.
    pub input_order: InputOrder,
    /// Inputs are multiplied by this power of two.
    pub input_factor: f32,
    /// Sums are multiplied by this power of two, as part of the scales.
    pub sum_factor: f32,
}

impl Arithmetic {
    /// The arithmetic for an encoding whose scales, if they are scales of blocks, change every `scale_columns`.
    pub(super) fn new(isa: Isa, encoding: Encoding, scale_columns: Option<usize>) -> Self {
        // A tile's sum cannot be scaled in the middle.
        let whole_tiles = scale_columns.is_none_or(|columns| columns.is_multiple_of(TILE_COLUMNS));
        let (form, order) = match encoding {
            Encoding::BF16 | Encoding::E4M3 | Encoding::E5M2 if isa.has_tiles() && whole_tiles => {
                (Form::Tiles, InputOrder::Pairs)
            }
            Encoding::BF16 if isa.has_pair_dot() => (Form::Vectors, InputOrder::Pairs),
            Encoding::E4M3 | Encoding::E5M2 if isa.has_pair_dot() => {
                (Form::Vectors, InputOrder::AlternatePairs)
            }
            _ => (Form::Vectors, InputOrder::Columns),
        };
        // Widened eight-bit weights are tiny. Half of the factor is made good on inputs and half on sums, so that both
        // stay far from the ends of binary32's range.
        let (input, sum) = match (order, encoding) {
            (InputOrder::Columns, Encoding::E4M3) => {
                const { assert!(E4M3_FACTOR == power_of_two(-120)) };
                (60, 60)
            }
            (InputOrder::Columns, Encoding::E5M2) => {
                const { assert!(E5M2_FACTOR == power_of_two(-112)) };
                (56, 56)
            }
            _ => (0, 0),
        };
        Self { form, input_order: order, input_factor: power_of_two(input), sum_factor: power_of_two(sum) }
    }

    /// Whether groups are in the order of [`crate::simd::tiles::GROUP_CODES`].
    pub(super) fn splits_groups(self, encoding: Encoding) -> bool {
        self.form == Form::Tiles && encoding.bytes() == 1
    }

    /// Groups of a row of `columns`: whole tiles, where there are tiles.
    pub(super) fn groups(self, encoding: Encoding, columns: usize) -> usize {
        let columns = match self.form {
            Form::Vectors => columns,
            Form::Tiles => columns.next_multiple_of(TILE_COLUMNS),
        };
        columns.div_ceil(encoding.group_columns())
    }
}

/// Scales of blocks of columns.
pub(super) struct BlockScales {
    /// Columns that share a scale: a multiple of every group.
    pub columns: usize,
    /// Number of blocks of columns.
    pub blocks: usize,
    /// For each panel its class: panels whose rows have the same scales are of the same class.
    pub class_of_panel: Vec<u32>,
    /// `[classes, blocks, 16]`, sum factor included.
    pub scales: AlignedBuffer<f32>,
}

/// Where the elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// Panels of sixteen rows, `[panels, groups, 16, columns of a group]`.
    Panels,
    /// Row-major, for look-up alone.
    Rows,
}

/// A packed weight with its scales and bias.
pub(crate) struct PackedLinear {
    pub(super) encoding: Encoding,
    pub(super) arithmetic: Arithmetic,
    pub(super) layout: Layout,
    pub(super) usage: LinearUse,
    /// Rows of all parts.
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) panels: usize,
    pub(super) data: AlignedBuffer<u8>,
    /// One for each packed row, sum factor included.
    pub(super) row_scales: Option<AlignedBuffer<f32>>,
    pub(super) block_scales: Option<BlockScales>,
    /// One for each packed row.
    pub(super) bias: Option<AlignedBuffer<f32>>,
}

impl PackedLinear {
    /// Bytes that it holds.
    pub(crate) fn bytes(&self) -> usize {
        let floats = |buffer: &AlignedBuffer<f32>| size_of_val(&**buffer);
        let blocks = self.block_scales.as_ref();
        self.data.len()
            + self.row_scales.as_ref().map_or(0, floats)
            + self.bias.as_ref().map_or(0, floats)
            + blocks.map_or(0, |blocks| floats(&blocks.scales) + size_of_val(&*blocks.class_of_panel))
    }

    /// Rows of all parts: output features, or tokens of a table.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Input features, or the width of a table.
    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// Columns of the output: half of the rows if gate and up become one.
    pub(crate) fn output_columns(&self) -> usize {
        if self.usage == LinearUse::Gated { self.rows / 2 } else { self.rows }
    }

    /// The storage format.
    pub(crate) fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Whether panels of gate and up take turns.
    pub(super) fn is_gated(&self) -> bool {
        self.usage == LinearUse::Gated
    }

    /// Groups of a row.
    pub(super) fn groups(&self) -> usize {
        self.arithmetic.groups(self.encoding, self.columns)
    }

    /// Multiply-adds of a row.
    pub(super) fn steps(&self) -> usize {
        self.groups() * self.steps_per_group()
    }

    fn steps_per_group(&self) -> usize {
        self.encoding.group_columns() / self.arithmetic.input_order.columns_per_step()
    }

    /// The elements.
    pub(crate) fn data(&self) -> &[u8] {
        &self.data
    }

    /// Columns between two visits to the sums.
    pub(super) fn block_columns(&self, schedule: &Schedule) -> usize {
        self.block_scales.as_ref().map_or(schedule.columns_per_block, |blocks| blocks.columns)
    }

    /// Number of blocks of `width` columns.
    pub(super) fn blocks(&self, width: usize) -> usize {
        self.groups().div_ceil(width / self.encoding.group_columns())
    }

    /// The groups of one of them.
    pub(super) fn block(&self, width: usize, block: usize) -> Range<usize> {
        let length = width / self.encoding.group_columns();
        block * length..self.groups().min((block + 1) * length)
    }

    /// The multiply-adds of a range of groups.
    pub(super) fn steps_of(&self, groups: &Range<usize>) -> Range<usize> {
        groups.start * self.steps_per_group()..groups.end * self.steps_per_group()
    }

    /// Scales of one block of columns for some panels, four at most, if blocks are scaled.
    pub(super) fn block_scales(
        &self,
        panels: Range<usize>,
        block: usize,
    ) -> Option<[*const f32; TILE_PANELS]> {
        let scales = self.block_scales.as_ref()?;
        let mut pointers = [std::ptr::null(); TILE_PANELS];
        for (pointer, class) in pointers.iter_mut().zip(&scales.class_of_panel[panels]) {
            let start = (*class as usize * scales.blocks + block) * LANES;
            *pointer = scales.scales[start..start + LANES].as_ptr();
        }
        Some(pointers)
    }

    /// Scales of a panel's rows, if rows are scaled.
    pub(super) fn row_scales(&self, panel: usize) -> Option<&[f32]> {
        self.row_scales.as_ref().map(|scales| &scales[panel * LANES..][..LANES])
    }

    /// A panel's bias, if there is one.
    pub(super) fn bias(&self, panel: usize) -> Option<&[f32]> {
        self.bias.as_ref().map(|bias| &bias[panel * LANES..][..LANES])
    }

    /// Where element (row, column) starts in `data`, for tables.
    pub(crate) fn element(&self, row: usize, column: usize) -> usize {
        let size = self.encoding.bytes();
        match self.layout {
            Layout::Rows => (row * self.columns + column) * size,
            Layout::Panels => {
                let group = self.encoding.group_columns();
                let groups = row / LANES * self.groups() + column / group;
                let (lane, column) = (row % LANES, column % group);
                let place = if self.arithmetic.splits_groups(self.encoding) {
                    lane / 4 * 16 + column / 2 * 8 + lane % 4 * 2 + column % 2
                } else {
                    (lane * group + column) * size
                };
                groups * self.encoding.group_bytes() + place
            }
        }
    }

    /// How many columns of a row lie side by side in `data`, for tables: every multiple of it starts anew.
    pub(crate) fn columns_side_by_side(&self) -> usize {
        let group = self.encoding.group_columns();
        match self.layout {
            Layout::Panels if self.arithmetic.splits_groups(self.encoding) => group / 2,
            Layout::Panels | Layout::Rows => group,
        }
    }

    /// Whether elements have scales.
    pub(crate) fn is_scaled(&self) -> bool {
        self.row_scales.is_some() || self.block_scales.is_some()
    }

    /// What a stored element at (row, column) is to be multiplied by, for tables.
    pub(crate) fn scale(&self, row: usize, column: usize) -> f32 {
        let undone = 1.0 / self.arithmetic.sum_factor;
        if let Some(scales) = &self.row_scales {
            return scales[row] * undone;
        }
        self.block_scales.as_ref().map_or(1.0, |blocks| {
            let class = blocks.class_of_panel[row / LANES] as usize;
            blocks.scales[(class * blocks.blocks + column / blocks.columns) * LANES + row % LANES] * undone
        })
    }
}

impl Isa {
    /// Whether bfloat16 and eight-bit weights are multiplied in pairs.
    pub(super) fn has_pair_dot(self) -> bool {
        match self.level() {
            Level::Portable => false,
            #[cfg(test)]
            Level::PortablePairs | Level::PortableTiles => true,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(_) | Level::Avx512(_) => false,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16(_) | Level::Amx(_) => true,
        }
    }
}
