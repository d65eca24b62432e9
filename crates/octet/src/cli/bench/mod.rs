//! Flags of `octet bench`: one file for each measurement, and one for the data sets that two of them share.

mod dataset;
mod latency;
mod refused;
mod serve;
mod throughput;

use clap::Subcommand;

pub(crate) use dataset::{DatasetArgs, DatasetName, RangeRatio};
pub(crate) use latency::LatencyArgs;
pub(crate) use serve::{Api, LoadArgs, Objective, PromptForm, RampUp, ServeArgs};
pub(crate) use throughput::ThroughputArgs;

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Latency of whole batches of random prompts: vLLM's `bench latency`.
    Latency(Box<LatencyArgs>),
    /// A running server of OpenAI's API under load, Octet or any other: vLLM's `bench serve`.
    Serve(Box<ServeArgs>),
    /// How fast the engine, in this process, works off a data set: vLLM's `bench throughput`.
    Throughput(Box<ThroughputArgs>),
}
