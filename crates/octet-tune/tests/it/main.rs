//! Tests of the crate from outside: searches on a device and a clock of their own, files and who else writes them.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fake;
mod files;
mod import;
mod limits;
mod races;
mod tuning;
