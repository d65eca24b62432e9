//! Flags that say which model runs and how: shared by every subcommand that loads one.

use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use octet_model::{ConfigOverrides, KvCacheChoice, LoadFormat, MaxModelLen, OnlineQuantization, WeightType};

use super::sizes::{parse_bytes, parse_count, parse_max_model_len};

/// Reads a value by its type's own rules, so that errors name what is supported.
fn parse_with<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.parse::<T>().map_err(|error| error.to_string())
}

/// Model, precision, memory and scheduling.
#[derive(Args, Clone, Debug)]
pub(crate) struct EngineArgs {
    /// Element type of weights and KV cache: `auto` keeps 16-bit checkpoints as they are and casts float32 to bfloat16.
    #[arg(long, default_value = "auto", value_parser = parse_with::<WeightType>, value_name = "TYPE", help_heading = "Model")]
    pub(crate) dtype: WeightType,
    /// Quantize a 16-bit checkpoint while loading: fp8 (one scale a matrix), fp8_per_channel, fp8_per_block (128x128).
    /// For a checkpoint that is quantized already, what it is: fp8, compressed-tensors, quark or modelopt.
    #[arg(short = 'q', long, value_parser = parse_with::<Quantization>, help_heading = "Model", value_name = "SCHEME")]
    pub(crate) quantization: Option<Quantization>,
    /// With --quantization: quantize the output head too. A tied embedding keeps its 16-bit table for look-ups.
    #[arg(long, requires = "quantization", help_heading = "Model")]
    pub(crate) quantize_head: bool,
    /// Where weights come from: `dummy` makes random ones of the config's shape, drawn from --seed.
    #[arg(long, default_value = "auto", value_parser = parse_with::<LoadFormat>, value_name = "auto|safetensors|dummy", help_heading = "Model")]
    pub(crate) load_format: LoadFormat,
    /// Longest sequence, prompt and output together; `auto` takes the longest that fits.
    #[arg(long, value_parser = parse_max_model_len, allow_hyphen_values = true, value_name = "TOKENS|auto", help_heading = "Model")]
    pub(crate) max_model_len: Option<MaxModelLen>,
    /// Values that replace those of the model's config.json, as a JSON object; objects in it are merged key by key.
    #[arg(long, default_value = "", hide_default_value = true, value_parser = parse_with::<ConfigOverrides>, value_name = "JSON", help_heading = "Model")]
    pub(crate) hf_overrides: ConfigOverrides,
    /// Branch, tag or commit of a Hub model.
    #[arg(long, help_heading = "Model")]
    pub(crate) revision: Option<String>,
    /// Folder of the cache for models of the Hub, in place of the one that HF_HUB_CACHE or HF_HOME names.
    #[arg(long, value_name = "FOLDER", help_heading = "Model")]
    pub(crate) download_dir: Option<PathBuf>,
    /// Seed of requests that bring none, of random weights, and of the prefix cache's hashes.
    #[arg(long, default_value_t = 0, help_heading = "Model")]
    pub(crate) seed: u64,

