//! What can go wrong when the CPU backend starts. Operations after that return `BackendError`.

/// Why the CPU backend could not start.
#[derive(Debug, thiserror::Error)]
pub enum CpuError {
    /// A list of CPUs could not be read.
    #[error(
        "the thread binding {text:?} cannot be read: {reason}; expected auto, nobind, or lists of CPUs such as \
         0-31 or 0,2,4-7, one list for each rank with | between them"
    )]
    BindingSyntax {
        /// The whole text.
        text: String,
        /// Which part of it, and why.
        reason: String,
    },
    /// Lists for several ranks.
    #[error(
        "the thread binding {text:?} names CPUs of {ranks} ranks, and there is one: write {all:?} to use them all, or run \
         one server for each list"
    )]
    BindingRanks {
        /// The whole text.
        text: String,
        /// How many ranks it is for.
        ranks: usize,
        /// The same CPUs for one rank.
        all: String,
    },
    /// A CPU that this process may not run on.
    #[error("the thread binding names CPU {cpu}, but this process may only run on {allowed}")]
    CpuNotAllowed {
        /// The CPU.
        cpu: usize,
        /// What the affinity mask allows, as a list.
        allowed: String,
    },
    /// More threads than the binding has CPUs, or none at all.
    #[error("{asked} threads were asked for; with this binding 1 to {limit} are possible")]
    ThreadCount {
        /// Threads asked for.
        asked: usize,
        /// The most that the binding or the pool allows.
        limit: usize,
    },
    /// An instruction set that this machine lacks.
    #[error("the instruction set {asked} is not available on this CPU; available: {available}")]
    InstructionSet {
        /// The name asked for.
        asked: String,
        /// The names that would do.
        available: String,
    },
    /// No memory for the kernels' own needs.
    #[error(transparent)]
    Backend(#[from] octet_backend::BackendError),
    /// The system refused a thread.
    #[error("a worker thread could not be started: {0}")]
    Spawn(#[from] std::io::Error),
}
