//! The few tokens of a row that can still be chosen, and how they become fewer.
//!
//! A candidate is one integer: a value in the upper half, so mapped that the order of the integers is the order of the
//! values, and the token's complement in the lower half. So the largest integer is the best value, and of equal
//! values the lowest token: every selection below has exactly one right answer.

use crate::vocabulary::Weighing;

/// Candidates of one row. The memory is kept from row to row.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    keys: Vec<u64>,
}

/// What happens to values equal to the last one that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ties {
    /// All are kept, so there may be more than were asked for.
    Keep,
    /// The lowest tokens are kept, exactly as many as were asked for.
    LowestTokens,
}

/// Entries that are compared with the bound at once.
const STRIDE: usize = 32;

/// Candidates that may pile up beyond the wanted number before the surplus is dropped.
const SURPLUS: usize = 1024;

fn key(value: f32, token: usize) -> u64 {
    // Adding zero turns -0 into 0, which compares equal but has other bits.
    let bits = (value + 0.0).to_bits();
    let ordered = bits ^ ((bits.cast_signed() >> 31).cast_unsigned() | 0x8000_0000);
    u64::from(ordered) << 32 | u64::from(!(token as u32))
}

fn value(key: u64) -> f32 {
    let ordered = (key >> 32) as u32;
    let mask = if ordered & 0x8000_0000 == 0 { u32::MAX } else { 0x8000_0000 };
    f32::from_bits(ordered ^ mask)
}

fn token(key: u64) -> u32 {
    !(key as u32)
}

impl Candidates {
    pub(crate) fn with_capacity(vocabulary_size: usize) -> Self {
        Self { keys: Vec::with_capacity(vocabulary_size) }
    }

