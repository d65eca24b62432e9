//! From views into a checkpoint to a packed weight: each source page is read once, by whichever worker packs it.

use std::sync::{Mutex, PoisonError};

use half::{bf16, f16};
use octet_backend::{BackendError, DataType, LinearPart, LinearSpec, LinearUse, ScaleShape};
use octet_float8::Float8Format;

use super::schedule::MOST_BLOCK_COLUMNS;
use super::weight::{Arithmetic, BlockScales, Encoding, Layout, PackedLinear};
use crate::isa::Isa;
use crate::memory::AlignedBuffer;
use crate::simd::LANES;
use crate::threads::Pool;

/// Columns that are packed for one row before the next: sixteen rows of them fit the first cache.
const CHUNK_COLUMNS: usize = 256;

impl PackedLinear {
    /// Packs the parts for the kernels of an instruction set.
    ///
    /// # Errors
    /// Shapes that disagree, a value or scale that is not finite, a type that cannot be had, no memory.
    pub(crate) fn pack(
        pool: &Pool,
        isa: Isa,
        spec: &LinearSpec,
        parts: &[LinearPart<'_>],
    ) -> Result<Self, BackendError> {
        let source = Source::new(spec, parts)?;
        let encoding = Encoding::of(spec.data_type)?;
        let scale_columns = source.scale_columns()?;
        let arithmetic = Arithmetic::new(isa, encoding, scale_columns);
        let layout = if spec.usage == LinearUse::Embed { Layout::Rows } else { Layout::Panels };
        // Of sixteen rows.
        let panel_bytes = match layout {
            Layout::Rows => LANES * source.columns * encoding.bytes(),
            Layout::Panels => arithmetic.groups(encoding, source.columns) * encoding.group_bytes(),
        };
        let data_bytes = match layout {
            Layout::Rows => source.rows * source.columns * encoding.bytes(),
            Layout::Panels => source.panels * panel_bytes,
        };
        let mut data = AlignedBuffer::<u8>::zeroed(data_bytes)?;
        let split = layout == Layout::Panels && arithmetic.splits_groups(encoding);
        source.pack_elements(pool, (encoding, layout, split), panel_bytes, &mut data)?;
        let block_scales = match scale_columns {
            Some(columns) => Some(source.block_scales(columns, arithmetic.sum_factor)?),
            None => None,
        };
        let row_scales = match block_scales {
            Some(_) => None,
            None => source.row_scales(arithmetic.sum_factor)?,
        };
        Ok(Self {
            encoding,
            arithmetic,
            layout,
            usage: spec.usage,
            rows: source.rows,
            columns: source.columns,
            panels: source.panels,
            data,
            row_scales,
            block_scales,
            bias: source.bias(spec.bias.as_deref())?,
        })
    }
}

/// The checked parts.
struct Source<'a> {
    parts: &'a [LinearPart<'a>],
    gated: bool,
    /// Rows of all parts.
    rows: usize,
    columns: usize,
    panels: usize,
}

