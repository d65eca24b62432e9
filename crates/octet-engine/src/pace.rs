//! How many prompt tokens a step may compute, so that nobody's stream pauses for long. The speed is measured, since it
//! depends on the model, the device, the length of what attention reads, and whatever else the machine does.
//!
//! The scheduler takes no clock: the number is an input of its step, and a plan carries it.

use std::time::Duration;

/// Prompt tokens come in multiples of this: the rows of a matrix tile. At least one such block is computed.
const GRAIN: usize = 16;

/// Prompt tokens of a step before any were measured.
const UNMEASURED: usize = 128;

/// Part of the gap that a step is planned to take; the rest is for what cannot be foreseen.
const PLANNED: f64 = 0.8;

/// A step with no waiting stream may take this many times the gap: only a newcomer waits for it.
const PATIENCE: f64 = 4.0;

/// Prompt tokens of a step beside which no stream waits, at least: fewer would make prompts slower.
const LEAST_UNWATCHED: usize = 128;

/// Prompts get at least this part of the time that a step's streams take, even if the gap becomes longer: else many
/// streams would keep every newcomer out.
const LEAST_PROMPT_SHARE: f64 = 0.25;

/// Contexts up to here cost the same: attention is a small part of them.
const SHORT_CONTEXT: usize = 256;

/// What the next step will find, as far as it decides how long it takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Demand {
    /// Sequences that have all but their last token computed.
    pub(crate) streams: usize,
    /// The most tokens that a prompt token will attend to besides its own chunk.
    pub(crate) context: usize,
}

/// What a step was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    /// Sequences that computed one token.
    pub(crate) streams: usize,
    /// Tokens of the others.
    pub(crate) prompt_tokens: usize,
    /// Tokens that one of these attended to, on average.
    pub(crate) context: usize,
    /// Prompt tokens that it might have computed.
    pub(crate) budget: usize,
    /// How long it took.
    pub(crate) took: Duration,
}

/// Measured seconds by size, one value for each power of two.
#[derive(Debug, Default)]
struct Curve {
    by_power: [Option<f64>; 32],
}

impl Curve {
    fn power(size: usize) -> usize {
        (size.max(1).ilog2() as usize).min(31)
    }

    /// Takes a measurement in. A faster one is true, since nothing makes a step faster than it is; a slower one may
    /// be a disturbance, so it counts less, and what is beyond twice the known value not at all.
    fn observe(&mut self, size: usize, seconds: f64) {
        let value = &mut self.by_power[Self::power(size)];
        *value = Some(match *value {
            None => seconds,
            Some(known) if seconds < known => known + 0.75 * (seconds - known),
            Some(known) => known + 0.5 * (seconds.min(2.0 * known) - known),
        });
    }

    /// A value that is not exceeded if costs grow no faster than sizes.
    fn bound(&self, size: usize) -> Option<f64> {
        let power = Self::power(size);
        let below = self.by_power[..=power].iter().enumerate().rev();
        let below =
            below.filter_map(|(at, value)| value.map(|value| value * 2_f64.powi((power - at) as i32)));
        below.chain(self.by_power[power..].iter().flatten().copied()).next()
    }

    /// The value of the nearest size that was measured.
    fn nearest(&self, size: usize) -> Option<f64> {
        let power = Self::power(size);
        let measured =
            self.by_power.iter().enumerate().filter_map(|(at, value)| value.map(|value| (at, value)));
        measured.min_by_key(|(at, _)| at.abs_diff(power)).map(|(_, value)| value)
    }
}

/// Learns how long steps take.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Zero sets no bound.
    gap: Duration,
    /// Seconds of a step without prompts, by streams.
    streams: Curve,
    /// Seconds that a prompt token adds, by context in units of [`SHORT_CONTEXT`].
    prompt_token: Curve,
}

impl Pace {
    /// Nothing is measured yet.
    pub(crate) fn new(gap: Duration) -> Self {
        Self { gap, streams: Curve::default(), prompt_token: Curve::default() }
    }

    /// Whether there is no bound, so that there is nothing to measure.
    pub(crate) const fn is_off(&self) -> bool {
        self.gap.is_zero()
    }

    fn context_size(context: usize) -> usize {
        1 + context / SHORT_CONTEXT
    }