    /// Tokens with their values, in no particular order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, f32)> + '_ {
        self.keys.iter().map(|&key| (token(key), value(key)))
    }

    pub(crate) fn sort_best_first(&mut self) {
        self.keys.sort_unstable_by(|a, b| b.cmp(a));
    }

    /// Takes every token of the row, also those at minus infinity.
    pub(crate) fn take_all(&mut self, values: &[f32]) {
        self.keys.clear();
        self.keys.extend(values.iter().enumerate().map(|(token, &value)| key(value, token)));
    }

    /// Takes the `count` best tokens that have at least `floor`; never one at minus infinity.
    ///
    /// One pass: as soon as enough candidates are there, the worst of them is the bound for what follows, and almost
    /// every stride of the row is dismissed by one comparison with its maximum.
    pub(crate) fn take_best(&mut self, values: &[f32], count: usize, floor: f32, ties: Ties) {
        self.keys.clear();
        if count == 0 {
            return;
        }
        let mut bound = floor.max(f32::MIN);
        let mut full_at = count.saturating_add(SURPLUS.max(count));
        for (index, stride) in values.chunks(STRIDE).enumerate() {
            if stride.iter().fold(0, |hits, &value| hits | i32::from(value >= bound)) == 0 {
                continue;
            }
            for (offset, &value) in stride.iter().enumerate() {
                if value >= bound {
                    self.keys.push(key(value, index * STRIDE + offset));
                }
            }
            if self.keys.len() >= full_at {
                bound = bound.max(self.drop_surplus(count, ties));
                // Ties that are kept must not make the next surplus come at once.
                full_at = self.keys.len() + SURPLUS.max(count);
            }
        }
        if self.keys.len() > count {
            self.drop_surplus(count, ties);
        }
    }

    /// Keeps the `count` best and returns the value of the worst of them.
    fn drop_surplus(&mut self, count: usize, ties: Ties) -> f32 {
        let (_, last, worse) = self.keys.select_nth_unstable_by(count - 1, |a, b| b.cmp(a));
        let last = value(*last);
        let mut kept = count;
        if ties == Ties::Keep {
            // Equal values are moved to the front of what is worse.
            for index in 0..worse.len() {
                if value(worse[index]) == last {
                    worse.swap(index, kept - count);
                    kept += 1;
                }
            }
        }
        self.keys.truncate(kept);
        last
    }

    /// Replaces values by weights and returns their sum.
    pub(crate) fn weigh(&mut self, weighing: Weighing) -> f64 {
        let mut sum = 0.0;
        for entry in &mut self.keys {
            let weight = weighing.weight(value(*entry));
            sum += f64::from(weight);
            *entry = key(weight, token(*entry) as usize);
        }
        sum
    }

    /// Keeps the fewest best candidates whose weights reach `target`, at least one.
    ///
    /// Halves the part that holds the last one to keep until one is left: linear in all, nothing is sorted.
    pub(crate) fn keep_weight(&mut self, target: f64) {
        let (mut low, mut high) = (0, self.keys.len());
        let mut before_low = 0.0;
        while high - low > 1 {
            let half = (high - low) / 2;
            self.keys[low..high].select_nth_unstable_by(half, |a, b| b.cmp(a));
            let upper: f64 = self.keys[low..low + half].iter().map(|&key| f64::from(value(key))).sum();
            if before_low + upper >= target {
                high = low + half;
            } else {
                before_low += upper;
                low += half;
            }
        }
        self.keys.truncate(high);
    }

    /// The candidate at which the running sum of weights, in the order of tokens, passes `fraction` of the whole,
    /// `fraction` in `[0, 1)`. The order makes the token that of any device that samples.
    ///
    /// Halves the part that holds it until one candidate is left, as [`Candidates::keep_weight`].
    pub(crate) fn draw(&mut self, fraction: f64) -> u32 {
        let weight = |keys: &[u64]| keys.iter().map(|&key| f64::from(value(key))).sum::<f64>();
        let target = weight(&self.keys) * fraction;
        let (mut low, mut high) = (0, self.keys.len());
        let mut before_low = 0.0;
        while high - low > 1 {
            let half = (high - low) / 2;
            self.keys[low..high].select_nth_unstable_by_key(half, |&key| token(key));
            let first = weight(&self.keys[low..low + half]);
            if before_low + first > target {
                high = low + half;
            } else {
                before_low += first;
                low += half;
            }
        }
        let best =
            || *self.keys.iter().max().expect("the token with the largest logit is always a candidate");
        // Where rounding put the whole sum at the target, the last candidate may weigh nothing.
        let drawn = self.keys[low];
        token(if value(drawn) > 0.0 { drawn } else { best() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_as_values_then_as_tokens() {
        let values = [f32::NEG_INFINITY, -7.5, -1e-30, 0.0, 1e-30, 2.0, f32::MAX];
        for (index, pair) in values.windows(2).enumerate() {
            assert!(key(pair[0], index) < key(pair[1], 9));
            assert_eq!(value(key(pair[0], index)), pair[0]);
        }
        assert_eq!(key(-0.0, 3), key(0.0, 3));
        assert!(key(1.0, 3) > key(1.0, 4));
        assert_eq!(token(key(-3.0, 128_255)), 128_255);
    }

    #[test]
    fn ties_are_kept_or_dropped() {
        let row: Vec<f32> = (0..5000).map(|i| if i % 2 == 0 { 1.0 } else { 0.0 }).collect();
        let mut candidates = Candidates::default();
        candidates.take_best(&row, 3, f32::NEG_INFINITY, Ties::Keep);
        assert_eq!(candidates.iter().count(), 2500);
        candidates.take_best(&row, 3, f32::NEG_INFINITY, Ties::LowestTokens);
        candidates.sort_best_first();
        assert_eq!(candidates.iter().map(|(token, _)| token).collect::<Vec<_>>(), [0, 2, 4]);
    }

    #[test]
    fn excluded_tokens_are_never_candidates() {
        let mut candidates = Candidates::default();
        candidates.take_best(&[f32::NEG_INFINITY, 1.0, f32::NEG_INFINITY], 2, f32::NEG_INFINITY, Ties::Keep);
        assert_eq!(candidates.iter().collect::<Vec<_>>(), [(1, 1.0)]);
    }

    #[test]
    fn weight_is_kept_up_to_the_target() {
        let weights = [0.1f32, 0.4, 0.2, 0.25, 0.05];
        let kept = |target: f64| {
            let mut candidates = Candidates::default();
            candidates.take_all(&weights);
            candidates.keep_weight(target);
            candidates.sort_best_first();
            candidates.iter().map(|(token, _)| token).collect::<Vec<_>>()
        };
        assert_eq!(kept(0.0), [1]);
        assert_eq!(kept(0.39), [1]);
        assert_eq!(kept(0.41), [1, 3]);
        assert_eq!(kept(0.84), [1, 3, 2]);
        assert_eq!(kept(0.94), [1, 3, 2, 0]);
        assert_eq!(kept(2.0), [1, 3, 2, 0, 4]);
    }
}
