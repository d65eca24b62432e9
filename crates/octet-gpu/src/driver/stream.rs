//! Streams, events and recorded graphs.

use std::ffi::c_int;
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::GpuError;
use crate::driver::Device;
use crate::driver::api::{Functions, Handle};
use crate::driver::device::Pointer;
use crate::driver::wait::{self, Activity, Pace};

/// What is inside is plain values that every holder leaves whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Work in order, beside the host.
pub(crate) struct Stream {
    device: Device,
    handle: Pointer,
    pace: Mutex<Pace>,
    activity: Mutex<Activity>,
}

impl Stream {
    pub(crate) fn new(device: &Device) -> Result<Self, GpuError> {
        /// Not ordered against the stream that everybody shares.
        const NON_BLOCKING: u32 = 1;
        device.bind()?;
        let mut handle = ptr::null_mut();
        // SAFETY: the pointer is to a local variable.
        let status = unsafe { (device.api().functions.create_stream)(&raw mut handle, NON_BLOCKING) };
        device.api().check("create_stream", status)?;
        let (pace, activity) = (Mutex::default(), Mutex::default());
        Ok(Self { device: device.clone(), handle: Pointer(handle), pace, activity })
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    pub(crate) fn handle(&self) -> Handle {
        self.handle.0
    }

    /// Notes what it is at work on from now on, for the report of work that does not end.
    pub(crate) fn begin(&self, activity: Activity) {
        *lock(&self.activity) = activity;
    }

    /// Waits until all of it is done, or until the device's limit has passed.
    ///
    /// # Errors
    /// Of the driver, and of work that failed since the last wait; work that does not end.
    pub(crate) fn wait(&self) -> Result<(), GpuError> {
        self.device.bind()?;
        if self.device.limit().is_some() {
            let activity = *lock(&self.activity);
            let call = Functions::name_of(self.device.api().kind, "query_stream");
            return wait::until_done(&self.device, (&mut lock(&self.pace), activity), call, || {
                // SAFETY: the handle is ours.
                unsafe { (self.device.api().functions.query_stream)(self.handle.0) }
            });
        }
        // SAFETY: the handle is ours.
        let status = unsafe { (self.device.api().functions.wait_for_stream)(self.handle.0) };
        self.device.api().check("wait_for_stream", status)
    }

    /// Records what `body` starts on this stream instead of running it.
    ///
    /// # Errors
    /// The body's, or the driver's: the recording is then ended and thrown away.
    pub(crate) fn record<E: From<GpuError>>(&self, body: impl FnOnce() -> Result<(), E>) -> Result<Graph, E> {
        /// Calls of other threads are none of this recording's business.
        const THREAD_LOCAL: c_int = 1;
        let functions = &self.device.api().functions;
        // SAFETY: the handle is ours.
        let status = unsafe { (functions.begin_capture)(self.handle.0, THREAD_LOCAL) };
        self.device.api().check("begin_capture", status)?;
        let result = body();
        let mut graph = ptr::null_mut();
        // SAFETY: the pointer is to a local variable; the recording was begun above.
        let status = unsafe { (functions.end_capture)(self.handle.0, &raw mut graph) };
        let recorded = RecordedGraph { device: self.device.clone(), handle: graph };
        result?;
        self.device.api().check("end_capture", status)?;
        let mut exec = ptr::null_mut();
        // SAFETY: the graph was just recorded; no log is asked for.
        let status = unsafe {
            (functions.instantiate_graph)(&raw mut exec, recorded.handle, ptr::null_mut(), ptr::null_mut(), 0)
        };
        self.device.api().check("instantiate_graph", status)?;
        Ok(Graph { device: self.device.clone(), exec: Pointer(exec) })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            // SAFETY: ours, destroyed once; the driver finishes its work first.
            unsafe { (self.device.api().functions.destroy_stream)(self.handle.0) };
        }
    }
}

/// A recording before it is made runnable.
struct RecordedGraph {
    device: Device,
    handle: Handle,
}

