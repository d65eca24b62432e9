//! The slow scalar backend: the oracle that every other backend is held against.
//!
//! Each operation is the loop that its formula says, so that it can be checked by reading. Tensors hold `f32`; every
//! sum of products runs in `f64` and is rounded once, when it is stored, so that what another backend differs by is
//! that backend's own rounding.
//!
//! - [`ReferenceBackend`] implements [`octet_backend::Backend`] on one thread.
//! - [`ReferenceLinear`]: a weight widened to `f32` at load, after the rounding that its storage type asks for.
//! - [`ReferenceKvCache`]: keys and values with the rounding of the cache's storage type, widened back. A quantized
//!   cache is thus modelled exactly, though it takes the memory of `f32`. What was never written is NaN, so that
//!   reading it shows.
//! - [`round_to`]: the rounding itself, for tests that need to know what a storage type keeps of a number.
//!
//! The life of a backend: a model loads its weights and allocates tensors and cache, then each step calls
//! `begin_step` with a batch, which is checked for contradictions and copied, and the operations read it from the
//! copy.
//!
//! # Architecture invariant
//!
//! A row's result depends on nothing but that row's inputs, to the bit: no loop here ever sums over rows.
#![forbid(unsafe_code)]

mod attention;
mod backend;
mod kv_cache;
mod memory;
mod rounding;
mod weight;

pub use backend::{ReferenceBackend, ReferenceTensor};
pub use kv_cache::ReferenceKvCache;
pub use rounding::round_to;
pub use weight::ReferenceLinear;
