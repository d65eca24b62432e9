//! The memory budget: weights, workspace, KV cache, as a value that is printed and that can refuse.

use std::fmt;
use std::str::FromStr;

use octet_backend::{Backend, DataType, DeviceMemory, KvCacheSpec};

use crate::runner::{RunnerLimits, logit_rows};
use crate::workspace::workspace_specs;
use crate::{LoadedModel, ModelConfig, ModelError};

const GIB: f64 = (1u64 << 30) as f64;

/// How much memory the KV cache gets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum KvBudget {
    /// So many bytes: `--kv-cache-memory-bytes`, or `VLLM_CPU_KVCACHE_SPACE` in GiB.
    Bytes(usize),
    /// What is left of this share of the device's memory: `--gpu-memory-utilization`. Never more than is free.
    Utilization(f64),
    /// So many blocks: `--num-gpu-blocks-override`.
    Blocks(usize),
}

/// How much memory requests get, apart from the model: their bodies, what preparing them takes, prompts that wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RequestBudget {
    /// None: nobody sends requests.
    #[default]
    Nothing,
    /// An eighth of the memory, where the device's is the host's, but no more than 1 GiB.
    Auto,
    /// So many bytes: `--request-memory-bytes`.
    Bytes(usize),
}

impl RequestBudget {
    /// More is hardly ever in use: connections bring it in, and the model takes it, far more slowly.
    const LARGEST_AUTO: usize = 1 << 30;

    fn bytes(self, host: Option<DeviceMemory>) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Bytes(bytes) => bytes,
            Self::Auto => {
                host.map_or(Self::LARGEST_AUTO, |host| (host.total_bytes / 8).min(Self::LARGEST_AUTO))
            }
        }
    }
}

/// The longest sequence, as it was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MaxModelLen {
    /// What the model was made for.
    #[default]
    Model,
    /// So many tokens.
    Tokens(usize),
    /// What the model was made for, or less if that does not fit.
    Auto,
}

impl FromStr for MaxModelLen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" | "-1" => Ok(Self::Auto),
            _ => match text.parse() {
                Ok(tokens) if tokens > 0 => Ok(Self::Tokens(tokens)),
                _ => Err(format!("{text:?} is not a length; give a number of tokens, or auto")),
            },
        }
    }
}

/// What the budget is made for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MemoryRequest {
    /// For the KV cache.
    pub kv: KvBudget,
    /// For requests.
    pub requests: RequestBudget,
    /// Tokens in a block.
    pub block_size: usize,
    /// The most tokens in a step.
    pub max_batched_tokens: usize,
    /// The most sequences in a step.
    pub max_sequences: usize,
}

/// Where the memory goes. Its `Display` is a table.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryPlan {
    /// The device's memory when the plan was made, weights loaded.
    pub device: DeviceMemory,
    /// Packed weights.
    pub weight_bytes: usize,
    /// Activations and logits.
    pub workspace_bytes: usize,
    /// Bodies of requests and what comes of them.
    pub request_bytes: usize,
    /// Whether they are in the device's memory: on a CPU, which has no other.
    pub requests_on_device: bool,
    /// All blocks.
    pub kv_bytes: usize,
    /// One block over all layers.
    pub block_bytes: usize,
    /// Tokens in a block.
    pub block_size: usize,
    /// Blocks, the null block included.
    pub num_blocks: usize,
    /// Element type of the KV cache.
    pub kv_type: DataType,
    /// The longest sequence.
    pub max_model_len: usize,
    /// The most tokens in a step.
    pub max_batched_tokens: usize,
    /// The most sequences in a step.
    pub max_sequences: usize,
}

impl MemoryPlan {
    /// What requests take of the device's memory.
    const fn device_request_bytes(&self) -> usize {
        if self.requests_on_device { self.request_bytes } else { 0 }
    }

    /// Tokens that the KV cache holds; the null block holds none.
    #[must_use]
    pub const fn capacity_tokens(&self) -> usize {
        (self.num_blocks - 1) * self.block_size
    }

