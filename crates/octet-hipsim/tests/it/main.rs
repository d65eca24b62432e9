//! The simulator, used as the engine uses it: its shared library is opened, and only C functions are called.

mod gpu;

mod execution;
