//! Computing a product, when its stream comes to it.

use half::{bf16, f16};

use super::{Element, Layout, Problem, ScaleMode, Sizes};
use crate::memory;

/// A product with its operands' addresses, as a stream keeps it.
#[derive(Clone, Debug)]
pub(crate) struct Product {
    pub(crate) problem: Problem,
    pub(crate) sizes: Sizes,
    pub(crate) alpha: f32,
    pub(crate) beta: f32,
    /// Addresses of A, B, C and D.
    pub(crate) matrices: [usize; 4],
    /// How often to compute it.
    pub(crate) repeats: usize,
}

/// A value of an FP8 format.
fn float8(code: u8, e5m2: bool, fnuz: bool) -> f32 {
    let (mantissa, bias) = if e5m2 { (2, 15) } else { (3, 7) };
    let bias = bias + i32::from(fnuz);
    let magnitude = code & 0x7f;
    let sign = if code & 0x80 == 0 { 1.0 } else { -1.0 };
    let special = match (fnuz, e5m2) {
        (true, _) if code == 0x80 => Some(f32::NAN),
        (false, true) if magnitude == 0x7c => Some(f32::INFINITY),
        (false, true) if magnitude > 0x7c => Some(f32::NAN),
        (false, false) if magnitude == 0x7f => Some(f32::NAN),
        _ => None,
    };
    let fraction = f32::from(magnitude & ((1 << mantissa) - 1));
    let exponent = i32::from(magnitude >> mantissa);
    let unit = f32::from(1_u8 << mantissa);
    let value = if exponent == 0 {
        fraction / unit * 2_f32.powi(1 - bias)
    } else {
        (1.0 + fraction / unit) * 2_f32.powi(exponent - bias)
    };
    sign * special.unwrap_or(value)
}

fn decode(element: Element, bytes: &[u8]) -> f32 {
    match (element, bytes) {
        (Element::F32, [a, b, c, d]) => f32::from_le_bytes([*a, *b, *c, *d]),
        (Element::F16, [a, b]) => f16::from_le_bytes([*a, *b]).to_f32(),
        (Element::Bf16, [a, b]) => bf16::from_le_bytes([*a, *b]).to_f32(),
        (Element::Float8 { e5m2, fnuz }, [code]) => float8(*code, e5m2, fnuz),
        _ => f32::NAN,
    }
}

/// Writes a value; D is never FP8.
fn encode(element: Element, value: f32, bytes: &mut [u8]) {
    match element {
        Element::F32 => bytes.copy_from_slice(&value.to_le_bytes()),
        Element::F16 => bytes.copy_from_slice(&f16::from_f32(value).to_le_bytes()),
        Element::Bf16 => bytes.copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
        Element::Float8 { .. } => {}
    }
}

/// Bytes of the device that a product reads or writes.
///
/// # Errors
///
/// A message, if they are not wholly inside of an allocation.
fn reach(what: &str, address: usize, bytes: usize) -> Result<*mut u8, String> {
    match memory::find(address, bytes) {
        Ok(memory::Found::Inside(_)) => Ok(address as *mut u8),
        Ok(memory::Found::Elsewhere) | Err(_) => {
            Err(format!("a matrix product's {what}, {bytes} bytes at {address:#x}, is not allocated"))
        }
    }
}

/// Values of device memory.
fn read(what: &str, element: Element, address: usize, count: usize) -> Result<Vec<f32>, String> {
    let bytes = count * element.bytes();
    let from = reach(what, address, bytes)?;
    // SAFETY: the range lies inside of a live allocation; nobody frees it before the stream's work is done.
    let bytes = unsafe { std::slice::from_raw_parts(from, bytes) };
    Ok(bytes.chunks_exact(element.bytes()).map(|bytes| decode(element, bytes)).collect())
}

/// A batch of op(X) with k running fastest: rows of op(A), columns of op(B).
fn operand(values: &[f32], layout: &Layout, batch: usize, k_is_fast: bool) -> Vec<f32> {
    let at = |row: usize, column: usize| values[batch * layout.batch_stride + column * layout.leading + row];
    if k_is_fast {
        (0..layout.columns).flat_map(|column| (0..layout.rows).map(move |row| at(row, column))).collect()
    } else {
        (0..layout.rows).flat_map(|row| (0..layout.columns).map(move |column| at(row, column))).collect()
    }
}

/// Scales of rows or columns: a value for each of `count`, 1 without scales.
struct Scales(Vec<f32>);

