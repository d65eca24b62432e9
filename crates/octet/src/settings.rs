//! What is meant: typed flags and environment variables, turned once into the settings of the crates below.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use octet_backend::DeviceMemory;
use octet_cpu::{CpuOptions, PoolOptions, ThreadBinding};
use octet_engine::{EngineConfig, SchedulingPolicy};
use octet_model::{
    HubModel, KvBudget, LoadFormat, LoadOptions, MemoryPlan, MemoryRequest, ModelConfig, ModelSource,
    RequestBudget,
};

use crate::cli::{self, Device, EngineArgs, Quantization};
use crate::environment::variable;
use crate::{device, report, shipped};

/// vLLM's variable for the KV cache's size on a CPU, GiB.
const KV_SPACE_VARIABLE: &str = "VLLM_CPU_KVCACHE_SPACE";
/// vLLM's variable for the CPUs of workers.
const BINDING_VARIABLE: &str = "VLLM_CPU_OMP_THREADS_BIND";
/// vLLM's variable for the number of cores left to others.
const RESERVED_VARIABLE: &str = "VLLM_CPU_NUM_OF_RESERVED_CPU";
/// OpenMP's variable for the number of threads.
const OPENMP_VARIABLE: &str = "OMP_NUM_THREADS";
/// Tokens of a step, unless said otherwise: vLLM's default on a CPU.
const BATCHED_TOKENS: usize = 2048;
/// Seconds that a step may take on a GPU, unless said otherwise: many times what the longest prefill takes.
const STEP_SECONDS: u64 = 60;
/// How long streams may pause beside a prompt, unless said otherwise.
const STREAM_GAP: Duration = Duration::from_millis(500);
/// Sequences that run at once, unless said otherwise: vLLM's default on a CPU.
const SEQUENCES: usize = 128;

/// A model as the user named it.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// Where it is.
    pub(crate) source: ModelSource,
    /// The name under which it is served.
    pub(crate) name: String,
}

impl Source {
    /// What `word` means; without one, or by its name, the model inside the program.
    ///
    /// # Errors
    /// No such model, or a revision of something that has none.
    pub(crate) fn new(word: Option<&str>, arguments: &EngineArgs) -> Result<Self> {
        // A folder of the same name is nearer to what was typed.
        let Some(word) = word.filter(|word| *word != shipped::NAME || Path::new(word).is_dir()) else {
            if let Some(asked) = &arguments.revision {
                bail!(
                    "--revision {asked} needs a Hub id, and {} is the model inside this program",
                    shipped::NAME
                );
            }
            note_download_folder(arguments, shipped::NAME);
            return Ok(Self {
                source: ModelSource::Folder(shipped::folder()?),
                name: shipped::NAME.to_owned(),
            });
        };
        let mut source = ModelSource::of_word(word)?;
        if let ModelSource::Hub(HubModel { revision, cache, .. }) = &mut source {
            revision.clone_from(&arguments.revision);
            *cache = download_folder(arguments).map(Path::to_owned);
        } else {
            if let Some(asked) = &arguments.revision {
                bail!("--revision {asked} needs a Hub id, and {word} is none");
            }
            note_download_folder(arguments, word);
        }
        Ok(Self { source, name: word.to_owned() })
    }
}

/// `--download-dir`; an empty one is not set.
fn download_folder(arguments: &EngineArgs) -> Option<&Path> {
    arguments.download_dir.as_deref().filter(|folder| !folder.as_os_str().is_empty())
}

/// Start lines name the folder whether or not something is downloaded.
fn note_download_folder(arguments: &EngineArgs, model: &str) {
    if let Some(folder) = download_folder(arguments) {
        let folder = folder.display();
        report::line(format_args!("note: --download-dir {folder} is for models of the Hub; {model} is none"));
    }
}

/// How to start the CPU backend, with a number of threads if one was asked for.
///
/// # Errors
/// A variable that cannot be read.
pub(crate) fn cpu_with_threads(workers: Option<usize>) -> Result<CpuOptions> {
    let binding = match variable(BINDING_VARIABLE) {
        Some(text) => ThreadBinding::parse(&text).context(BINDING_VARIABLE)?,
        None => ThreadBinding::Auto,
    };
    let count = |name: &str| {
        let number = |text: String| {
            text.trim().parse().with_context(|| format!("{name} is {text:?}, expected a whole number"))
        };
        variable(name).map(number).transpose()
    };
    let reserved_cores = count(RESERVED_VARIABLE)?.unwrap_or(0);
    // As in vLLM: what is bound has one thread a CPU, and what is not bound is OpenMP's.
    let workers = match (workers, &binding) {
        (None, ThreadBinding::Unbound) => count(OPENMP_VARIABLE)?.filter(|count| *count > 0),
        (workers, _) => workers,
    };
    Ok(CpuOptions { threads: PoolOptions { workers, binding, reserved_cores }, isa: None })
}

