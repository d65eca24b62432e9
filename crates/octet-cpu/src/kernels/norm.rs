//! RMS norm, alone and as a part of the join of a branch to the residual.

use super::rows::SharedRows;
use crate::isa::Isa;
use crate::simd::{Kernel, LANES, Simd};
use crate::threads::Pool;

/// `output = input / sqrt(mean(input²) + epsilon) * weight`.
#[derive(Clone, Copy)]
pub(crate) struct NormRow<'a> {
    /// `[columns]`.
    pub(crate) input: *const f32,
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
            // SAFETY: the code that makes this struct provides `columns` values everywhere.
            let value = unsafe { load(simd, self.input.add(start), count) };
            squares = simd.multiply_add(value, value, squares);
        }
        let reciprocal = reciprocal(simd, squares, columns, self.epsilon);
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

/// `1 / sqrt(mean + epsilon)` of the sum of `columns` squares, in every lane.
#[inline(always)]
fn reciprocal<S: Simd>(simd: S, squares: S::F32, columns: usize, epsilon: f32) -> S::F32 {
    let mean = simd.reduce_add(squares) / columns as f32;
    simd.splat(1.0 / (mean + epsilon).sqrt())
}

/// Weight and epsilon of a norm.
pub(crate) type NormOf<'a> = (&'a [f32], f32);

/// `residual += scale * post_norm(branch)`, then `output = next(residual)`. Beside the residual, which a norm alone would
/// read as well, only the branch is read: what its projection has just written.
#[derive(Clone, Copy)]
struct JoinRow<'a> {
    /// `[columns]`: its length is that of all.
    branch: &'a [f32],
    /// `[columns]`.
    residual: *mut f32,
    post_norm: Option<NormOf<'a>>,
    scale: f32,
    /// The norm, and where it goes `[columns]`.
    next: Option<(NormOf<'a>, *mut f32)>,
}

impl Kernel for JoinRow<'_> {
    type Output = ();

    /// Sums squares as [`NormRow`] does.
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let columns = self.branch.len();
        let scale = simd.splat(self.scale);
        let post_norm = self.post_norm.map(|(weight, epsilon)| {
            let mut squares = simd.splat(0.0);
            for start in (0..columns).step_by(LANES) {
                let count = (columns - start).min(LANES);
                // SAFETY: the code that makes this struct provides `columns` values everywhere.
                let value = unsafe { load(simd, self.branch.as_ptr().add(start), count) };
                squares = simd.multiply_add(value, value, squares);
            }
            (weight, reciprocal(simd, squares, columns, epsilon))
        });
        let mut squares = simd.splat(0.0);
        for start in (0..columns).step_by(LANES) {
            let count = (columns - start).min(LANES);
            // SAFETY: as above.
            unsafe {
                let mut value = load(simd, self.branch.as_ptr().add(start), count);
                if let Some((weight, reciprocal)) = post_norm {
                    let weight = load(simd, weight.as_ptr().add(start), count);
                    value = simd.multiply(simd.multiply(value, reciprocal), weight);
                }
                let sum = simd.multiply_add(value, scale, load(simd, self.residual.add(start), count));
                store(simd, self.residual.add(start), sum, count);
                squares = simd.multiply_add(sum, sum, squares);
            }
        }
        let Some(((weight, epsilon), output)) = self.next else { return };
        let reciprocal = reciprocal(simd, squares, columns, epsilon);
        for start in (0..columns).step_by(LANES) {
            let count = (columns - start).min(LANES);
            // SAFETY: as above.
            unsafe {
                let value = simd.multiply(load(simd, self.residual.add(start), count), reciprocal);
                let weight = load(simd, weight.as_ptr().add(start), count);
                store(simd, output.add(start), simd.multiply(value, weight), count);
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

/// Operands of [`rms_norm`], rows of as many columns as the weight has.
pub(crate) struct NormOperands<'a> {
    /// `[rows, columns]`.
    pub(crate) input: &'a [f32],
    pub(crate) norm: NormOf<'a>,
    /// `[rows, columns]`.
    pub(crate) output: &'a mut [f32],
}

/// Normalises `rows` rows.
pub(crate) fn rms_norm(pool: &Pool, isa: Isa, rows: usize, operands: NormOperands<'_>) {
    let NormOperands { input, norm: (weight, epsilon), output } = operands;
    let columns = weight.len();
    let output = SharedRows::new(output, columns);
    super::for_rows(pool, rows, columns, &|row| {
        let input = &input[row * columns..(row + 1) * columns];
        // SAFETY: each row is given to one worker.
        let output = unsafe { output.row(row) };
        isa.run(NormRow { input: input.as_ptr(), weight, epsilon, output: output.as_mut_ptr() });
    });
}

/// Operands of [`join`].
pub(crate) struct JoinOperands<'a> {
    pub(crate) columns: usize,
    /// `[rows, columns]`.
    pub(crate) residual: &'a mut [f32],
    /// `[rows, columns]`.
    pub(crate) branch: &'a [f32],
    pub(crate) post_norm: Option<NormOf<'a>>,
    pub(crate) scale: f32,
    /// The norm, and where it goes `[rows, columns]`.
    pub(crate) next: Option<(NormOf<'a>, &'a mut [f32])>,
}

/// Joins `rows` rows.
pub(crate) fn join(pool: &Pool, isa: Isa, rows: usize, operands: JoinOperands<'_>) {
    let JoinOperands { columns, residual, branch, post_norm, scale, next } = operands;
    let residual = SharedRows::new(residual, columns);
    let next = next.map(|(norm, output)| (norm, SharedRows::new(output, columns)));
    super::for_rows(pool, rows, columns, &|row| {
        let branch = &branch[row * columns..(row + 1) * columns];
        // SAFETY: each row is given to one worker.
        let residual = unsafe { residual.row(row) }.as_mut_ptr();
        // SAFETY: as above.
        let next = next.as_ref().map(|(norm, output)| (*norm, unsafe { output.row(row) }.as_mut_ptr()));
        isa.run(JoinRow { branch, residual, post_norm, scale, next });
    });
}
