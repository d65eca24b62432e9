//! Who is inside the engine, running or waiting, so that there is an end to it and one client request cannot take all
//! places.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::SubmitError;
use crate::request::{Delivery, Event, EventSink, GroupId};

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    by_group: HashMap<GroupId, usize>,
}

/// Counts the sequences inside, by client request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    taken: Arc<Mutex<Taken>>,
}

impl Places {
    /// The state is a plain value that every holder leaves whole, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sequences inside.
    pub(crate) fn total(&self) -> usize {
        self.lock().total
    }

    /// Takes a place for a sequence of `group`. Where all `limit` places are taken, a client request that has less
    /// than its equal part of them still gets in, unless there are `limit` others; so one that took them all shuts
    /// nobody out.
    ///
    /// # Errors
    /// There is none, and why.
    pub(crate) fn take(&self, group: GroupId, limit: usize) -> Result<Place, SubmitError> {
        let mut taken = self.lock();
        let held = taken.by_group.get(&group).copied().unwrap_or(0);
        let groups = taken.by_group.len() + usize::from(held == 0);
        let share = limit / groups;
        if taken.total >= limit && held >= share {
            return Err(match held {
                0 => SubmitError::QueueFull { limit },
                _ => SubmitError::ShareTaken { held, limit },
            });
        }
        taken.total += 1;
        *taken.by_group.entry(group).or_insert(0) += 1;
        Ok(Place { places: self.clone(), group })
    }
}

/// A place that is taken, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Places,
    group: GroupId,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        taken.total -= 1;
        if let Some(held) = taken.by_group.get_mut(&self.group) {
            *held -= 1;
            if *held == 0 {
                taken.by_group.remove(&self.group);
            }
        }
    }
}

/// A sink that holds a place: whatever the end of its request is, dropping the sink gives the place back.
pub(crate) struct PlacedSink {
    pub(crate) sink: Box<dyn EventSink>,
    pub(crate) _place: Place,
}

impl EventSink for PlacedSink {
    fn deliver(&mut self, event: Event) -> Delivery {
        self.sink.deliver(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_that_took_all_places_shuts_nobody_out() {
        let places = Places::default();
        let take = |group| places.take(GroupId(group), 8);
        let hog: Vec<Place> = (0..8).map(|_| take(0).unwrap()).collect();
        assert_eq!(take(0).unwrap_err(), SubmitError::ShareTaken { held: 8, limit: 8 });
        let second: Vec<Place> = (0..4).map(|_| take(1).unwrap()).collect();
        assert_eq!(take(1).unwrap_err(), SubmitError::ShareTaken { held: 4, limit: 8 });
        let others: Vec<Place> = (2..8).map(|group| take(group).unwrap()).collect();
        assert_eq!(take(9).unwrap_err(), SubmitError::QueueFull { limit: 8 }, "eight requests are inside");
        assert_eq!(places.total(), 18);
        drop((hog, second, others));
        assert_eq!(places.total(), 0);
        assert!(take(9).is_ok());
    }
}
