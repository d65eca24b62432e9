//! The load: requests start when they arrive, on as many threads as are needed at once and no more.
//!
//! One thread at a time waits for the next arrival. When it comes, that thread works it off, and another (an idle one,
//! or a new one below the limit) waits in its place. A blocked read costs nothing, and a thread that wakes has the one
//! event that it was woken for, so that times are taken at once. Beside a server on the same cores this costs less than
//! any polling would.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, Builder, Scope};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// A thread's stack: a connection with TLS needs a part of it.
const STACK_BYTES: usize = 512 << 10;

/// Does `work(index)` for each of `arrivals`, not before its time from `start` and on at most `limit` threads. Returns
/// what the works returned, in the order of arrival.
///
/// # Errors
/// The operating system gives fewer threads than were needed at once: the load was not the one that was asked for.
pub(super) fn run<T: Send>(
    start: Instant,
    arrivals: &[Duration],
    limit: usize,
    work: &(impl Fn(usize) -> T + Sync),
) -> Result<Vec<T>> {
    let results = arrivals.iter().map(|_| None).collect();
    let crew = Crew {
        start,
        arrivals,
        limit,
        work,
        next: Mutex::new(0),
        waiting: AtomicUsize::new(0),
        threads: AtomicUsize::new(0),
        results: Mutex::new(results),
        fault: Mutex::new(None),
    };
    thread::scope(|scope| crew.recruit(scope));
    if let Some(fault) = crew.fault.into_inner().unwrap_or_else(PoisonError::into_inner) {
        let threads = crew.threads.into_inner();
        return Err(anyhow!(fault).context(format!(
            "more than {threads} requests at once need more threads than this process may have; \
             set --max-concurrency to at most {threads}"
        )));
    }
    let results = crew.results.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(results.into_iter().flatten().collect())
}

struct Crew<'a, T, W> {
    start: Instant,
    arrivals: &'a [Duration],
    limit: usize,
    work: &'a W,
    /// The next arrival. Who holds the lock waits for it.
    next: Mutex<usize>,
    /// Threads that hold that lock or want it.
    waiting: AtomicUsize,
    /// Threads that were started.
    threads: AtomicUsize,
    results: Mutex<Vec<Option<T>>>,
    fault: Mutex<Option<io::Error>>,
}

impl<T: Send, W: Fn(usize) -> T + Sync> Crew<'_, T, W> {
    /// Starts a thread if nobody waits for the next arrival and one more is allowed.
    fn recruit<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
        if self.waiting.load(Ordering::Acquire) > 0 {
            return;
        }
        // It counts before it runs: it may want to recruit before the operating system lets this thread go on.
        let one_more = |threads| (threads < self.limit).then_some(threads + 1);
        if self.threads.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).is_err() {
            return;
        }
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let thread = Builder::new().name("octet-request".to_owned()).stack_size(STACK_BYTES);
        if let Err(error) = thread.spawn_scoped(scope, || self.labour(scope)) {
            self.waiting.fetch_sub(1, Ordering::AcqRel);
            self.threads.fetch_sub(1, Ordering::AcqRel);
            *locked(&self.fault) = Some(error);
        }
    }

    fn labour<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
        while let Some(index) = self.next_arrival() {
            self.waiting.fetch_sub(1, Ordering::AcqRel);
            if index + 1 < self.arrivals.len() {
                self.recruit(scope);
            }
            let result = (self.work)(index);
            locked(&self.results)[index] = Some(result);
            self.waiting.fetch_add(1, Ordering::AcqRel);
        }
        self.waiting.fetch_sub(1, Ordering::AcqRel);
    }

    /// Waits for the next arrival; `None` if there is none.
    fn next_arrival(&self) -> Option<usize> {
        let mut next = locked(&self.next);
        let index = *next;
        let arrival = *self.arrivals.get(index)?;
        thread::sleep(arrival.saturating_sub(self.start.elapsed()));
        *next += 1;
        Some(index)
    }
}

/// What a panic left behind is not used: the scope passes the panic on.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs works of some milliseconds; returns when each began, and the most that ran at once.
    fn measure(arrivals_ms: &[u64], limit: usize, work_ms: u64) -> (Vec<Duration>, usize) {
        let arrivals: Vec<Duration> = arrivals_ms.iter().copied().map(Duration::from_millis).collect();
        let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let start = Instant::now();
        let begun = run(start, &arrivals, limit, &|_| {
            let began = start.elapsed();
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(work_ms));
            running.fetch_sub(1, Ordering::SeqCst);
            began
        });
        (begun.expect("there are threads"), most.into_inner())
    }

    #[test]
    fn all_at_once_runs_all_at_once() {
        let (begun, most) = measure(&[0; 20], usize::MAX, 300);
        assert_eq!((begun.len(), most), (20, 20));
    }

    #[test]
    fn a_limit_holds_and_nothing_is_lost() {
        let (begun, most) = measure(&[0; 30], 4, 5);
        assert_eq!((begun.len(), most), (30, 4));
    }

    #[test]
    fn nothing_begins_before_it_arrives() {
        let times = [0, 40, 40, 90];
        let (begun, _) = measure(&times, usize::MAX, 1);
        for (begun, arrival) in begun.iter().zip(times) {
            assert!(*begun >= Duration::from_millis(arrival), "{begun:?} is before {arrival} ms");
        }
    }

    #[test]
    fn no_more_threads_than_are_needed() {
        // Works that are over before the next arrives need the thread that works and the one that waits.
        let names = Mutex::new(std::collections::HashSet::new());
        let arrivals: Vec<Duration> = (0..20).map(|index| Duration::from_millis(index * 10)).collect();
        let work = |_| locked(&names).insert(thread::current().id());
        assert_eq!(run(Instant::now(), &arrivals, usize::MAX, &work).expect("there are threads").len(), 20);
        let threads = locked(&names).len();
        assert!(threads < 6, "{threads} threads for one request at a time");
    }

    #[test]
    fn results_are_in_the_order_of_arrival() {
        let results =
            run(Instant::now(), &[Duration::ZERO; 50], 8, &|index| index).expect("there are threads");
        assert_eq!(results, (0..50).collect::<Vec<_>>());
    }
}
