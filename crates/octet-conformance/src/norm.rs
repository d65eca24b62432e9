//! RMS norm with and without the residual.

use octet_backend::{Backend, RmsNorm, TensorRole};
use octet_reference::ReferenceBackend;

use crate::Claims;
use crate::compare::{Found, sum_error};
use crate::device::{MOST_ROWS, ROWS, begin_rows, filled, read, undefined};
use crate::random::Random;

struct Case<'a> {
    input: &'a [f32],
    add: Option<&'a [f32]>,
    weight: &'a [f32],
    epsilon: f32,
}

impl Case<'_> {
    fn first_rows(&self, rows: usize) -> Case<'_> {
        let end = rows * self.weight.len();
        Case { input: &self.input[..end], add: self.add.map(|add| &add[..end]), ..*self }
    }

    /// The normalised rows, and what the input then holds.
    fn run<B: Backend>(&self, backend: &mut B) -> (Vec<f32>, Vec<f32>) {
        let columns = self.weight.len();
        let rows = self.input.len() / columns;
        let mut input = filled(backend, TensorRole::Residual, columns, self.input);
        let add = self.add.map(|add| filled(backend, TensorRole::Activation, columns, add));
        let mut output = undefined(backend, TensorRole::Activation, rows, columns);
        let weight = backend.load_vector(self.weight).expect("a vector");
        begin_rows(backend, rows);
        let operands = RmsNorm {
            input: &mut input,
            add: add.as_ref(),
            weight: &weight,
            epsilon: self.epsilon,
            output: &mut output,
        };
        backend.rms_norm(operands).expect("a norm");
        (read(backend, &output, rows), read(backend, &input, rows))
    }
}

/// `rms_norm` against the reference; the residual's sum exactly, rows to the bit alone and in company.
///
/// # Panics
/// Where they disagree.
pub fn rms_norm<B: Backend>(claims: &Claims, backend: &mut B) {
    let mut random = Random::new(8);
    for columns in [1, 16, 80, 96, 517, 768, 2048] {
        for (magnitude, epsilon) in [(1.0, 1e-5), (1e-4, 1e-6), (1e4, 1e-5)] {
            let mut input = random.bells(MOST_ROWS * columns);
            input.iter_mut().for_each(|value| *value *= magnitude);
            // A row of zeros, which only epsilon keeps from a division by zero.
            input[2 * columns..3 * columns].fill(0.0);
            let mut add = random.bells(MOST_ROWS * columns);
            add[2 * columns..3 * columns].fill(0.0);
            let weight = random.bells(columns);
            for add in [None, Some(&add[..])] {
                let case = Case { input: &input, add, weight: &weight, epsilon };
                check(claims, backend, &case);
            }
        }
    }
}

fn check<B: Backend>(claims: &Claims, backend: &mut B, case: &Case<'_>) {
    let columns = case.weight.len();
    let (expected, sums) = case.run(&mut ReferenceBackend::new());
    let (whole, _) = case.run(backend);
    for rows in ROWS {
        let residual = case.add.is_some();
        let what = format!("norm of {rows} rows of {columns}, residual {residual}");
        let (output, held) = case.first_rows(rows).run(backend);
        let found = Found { what: &what, columns, values: &output };
        // Squares are positive, so the error of their sum is relative to it; the root halves it.
        found.is_near(&expected[..rows * columns], |index| {
            sum_error(columns / 2) * f64::from(expected[index].abs())
        });
        if claims.batch_invariant {
            found.is_to_the_bit(&whole[..rows * columns]);
        }
        let what = format!("residual after a norm of {rows} rows of {columns}");
        Found { what: &what, columns, values: &held }.is_exactly(&sums[..rows * columns]);
    }
}
