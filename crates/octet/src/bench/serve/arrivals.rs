//! When requests arrive: chosen before the run, so that the run itself only waits.

use std::time::Duration;

use super::super::random::Random;
use super::super::statistics::count;
use crate::cli::bench::RampUp;

/// Requests a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Rate {
    /// The same throughout; infinite sends all at once.
    Constant(f64),
    /// From `start` to `end`.
    Ramp {
        /// How.
        strategy: RampUp,
        /// At the first request.
        start: f64,
        /// At the last.
        end: f64,
    },
}

impl Rate {
    /// Requests a second around request `index` of `total`.
    fn at(self, index: usize, total: usize) -> f64 {
        let progress = count(index) / count(total.saturating_sub(1).max(1));
        match self {
            Self::Constant(rate) => rate,
            Self::Ramp { strategy: RampUp::Linear, start, end } => start + (end - start) * progress,
            Self::Ramp { strategy: RampUp::Exponential, start, end } => start * (end / start).powf(progress),
        }
    }
}

/// When each of `total` requests arrives, in order. Gaps follow a gamma distribution of shape `burstiness` (1: a Poisson
/// process; infinite: all alike). At a constant rate they are scaled so that the last request arrives at
/// `total / rate` whatever was drawn: otherwise the seed would change the load by some percent.
pub(super) fn arrivals(total: usize, rate: Rate, burstiness: f64, random: &mut Random) -> Vec<Duration> {
    let mut now = 0.0;
    let mut seconds: Vec<f64> = (0..total)
        .map(|index| {
            let mean_gap = 1.0 / rate.at(index, total);
            now += if burstiness.is_infinite() || mean_gap == 0.0 {
                mean_gap
            } else {
                mean_gap * random.gamma(burstiness) / burstiness
            };
            now
        })
        .collect();
    if let Rate::Constant(rate) = rate {
        let target = count(total) / rate;
        if now > 0.0 && target > 0.0 {
            seconds.iter_mut().for_each(|seconds| *seconds *= target / now);
        }
    }
    // What is too far off for a duration is never reached either.
    seconds.into_iter().map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::statistics::Distribution;

    fn gaps(arrivals: &[Duration]) -> Vec<f64> {
        arrivals.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect()
    }

    #[test]
    fn an_infinite_rate_sends_all_at_once() {
        let times = arrivals(5, Rate::Constant(f64::INFINITY), 1.0, &mut Random::new(0));
        assert_eq!(times, [Duration::ZERO; 5]);
    }

    #[test]
    fn the_last_request_arrives_when_the_rate_says() {
        for burstiness in [0.2, 1.0, 5.0, f64::INFINITY] {
            let times = arrivals(200, Rate::Constant(50.0), burstiness, &mut Random::new(7));
            assert!(times.is_sorted(), "burstiness {burstiness}");
            assert!((times[199].as_secs_f64() - 4.0).abs() < 1e-6, "burstiness {burstiness}");
        }
    }

    #[test]
    fn gaps_vary_as_the_burstiness_says() {
        // The coefficient of variation of a gamma distribution is 1 / sqrt(shape).
        for burstiness in [0.25, 1.0, 4.0] {
            let times = arrivals(20_000, Rate::Constant(10.0), burstiness, &mut Random::new(11));
            let gaps = Distribution::new(gaps(&times));
            let variation = gaps.standard_deviation() / gaps.mean();
            assert!((variation * burstiness.sqrt() - 1.0).abs() < 0.05, "{burstiness}: {variation}");
        }
        let regular = arrivals(10, Rate::Constant(4.0), f64::INFINITY, &mut Random::new(0));
        assert!(gaps(&regular).iter().all(|gap| (gap - 0.25).abs() < 1e-9), "{regular:?}");
    }

    #[test]
    fn a_ramp_ends_at_its_end() {
        let ramp = |strategy| Rate::Ramp { strategy, start: 1.0, end: 4.0 };
        assert_eq!([0, 1, 2].map(|index| ramp(RampUp::Linear).at(index, 3)), [1.0, 2.5, 4.0]);
        assert_eq!([0, 1, 2].map(|index| ramp(RampUp::Exponential).at(index, 3)), [1.0, 2.0, 4.0]);
        let times = arrivals(3, ramp(RampUp::Exponential), f64::INFINITY, &mut Random::new(0));
        assert_eq!(gaps(&times), [0.5, 0.25]);
    }

    #[test]
    fn a_seed_fixes_the_times() {
        let times = |seed| arrivals(20, Rate::Constant(3.0), 0.5, &mut Random::new(seed));
        assert_eq!(times(1), times(1));
        assert_ne!(times(1), times(2));
    }
}
