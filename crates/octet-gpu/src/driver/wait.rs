//! Waiting for the device, with a limit.
//!
//! A driver's own wait lasts as long as a kernel does, and a kernel that never ends takes the thread with it. So the
//! device is asked again and again whether it is done. How often follows from what waits took of late ([`Pace`]): a
//! step that takes as long as the steps before it is noticed at once, one that takes longer costs less and less.

use std::ffi::c_int;
use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use crate::GpuError;
use crate::driver::Device;

/// `hipErrorNotReady` and `CUDA_ERROR_NOT_READY`.
const NOT_READY: c_int = 600;

/// A time between two questions that is longer than this is not the device's: the process was stopped.
const LONGEST_GAP: Duration = Duration::from_secs(1);

/// What a stream is at work on, for the report of a step that does not end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// Steps since the start, this one included; 0 before the first.
    pub step: u64,
    /// Its rows.
    pub rows: usize,
    /// Its sequences.
    pub sequences: usize,
    /// Tokens of its longest context.
    pub longest_context: usize,
}

impl fmt::Display for Activity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { step, rows, sequences, longest_context } = self;
        if *step == 0 {
            return formatter.write_str("while loading, before the first step");
        }
        write!(
            formatter,
            "at step {step} with {rows} rows of {sequences} sequences, the longest of {longest_context} tokens"
        )
    }
}

/// What to do until the next question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pause {
    /// It will be over any moment.
    Yield,
    Sleep(Duration),
}

/// How long waits took of late.
#[derive(Debug, Default)]
pub(super) struct Pace {
    recent: [Duration; 8],
    next: usize,
}

impl Pace {
    /// Waits that are shorter say nothing about steps.
    const SHORTEST: Duration = Duration::from_micros(200);
    /// What a sleep may last longer than it should, and more.
    const SLACK: Duration = Duration::from_micros(150);
    const LONGEST_SLEEP: Duration = Duration::from_millis(100);
    /// The share of a wait that may be added to it once it is longer than usual: one sixty-fourth.
    const SHARE: u32 = 64;

    /// Notes a wait.
    fn note(&mut self, waited: Duration) {
        if waited >= Self::SHORTEST {
            self.recent[self.next % self.recent.len()] = waited;
            self.next += 1;
        }
    }

    /// The shortest of the recent waits: sleeping longer than that would be felt.
    fn usual(&self) -> Duration {
        self.recent.iter().copied().min().unwrap_or_default()
    }

    /// What to do after `waited`.
    fn pause(&self, waited: Duration) -> Pause {
        let usual = self.usual();
        let asleep = (usual * 3 / 4).saturating_sub(Self::SLACK);
        if waited < asleep {
            return Pause::Sleep((asleep - waited).min(Self::LONGEST_SLEEP));
        }
        if waited <= usual * 2 + Self::SLACK {
            return Pause::Yield;
        }
        Pause::Sleep((waited / Self::SHARE).min(Self::LONGEST_SLEEP))
    }
}

/// Counts the time in which this process was there to ask: not that in which it was stopped.
struct Watch {
    last: Instant,
    counted: Duration,
}

impl Watch {
    fn start(now: Instant) -> Self {
        Self { last: now, counted: Duration::ZERO }
    }

    fn at(&mut self, now: Instant) -> Duration {
        self.counted += now.saturating_duration_since(self.last).min(LONGEST_GAP);
        self.last = now;
        self.counted
    }
}

/// Asks until the device is done. Past the device's limit it is lost, and nothing is asked of it any more.
pub(super) fn until_done(
    device: &Device,
    (pace, activity): (&mut Pace, Activity),
    call: &'static str,
    mut query: impl FnMut() -> c_int,
) -> Result<(), GpuError> {
    let limit = device.limit().unwrap_or(Duration::MAX);
    let mut watch = Watch::start(Instant::now());
    loop {
        let status = query();
        let waited = watch.at(Instant::now());
        if status != NOT_READY {
            pace.note(waited);
            return if status == 0 { Ok(()) } else { device.api().failure(call, status) };
        }
        if waited > limit {
            device.lose();
            let name = device.report().name.clone();
            let architecture = device.report().architecture.clone();
            return Err(GpuError::Unfinished { limit, activity, name, architecture });
        }
        match pace.pause(waited) {
            Pause::Yield => thread::yield_now(),
            Pause::Sleep(time) => thread::sleep(time),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn pace(recent: &[Duration]) -> Pace {
        let mut pace = Pace::default();
        recent.iter().for_each(|&waited| pace.note(waited));
        pace
    }

    #[test]
    fn usual_steps_are_slept_through_and_then_watched() {
        let mut waits = vec![2 * MS; 6];
        // A prefill between decode steps changes nothing.
        waits.extend([90 * MS, 2 * MS]);
        let pace = pace(&waits);
        let Pause::Sleep(time) = pace.pause(Duration::ZERO) else { panic!("the beginning is slept through") };
        assert!(time > MS && time < 3 * MS / 2, "{time:?}");
        for waited in [time, 2 * MS, 3 * MS] {
            assert_eq!(pace.pause(waited), Pause::Yield, "{waited:?}");
        }
    }

    #[test]
    fn what_takes_longer_is_asked_less_and_less_but_never_much_too_late() {
        let pace = pace(&[2 * MS; 8]);
        for waited in [6 * MS, 100 * MS, 5000 * MS] {
            let Pause::Sleep(time) = pace.pause(waited) else { panic!("{waited:?} is longer than usual") };
            assert!(time <= waited / 64 && time >= Duration::from_micros(50), "{waited:?}: {time:?}");
        }
        assert_eq!(pace.pause(60_000 * MS), Pause::Sleep(Pace::LONGEST_SLEEP));
    }

    #[test]
    fn short_waits_and_the_first_ones_are_no_measure() {
        assert_eq!(pace(&[]).pause(Duration::ZERO), Pause::Yield);
        let mut few = pace(&[4 * MS; 8]);
        few.note(Duration::from_micros(3));
        assert_eq!(few.usual(), 4 * MS);
        // Until there are as many as are remembered, nothing is usual.
        assert_eq!(pace(&[4 * MS; 7]).usual(), Duration::ZERO);
    }

    #[test]
    fn time_in_which_the_process_was_stopped_does_not_count() {
        let start = Instant::now();
        let mut watch = Watch::start(start);
        assert_eq!(watch.at(start + 3 * MS), 3 * MS);
        assert_eq!(watch.at(start + Duration::from_secs(900)), LONGEST_GAP + 3 * MS);
    }

    #[test]
    fn a_report_says_what_was_being_done() {
        let activity = Activity { step: 7, rows: 3, sequences: 2, longest_context: 90 };
        assert_eq!(activity.to_string(), "at step 7 with 3 rows of 2 sequences, the longest of 90 tokens");
        assert_eq!(Activity::default().to_string(), "while loading, before the first step");
    }
}
