//! Flags of `octet bench throughput`.

use std::convert::Infallible;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::DatasetArgs;
use super::refused::refuse;
use crate::cli::{EngineArgs, parse_count};

/// How fast the engine works off a data set. All prompts wait from the start: nothing but the engine sets the pace.
/// Tokens are never turned into text here.
#[derive(Args, Debug)]
pub(crate) struct ThroughputArgs {
    /// A folder or a Hub id; with --load-format dummy also a config.json, or a shape inside this program: llama-3-8b,
    /// llama-3.2-1b, qwen3-0.6b, llama-160m. Without it: the small model inside this program.
    #[arg(long)]
    pub(crate) model: Option<String>,

    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    #[command(flatten)]
    pub(crate) dataset: DatasetArgs,

    /// What runs the model: only Octet's own engine, which also answers to vLLM's name.
    #[arg(long, value_enum, default_value = "vllm", help_heading = "Work")]
    pub(crate) backend: Backend,
    /// Folder of the tokenizer, if it is not the model's. Only `sharegpt` needs one.
    #[arg(long, value_name = "FOLDER", help_heading = "Work")]
    pub(crate) tokenizer: Option<PathBuf>,
    /// Sequences generated from each prompt.
    #[arg(long, default_value = "1", value_parser = parse_count, help_heading = "Work")]
    pub(crate) n: usize,
    /// Prompts worked off before the measurement; none of them is measured.
    #[arg(long, default_value_t = 0, value_name = "COUNT", help_heading = "Work")]
    pub(crate) num_warmups: usize,
    /// Also write the results as JSON.
    #[arg(long, value_name = "FILE", help_heading = "Work")]
    pub(crate) output_json: Option<PathBuf>,
    /// Token ids are never turned into text here, so this is always so.
    #[arg(long, hide = true)]
    pub(crate) disable_detokenize: bool,
    /// All requests wait before the first step, so this is always so.
    #[arg(long, hide = true)]
    pub(crate) prequeue_requests: bool,

    #[command(flatten)]
    pub(crate) refused: RefusedArgs,
}

/// What runs the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backend {
    /// The engine of this program.
    #[value(alias = "octet")]
    Vllm,
}

/// Flags of vLLM's that have no meaning here.
#[derive(Args, Debug)]
pub(crate) struct RefusedArgs {
    #[arg(long, hide = true, num_args = 0.., default_missing_value = "",
          value_parser = refuse("the engine runs in this process; for a server's path use `octet bench serve`"))]
    pub(crate) async_engine: Option<Infallible>,
    #[arg(long, hide = true, num_args = 0.., default_missing_value = "", alias = "enable-lora",
          value_parser = refuse("LoRA adapters are not supported"))]
    pub(crate) lora_path: Option<Infallible>,
    #[arg(long, hide = true, num_args = 0.., default_missing_value = "",
          value_parser = refuse("there is no built-in profiler; use the system's, such as perf"))]
    pub(crate) profile: Option<Infallible>,
}
