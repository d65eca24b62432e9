//! From outcomes of requests to figures, by the definitions of vLLM's benchmark.

use std::time::Duration;

use super::super::statistics::{Distribution, count};
use super::request::Outcome;
use crate::cli::bench::Objective;

/// What can be reported of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Metric {
    /// From sending to the first token.
    FirstToken,
    /// Time for each token after the first, by request.
    PerOutputToken,
    /// Between chunks.
    InterToken,
    /// From sending to the last token.
    EndToEnd,
    /// Waiting for others to end, in the client.
    ClientQueue,
    /// From arrival to the last token.
    EndToEndWithQueue,
}

impl Metric {
    /// In the order in which they are reported.
    pub(super) const ALL: [Self; 6] = [
        Self::FirstToken,
        Self::PerOutputToken,
        Self::InterToken,
        Self::EndToEnd,
        Self::ClientQueue,
        Self::EndToEndWithQueue,
    ];

    /// As flags and JSON keys name it.
    pub(super) const fn key(self) -> &'static str {
        match self {
            Self::FirstToken => "ttft",
            Self::PerOutputToken => "tpot",
            Self::InterToken => "itl",
            Self::EndToEnd => "e2el",
            Self::ClientQueue => "client_queue_time",
            Self::EndToEndWithQueue => "e2el_including_client_queue",
        }
    }

    /// As lines name it, and the heading above them.
    pub(super) const fn titles(self) -> (&'static str, &'static str) {
        match self {
            Self::FirstToken => ("TTFT", "Time to First Token"),
            Self::PerOutputToken => ("TPOT", "Time per Output Token (excl. 1st token)"),
            Self::InterToken => ("ITL", "Inter-token Latency"),
            Self::EndToEnd => ("E2EL", "End-to-end Latency"),
            Self::ClientQueue => ("Client Queue Time", "Client-side Queueing"),
            Self::EndToEndWithQueue => ("E2EL incl. Client Queue", "Queue-inclusive End-to-end Latency"),
        }
    }

    /// Its values, milliseconds, of requests that succeeded.
    pub(super) fn distribution_ms(self, outcomes: &[Outcome]) -> Distribution {
        let succeeded = succeeded(outcomes);
        let values: Vec<f64> = match self {
            Self::FirstToken => succeeded.map(|outcome| ms(outcome.first)).collect(),
            Self::PerOutputToken => succeeded.filter_map(per_output_token_ms).collect(),
            Self::InterToken => succeeded.flat_map(|outcome| &outcome.gaps).map(|gap| gap * 1e3).collect(),
            Self::EndToEnd => succeeded.map(|outcome| ms(outcome.latency)).collect(),
            Self::ClientQueue => succeeded.map(|outcome| ms(outcome.queued)).collect(),
            Self::EndToEndWithQueue => {
                succeeded.map(|outcome| ms(outcome.latency + outcome.queued)).collect()
            }
        };
        Distribution::new(values)
    }
}

/// Counts and rates of a run.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Totals {
    /// Of the run, seconds.
    pub(super) duration: f64,
    /// Requests that succeeded.
    pub(super) completed: usize,
    /// Requests that did not.
    pub(super) failed: usize,
    /// Prompt tokens of those that did.
    pub(super) input_tokens: usize,
    /// Tokens generated for them.
    pub(super) output_tokens: usize,
    /// Those that met all objectives, if there are any.
    pub(super) good: Option<usize>,
    /// The most chunks that came within a second of the run.
    pub(super) peak_output_tokens_per_second: usize,
    /// The most requests that were in flight in one second of the run.
    pub(super) peak_concurrent_requests: usize,
    /// Requests whose tokens were counted by chunks.
    pub(super) counted_by_chunks: usize,
}

impl Totals {
    /// Of a run that took `duration`.
    pub(super) fn new(outcomes: &[Outcome], duration: Duration, objectives: &[Objective]) -> Self {
        let completed = succeeded(outcomes).count();
        let (peak_output_tokens_per_second, peak_concurrent_requests) = peaks(outcomes);
        Self {
            duration: duration.as_secs_f64(),
            completed,
            failed: outcomes.len() - completed,
            input_tokens: succeeded(outcomes).map(|outcome| outcome.prompt_len).sum(),
            output_tokens: succeeded(outcomes).map(|outcome| outcome.output_len).sum(),
            good: (!objectives.is_empty())
                .then(|| succeeded(outcomes).filter(|outcome| is_good(outcome, objectives)).count()),
            peak_output_tokens_per_second,
            peak_concurrent_requests,
            counted_by_chunks: succeeded(outcomes).filter(|outcome| outcome.counts_chunks).count(),
        }
    }

    /// So many of something a second.
    pub(super) fn per_second(&self, number: usize) -> f64 {
        if self.duration > 0.0 { count(number) / self.duration } else { 0.0 }
    }
}