    /// Element type of the KV cache; fp8 is fp8_e4m3 and holds twice the tokens of 16 bits.
    #[arg(long, default_value = "auto", value_parser = parse_with::<KvCacheChoice>, value_name = "TYPE", help_heading = "Memory")]
    pub(crate) kv_cache_dtype: KvCacheChoice,
    /// Tokens in a KV block, a multiple of 16.
    #[arg(long, default_value_t = 16, help_heading = "Memory", value_name = "TOKENS")]
    pub(crate) block_size: usize,
    /// Memory for the KV cache, such as 4G. Without it: VLLM_CPU_KVCACHE_SPACE (GiB), else what --gpu-memory-utilization leaves.
    #[arg(long, value_parser = parse_bytes, help_heading = "Memory", value_name = "BYTES")]
    pub(crate) kv_cache_memory_bytes: Option<usize>,
    /// Share of the machine's memory that weights, workspace and KV cache may take together.
    #[arg(
        long,
        alias = "device-memory-utilization",
        default_value_t = 0.92,
        help_heading = "Memory",
        value_name = "FRACTION"
    )]
    pub(crate) gpu_memory_utilization: f64,
    /// Exactly this many KV blocks, whatever the memory settings say.
    #[arg(long, value_parser = parse_count, help_heading = "Memory", value_name = "BLOCKS")]
    pub(crate) num_gpu_blocks_override: Option<usize>,

    /// Sequences that run at once; 128 by default.
    #[arg(long, value_parser = parse_count, help_heading = "Scheduling", value_name = "COUNT")]
    pub(crate) max_num_seqs: Option<usize>,
    /// Tokens computed in one step; by default 2048, or the longest prompt where those are not split.
    #[arg(long, value_parser = parse_count, help_heading = "Scheduling", value_name = "TOKENS")]
    pub(crate) max_num_batched_tokens: Option<usize>,
    /// Order of waiting requests.
    #[arg(long, value_enum, default_value = "fcfs", help_heading = "Scheduling")]
    pub(crate) scheduling_policy: SchedulingPolicy,
    /// Give a prompt at most this many tokens of a step; 0 sets no limit.
    #[arg(long, default_value_t = 0, help_heading = "Scheduling", value_name = "TOKENS")]
    pub(crate) long_prefill_token_threshold: usize,
    /// Split long prompts over several steps (the default).
    #[arg(long, overrides_with = "no_enable_chunked_prefill", help_heading = "Scheduling")]
    pub(crate) enable_chunked_prefill: bool,
    /// Compute every prompt in one step.
    #[arg(long, help_heading = "Scheduling")]
    pub(crate) no_enable_chunked_prefill: bool,
    /// Keep KV blocks of common prefixes for later requests (the default, except in `bench latency`).
    #[arg(long, overrides_with = "no_enable_prefix_caching", help_heading = "Scheduling")]
    pub(crate) enable_prefix_caching: bool,
    /// Compute every prompt anew.
    #[arg(long, help_heading = "Scheduling")]
    pub(crate) no_enable_prefix_caching: bool,

    /// Where to compute.
    #[arg(long, value_enum, default_value = "auto", help_heading = "Device")]
    pub(crate) device: Device,
    /// Worker threads; default: one for each physical core that this process may use.
    #[arg(long, value_parser = parse_count, help_heading = "Device", value_name = "COUNT")]
    pub(crate) threads: Option<usize>,
    /// How long a GPU may take for a step, 60 by default: then requests get 503 and the process ends with a report. 0
    /// sets no limit.
    #[arg(long, help_heading = "Device", value_name = "SECONDS")]
    pub(crate) step_timeout: Option<u64>,
}

/// `--quantization`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quantization {
    /// Made while loading; `fp8` is also what a checkpoint may be.
    Online(OnlineQuantization),
    /// What a checkpoint must be already, as its config names it.
    Stored(&'static str),
}

impl FromStr for Quantization {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let stored = ["compressed-tensors", "quark", "modelopt"].into_iter().find(|stored| *stored == name);
        match (stored, name.parse()) {
            (Some(stored), _) => Ok(Self::Stored(stored)),
            (None, Ok(online)) => Ok(Self::Online(online)),
            (None, Err(_)) => Err(format!(
                "{name} is not supported; supported are fp8, fp8_per_channel and fp8_per_block, and for checkpoints that \
                 are quantized so compressed-tensors, quark and modelopt. Serve the 16-bit checkpoint with --quantization fp8"
            )),
        }
    }
}

/// Order of waiting requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SchedulingPolicy {
    /// First come, first served.
    Fcfs,
    /// By the request's `priority`, lower first, then by arrival.
    Priority,
}

/// Where to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Device {
    /// A GPU if one can be used, AMD's before NVIDIA's; else the CPU.
    Auto,
    /// An AMD GPU, by HIP (ROCm 6 or newer).
    #[value(alias = "rocm")]
    Hip,
    /// An NVIDIA GPU, by CUDA (12 or newer).
    Cuda,
    /// The CPU.
    Cpu,
}
