//! Streams, events and graphs: what runs later, what waits for what, and what a capture refuses.

use std::ffi::c_void;

use crate::gpu::{
    Buffer, Handle, Kernel, hipDeviceSynchronize, hipEventCreateWithFlags, hipEventDestroy,
    hipEventElapsedTime, hipEventQuery, hipEventRecord, hipEventSynchronize, hipFree, hipGraphDestroy,
    hipGraphExecDestroy, hipGraphInstantiate, hipGraphLaunch, hipHostFree, hipHostMalloc, hipMalloc,
    hipMemcpy, hipMemcpyAsync, hipMemsetAsync, hipStreamBeginCapture, hipStreamCreateWithFlags,
    hipStreamDestroy, hipStreamEndCapture, hipStreamIsCapturing, hipStreamQuery, hipStreamSynchronize,
    hipStreamWaitEvent, in_process, is_child, stream, use_device,
};

/// Adds to a number: `value += by`.
const ADD: &str = "struct Params { int* value; int by; };
HIPSIM_KERNEL(add, 64, Params) { if (__builtin_amdgcn_workitem_id_x() == 0) *p.value += p.by; }";

#[repr(C)]
struct Add {
    value: *mut i32,
    by: i32,
}

fn add(kernel: Kernel, stream: Handle, value: &Buffer<i32>, by: i32) -> i32 {
    kernel.launch(stream, [1, 1, 1], 64, &Add { value: value.address, by })
}

fn pinned(count: usize) -> &'static mut [i32] {
    let mut address: *mut c_void = std::ptr::null_mut();
    assert_eq!(hipHostMalloc(&raw mut address, count * 4, 0), 0);
    // SAFETY: the memory was just allocated, and every pattern of bits is a number.
    unsafe { std::slice::from_raw_parts_mut(address.cast(), count) }
}

fn event() -> Handle {
    let mut event = 0;
    assert_eq!(hipEventCreateWithFlags(&raw mut event, 0), 0);
    event
}

/// Runs a test in a process whose streams take their time, so that what does not wait comes too early.
fn with_delay(name: &str) -> bool {
    if !is_child() {
        in_process(name, &[("OCTET_HIPSIM_DELAY_US", "20000")]);
    }
    is_child()
}

#[test]
fn work_runs_later() {
    octet_unrun::needs!(octet_hipsim::compiler());
    if !with_delay("streams::work_runs_later") {
        return;
    }
    let kernel = Kernel::new("gfx942", "add", ADD);
    let (own, value, host) = (stream(), Buffer::of(&[1]), pinned(1));
    assert_eq!(add(kernel, own, &value, 41), 0);
    assert_eq!(hipMemcpyAsync(host.as_mut_ptr().cast(), value.address.cast(), 4, 2, own), 0);
    assert_eq!(host[0], -1, "nothing has happened yet: the poison is still there");
    assert_eq!(hipStreamQuery(own), 600);
    assert_eq!(hipStreamSynchronize(own), 0);
    assert_eq!(host[0], 42);
    assert_eq!(hipStreamQuery(own), 0);
    // What is changed before it was read is read changed.
    host[0] = 5;
    assert_eq!(hipMemcpyAsync(value.address.cast(), host.as_ptr().cast(), 4, 1, own), 0);
    host[0] = 6;
    assert_eq!(hipStreamSynchronize(own), 0);
    assert_eq!(value.values(), [6]);
    // Pageable memory is read by the call, and written before it returns.
    let mut pageable = [7];
    assert_eq!(hipMemcpyAsync(value.address.cast(), pageable.as_ptr().cast(), 4, 1, own), 0);
    pageable[0] = 8;
    assert_eq!(hipMemcpyAsync(pageable.as_mut_ptr().cast(), value.address.cast(), 4, 2, own), 0);
    assert_eq!(pageable[0], 7);
    assert_eq!(hipHostFree(host.as_mut_ptr().cast()), 0);
    assert_eq!(hipStreamDestroy(own), 0);
    assert_eq!(hipStreamSynchronize(own), 400, "no stream any more");
}

