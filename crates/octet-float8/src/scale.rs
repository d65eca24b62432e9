//! Quantization with scales, as vLLM's kernels compute it.
//!
//! `M` below is [`Float8::QUANTIZATION_MAX`]: 448 for E4M3, 224 for its FNUZ twin. All arithmetic is in
//! f32, rounding to FP8 is to nearest even, and values are clamped to `±M`. Every scale is the one that
//! multiplies a code to give the value back.
//!
//! | granularity | scale | code |
//! |---|---|---|
//! | tensor, static | from the checkpoint | `x * (1 / scale)` |
//! | tensor, dynamic and weights | `max\|x\| / M` | `x * (1 / scale)` |
//! | row (token or channel) | `max(min(max\|x\|, upper bound) / M, 1 / (M * 512))` | `x / scale` |
//! | group of a row, block of a matrix | `max(max\|x\|, 1e-10) * (1 / M)` | `x / scale` |
//!
//! The product with a reciprocal and the true division differ in the last place now and then; keeping
//! each where vLLM has it is what makes codes equal to the bit.

use half::f16;

use crate::slice::check_length;
use crate::{Element, Error, Float8};

/// The least magnitude that the scale of a group or block is made for.
const GROUP_MAX_ABS_FLOOR: f32 = 1e-10;

/// How many rows and columns a matrix or a block has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Output features of a weight, tokens of an activation.
    pub rows: usize,
    /// Input features.
    pub columns: usize,
}

/// A matrix cut into blocks that have one scale each; the last ones of a row or column may be partial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocking {
    /// The whole matrix.
    pub matrix: Shape,
    /// One block; 1 x 128 is a group of an activation.
    pub block: Shape,
}

impl Blocking {
    /// A matrix in the blocks of DeepSeek-V3, Qwen3-FP8 and `FP8_BLOCK` checkpoints.
    #[must_use]
    pub const fn of_128(matrix: Shape) -> Self {
        Self { matrix, block: Shape { rows: 128, columns: 128 } }
    }

    /// The shape of the matrix of scales.
    ///
    /// # Errors
    /// [`Error::Zero`] for a block without rows or columns.
    pub fn scales(self) -> Result<Shape, Error> {
        let Self { matrix, block } = self;
        if block.rows == 0 || block.columns == 0 {
            return Err(Error::Zero { what: "the size of a block" });
        }
        Ok(Shape { rows: matrix.rows.div_ceil(block.rows), columns: matrix.columns.div_ceil(block.columns) })
    }
}

impl Shape {
    fn elements(self) -> usize {
        self.rows * self.columns
    }
}

/// The smallest scale of a row: `1 / (M * 512)`. It keeps a row of zeros from dividing by zero.
#[must_use]
pub fn smallest_row_scale<F: Float8>() -> f32 {
    1.0 / (F::QUANTIZATION_MAX * 512.0)
}

/// The largest magnitude of a slice; 0 when it is empty.
///
/// # Errors
/// [`Error::NotFinite`] at the first NaN or infinity.
pub fn max_abs<E: Element>(values: &[E]) -> Result<f32, Error> {
    // Among magnitudes, the order of the bits is the order of the numbers, with infinity and NaN on
    // top: one integer maximum finds both the answer and the damage.
    let bits = values.iter().fold(0, |largest: i32, value| {
        let magnitude = (value.widen().to_bits() & 0x7FFF_FFFF) as i32;
        if magnitude > largest { magnitude } else { largest }
    });
    let largest = f32::from_bits(bits as u32);
    if largest.is_finite() {
        return Ok(largest);
    }
    let index = values.iter().position(|value| !value.widen().is_finite());
    let index = index.expect("the maximum over the slice was not finite");
    Err(Error::NotFinite { index, value: values[index].widen() })
}

/// The scale of a whole tensor (or of a fused matrix: take the maximum over its shards): `max_abs / M`.
///
/// A tensor of zeros gets the smallest normal f32, whose reciprocal is finite; its codes are zeros.
#[must_use]
pub fn tensor_scale<F: Float8>(max_abs: f32) -> f32 {
    (max_abs / F::QUANTIZATION_MAX).max(f32::MIN_POSITIVE)
}

/// The scale of a row: see the table of this module. `upper_bound` is fbgemm's `activation_scale_ub`.
#[must_use]
pub fn row_scale<F: Float8>(max_abs: f32, upper_bound: Option<f32>) -> f32 {
    let bounded = upper_bound.map_or(max_abs, |bound| max_abs.min(bound));
    (bounded / F::QUANTIZATION_MAX).max(smallest_row_scale::<F>())
}

