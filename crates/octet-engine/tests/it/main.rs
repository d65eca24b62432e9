//! The engine against a model of the KV cache that notices every wrong block, and against itself.
#![allow(missing_docs)]

mod fake;
mod properties;
mod rules;
mod threads;
