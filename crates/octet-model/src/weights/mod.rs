//! From a checkpoint to packed weights: a plan first, checked as a whole, then the reading and packing.

mod fetch;
mod names;
mod pack;
mod plan;

pub(crate) use fetch::Source;
pub use pack::WeightForm;
pub(crate) use pack::{Packed, pack};
pub(crate) use plan::{PlanOptions, WeightPlan};
