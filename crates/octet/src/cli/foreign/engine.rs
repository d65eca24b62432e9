//! Flags about the model and the engine.

use super::Answer::{Ignored, Only, Refused};
use super::{ForeignFlag, Takes, switch, value};

const ONE_DEVICE: &str =
    "Octet computes on one device for now: run one server for each device, behind a router";
const NO_RANKS: &str = "there is one process and one device, and nothing to coordinate";
const NO_EXPERTS: &str = "models with experts are not supported yet";
const NO_LORA: &str = "LoRA adapters are not supported: merge the adapter into its model and serve that";
const NO_SPECULATION: &str =
    "speculative decoding is not supported: leave the flag out, the answers are the same";
const NO_MEDIA: &str = "only text is taken";
const NO_MAMBA: &str = "models with state-space layers are not supported";
const NO_OFFLOAD: &str = "weights and KV cache stay on their device: take a smaller or quantized model, \
                          --kv-cache-dtype fp8, or --device cpu";
const NO_TRANSFER: &str = "KV blocks are not handed to other servers or stores";
const NO_PLUGINS: &str = "no Python is run, so there are no plugins";
const NO_POOLING: &str = "Octet generates text and embeds it; it does not classify, score or rank";
const OWN_KERNELS: &str = "kernels are Octet's own, chosen for the device; see --gemm-tuning";
const NOTHING_COMPILED: &str = "there is no graph compiler: kernels are ready when the program starts";
const READ_ONCE: &str = "weights are read through the page cache, once";

