//! Memory: aligned buffers for weights, workspace and the KV cache, and how much of it there is.

mod buffer;
mod cache;
mod report;

pub(crate) use buffer::{AlignedBuffer, Plain};
pub use cache::last_cache_bytes;
pub(crate) use report::device_memory;
