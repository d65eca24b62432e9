//! The whole HTTP stack over real sockets, with an executor that writes a known text.
#![allow(
    clippy::unwrap_used,
    reason = "clippy sees that a function is a test's only where it has the attribute"
)]

mod bad_input;
mod bodies;
mod chat;
mod client;
mod completions;
mod connections;
mod edges;
mod embeddings;
mod executor;
mod fairness;
mod life;
mod server;
mod small;
