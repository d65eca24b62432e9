//! Conversion of what is handed over to what is kept, and checks of its values.

use std::ops::Range;

use half::{bf16, f16};
use octet_backend::{BackendError, DataType, LinearPart, ScaleShape};

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
        DataType::I8 => unreachable!("integers are refused before"),
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
        DataType::F32 | DataType::F8(_) | DataType::I8 => {
            kept.copy_from_slice(&value.to_le_bytes()[..size]);
            value.is_finite()
        }
    }
}

/// Scaled weights must be finite too. Looked at one by one only where the largest of the type would not be.
fn check_products(part: &LinearPart<'_>, row: usize) -> Result<(), BackendError> {
    let DataType::F8(format) = part.weight.data_type else { return check_wide(part, row) };
    let columns = part.weight.columns;
    let across = match part.scale.shape() {
        ScaleShape::Block { columns, .. } => columns,
        _ => columns,
    };
    for first in (0..columns).step_by(across) {
        let scale = part.scale.at(columns, row, first);
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
    let scale = part.scale.at(columns, row, 0);
    if scale.is_finite() { Ok(()) } else { Err(BackendError::NotFinite { row, column: 0 }) }
}
