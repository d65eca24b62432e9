//! The engine on its thread: submissions, limits, shutdown, faults, and sleep.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use octet_engine::{
    EngineConfig, EngineExit, EngineHandle, EngineThread, Event, FinishReason, RequestFault, RequestId,
    SubmitError, spawn,
};

use crate::fake::{Fake, Record, request, run_alone};

const LONG: Duration = Duration::from_secs(30);

fn config() -> EngineConfig {
    EngineConfig { max_queued: 3, ..EngineConfig::new(64, 4, 10_000) }
}

fn start(change: impl FnOnce(&mut Fake)) -> (EngineHandle, EngineThread) {
    let config = config();
    let mut executor = Fake::new(&config);
    change(&mut executor);
    spawn(config, executor).unwrap()
}

fn submit(handle: &EngineHandle, max_tokens: usize) -> (RequestId, Record) {
    let id = handle.next_request_id();
    let (request, record) = request(id.0, &[1, 2, 3], max_tokens);
    handle.submit(request).unwrap();
    (id, record)
}

/// Waits until `done`; a test that would hang fails instead.
fn wait_for(done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LONG, "it never happened");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn requests_from_several_threads_are_served() {
    let config = EngineConfig { max_queued: 1000, ..config() };
    let executor = Fake::new(&config);
    let (handle, thread) = spawn(config, executor).unwrap();
    let records: Vec<_> = std::thread::scope(|scope| {
        let submitters =
            (0..4).map(|_| scope.spawn(|| (0..50).map(|_| submit(&handle, 5)).collect::<Vec<_>>()));
        submitters.collect::<Vec<_>>().into_iter().flat_map(|submitter| submitter.join().unwrap()).collect()
    });
    drop(handle);
    assert_eq!(thread.join(), EngineExit::Stopped, "the last handle's end lets the engine finish and stop");
    for (id, record) in records {
        let alone = run_alone(&[1, 2, 3], &crate::fake::sampling(id.0), 5, 10_000);
        assert_eq!(record.tokens(), alone.tokens);
        assert_eq!(record.finish(), Some((FinishReason::Length, None)));
    }
}

#[test]
fn no_more_requests_are_inside_than_allowed() {
    let (handle, thread) = start(|fake| fake.delay = Duration::from_millis(1));
    let first = submit(&handle, 200);
    let others = [submit(&handle, 200), submit(&handle, 200)];
    assert_eq!(handle.submit(request(99, &[1], 1).0), Err(SubmitError::QueueFull { limit: 3 }));
    handle.abort(first.0);
    wait_for(|| first.1.end().is_some());
    wait_for(|| handle.submit(request(100, &[1], 1).0).is_ok());
    handle.shutdown(LONG);
    assert_eq!(thread.join(), EngineExit::Stopped);
    assert!(others.iter().all(|(_, record)| record.tokens().len() == 200));
}

#[test]
fn refusals_come_at_once() {
    let (handle, _thread) = start(|_| {});
    assert_eq!(handle.submit(request(0, &[], 1).0), Err(SubmitError::EmptyPrompt));
    let long = vec![1; 300];
    let capacity_tokens = 63 * 4;
    let refused = handle.submit(request(0, &long, 1).0);
    assert_eq!(refused, Err(SubmitError::DoesNotFit { prompt_tokens: 300, capacity_tokens }));
}

#[test]
fn a_duplicate_id_fails_the_second_request_alone() {
    let (handle, thread) = start(|fake| fake.delay = Duration::from_millis(1));
    let (first, first_record) = request(7, &[1], 20);
    let (second, second_record) = request(7, &[1], 20);
    handle.submit(first).unwrap();
    handle.submit(second).unwrap();
    handle.shutdown(Duration::MAX);
    assert_eq!(thread.join(), EngineExit::Stopped);
    assert_eq!(first_record.tokens().len(), 20);
    let reason = RequestFault::Output("request id 7 is already in use".into());
    assert_eq!(second_record.end(), Some(Event::Failed(reason)));
}

#[test]
fn shutdown_refuses_drains_until_the_deadline_and_aborts_the_rest() {
    let (handle, thread) = start(|fake| fake.delay = Duration::from_millis(2));
    let (_, short) = submit(&handle, 2);
    let (_, endless) = submit(&handle, 200);
    handle.shutdown(Duration::from_millis(100));
    assert_eq!(handle.submit(request(99, &[1], 1).0), Err(SubmitError::Stopped));
    assert_eq!(thread.join(), EngineExit::Stopped);
    assert_eq!(short.finish(), Some((FinishReason::Length, None)));
    assert_eq!(endless.finish(), Some((FinishReason::Abort, None)));
    assert!(!handle.is_alive());
    assert!(!handle.reset_prefix_cache());
}

#[test]
fn a_panic_or_a_fault_in_the_model_ends_every_request_and_says_why() {
    let panics: fn(&mut Fake) = |fake| fake.panics_at = Some(3);
    let fails: fn(&mut Fake) = |fake| fake.fails_at = Some(3);
    let stalls: fn(&mut Fake) = |fake| fake.stalls_at = Some(3);
    let (stopped, stalled) = (RequestFault::EngineStopped, RequestFault::DeviceStalled);
    for (change, reason, fault, refusal) in [
        (
            panics,
            "the engine's thread panicked: a defect in the model",
            stopped.clone(),
            SubmitError::Stopped,
        ),
        (fails, "the model could not run a step: the device is lost", stopped, SubmitError::Stopped),
        (stalls, "the model did not finish a step: 2 rows after 5 s", stalled, SubmitError::Stalled),
    ] {
        let (handle, thread) = start(change);
        let (_, record) = submit(&handle, 200);
        assert_eq!(thread.join(), EngineExit::Died(reason.into()));
        assert_eq!(record.end(), Some(Event::Failed(fault)));
        assert!(!handle.is_alive());
        assert_eq!(handle.submit(request(99, &[1], 1).0), Err(refusal));
        let stats = handle.stats();
        assert_eq!((stats.running, stats.waiting), (0, 0));
    }
}

#[test]
fn an_idle_engine_answers() {
    let (handle, thread) = start(|_| {});
    let (_, record) = submit(&handle, 5);
    wait_for(|| record.end().is_some());
    wait_for(|| handle.stats().running == 0);
    let stats = handle.stats();
    assert_eq!((stats.waiting, stats.generation_tokens, stats.steps), (0, 5, 5));
    assert!(handle.reset_prefix_cache());
    drop(handle);
    assert_eq!(thread.join(), EngineExit::Stopped);
}

#[test]
fn an_executor_has_the_idle_time_and_requests_come_first() {
    let slices = Arc::new(AtomicUsize::new(100_000));
    let (handle, thread) = start(|fake| fake.idle_slices = Arc::clone(&slices));
    let left = || slices.load(Ordering::SeqCst);
    wait_for(|| left() < 99_990);
    let (_, record) = submit(&handle, 5);
    wait_for(|| record.finish().is_some());
    assert!(left() > 1000, "the request did not wait for all of it");
    let then = left();
    wait_for(|| left() < then);
    slices.store(1, Ordering::SeqCst);
    wait_for(|| left() == 0);
    handle.shutdown(Duration::ZERO);
    assert_eq!(thread.join(), EngineExit::Stopped);
}
