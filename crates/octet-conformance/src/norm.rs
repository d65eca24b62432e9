//! RMS norm, and the join of a branch to the residual.

use octet_backend::{Backend, Join, Norm, RmsNorm, TensorRole};
use octet_reference::ReferenceBackend;

use crate::Claims;
use crate::compare::{Found, sum_error};
use crate::device::{MOST_ROWS, ROWS, begin_rows, filled, read, undefined};
use crate::random::Random;

/// Columns: one, those of registers, none of these, and more than a block of threads takes at once.
const COLUMNS: [usize; 7] = [1, 16, 80, 96, 517, 768, 2048];

/// `rms_norm` against the reference, rows to the bit alone and in company.
///
/// # Panics
/// Where they disagree.
pub fn rms_norm<B: Backend>(claims: &Claims, backend: &mut B) {
    let mut random = Random::new(8);
    for columns in COLUMNS {
        for (magnitude, epsilon) in [(1.0, 1e-5), (1e-4, 1e-6), (1e4, 1e-5)] {
            let mut input = random.bells(MOST_ROWS * columns);
            input.iter_mut().for_each(|value| *value *= magnitude);
            // A row of zeros, which only epsilon keeps from a division by zero.
            input[2 * columns..3 * columns].fill(0.0);
            let weight = random.bells(columns);
            let expected = norm_rows(&mut ReferenceBackend::new(), &input, &weight, epsilon);
            let whole = norm_rows(backend, &input, &weight, epsilon);
            for rows in ROWS {
                let what = format!("norm of {rows} rows of {columns}");
                let output = norm_rows(backend, &input[..rows * columns], &weight, epsilon);
                let found = Found { what: &what, columns, values: &output };
                // Squares are positive, so the error of their sum is relative to it; the root halves it.
                found.is_near(&expected[..rows * columns], |index| {
                    sum_error(columns / 2) * f64::from(expected[index].abs())
                });
                if claims.batch_invariant {
                    found.is_to_the_bit(&whole[..rows * columns]);
                }
            }
        }
    }
}

fn norm_rows<B: Backend>(backend: &mut B, input: &[f32], weight: &[f32], epsilon: f32) -> Vec<f32> {
    let columns = weight.len();
    let rows = input.len() / columns;
    let input = filled(backend, TensorRole::Residual, columns, input);
    let mut output = undefined(backend, TensorRole::Activation, rows, columns);
    let weight = backend.load_vector(weight).expect("a vector");
    begin_rows(backend, rows);
    let norm = Norm { weight: &weight, epsilon };
    backend.rms_norm(RmsNorm { input: &input, norm, output: &mut output }).expect("a norm");
    read(backend, &output, rows)
}

const POST_EPSILON: f32 = 1e-6;
const NEXT_EPSILON: f32 = 1e-5;

/// A join and its operands on the host.
struct JoinCase {
    residual: Vec<f32>,
    branch: Vec<f32>,
    post_norm: Option<Vec<f32>>,
    scale: f32,
    next: Option<Vec<f32>>,
    columns: usize,
}

impl JoinCase {
    /// The joined residual and, if there is a next norm, its output; of the first rows.
    fn run<B: Backend>(&self, backend: &mut B, rows: usize) -> (Vec<f32>, Option<Vec<f32>>) {
        let (columns, end) = (self.columns, rows * self.columns);
        let mut residual = filled(backend, TensorRole::Residual, columns, &self.residual[..end]);
        let branch = filled(backend, TensorRole::Activation, columns, &self.branch[..end]);
        let mut output = undefined(backend, TensorRole::Activation, rows, columns);
        let mut load = |weight: &Option<Vec<f32>>| {
            weight.as_ref().map(|weight| backend.load_vector(weight).expect("a vector"))
        };
        let (post_norm, next) = (load(&self.post_norm), load(&self.next));
        begin_rows(backend, rows);
        let operands = Join {
            residual: &mut residual,
            branch: &branch,
            post_norm: post_norm.as_ref().map(|weight| Norm { weight, epsilon: POST_EPSILON }),
            scale: self.scale,
            next: next.as_ref().map(|weight| (Norm { weight, epsilon: NEXT_EPSILON }, &mut output)),
        };
        backend.join(operands).expect("a join");
        (read(backend, &residual, rows), next.is_some().then(|| read(backend, &output, rows)))
    }

    /// Whether a device has no choice of how to round.
    fn is_exact(&self) -> bool {
        self.post_norm.is_none() && self.scale == 1.0
    }
}

/// `join` against the reference: with and without the norms, factors, odd sizes; the plain sum exactly, rows to the bit
/// alone and in company.
///
/// # Panics
/// Where they disagree.
pub fn join<B: Backend>(claims: &Claims, backend: &mut B) {
    let mut random = Random::new(9);
    for columns in COLUMNS {
        for (normed, scale, has_next) in [
            (false, 1.0, true),
            (false, 1.0, false),
            (false, 0.22, true),
            (true, 1.0, true),
            (true, 0.22, false),
        ] {
            let mut residual = random.bells(MOST_ROWS * columns);
            let mut branch = random.bells_in(claims.activation_type, MOST_ROWS * columns);
            residual[2 * columns..3 * columns].fill(0.0);
            branch[2 * columns..3 * columns].fill(0.0);
            let post_norm = normed.then(|| random.bells(columns));
            let next = has_next.then(|| random.bells(columns));
            check_join(claims, backend, &JoinCase { residual, branch, post_norm, scale, next, columns });
        }
    }
}

fn check_join<B: Backend>(claims: &Claims, backend: &mut B, case: &JoinCase) {
    let columns = case.columns;
    let (sums, normed) = case.run(&mut ReferenceBackend::new(), MOST_ROWS);
    let whole = case.run(backend, MOST_ROWS);
    // What is added up: rounding is relative to it, and not to a sum that may cancel.
    let magnitude = |index: usize| {
        let residual = f64::from(case.residual[index]);
        residual.abs() + (f64::from(sums[index]) - residual).abs()
    };
    for rows in ROWS {
        let end = rows * columns;
        let what = format!(
            "join of {rows} rows of {columns}, post-norm {}, factor {}, next norm {}",
            case.post_norm.is_some(),
            case.scale,
            case.next.is_some()
        );
        let (joined, output) = case.run(backend, rows);
        let found = Found { what: &what, columns, values: &joined };
        if case.is_exact() {
            found.is_exactly(&sums[..end]);
        } else {
            found.is_near(&sums[..end], |index| sum_error(columns / 2) * magnitude(index));
        }
        if claims.batch_invariant {
            found.is_to_the_bit(&whole.0[..end]);
        }
        let (Some(output), Some(normed), Some(weight)) = (output, &normed, &case.next) else { continue };
        let found = Found { what: &what, columns, values: &output };
        found.is_near(&normed[..end], |index| {
            let row = &sums[index / columns * columns..][..columns];
            let mean = row.iter().map(|sum| f64::from(*sum).powi(2)).sum::<f64>() / columns as f64;
            let factor = f64::from(weight[index % columns].abs()) / (mean + f64::from(NEXT_EPSILON)).sqrt();
            2.0 * sum_error(columns / 2) * factor * magnitude(index)
        });
        if let (true, Some(whole)) = (claims.batch_invariant, &whole.1) {
            found.is_to_the_bit(&whole[..end]);
        }
    }
}