impl Scales {
    fn read(address: usize, mode: ScaleMode, count: usize) -> Result<Self, String> {
        let values = match (address, mode) {
            (0, _) => vec![1.0],
            (_, ScaleMode::Scalar) => read("scale", Element::F32, address, 1)?,
            (_, ScaleMode::Vector) => read("scale vector", Element::F32, address, count)?,
        };
        Ok(Self(values))
    }

    fn at(&self, index: usize) -> f32 {
        self.0[index.min(self.0.len() - 1)]
    }
}

impl Product {
    /// Computes the product.
    ///
    /// # Errors
    ///
    /// A message, if a matrix, a scale or the bias is not in memory of a device.
    pub(crate) fn compute(&self) -> Result<(), String> {
        let description = &self.problem.description;
        let Sizes { m, n, batches, .. } = self.sizes;
        let [a, b, c, d] = &self.problem.layouts;
        let a_values = read("A", a.element, self.matrices[0], a.extent())?;
        let b_values = read("B", b.element, self.matrices[1], b.extent())?;
        let c_values =
            if self.beta == 0.0 { Vec::new() } else { read("C", c.element, self.matrices[2], c.extent())? };
        let scale_a = Scales::read(description.scales[0], description.modes[0], m)?;
        let scale_b = Scales::read(description.scales[1], description.modes[1], n)?;
        let scale_c = Scales::read(description.scales[2], ScaleMode::Scalar, 1)?;
        let scale_d = Scales::read(description.scales[3], ScaleMode::Scalar, 1)?;
        let bias = if description.bias {
            read("bias", description.bias_element.unwrap_or(d.element), description.bias_pointer, m)?
        } else {
            vec![0.0; m]
        };
        let bytes = d.element.bytes();
        let to = reach("D", self.matrices[3], d.extent() * bytes)?;
        // SAFETY: the range lies inside of a live allocation; if kernels of other streams write it too, that is a race
        // in the program under test, whose outcome is any bytes.
        let to = unsafe { std::slice::from_raw_parts_mut(to, d.extent() * bytes) };
        for batch in 0..batches {
            let rows = operand(&a_values, a, batch, description.transpose_a);
            let columns = operand(&b_values, b, batch, !description.transpose_b);
            let sums = self.multiply(&rows, &columns);
            for (index, sum) in sums.into_iter().enumerate() {
                let (row, column) = (index % m, index / m);
                let mut value = self.alpha * scale_a.at(row) * scale_b.at(column) * sum;
                if self.beta != 0.0 {
                    value += self.beta
                        * scale_c.at(0)
                        * c_values[batch * c.batch_stride + column * c.leading + row];
                }
                value = value * scale_d.at(0) + bias[row];
                let at = (batch * d.batch_stride + column * d.leading + row) * bytes;
                encode(d.element, value, &mut to[at..at + bytes]);
            }
        }
        Ok(())
    }

    /// Inner products of all rows with all columns, column-major.
    fn multiply(&self, rows: &[f32], columns: &[f32]) -> Vec<f32> {
        let Sizes { m, n, k, .. } = self.sizes;
        let mut sums = vec![0.0; m * n];
        for _ in 0..self.repeats {
            for (column, sums) in sums.chunks_exact_mut(m.max(1)).enumerate() {
                let column = &columns[column * k..(column + 1) * k];
                for (row, sum) in sums.iter_mut().enumerate() {
                    *sum = inner_product(&rows[row * k..(row + 1) * k], column);
                }
            }
        }
        sums
    }
}

/// Eight sums side by side, which the compiler turns into vectors.
fn inner_product(left: &[f32], right: &[f32]) -> f32 {
    let mut sums = [0.0_f32; 8];
    let (left_chunks, right_chunks) = (left.chunks_exact(8), right.chunks_exact(8));
    let rest: f32 =
        left_chunks.remainder().iter().zip(right_chunks.remainder()).map(|(left, right)| left * right).sum();
    for (left, right) in left_chunks.zip(right_chunks) {
        for (sum, (left, right)) in sums.iter_mut().zip(left.iter().zip(right)) {
            *sum += left * right;
        }
    }
    rest + sums.iter().sum::<f32>()
}

#[cfg(test)]
mod tests {
    use octet_float8::Float8Format;

    use super::*;

    #[test]
    fn float8_values_are_those_of_the_formats() {
        for format in Float8Format::ALL {
            let (e5m2, fnuz) = (format.name().contains("e5m2"), format.is_fnuz());
            for code in 0..=u8::MAX {
                let (found, right) = (float8(code, e5m2, fnuz), format.decode(code));
                assert!(found == right || found.is_nan() && right.is_nan(), "{} {code:#x}", format.name());
            }
        }
    }
}
