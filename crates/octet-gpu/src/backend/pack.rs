//! Checks of what is handed over, and its conversion to what is kept.

use std::ops::Range;

use half::{bf16, f16};
use octet_backend::{BackendError, DataType, LinearPart, LinearSpec, LinearUse, WeightScale, WeightView};

/// Fails with both shapes unless they agree.
fn expect_shape(found: (usize, usize), expected: (usize, usize)) -> Result<(), BackendError> {
    if found == expected {
        return Ok(());
    }
    Err(BackendError::Shape {
        found_rows: found.0,
        found_columns: found.1,
        expected_rows: expected.0,
        expected_columns: expected.1,
    })
}

/// The linear's rows and columns, if its parts, scales and bias fit together.
pub(super) fn check_shapes(
    spec: &LinearSpec,
    parts: &[LinearPart<'_>],
) -> Result<(usize, usize), BackendError> {
    let columns = parts.first().map_or(0, |part| part.weight.columns);
    let rows: usize = parts.iter().map(|part| part.weight.rows).sum();
    expect_shape((rows, columns), (rows.max(1), columns.max(1)))?;
    for part in parts {
        let view = &part.weight;
        expect_shape((view.rows, view.columns), (view.rows.max(1), columns))?;
        check_extent(view)?;
        check_scales(part)?;
    }
    if spec.usage == LinearUse::Gated {
        let each = parts[0].weight.rows;
        expect_shape((rows, columns), (2 * each, columns))?;
        expect_shape((parts.len(), columns), (2, columns))?;
    }
    if let Some(bias) = &spec.bias {
        expect_shape((bias.len(), 1), (rows, 1))?;
        if let Some(row) = bias.iter().position(|value| !value.is_finite()) {
            return Err(BackendError::NotFinite { row, column: 0 });
        }
    }
    for (what, value) in [("a weight's rows", rows), ("a weight's columns", columns)] {
        let limit = u32::MAX as usize / 2;
        if value > limit {
            return Err(BackendError::Limit { what, value, limit });
        }
    }
    Ok((rows, columns))
}

/// A view must hold all the rows that it claims: the last one ends at its last column, not at its stride.
fn check_extent(view: &WeightView<'_>) -> Result<(), BackendError> {
    let held = view.bytes.len() / view.data_type.bytes();
    let needed = view.row_stride.checked_mul(view.rows - 1).and_then(|start| start.checked_add(view.columns));
    if view.row_stride >= view.columns && needed.is_some_and(|needed| needed <= held) {
        return Ok(());
    }
    expect_shape((held / view.row_stride.max(1), view.row_stride), (view.rows, view.columns))
}

fn check_scales(part: &LinearPart<'_>) -> Result<(), BackendError> {
    let (rows, columns) = (part.weight.rows, part.weight.columns);
    match part.scale {
        WeightScale::None | WeightScale::Tensor(_) => Ok(()),
        WeightScale::Channel(scales) => expect_shape((scales.len(), 1), (rows, 1)),
        WeightScale::Block { scales, rows_per_block, columns_per_block } => {
            expect_shape(
                (rows_per_block, columns_per_block),
                (rows_per_block.max(1), columns_per_block.max(1)),
            )?;
            let expected = rows.div_ceil(rows_per_block) * columns.div_ceil(columns_per_block);
            expect_shape((scales.len(), 1), (expected, 1))
        }
    }
}

/// FP8 stays the FP8 that it is (or its FNUZ twin); the others convert among each other.
pub(super) fn check_conversion(stored: DataType, target: DataType) -> Result<(), BackendError> {
    let supported = match (stored, target) {
        (DataType::F8(from), DataType::F8(to)) if from == to || from.to_fnuz() == to => return Ok(()),
        (DataType::F8(_), _) => "the linear's own FP8 format, or the OCP format of an FNUZ linear",
        (_, DataType::F8(_)) => "FP8 with its scales: quantize before loading",
        _ => return Ok(()),
    };
    Err(BackendError::UnsupportedDataType { what: "a part of this linear", data_type: stored, supported })
}

/// The scale of an element.
pub(super) fn scale_at(scale: &WeightScale<'_>, columns: usize, row: usize, column: usize) -> f32 {
    match *scale {
        WeightScale::None => 1.0,
        WeightScale::Tensor(scale) => scale,
        WeightScale::Channel(scales) => scales[row],
        WeightScale::Block { scales, rows_per_block, columns_per_block } => {
            scales[row / rows_per_block * columns.div_ceil(columns_per_block) + column / columns_per_block]
        }
    }
}

/// Writes rows of a part as they are kept, `row_bytes` each, padded with zeros.
///
/// # Errors
/// A value is not finite, as it is stored, kept, or scaled.
pub(super) fn pack_rows(
    target: DataType,
    part: &LinearPart<'_>,
    rows: Range<usize>,
    row_bytes: usize,
    output: &mut [u8],
) -> Result<(), BackendError> {
    let columns = part.weight.columns;
    for (row, kept) in rows.zip(output.chunks_exact_mut(row_bytes)) {
        let stored = part.weight.row(row);
        let (values, padding) = kept.split_at_mut(columns * target.bytes());
        padding.fill(0);
        if let Some(column) = convert_row((part.weight.data_type, stored), target, values) {
            return Err(BackendError::NotFinite { row, column });
        }
        check_products(part, row)?;
    }
    Ok(())
}

/// Converts one row; returns the first column whose value is not finite.
fn convert_row((from, stored): (DataType, &[u8]), target: DataType, kept: &mut [u8]) -> Option<usize> {
    match (from, target) {
        (DataType::F8(format), DataType::F8(_)) => {
            // OCP's negative zero is FNUZ's NaN, and no loss elsewhere. FNUZ's own NaN is found below.
            for (kept, &code) in kept.iter_mut().zip(stored) {
                *kept = if code == 0x80 { 0 } else { code };
            }
            stored.iter().position(|&code| !format.decode(code).is_finite())
        }
        (DataType::F32, DataType::F32) => copy_words(stored, kept, 0x7f80_0000u32, u32::from_le_bytes),
        (DataType::F16, DataType::F16) => copy_words(stored, kept, 0x7c00u16, u16::from_le_bytes),
        (DataType::BF16, DataType::BF16) => copy_words(stored, kept, 0x7f80u16, u16::from_le_bytes),
        _ => {
            let columns = kept.len() / target.bytes();
            (0..columns).find(|&column| !convert(from, stored, target, kept, column))
        }
    }
}

/// Copies elements and finds the first whose exponent is all ones.
fn copy_words<const SIZE: usize, W: Copy + PartialEq + std::ops::BitAnd<Output = W>>(
    stored: &[u8],
    kept: &mut [u8],
    exponent: W,
    word: impl Fn([u8; SIZE]) -> W,
) -> Option<usize> {
    kept.copy_from_slice(&stored[..kept.len()]);
    let (words, _) = kept.as_chunks::<SIZE>();
    words.iter().position(|&bytes| word(bytes) & exponent == exponent)
}

/// Converts one element to another wide type; whether it is finite.
fn convert(from: DataType, stored: &[u8], target: DataType, kept: &mut [u8], column: usize) -> bool {
    let two = || [stored[2 * column], stored[2 * column + 1]];
    let value = match from {
        DataType::F32 => f32::from_le_bytes(std::array::from_fn(|byte| stored[4 * column + byte])),
        DataType::F16 => f16::from_le_bytes(two()).to_f32(),
        DataType::BF16 => bf16::from_le_bytes(two()).to_f32(),
        DataType::F8(format) => format.decode(stored[column]),
    };
    let size = target.bytes();
    let kept = &mut kept[column * size..(column + 1) * size];
    match target {
        DataType::F16 => {
            let narrow = f16::from_f32(value);
            kept.copy_from_slice(&narrow.to_le_bytes());
            narrow.is_finite()
        }
        DataType::BF16 => {
            let narrow = bf16::from_f32(value);
            kept.copy_from_slice(&narrow.to_le_bytes());
            narrow.is_finite()
        }
        DataType::F32 | DataType::F8(_) => {
            kept.copy_from_slice(&value.to_le_bytes()[..size]);
            value.is_finite()
        }
    }
}

/// Scaled weights must be finite too. Looked at one by one only where the largest of the type would not be.
fn check_products(part: &LinearPart<'_>, row: usize) -> Result<(), BackendError> {
    let DataType::F8(format) = part.weight.data_type else { return check_wide(part, row) };
    let columns = part.weight.columns;
    let across = match part.scale {
        WeightScale::Block { columns_per_block, .. } => columns_per_block,
        _ => columns,
    };
    for first in (0..columns).step_by(across) {
        let scale = scale_at(&part.scale, columns, row, first);
        if (scale * format.max()).is_finite() {
            continue;
        }
        let codes = &part.weight.row(row)[first..columns.min(first + across)];
        if let Some(column) = codes.iter().position(|&code| !(format.decode(code) * scale).is_finite()) {
            return Err(BackendError::NotFinite { row, column: first + column });
        }
    }
    Ok(())
}

/// Wide weights with scales are unusual: only the scale itself is looked at.
fn check_wide(part: &LinearPart<'_>, row: usize) -> Result<(), BackendError> {
    let columns = part.weight.columns;
    let scale = scale_at(&part.scale, columns, row, 0);
    if scale.is_finite() { Ok(()) } else { Err(BackendError::NotFinite { row, column: 0 }) }
}