impl<'a> Source<'a> {
    fn new(spec: &LinearSpec, parts: &'a [LinearPart<'a>]) -> Result<Self, BackendError> {
        let (rows, columns) = spec.check(parts)?;
        let gated = spec.usage == LinearUse::Gated;
        let panels = if gated { 2 * parts[0].weight.rows.div_ceil(LANES) } else { rows.div_ceil(LANES) };
        Ok(Self { parts, gated, rows, columns, panels })
    }

    /// Which part and which row of it a packed row is; none for padding. In a gated weight, panels of the gate and of
    /// the up projection take turns.
    fn row(&self, packed: usize) -> Option<(usize, usize)> {
        if self.gated {
            let (panel, lane) = (packed / LANES, packed % LANES);
            let row = panel / 2 * LANES + lane;
            return (row < self.rows / 2).then_some((panel % 2, row));
        }
        let mut row = packed;
        for (index, part) in self.parts.iter().enumerate() {
            if row < part.weight.rows {
                return Some((index, row));
            }
            row -= part.weight.rows;
        }
        None
    }

    /// Converts all elements into `data`, in parallel.
    fn pack_elements(
        &self,
        pool: &Pool,
        (encoding, layout, split): (Encoding, Layout, bool),
        panel_bytes: usize,
        data: &mut [u8],
    ) -> Result<(), BackendError> {
        let panels: Vec<Mutex<&mut [u8]>> = data.chunks_mut(panel_bytes).map(Mutex::new).collect();
        let failed = Mutex::new(None::<(usize, usize, usize)>);
        pool.run_tasks(panels.len(), &|_worker, panel| {
            // Each panel is locked once, by the task that packs it.
            let mut target = panels[panel].lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(found) = self.pack_panel(panel, encoding, layout, &mut target) {
                let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                *failed = Some(failed.map_or(found, |earlier| earlier.min(found)));
            }
            if split {
                split_groups(&mut target);
            }
        });
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some((_part, row, column)) => Err(BackendError::NotFinite { row, column }),
            None => Ok(()),
        }
    }

    /// Converts sixteen rows. An element that is not finite is returned as (part, row, column).
    fn pack_panel(
        &self,
        panel: usize,
        encoding: Encoding,
        layout: Layout,
        target: &mut [u8],
    ) -> Result<(), (usize, usize, usize)> {
        let group = encoding.group_columns();
        let (group_stride, lane_stride) = match layout {
            Layout::Panels => (encoding.group_bytes(), group * encoding.bytes()),
            Layout::Rows => (group * encoding.bytes(), self.columns * encoding.bytes()),
        };
        for first in (0..self.columns).step_by(CHUNK_COLUMNS) {
            let columns = first..self.columns.min(first + CHUNK_COLUMNS);
            for lane in 0..LANES {
                let Some((part, row)) = self.row(panel * LANES + lane) else { continue };
                let weight = &self.parts[part].weight;
                let size = weight.data_type.bytes();
                let source = &weight.row(row)[columns.start * size..columns.end * size];
                let target = &mut target[first / group * group_stride + lane * lane_stride..];
                convert_row(weight.data_type, encoding, source, target, group_stride)
                    .map_err(|column| (part, row, first + column))?;
            }
        }
        Ok(())
    }

    /// The scale of one packed row in the block of columns that starts at `column`.
    fn scale(&self, packed: usize, column: usize) -> Result<f32, BackendError> {
        let Some((part, row)) = self.row(packed) else { return Ok(1.0) };
        let scale = self.parts[part].scale.at(self.columns, row, column);
        if scale.is_finite() { Ok(scale) } else { Err(BackendError::NotFinite { row, column }) }
    }

    /// Scales of rows, if there are any or sums need a factor.
    fn row_scales(&self, sum_factor: f32) -> Result<Option<AlignedBuffer<f32>>, BackendError> {
        let plain = self.parts.iter().all(|part| part.scale.shape() == ScaleShape::None);
        if plain && sum_factor == 1.0 {
            return Ok(None);
        }
        let mut scales = AlignedBuffer::zeroed(self.panels * LANES)?;
        for (packed, scale) in scales.iter_mut().enumerate() {
            *scale = self.scale(packed, 0)? * sum_factor;
        }
        Ok(Some(scales))
    }

    /// Columns that share a scale, if any part has scales of blocks.
    fn scale_columns(&self) -> Result<Option<usize>, BackendError> {
        let widths = self.parts.iter().filter_map(|part| match part.scale.shape() {
            ScaleShape::Block { columns, .. } => Some(columns),
            ScaleShape::None | ScaleShape::Tensor | ScaleShape::Channel => None,
        });
        let Some(columns) = widths.clone().next() else { return Ok(None) };
        if let Some(other) = widths.clone().find(|&width| width != columns) {
            return Err(limit("width of a scale's block beside parts with another width", other, columns));
        }
        if columns > MOST_BLOCK_COLUMNS {
            return Err(limit("width of a scale's block", columns, MOST_BLOCK_COLUMNS));
        }
        if columns == 0 || !columns.is_multiple_of(4) {
            return Err(limit("remainder by 4 of the width of a scale's block", columns % 4, 0));
        }
        Ok(Some(columns))
    }

    /// Scales of blocks of `columns`.
    fn block_scales(&self, columns: usize, sum_factor: f32) -> Result<BlockScales, BackendError> {
        let blocks = self.columns.div_ceil(columns);
        let mut classes: Vec<Vec<f32>> = Vec::new();
        let mut class_of_panel = Vec::with_capacity(self.panels);
        for panel in 0..self.panels {
            let mut scales = Vec::with_capacity(blocks * LANES);
            for block in 0..blocks {
                for lane in 0..LANES {
                    scales.push(self.scale(panel * LANES + lane, block * columns)? * sum_factor);
                }
            }
            // Panels with equal scales are neighbours, or alternate in a gated weight.
            let nearby = classes.len().saturating_sub(2);
            let known = classes[nearby..].iter().position(|class| *class == scales);
            let class = known.map_or(classes.len(), |position| nearby + position);
            if known.is_none() {
                classes.push(scales);
            }
            class_of_panel
                .push(u32::try_from(class).expect("fewer classes than panels, and those fit memory"));
        }
        let mut scales = AlignedBuffer::zeroed(classes.len() * blocks * LANES)?;
        for (target, class) in scales.chunks_mut(blocks * LANES).zip(&classes) {
            target.copy_from_slice(class);
        }
        Ok(BlockScales { columns, blocks, class_of_panel, scales })
    }

    /// The bias in packed order.
    fn bias(&self, bias: Option<&[f32]>) -> Result<Option<AlignedBuffer<f32>>, BackendError> {
        let Some(bias) = bias else { return Ok(None) };
        let mut packed_bias = AlignedBuffer::zeroed(self.panels * LANES)?;
        for (packed, value) in packed_bias.iter_mut().enumerate() {
            if let Some((part, row)) = self.row(packed) {
                let before: usize = self.parts[..part].iter().map(|part| part.weight.rows).sum();
                *value = bias[before + row];
            }
        }
        Ok(Some(packed_bias))
    }
}

