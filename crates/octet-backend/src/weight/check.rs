//! The one check of what is handed over as a weight. Values are checked where they are read, since they are read only once.

use super::{LinearPart, LinearSpec, LinearUse, WeightView};
use crate::{BackendError, DataType};

/// Largest number of rows or columns of a weight: kernels count in 32 bits.
const MAX_EXTENT: usize = u32::MAX as usize / 2;

impl LinearSpec {
    /// The linear's rows and columns, if its parts, scales and bias fit together and its element type can be had.
    ///
    /// # Errors
    /// Shapes that disagree, a part that holds fewer rows than it claims, a bias that is not finite, a type that does not
    /// become the linear's.
    pub fn check(&self, parts: &[LinearPart<'_>]) -> Result<(usize, usize), BackendError> {
        let columns = parts.first().map_or(0, |part| part.weight.columns);
        let rows: usize = parts.iter().map(|part| part.weight.rows).sum();
        expect_shape((rows, columns), (rows.max(1), columns.max(1)))?;
        for part in parts {
            let view = &part.weight;
            expect_shape((view.rows, view.columns), (view.rows.max(1), columns))?;
            check_extent(view)?;
            check_scales(part)?;
            check_conversion(view.data_type, self.data_type)?;
        }
        if self.usage == LinearUse::Gated {
            // Gate and up: two parts of one shape.
            let each = parts[0].weight.rows;
            expect_shape((rows, columns), (2 * each, columns))?;
            expect_shape((parts.len(), columns), (2, columns))?;
        }
        if let Some(bias) = &self.bias {
            expect_shape((bias.len(), 1), (rows, 1))?;
            if let Some(row) = bias.iter().position(|value| !value.is_finite()) {
                return Err(BackendError::NotFinite { row, column: 0 });
            }
        }
        for (what, value) in [("a weight's rows", rows), ("a weight's columns", columns)] {
            BackendError::check_limit(what, value, MAX_EXTENT)?;
        }
        Ok((rows, columns))
    }
}

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

/// A view must hold all the rows that it claims: the last one ends at its last column, not at its stride.
fn check_extent(view: &WeightView<'_>) -> Result<(), BackendError> {
    let held = view.bytes.len() * 8 / view.data_type.bits();
    let needed = view.row_stride.checked_mul(view.rows - 1).and_then(|start| start.checked_add(view.columns));
    if view.row_stride >= view.columns && needed.is_some_and(|needed| needed <= held) {
        return Ok(());
    }
    expect_shape((held / view.row_stride.max(1), view.row_stride), (view.rows, view.columns))
}

/// As many scales as their shape wants. A block without extent covers nothing; the smallest would be 1 by 1.
fn check_scales(part: &LinearPart<'_>) -> Result<(), BackendError> {
    let (rows, columns) = (part.weight.rows, part.weight.columns);
    let (found, shape) = (part.scale.count(), part.scale.shape());
    match (shape.count(rows, columns), shape) {
        (Some(expected), _) => expect_shape((found, 1), (expected, 1)),
        (None, super::ScaleShape::Block { rows, columns }) => {
            expect_shape((rows, columns), (rows.max(1), columns.max(1)))
        }
        (None, _) => Ok(()),
    }
}

/// Codes stay the codes that they are (OCP's FP8 may become its FNUZ twin); floating types convert among each other.
fn check_conversion(stored: DataType, target: DataType) -> Result<(), BackendError> {
    let supported = match (stored, target) {
        (DataType::F8(from), DataType::F8(to)) if from == to || from.to_fnuz() == to => return Ok(()),
        _ if stored == target || !(stored.is_quantized() || target.is_quantized()) => return Ok(()),
        (DataType::F8(_), _) => "the linear's own FP8 format, or the OCP format of an FNUZ linear",
        (_, DataType::F8(_)) => "FP8 with its scales: quantize before loading",
        _ => "the linear's own integers with their scales: quantize before loading",
    };
    Err(BackendError::UnsupportedDataType { what: "a part of this linear", data_type: stored, supported })
}
