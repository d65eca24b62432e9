//! Order statistics of a few samples.

/// The samples in order.
fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// The sample at a quarter of the way, `numerator` quarters; none without samples.
pub(crate) fn quartile(samples: &[f64], numerator: usize) -> Option<f64> {
    let sorted = sorted(samples);
    let last = sorted.len().checked_sub(1)?;
    Some(sorted[(last * numerator + 2) / 4])
}

/// The median; of an even number of samples, the mean of both in the middle.
pub(crate) fn median(samples: &[f64]) -> Option<f64> {
    let sorted = sorted(samples);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// The least sample.
pub(crate) fn least(samples: &[f64]) -> Option<f64> {
    samples.iter().copied().min_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_samples_have_statistics_too() {
        assert_eq!((median(&[]), quartile(&[], 1), least(&[])), (None, None, None));
        assert_eq!((median(&[3.0]), quartile(&[3.0], 3), least(&[3.0])), (Some(3.0), Some(3.0), Some(3.0)));
        let samples = [5.0, 1.0, 4.0, 2.0, 3.0];
        assert_eq!(
            (median(&samples), quartile(&samples, 1), quartile(&samples, 3)),
            (Some(3.0), Some(2.0), Some(4.0))
        );
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