/// How long a step may take on a GPU.
pub(crate) fn step_limit(asked_seconds: Option<u64>) -> Option<Duration> {
    match asked_seconds.unwrap_or(STEP_SECONDS) {
        0 => None,
        seconds => Some(Duration::from_secs(seconds)),
    }
}

/// How to load the model.
pub(crate) fn load_options(arguments: &EngineArgs) -> LoadOptions {
    LoadOptions {
        weight_type: arguments.dtype,
        quantization: match arguments.quantization {
            Some(Quantization::Online(how)) => Some(how),
            Some(Quantization::Stored(_)) | None => None,
        },
        quantize_head: arguments.quantize_head,
        load_format: load_format(arguments),
        kv_cache_type: arguments.kv_cache_dtype,
        max_model_len: arguments.max_model_len.unwrap_or_default(),
        seed: arguments.seed,
    }
}

/// Where weights come from.
pub(crate) fn load_format(arguments: &EngineArgs) -> LoadFormat {
    arguments.load_format
}

/// Refuses what no model could make right, before minutes are spent on one.
///
/// # Errors
/// Flags or variables out of range, or that contradict each other.
pub(crate) fn check(arguments: &EngineArgs) -> Result<()> {
    let share = arguments.gpu_memory_utilization;
    if !(share > 0.0 && share <= 1.0) {
        let percent = if share > 1.0 && share <= 100.0 {
            format!("; is {} meant?", share / 100.0)
        } else {
            String::new()
        };
        bail!("--gpu-memory-utilization is {share}, expected a fraction above 0 and at most 1{percent}");
    }
    if arguments.block_size == 0 || !arguments.block_size.is_multiple_of(16) {
        bail!("--block-size is {}, expected a multiple of 16", arguments.block_size);
    }
    if let (Some(tokens), Some(sequences)) = (arguments.max_num_batched_tokens, arguments.max_num_seqs)
        && tokens < sequences
    {
        bail!(
            "--max-num-batched-tokens is {tokens} and --max-num-seqs {sequences}: every sequence needs a token of a \
             step, so raise the former or lower the latter"
        );
    }
    match arguments.device {
        Device::Auto => {}
        Device::Cpu => device::check_flags(false, arguments)?,
        Device::Hip | Device::Cuda => device::check_flags(true, arguments)?,
    }
    cpu_with_threads(arguments.threads)?;
    kv_space_variable()?;
    Ok(())
}

/// Whether a checkpoint is quantized as `--quantization` says, where that names a kind of checkpoints.
///
/// # Errors
/// It is not.
pub(crate) fn check_quantization(arguments: &EngineArgs, config: &ModelConfig) -> Result<()> {
    let Some(Quantization::Stored(asked)) = arguments.quantization else {
        return Ok(());
    };
    let method = config
        .quantization
        .as_ref()
        .map(|fields| fields.get("quant_method").and_then(serde_json::Value::as_str));
    match method {
        Some(Some(method)) if method == asked => Ok(()),
        Some(method) => bail!(
            "--quantization {asked}, and the checkpoint is quantized by {}: leave the flag out",
            method.unwrap_or("another method")
        ),
        None => bail!(
            "--quantization {asked} is for checkpoints that are quantized so, and this one is not: leave the flag out, or \
             take --quantization fp8 to quantize it while it loads"
        ),
    }
}

/// Refuses a KV cache for which the device is too small, before the weights are loaded.
///
/// # Errors
/// It is; or a variable that cannot be read.
pub(crate) fn check_kv_memory(arguments: &EngineArgs, device: DeviceMemory) -> Result<()> {
    if arguments.num_gpu_blocks_override.is_some() {
        return Ok(());
    }
    let (name, asked_bytes) = match (arguments.kv_cache_memory_bytes, kv_space_variable()?) {
        (Some(bytes), _) => ("--kv-cache-memory-bytes", bytes),
        (None, Some(bytes)) => (KV_SPACE_VARIABLE, bytes),
        (None, None) => return Ok(()),
    };
    if asked_bytes <= device.total_bytes {
        return Ok(());
    }
    let gib = |bytes: usize| bytes as f64 / f64::from(1 << 30);
    bail!(
        "{name} asks for {:.3} GiB of KV cache, and the device has {:.3} GiB in all; ask for less, or leave it out to take \
         what --gpu-memory-utilization allows",
        gib(asked_bytes),
        gib(device.total_bytes)
    )
}

