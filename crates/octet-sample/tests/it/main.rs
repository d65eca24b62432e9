//! The sampler through its public face: against a naive twin that sorts everything, in distribution, and by request.
#![expect(clippy::unwrap_used, reason = "a test panics when its own set-up fails")]

mod distribution;
mod processing;
mod reports;
mod support;
mod truncation;
