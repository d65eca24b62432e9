//! Weights: checked, rounded to the type that they are to be kept in, widened to `f32`.

use std::borrow::Cow;

use half::{bf16, f16};
use octet_backend::{BackendError, DataType, InputScale, LinearPart, LinearSpec, LinearUse, ScaleShape};
use octet_float8::scale::{max_abs, row_scale};
use octet_float8::{E4M3, Float8Format};

use crate::memory;
use crate::rounding::round_to;

/// A weight as the reference keeps it: `f32`, scales multiplied in, `[rows, columns]`.
#[derive(Debug)]
pub struct ReferenceLinear {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) usage: LinearUse,
    pub(crate) values: Vec<f32>,
    pub(crate) bias: Option<Vec<f32>>,
    /// How its input is quantized, if it is.
    input_scale: Option<InputScale>,
}

impl ReferenceLinear {
    /// Checks and widens the parts of a linear.
    pub(crate) fn load(spec: LinearSpec, parts: &[LinearPart<'_>]) -> Result<Self, BackendError> {
        let (rows, columns) = spec.check(parts)?;
        let mut values = memory::filled("a weight", usize::checked_mul(rows, columns), 0.0)?;
        let mut first_row = 0;
        for part in parts {
            let end = first_row + part.weight.rows;
            widen(spec.data_type, part, &mut values[first_row * columns..end * columns])?;
            first_row = end;
        }
        let input_scale = input_scale(&spec, parts);
        Ok(Self { rows, columns, usage: spec.usage, values, bias: spec.bias, input_scale })
    }

    /// The same for inputs as they are.
    pub(crate) fn without_input_scale(self) -> Self {
        Self { input_scale: None, ..self }
    }

    /// A row of the input as it is multiplied. Rows that are not finite are not quantized: what is NaN stays NaN.
    pub(crate) fn as_read<'a>(&self, row: &'a [f32]) -> Cow<'a, [f32]> {
        let scale = match self.input_scale {
            None => return Cow::Borrowed(row),
            Some(InputScale::Static(scale)) => scale,
            Some(InputScale::Dynamic) => match max_abs(row) {
                Ok(largest) => row_scale::<E4M3>(largest, None),
                Err(_) => return Cow::Borrowed(row),
            },
        };
        Cow::Owned(row.iter().map(|&value| round_to_code(value / scale) * scale).collect())
    }

    /// The weights that make output `row`, `[columns]`.
    pub(crate) fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.columns..(row + 1) * self.columns]
    }

    /// Bias of output `row`.
    pub(crate) fn bias_of(&self, row: usize) -> f64 {
        self.bias.as_ref().map_or(0.0, |bias| f64::from(bias[row]))
    }
}