/// How memory is to be divided, for sequences of at most `longest` tokens.
///
/// # Errors
/// A variable that cannot be read.
pub(crate) fn memory_request(
    arguments: &EngineArgs,
    requests: RequestBudget,
    longest: usize,
) -> Result<MemoryRequest> {
    let share = arguments.gpu_memory_utilization;
    let kv = match (arguments.num_gpu_blocks_override, arguments.kv_cache_memory_bytes, kv_space_variable()?)
    {
        (Some(blocks), _, _) => KvBudget::Blocks(blocks),
        (None, Some(bytes), _) | (None, None, Some(bytes)) => KvBudget::Bytes(bytes),
        (None, None, None) => KvBudget::Utilization(share),
    };
    let sequences = arguments.max_num_seqs.unwrap_or(SEQUENCES);
    let wanted = arguments.max_num_batched_tokens.unwrap_or_else(|| {
        let whole_prompts = if chunks(arguments) { BATCHED_TOKENS } else { longest.max(BATCHED_TOKENS) };
        whole_prompts.min(sequences.saturating_mul(longest))
    });
    Ok(MemoryRequest {
        kv,
        requests,
        block_size: arguments.block_size,
        max_batched_tokens: wanted,
        max_sequences: sequences.min(wanted),
    })
}

fn kv_space_variable() -> Result<Option<usize>> {
    let Some(text) = variable(KV_SPACE_VARIABLE) else {
        return Ok(None);
    };
    let gib: f64 = text
        .trim()
        .parse()
        .with_context(|| format!("{KV_SPACE_VARIABLE} is {text:?}, expected a number of GiB"))?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked")]
    match gib {
        0.0 => Ok(None),
        gib if gib > 0.0 && gib < 1e6 => Ok(Some((gib * f64::from(1 << 30)) as usize)),
        gib => bail!("{KV_SPACE_VARIABLE} is {gib}, expected a number of GiB of at least 0"),
    }
}

/// How long streams may pause beside a prompt.
///
/// # Errors
/// A bound is asked for, and prompts are not to be split.
pub(crate) fn stream_gap(asked: Option<Duration>, arguments: &EngineArgs) -> Result<Duration> {
    match asked {
        Some(gap) if !gap.is_zero() && !chunks(arguments) => bail!(
            "--max-stream-gap {} needs prompts that are split, and --no-enable-chunked-prefill computes each in one \
             step; leave one of them out",
            gap.as_secs_f64()
        ),
        Some(gap) => Ok(gap),
        None if chunks(arguments) => Ok(STREAM_GAP),
        None => Ok(Duration::ZERO),
    }
}

fn chunks(arguments: &EngineArgs) -> bool {
    !arguments.no_enable_chunked_prefill
}

/// Whether requests are scheduled by priority.
pub(crate) fn has_priorities(arguments: &EngineArgs) -> bool {
    arguments.scheduling_policy == cli::SchedulingPolicy::Priority
}

/// The longest window, if every layer has one: then no token sees further back.
pub(crate) fn sliding_window(config: &ModelConfig) -> Option<usize> {
    config
        .windows
        .iter()
        .copied()
        .collect::<Option<Vec<usize>>>()
        .and_then(|windows| windows.into_iter().max())
}

/// The engine's settings for a planned memory.
///
/// # Errors
/// Sizes that cannot work together.
pub(crate) fn engine_config(
    arguments: &EngineArgs,
    plan: &MemoryPlan,
    config: &ModelConfig,
    prefix_caching: bool,
) -> Result<EngineConfig> {
    let engine = EngineConfig {
        max_num_seqs: plan.max_sequences,
        max_num_batched_tokens: plan.max_batched_tokens,
        policy: match arguments.scheduling_policy {
            cli::SchedulingPolicy::Fcfs => SchedulingPolicy::FirstComeFirstServed,
            cli::SchedulingPolicy::Priority => SchedulingPolicy::Priority,
        },
        enable_prefix_caching: prefix_caching,
        enable_chunked_prefill: chunks(arguments),
        long_prefill_token_threshold: arguments.long_prefill_token_threshold,
        sliding_window: sliding_window(config),
        hash_seed: arguments.seed,
        ..EngineConfig::new(plan.num_blocks, plan.block_size, plan.max_model_len)
    };
    engine.validate()?;
    Ok(engine)
}