impl Drop for RecordedGraph {
    fn drop(&mut self) {
        if !self.handle.is_null() && !self.device.is_lost() {
            // SAFETY: ours, destroyed once.
            unsafe { (self.device.api().functions.destroy_graph)(self.handle) };
        }
    }
}

/// A recorded step, ready to be replayed.
pub(crate) struct Graph {
    device: Device,
    exec: Pointer,
}

impl Graph {
    /// Starts it on a stream.
    ///
    /// # Errors
    /// Of the driver.
    pub(crate) fn launch(&self, stream: &Stream) -> Result<(), GpuError> {
        // SAFETY: both handles are ours; the owner of the graph keeps the buffers that it names.
        let status = unsafe { (self.device.api().functions.launch_graph)(self.exec.0, stream.handle()) };
        self.device.api().check("launch_graph", status)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            // SAFETY: ours, destroyed once.
            unsafe { (self.device.api().functions.destroy_graph_exec)(self.exec.0) };
        }
    }
}

/// A point in a stream.
pub(crate) struct Event {
    device: Device,
    handle: Pointer,
}

impl Event {
    /// An event that takes no time, which makes it cheaper.
    ///
    /// # Errors
    /// Of the driver.
    pub(crate) fn new(device: &Device) -> Result<Self, GpuError> {
        const WITHOUT_TIMING: u32 = 2;
        Self::with_flags(device, WITHOUT_TIMING)
    }

    /// An event whose time can be compared.
    ///
    /// # Errors
    /// Of the driver.
    pub(crate) fn timed(device: &Device) -> Result<Self, GpuError> {
        Self::with_flags(device, 0)
    }

    fn with_flags(device: &Device, flags: u32) -> Result<Self, GpuError> {
        device.bind()?;
        let mut handle = ptr::null_mut();
        // SAFETY: the pointer is to a local variable.
        let status = unsafe { (device.api().functions.create_event)(&raw mut handle, flags) };
        device.api().check("create_event", status)?;
        Ok(Self { device: device.clone(), handle: Pointer(handle) })
    }

    /// Marks the stream's present end.
    ///
    /// # Errors
    /// Of the driver.
    pub(crate) fn record(&self, stream: &Stream) -> Result<(), GpuError> {
        // SAFETY: both handles are ours.
        let status = unsafe { (self.device.api().functions.record_event)(self.handle.0, stream.handle()) };
        self.device.api().check("record_event", status)
    }

    /// Waits until the stream has come here.
    ///
    /// # Errors
    /// Of the driver.
    pub(crate) fn wait(&self) -> Result<(), GpuError> {
        self.device.bind()?;
        if self.device.limit().is_some() {
            let call = Functions::name_of(self.device.api().kind, "query_event");
            let quick = (&mut Pace::default(), Activity::default());
            return wait::until_done(&self.device, quick, call, || {
                // SAFETY: the handle is ours.
                unsafe { (self.device.api().functions.query_event)(self.handle.0) }
            });
        }
        // SAFETY: the handle is ours.
        let status = unsafe { (self.device.api().functions.wait_for_event)(self.handle.0) };
        self.device.api().check("wait_for_event", status)
    }
}

impl Event {
    /// How long after `start` it happened. Both have happened and are timed.
    ///
    /// # Errors
    /// Of the driver.
    pub(crate) fn since(&self, start: &Self) -> Result<Duration, GpuError> {
        let mut milliseconds = 0.0f32;
        let api = self.device.api();
        // SAFETY: both handles are ours, the pointer is to a local variable.
        let status =
            unsafe { (api.functions.elapsed_time)(&raw mut milliseconds, start.handle.0, self.handle.0) };
        api.check("elapsed_time", status)?;
        Ok(Duration::try_from_secs_f32(milliseconds / 1e3).unwrap_or_default())
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            // SAFETY: ours, destroyed once.
            unsafe { (self.device.api().functions.destroy_event)(self.handle.0) };
        }
    }
}
