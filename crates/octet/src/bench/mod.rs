//! `octet bench`: measurements with vLLM's flags, work and printed form, each beside what the machine could do at best.
//!
//! `latency.rs` runs and times; `report.rs` compares with the floor, prints and writes JSON.

pub(crate) mod latency;
pub(crate) mod report;
