//! GEMM tuning: which kernel a device should use for each product of a model, found by measuring and kept in a file.
//!
//! A device offers solutions for a [`octet_backend::GemmProblem`] and can run them
//! ([`octet_backend::GemmDevice`]); everything else is here, and knows no device.
//!
//! - [`Tuner`] works off a queue of problems in small steps, so that a caller can stop between any two, and keeps what
//!   it found in a [`Store`];
//! - `search` finds the best solution of one problem: a cheap pass drops the hopeless, the rest take turns on cold
//!   operands until one is clearly ahead or a limit is reached; a solution whose numbers differ from the default's is
//!   refused;
//! - [`Store`] is a results file in the form of PyTorch's TunableOp, read at start and appended to after each result;
//!   [`Untuned`] is its list of problems that a run has met;
//! - [`Environment`] is what the variables of TunableOp say; [`import`] takes over what PyTorch has found.
//!
//! # The life of a result
//!
//! 1. [`Store::open`] reads the file. If one of its validators differs from the device's, all of it is rejected.
//! 2. [`apply`] hands the rest to the device.
//! 3. [`Tuner::step`] measures what is missing. A result is chosen on the device and written at once, one line at the
//!    end of the file, so that an interrupt loses nothing that was finished.
//!
//! # Invariants
//!
//! - The first entry for a problem wins, in the file and in memory; nothing is ever rewritten.
//! - Concurrent writers cannot tear the file: lines are appended under a lock, and looked at before.
//! - No run starts after a limit has passed. The clock is the caller's.
//! - Whatever is wrong with a file, tuning goes on without it and says why.

mod apply;
mod environment;
mod error;
mod file;
mod file_name;
mod import;
mod line;
mod results;
mod search;
mod settings;
mod statistics;
mod store;
mod synthetic;
mod tuner;
mod untuned;

pub use apply::{Applied, apply};
pub use environment::{Environment, LibraryChoice, VerboseOutput};
pub use error::{ImportError, TuneError};
pub use file_name::{RESULTS_FILE, UNTUNED_FILE, results_file, untuned_file};
pub use import::{TakenOver, import, take_over};
pub use line::LineFault;
pub use results::{Mismatch, Note, Results, TunedGemm};
pub use search::{Measured, Outcome, Refusal, Verdict};
pub use settings::{NumericalCheck, TuningLimits, TuningSettings};
pub use store::{FileState, Kept, Store};
pub use synthetic::SyntheticWeights;
pub use tuner::{Tuned, Tuner, TunerStep};
pub use untuned::{Untuned, read_untuned};
