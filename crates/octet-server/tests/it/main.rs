//! The whole HTTP stack over real sockets, with an executor that writes a known text.

mod bad_input;
mod chat;
mod client;
mod completions;
mod executor;
mod life;
mod server;
mod small;
