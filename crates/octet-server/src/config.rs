//! What the program tells the server, once.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use octet_sample::LogprobsMode;
use serde_json::{Map, Value};

use crate::connection::ConnectionLimits;

/// Everything about the server that is a choice of who runs it. [`ServerConfig::default`] holds vLLM's defaults.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Name or address to listen on.
    pub host: String,
    /// Port; 0 lets the operating system choose.
    pub port: u16,
    /// A Unix socket's path; host and port are not used then.
    pub unix_socket: Option<PathBuf>,
    /// A prefix of all paths that a proxy leaves in place. Requests may come with it or without.
    pub root_path: String,
    /// Bounds on connections.
    pub connections: ConnectionLimits,
    /// Accepted keys; when empty, no key is asked for.
    pub api_keys: ApiKeyList,
    /// Which pages of other origins may call.
    pub cors: CorsConfig,
    /// Bounds on what a request may ask.
    pub limits: Limits,
    /// What a request gets for fields that it leaves out.
    pub generation_defaults: GenerationDefaults,
    /// Extras in responses.
    pub responses: ResponseConfig,
    /// Seeds the generator from which sequences without a seed of their own draw one.
    pub seed: u64,
    /// What "logprob" means.
    pub logprobs_mode: LogprobsMode,
    /// Whether the engine schedules by priority; otherwise a priority other than 0 is refused.
    pub priority_scheduling: bool,
    /// Whether a chat request may bring its own template. A template is a program: it can be made to run for long.
    pub trust_request_chat_template: bool,
    /// Variables for chat templates that a request's own `chat_template_kwargs` win over.
    pub default_chat_template_kwargs: Map<String, Value>,
    /// How long requests in flight may go on after SIGTERM or SIGINT; zero ends them at once.
    pub shutdown_timeout: Duration,
    /// Labels of `vllm:cache_config_info`: (name, value).
    pub cache_config: Vec<(String, String)>,
    /// Whether each request leaves a line in the log when it has ended.
    pub access_log: bool,
    /// Paths whose requests leave none: probes, scrapes.
    pub quiet_paths: Vec<String>,
    /// Whether the parameters of each request are logged when it comes.
    pub request_log: bool,
    /// Characters of a prompt that are logged, where the level of the log is `debug`; `None` stands for all.
    pub max_logged_prompt: Option<usize>,
    /// Whether `/load` counts.
    pub load_tracking: bool,
    /// Log lines that were lost because nobody took them, counted by whoever writes the log; shown as a metric.
    pub lost_log_lines: Arc<AtomicU64>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            host: "0.0.0.0".to_owned(),
            port: 8000,
            unix_socket: None,
            root_path: String::new(),
            connections: ConnectionLimits::default(),
            api_keys: ApiKeyList::default(),
            cors: CorsConfig::default(),
            limits: Limits::default(),
            generation_defaults: GenerationDefaults::default(),
            responses: ResponseConfig::default(),
            seed: 0,
            logprobs_mode: LogprobsMode::default(),
            priority_scheduling: false,
            trust_request_chat_template: false,
            default_chat_template_kwargs: Map::new(),
            shutdown_timeout: Duration::ZERO,
            cache_config: Vec::new(),
            access_log: true,
            quiet_paths: Vec::new(),
            request_log: false,
            max_logged_prompt: None,
            load_tracking: false,
            lost_log_lines: Arc::default(),
        }
    }
}

/// API keys as they were given. They never show in debug output.
#[derive(Clone, Default)]
pub struct ApiKeyList(pub Vec<String>);

impl fmt::Debug for ApiKeyList {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} keys", self.0.len())
    }
}

/// Cross-origin requests; `"*"` stands for all.
#[derive(Clone, Debug)]
pub struct CorsConfig {
    /// Origins, for instance `https://example.org`.
    pub allowed_origins: Vec<String>,
    /// Methods.
    pub allowed_methods: Vec<String>,
    /// Headers.
    pub allowed_headers: Vec<String>,
    /// Whether cookies and the like may be sent along.
    pub allow_credentials: bool,
}

impl Default for CorsConfig {
    fn default() -> Self {
        let all = || vec!["*".to_owned()];
        Self {
            allowed_origins: all(),
            allowed_methods: all(),
            allowed_headers: all(),
            allow_credentials: false,
        }
    }
}

/// Bounds on what one request may ask.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest body, bytes.
    pub max_body_bytes: usize,
    /// Most alternatives in `logprobs`, `top_logprobs` and `prompt_logprobs`; `None` sets no bound and allows -1.
    pub max_logprobs: Option<u32>,
    /// Most sequences of one request: prompts times `n`. A part of the queue only: others may come.
    pub max_sequences: usize,
    /// Memory of requests, apart from the model: bodies, what preparing them takes, prompts that wait, bytes.
    pub request_memory_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body_bytes: 32 << 20,
            max_logprobs: Some(20),
            max_sequences: 512,
            request_memory_bytes: 512 << 20,
        }
    }
}

/// The model's own defaults (its generation_config.json and overrides); `None` leaves the neutral value.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GenerationDefaults {
    /// Neutral: 1.
    pub temperature: Option<f32>,
    /// Neutral: 1.
    pub top_p: Option<f32>,
    /// Neutral: 0, all tokens.
    pub top_k: Option<u32>,
    /// Neutral: 0.
    pub min_p: Option<f32>,
    /// Neutral: 1.
    pub repetition_penalty: Option<f32>,
    /// Neutral: 0.
    pub presence_penalty: Option<f32>,
    /// Neutral: 0.
    pub frequency_penalty: Option<f32>,
    /// Cap on `max_tokens`, and the default of chat.
    pub max_new_tokens: Option<usize>,
}

/// Extras in responses, and the role that answers.
#[derive(Clone, Debug)]
pub struct ResponseConfig {
    /// Write tokens as `token_id:N` in logprobs, whatever the request says.
    pub return_tokens_as_token_ids: bool,
    /// Report how many prompt tokens came from the prefix cache.
    pub prompt_tokens_details: bool,
    /// End every stream with its usage.
    pub force_include_usage: bool,
    /// Answer with an X-Request-Id header.
    pub request_id_headers: bool,
    /// The role of generated chat messages.
    pub chat_role: String,
    /// Tokens of a streamed sequence that are sent together, after the first.
    pub stream_interval: usize,
}

impl Default for ResponseConfig {
    fn default() -> Self {
        Self {
            return_tokens_as_token_ids: false,
            prompt_tokens_details: false,
            force_include_usage: false,
            request_id_headers: false,
            chat_role: "assistant".to_owned(),
            stream_interval: 1,
        }
    }
}