/// The scale of a group or block: see the table of this module.
#[must_use]
pub fn group_scale<F: Float8>(max_abs: f32) -> f32 {
    max_abs.max(GROUP_MAX_ABS_FLOOR) * (1.0 / F::QUANTIZATION_MAX)
}

/// Rounds a positive normal scale up to a power of two, for scales stored as an exponent byte (UE8M0).
#[must_use]
pub fn round_up_to_power_of_two(scale: f32) -> f32 {
    const FRACTION: u32 = (1 << 23) - 1;
    f32::from_bits((scale.to_bits() + FRACTION) & !FRACTION)
}

fn check_scale(scale: f32) -> Result<(), Error> {
    if scale > 0.0 && scale.is_finite() && (1.0 / scale).is_finite() {
        Ok(())
    } else {
        Err(Error::Scale { scale })
    }
}

/// Quantizes with a given scale: `clamp(x * (1 / scale), ±M)`. NaN becomes the code of NaN.
///
/// # Errors
/// [`Error::Length`] when the slices differ in length, [`Error::Scale`] for a scale that is not positive and finite.
pub fn quantize_with_scale<F: Float8, E: Element>(
    values: &[E],
    scale: f32,
    codes: &mut [u8],
) -> Result<(), Error> {
    check_length("codes", values.len(), codes.len())?;
    check_scale(scale)?;
    let reciprocal = 1.0 / scale;
    for (code, value) in codes.iter_mut().zip(values) {
        *code = F::quantize(value.widen() * reciprocal).to_bits();
    }
    Ok(())
}

/// Quantizes a whole tensor and returns its scale.
///
/// # Errors
/// [`Error::Length`] when the slices differ in length, [`Error::NotFinite`] for NaN or infinity among the values.
pub fn quantize_tensor<F: Float8, E: Element>(values: &[E], codes: &mut [u8]) -> Result<f32, Error> {
    let scale = tensor_scale::<F>(max_abs(values)?);
    quantize_with_scale::<F, E>(values, scale, codes)?;
    Ok(scale)
}

/// Quantizes a run of values that share one scale by true division.
fn quantize_run<F: Float8, E: Element>(values: &[E], scale: f32, codes: &mut [u8]) {
    for (code, value) in codes.iter_mut().zip(values) {
        *code = F::quantize(value.widen() / scale).to_bits();
    }
}

/// Moves the position in an error from a part of a tensor to the whole.
fn at_offset(error: Error, offset: usize) -> Error {
    if let Error::NotFinite { index, value } = error {
        return Error::NotFinite { index: index + offset, value };
    }
    error
}

/// Quantizes each row by itself: `values` and `codes` `[rows, columns]`, `scales` `[rows]`.
///
/// # Errors
/// [`Error::Zero`] for rows of length 0, [`Error::Length`] when a slice does not fit the shape,
/// [`Error::NotFinite`] for NaN or infinity among the values.
pub fn quantize_rows<F: Float8, E: Element>(
    values: &[E],
    columns: usize,
    codes: &mut [u8],
    scales: &mut [f32],
) -> Result<(), Error> {
    if columns == 0 {
        return Err(Error::Zero { what: "the length of a row" });
    }
    check_length("values", scales.len() * columns, values.len())?;
    check_length("codes", values.len(), codes.len())?;
    let rows = values.chunks_exact(columns).zip(codes.chunks_exact_mut(columns));
    for (row, ((values, codes), scale)) in rows.zip(scales).enumerate() {
        let largest = max_abs(values).map_err(|error| at_offset(error, row * columns))?;
        *scale = row_scale::<F>(largest, None);
        quantize_run::<F, E>(values, *scale, codes);
    }
    Ok(())
}

