//! Comparison with a place in the message.

/// Half the distance from 1 to the next `f32`: the relative error of one rounding.
pub(crate) const ROUNDING: f64 = 1.0 / (1u32 << 24) as f64;

/// Relative error allowed to an exponential, a sigmoid, a hyperbolic tangent, a sine: vectorised ones are good to a few
/// units in the last place.
pub(crate) const ELEMENTARY: f64 = 16.0 * ROUNDING;

/// Relative to the sum of magnitudes, what a sum of `terms` products may be off by in `f32`, in any order (Higham,
/// "Accuracy and Stability of Numerical Algorithms", section 3.1), and a few roundings after it.
pub(crate) fn sum_error(terms: usize) -> f64 {
    (terms + 16) as f64 * ROUNDING
}

/// A matrix as it was read from a device, and what to call it.
#[derive(Clone, Copy)]
pub(crate) struct Found<'a> {
    pub(crate) what: &'a str,
    pub(crate) columns: usize,
    pub(crate) values: &'a [f32],
}

impl Found<'_> {
    fn fail(&self, index: usize, expected: f32, wanted: &str) -> ! {
        let (row, column) = (index / self.columns, index % self.columns);
        let (what, found) = (self.what, self.values[index]);
        panic!("{what}: row {row}, column {column} is {found:e} where {expected:e} was expected, {wanted}");
    }

    /// Each value within `tolerance(index)` of the expected one; NaN is never.
    pub(crate) fn is_near(&self, expected: &[f32], tolerance: impl Fn(usize) -> f64) {
        assert_eq!(self.values.len(), expected.len(), "{}: number of values", self.what);
        for (index, (&found, &expected)) in self.values.iter().zip(expected).enumerate() {
            // Results may be rounded where they are stored, by the device and by the reference.
            let allowed = tolerance(index) + 2.0 * ROUNDING * f64::from(expected.abs());
            let difference = (f64::from(found) - f64::from(expected)).abs();
            if difference.is_nan() || difference > allowed {
                self.fail(index, expected, &format!("to within {allowed:e}; it is off by {difference:e}"));
            }
        }
    }

    /// Each value equal as a number: the two zeros are.
    pub(crate) fn is_exactly(&self, expected: &[f32]) {
        assert_eq!(self.values.len(), expected.len(), "{}: number of values", self.what);
        for (index, (&found, &expected)) in self.values.iter().zip(expected).enumerate() {
            if found != expected {
                self.fail(index, expected, "exactly");
            }
        }
    }

    /// Each value the same to the bit.
    pub(crate) fn is_to_the_bit(&self, expected: &[f32]) {
        assert_eq!(self.values.len(), expected.len(), "{}: number of values", self.what);
        for (index, (&found, &expected)) in self.values.iter().zip(expected).enumerate() {
            if found.to_bits() != expected.to_bits() {
                self.fail(index, expected, "to the bit");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(values: &[f32]) -> Found<'_> {
        Found { what: "test", columns: 2, values }
    }

    #[test]
    fn equal_values_pass() {
        found(&[1.0, 0.0]).is_exactly(&[1.0, -0.0]);
        found(&[1.0, -0.0]).is_to_the_bit(&[1.0, -0.0]);
        found(&[1.0, 2.5]).is_near(&[1.0, 2.0], |index| [0.0, 0.5][index]);
    }

    #[test]
    #[should_panic(expected = "test: row 1, column 0 is 2.5e0 where 2e0 was expected, to within")]
    fn a_difference_is_located() {
        found(&[1.0, 1.0, 2.5]).is_near(&[1.0, 1.0, 2.0], |_| 0.25);
    }

    #[test]
    #[should_panic(expected = "column 1 is NaN")]
    fn nan_is_never_near() {
        found(&[0.0, f32::NAN]).is_near(&[0.0, 0.0], |_| f64::INFINITY);
    }

    #[test]
    #[should_panic(expected = "to the bit")]
    fn zeros_differ_to_the_bit() {
        found(&[0.0]).is_to_the_bit(&[-0.0]);
    }
}
