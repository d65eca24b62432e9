//! Bytes that requests hold, counted for all and for each client.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Client;
use crate::error::ApiError;

/// A number of bytes, of which one client can have half.
pub(crate) struct Budget {
    limit: usize,
    used: Mutex<Used>,
}

#[derive(Default)]
struct Used {
    total: usize,
    by_client: HashMap<Client, usize>,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, used: Mutex::default() }
    }

    /// What one client can have at most.
    pub(crate) fn largest_share(&self) -> usize {
        self.limit / 2
    }

    /// An empty lease of a client.
    pub(crate) fn lease(budget: &Arc<Self>, client: Client) -> Lease {
        Lease { budget: Arc::clone(budget), client, bytes: 0 }
    }

    /// The counts are plain values that every holder leaves whole, so a panic elsewhere does not spoil them.
    fn lock(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Used {
    fn give_back(&mut self, client: Client, bytes: usize) {
        self.total -= bytes;
        if let Some(share) = self.by_client.get_mut(&client) {
            *share -= bytes;
            if *share == 0 {
                self.by_client.remove(&client);
            }
        }
    }
}

/// A part of the budget. It goes back when this is dropped.
pub(crate) struct Lease {
    budget: Arc<Budget>,
    client: Client,
    bytes: usize,
}

impl Lease {
    /// Makes it stand for `bytes` bytes. On failure it stands for what it did before.
    pub(crate) fn resize(&mut self, bytes: usize) -> Result<(), ApiError> {
        let limit = self.budget.largest_share();
        if bytes > limit {
            return Err(ApiError::TooCostly { bytes, limit });
        }
        let mut used = self.budget.lock();
        if bytes > self.bytes {
            let more = bytes - self.bytes;
            let share = used.by_client.get(&self.client).copied().unwrap_or(0);
            if used.total + more > self.budget.limit || share + more > limit {
                return Err(ApiError::Busy);
            }
            used.total += more;
            *used.by_client.entry(self.client).or_default() += more;
        } else {
            used.give_back(self.client, self.bytes - bytes);
        }
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.budget.lock().give_back(self.client, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_half_and_everything_comes_back() {
        let budget = Arc::new(Budget::new(100));
        let (first, second) = (Client::keyed(0), Client::keyed(1));
        let mut a = Budget::lease(&budget, first);
        assert!(matches!(a.resize(51), Err(ApiError::TooCostly { bytes: 51, limit: 50 })));
        a.resize(40).unwrap();
        let mut b = Budget::lease(&budget, first);
        assert!(matches!(b.resize(11), Err(ApiError::Busy)), "the client's own share is used up");
        b.resize(10).unwrap();
        let mut c = Budget::lease(&budget, second);
        c.resize(50).unwrap();
        assert!(matches!(Budget::lease(&budget, Client::Stranger).resize(1), Err(ApiError::Busy)));
        c.resize(20).unwrap();
        Budget::lease(&budget, Client::Stranger).resize(30).unwrap();
        drop((a, b, c));
        let used = budget.lock();
        assert_eq!((used.total, used.by_client.len()), (0, 0));
    }
}
