//! The device as RAII types over HIP or CUDA: memory, streams, events, graphs, modules.
//!
//! Every call returns an error instead of panicking; what is dropped is given back to the runtime, whose errors at that
//! point have nobody to hear them.

mod api;
mod device;
mod memory;
mod module;
mod stream;
mod wait;

pub use api::Kind;
pub(crate) use api::{Handle, LoadedCompiler, table};
pub(crate) use device::Pointer;
pub use device::{Device, DeviceReport, Runtime, device_was_lost};
pub(crate) use memory::{DeviceBuffer, HostBuffer};
pub(crate) use module::{Function, Module};
pub(crate) use stream::{Event, Graph, Stream};
pub use wait::Activity;