fn limit(what: &'static str, value: usize, limit: usize) -> BackendError {
    BackendError::Limit { what, value, limit }
}

/// Converts the elements of a row, a group every `stride` bytes of `target`. The error is the first column that is
/// not finite, before or after.
fn convert_row(
    from: DataType,
    to: Encoding,
    source: &[u8],
    target: &mut [u8],
    stride: usize,
) -> Result<(), usize> {
    use DataType::{BF16, F8, F16, F32, I8};
    let row = (source, target, stride);
    match (from, to) {
        (F32, Encoding::F32) => {
            spread::<4, 4, 1>(row, |bytes| (bytes, f32::from_le_bytes(bytes).is_finite()))
        }
        (F16, Encoding::F16) => {
            spread::<2, 2, 1>(row, |bytes| (bytes, f16::from_le_bytes(bytes).is_finite()))
        }
        (BF16, Encoding::BF16) => {
            spread::<2, 2, 2>(row, |bytes| (bytes, u16::from_le_bytes(bytes) & 0x7F80 != 0x7F80))
        }
        (F32, Encoding::F16) => spread::<4, 2, 1>(row, |bytes| to_f16(f32::from_le_bytes(bytes))),
        (F32, Encoding::BF16) => spread::<4, 2, 2>(row, |bytes| to_bf16(f32::from_le_bytes(bytes))),
        (F16, Encoding::F32) => spread::<2, 4, 1>(row, |bytes| to_f32(f16::from_le_bytes(bytes).to_f32())),
        (F16, Encoding::BF16) => spread::<2, 2, 2>(row, |bytes| to_bf16(f16::from_le_bytes(bytes).to_f32())),
        (BF16, Encoding::F32) => spread::<2, 4, 1>(row, |bytes| to_f32(bf16::from_le_bytes(bytes).to_f32())),
        (BF16, Encoding::F16) => spread::<2, 2, 1>(row, |bytes| to_f16(bf16::from_le_bytes(bytes).to_f32())),
        (I8, _) | (_, Encoding::I8) => spread::<1, 1, 1>(row, |bytes| (bytes, true)),
        (F8(Float8Format::E5M2), _) => spread::<1, 1, 4>(row, |bytes| (bytes, bytes[0] & 0x7C != 0x7C)),
        (F8(_), _) | (_, Encoding::E4M3 | Encoding::E5M2) => {
            spread::<1, 1, 4>(row, |bytes| (bytes, bytes[0] & 0x7F != 0x7F))
        }
    }
}

/// Brings eight-bit groups of four columns into the order of [`crate::simd::tiles::GROUP_CODES`]: of each four outputs
/// first the pairs of columns 0 and 1, then those of columns 2 and 3.
fn split_groups(panel: &mut [u8]) {
    for outputs in panel.as_chunks_mut::<16>().0 {
        let pair = |index: usize| [outputs[2 * index], outputs[2 * index + 1]];
        let pairs: [[u8; 2]; 8] = std::array::from_fn(|index| pair(index % 4 * 2 + index / 4));
        outputs.copy_from_slice(pairs.as_flattened());
    }
}

fn to_f32(value: f32) -> ([u8; 4], bool) {
    (value.to_le_bytes(), value.is_finite())
}

fn to_f16(value: f32) -> ([u8; 2], bool) {
    let value = f16::from_f32(value);
    (value.to_le_bytes(), value.is_finite())
}

fn to_bf16(value: f32) -> ([u8; 2], bool) {
    let value = bf16::from_f32(value);
    (value.to_le_bytes(), value.is_finite())
}

/// Converts elements of `FROM` bytes to `TO` bytes and puts `GROUP` of them at every `stride` bytes.
#[inline(always)]
fn spread<const FROM: usize, const TO: usize, const GROUP: usize>(
    (source, target, stride): (&[u8], &mut [u8], usize),
    convert: impl Fn([u8; FROM]) -> ([u8; TO], bool),
) -> Result<(), usize> {
    let (elements, rest) = source.as_chunks::<FROM>();
    debug_assert!(rest.is_empty(), "rows are whole elements");
    let mut all_finite = true;
    let mut place = |elements: &[[u8; FROM]], target: &mut [[u8; TO]]| {
        for (element, target) in elements.iter().zip(target) {
            let (converted, finite) = convert(*element);
            *target = converted;
            all_finite &= finite;
        }
    };
    // Whole groups have constant sizes, so that nothing is left of the loop over one: this runs for every weight.
    let (groups, rest) = elements.as_chunks::<GROUP>();
    let mut targets = target.chunks_mut(stride);
    for (group, target) in groups.iter().zip(&mut targets) {
        if let Some(target) = target.as_chunks_mut::<TO>().0.first_chunk_mut::<GROUP>() {
            place(group, target);
        }
    }
    if let Some(target) = targets.next() {
        place(rest, target.as_chunks_mut::<TO>().0);
    }
    if all_finite {
        return Ok(());
    }
    Err(elements.iter().position(|element| !convert(*element).1).unwrap_or(0))
}
