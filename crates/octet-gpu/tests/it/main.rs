//! The kernels as the real compilers see them, and the backend on simulated devices.

mod conformance;
mod gates;
mod simulator;
