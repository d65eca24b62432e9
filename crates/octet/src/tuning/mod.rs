//! GEMM tuning as the program does it: flags and variables become a plan, a plan becomes a session beside a model.
//!
//! - `plan.rs` is what was asked for; `session.rs` a results file, a tuner and their reports; `runner.rs` a model with a
//!   session, which is what engines run; `found.rs` and `table.rs` are what is said before and after.

mod found;
mod plan;
mod runner;
mod session;
mod table;

pub(crate) use plan::{GemmMode, GemmPlan};
pub(crate) use runner::TunedRunner;
pub(crate) use session::Session;
