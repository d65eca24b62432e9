//! Flags of `octet bench latency`.

use std::path::PathBuf;

use clap::Args;

use crate::cli::tuning::GemmArgs;
use crate::cli::{EngineArgs, parse_count};

/// Latency of whole batches of random prompts.
#[derive(Args, Debug)]
pub(crate) struct LatencyArgs {
    /// A folder or a Hub id; with --load-format dummy also a config.json, or a shape inside this program: llama-3-8b,
    /// llama-3.2-1b, qwen3-0.6b, llama-160m. Without it: the small model inside this program.
    #[arg(long)]
    pub(crate) model: Option<String>,

    #[command(flatten)]
    pub(crate) engine: EngineArgs,

    #[command(flatten)]
    pub(crate) gemm: GemmArgs,

    /// Tokens of each prompt.
    #[arg(long, default_value = "32", value_parser = parse_count, help_heading = "Work")]
    pub(crate) input_len: usize,
    /// Tokens generated for each prompt.
    #[arg(long, default_value = "128", value_parser = parse_count, help_heading = "Work")]
    pub(crate) output_len: usize,
    /// Prompts of a batch.
    #[arg(long, default_value = "8", value_parser = parse_count, help_heading = "Work")]
    pub(crate) batch_size: usize,
    /// Sequences generated from each prompt.
    #[arg(long, default_value = "1", value_parser = parse_count, help_heading = "Work")]
    pub(crate) n: usize,
    /// Batches before the measurement.
    #[arg(long, default_value_t = 10, help_heading = "Work")]
    pub(crate) num_iters_warmup: usize,
    /// Batches measured.
    #[arg(long, default_value = "30", value_parser = parse_count, help_heading = "Work")]
    pub(crate) num_iters: usize,
    /// Also write the results as JSON.
    #[arg(long, value_name = "FILE", help_heading = "Work")]
    pub(crate) output_json: Option<PathBuf>,
    /// Token ids are never turned into text here, so this is always so.
    #[arg(long, hide = true)]
    pub(crate) disable_detokenize: bool,
}
