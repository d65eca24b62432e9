//! `--quantization`: FP8 made from 16-bit weights while they are loaded, one linear at a time.

use std::fmt;
use std::str::FromStr;
use std::thread;

use bytemuck::Pod;
use half::{bf16, f16};
use octet_backend::{DataType, ScaleShape};
use octet_float8::scale::{self, Blocking, Shape};
use octet_float8::{E4M3, Element, Error};

use crate::ModelError;

/// Rows and columns of a block, as DeepSeek-V3 and Qwen3-FP8 have them.
const BLOCK: usize = 128;

/// How a 16-bit checkpoint becomes FP8 (E4M3) while it is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnlineQuantization {
    /// One scale for each fused matrix, `max|W| / 448`: vLLM's `fp8`.
    Tensor,
    /// One scale for each output channel.
    Channel,
    /// One scale for each block of 128 x 128.
    Block,
}

impl OnlineQuantization {
    /// Its name, as `--quantization` takes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tensor => "fp8",
            Self::Channel => "fp8_per_channel",
            Self::Block => "fp8_per_block",
        }
    }

    /// Which weights share a scale.
    pub(crate) fn granularity(self) -> ScaleShape {
        match self {
            Self::Tensor => ScaleShape::Tensor,
            Self::Channel => ScaleShape::Channel,
            Self::Block => ScaleShape::Block { rows: BLOCK, columns: BLOCK },
        }
    }
}

impl fmt::Display for OnlineQuantization {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for OnlineQuantization {
    type Err = ModelError;

    fn from_str(name: &str) -> Result<Self, ModelError> {
        match name {
            "fp8" | "fp8_per_tensor" => Ok(Self::Tensor),
            "fp8_per_channel" | "ptpc_fp8" => Ok(Self::Channel),
            "fp8_per_block" => Ok(Self::Block),
            _ => Err(ModelError::Unsupported {
                what: "--quantization",
                found: name.to_owned(),
                supported: "fp8, fp8_per_channel, fp8_per_block (a quantized checkpoint needs no flag)"
                    .to_owned(),
            }),
        }
    }
}

/// A part's values before quantization, `[rows, columns]`.
pub(crate) struct Values<'a> {
    /// As stored, aligned to the element.
    pub(crate) bytes: &'a [u8],
    /// `f32`, `f16` or `bf16`.
    pub(crate) data_type: DataType,
    /// Output features.
    pub(crate) rows: usize,
    /// Input features.
    pub(crate) columns: usize,
}

/// A part's codes in E4M3 with their scales.
pub(crate) struct Quantized {
    /// `[rows, columns]`.
    pub(crate) codes: Vec<u8>,
    /// One, one a row, or one a block, row-major.
    pub(crate) scales: Vec<f32>,
}

/// Where a value was found that is not finite.
#[derive(Debug, PartialEq)]
pub(crate) struct NotFinite {
    /// Which part.
    pub(crate) part: usize,
    /// Its row.
    pub(crate) row: usize,
    /// Its column.
    pub(crate) column: usize,
}