#[test]
fn streams_wait_for_events_and_not_else() {
    octet_unrun::needs!(octet_hipsim::compiler());
    if !with_delay("streams::streams_wait_for_events_and_not_else") {
        return;
    }
    let kernel = Kernel::new("gfx942", "add", ADD);
    let (first, second, host) = (stream(), stream(), pinned(2));
    let value = Buffer::of(&[0]);
    let copy = |to: &mut i32| hipMemcpyAsync((&raw mut *to).cast(), value.address.cast(), 4, 2, second);
    for _ in 0..5 {
        assert_eq!(add(kernel, first, &value, 1), 0);
    }
    assert_eq!(copy(&mut host[0]), 0);
    let done = event();
    assert_eq!(hipEventRecord(done, first), 0);
    assert_eq!(hipEventQuery(done), 600);
    assert_eq!(hipStreamWaitEvent(second, done, 0), 0);
    assert_eq!(copy(&mut host[1]), 0);
    assert_eq!(hipStreamSynchronize(second), 0);
    assert!(host[0] < 5, "it did not wait: {}", host[0]);
    assert_eq!(host[1], 5);
    assert_eq!(hipEventSynchronize(done), 0);
    let (later, mut milliseconds) = (event(), 0.0);
    assert_eq!(hipEventElapsedTime(&raw mut milliseconds, done, later), 400, "never recorded");
    assert_eq!(hipEventRecord(later, second), 0);
    assert_eq!(hipEventElapsedTime(&raw mut milliseconds, done, later), 600);
    assert_eq!(hipEventSynchronize(later), 0);
    assert_eq!(hipEventElapsedTime(&raw mut milliseconds, done, later), 0);
    assert!(milliseconds >= 20.0, "two works with 20 ms before each: {milliseconds}");
    assert_eq!(hipEventDestroy(done), 0);
    assert_eq!(hipEventRecord(done, first), 400);
}

#[test]
fn the_default_stream_waits_for_blocking_streams() {
    octet_unrun::needs!(octet_hipsim::compiler());
    if !with_delay("streams::the_default_stream_waits_for_blocking_streams") {
        return;
    }
    let kernel = Kernel::new("gfx942", "add", ADD);
    let value = Buffer::of(&[0]);
    let mut blocking = 0;
    assert_eq!(hipStreamCreateWithFlags(&raw mut blocking, 0), 0);
    for _ in 0..3 {
        assert_eq!(add(kernel, blocking, &value, 1), 0);
    }
    assert_eq!(value.values(), [3]);
    let free = stream();
    for _ in 0..3 {
        assert_eq!(add(kernel, free, &value, 1), 0);
    }
    assert!(value.values()[0] < 6, "a non-blocking stream is not waited for");
    assert_eq!(hipDeviceSynchronize(), 0);
    assert_eq!(value.values(), [6]);
}

#[test]
fn graphs_replay_what_was_captured() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let kernel = Kernel::new("gfx942", "add", ADD);
    let (own, other, host) = (stream(), stream(), pinned(1));
    let value = Buffer::of(&[100]);
    assert_eq!(hipStreamBeginCapture(own, 1), 0);
    let mut status = 0;
    assert_eq!(hipStreamIsCapturing(own, &raw mut status), 0);
    assert_eq!(status, 1);
    assert_eq!(add(kernel, own, &value, 1), 0);
    // A branch on another stream, joined again.
    let (fork, join) = (event(), event());
    assert_eq!(hipEventRecord(fork, own), 0);
    assert_eq!(hipStreamWaitEvent(other, fork, 0), 0);
    assert_eq!(add(kernel, other, &value, 10), 0);
    assert_eq!(hipEventRecord(join, other), 0);
    assert_eq!(hipEventQuery(join), 907, "a captured event does not happen");
    assert_eq!(hipStreamWaitEvent(own, join, 0), 0);
    assert_eq!(hipMemcpyAsync(host.as_mut_ptr().cast(), value.address.cast(), 4, 2, own), 0);
    let (mut graph, mut executable) = (0, 0);
    assert_eq!(hipStreamEndCapture(own, &raw mut graph), 0);
    assert_eq!(value.values(), [100], "capturing does nothing");
    let null = std::ptr::null_mut();
    assert_eq!(hipGraphInstantiate(&raw mut executable, graph, null, null.cast(), 0), 0);
    assert_eq!(hipGraphDestroy(graph), 0);
    for launch in 1..=3 {
        assert_eq!(hipGraphLaunch(executable, own), 0);
        assert_eq!(hipStreamSynchronize(own), 0);
        assert_eq!(host[0], 100 + 11 * launch);
    }
    assert_eq!(hipGraphExecDestroy(executable), 0);
    assert_eq!(hipGraphLaunch(executable, own), 400);
}

/// Begins a capture, does something that it refuses with a code, and ends the capture, which is spoilt.
fn refused(code: i32, act: impl FnOnce(Handle) -> i32) {
    let (own, mut graph) = (stream(), 0);
    assert_eq!(hipStreamBeginCapture(own, 1), 0);
    assert_eq!(act(own), code);
    assert_eq!(hipStreamEndCapture(own, &raw mut graph), 901);
    assert_eq!(hipStreamSynchronize(own), 0, "the stream works again");
}

