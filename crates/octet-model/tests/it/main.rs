//! Checkpoints against independent results: transformers' logits, dequantized twins, and every kind of bad input.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bad_input;
mod budget;
mod facts;
mod files;
mod golden;
mod invariance;
mod kv_cache;
mod layouts;
mod pooling;
mod preemption;
mod support;