/// Quantizes each block by itself: `values` and `codes` `[rows, columns]` of the matrix, `scales` as
/// [`Blocking::scales`] says.
///
/// # Errors
/// [`Error::Zero`] for an empty block, [`Error::Length`] when a slice does not fit the shape,
/// [`Error::NotFinite`] for NaN or infinity among the values.
pub fn quantize_blocks<F: Float8, E: Element>(
    values: &[E],
    blocking: Blocking,
    codes: &mut [u8],
    scales: &mut [f32],
) -> Result<(), Error> {
    let blocks = blocking.scales()?;
    let Blocking { matrix: shape, block } = blocking;
    check_length("values", shape.elements(), values.len())?;
    check_length("codes", shape.elements(), codes.len())?;
    check_length("scales", blocks.elements(), scales.len())?;
    for (index, scale) in scales.iter_mut().enumerate() {
        let first_row = index / blocks.columns * block.rows;
        let first_column = index % blocks.columns * block.columns;
        let width = block.columns.min(shape.columns - first_column);
        let rows = first_row..shape.rows.min(first_row + block.rows);
        let mut largest = 0.0f32;
        for row in rows.clone() {
            let start = row * shape.columns + first_column;
            let in_row = max_abs(&values[start..start + width]).map_err(|error| at_offset(error, start))?;
            largest = largest.max(in_row);
        }
        *scale = group_scale::<F>(largest);
        for row in rows {
            let run = row * shape.columns + first_column..row * shape.columns + first_column + width;
            quantize_run::<F, E>(&values[run.clone()], *scale, &mut codes[run]);
        }
    }
    Ok(())
}

