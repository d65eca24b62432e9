//! Environment variables of vLLM's, and of the libraries around it: which are obeyed, and a line about each that is set
//! and changes nothing. Values are never printed: some are secrets.

use std::env;

use anyhow::{Result, bail};

use crate::report;

/// What a variable does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It is read, by Octet or a library that it uses: how.
    Obeyed(&'static str),
    /// Nothing; the reason, or what to write instead.
    Nothing(&'static str),
    /// Nothing, and that goes without saying: for scripts that set it everywhere.
    Silent(&'static str),
}
use Effect::{Nothing, Obeyed, Silent};

const OWN_KERNELS: &str = "kernels are Octet's own; see --gemm-tuning";
const NO_COMPILER: &str = "there is no graph compiler";
const ONE_ENGINE: &str = "there is one engine";
const ONE_PROCESS: &str = "server and engine are one process on one device";
const NO_MEDIA: &str = "only text is taken";
const NO_STATISTICS: &str = "Octet sends no statistics to anybody";
const NO_PYTHON: &str = "no Python is run";
const NOT_OPENMP: &str = "threads are Octet's own: --threads, or VLLM_CPU_OMP_THREADS_BIND";

/// By name. One that ends in `*` stands for all that begin so; the first that fits counts.
pub(crate) const VARIABLES: &[(&str, Effect)] = &[
    (
        "VLLM_API_KEY",
        Obeyed("the key that clients must send, unless --api-key names some; empty means unset"),
    ),
    ("OPENAI_API_KEY", Obeyed("the key that `octet chat`, `complete` and `bench serve` send")),
    (
        "VLLM_CPU_KVCACHE_SPACE",
        Obeyed("GiB of the KV cache, unless --kv-cache-memory-bytes says it; 0 or empty means unset"),
    ),
    (
        "VLLM_CPU_OMP_THREADS_BIND",
        Obeyed("CPUs of the worker threads: auto, nobind, or a list such as 0-3,8"),
    ),
    ("VLLM_CPU_NUM_OF_RESERVED_CPU", Obeyed("cores that are left to others")),
    (
        "VLLM_LOGGING_LEVEL",
        Obeyed("how much is logged, unless OCTET_LOG says it: DEBUG, INFO, WARNING, ERROR, CRITICAL"),
    ),
    ("OCTET_LOG", Obeyed("how much is logged: warn, info, debug, or as tracing's EnvFilter")),
    ("OCTET_HIP_LIBRARY", Obeyed("a library that stands for HIP, hiprtc and hipBLASLt")),
    ("OCTET_KERNEL_BUNDLE", Obeyed("GPU kernels that were compiled ahead of time")),
    (
        "OCTET_KERNEL_CACHE",
        Obeyed("folder of compiled GPU kernels; else octet/kernels in XDG_CACHE_HOME or ~/.cache"),
    ),
    ("HF_HOME", Obeyed("where models of the Hub, and the token, are kept")),
    (
        "HF_HUB_CACHE",
        Obeyed(
            "the Hub's cache, unless --download-dir names it; wins over HUGGINGFACE_HUB_CACHE and HF_HOME",
        ),
    ),
    ("HUGGINGFACE_HUB_CACHE", Obeyed("the same, by its old name")),
    ("HF_TOKEN", Obeyed("the token for the Hub")),
    ("HUGGING_FACE_HUB_TOKEN", Obeyed("the same, by its old name")),
    ("HF_TOKEN_PATH", Obeyed("a file with the token; else token in HF_HOME")),
    ("HF_HUB_DISABLE_IMPLICIT_TOKEN", Obeyed("no token is sent")),
    ("TRANSFORMERS_OFFLINE", Obeyed("nothing is downloaded, unless HF_HUB_OFFLINE says otherwise")),
    ("HF_HUB_DOWNLOAD_TIMEOUT", Obeyed("seconds that the Hub may be silent")),
    ("HF_HUB_ETAG_TIMEOUT", Obeyed("seconds that the Hub may be silent")),
    ("HF_ENDPOINT", Obeyed("another Hub")),
    ("HF_HUB_OFFLINE", Obeyed("nothing is downloaded")),
    ("HIP_VISIBLE_DEVICES", Obeyed("by ROCm: which GPUs there are")),
    ("ROCR_VISIBLE_DEVICES", Obeyed("by ROCm: which GPUs there are")),
    ("CUDA_VISIBLE_DEVICES", Obeyed("by CUDA and ROCm: which GPUs there are")),
    ("HSA_OVERRIDE_GFX_VERSION", Obeyed("by ROCm: what the GPU says it is")),
    ("PYTORCH_TUNABLEOP_*", Obeyed("defaults of the flags of GEMM tuning: docs/tuning.md")),
    ("VLLM_PORT", Nothing("it is a port between vLLM's processes, not the API's: --port sets that")),
    ("VLLM_HOST_IP", Nothing("it is an address between vLLM's processes, not the API's: --host sets that")),
    ("VLLM_LOOPBACK_IP", Nothing(ONE_PROCESS)),
    ("VLLM_RPC_BASE_PATH", Nothing(ONE_PROCESS)),
    ("VLLM_RPC_TIMEOUT", Nothing(ONE_PROCESS)),
    ("VLLM_USE_V1", Nothing(ONE_ENGINE)),
    ("VLLM_USE_V2_MODEL_RUNNER", Nothing(ONE_ENGINE)),
    ("VLLM_ENABLE_V1_MULTIPROCESSING", Nothing(ONE_PROCESS)),
    ("VLLM_WORKER_MULTIPROC_METHOD", Nothing(ONE_PROCESS)),
    ("VLLM_TARGET_DEVICE", Nothing("--device chooses the device")),
    ("VLLM_ATTENTION_BACKEND", Nothing(OWN_KERNELS)),
    ("VLLM_ROCM_*", Nothing(OWN_KERNELS)),
    ("VLLM_USE_TRITON_FLASH_ATTN", Nothing(OWN_KERNELS)),
    ("VLLM_USE_ROCM_CUSTOM_PAGED_ATTN", Nothing(OWN_KERNELS)),
    ("VLLM_USE_FLASHINFER_*", Nothing(OWN_KERNELS)),
    ("VLLM_FLASHINFER_*", Nothing(OWN_KERNELS)),
    ("VLLM_FLASH_ATTN_VERSION", Nothing(OWN_KERNELS)),
    ("VLLM_USE_DEEP_GEMM*", Nothing(OWN_KERNELS)),
    ("VLLM_MLA_DISABLE", Nothing(OWN_KERNELS)),
    ("VLLM_MARLIN_*", Nothing(OWN_KERNELS)),
    ("VLLM_DISABLED_KERNELS", Nothing(OWN_KERNELS)),
    ("VLLM_CPU_SGL_KERNEL", Nothing(OWN_KERNELS)),
    ("VLLM_CPU_ATTN_SPLIT_KV", Nothing(OWN_KERNELS)),
    ("VLLM_CPU_MOE_PREPACK", Nothing("models with experts are not supported yet")),
    ("VLLM_KV_CACHE_LAYOUT", Nothing("the layout of KV blocks is the device's own")),
    ("VLLM_BATCH_INVARIANT", Nothing("on a CPU a row's result never depends on its batch")),
    ("VLLM_TORCH_COMPILE_LEVEL", Nothing(NO_COMPILER)),
    ("VLLM_DISABLE_COMPILE_CACHE", Nothing(NO_COMPILER)),
    ("VLLM_USE_STANDALONE_COMPILE", Nothing(NO_COMPILER)),
    ("VLLM_USE_AOT_COMPILE", Nothing(NO_COMPILER)),
    ("VLLM_CACHE_ROOT", Nothing("compiled kernels lie in OCTET_KERNEL_CACHE, models in HF_HOME")),
    ("VLLM_CONFIG_ROOT", Nothing("no configuration is read but --config")),
    ("VLLM_ASSETS_CACHE", Nothing(NO_MEDIA)),
    ("VLLM_IMAGE_FETCH_TIMEOUT", Nothing(NO_MEDIA)),
    ("VLLM_VIDEO_*", Nothing(NO_MEDIA)),
    ("VLLM_AUDIO_FETCH_TIMEOUT", Nothing(NO_MEDIA)),
    ("VLLM_MM_INPUT_CACHE_GIB", Nothing(NO_MEDIA)),
    ("VLLM_ENGINE_ITERATION_TIMEOUT_S", Nothing("--step-timeout limits a step")),
    ("VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS", Nothing("--step-timeout limits a step")),
    ("VLLM_ENGINE_READY_TIMEOUT_S", Nothing(ONE_PROCESS)),
    (
        "VLLM_KEEP_ALIVE_ON_ENGINE_DEATH",
        Nothing("a fault of the engine ends the process, so that it is started anew"),
    ),
    ("VLLM_ALLOW_LONG_MAX_MODEL_LEN", Nothing("a --max-model-len beyond the model's own is refused")),
    ("VLLM_ALLOW_RUNTIME_LORA_UPDATING", Nothing("LoRA adapters are not supported")),
    ("VLLM_LORA_*", Nothing("LoRA adapters are not supported")),
    ("VLLM_PLUGINS", Nothing(NO_PYTHON)),
    ("VLLM_SERVER_DEV_MODE", Nothing("there are no endpoints for development")),
    ("VLLM_TORCH_PROFILER_*", Nothing("use the system's profiler, such as perf or rocprofv3")),
    ("VLLM_TRACE_FUNCTION", Nothing("OCTET_LOG=debug says more")),
    ("VLLM_CONFIGURE_LOGGING", Nothing("log lines go to standard error; OCTET_LOG chooses how many")),
    ("VLLM_LOGGING_*", Nothing("log lines go to standard error in one form")),
    ("VLLM_LOG_STATS_INTERVAL", Nothing("no statistics are logged; /metrics has them")),
    ("VLLM_PP_LAYER_PARTITION", Nothing(ONE_PROCESS)),
    ("VLLM_DP_*", Nothing(ONE_PROCESS)),
    ("VLLM_RAY_*", Nothing(ONE_PROCESS)),
    ("VLLM_USE_RAY_*", Nothing(ONE_PROCESS)),
    ("VLLM_NCCL_*", Nothing(ONE_PROCESS)),
    ("VLLM_SKIP_P2P_CHECK", Nothing(ONE_PROCESS)),
    ("VLLM_DISABLE_PYNCCL", Nothing(ONE_PROCESS)),
    ("VLLM_ALLREDUCE_*", Nothing(ONE_PROCESS)),
    ("VLLM_NIXL_*", Nothing("KV blocks are not handed to other servers")),
    ("VLLM_NO_USAGE_STATS", Silent(NO_STATISTICS)),
    ("VLLM_DO_NOT_TRACK", Silent(NO_STATISTICS)),
    ("VLLM_USAGE_*", Silent(NO_STATISTICS)),
    ("VLLM_NO_DEPRECATION_WARNING", Silent("nothing is deprecated yet")),
    ("VLLM_BUILD_*", Silent("vLLM's images set it")),
    ("VLLM_IMAGE_TAG", Silent("vLLM's images set it")),
    ("VLLM_SERVICE_*", Silent("Kubernetes sets it for a service called vllm")),
    (
        "VLLM_USE_MODELSCOPE",
        Nothing("models come from Hugging Face's Hub; with True the program refuses to start"),
    ),
    (
        "OMP_NUM_THREADS",
        Nothing(
            "threads are Octet's own: --threads counts them; with VLLM_CPU_OMP_THREADS_BIND=nobind this does, too",
        ),
    ),
    ("MKL_NUM_THREADS", Nothing(NOT_OPENMP)),
    ("KMP_*", Nothing(NOT_OPENMP)),
    ("GOMP_CPU_AFFINITY", Nothing(NOT_OPENMP)),
    ("PYTORCH_CUDA_ALLOC_CONF", Nothing("GPU memory is reserved once, at start")),
    ("PYTORCH_HIP_ALLOC_CONF", Nothing("GPU memory is reserved once, at start")),
    ("SAFETENSORS_FAST_GPU", Nothing("weights are read through the page cache, once")),
    ("HF_HUB_ENABLE_HF_TRANSFER", Silent("it only made Python's downloads faster")),
    ("TOKENIZERS_PARALLELISM", Silent("prompts are prepared on threads of their own")),
];

/// What is known of a variable.
fn effect(name: &str) -> Option<Effect> {
    let fits = |pattern: &str| match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == pattern,
    };
    VARIABLES.iter().find(|(pattern, _)| fits(pattern)).map(|(_, effect)| *effect)
}

/// Whether Kubernetes made this variable for a service that is called vllm: `VLLM_PORT_8000_TCP_ADDR` and so on.
fn is_service_link(name: &str, value: &str) -> bool {
    name.contains("_SERVICE_")
        || (name.contains("_PORT") && (name.contains("_TCP") || name.contains("_UDP")))
        || (name.ends_with("_PORT") && (value.starts_with("tcp://") || value.starts_with("udp://")))
}

/// Lines about variables that are set and change nothing.
///
/// # Errors
/// One that asks for models from elsewhere.
pub(crate) fn notices(variables: impl IntoIterator<Item = (String, String)>) -> Result<Vec<String>> {
    let mut variables: Vec<_> = variables.into_iter().filter(|(_, value)| !value.trim().is_empty()).collect();
    variables.sort();
    let is_unbound =
        variables.iter().any(|(name, value)| name == "VLLM_CPU_OMP_THREADS_BIND" && value == "nobind");
    let mut lines = Vec::new();
    let mut unknown = Vec::new();
    for (name, value) in variables {
        if name == "VLLM_USE_MODELSCOPE" {
            if value.eq_ignore_ascii_case("true") || value == "1" {
                bail!(
                    "{name} asks for models of ModelScope, and they come from Hugging Face's Hub here: unset it, or \
                     download the model and name its folder"
                );
            }
            continue;
        }
        if name.starts_with("VLLM_") && is_service_link(&name, &value) {
            continue;
        }
        // Threads that are not bound are counted by OpenMP's variable, as in vLLM.
        if name == "OMP_NUM_THREADS" && is_unbound {
            continue;
        }
        match effect(&name) {
            Some(Nothing(reason)) => lines.push(format!("{name} changes nothing: {reason}")),
            Some(Obeyed(_) | Silent(_)) => {}
            None if name.starts_with("VLLM_") => unknown.push(name),
            None => {}
        }
    }
    if !unknown.is_empty() {
        lines.push(format!("unknown here, and without effect: {}", unknown.join(", ")));
    }
    Ok(lines)
}

/// Says which of the process's variables change nothing.
///
/// # Errors
/// As [`notices`].
pub(crate) fn check() -> Result<()> {
    let variables = env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    for line in notices(variables)? {
        report::line(format_args!("note: {line}"));
    }
    Ok(())
}

/// A variable that says something: an empty one counts as unset.
pub(crate) fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(variables: &[(&str, &str)]) -> Vec<String> {
        let owned = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        notices(owned).unwrap()
    }

    #[test]
    fn what_changes_nothing_is_named_without_its_value() {
        let said = lines(&[
            ("PATH", "/bin"),
            ("VLLM_API_KEY", "secret"),
            ("VLLM_ATTENTION_BACKEND", "ROCM_FLASH"),
            ("VLLM_ROCM_USE_AITER_LINEAR", "1"),
            ("VLLM_MYSTERY_KEY", "secret"),
            ("VLLM_ENIGMA", "1"),
            ("VLLM_USE_V1", ""),
            ("VLLM_NO_USAGE_STATS", "1"),
            ("OMP_NUM_THREADS", "8"),
        ]);
        assert_eq!(said.len(), 4, "{said:?}");
        assert!(said[0].starts_with("OMP_NUM_THREADS changes nothing: "), "{said:?}");
        assert!(said[1].starts_with("VLLM_ATTENTION_BACKEND changes nothing: "), "{said:?}");
        assert_eq!(said[3], "unknown here, and without effect: VLLM_ENIGMA, VLLM_MYSTERY_KEY");
        assert!(!said.concat().contains("secret"), "{said:?}");
    }

    #[test]
    fn links_of_a_service_called_vllm_are_no_settings() {
        let said = lines(&[
            ("VLLM_SERVICE_HOST", "10.0.0.1"),
            ("VLLM_SERVICE_PORT_HTTP", "8000"),
            ("VLLM_PORT", "tcp://10.0.0.1:8000"),
            ("VLLM_PORT_8000_TCP_ADDR", "10.0.0.1"),
            ("VLLM_LLAMA_PORT", "tcp://10.0.0.2:80"),
        ]);
        assert_eq!(said, [""; 0]);
        assert_eq!(lines(&[("VLLM_PORT", "8001")]).len(), 1);
    }

    #[test]
    fn models_from_elsewhere_are_refused() {
        let variables = |value: &str| [("VLLM_USE_MODELSCOPE".to_owned(), value.to_owned())];
        assert!(notices(variables("True")).unwrap_err().to_string().contains("ModelScope"));
        assert!(notices(variables("False")).unwrap().is_empty());
    }
}