    /// The most prompt tokens for the next step.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a number of tokens, saturating"
    )]
    pub(crate) fn budget(&self, demand: Demand) -> usize {
        if self.is_off() {
            return usize::MAX;
        }
        let Some(token) = self.prompt_token.bound(Self::context_size(demand.context)) else {
            return UNMEASURED;
        };
        let planned = self.gap.as_secs_f64() * PLANNED;
        let (seconds, least) = if demand.streams == 0 {
            (planned * PATIENCE, LEAST_UNWATCHED)
        } else {
            let streams = self.streams.nearest(demand.streams).unwrap_or(0.0);
            ((planned - streams).max(LEAST_PROMPT_SHARE * streams), GRAIN)
        };
        let tokens = (seconds / token.max(f64::MIN_POSITIVE)) as usize;
        (tokens / GRAIN * GRAIN).max(least)
    }

    /// Learns from a step.
    #[expect(clippy::cast_precision_loss, reason = "a number of tokens")]
    pub(crate) fn observe(&mut self, step: Measured) {
        if self.is_off() {
            return;
        }
        let seconds = step.took.as_secs_f64();
        if step.prompt_tokens == 0 {
            self.streams.observe(step.streams, seconds);
            return;
        }
        let streams = if step.streams == 0 { 0.0 } else { self.streams.nearest(step.streams).unwrap_or(0.0) };
        let token = (seconds - streams).max(0.1 * seconds) / step.prompt_tokens as f64;
        let size = Self::context_size(step.context);
        // In a small step the weights' way through memory counts more than the tokens: it says too much of one token.
        let is_small = step.prompt_tokens < step.budget.min(UNMEASURED) / 2;
        let is_late = seconds > self.gap.as_secs_f64();
        let is_news = self.prompt_token.bound(size).is_none_or(|known| token < known);
        if !is_small || is_late || is_news {
            self.prompt_token.observe(size, token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GAP: Duration = Duration::from_millis(500);

    /// A machine on which a step takes `fixed` seconds and each token more, with what attention adds.
    struct Machine {
        fixed: f64,
        token: f64,
        pair: f64,
    }

    impl Machine {
        fn step(&self, pace: &mut Pace, demand: Demand, wanted: usize) -> (usize, f64) {
            let budget = pace.budget(demand);
            let tokens = budget.min(wanted);
            let context = demand.context + tokens / 2;
            let rows = (tokens + demand.streams) as f64;
            let seconds = self.fixed + rows * self.token + (tokens * context) as f64 * self.pair;
            pace.observe(Measured {
                streams: demand.streams,
                prompt_tokens: tokens,
                context,
                budget,
                took: Duration::from_secs_f64(seconds),
            });
            (tokens, seconds)
        }

        /// Computes a prompt of `length` beside `streams`; the longest step and the number of steps.
        fn prompt(&self, pace: &mut Pace, streams: usize, length: usize) -> (f64, usize) {
            let (mut computed, mut longest, mut steps) = (0, 0_f64, 0);
            while computed < length {
                let (tokens, seconds) =
                    self.step(pace, Demand { streams, context: computed }, length - computed);
                (computed, longest, steps) = (computed + tokens, longest.max(seconds), steps + 1);
            }
            (longest, steps)
        }
    }

    fn measured_streams(machine: &Machine, streams: usize) -> Pace {
        let mut pace = Pace::new(GAP);
        for _ in 0..3 {
            machine.step(&mut pace, Demand { streams, context: 0 }, 0);
        }
        pace
    }

    #[test]
    fn steps_beside_streams_keep_the_gap_on_slow_and_fast_machines() {
        for (token, least_steps, most_steps) in [(14e-3, 50, 120), (2e-3, 8, 16), (2e-5, 1, 3)] {
            let machine = Machine { fixed: 0.03, token, pair: 0.0 };
            let mut pace = measured_streams(&machine, 2);
            machine.prompt(&mut pace, 0, 100);
            let (longest, steps) = machine.prompt(&mut pace, 2, 1900);
            assert!(longest < 0.5, "{token}: {longest}");
            assert!((least_steps..=most_steps).contains(&steps), "{token}: {steps}");
        }
    }

    #[test]
    fn long_contexts_are_foreseen() {
        let machine = Machine { fixed: 0.03, token: 1e-3, pair: 2e-7 };
        let mut pace = measured_streams(&machine, 2);
        machine.prompt(&mut pace, 0, 300);
        let (longest, _) = machine.prompt(&mut pace, 2, 30_000);
        assert!(longest < 0.5, "{longest}");
        let (_, seconds) = machine.step(&mut pace, Demand { streams: 2, context: 60_000 }, 5000);
        assert!(seconds < 0.5, "a context longer than any before: {seconds}");
    }

    #[test]
    fn alone_a_prompt_takes_larger_steps_and_no_bound_is_none() {
        let machine = Machine { fixed: 0.03, token: 2e-3, pair: 0.0 };
        let mut pace = Pace::new(GAP);
        assert!(machine.prompt(&mut pace, 0, 1900).1 <= 4);
        assert_eq!(Pace::new(Duration::ZERO).budget(Demand::default()), usize::MAX);
        let slow = Machine { token: 0.1, ..machine };
        let mut pace = Pace::new(GAP);
        slow.prompt(&mut pace, 0, 500);
        assert_eq!(pace.budget(Demand::default()), LEAST_UNWATCHED);
        assert_eq!(pace.budget(Demand { streams: 1, context: 0 }), GRAIN);
    }

    #[test]
    fn one_disturbance_changes_little_and_a_slower_machine_is_noticed() {
        let demand = Demand { streams: 1, context: 0 };
        let machine = Machine { fixed: 0.0, token: 1e-3, pair: 0.0 };
        let mut pace = measured_streams(&machine, 1);
        for _ in 0..4 {
            machine.step(&mut pace, demand, 1000);
        }
        let usual = pace.budget(demand);
        let slow = Machine { token: 1e-2, ..machine };
        slow.step(&mut pace, demand, 1000);
        assert!(pace.budget(demand) * 2 >= usual, "one late step halves at most");
        for _ in 0..8 {
            slow.step(&mut pace, demand, 1000);
        }
        assert!(slow.step(&mut pace, demand, 1000).1 < 0.5);
    }

    #[test]
    fn many_streams_do_not_keep_prompts_out() {
        let machine = Machine { fixed: 0.8, token: 1e-3, pair: 0.0 };
        let mut pace = measured_streams(&machine, 100);
        machine.prompt(&mut pace, 0, 300);
        let mut tokens = 0;
        for _ in 0..4 {
            tokens = machine.step(&mut pace, Demand { streams: 100, context: 0 }, 1000).0;
        }
        assert!(tokens >= 64, "{tokens}");
    }
}
