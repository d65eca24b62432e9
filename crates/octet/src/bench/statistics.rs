//! Statistics of measured values, computed as NumPy does by default: vLLM's benchmarks report those.

/// Measured values in ascending order. Of no values, every statistic is 0, as in vLLM's reports.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Distribution {
    sorted: Vec<f64>,
}

impl Distribution {
    /// Of values in any order; none is NaN.
    pub(crate) fn new(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self { sorted: values }
    }

    /// The arithmetic mean.
    pub(crate) fn mean(&self) -> f64 {
        if self.sorted.is_empty() { 0.0 } else { self.sorted.iter().sum::<f64>() / count(self.sorted.len()) }
    }

    /// The value in the middle, or the mean of the two there.
    pub(crate) fn median(&self) -> f64 {
        self.percentile(50.0)
    }

    /// Of the values themselves, not estimated for a population: NumPy's `ddof=0`.
    pub(crate) fn standard_deviation(&self) -> f64 {
        let mean = self.mean();
        let squares = self.sorted.iter().map(|value| (value - mean) * (value - mean));
        (squares.sum::<f64>() / count(self.sorted.len().max(1))).sqrt()
    }

    /// By linear interpolation between the nearest ranks; `percent` is from 0 to 100.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank is a small positive number"
    )]
    pub(crate) fn percentile(&self, percent: f64) -> f64 {
        let Some(last) = self.sorted.len().checked_sub(1) else { return 0.0 };
        let rank = percent / 100.0 * count(last);
        let (below, above) = (self.sorted[rank.floor() as usize], self.sorted[rank.ceil() as usize]);
        // From the nearer end, as NumPy does: fewer rounding errors.
        if rank.fract() < 0.5 {
            below + (above - below) * rank.fract()
        } else {
            above - (above - below) * (1.0 - rank.fract())
        }
    }
}

/// A count as a number to divide by.
#[expect(clippy::cast_precision_loss, reason = "counts of tokens and requests are far below 2^52")]
pub(crate) fn count(number: usize) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_interpolate_as_numpy_does() {
        let values = Distribution::new(vec![4.0, 1.0, 3.0, 2.0]);
        let expected = [(0.0, 1.0), (10.0, 1.3), (25.0, 1.75), (50.0, 2.5), (99.9, 3.997), (100.0, 4.0)];
        for (percent, expected) in expected {
            assert!((values.percentile(percent) - expected).abs() < 1e-12, "{percent}%");
        }
        assert_eq!(Distribution::new(vec![7.0]).percentile(99.0), 7.0);
    }

    #[test]
    fn mean_median_and_deviation() {
        // numpy.std([1, 2, 3, 6]) is sqrt(3.5).
        let values = Distribution::new(vec![6.0, 2.0, 1.0, 3.0]);
        assert_eq!((values.mean(), values.median()), (3.0, 2.5));
        assert!((values.standard_deviation() - 3.5_f64.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn of_nothing_all_is_zero() {
        let none = Distribution::default();
        assert_eq!((none.mean(), none.median(), none.standard_deviation()), (0.0, 0.0, 0.0));
    }
}
