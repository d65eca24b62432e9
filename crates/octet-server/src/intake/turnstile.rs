//! Who is prepared next. Clients take turns, whatever each of them has waiting; strangers come when nobody else waits.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::Client;
use crate::error::ApiError;

/// Lets as many requests through at once as there are threads and memory for.
pub(crate) struct Turnstile {
    limit_bytes: usize,
    /// The most requests of one client that wait.
    max_waiting: usize,
    state: Mutex<State>,
}

struct State {
    free_threads: usize,
    free_bytes: usize,
    running: HashMap<Client, usize>,
    /// Clients with requests that wait, the next one first.
    lanes: VecDeque<Lane>,
}

struct Lane {
    client: Client,
    tickets: VecDeque<Ticket>,
}

struct Ticket {
    bytes: usize,
    /// Closed when the client went away.
    admit: oneshot::Sender<Pass>,
}

/// A request that was let through, with a thread and some memory. Both go back when this is dropped.
pub(crate) struct Pass {
    turnstile: Arc<Turnstile>,
    client: Client,
    bytes: usize,
}

impl Turnstile {
    /// There must be two threads at least: one is always left to clients that have none.
    pub(crate) fn new(threads: usize, bytes: usize, max_waiting: usize) -> Self {
        let state = State {
            free_threads: threads,
            free_bytes: bytes,
            running: HashMap::new(),
            lanes: VecDeque::new(),
        };
        Self { limit_bytes: bytes, max_waiting, state: Mutex::new(state) }
    }

    /// Waits for a thread and `bytes` bytes. Dropping the future gives up the place in the queue.
    pub(crate) async fn enter(self: &Arc<Self>, client: Client, bytes: usize) -> Result<Pass, ApiError> {
        if bytes > self.limit_bytes {
            return Err(ApiError::TooCostly { bytes, limit: self.limit_bytes });
        }
        let (admit, admitted) = oneshot::channel();
        self.queue(client, Ticket { bytes, admit })?;
        self.admit();
        admitted.await.map_err(|_| ApiError::internal("a waiting request was lost"))
    }

    fn queue(&self, client: Client, ticket: Ticket) -> Result<(), ApiError> {
        let mut state = self.lock();
        match state.lanes.iter_mut().find(|lane| lane.client == client) {
            None => state.lanes.push_back(Lane { client, tickets: VecDeque::from([ticket]) }),
            Some(lane) => {
                if lane.tickets.len() >= self.max_waiting {
                    lane.tickets.retain(|ticket| !ticket.admit.is_closed());
                }
                if lane.tickets.len() >= self.max_waiting {
                    return Err(ApiError::Busy);
                }
                lane.tickets.push_back(ticket);
            }
        }
        Ok(())
    }