fn succeeded(outcomes: &[Outcome]) -> impl Iterator<Item = &Outcome> {
    outcomes.iter().filter(|outcome| outcome.error.is_none())
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// `None` for an output of one token.
fn per_output_token_ms(outcome: &Outcome) -> Option<f64> {
    (outcome.output_len > 1)
        .then(|| ms(outcome.latency.saturating_sub(outcome.first)) / count(outcome.output_len - 1))
}

fn is_good(outcome: &Outcome, objectives: &[Objective]) -> bool {
    objectives.iter().all(|Objective { metric, limit_ms }| {
        let value = match *metric {
            "ttft" => ms(outcome.first),
            // An output of one token has none, which is as good as can be.
            "tpot" => per_output_token_ms(outcome).unwrap_or_default(),
            _ => ms(outcome.latency),
        };
        value <= *limit_ms
    })
}

/// By whole seconds since the first request was sent: the most chunks, and the most requests in flight.
fn peaks(outcomes: &[Outcome]) -> (usize, usize) {
    let Some(begin) = succeeded(outcomes).map(|outcome| outcome.started).min() else { return (0, 0) };
    let end = |outcome: &Outcome| outcome.started - begin + outcome.latency;
    let seconds = succeeded(outcomes).map(|outcome| end(outcome).as_secs()).max().unwrap_or_default();
    let mut chunks = vec![0; usize::try_from(seconds).unwrap_or_default() + 1];
    let mut requests = chunks.clone();
    let second = |time: Duration| usize::try_from(time.as_secs()).unwrap_or(usize::MAX);
    for outcome in succeeded(outcomes) {
        let mut time = outcome.started - begin + outcome.first;
        let gaps = outcome.gaps.iter().map(|gap| Duration::from_secs_f64(*gap));
        for gap in std::iter::once(Duration::ZERO).chain(gaps) {
            time += gap;
            // Rounding may put the last chunk into a second that has no place.
            if let Some(chunks) = chunks.get_mut(second(time)) {
                *chunks += 1;
            }
        }
        let active = second(outcome.started - begin)..=second(end(outcome));
        requests[active].iter_mut().for_each(|requests| *requests += 1);
    }
    (chunks.into_iter().max().unwrap_or_default(), requests.into_iter().max().unwrap_or_default())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Sent at `started` ms; chunks `first` ms later and then after each of `gaps` ms.
    pub(in crate::bench::serve) fn outcome(started: u64, first: u64, gaps: &[u64]) -> Outcome {
        Outcome {
            started: Duration::from_millis(started),
            queued: Duration::from_millis(started),
            prompt_len: 10,
            output_len: gaps.len() + 1,
            first: Duration::from_millis(first),
            gaps: gaps.iter().map(|gap| Duration::from_millis(*gap).as_secs_f64()).collect(),
            latency: Duration::from_millis(first + gaps.iter().sum::<u64>()),
            ..Outcome::default()
        }
    }

    pub(in crate::bench::serve) fn failure() -> Outcome {
        Outcome { error: Some("no".to_owned()), ..outcome(0, 5, &[9, 9]) }
    }

    #[test]
    fn only_requests_that_succeeded_count() {
        let outcomes = [outcome(0, 100, &[10, 30]), failure(), outcome(500, 300, &[])];
        let totals = Totals::new(&outcomes, Duration::from_secs(2), &[]);
        assert_eq!((totals.completed, totals.failed, totals.good), (2, 1, None));
        assert_eq!((totals.input_tokens, totals.output_tokens), (20, 4));
        assert_eq!(totals.per_second(totals.output_tokens), 2.0);
        let mean = |metric: Metric| metric.distribution_ms(&outcomes).mean();
        assert!((mean(Metric::FirstToken) - 200.0).abs() < 1e-9);
        // The request of one token has no time for further ones.
        assert!((mean(Metric::PerOutputToken) - 20.0).abs() < 1e-9);
        assert!((mean(Metric::InterToken) - 20.0).abs() < 1e-9);
        assert!((mean(Metric::EndToEnd) - 220.0).abs() < 1e-9);
        assert!((mean(Metric::EndToEndWithQueue) - 470.0).abs() < 1e-9);
    }

    #[test]
    fn a_good_request_meets_all_objectives() {
        let objective = |metric, limit_ms| Objective { metric, limit_ms };
        let outcomes = [outcome(0, 100, &[10, 30]), outcome(0, 100, &[50]), outcome(0, 40, &[]), failure()];
        let good = |objectives: &[Objective]| Totals::new(&outcomes, Duration::ZERO, objectives).good;
        assert_eq!(good(&[objective("ttft", 50.0)]), Some(1));
        assert_eq!(good(&[objective("tpot", 25.0)]), Some(2));
        assert_eq!(good(&[objective("tpot", 60.0), objective("e2el", 145.0)]), Some(2));
        assert_eq!(good(&[objective("ttft", 0.0)]), Some(0));
    }

    #[test]
    fn peaks_are_of_whole_seconds() {
        // Chunks at 0.9, 1.0 and 1.1 s of the run, and at 1.5 s; the run begins with the first request.
        let outcomes = [outcome(5000, 900, &[100, 100]), outcome(6200, 300, &[])];
        let totals = Totals::new(&outcomes, Duration::from_secs(2), &[]);
        assert_eq!((totals.peak_output_tokens_per_second, totals.peak_concurrent_requests), (3, 2));
        assert_eq!(peaks(&[failure()]), (0, 0));
    }
}