    /// How many sequences of the longest length fit at once.
    #[must_use]
    pub fn max_concurrency(&self) -> f64 {
        let blocks = self.max_model_len.div_ceil(self.block_size);
        (self.num_blocks - 1) as f64 / blocks as f64
    }

    /// The limits for [`LoadedModel::into_runner`].
    #[must_use]
    pub const fn limits(&self) -> RunnerLimits {
        RunnerLimits {
            max_batched_tokens: self.max_batched_tokens,
            max_sequences: self.max_sequences,
            max_model_len: self.max_model_len,
            block_size: self.block_size,
            num_blocks: self.num_blocks,
        }
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |formatter: &mut fmt::Formatter<'_>, name: &str, bytes: usize, remark: &str| {
            writeln!(formatter, "{name:<10} {:>9.3} GiB  {remark}", bytes as f64 / GIB)
        };
        row(formatter, "weights", self.weight_bytes, "")?;
        let tokens = format!("steps of at most {} tokens", self.max_batched_tokens);
        row(formatter, "workspace", self.workspace_bytes, &tokens)?;
        if self.request_bytes > 0 {
            let place = if self.requests_on_device { "" } else { " (the host's memory)" };
            let remark = format!("bodies, prompts in preparation and in the queue{place}");
            row(formatter, "requests", self.request_bytes, &remark)?;
        }
        let blocks = format!(
            "{} blocks of {} tokens in {}, {} tokens",
            self.num_blocks,
            self.block_size,
            self.kv_type,
            self.capacity_tokens()
        );
        row(formatter, "KV cache", self.kv_bytes, &blocks)?;
        let total = self.weight_bytes + self.workspace_bytes + self.device_request_bytes() + self.kv_bytes;
        let device = format!("of {:.3} GiB", self.device.total_bytes as f64 / GIB);
        row(formatter, "together", total, &device)?;
        write!(
            formatter,
            "sequences of up to {} tokens, {:.2} of them at once",
            self.max_model_len,
            self.max_concurrency()
        )
    }
}

/// Why a model does not fit, and what would.
#[derive(Clone, Debug, PartialEq)]
pub enum DoesNotFit {
    /// Not even the weights do.
    Weights {
        /// What they need.
        needed_bytes: usize,
        /// What is free.
        free_bytes: usize,
    },
    /// A sequence of the longest length needs more KV cache than there is.
    Sequence {
        /// The longest length.
        max_model_len: usize,
        /// What it needs.
        needed_bytes: usize,
        /// What there is for the KV cache.
        available_bytes: usize,
        /// The longest length that would fit.
        fitting_tokens: usize,
    },
}

impl fmt::Display for DoesNotFit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Weights { needed_bytes, free_bytes } => write!(
                formatter,
                "the weights need {}, {} are free; --quantization fp8 halves the weights of a 16-bit checkpoint",
                readable(needed_bytes),
                readable(free_bytes)
            ),
            Self::Sequence { max_model_len, needed_bytes, available_bytes, fitting_tokens } => {
                write!(
                    formatter,
                    "a sequence of max_model_len {max_model_len} needs {} of KV cache, {} are available; ",
                    readable(needed_bytes),
                    readable(available_bytes)
                )?;
                if fitting_tokens == 0 {
                    formatter.write_str("not one block fits: give the KV cache more memory")
                } else {
                    write!(
                        formatter,
                        "--max-model-len {fitting_tokens} would fit (or --max-model-len auto), --kv-cache-dtype fp8 doubles it"
                    )
                }
            }
        }
    }
}

/// Bytes in the largest unit that leaves digits before the point.
fn readable(bytes: usize) -> String {
    let unit = |scale: f64, name: &str| format!("{:.2} {name}", bytes as f64 / scale);
    match bytes {
        0x4000_0000.. => unit(GIB, "GiB"),
        0x10_0000.. => unit(GIB / 1024.0, "MiB"),
        _ => unit(1024.0, "KiB"),
    }
}