    /// Lets everyone through who can go.
    fn admit(self: &Arc<Self>) {
        loop {
            // The lock is not held while a pass is handed over: whoever left meanwhile hands it back at once.
            let Some((client, ticket)) = self.lock().next() else { return };
            let pass = Pass { turnstile: Arc::clone(self), client, bytes: ticket.bytes };
            drop(ticket.admit.send(pass));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes the next request that can go out of its lane, and books it.
    fn next(&mut self) -> Option<(Client, Ticket)> {
        for lane in &mut self.lanes {
            lane.tickets.retain(|ticket| !ticket.admit.is_closed());
        }
        self.lanes.retain(|lane| !lane.tickets.is_empty());
        let only_strangers = self.lanes.iter().all(|lane| lane.client == Client::Stranger);
        let position = self.lanes.iter().position(|lane| {
            (only_strangers || lane.client != Client::Stranger) && self.has_thread_for(lane.client)
        })?;
        // Who needs much memory waits for it, and nobody overtakes meanwhile: it is free again in a moment.
        if self.lanes[position].tickets.front()?.bytes > self.free_bytes {
            return None;
        }
        let mut lane = self.lanes.remove(position)?;
        let ticket = lane.tickets.pop_front()?;
        let client = lane.client;
        if !lane.tickets.is_empty() {
            self.lanes.push_back(lane);
        }
        self.free_threads -= 1;
        self.free_bytes -= ticket.bytes;
        *self.running.entry(client).or_default() += 1;
        Some((client, ticket))
    }

    /// The last thread is for a client that has none, and never for strangers, who have one in all.
    fn has_thread_for(&self, client: Client) -> bool {
        match (client, self.running.contains_key(&client)) {
            (Client::Stranger, true) => false,
            (Client::Known { .. }, false) => self.free_threads > 0,
            (Client::Stranger, false) | (Client::Known { .. }, true) => self.free_threads > 1,
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut state = self.turnstile.lock();
        state.free_threads += 1;
        state.free_bytes += self.bytes;
        if let Some(running) = state.running.get_mut(&self.client) {
            *running -= 1;
            if *running == 0 {
                state.running.remove(&self.client);
            }
        }
        drop(state);
        self.turnstile.admit();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    type Entry = Pin<Box<dyn Future<Output = Result<Pass, ApiError>>>>;

    fn entry(turnstile: &Arc<Turnstile>, client: Client, bytes: usize) -> Entry {
        let turnstile = Arc::clone(turnstile);
        let mut entry: Entry = Box::pin(async move { turnstile.enter(client, bytes).await });
        assert!(poll(&mut entry).is_none(), "a future does nothing before its first poll, and then it waits");
        entry
    }

    /// The pass, if it is there.
    fn poll(entry: &mut Entry) -> Option<Pass> {
        match entry.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => None,
            Poll::Ready(pass) => Some(pass.unwrap_or_else(|error| panic!("{error}"))),
        }
    }

    fn enter(turnstile: &Arc<Turnstile>, client: Client, bytes: usize) -> Pass {
        let turnstile = Arc::clone(turnstile);
        let mut entry: Entry = Box::pin(async move { turnstile.enter(client, bytes).await });
        poll(&mut entry).expect("there is room")
    }

    const GREEDY: Client = Client::Known { key: Some(0), address: None };
    const MODEST: Client = Client::Known { key: Some(1), address: None };

    #[test]
    fn one_client_leaves_a_thread_to_the_others() {
        let turnstile = Arc::new(Turnstile::new(4, 100, 64));
        let busy: Vec<Pass> = (0..3).map(|_| enter(&turnstile, GREEDY, 1)).collect();
        let mut waiting: Vec<Entry> = (0..5).map(|_| entry(&turnstile, GREEDY, 1)).collect();
        let modest = enter(&turnstile, MODEST, 1);
        drop(modest);
        assert!(waiting.iter_mut().all(|entry| poll(entry).is_none()));
        drop(busy);
        assert_eq!(
            waiting.iter_mut().filter_map(poll).count(),
            5,
            "one after the other, as passes come back"
        );
    }

    #[test]
    fn clients_take_turns() {
        let turnstile = Arc::new(Turnstile::new(2, 100, 64));
        let first = enter(&turnstile, GREEDY, 1);
        let last = enter(&turnstile, MODEST, 1);
        let mut greedy: Vec<Entry> = (0..50).map(|_| entry(&turnstile, GREEDY, 1)).collect();
        let mut modest = entry(&turnstile, MODEST, 1);
        drop(first);
        let next = poll(&mut greedy[0]).expect("the first in the queue");
        drop(last);
        let pass = poll(&mut modest).expect("not behind all fifty");
        drop((next, pass));
    }

    #[test]
    fn who_went_away_is_passed_over() {
        let turnstile = Arc::new(Turnstile::new(2, 100, 64));
        let (first, last) = (enter(&turnstile, GREEDY, 1), enter(&turnstile, MODEST, 1));
        let gone: Vec<Entry> = (0..64).map(|_| entry(&turnstile, GREEDY, 90)).collect();
        drop(gone);
        let mut there = entry(&turnstile, GREEDY, 90);
        drop(first);
        assert!(poll(&mut there).is_some());
        drop(last);
        let state = turnstile.lock();
        assert_eq!((state.free_threads, state.free_bytes, state.running.len()), (2, 100, 0));
    }

    #[test]
    fn strangers_come_last_and_have_one_thread() {
        let turnstile = Arc::new(Turnstile::new(3, 100, 64));
        let stranger = enter(&turnstile, Client::Stranger, 1);
        let mut more: Vec<Entry> = (0..8).map(|_| entry(&turnstile, Client::Stranger, 1)).collect();
        let (first, second) = (enter(&turnstile, GREEDY, 1), enter(&turnstile, MODEST, 1));
        let mut greedy = entry(&turnstile, GREEDY, 1);
        drop(second);
        assert!(poll(&mut greedy).is_none(), "the last thread is for who has none");
        drop(stranger);
        let pass = poll(&mut greedy).expect("before any stranger");
        assert!(more.iter_mut().all(|entry| poll(entry).is_none()));
        drop((first, pass));
        assert_eq!(more.iter_mut().filter_map(poll).count(), 8);
    }

    #[test]
    fn memory_is_waited_for_and_what_never_fits_is_refused() {
        let turnstile = Arc::new(Turnstile::new(4, 100, 2));
        let first = enter(&turnstile, GREEDY, 60);
        let mut large = entry(&turnstile, MODEST, 60);
        let mut small = entry(&turnstile, GREEDY, 10);
        drop(first);
        let pass = poll(&mut large);
        assert!(pass.is_some() && poll(&mut small).is_some());
        let mut never: Entry = {
            let turnstile = Arc::clone(&turnstile);
            Box::pin(async move { turnstile.enter(MODEST, 101).await })
        };
        let refused = never.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(refused, Poll::Ready(Err(ApiError::TooCostly { bytes: 101, limit: 100 }))));
    }
}
