//! `/metrics`: vLLM's names, today's and those of the article's time, so that dashboards for either work.
//!
//! [`Metrics`] is the registry; a [`Meter`] follows one sequence and observes its stages. What the engine counts is
//! read from it at each scrape (`engine.rs`), and so is what the operating system knows (`process.rs`).

mod buckets;
mod engine;
mod http;
mod meter;
mod process;
mod text;

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use octet_engine::EngineHandle;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::config::ServerConfig;
use crate::error::ApiError;
use crate::model::Model;
use crate::state::App;

pub(crate) use http::HttpMetrics;
pub(crate) use meter::{Ending, Meter};

/// Labels made at run time.
type Labels = Vec<(String, String)>;

/// All that is measured. Handlers observe, `/metrics` prints.
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) http: HttpMetrics,
    request_success: Family<Labels, Counter>,
    prompt_tokens_by_source: Family<Labels, Counter>,
    prompt_tokens_cached: Counter,
    sequences: SequenceHistograms,
}

/// Observed once for each sequence, or for each of its tokens.
struct SequenceHistograms {
    n: Histogram,
    max_tokens: Histogram,
    prompt_tokens: Histogram,
    generation_tokens: Histogram,
    computed_prompt_tokens: Histogram,
    time_to_first_token: Histogram,
    inter_token: Histogram,
    per_output_token: Histogram,
    end_to_end: Histogram,
    queue: Histogram,
    inference: Histogram,
    prefill: Histogram,
    decode: Histogram,
}

impl Metrics {
    pub(crate) fn new(config: &ServerConfig, model: &Model, engine: EngineHandle) -> Self {
        let mut registry = Registry::default();
        let http = HttpMetrics::register(&mut registry);
        process::register(&mut registry, Arc::clone(&config.lost_log_lines));
        cache_config(&mut registry, &config.cache_config, &engine);
        let labels = [("model_name", model.name().to_owned()), ("engine", "0".to_owned())];
        let model_registry = registry
            .sub_registry_with_labels(labels.into_iter().map(|(name, value)| (name.into(), value.into())));
        engine::register(model_registry, engine);
        let sequences = SequenceHistograms::register(model_registry, model.max_model_len);
        let request_success = Family::<Labels, Counter>::default();
        // Made now, so that a scrape before the first request shows zeros rather than nothing.
        for ending in Ending::ALL {
            drop(request_success.get_or_create(&one("finished_reason", ending.word())));
        }
        let prompt_tokens_by_source = Family::<Labels, Counter>::default();
        for source in [LOCAL_COMPUTE, LOCAL_CACHE_HIT] {
            drop(prompt_tokens_by_source.get_or_create(&one("source", source)));
        }
        let prompt_tokens_cached = Counter::default();
        model_registry.register("vllm:request_success", "Sequences that ended", request_success.clone());
        model_registry.register(
            "vllm:prompt_tokens_by_source",
            "Prompt tokens by where their keys and values came from",
            prompt_tokens_by_source.clone(),
        );
        model_registry.register(
            "vllm:prompt_tokens_cached",
            "Prompt tokens found in the prefix cache",
            prompt_tokens_cached.clone(),
        );
        Self { registry, http, request_success, prompt_tokens_by_source, prompt_tokens_cached, sequences }
    }

    /// A client request was handed to the engine as `n` sequences a prompt.
    pub(crate) fn request_taken(&self, n: usize) {
        self.sequences.n.observe(n as f64);
    }

    fn count_prompt(&self, cached: u64, computed: u64) {
        self.prompt_tokens_cached.inc_by(cached);
        self.prompt_tokens_by_source.get_or_create(&one("source", LOCAL_CACHE_HIT)).inc_by(cached);
        self.prompt_tokens_by_source.get_or_create(&one("source", LOCAL_COMPUTE)).inc_by(computed);
    }

    fn count_end(&self, ending: Ending) {
        self.request_success.get_or_create(&one("finished_reason", ending.word())).inc();
    }
}

