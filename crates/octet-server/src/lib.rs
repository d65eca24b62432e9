//! HTTP: OpenAI's API in vLLM's form, metrics, health.
//!
//! The life of the server: the program calls [`bind`] before it loads the model (a port in use fails at once), builds
//! a [`Model`] and an engine, and hands all of it as a [`Service`] to [`run`] or [`serve`], which return when the
//! server has ended.
//!
//! The life of a request: `routes` shows every path on one screen, `endpoint` the way through those that the engine works for. Each
//! of them is a folder: its fields as they travel (`types`), checked once (`validate`), turned into a plan for the
//! engine (`convert`, which tokenises, off the threads that serve connections), and answered (`response`). `intake`
//! bounds what that costs, and sees to it that clients take turns. The fields
//! that completions and chat share are in `parameters`. `submission` hands the engine a request for each
//! sequence, whose events come through a channel; the engine's thread only pushes. `generation` runs a plan by it. Events become text and are gathered, or streamed by `sse`. When the client goes
//! away the generation is dropped and gives its sequences up.
//!
//! `connection` accepts and bounds connections in number and time, `access` writes the line of the log that a request
//! leaves. `error` is the single map from errors to HTTP. `auth` and `cors` decide who may call; `metrics` prints what was
//! counted, under vLLM's names.

mod access;
mod auth;
mod chat;
mod completions;
mod config;
mod connection;
mod cors;
mod embeddings;
mod endpoint;
mod error;
mod generation;
mod health;
mod intake;
mod json;
mod listen;
mod logprobs;
mod metrics;
mod model;
mod models;
mod outline;
mod parameters;
mod prompts;
mod request_id;
mod routes;
mod serve;
mod sse;
mod state;
mod submission;
mod tokenize;
mod usage;

pub use config::{ApiKeyList, CorsConfig, GenerationDefaults, Limits, ResponseConfig, ServerConfig};
pub use connection::ConnectionLimits;
pub use error::ServerError;
pub use listen::{BoundSocket, ListenAddress, bind};
pub use model::{EmbeddingModel, Model};
pub use serve::{Service, run, serve};

/// The version that `/version` says.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// `system_fingerprint` of responses.
const FINGERPRINT: &str = concat!("octet-", env!("CARGO_PKG_VERSION"));
