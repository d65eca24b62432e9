//! Look-up of rows in a packed table.

use half::{bf16, f16};
use octet_backend::BackendError;
use octet_float8::{E4M3, E5M2, Float8};

use super::linear::{Encoding, PackedLinear};
use crate::threads::Pool;

/// `output [tokens, columns] = scale * table[tokens]`.
///
/// # Errors
/// A token that the table does not have; nothing is written then.
pub(crate) fn embed(
    pool: &Pool,
    table: &PackedLinear,
    tokens: &[u32],
    scale: f32,
    output: &mut [f32],
) -> Result<(), BackendError> {
    if let Some(&token) = tokens.iter().find(|&&token| token as usize >= table.rows()) {
        return Err(BackendError::Limit {
            what: "a token's id",
            value: token as usize,
            limit: table.rows() - 1,
        });
    }
    let columns = table.columns();
    let output = RowsOf { start: output[..tokens.len() * columns].as_mut_ptr() };
    super::for_rows(pool, tokens.len(), columns, &|row| {
        // SAFETY: the row lies inside the output, and each row is visited once.
        let target = unsafe { output.row(row, columns) };
        read_row(table, tokens[row] as usize, target);
        if scale != 1.0 {
            target.iter_mut().for_each(|value| *value *= scale);
        }
    });
    Ok(())
}

/// The output, of which each call writes a row.
struct RowsOf {
    start: *mut f32,
}

// SAFETY: calls write disjoint rows, and the matrix outlives them.
unsafe impl Sync for RowsOf {}

impl RowsOf {
    /// One row.
    ///
    /// # Safety
    /// The row lies inside the matrix, and nobody else uses it meanwhile.
    #[expect(clippy::mut_from_ref, reason = "the caller promises that rows are disjoint")]
    unsafe fn row(&self, row: usize, columns: usize) -> &mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(row * columns), columns) }
    }
}

/// Reads one row, scaled.
fn read_row(table: &PackedLinear, row: usize, target: &mut [f32]) {
    match table.encoding() {
        Encoding::F32 => read(table, row, target, f32::from_le_bytes),
        Encoding::F16 => read(table, row, target, |bytes| f16::from_le_bytes(bytes).to_f32()),
        Encoding::BF16 => read(table, row, target, |bytes| bf16::from_le_bytes(bytes).to_f32()),
        Encoding::E4M3 => read(table, row, target, |[code]: [u8; 1]| E4M3::from_bits(code).to_f32()),
        Encoding::E5M2 => read(table, row, target, |[code]: [u8; 1]| E5M2::from_bits(code).to_f32()),
        Encoding::I8 => read(table, row, target, |[code]: [u8; 1]| f32::from(code.cast_signed())),
    }
    if table.is_scaled() {
        for (column, value) in target.iter_mut().enumerate() {
            *value *= table.scale(row, column);
        }
    }
}

/// Reads the elements of one row, as many at a time as lie side by side.
fn read<const SIZE: usize>(
    table: &PackedLinear,
    row: usize,
    target: &mut [f32],
    convert: impl Fn([u8; SIZE]) -> f32,
) {
    let together = table.columns_side_by_side();
    for (index, target) in target.chunks_mut(together).enumerate() {
        let start = table.element(row, index * together);
        let elements = table.data()[start..start + target.len() * SIZE].as_chunks::<SIZE>().0;
        for (target, element) in target.iter_mut().zip(elements) {
            *target = convert(*element);
        }
    }
}

#[cfg(test)]
mod tests {
    use octet_backend::{DataType, LinearPart, LinearSpec, LinearUse, WeightScale, WeightView};
    use octet_float8::Float8Format;

    use super::*;
    use crate::isa::Isa;
    use crate::threads::PoolOptions;

    /// Bytes of a `[rows, columns]` table whose values all formats hold exactly, and the values.
    fn table(data_type: DataType, rows: usize, columns: usize) -> (Vec<u8>, Vec<f32>) {
        let values: Vec<f32> = (0..rows * columns).map(|index| (index * 7 % 29) as f32 / 2.0 - 7.0).collect();
        let values: Vec<f32> = values.iter().map(|value| E5M2::from_f32(*value).to_f32()).collect();
        let bytes = values.iter().flat_map(|&value| match data_type {
            DataType::F32 => value.to_le_bytes().to_vec(),
            DataType::F16 => f16::from_f32(value).to_le_bytes().to_vec(),
            DataType::BF16 => bf16::from_f32(value).to_le_bytes().to_vec(),
            DataType::F8(format) => vec![format.encode(value)],
            DataType::I8 => vec![(value as i8).cast_unsigned()],
        });
        (bytes.collect(), values)
    }

    #[test]
    fn rows_are_found_in_every_format_and_layout() {
        let pool = Pool::new(&PoolOptions::default()).unwrap();
        let (rows, columns) = (37, 22);
        let tokens = [36, 0, 5, 5, 16, 15];
        for data_type in [
            DataType::F32,
            DataType::F16,
            DataType::BF16,
            DataType::F8(Float8Format::E4M3),
            DataType::F8(Float8Format::E5M2),
        ] {
            let (bytes, values) = table(data_type, rows, columns);
            let weight = WeightView { bytes: &bytes, data_type, rows, columns, row_stride: columns };
            for (usage, scale) in [
                (LinearUse::Embed, WeightScale::None),
                (LinearUse::EmbedAndMultiply, WeightScale::None),
                (LinearUse::Embed, WeightScale::Tensor(0.5)),
                (LinearUse::EmbedAndMultiply, WeightScale::Tensor(0.5)),
            ] {
                let spec = LinearSpec { data_type, usage, bias: None, input_scale: None };
                for isa in Isa::available() {
                    let part = LinearPart { weight, scale };
                    let packed = PackedLinear::pack(&pool, isa, &spec, &[part]).unwrap();
                    let mut output = vec![f32::NAN; tokens.len() * columns];
                    embed(&pool, &packed, &tokens, 1.0, &mut output).unwrap();
                    let factor = if matches!(scale, WeightScale::None) { 1.0 } else { 0.5 };
                    let expected = tokens.iter().flat_map(|&token| {
                        let start = token as usize * columns;
                        values[start..start + columns].iter().map(|value| value * factor)
                    });
                    assert_eq!(output, expected.collect::<Vec<_>>(), "{data_type} {usage:?}");
                    let error = embed(&pool, &packed, &[37], 1.0, &mut output).unwrap_err();
                    assert_eq!(error, BackendError::Limit { what: "a token's id", value: 37, limit: 36 });
                }
            }
        }
    }
}
