//! RMS norm.

use super::rows::SharedRows;
use crate::isa::Isa;
use crate::simd::{Kernel, LANES, Simd};
use crate::threads::Pool;

/// `output = input / sqrt(mean(input²) + epsilon) * weight`, after `input += add` if there is something to add.
#[derive(Clone, Copy)]
pub(crate) struct NormRow<'a> {
    /// `[columns]`, the sum if something is added.
    pub(crate) input: *mut f32,
    /// `[columns]`.
    pub(crate) add: Option<&'a [f32]>,
    /// `[columns]`: its length is that of all.
    pub(crate) weight: &'a [f32],
    pub(crate) epsilon: f32,
    /// `[columns]`, possibly the input.
    pub(crate) output: *mut f32,
}

impl Kernel for NormRow<'_> {
    type Output = ();

    /// Squares are summed in sixteen chains, which are then added as [`Simd::reduce_add`] says.
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let columns = self.weight.len();
        let mut squares = simd.splat(0.0);
        for start in (0..columns).step_by(LANES) {
            let count = (columns - start).min(LANES);
            // SAFETY: whoever makes this struct gives `columns` values everywhere.
            unsafe {
                let mut value = load(simd, self.input.add(start), count);
                if let Some(add) = self.add {
                    value = simd.add(value, load(simd, add.as_ptr().add(start), count));
                    store(simd, self.input.add(start), value, count);
                }
                squares = simd.multiply_add(value, value, squares);
            }
        }
        let mean = simd.reduce_add(squares) / columns as f32;
        let reciprocal = simd.splat(1.0 / (mean + self.epsilon).sqrt());
        for start in (0..columns).step_by(LANES) {
            let count = (columns - start).min(LANES);
            // SAFETY: as above.
            unsafe {
                let value = simd.multiply(load(simd, self.input.add(start), count), reciprocal);
                let weight = load(simd, self.weight.as_ptr().add(start), count);
                store(simd, self.output.add(start), simd.multiply(value, weight), count);
            }
        }
    }
}

/// Reads `count` values, at most sixteen.
///
/// # Safety
/// `source` is valid for reading them.
#[inline(always)]
pub(super) unsafe fn load<S: Simd>(simd: S, source: *const f32, count: usize) -> S::F32 {
    // SAFETY: the caller's promise.
    unsafe { if count == LANES { simd.load(source) } else { simd.load_first(source, count) } }
}

/// Writes `count` values, at most sixteen.
///
/// # Safety
/// `target` is valid for writing them.
#[inline(always)]
pub(super) unsafe fn store<S: Simd>(simd: S, target: *mut f32, value: S::F32, count: usize) {
    // SAFETY: the caller's promise.
    unsafe { if count == LANES { simd.store(target, value) } else { simd.store_first(target, value, count) } }
}

/// Operands of [`rms_norm`], rows of `weight.len()`.
pub(crate) struct NormOperands<'a> {
    /// `[rows, columns]`; receives the sum.
    pub(crate) input: &'a mut [f32],
    /// `[rows, columns]`.
    pub(crate) add: Option<&'a [f32]>,
    pub(crate) weight: &'a [f32],
    pub(crate) epsilon: f32,
    /// `[rows, columns]`.
    pub(crate) output: &'a mut [f32],
}

/// Normalises `rows` rows.
pub(crate) fn rms_norm(pool: &Pool, isa: Isa, rows: usize, operands: NormOperands<'_>) {
    let NormOperands { input, add, weight, epsilon, output } = operands;
    let columns = weight.len();
    let (input, output) = (SharedRows::new(input, columns), SharedRows::new(output, columns));
    super::for_rows(pool, rows, columns, &|row| {
        // SAFETY: each row is given to one worker.
        let (input, output) = unsafe { (input.row(row), output.row(row)) };
        let add = add.map(|add| &add[row * columns..(row + 1) * columns]);
        isa.run(NormRow { input: input.as_mut_ptr(), add, weight, epsilon, output: output.as_mut_ptr() });
    });
}
