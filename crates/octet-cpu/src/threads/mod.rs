//! The pool of pinned workers that every kernel runs on.
//!
//! [`Pool::run`] forks a closure to all workers and joins them in about a microsecond while the pool is hot: workers
//! spin a little between the operations of a step. After that they park, so that an idle server uses no CPU.
//!
//! - `binding`: which CPUs the user named;
//! - `topology`: which CPUs there are, and which share a core;
//! - `plan`: the decision made from those: a pure function;
//! - `pool`: the workers.

mod binding;
mod plan;
mod pool;
mod topology;

pub use binding::ThreadBinding;
pub(crate) use binding::parse_cpu_list;
pub use plan::PoolOptions;
pub use pool::Pool;
pub(crate) use topology::allowed_cpus;