/// Writes codes made with one scale anew for another: shards of a fused matrix get the largest scale.
///
/// As vLLM does it, values pass through f16: `f16(code * from)`, then the static rule with `to`.
///
/// # Errors
/// [`Error::Scale`] for a scale that is not positive and finite.
pub fn requantize<F: Float8>(codes: &mut [u8], from: f32, to: f32) -> Result<(), Error> {
    check_scale(from)?;
    check_scale(to)?;
    let values: [f32; 256] = F::TABLE.map(|value| f16::from_f32(value * from).to_f32());
    let mut replacement = [0; 256];
    quantize_with_scale::<F, f32>(&values, to, &mut replacement)?;
    for code in codes {
        *code = replacement[usize::from(*code)];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::{E4M3, E4M3Fnuz};

    #[test]
    fn tensor_uses_the_whole_range() {
        let values = [-3.5f32, 1.75, 0.0, 0.01];
        let mut codes = [0; 4];
        let scale = quantize_tensor::<E4M3, f32>(&values, &mut codes).unwrap();
        assert_eq!(scale, 3.5 / 448.0);
        assert_eq!(codes[..3], [0xFE, 0x76, 0x00]);
        let scale = quantize_tensor::<E4M3Fnuz, f32>(&values, &mut codes).unwrap();
        assert_eq!(scale, 3.5 / 224.0);
        assert_eq!(E4M3Fnuz::from_bits(codes[0]).to_f32(), -224.0);
    }

    #[test]
    fn zeros_and_tiny_values_keep_finite_scales() {
        let mut codes = [9; 3];
        let scale = quantize_tensor::<E4M3, f32>(&[0.0, -0.0, 0.0], &mut codes).unwrap();
        assert!(scale > 0.0 && (1.0 / scale).is_finite());
        assert_eq!(codes, [0x00, 0x80, 0x00]);
        let mut scales = [0.0];
        quantize_rows::<E4M3, f32>(&[0.0; 3], 3, &mut codes, &mut scales).unwrap();
        assert_eq!((codes, scales[0]), ([0; 3], 1.0 / (448.0 * 512.0)));
        let flat = Shape { rows: 1, columns: 3 };
        quantize_blocks::<E4M3, f32>(
            &[0.0; 3],
            Blocking { matrix: flat, block: flat },
            &mut codes,
            &mut scales,
        )
        .unwrap();
        assert_eq!(scales[0], 1e-10 * (1.0 / 448.0));
        let subnormal = [f32::from_bits(1)];
        quantize_tensor::<E4M3, f32>(&subnormal, &mut codes[..1]).unwrap();
        assert_eq!(codes[0], 0);
    }

    #[test]
    fn rows_have_their_own_scales_and_true_division() {
        let values: Vec<bf16> =
            (0..6 * 33).map(|i| bf16::from_f32(((i * 37 % 101) as f32 - 50.0) * (1.0 + i as f32))).collect();
        let (mut codes, mut scales) = (vec![0; values.len()], vec![0.0; 6]);
        quantize_rows::<E4M3, bf16>(&values, 33, &mut codes, &mut scales).unwrap();
        for (row, &scale) in scales.iter().enumerate() {
            let run = row * 33..row * 33 + 33;
            let largest = values[run.clone()].iter().map(|x| x.to_f32().abs()).fold(0.0, f32::max);
            assert_eq!(scale, largest / 448.0);
            for i in run {
                assert_eq!(codes[i], E4M3::from_f32_saturating(values[i].to_f32() / scale).to_bits());
            }
        }
        assert_eq!(row_scale::<E4M3>(1000.0, Some(448.0)), 1.0);
    }

    #[test]
    fn blocks_cover_odd_shapes() {
        let shape = Shape { rows: 5, columns: 7 };
        let block = Shape { rows: 2, columns: 3 };
        let values: Vec<f32> = (0..35).map(|i| (i as f32 - 17.0) * 0.3).collect();
        let (mut codes, mut scales) = (vec![0; 35], vec![0.0; 9]);
        quantize_blocks::<E4M3, f32>(&values, Blocking { matrix: shape, block }, &mut codes, &mut scales)
            .unwrap();
        for (index, &value) in values.iter().enumerate() {
            let scale = scales[index / 7 / 2 * 3 + index % 7 / 3];
            let back = E4M3::from_bits(codes[index]).to_f32() * scale;
            // Half a unit in the last of three mantissa bits, or half of the smallest subnormal.
            assert!(
                (back - value).abs() <= (value.abs() / 16.0).max(scale / 1024.0) * 1.0001,
                "{index}: {back} {value}"
            );
        }
        let corner = values[28..].iter().skip(6).fold(0.0f32, |a, b| a.max(b.abs()));
        assert_eq!(scales[8], corner * (1.0 / 448.0));
    }

    #[test]
    fn damage_is_located_in_the_whole_tensor() {
        let mut values = vec![bf16::ONE; 12];
        values[7] = bf16::NAN;
        let (mut codes, mut scales) = (vec![0; 12], vec![0.0; 3]);
        let error = quantize_rows::<E4M3, bf16>(&values, 4, &mut codes, &mut scales).unwrap_err();
        assert!(matches!(error, Error::NotFinite { index: 7, value } if value.is_nan()), "{error}");
        let shape = Shape { rows: 3, columns: 4 };
        let block = Shape { rows: 3, columns: 2 };
        let error = quantize_blocks::<E4M3, bf16>(
            &values,
            Blocking { matrix: shape, block },
            &mut codes,
            &mut scales[..2],
        )
        .unwrap_err();
        assert!(matches!(error, Error::NotFinite { index: 7, .. }), "{error}");
        values[7] = bf16::NEG_INFINITY;
        assert!(
            matches!(max_abs(&values), Err(Error::NotFinite { index: 7, value }) if value == f32::NEG_INFINITY)
        );
    }

    #[test]
    fn bad_scales_and_shapes_are_refused() {
        for scale in [0.0, -1.0, f32::NAN, f32::INFINITY, f32::from_bits(1)] {
            let result = quantize_with_scale::<E4M3, f32>(&[1.0], scale, &mut [0]);
            assert!(matches!(result, Err(Error::Scale { .. })), "{scale}");
        }
        assert!(matches!(quantize_rows::<E4M3, f32>(&[], 0, &mut [], &mut []), Err(Error::Zero { .. })));
        let matrix = Shape { rows: 130, columns: 128 };
        assert_eq!(Blocking::of_128(matrix).scales(), Ok(Shape { rows: 2, columns: 1 }));
        assert!(Blocking { matrix, block: Shape { rows: 0, columns: 128 } }.scales().is_err());
    }

    #[test]
    fn requantizing_with_the_same_scale_keeps_finite_codes() {
        let finite: Vec<u8> = (0..=255).filter(|&code| E4M3::from_bits(code).is_finite()).collect();
        let mut codes = finite.clone();
        requantize::<E4M3>(&mut codes, 0.0625, 0.0625).unwrap();
        assert_eq!(codes, finite);
        requantize::<E4M3>(&mut codes, 0.0625, 0.125).unwrap();
        let halved = E4M3::from_f32(E4M3::from_bits(0x7E).to_f32() / 2.0).to_bits();
        assert_eq!(codes[finite.iter().position(|&code| code == 0x7E).unwrap()], halved);
    }

    #[test]
    fn powers_of_two_are_rounded_up_to() {
        for (scale, power) in [(1.0, 1.0), (1.0001, 2.0), (0.3, 0.5), (0.5, 0.5), (3.0, 4.0)] {
            assert_eq!(round_up_to_power_of_two(scale), power);
        }
    }
}