#[test]
fn captures_refuse_what_cannot_be_captured() {
    use_device("gfx942");
    let value = Buffer::of(&[1]);
    let mut address: *mut c_void = std::ptr::null_mut();
    refused(900, |_| hipMalloc(&raw mut address, 16));
    refused(900, |_| hipFree(value.address.cast()));
    refused(900, |_| hipDeviceSynchronize());
    refused(900, hipStreamSynchronize);
    refused(900, hipStreamQuery);
    let mut pageable = [0];
    refused(900, |_| hipMemcpy(pageable.as_mut_ptr().cast(), value.address.cast(), 4, 2));
    refused(900, |own| hipMemcpyAsync(pageable.as_mut_ptr().cast(), value.address.cast(), 4, 2, own));
    refused(905, |own| {
        let happened = event();
        assert_eq!(hipEventRecord(happened, 0), 0);
        hipStreamWaitEvent(own, happened, 0)
    });
    assert_eq!(hipStreamBeginCapture(0, 1), 900, "not the default stream");
    let (own, mut graph) = (stream(), 0);
    assert_eq!(hipStreamEndCapture(own, &raw mut graph), 903, "it was not begun");
    assert_eq!(hipStreamBeginCapture(own, 1), 0);
    assert_eq!(hipStreamBeginCapture(own, 1), 900, "twice");
    let other_thread = std::thread::spawn(move || hipStreamEndCapture(own, &raw mut graph));
    assert_eq!(other_thread.join().unwrap(), 908);
    assert_eq!(hipMemsetAsync(value.address.cast(), 0, 4, own), 0);
    assert_eq!(hipStreamEndCapture(own, &raw mut graph), 0);
}

#[test]
fn a_branch_must_be_joined() {
    use_device("gfx942");
    let (own, other, value, fork, mut graph) = (stream(), stream(), Buffer::of(&[1]), event(), 0);
    assert_eq!(hipStreamBeginCapture(own, 2), 0);
    assert_eq!(hipEventRecord(fork, own), 0);
    assert_eq!(hipStreamWaitEvent(other, fork, 0), 0);
    assert_eq!(hipMemsetAsync(value.address.cast(), 0, 4, other), 0);
    assert_eq!(hipStreamEndCapture(own, &raw mut graph), 904);
}

#[test]
fn a_kernel_that_never_ends_can_be_had() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let name = "streams::a_kernel_that_never_ends_can_be_had";
    if !is_child() {
        let text = in_process(name, &[("OCTET_HIPSIM_HANG", "add:2")]);
        assert!(text.contains("kernel add never ends"), "{text}");
        return;
    }
    let kernel = Kernel::new("gfx942", "add", ADD);
    let (own, value) = (stream(), Buffer::of(&[0]));
    assert_eq!(add(kernel, own, &value, 1), 0);
    assert_eq!(hipStreamSynchronize(own), 0);
    assert_eq!(add(kernel, own, &value, 1), 0);
    let started = std::time::Instant::now();
    while started.elapsed().as_millis() < 300 {
        assert_eq!(hipStreamQuery(own), 600);
        std::thread::yield_now();
    }
    assert_eq!(value.values(), [1]);
}

#[test]
fn a_kernel_that_fails_can_be_had() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let name = "streams::a_kernel_that_fails_can_be_had";
    if !is_child() {
        in_process(name, &[("OCTET_HIPSIM_FAULT", "add")]);
        return;
    }
    let kernel = Kernel::new("gfx942", "add", ADD);
    let (own, value) = (stream(), Buffer::of(&[0]));
    assert_eq!(add(kernel, own, &value, 1), 0);
    assert_eq!(hipStreamSynchronize(own), 719);
    assert_eq!(add(kernel, own, &value, 1), 719);
}

#[test]
fn a_graph_over_freed_memory_is_a_fault() {
    if !is_child() {
        in_process("streams::a_graph_over_freed_memory_is_a_fault", &[]);
        return;
    }
    use_device("gfx942");
    let (own, value, mut graph, mut executable) = (stream(), Buffer::of(&[1]), 0, 0);
    assert_eq!(hipStreamBeginCapture(own, 1), 0);
    assert_eq!(hipMemsetAsync(value.address.cast(), 0, 4, own), 0);
    assert_eq!(hipStreamEndCapture(own, &raw mut graph), 0);
    let null = std::ptr::null_mut();
    assert_eq!(hipGraphLaunch(graph, own), 400, "it is not executable");
    assert_eq!(hipGraphInstantiate(&raw mut executable, graph, null, null.cast(), 0), 0);
    assert_eq!(hipFree(value.address.cast()), 0);
    assert_eq!(hipGraphLaunch(executable, own), 0);
    assert_eq!(hipStreamSynchronize(own), 700);
}
