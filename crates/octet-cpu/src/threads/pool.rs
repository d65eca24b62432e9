//! Fork and join over workers that spin for a moment and then park.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::hint;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread, ThreadId};
use std::time::{Duration, Instant};

use super::plan::{Machine, Plan, PoolOptions, plan};
use super::topology;
use crate::CpuError;
use crate::cgroup::Cgroup;

/// How long a thread spins before it parks. Between two operations of a step pass a few microseconds; between steps
/// the scheduler takes some tens. Waking a parked thread costs about as much as this, so the wait is at most doubled.
const SPIN: Duration = Duration::from_micros(100);

/// The closure of one run, without its lifetime.
type Job = *const (dyn Fn(usize) + Sync);

/// Keeps counters that different threads write on different cache lines (two, since lines are fetched in pairs).
#[repr(align(128))]
struct Padded<T>(T);

/// What the caller and the workers share.
struct Shared {
    /// Counts runs. A worker that sees a new value has a job.
    epoch: Padded<AtomicUsize>,
    /// Workers that have not finished the current run; the caller is not counted.
    unfinished: Padded<AtomicUsize>,
    /// Workers that are parked or about to park.
    parked: Padded<AtomicUsize>,
    /// Set while the caller is parked or about to park.
    caller_parked: AtomicBool,
    /// The caller of the current run, for the worker that finishes last.
    caller: Mutex<Option<Thread>>,
    /// Written by the caller while no worker has a job, read by workers after they saw a new epoch.
    job: UnsafeCell<Option<Job>>,
    /// The first panic of a worker in this run.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is the only part that is not Sync. It is written before `epoch` is raised and read after the new
// epoch was seen, and not written again before `unfinished` has reached zero.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is only followed during the run that set it, whose closure is Sync.
unsafe impl Send for Shared {}

/// A fixed set of workers. The thread that calls [`Pool::run`] is worker 0; the pool belongs to one thread at a time,
/// and is not `Sync`, so that no job can start another one inside itself.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    cpus: Option<Vec<usize>>,
    /// The thread that was bound to worker 0's CPU.
    bound_caller: Cell<Option<ThreadId>>,
}

impl Pool {
    /// Starts the workers.
    ///
    /// # Errors
    /// Options that this machine cannot follow, or a thread that the system refused.
    pub fn new(options: &PoolOptions) -> Result<Self, CpuError> {
        let devices = Path::new("/sys/devices/system/cpu");
        let (cpus, cores) = topology::cores_first(topology::allowed_cpus(), devices);
        let quota = Cgroup::of_this_process().cpu_quota();
        let Plan { workers, cpus } = plan(options, &Machine { cpus, cores, quota })?;
        let shared = Arc::new(Shared {
            epoch: Padded(AtomicUsize::new(0)),
            unfinished: Padded(AtomicUsize::new(0)),
            parked: Padded(AtomicUsize::new(0)),
            caller_parked: AtomicBool::new(false),
            caller: Mutex::new(None),
            job: UnsafeCell::new(None),
            panic: Mutex::new(None),
        });
        // If a later thread is refused, dropping the pool ends the earlier ones.
        let mut pool = Self { shared, threads: Vec::new(), cpus, bound_caller: Cell::new(None) };
        for worker in 1..workers {
            let shared = Arc::clone(&pool.shared);
            let cpu = pool.cpus.as_ref().map(|cpus| cpus[worker]);
            let builder = thread::Builder::new().name(format!("octet-cpu-{worker}"));
            pool.threads.push(builder.spawn(move || {
                if let Some(cpu) = cpu {
                    topology::bind_this_thread(&[cpu]);
                }
                work(&shared, worker);
            })?);
        }
        Ok(pool)
    }

