//! How long tuning may take, and how much numbers may differ.

use std::time::Duration;

/// Limits of the search. No run starts after one of them has passed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TuningLimits {
    /// Time of measured runs of one solution; zero is no limit.
    pub solution: Duration,
    /// Measured runs of one solution; zero is no limit.
    pub iterations: usize,
    /// Unmeasured runs of a solution before its first measured one, as long as this; zero is none.
    pub warmup: Duration,
    /// The most such runs; zero is no limit.
    pub warmup_iterations: usize,
    /// Time for one problem, everything included.
    pub problem: Duration,
    /// Time for all of them; what is left then stays untuned.
    pub total: Option<Duration>,
    /// Problems of which a single run takes longer stay untuned: for a device that must be free again at once.
    pub longest_run: Option<Duration>,
}

impl Default for TuningLimits {
    /// Those of TunableOp, which has none for a problem or in total.
    fn default() -> Self {
        Self {
            solution: Duration::from_millis(30),
            iterations: 100,
            warmup: Duration::ZERO,
            warmup_iterations: 0,
            problem: Duration::from_secs(5),
            total: None,
            longest_run: None,
        }
    }
}

/// When a solution's numbers are close enough to the default's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NumericalCheck {
    /// Always.
    Off,
    /// `|found - expected| <= tolerance * (rms(expected) + |expected|)` for every element.
    Scaled {
        /// The tolerance.
        tolerance: f32,
    },
    /// `|found - expected| <= absolute + relative * |expected|` for every element: PyTorch's `allclose`.
    Close {
        /// The absolute tolerance.
        absolute: f32,
        /// The relative one.
        relative: f32,
    },
}

impl Default for NumericalCheck {
    /// A hundredth: a little more than the rounding of a bfloat16 output, and far less than a wrong element.
    fn default() -> Self {
        Self::Scaled { tolerance: 0.01 }
    }
}

impl NumericalCheck {
    /// The first element that is not close enough, if any. Numbers that are none never are.
    pub(crate) fn first_fault(self, expected: &[f32], found: &[f32]) -> Option<(usize, f32, f32)> {
        let (absolute, relative) = match self {
            Self::Off => return None,
            Self::Scaled { tolerance } => (tolerance * root_mean_square(expected), tolerance),
            Self::Close { absolute, relative } => (absolute, relative),
        };
        if expected.len() != found.len() {
            return Some((expected.len().min(found.len()), 0.0, f32::NAN));
        }
        let close =
            |expected: f32, found: f32| (found - expected).abs() <= absolute + relative * expected.abs();
        let pairs = expected.iter().zip(found).enumerate();
        let mut pairs = pairs.map(|(index, (&expected, &found))| (index, expected, found));
        pairs.find(|&(_, expected, found)| !close(expected, found))
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "a tolerance needs few digits"
)]
fn root_mean_square(values: &[f32]) -> f32 {
    let sum: f64 = values.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
    (sum / values.len().max(1) as f64).sqrt() as f32
}

/// Limits and check together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TuningSettings {
    /// How long it may take.
    pub limits: TuningLimits,
    /// How much numbers may differ.
    pub check: NumericalCheck,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_passes_and_a_wrong_element_does_not() {
        let expected = [1.0, -2.0, 0.001, 3.0];
        let check = NumericalCheck::default();
        assert_eq!(check.first_fault(&expected, &[1.001, -2.002, 0.002, 3.0]), None);
        assert_eq!(check.first_fault(&expected, &[1.0, -2.0, 0.1, 3.0]), Some((2, 0.001, 0.1)));
        assert!(check.first_fault(&expected, &[1.0, f32::NAN, 0.001, 3.0]).is_some());
        assert!(check.first_fault(&expected, &[1.0]).is_some());
        assert!(check.first_fault(&[f32::NAN], &[f32::NAN]).is_some());
        assert_eq!(NumericalCheck::Off.first_fault(&expected, &[9.0; 4]), None);
    }

    #[test]
    fn allclose_is_pytorchs() {
        let check = NumericalCheck::Close { absolute: 0.5, relative: 0.1 };
        assert_eq!(check.first_fault(&[10.0], &[11.5]), None);
        assert_eq!(check.first_fault(&[10.0], &[11.6]), Some((0, 10.0, 11.6)));
    }
}
