//! Products with weights as the tuner sees them: what decides which kernel is the fastest, and how a device offers a
//! choice.
//!
//! - `bucket`: token counts, grouped so that the tuning of a server comes to an end;
//! - `problem`: one product; `signature`: its name in the files of PyTorch's TunableOp;
//! - `tunable`: what a device with a choice of kernels adds to [`crate::Backend`], and what a tuner drives.

mod bucket;
mod problem;
mod signature;
mod tunable;

pub use bucket::{BucketSet, TokenBucket};
pub use problem::GemmProblem;
pub use signature::SignatureError;
pub use tunable::{GemmDevice, GemmRun, TunableBackend, Validator};