    /// Workers, the caller included.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.threads.len() + 1
    }

    /// The CPU of each worker, if they are bound.
    #[must_use]
    pub fn cpus(&self) -> Option<&[usize]> {
        self.cpus.as_deref()
    }

    /// Calls `job(worker)` once on each worker and returns when all have returned.
    ///
    /// # Panics
    /// If a worker's call panics, with its payload, after all have returned.
    pub fn run(&self, job: &(dyn Fn(usize) + Sync)) {
        self.bind_caller();
        if self.threads.is_empty() {
            return job(0);
        }
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes. The pointer is followed between here and `join`, which does not return
        // before every worker is done with it, and `join` is reached even if worker 0 panics.
        let erased = unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), Job>(job) };
        // SAFETY: the previous run was joined, so no worker reads this.
        unsafe { *shared.job.get() = Some(erased) };
        shared.unfinished.0.store(self.threads.len(), Relaxed);
        shared.epoch.0.fetch_add(1, SeqCst);
        self.wake_parked();
        let own = catch_unwind(AssertUnwindSafe(|| job(0)));
        self.join();
        let of_worker = lock(&shared.panic).take();
        if let Some(payload) = own.err().or(of_worker) {
            resume_unwind(payload);
        }
    }

    /// Calls `task(worker, index)` once for each index below `count`, on whichever worker is free.
    ///
    /// # Panics
    /// As [`Pool::run`].
    pub fn run_tasks(&self, count: usize, task: &(dyn Fn(usize, usize) + Sync)) {
        if count <= 1 {
            return (0..count).for_each(|index| task(0, index));
        }
        let next = AtomicUsize::new(0);
        self.run(&|worker| {
            loop {
                let index = next.fetch_add(1, Relaxed);
                if index >= count {
                    break;
                }
                task(worker, index);
            }
        });
    }

    /// Binds the thread that calls `run` to the CPU of worker 0, once.
    fn bind_caller(&self) {
        let Some(cpus) = &self.cpus else { return };
        let caller = thread::current().id();
        if self.bound_caller.get() != Some(caller) {
            topology::bind_this_thread(&cpus[..1]);
            self.bound_caller.set(Some(caller));
        }
    }

    /// A worker announces itself in `parked` before it looks at `epoch` a last time, and the caller raises `epoch`
    /// before it looks at `parked`: in the one order of these four, at least one sees the other.
    fn wake_parked(&self) {
        if self.shared.parked.0.load(SeqCst) > 0 {
            self.threads.iter().for_each(|worker| worker.thread().unpark());
        }
    }

    /// Waits until every worker has finished.
    fn join(&self) {
        let shared = &*self.shared;
        if spin_until(|| shared.unfinished.0.load(Acquire) == 0) {
            return;
        }
        *lock(&shared.caller) = Some(thread::current());
        shared.caller_parked.store(true, SeqCst);
        while shared.unfinished.0.load(SeqCst) != 0 {
            thread::park();
        }
        shared.caller_parked.store(false, SeqCst);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // A run without a job is the sign to end.
        // SAFETY: the last run was joined, so no worker reads this.
        unsafe { *self.shared.job.get() = None };
        self.shared.epoch.0.fetch_add(1, SeqCst);
        self.wake_parked();
        for worker in self.threads.drain(..) {
            // Panics of jobs are caught inside the worker, so it ends by returning.
            let _ = worker.join();
        }
        if self.bound_caller.get() == Some(thread::current().id()) {
            topology::bind_this_thread(topology::allowed_cpus());
        }
    }
}

/// The life of a worker.
fn work(shared: &Shared, worker: usize) {
    let mut epoch = 0;
    loop {
        wait_for_next(shared, epoch);
        epoch += 1;
        // SAFETY: a new epoch was seen, so the caller has written the job and will not write it until this worker
        // has counted itself out below.
        let Some(job) = (unsafe { *shared.job.get() }) else { return };
        // SAFETY: `run` keeps the closure alive until this worker has counted itself out.
        let job = unsafe { &*job };
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| job(worker))) {
            lock(&shared.panic).get_or_insert(payload);
        }
        let was_last = shared.unfinished.0.fetch_sub(1, SeqCst) == 1;
        if was_last
            && shared.caller_parked.load(SeqCst)
            && let Some(caller) = &*lock(&shared.caller)
        {
            caller.unpark();
        }
    }
}

/// Returns when the epoch is no longer `seen`.
fn wait_for_next(shared: &Shared, seen: usize) {
    if spin_until(|| shared.epoch.0.load(Acquire) != seen) {
        return;
    }
    shared.parked.0.fetch_add(1, SeqCst);
    while shared.epoch.0.load(SeqCst) == seen {
        thread::park();
    }
    shared.parked.0.fetch_sub(1, SeqCst);
}

