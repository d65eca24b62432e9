//! Logits to tokens: masks, penalties, temperature, truncation, the draw, and logprobs.
//!
//! - [`SamplingParams`]: what a request asks for, a plain value that the engine carries.
//! - [`SequenceState`]: what sampling remembers of one sequence: how many tokens are out, which ones (only as far as
//!   penalties and bad words need it). It is made when a sequence is admitted and lives until it ends.
//! - [`Sampler`]: scratch memory and the algorithm. One for each thread; it remembers nothing from row to row.
//! - [`SampledToken`]: the answer, with logprobs if the request wants them.
//!
//! A row of logits goes through these stages, in vLLM's order: allowed ids, bad words, minimum length, bias, penalties;
//! then the most likely token for temperature 0, or temperature, min-p, top-k, top-p, and one draw.
//!
//! # Cost
//!
//! A vocabulary has some hundred thousand entries, so the passes over it are counted. Greedy: one. Temperature alone:
//! the maximum, one pass of exponentials, and a second look at one chunk of 1024. With top-k: the maximum, and a
//! pass that skips what is below the k-th best so far; exponentials only of those k. With top-p: one pass of
//! exponentials, then only the tokens that can still matter, split in halves by weight instead of sorted.
//!
//! # Invariants
//!
//! A token depends on its row, its sequence's state and its seed alone, never on other rows. The draw number `n` of a seed
//! is a function of `(seed, n)`, so a sequence that is preempted and computed again continues as it would have.
//! A row that cannot be sampled is a [`SampleError`] of that row.
#![forbid(unsafe_code)]

mod candidates;
mod error;
mod logprobs;
mod params;
mod random;
mod sampler;
mod sequence;
mod vocabulary;

pub use error::SampleError;
pub use params::{LogprobCount, LogprobsMode, PositionLogprobs, SampledToken, SamplingParams, TokenLogprob};
pub use sampler::Sampler;
pub use sequence::SequenceState;
