//! The simulator, used as the engine uses it: its shared library is opened, and only C functions are called.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod gpu;

mod blaslt;
mod devices;
mod execution;
mod float8;
mod matrix;
mod number;
mod programs;
mod streams;
mod wave;