/// Bytes of the workspace, if every element takes 32 bits, as on a CPU; other devices need less.
pub(crate) fn workspace_bytes(config: &ModelConfig, limits: &RunnerLimits) -> usize {
    let specs = workspace_specs(config, limits.max_batched_tokens, logit_rows(config, limits));
    specs.iter().map(|spec| spec.rows * spec.columns * size_of::<f32>()).sum()
}

impl<B: Backend> LoadedModel<B> {
    /// Divides the device's memory. Call it after loading: what is free then already lacks the weights.
    ///
    /// # Errors
    /// [`ModelError::DoesNotFit`] when a sequence of the longest length does not fit.
    pub fn plan_memory(&self, request: &MemoryRequest) -> Result<MemoryPlan, ModelError> {
        let block_bytes = self.kv_block_bytes(request.block_size, self.kv_type());
        let device = self.backend().memory();
        let requests_on_device = self.backend().info().kind == "cpu";
        let mut plan = MemoryPlan {
            device,
            weight_bytes: self.weight_bytes(),
            workspace_bytes: 0,
            request_bytes: request.requests.bytes(requests_on_device.then_some(device)),
            requests_on_device,
            kv_bytes: 0,
            block_bytes,
            block_size: request.block_size,
            num_blocks: 0,
            kv_type: self.kv_type(),
            max_model_len: self.config().longest_sequence(),
            max_batched_tokens: request.max_batched_tokens,
            max_sequences: request.max_sequences,
        };
        plan.workspace_bytes = workspace_bytes(self.config(), &plan.limits());
        if let MaxModelLen::Tokens(tokens) = self.max_model_len() {
            plan.max_model_len = tokens;
        }
        size_cache(plan, request.kv, self.max_model_len())
    }

    /// Bytes of one block of the KV cache over all layers.
    #[must_use]
    pub fn kv_block_bytes(&self, block_size: usize, data_type: DataType) -> usize {
        let config = self.config();
        let spec = KvCacheSpec {
            layers: config.layers,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            block_size,
            blocks: 1,
            data_type,
            scales: Vec::new(),
        };
        spec.block_bytes()
    }
}