const LOCAL_COMPUTE: &str = "local_compute";
const LOCAL_CACHE_HIT: &str = "local_cache_hit";

fn one(name: &str, value: &str) -> Labels {
    vec![(name.to_owned(), value.to_owned())]
}

/// The cache's configuration as labels of a gauge that is always 1: vLLM's way to publish text.
fn cache_config(registry: &mut Registry, configured: &[(String, String)], engine: &EngineHandle) {
    let stats = engine.stats();
    let mut labels = configured.to_vec();
    let known = [("block_size", stats.block_size), ("num_gpu_blocks", stats.capacity_blocks)];
    for (name, value) in known {
        if !labels.iter().any(|(label, _)| label == name) {
            labels.push((name.to_owned(), value.to_string()));
        }
    }
    labels.push(("engine".to_owned(), "0".to_owned()));
    let family = Family::<Labels, Gauge>::default();
    family.get_or_create(&labels).set(1);
    registry.register("vllm:cache_config_info", "Configuration of the KV cache", family);
}

impl SequenceHistograms {
    fn register(registry: &mut Registry, max_model_len: usize) -> Self {
        let mut add = |name: &str, help: &str, bounds: &[f64]| {
            let histogram = Histogram::new(bounds.iter().copied());
            registry.register(name, help, histogram.clone());
            histogram
        };
        let tokens = buckets::token_counts(max_model_len);
        let latency = &buckets::REQUEST_SECONDS;
        let inter_token =
            add("vllm:inter_token_latency_seconds", "Between two tokens", &buckets::TOKEN_SECONDS);
        let per_output_token = add(
            "vllm:request_time_per_output_token_seconds",
            "Mean time between tokens of a sequence",
            &buckets::TOKEN_SECONDS,
        );
        let histograms = Self {
            n: add("vllm:request_params_n", "n of requests", &buckets::REQUEST_N),
            max_tokens: add("vllm:request_params_max_tokens", "max_tokens of sequences", &tokens),
            prompt_tokens: add("vllm:request_prompt_tokens", "Prompt tokens of sequences", &tokens),
            generation_tokens: add(
                "vllm:request_generation_tokens",
                "Generated tokens of sequences",
                &tokens,
            ),
            computed_prompt_tokens: add(
                "vllm:request_prefill_kv_computed_tokens",
                "Prompt tokens of sequences that were not in the prefix cache",
                &tokens,
            ),
            time_to_first_token: add(
                "vllm:time_to_first_token_seconds",
                "From arrival to the first token",
                &buckets::FIRST_TOKEN_SECONDS,
            ),
            inter_token: inter_token.clone(),
            per_output_token,
            end_to_end: add("vllm:e2e_request_latency_seconds", "From arrival to the last token", latency),
            queue: add("vllm:request_queue_time_seconds", "From arrival to the first scheduling", latency),
            inference: add(
                "vllm:request_inference_time_seconds",
                "From scheduling to the last token",
                latency,
            ),
            prefill: add("vllm:request_prefill_time_seconds", "From scheduling to the first token", latency),
            decode: add("vllm:request_decode_time_seconds", "From the first token to the last", latency),
        };
        // The name of the article's time shows the same histogram.
        registry.register(
            "vllm:time_per_output_token_seconds",
            "Old name of vllm:inter_token_latency_seconds",
            inter_token,
        );
        histograms
    }
}

/// `GET /metrics`: OpenMetrics to those that ask for it, Prometheus' older text to all others.
pub(crate) async fn metrics(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response, ApiError> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let open_metrics = accept.contains("application/openmetrics-text");
    let mut body = String::new();
    prometheus_client::encoding::text::encode(&mut body, &app.metrics.registry)
        .map_err(|_| ApiError::internal("the metrics could not be written"))?;
    let kind = if open_metrics {
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    } else {
        body = text::to_prometheus_text(&body);
        "text/plain; version=0.0.4; charset=utf-8"
    };
    Ok(([(header::CONTENT_TYPE, kind)], body).into_response())
}
