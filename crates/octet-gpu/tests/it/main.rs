//! The kernels as the real compilers see them, and the backend on simulated devices.

mod cache;
mod conformance;
mod decoder;
mod faults;
mod gates;
mod simulator;