/// Finds the number of blocks, and holds the longest sequence against it.
///
/// The null block holds no tokens and comes on top of a budget in bytes: `4G` for a model that needs 4 GiB for its
/// longest sequence is then enough. A number of blocks includes it, as in vLLM.
fn size_cache(mut plan: MemoryPlan, budget: KvBudget, length: MaxModelLen) -> Result<MemoryPlan, ModelError> {
    let beside = plan.workspace_bytes.saturating_add(plan.device_request_bytes());
    let free = plan.device.free_bytes.saturating_sub(beside);
    let available_bytes = match budget {
        KvBudget::Bytes(bytes) => bytes,
        KvBudget::Blocks(blocks) => blocks.saturating_sub(1).saturating_mul(plan.block_bytes),
        KvBudget::Utilization(share) => {
            let claimed = (plan.device.total_bytes as f64 * share) as usize;
            claimed.saturating_sub(plan.weight_bytes.saturating_add(beside)).min(free)
        }
    };
    let usable_blocks = (available_bytes / plan.block_bytes).min(u32::MAX as usize - 1);
    let fitting_tokens = usable_blocks * plan.block_size;
    if length == MaxModelLen::Auto {
        plan.max_model_len = plan.max_model_len.min(fitting_tokens);
    }
    if plan.max_model_len > fitting_tokens || plan.max_model_len == 0 {
        return Err(ModelError::DoesNotFit(DoesNotFit::Sequence {
            max_model_len: plan.max_model_len,
            needed_bytes: plan
                .max_model_len
                .max(1)
                .div_ceil(plan.block_size)
                .saturating_mul(plan.block_bytes),
            available_bytes,
            fitting_tokens,
        }));
    }
    plan.num_blocks = usable_blocks + 1;
    plan.kv_bytes = plan.num_blocks * plan.block_bytes;
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_unit_that_shows_them() {
        let found = [100, 4 << 10, 5 << 19, 3 << 29].map(readable);
        assert_eq!(found, ["0.10 KiB", "4.00 KiB", "2.50 MiB", "1.50 GiB"]);
    }

    fn plan(max_model_len: usize) -> MemoryPlan {
        MemoryPlan {
            device: DeviceMemory { total_bytes: 10_000, free_bytes: 6_000 },
            weight_bytes: 4_000,
            workspace_bytes: 1_000,
            request_bytes: 0,
            requests_on_device: true,
            kv_bytes: 0,
            block_bytes: 100,
            block_size: 16,
            num_blocks: 0,
            kv_type: DataType::BF16,
            max_model_len,
            max_batched_tokens: 16,
            max_sequences: 4,
        }
    }

    #[test]
    fn blocks_follow_from_each_kind_of_budget() {
        let blocks = |budget| size_cache(plan(64), budget, MaxModelLen::Model).unwrap().num_blocks;
        assert_eq!(blocks(KvBudget::Bytes(1_234)), 12 + 1);
        assert_eq!(blocks(KvBudget::Blocks(7)), 7);
        assert_eq!(blocks(KvBudget::Utilization(0.8)), 30 + 1);
        // Never more than is free.
        assert_eq!(blocks(KvBudget::Utilization(1.0)), 50 + 1);
        // What requests take is taken from it, where they are in the same memory.
        let beside = |on_device| {
            let plan = MemoryPlan { request_bytes: 500, requests_on_device: on_device, ..plan(64) };
            size_cache(plan, KvBudget::Utilization(0.8), MaxModelLen::Model).unwrap().num_blocks
        };
        assert_eq!((beside(true), beside(false)), (25 + 1, 30 + 1));
        // Enough for the longest sequence, to the byte.
        assert_eq!(blocks(KvBudget::Bytes(400)), 4 + 1);
        assert!(size_cache(plan(64), KvBudget::Bytes(399), MaxModelLen::Model).is_err());
    }

    #[test]
    fn requests_get_an_eighth_and_not_without_end() {
        let host = |total_bytes| Some(DeviceMemory { total_bytes, free_bytes: 0 });
        assert_eq!(RequestBudget::Auto.bytes(host(1 << 30)), 128 << 20);
        assert_eq!(RequestBudget::Auto.bytes(host(1 << 40)), 1 << 30);
        assert_eq!(RequestBudget::Auto.bytes(None), 1 << 30);
        assert_eq!(RequestBudget::Bytes(7).bytes(host(1 << 30)), 7);
        assert_eq!(RequestBudget::Nothing.bytes(None), 0);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_would() {
        let error = size_cache(plan(65), KvBudget::Blocks(5), MaxModelLen::Model).unwrap_err();
        assert!(error.to_string().contains("--max-model-len 64 would fit"), "{error}");
        let fitted = size_cache(plan(65), KvBudget::Blocks(5), MaxModelLen::Auto).unwrap();
        assert_eq!((fitted.max_model_len, fitted.capacity_tokens()), (64, 64));
        assert_eq!(fitted.max_concurrency(), 1.0);
        for budget in [KvBudget::Bytes(0), KvBudget::Blocks(1)] {
            let error = size_cache(plan(65), budget, MaxModelLen::Auto).unwrap_err();
            assert!(error.to_string().contains("not one block fits"), "{error}");
        }
    }

    #[test]
    fn lengths_are_read() {
        assert_eq!("auto".parse(), Ok(MaxModelLen::Auto));
        assert_eq!("4096".parse(), Ok(MaxModelLen::Tokens(4096)));
        assert!("0".parse::<MaxModelLen>().is_err() && "long".parse::<MaxModelLen>().is_err());
    }
}