/// Quantizes the parts of one fused matrix, on all cores.
pub(crate) fn quantize(parts: &[Values<'_>], how: OnlineQuantization) -> Result<Vec<Quantized>, NotFinite> {
    let shared = if how == OnlineQuantization::Tensor { Some(largest_of_all(parts)?) } else { None };
    let one = |(part, values): (usize, &Values<'_>)| {
        let done = match values.data_type {
            DataType::F16 => quantize_part::<f16>(values, how, shared),
            DataType::BF16 => quantize_part::<bf16>(values, how, shared),
            DataType::F32 | DataType::F8(_) | DataType::I8 => quantize_part::<f32>(values, how, shared),
        };
        done.map_err(|(row, column)| NotFinite { part, row, column })
    };
    parts.iter().enumerate().map(one).collect()
}

fn largest_of_all(parts: &[Values<'_>]) -> Result<f32, NotFinite> {
    let mut largest = 0.0f32;
    for (part, values) in parts.iter().enumerate() {
        let in_part = match values.data_type {
            DataType::F16 => largest_of::<f16>(values),
            DataType::BF16 => largest_of::<bf16>(values),
            DataType::F32 | DataType::F8(_) | DataType::I8 => largest_of::<f32>(values),
        };
        largest = largest.max(in_part.map_err(|(row, column)| NotFinite { part, row, column })?);
    }
    Ok(largest)
}

/// Rows that one thread takes: whole blocks, about as many for each.
fn rows_per_thread(rows: usize) -> usize {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    rows.div_ceil(threads).next_multiple_of(BLOCK)
}

/// Row and column of an error's position in a run of rows that starts at `first_row`.
fn place(error: &Error, first_row: usize, columns: usize) -> (usize, usize) {
    match error {
        Error::NotFinite { index, .. } => (first_row + index / columns, index % columns),
        other => unreachable!("shapes and scales are our own: {other}"),
    }
}

fn largest_of<E: Element + Pod>(values: &Values<'_>) -> Result<f32, (usize, usize)> {
    let elements: &[E] = bytemuck::cast_slice(values.bytes);
    let rows = rows_per_thread(values.rows);
    thread::scope(|scope| {
        let chunks = elements.chunks(rows * values.columns).enumerate();
        let running: Vec<_> = chunks
            .map(|(chunk, elements)| {
                scope.spawn(move || {
                    scale::max_abs(elements).map_err(|error| place(&error, chunk * rows, values.columns))
                })
            })
            .collect();
        let mut largest = 0.0f32;
        for thread in running {
            largest = largest.max(thread.join().expect("the search does not panic")?);
        }
        Ok(largest)
    })
}

fn quantize_part<E: Element + Pod>(
    values: &Values<'_>,
    how: OnlineQuantization,
    shared: Option<f32>,
) -> Result<Quantized, (usize, usize)> {
    let columns = values.columns;
    let elements: &[E] = bytemuck::cast_slice(values.bytes);
    let mut codes = vec![0; elements.len()];
    let rows = rows_per_thread(values.rows);
    let scales_per_chunk = match how {
        OnlineQuantization::Tensor => 1,
        OnlineQuantization::Channel => rows,
        OnlineQuantization::Block => rows / BLOCK * columns.div_ceil(BLOCK),
    };
    let mut scales = match how {
        OnlineQuantization::Tensor => vec![0.0; values.rows.div_ceil(rows)],
        OnlineQuantization::Channel => vec![0.0; values.rows],
        OnlineQuantization::Block => vec![0.0; values.rows.div_ceil(BLOCK) * columns.div_ceil(BLOCK)],
    };
    let tensor_scale = shared.map_or(1.0, scale::tensor_scale::<E4M3>);
    thread::scope(|scope| {
        let chunks = elements.chunks(rows * columns).zip(codes.chunks_mut(rows * columns));
        let chunks = chunks.zip(scales.chunks_mut(scales_per_chunk)).enumerate();
        let running: Vec<_> = chunks
            .map(|(chunk, ((elements, codes), scales))| {
                scope.spawn(move || {
                    let matrix = Shape { rows: elements.len() / columns, columns };
                    let done = match how {
                        OnlineQuantization::Tensor => {
                            scales[0] = tensor_scale;
                            scale::quantize_with_scale::<E4M3, E>(elements, tensor_scale, codes)
                        }
                        OnlineQuantization::Channel => {
                            scale::quantize_rows::<E4M3, E>(elements, columns, codes, scales)
                        }
                        OnlineQuantization::Block => scale::quantize_blocks::<E4M3, E>(
                            elements,
                            Blocking::of_128(matrix),
                            codes,
                            scales,
                        ),
                    };
                    done.map_err(|error| place(&error, chunk * rows, columns))
                })
            })
            .collect();
        running.into_iter().try_for_each(|thread| thread.join().expect("quantizing does not panic"))
    })?;
    if how == OnlineQuantization::Tensor {
        scales.truncate(1);
    }
    Ok(Quantized { codes, scales })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(elements: &[f32], columns: usize) -> Values<'_> {
        let rows = elements.len() / columns;
        Values { bytes: bytemuck::cast_slice(elements), data_type: DataType::F32, rows, columns }
    }

    /// Weights whose magnitude grows along rows and columns.
    fn ramp(rows: usize, columns: usize) -> Vec<f32> {
        (0..rows * columns).map(|i| ((i * 37 % 101) as f32 - 50.0) * (1.0 + i as f32 * 1e-4)).collect()
    }

    #[test]
    fn threads_give_what_one_call_gives() {
        let (rows, columns) = (700, 130);
        let elements = ramp(rows, columns);
        let parts = [values(&elements, columns)];
        let mut codes = vec![0; elements.len()];

        let by_row = quantize(&parts, OnlineQuantization::Channel).unwrap();
        let mut scales = vec![0.0; rows];
        scale::quantize_rows::<E4M3, f32>(&elements, columns, &mut codes, &mut scales).unwrap();
        assert_eq!((&by_row[0].codes, &by_row[0].scales), (&codes, &scales));

        let by_block = quantize(&parts, OnlineQuantization::Block).unwrap();
        let mut scales = vec![0.0; 6 * 2];
        let blocking = Blocking::of_128(Shape { rows, columns });
        scale::quantize_blocks::<E4M3, f32>(&elements, blocking, &mut codes, &mut scales).unwrap();
        assert_eq!((&by_block[0].codes, &by_block[0].scales), (&codes, &scales));
    }

    #[test]
    fn a_fused_matrix_has_one_scale_that_fits_its_largest_part() {
        let (small, large) = (ramp(3, 4), ramp(300, 4));
        let parts = [values(&small, 4), values(&large, 4)];
        let quantized = quantize(&parts, OnlineQuantization::Tensor).unwrap();
        let largest = large.iter().fold(0.0f32, |largest, it| largest.max(it.abs()));
        assert_eq!(quantized[0].scales, [largest / 448.0]);
        assert_eq!(quantized[1].scales, quantized[0].scales);
        assert!(quantized[1].codes.contains(&0x7E) || quantized[1].codes.contains(&0xFE));
    }

    #[test]
    fn damage_is_found_in_any_part_and_thread() {
        for how in [OnlineQuantization::Tensor, OnlineQuantization::Channel, OnlineQuantization::Block] {
            let (first, mut second) = (ramp(2, 8), ramp(600, 8));
            second[555 * 8 + 3] = f32::NAN;
            let parts = [values(&first, 8), values(&second, 8)];
            let found = quantize(&parts, how).err().unwrap();
            assert_eq!(found, NotFinite { part: 1, row: 555, column: 3 });
        }
    }

    #[test]
    fn unknown_names_list_the_known_ones() {
        let error = "awq".parse::<OnlineQuantization>().unwrap_err().to_string();
        assert!(error.contains("awq is not supported; supported: fp8, fp8_per_channel"), "{error}");
    }
}
