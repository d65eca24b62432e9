//! The engine against a model of the KV cache that notices every wrong block, and against itself.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fake;
mod properties;
mod rules;
mod threads;
