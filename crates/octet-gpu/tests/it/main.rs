//! The kernels as the real compilers see them, and the backend on simulated devices.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod blas;
mod bundle;
mod cache;
mod conformance;
mod decoder;
mod faults;
mod gates;
mod sampling;
mod simulator;
mod tuning;
