//! Requests that wait, in the order in which they will be served.

use std::collections::VecDeque;

use crate::sequence::SequenceKey;

/// Rank of a request: lower goes first, larger gives way first. Unique, by `arrival`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    /// The request's priority under priority scheduling, else 0.
    pub(crate) priority: i32,
    /// Number of requests submitted before.
    pub(crate) arrival: u64,
}

/// A queue sorted by rank. First-come-first-served appends at the back in O(1); a preempted sequence goes back to its
/// place; no operation allocates once the queue has been as long as it gets.
#[derive(Debug, Default)]
pub(crate) struct WaitingQueue {
    entries: VecDeque<(Rank, SequenceKey)>,
}

impl WaitingQueue {
    /// Requests in the queue.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The smallest rank.
    fn front(&self) -> Option<(Rank, SequenceKey)> {
        self.entries.front().copied()
    }

    /// Who is next among those of the front's priority, where those that are `behind` come after the others; and
    /// whether that one is.
    pub(crate) fn next(&self, behind: impl Fn(SequenceKey) -> bool) -> Option<(Rank, SequenceKey, bool)> {
        let (front, key) = self.front()?;
        let equals = self.entries.iter().take_while(|(rank, _)| rank.priority == front.priority);
        let first = equals.copied().find(|(_, key)| !behind(*key));
        Some(first.map_or((front, key, true), |(rank, key)| (rank, key, false)))
    }

    /// All of the front's priority, if it is this one; else none.
    pub(crate) fn of_priority(&self, priority: i32) -> impl Iterator<Item = SequenceKey> {
        let equals = self.entries.iter().take_while(move |(rank, _)| rank.priority == priority);
        equals.map(|(_, key)| *key)
    }

    /// Adds a request at its place.
    pub(crate) fn insert(&mut self, rank: Rank, key: SequenceKey) {
        let place = self.entries.partition_point(|(other, _)| *other < rank);
        self.entries.insert(place, (rank, key));
    }

    /// Takes a request out, if it is there.
    pub(crate) fn remove(&mut self, rank: Rank) -> bool {
        let found = self.entries.binary_search_by_key(&rank, |(other, _)| *other);
        found.is_ok_and(|place| self.entries.remove(place).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lower_priority_numbers_go_first_then_earlier_arrivals() {
        let mut queue = WaitingQueue::default();
        let ranks = [(1, 0), (0, 1), (1, 2), (-1, 3), (0, 4)];
        for (index, (priority, arrival)) in ranks.into_iter().enumerate() {
            queue.insert(Rank { priority, arrival }, SequenceKey::new(index));
        }
        assert!(queue.remove(Rank { priority: 0, arrival: 4 }));
        assert!(!queue.remove(Rank { priority: 0, arrival: 4 }));
        let mut order = Vec::new();
        while let Some((rank, key)) = queue.front() {
            assert!(queue.remove(rank));
            order.push(key.index());
        }
        assert_eq!(order, [3, 1, 0, 2]);
    }
}