/// All of them, as vLLM's help groups them.
pub(super) const FLAGS: &[ForeignFlag] = &[
    // Model.
    value("runner", Only(&["generate", "auto", "pooling"], NO_POOLING)),
    value("task", Only(&["generate", "auto", "embed", "embedding"], NO_POOLING)),
    value("convert", Only(&["auto", "none", "embed"], NO_POOLING)),
    value("override-pooler-config", Refused("it is called --pooler-config")),
    value("tokenizer-mode", Ignored("tokenizer.json is read, which gives the same tokens in every mode")),
    value("config-format", Ignored("config.json is read, in Hugging Face's form")),
    switch("trust-remote-code", Ignored("no code of a model is ever run")),
    value("code-revision", Ignored("no code of a model is ever run")),
    value("model-impl", Only(&["auto", "vllm"], "models are Octet's own; leave the flag out")),
    value("tokenizer-revision", Refused("tokenizer and model have one revision: --revision")),
    value("hf-config-path", Refused("name the folder or the Hub id that holds config.json as MODEL")),
    value("hf-token", Refused("a command line is seen by everybody on the machine: set HF_TOKEN instead")),
    value("rope-scaling", Refused("write it as --hf-overrides '{\"rope_scaling\": {...}}'")),
    value("rope-theta", Refused("write it as --hf-overrides '{\"rope_theta\": ...}'")),
    value(
        "quantization-config",
        Refused("--quantization names all that there is; a quantized checkpoint needs no flag"),
    ),
    switch("allow-deprecated-quantization", Ignored("no quantization is deprecated here")),
    switch(
        "disable-sliding-window",
        Refused("windows are part of the model; limit sequences with --max-model-len"),
    ),
    switch("disable-cascade-attn", Ignored("there is no cascade attention")),
    switch(
        "skip-tokenizer-init",
        Refused("the server needs the tokenizer; prompts may be token ids all the same"),
    ),
    switch("enable-prompt-embeds", Refused("prompts are text or token ids")),
    switch(
        "enable-sleep-mode",
        Refused("weights stay where they are: end the server, it starts again in seconds"),
    ),
    switch("enable-cumem-allocator", Ignored("memory is reserved once, at start")),
    switch("enable-return-routed-experts", Refused(NO_EXPERTS)),
    value("logits-processors", Refused(NO_PLUGINS)),
    value("io-processor-plugin", Refused(NO_PLUGINS)),
    value("renderer-num-workers", Ignored("prompts are prepared on threads of their own")),
    value("model-class-overrides", Refused(NO_PLUGINS)),
    switch("use-fp64-gumbel", Refused("sampling is done in 32-bit")),
    value(
        "guided-decoding-backend",
        Ignored("structured output is not supported; requests that ask for it get 400"),
    ),
    value(
        "structured-outputs-config",
        Ignored("structured output is not supported; requests that ask for it get 400"),
    ),
    value("reasoning-config", Refused("reasoning is not told apart from the answer")),
    value("diffusion-config", Refused("diffusion models are not supported")),
    switch("use-v2-block-manager", Ignored("there is one block manager")),
    // Loading.
    value("safetensors-load-strategy", Ignored(READ_ONCE)),
    value("safetensors-prefetch-num-threads", Ignored(READ_ONCE)),
    value("safetensors-prefetch-block-size", Ignored(READ_ONCE)),
    value("model-loader-extra-config", Ignored(READ_ONCE)),
    value("ignore-patterns", Ignored("only safetensors, configs and tokenizer files are fetched")),
    switch("use-tqdm-on-load", Ignored("progress is shown on terminals only")),
    value("pt-load-map-location", Ignored("no pickled weights are read")),
    value("max-parallel-loading-workers", Ignored(READ_ONCE)),
    // Attention, kernels, compilation.
    value("attention-backend", Ignored(OWN_KERNELS)),
    value("attention-config", Ignored(OWN_KERNELS)).or(&["-ac"]),
    value("linear-backend", Ignored(OWN_KERNELS)),
    value("moe-backend", Ignored(OWN_KERNELS)),
    value("kernel-config", Ignored(OWN_KERNELS)),
    value("ir-op-priority", Ignored(OWN_KERNELS)),
    switch("enable-flashinfer-autotune", Ignored(OWN_KERNELS)),
    switch("enforce-eager", Ignored(NOTHING_COMPILED)),
    value("compilation-config", Ignored(NOTHING_COMPILED)).or(&["-O", "-cc"]),
    value("optimization-level", Ignored(NOTHING_COMPILED)),
    value("performance-mode", Ignored("there is one way to schedule; see --max-num-batched-tokens")),
    value("max-cudagraph-capture-size", Ignored("graphs are recorded as steps need them")),
    value("max-seq-len-to-capture", Ignored("graphs are recorded as steps need them")),
    ForeignFlag::new(
        "cudagraph-capture-sizes",
        Takes::Numbers,
        Ignored("graphs are recorded as steps need them"),
    ),
    ForeignFlag::new("cuda-graph-sizes", Takes::Numbers, Ignored("graphs are recorded as steps need them")),
    value("mamba-backend", Refused(NO_MAMBA)),
    value("mamba-cache-dtype", Refused(NO_MAMBA)),
    value("mamba-ssm-cache-dtype", Refused(NO_MAMBA)),
    value("mamba-block-size", Refused(NO_MAMBA)),
    value("mamba-cache-mode", Only(&["none"], NO_MAMBA)),
    // Devices and processes.
    value("tensor-parallel-size", Only(&["1"], ONE_DEVICE)).or(&["-tp"]),
    value("pipeline-parallel-size", Only(&["1"], ONE_DEVICE)).or(&["-pp"]),
    value("data-parallel-size", Only(&["1"], ONE_DEVICE)).or(&["-dp"]),
    value("data-parallel-size-local", Only(&["1"], ONE_DEVICE)).or(&["-dpl"]),
    value("data-parallel-rank", Only(&["0"], ONE_DEVICE)).or(&["-dpn"]),
    value("data-parallel-start-rank", Only(&["0"], ONE_DEVICE)).or(&["-dpr"]),
    value("data-parallel-address", Refused(ONE_DEVICE)).or(&["-dpa"]),
    value("data-parallel-rpc-port", Refused(ONE_DEVICE)).or(&["-dpp"]),
    value("data-parallel-backend", Ignored(NO_RANKS)).or(&["-dpb"]),
    switch("data-parallel-hybrid-lb", Refused(ONE_DEVICE)).or(&["-dph"]),
    switch("data-parallel-external-lb", Refused(ONE_DEVICE)).or(&["-dpe"]),
    value("decode-context-parallel-size", Only(&["1"], ONE_DEVICE)).or(&["-dcp"]),
    value("prefill-context-parallel-size", Only(&["1"], ONE_DEVICE)).or(&["-pcp"]),
    value("nnodes", Only(&["1"], ONE_DEVICE)).or(&["-n"]),
    value("node-rank", Only(&["0"], ONE_DEVICE)).or(&["-r"]),
    value("master-addr", Ignored(NO_RANKS)),
    value("master-port", Ignored(NO_RANKS)),
    value("distributed-executor-backend", Ignored(NO_RANKS)),
    value("distributed-timeout-seconds", Ignored(NO_RANKS)),
    switch("disable-custom-all-reduce", Ignored(NO_RANKS)),
    switch("disable-nccl-for-dp-synchronization", Ignored(NO_RANKS)),
    switch("ray-workers-use-nsight", Ignored(NO_RANKS)),
    switch("worker-use-ray", Ignored(NO_RANKS)),
    switch("engine-use-ray", Ignored(NO_RANKS)),
    value("worker-cls", Only(&["auto"], NO_PLUGINS)),
    value("worker-extension-cls", Refused(NO_PLUGINS)),
    value("device-ids", Refused("choose the GPU with HIP_VISIBLE_DEVICES or CUDA_VISIBLE_DEVICES")),
    switch("numa-bind", Ignored("workers are bound to cores; VLLM_CPU_OMP_THREADS_BIND names them")),
    switch("enable-expert-parallel", Refused(NO_EXPERTS)).or(&["-ep"]),
    switch("enable-eplb", Refused(NO_EXPERTS)),
    value("eplb-config", Refused(NO_EXPERTS)),
    value("num-redundant-experts", Only(&["0"], NO_EXPERTS)),
    value("all2all-backend", Refused(NO_EXPERTS)),
    value("expert-placement-strategy", Refused(NO_EXPERTS)),
    switch("enable-dbo", Refused(ONE_DEVICE)),
    // Memory.
    value("swap-space", Ignored("sequences that give way are computed anew, not swapped out")),
    value("cpu-offload-gb", Only(&["0"], NO_OFFLOAD)),
    value("kv-offloading-size", Only(&["0"], NO_OFFLOAD)),
    value("kv-offloading-backend", Refused(NO_OFFLOAD)),
    value("offload-backend", Only(&["auto"], NO_OFFLOAD)),
    value("prefix-caching-hash-algo", Ignored("prefixes are found by one 128-bit hash")),
    switch(
        "calculate-kv-scales",
        Refused("scales of an FP8 cache come from the checkpoint, else they are 1"),
    ),
    value("kv-cache-dtype-skip-layers", Refused("the KV cache has one type; see --kv-cache-dtype")),
    switch("kv-sharing-fast-prefill", Refused("models that share KV between layers are not supported")),
    switch("disable-hybrid-kv-cache-manager", Ignored("all layers share one kind of KV block")),
    value("kv-transfer-config", Refused(NO_TRANSFER)),
    value("kv-events-config", Refused(NO_TRANSFER)),
    value("ec-transfer-config", Refused(NO_TRANSFER)),
    value("weight-transfer-config", Refused("weights are read at start and do not change")),
    // Scheduling.
    switch("async-scheduling", Ignored("there is one way to schedule")),
    value("num-scheduler-steps", Only(&["1"], "a step gives one token a sequence")),
    switch("multi-step-stream-outputs", Ignored("a step gives one token a sequence")),
    value("max-num-partial-prefills", Only(&["1"], "use --long-prefill-token-threshold")),
    value("max-long-partial-prefills", Only(&["1"], "use --long-prefill-token-threshold")),
    value("scheduler-delay-factor", Only(&["0"], "no request is held back")),
    value("preemption-mode", Only(&["recompute"], "sequences that give way are computed anew")),
    value("scheduler-cls", Refused(NO_PLUGINS)),
    switch("disable-chunked-mm-input", Ignored(NO_MEDIA)),
    // Media.
    value("limit-mm-per-prompt", Ignored(NO_MEDIA)),
    switch("language-model-only", Ignored(NO_MEDIA)),
    switch("skip-mm-profiling", Ignored(NO_MEDIA)),
    value("mm-processor-kwargs", Ignored(NO_MEDIA)),
    value("media-io-kwargs", Ignored(NO_MEDIA)),
    value("mm-processor-cache-gb", Ignored(NO_MEDIA)),
    value("mm-processor-cache-type", Ignored(NO_MEDIA)),
    value("mm-encoder-tp-mode", Ignored(NO_MEDIA)),
    value("mm-encoder-attn-backend", Ignored(NO_MEDIA)),
    value("allowed-local-media-path", Ignored(NO_MEDIA)),
    value("allowed-media-domains", Ignored(NO_MEDIA)),
    value("video-pruning-rate", Ignored(NO_MEDIA)),
    switch("interleave-mm-strings", Ignored(NO_MEDIA)),
    switch("disable-mm-preprocessor-cache", Ignored(NO_MEDIA)),
    switch("enable-mm-embeds", Refused(NO_MEDIA)),
    switch("mm-encoder-only", Refused(NO_MEDIA)),
    // Adapters and speculation.
    switch("enable-lora", Refused(NO_LORA)),
    value("max-loras", Refused(NO_LORA)),
    value("max-lora-rank", Refused(NO_LORA)),
    value("max-cpu-loras", Refused(NO_LORA)),
    value("lora-dtype", Refused(NO_LORA)),
    value("lora-target-modules", Refused(NO_LORA)),
    value("default-mm-loras", Refused(NO_LORA)),
    switch("fully-sharded-loras", Refused(NO_LORA)),
    switch("enable-prompt-adapter", Refused(NO_LORA)),
    value("speculative-config", Refused(NO_SPECULATION)).or(&["-sc"]),
    value("speculative-model", Refused(NO_SPECULATION)),
    value("num-speculative-tokens", Refused(NO_SPECULATION)),
    value("spec-method", Refused(NO_SPECULATION)),
    value("spec-model", Refused(NO_SPECULATION)),
    value("spec-tokens", Refused(NO_SPECULATION)),
    // Watching.
    switch("disable-log-stats", Ignored("no statistics are logged; /metrics has them")),
    switch("aggregate-engine-logging", Ignored("there is one engine")),
    value(
        "otlp-traces-endpoint",
        Refused("traces are not sent; /metrics and the access log say what happened"),
    ),
    value(
        "collect-detailed-traces",
        Refused("traces are not sent; /metrics and the access log say what happened"),
    ),
    value("show-hidden-metrics-for-version", Ignored("no metric is hidden")),
    switch("kv-cache-metrics", Refused("/metrics has the cache's use and hits, not the age of blocks")),
    switch("cudagraph-metrics", Refused("graphs are not counted")),
    switch(
        "enable-mfu-metrics",
        Refused("measure it with `octet bench latency`, which prints the share of the floor"),
    ),
    value(
        "profiler-config",
        Refused("there is no built-in profiler; use the system's, such as perf or rocprofv3"),
    ),
    value("additional-config", Refused("there are no plugins that would read it")),
    switch(
        "fail-on-environ-validation",
        Refused("unknown variables are named at start and the server starts"),
    ),
];
