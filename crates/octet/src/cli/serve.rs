//! Flags of `octet serve`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Map, Value};

use super::http::HttpArgs;
use super::tuning::GemmArgs;
use super::{EngineArgs, parse_bytes, parse_count, parse_seconds};

/// Serve a model over OpenAI's HTTP API.
#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    /// A folder with config.json and safetensors, or a Hub id such as Qwen/Qwen3-0.6B. Without it: the small model
    /// inside this program.
    pub(crate) model: Option<String>,
    /// The same, as a flag.
    #[arg(long = "model", value_name = "MODEL", conflicts_with = "model", hide = true)]
    pub(crate) model_flag: Option<String>,

    #[command(flatten)]
    pub(crate) engine: EngineArgs,

    #[command(flatten)]
    pub(crate) gemm: GemmArgs,

    #[command(flatten)]
    pub(crate) http: HttpArgs,

    /// Address to listen at; all interfaces by default.
    #[arg(long, default_value = "0.0.0.0", help_heading = "Server")]
    pub(crate) host: String,
    /// Port to listen at; 0 takes a free one.
    #[arg(long, default_value_t = 8000, help_heading = "Server")]
    pub(crate) port: u16,
    /// Name that requests may give in `model`; repeat the flag for more. The first is reported.
    #[arg(long, value_parser = parse_text, value_name = "NAME", help_heading = "Server")]
    pub(crate) served_model_name: Vec<String>,
    /// Key that clients must send as `Authorization: Bearer KEY`; repeat the flag for more. Without it: VLLM_API_KEY.
    #[arg(long, value_parser = parse_text, value_name = "KEY", help_heading = "Server")]
    pub(crate) api_key: Vec<String>,
    /// CORS: origins allowed, as a JSON list.
    #[arg(long, default_value = "[\"*\"]", value_parser = parse_list, value_name = "JSON", help_heading = "Server")]
    pub(crate) allowed_origins: List,
    /// CORS: methods allowed, as a JSON list.
    #[arg(long, default_value = "[\"*\"]", value_parser = parse_list, value_name = "JSON", help_heading = "Server")]
    pub(crate) allowed_methods: List,
    /// CORS: headers allowed, as a JSON list.
    #[arg(long, default_value = "[\"*\"]", value_parser = parse_list, value_name = "JSON", help_heading = "Server")]
    pub(crate) allowed_headers: List,
    /// CORS: allow credentials.
    #[arg(long, help_heading = "Server")]
    pub(crate) allow_credentials: bool,
    /// Largest request body.
    #[arg(long, default_value = "32M", value_parser = parse_bytes, value_name = "BYTES", help_heading = "Server")]
    pub(crate) max_body_bytes: usize,
    /// Memory of requests, apart from the model: bodies, what preparing them takes, prompts in the queue. What could
    /// never fit is answered 413, what does not fit now 503. An eighth of the memory by default, at most 1G; on a CPU
    /// it is kept free beside the KV cache.
    #[arg(long, value_parser = parse_bytes, value_name = "BYTES", help_heading = "Server")]
    pub(crate) request_memory_bytes: Option<usize>,
    /// Requests that may run or wait; more are answered 503 with Retry-After.
    #[arg(long, default_value = "1024", value_parser = parse_count, value_name = "COUNT", help_heading = "Server")]
    pub(crate) max_queued_requests: usize,
    /// Seconds that a stream may pause while the prompt of another request is computed: a step gets as many tokens of
    /// prompts as were measured to fit. 0.5 by default; 0 sets no bound, as does --no-enable-chunked-prefill.
    #[arg(long, value_parser = parse_seconds, help_heading = "Scheduling", value_name = "SECONDS")]
    pub(crate) max_stream_gap: Option<Duration>,
    /// Seconds that running requests get to finish after SIGTERM or SIGINT; 0 ends them at once.
    #[arg(long, default_value_t = 0, value_name = "SECONDS", help_heading = "Server")]
    pub(crate) shutdown_timeout: u64,
    /// Echo or create X-Request-Id.
    #[arg(long, help_heading = "Server")]
    pub(crate) enable_request_id_headers: bool,

    /// Chat template: a file, the name of one that the model has, or the template itself.
    #[arg(long, value_name = "FILE|NAME|TEMPLATE", help_heading = "API")]
    pub(crate) chat_template: Option<String>,
    /// Variables for the chat template, as a JSON object; a request's `chat_template_kwargs` win over them.
    #[arg(long, value_parser = parse_object, value_name = "JSON", help_heading = "API")]
    pub(crate) default_chat_template_kwargs: Option<Map<String, Value>>,
    /// Whether the template wants message contents as strings or as lists of parts.
    #[arg(long, value_enum, default_value = "auto", help_heading = "API")]
    pub(crate) chat_template_content_format: ContentFormat,
    /// Let a chat request bring its own template. A template is a program: only for clients that you trust.
    #[arg(long, help_heading = "API")]
    pub(crate) trust_request_chat_template: bool,
    /// Count requests in flight for `/load`.
    #[arg(long, help_heading = "Server")]
    pub(crate) enable_server_load_tracking: bool,
    /// Role of the model's chat messages.
    #[arg(long, default_value = "assistant", help_heading = "API")]
    pub(crate) response_role: String,
    /// Most alternatives that `logprobs` may ask for; -1 sets no limit.
    #[arg(long, default_value_t = 20, allow_hyphen_values = true, help_heading = "API")]
    pub(crate) max_logprobs: i64,
    /// What a logprob is.
    #[arg(long, value_enum, default_value = "raw_logprobs", help_heading = "API")]
    pub(crate) logprobs_mode: LogprobsMode,
    /// `auto`: sampling defaults from the model's generation_config.json; `vllm`: neutral ones; or a folder.
    #[arg(long, default_value = "auto", value_name = "auto|vllm|FOLDER", help_heading = "API")]
    pub(crate) generation_config: String,
    /// Sampling defaults that override those of --generation-config, as a JSON object.
    #[arg(long, value_name = "JSON", help_heading = "API")]
    pub(crate) override_generation_config: Option<String>,
    /// How /v1/embeddings makes vectors, as a JSON object: `pooling_type` (LAST, MEAN, CLS) and `use_activation` (whether
    /// they are normalized). Without it: the model's sentence-transformers files, else LAST and normalized.
    #[arg(long, value_name = "JSON", help_heading = "API")]
    pub(crate) pooler_config: Option<String>,
    /// Report cached prompt tokens in `usage`.
    #[arg(long, help_heading = "API")]
    pub(crate) enable_prompt_tokens_details: bool,
    /// Send `usage` at the end of every stream.
    #[arg(long, help_heading = "API")]
    pub(crate) enable_force_include_usage: bool,
    /// Send a stream's tokens in groups of this size; the first token goes out at once.
    #[arg(long, default_value = "1", value_parser = parse_count, value_name = "TOKENS", help_heading = "API")]
    pub(crate) stream_interval: usize,
    /// Show tokens in logprobs as `token_id:N`.
    #[arg(long, help_heading = "API")]
    pub(crate) return_tokens_as_token_ids: bool,
    /// Folder of the tokenizer, if it is not the model's.
    #[arg(long, value_name = "FOLDER", help_heading = "API")]
    pub(crate) tokenizer: Option<PathBuf>,
}

/// A text that says something: an unset variable in a script must not become a key or a name.
fn parse_text(text: &str) -> Result<String, String> {
    if text.trim().is_empty() { Err("must not be empty".to_owned()) } else { Ok(text.to_owned()) }
}

/// A JSON list of strings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct List(pub(crate) Vec<String>);

fn parse_list(text: &str) -> Result<List, String> {
    serde_json::from_str(text)
        .map(List)
        .map_err(|error| format!("must be a JSON list of strings, e.g. [\"*\"]: {error}"))
}

fn parse_object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text)
        .map_err(|error| format!("must be a JSON object, e.g. {{\"enable_thinking\": false}}: {error}"))
}

/// How message contents reach the template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ContentFormat {
    /// By what the template does with them.
    Auto,
    /// Strings.
    String,
    /// Lists of parts, as in OpenAI's API.
    Openai,
}

/// What a logprob is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum LogprobsMode {
    /// Log-softmax of the model's logits.
    RawLogprobs,
    /// The model's logits.
    RawLogits,
    /// Log-softmax after all processing.
    ProcessedLogprobs,
    /// Logits after all processing.
    ProcessedLogits,
}