/// Codes are multiplied by codes of E4M3 whose scales are not blocks; other weights are widened.
fn input_scale(spec: &LinearSpec, parts: &[LinearPart<'_>]) -> Option<InputScale> {
    let is_e4m3 =
        matches!(spec.data_type, DataType::F8(Float8Format::E4M3) | DataType::F8(Float8Format::E4M3Fnuz));
    let has_blocks = parts.iter().any(|part| matches!(part.scale.shape(), ScaleShape::Block { .. }));
    spec.input_scale.filter(|_| is_e4m3 && !has_blocks)
}

/// The nearest value of E4M3, the largest for what lies beyond.
fn round_to_code(value: f32) -> f32 {
    if value.is_nan() {
        value
    } else {
        Float8Format::E4M3.decode(Float8Format::E4M3.encode_saturating(value))
    }
}

/// Writes the values of one part, `stored * scale` each, to `output [part rows, columns]`.
fn widen(target: DataType, part: &LinearPart<'_>, output: &mut [f32]) -> Result<(), BackendError> {
    let view = &part.weight;
    for (row, values) in output.chunks_exact_mut(view.columns).enumerate() {
        let bytes = view.row(row);
        for (column, value) in values.iter_mut().enumerate() {
            let stored = element(view.data_type, bytes, column);
            // A code stays as it is, or becomes the FNUZ code of half the value with twice the scale: the
            // product is the same.
            let kept = if target.is_quantized() { stored } else { round_to(target, stored) };
            *value = kept * part.scale.at(view.columns, row, column);
            if !value.is_finite() {
                return Err(BackendError::NotFinite { row, column });
            }
        }
    }
    Ok(())
}

/// One little-endian element of a row.
fn element(data_type: DataType, row: &[u8], column: usize) -> f32 {
    match data_type {
        DataType::F32 => f32::from_le_bytes(bytes_at(row, column)),
        DataType::F16 => f16::from_le_bytes(bytes_at(row, column)).to_f32(),
        DataType::BF16 => bf16::from_le_bytes(bytes_at(row, column)).to_f32(),
        DataType::F8(format) => format.decode(row[column]),
        DataType::I8 => f32::from(row[column].cast_signed()),
    }
}

fn bytes_at<const SIZE: usize>(row: &[u8], column: usize) -> [u8; SIZE] {
    std::array::from_fn(|byte| row[column * SIZE + byte])
}

#[cfg(test)]
mod tests {

    use octet_backend::{WeightScale, WeightView};

    use super::*;

    const E4M3: DataType = DataType::F8(Float8Format::E4M3);

    fn spec(data_type: DataType, usage: LinearUse) -> LinearSpec {
        LinearSpec { data_type, usage, bias: None, input_scale: None }
    }

    fn view(bytes: &[u8], data_type: DataType, rows: usize, columns: usize) -> WeightView<'_> {
        WeightView { bytes, data_type, rows, columns, row_stride: columns }
    }

    fn bytes_of(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn load(
        spec: LinearSpec,
        weight: WeightView<'_>,
        scale: WeightScale<'_>,
    ) -> Result<Vec<f32>, BackendError> {
        ReferenceLinear::load(spec, &[LinearPart { weight, scale }]).map(|linear| linear.values)
    }

    #[test]
    fn parts_lie_one_after_another_and_windows_keep_their_stride() {
        let whole = bytes_of(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let right =
            WeightView { bytes: &whole[4..], data_type: DataType::F32, rows: 2, columns: 2, row_stride: 3 };
        let top = WeightView { bytes: &whole, data_type: DataType::F32, rows: 1, columns: 2, row_stride: 3 };
        let parts = [right, top].map(|weight| LinearPart { weight, scale: WeightScale::None });
        let linear = ReferenceLinear::load(spec(DataType::F32, LinearUse::Multiply), &parts).unwrap();
        assert_eq!((linear.rows, linear.columns), (3, 2));
        assert_eq!(linear.values, [2.0, 3.0, 5.0, 6.0, 1.0, 2.0]);
    }

    #[test]
    fn conversion_rounds_to_the_type_that_is_kept() {
        let bytes = bytes_of(&[1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0]);
        let weight = view(&bytes, DataType::F32, 1, 2);
        let narrowed = load(spec(DataType::BF16, LinearUse::Multiply), weight, WeightScale::None).unwrap();
        assert_eq!(narrowed, [1.0, 1.015_625]);
        let exact = load(spec(DataType::F32, LinearUse::Multiply), weight, WeightScale::None).unwrap();
        assert_eq!(exact, [1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0]);
        // 1e6 is finite as f32 and infinite as f16.
        let bytes = bytes_of(&[1.0, 1e6]);
        let weight = view(&bytes, DataType::F32, 1, 2);
        assert_eq!(
            load(spec(DataType::F16, LinearUse::Multiply), weight, WeightScale::None),
            Err(BackendError::NotFinite { row: 0, column: 1 })
        );
    }

    #[test]
    fn every_kind_of_scale_is_multiplied_in() {
        // E4M3: 0x38 is 1, 0x40 is 2, 0xB8 is -1.
        let codes = [0x38, 0x40, 0xB8, 0x38, 0x40, 0xB8];
        let weight = view(&codes, E4M3, 2, 3);
        let load = |scale| load(spec(E4M3, LinearUse::Multiply), weight, scale).unwrap();
        assert_eq!(load(WeightScale::None), [1.0, 2.0, -1.0, 1.0, 2.0, -1.0]);
        assert_eq!(load(WeightScale::Tensor(0.5)), [0.5, 1.0, -0.5, 0.5, 1.0, -0.5]);
        assert_eq!(load(WeightScale::Channel(&[2.0, 3.0])), [2.0, 4.0, -2.0, 3.0, 6.0, -3.0]);
        let block = WeightScale::Block { scales: &[2.0, 3.0], rows_per_block: 2, columns_per_block: 2 };
        assert_eq!(load(block), [2.0, 4.0, -3.0, 2.0, 4.0, -3.0]);
        let block =
            WeightScale::Block { scales: &[1.0, 2.0, 3.0, 4.0], rows_per_block: 1, columns_per_block: 2 };
        assert_eq!(load(block), [1.0, 2.0, -2.0, 3.0, 6.0, -4.0]);
    }

    #[test]
    fn damaged_values_are_located_within_their_part() {
        let (good, bad) = ([0x38; 4], [0x38, 0x38, 0x38, 0x7F]);
        let parts = [good, bad];
        let parts = parts
            .each_ref()
            .map(|codes| LinearPart { weight: view(codes, E4M3, 2, 2), scale: WeightScale::None });
        let error = ReferenceLinear::load(spec(E4M3, LinearUse::Gated), &parts).unwrap_err();
        assert_eq!(error, BackendError::NotFinite { row: 1, column: 1 });
        let scale = WeightScale::Channel(&[1.0, f32::NAN]);
        let error = load(spec(E4M3, LinearUse::Multiply), view(&good, E4M3, 2, 2), scale).unwrap_err();
        assert_eq!(error, BackendError::NotFinite { row: 1, column: 0 });
        let bias = Some(vec![0.0, f32::INFINITY]);
        let spec = LinearSpec { bias, ..spec(E4M3, LinearUse::Multiply) };
        let error = load(spec, view(&good, E4M3, 2, 2), WeightScale::None).unwrap_err();
        assert_eq!(error, BackendError::NotFinite { row: 1, column: 0 });
    }

    #[test]
    fn float8_keeps_its_format() {
        let codes = [0x38; 4];
        let from = |stored, target| {
            load(spec(target, LinearUse::Multiply), view(&codes, stored, 2, 2), WeightScale::Tensor(2.0))
        };
        let [fnuz, e5m2] = [Float8Format::E4M3Fnuz, Float8Format::E5M2].map(DataType::F8);
        assert_eq!(from(E4M3, fnuz).unwrap(), [2.0; 4]);
        assert_eq!(from(fnuz, fnuz).unwrap(), [1.0; 4]);
        for (stored, target) in [(E4M3, e5m2), (fnuz, E4M3), (E4M3, DataType::BF16)] {
            let error = from(stored, target).unwrap_err();
            assert!(matches!(error, BackendError::UnsupportedDataType { .. }), "{stored} {target}");
        }
        let bytes = bytes_of(&[1.0]);
        let error =
            load(spec(E4M3, LinearUse::Multiply), view(&bytes, DataType::F32, 1, 1), WeightScale::None);
        assert!(error.unwrap_err().to_string().contains("quantize before loading"));
    }

    #[test]
    fn shapes_that_disagree_are_refused() {
        let bytes = bytes_of(&[1.0; 6]);
        let part = |rows, columns| LinearPart {
            weight: view(&bytes, DataType::F32, rows, columns),
            scale: WeightScale::None,
        };
        let load = |usage, parts: &[LinearPart<'_>]| ReferenceLinear::load(spec(DataType::F32, usage), parts);
        let shape = |found_rows, found_columns, expected_rows, expected_columns| BackendError::Shape {
            found_rows,
            found_columns,
            expected_rows,
            expected_columns,
        };
        let multiply = LinearUse::Multiply;
        assert_eq!(load(multiply, &[part(3, 2), part(2, 3)]).unwrap_err(), shape(2, 3, 2, 2));
        assert_eq!(load(multiply, &[part(4, 2)]).unwrap_err(), shape(3, 2, 4, 2));
        assert_eq!(load(multiply, &[]).unwrap_err(), shape(0, 0, 1, 1));
        assert_eq!(load(LinearUse::Gated, &[part(1, 2), part(2, 2)]).unwrap_err(), shape(3, 2, 2, 2));
        assert_eq!(load(LinearUse::Gated, &[part(2, 2)]).unwrap_err(), shape(2, 2, 4, 2));
        let with_bias = LinearSpec { bias: Some(vec![0.0; 2]), ..spec(DataType::F32, multiply) };
        assert_eq!(ReferenceLinear::load(with_bias, &[part(3, 2)]).unwrap_err(), shape(2, 1, 3, 1));
    }

    #[test]
    fn scales_must_cover_the_weight() {
        let codes = [0x38; 6];
        let load = |scale| load(spec(E4M3, LinearUse::Multiply), view(&codes, E4M3, 2, 3), scale);
        assert!(load(WeightScale::Channel(&[1.0; 3])).is_err());
        for (scales, rows_per_block, columns_per_block) in
            [(3, 1, 2), (5, 1, 2), (4, 0, 2), (1, 2, 2), (4, 2, 2)]
        {
            let scales = &[1.0; 5][..scales];
            let result = load(WeightScale::Block { scales, rows_per_block, columns_per_block });
            assert!(matches!(result, Err(BackendError::Shape { .. })), "{scales:?}");
        }
    }
}
