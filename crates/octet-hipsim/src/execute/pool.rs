//! The threads that execute blocks, for all streams of all devices.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use super::block::Crew;
use super::{Fault, Launch};
use crate::settings::settings;

/// A launch that is being executed.
struct Job {
    launch: Launch,
    seed: u64,
    /// Blocks that somebody has taken.
    taken: AtomicU64,
    progress: Mutex<Progress>,
    ended: Condvar,
}

#[derive(Default)]
struct Progress {
    done: u64,
    fault: Option<Fault>,
}

#[derive(Default)]
struct Pool {
    jobs: Mutex<VecDeque<Arc<Job>>>,
    arrived: Condvar,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The pool; the first use starts its threads.
fn pool() -> &'static Pool {
    static POOL: OnceLock<&'static Pool> = OnceLock::new();
    POOL.get_or_init(|| {
        let pool: &'static Pool = Box::leak(Box::default());
        for index in 0..settings().workers {
            let started =
                std::thread::Builder::new().name(format!("hipsim-{index}")).spawn(move || work(pool));
            if let Err(error) = started {
                crate::status::report(&format!("no thread to execute blocks: {error}"));
            }
        }
        pool
    })
}

fn work(pool: &Pool) -> ! {
    let mut crew = Crew::new();
    loop {
        let job = next(pool);
        let blocks = job.launch.blocks();
        loop {
            let index = job.taken.fetch_add(1, Ordering::Relaxed);
            if index >= blocks {
                break;
            }
            // Blocks too run in an order that a kernel must not rely on.
            let index = index.wrapping_add(job.seed) % blocks;
            let faulted = lock(&job.progress).fault.is_some();
            let result = if faulted { Ok(()) } else { crew.run(&job.launch, index, job.seed) };
            let mut progress = lock(&job.progress);
            progress.done += 1;
            if let Err(fault) = result {
                progress.fault.get_or_insert(fault);
            }
            if progress.done == blocks {
                job.ended.notify_all();
            }
        }
    }
}

/// Waits for a job that has blocks left.
fn next(pool: &Pool) -> Arc<Job> {
    let mut jobs = lock(&pool.jobs);
    loop {
        while let Some(job) = jobs.front() {
            if job.taken.load(Ordering::Relaxed) < job.launch.blocks() {
                return Arc::clone(job);
            }
            jobs.pop_front();
        }
        jobs = pool.arrived.wait(jobs).unwrap_or_else(PoisonError::into_inner);
    }
}

/// Executes a launch and waits for its end.
pub(crate) fn run(launch: Launch) -> Result<(), Fault> {
    let blocks = launch.blocks();
    if blocks == 0 {
        return Ok(());
    }
    let pool = pool();
    let job = Arc::new(Job {
        launch,
        seed: settings().seed,
        taken: AtomicU64::new(0),
        progress: Mutex::default(),
        ended: Condvar::new(),
    });
    lock(&pool.jobs).push_back(Arc::clone(&job));
    pool.arrived.notify_all();
    let mut progress = lock(&job.progress);
    while progress.done < blocks {
        progress = job.ended.wait(progress).unwrap_or_else(PoisonError::into_inner);
    }
    progress.fault.take().map_or(Ok(()), Err)
}
