//! Token counts in groups: every count up to eight alone, then two groups for each doubling.

use std::fmt;

/// The last count that has a group of its own.
const SINGLE: usize = 8;

/// A group of token counts that share their kernels, named by its largest: 1 to 8, 12, 16, 24, 32, 48, 64 and so on.
///
/// A server meets every count up to its largest batch; without groups its tuning would not end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenBucket(u8);

impl TokenBucket {
    /// How many groups there are.
    pub const COUNT: usize = 40;

    /// The group of a count. Counts beyond the last group belong to it, and 0 to the first.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "an index is below COUNT")]
    pub const fn of(tokens: usize) -> Self {
        if tokens <= SINGLE {
            return Self(tokens.saturating_sub(1) as u8);
        }
        // Both groups of a doubling end at 3/4 and at the whole of the next power of two.
        let octave = (tokens - 1).ilog2() as usize - SINGLE.ilog2() as usize;
        let upper = tokens > 12 << octave;
        let index = SINGLE + 2 * octave + upper as usize;
        Self(if index < Self::COUNT { index } else { Self::COUNT - 1 } as u8)
    }

    /// The largest count of the group, by which it is named.
    #[must_use]
    pub const fn tokens(self) -> usize {
        let index = self.0 as usize;
        if index < SINGLE {
            return index + 1;
        }
        let (octave, upper) = ((index - SINGLE) / 2, (index - SINGLE) % 2);
        (if upper == 1 { 16 } else { 12 }) << octave
    }

    /// Its place among the groups, from 0, below [`TokenBucket::COUNT`].
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// All groups, in order, that batches of at most `tokens` tokens can meet.
    pub fn up_to(tokens: usize) -> impl Iterator<Item = Self> {
        (0..=Self::of(tokens).0).map(Self)
    }
}

impl fmt::Display for TokenBucket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tokens().fmt(formatter)
    }
}

/// A set of groups: those that a run has met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BucketSet(u64);

const _: () = assert!(TokenBucket::COUNT <= u64::BITS as usize, "a bit for each group");

impl BucketSet {
    /// Adds a group.
    pub const fn insert(&mut self, bucket: TokenBucket) {
        self.0 |= 1 << bucket.0;
    }

    /// Whether a group is in it.
    #[must_use]
    pub const fn contains(self, bucket: TokenBucket) -> bool {
        self.0 & (1 << bucket.0) != 0
    }

    /// The groups, in order.
    pub fn iter(self) -> impl Iterator<Item = TokenBucket> {
        TokenBucket::up_to(usize::MAX).filter(move |bucket| self.contains(*bucket))
    }
}

impl Extend<TokenBucket> for BucketSet {
    fn extend<T: IntoIterator<Item = TokenBucket>>(&mut self, buckets: T) {
        buckets.into_iter().for_each(|bucket| self.insert(bucket));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_named_by_their_largest_count() {
        let names: Vec<usize> = TokenBucket::up_to(100).map(TokenBucket::tokens).collect();
        assert_eq!(names, [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32, 48, 64, 96, 128]);
        for (index, bucket) in TokenBucket::up_to(usize::MAX).enumerate() {
            assert_eq!((bucket.index(), TokenBucket::of(bucket.tokens())), (index, bucket));
        }
        assert_eq!(TokenBucket::up_to(usize::MAX).count(), TokenBucket::COUNT);
    }

    #[test]
    fn every_count_is_in_the_smallest_bucket_that_holds_it() {
        for tokens in 1..10_000 {
            let bucket = TokenBucket::of(tokens);
            assert!(bucket.tokens() >= tokens, "{tokens} in {bucket}");
            if let Some(index) = bucket.index().checked_sub(1) {
                let before = TokenBucket::up_to(tokens).nth(index).expect("a group before another");
                assert!(before.tokens() < tokens, "{tokens} in {bucket} although {before} holds it");
            }
        }
        assert_eq!((TokenBucket::of(0).tokens(), TokenBucket::of(usize::MAX).index()), (1, 39));
    }

    #[test]
    fn a_set_has_what_was_put_in() {
        let mut set = BucketSet::default();
        set.extend([200, 3, 3].map(TokenBucket::of));
        assert_eq!(set.iter().map(TokenBucket::tokens).collect::<Vec<_>>(), [3, 256]);
    }
}