/// Spins until `done`, at most for [`SPIN`]; returns whether it was.
fn spin_until(done: impl Fn() -> bool) -> bool {
    // The clock costs as much as a dozen pauses, so it is read now and then.
    const PAUSES_BETWEEN_LOOKS_AT_THE_CLOCK: usize = 64;
    let start = Instant::now();
    loop {
        for _ in 0..PAUSES_BETWEEN_LOOKS_AT_THE_CLOCK {
            if done() {
                return true;
            }
            hint::spin_loop();
        }
        if start.elapsed() > SPIN {
            return false;
        }
    }
}

/// A panic while the lock was held cannot leave these values half written.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threads::ThreadBinding;

    fn pool(workers: usize) -> Pool {
        let binding = ThreadBinding::Unbound;
        Pool::new(&PoolOptions { workers: Some(workers), binding, reserved_cores: 0 }).unwrap()
    }

    #[test]
    fn every_worker_runs_every_job_once() {
        for workers in [1, 2, 5] {
            let pool = pool(workers);
            let calls: Vec<_> = (0..workers).map(|_| AtomicUsize::new(0)).collect();
            for run in 1..=3000 {
                pool.run(&|worker| {
                    calls[worker].fetch_add(1, Relaxed);
                });
                assert!(calls.iter().all(|count| count.load(Relaxed) == run));
            }
        }
    }

    #[test]
    fn runs_after_a_pause_wake_the_workers() {
        let pool = pool(3);
        let calls = AtomicUsize::new(0);
        for run in 1..=20 {
            thread::sleep(SPIN * 3);
            pool.run(&|worker| {
                if worker == 2 {
                    // Longer than the caller spins, so that it parks as well.
                    thread::sleep(SPIN * 3);
                }
                calls.fetch_add(1, Relaxed);
            });
            assert_eq!(calls.load(Relaxed), 3 * run);
        }
    }

    #[test]
    fn tasks_run_once_each() {
        let pool = pool(3);
        for count in [0, 1, 2, 100] {
            let calls: Vec<_> = (0..count).map(|_| AtomicUsize::new(0)).collect();
            pool.run_tasks(count, &|_, index| {
                calls[index].fetch_add(1, Relaxed);
            });
            assert!(calls.iter().all(|count| count.load(Relaxed) == 1));
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = pool(3);
        for guilty in 0..3 {
            let finished = AtomicUsize::new(0);
            let caught = catch_unwind(AssertUnwindSafe(|| {
                pool.run(&|worker| {
                    assert!(worker != guilty, "worker {worker} fails");
                    finished.fetch_add(1, Relaxed);
                });
            }));
            let payload = caught.unwrap_err();
            assert_eq!(payload.downcast_ref::<String>().unwrap(), &format!("worker {guilty} fails"));
            assert_eq!(finished.load(Relaxed), 2);
        }
        pool.run(&|_| ());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_idle_pool_uses_no_cpu() {
        let pool = pool(3);
        pool.run(&|_| ());
        // Time enough to stop spinning, even on a busy machine.
        thread::sleep(Duration::from_millis(100));
        let before: Vec<_> = pool.threads.iter().map(cpu_time).collect();
        thread::sleep(Duration::from_millis(100));
        let after: Vec<_> = pool.threads.iter().map(cpu_time).collect();
        assert_eq!(before, after);
    }

    /// What a thread has used so far.
    #[cfg(target_os = "linux")]
    fn cpu_time(thread: &JoinHandle<()>) -> Duration {
        use std::os::unix::thread::JoinHandleExt as _;
        let mut clock = 0;
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the thread lives as long as its handle is not joined; both results are written to locals.
        unsafe {
            assert_eq!(libc::pthread_getcpuclockid(thread.as_pthread_t(), &raw mut clock), 0);
            assert_eq!(libc::clock_gettime(clock, &raw mut time), 0);
        }
        Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn workers_are_bound_to_their_cpus_and_the_caller_is_released() {
        let cpu = topology::allowed_cpus()[0];
        let options =
            PoolOptions { workers: Some(1), binding: ThreadBinding::Cpus(vec![cpu]), reserved_cores: 0 };
        // In a thread of its own: other tests shall not run bound.
        thread::spawn(move || {
            let pool = Pool::new(&options).unwrap();
            pool.run(&|_| {
                // SAFETY: reads a number.
                assert_eq!(unsafe { libc::sched_getcpu() }, i32::try_from(cpu).unwrap());
            });
            drop(pool);
            assert!(thread::available_parallelism().unwrap().get() >= topology::allowed_cpus().len().min(2));
        })
        .join()
        .unwrap();
    }
}
