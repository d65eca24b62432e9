//! What the engine knows, read at each scrape.

use std::fmt;

use octet_engine::{EngineHandle, EngineStats, ITERATION_TOKEN_BUCKETS};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

/// Adds the engine's numbers to a registry.
pub(super) fn register(registry: &mut Registry, engine: EngineHandle) {
    registry.register_collector(Box::new(EngineCollector { engine }));
}

#[derive(Debug)]
struct EngineCollector {
    engine: EngineHandle,
}

impl Collector for EngineCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let stats = self.engine.stats();
        gauges(&stats, &mut encoder)?;
        counters(&stats, &mut encoder)?;
        waiting_by_reason(&stats, &mut encoder)?;
        iteration_tokens(&stats, &mut encoder)
    }
}

fn gauges(stats: &EngineStats, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let gauges = [
        ("vllm:num_requests_running", "Sequences that take part in steps", stats.running as f64),
        ("vllm:num_requests_waiting", "Requests that wait for room", stats.waiting as f64),
        ("vllm:kv_cache_usage_perc", "Share of KV cache blocks in use, 0 to 1", stats.kv_cache_usage),
        ("vllm:gpu_cache_usage_perc", "Old name of vllm:kv_cache_usage_perc", stats.kv_cache_usage),
    ];
    for (name, help, value) in gauges {
        let gauge = ConstGauge::new(value);
        gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
    }
    Ok(())
}

fn counters(stats: &EngineStats, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let (queries, hits) = (stats.prefix_cache_queries, stats.prefix_cache_hits);
    let counters = [
        ("vllm:prefix_cache_queries", "Prompt tokens looked up in the prefix cache", queries),
        ("vllm:prefix_cache_hits", "Prompt tokens found there", hits),
        ("vllm:gpu_prefix_cache_queries", "Old name of vllm:prefix_cache_queries", queries),
        ("vllm:gpu_prefix_cache_hits", "Old name of vllm:prefix_cache_hits", hits),
        ("vllm:num_preemptions", "Sequences that lost their blocks to others", stats.preemptions),
        ("vllm:prompt_tokens", "Prompt tokens processed", stats.prompt_tokens),
        ("vllm:generation_tokens", "Tokens generated", stats.generation_tokens),
    ];
    for (name, help, value) in counters {
        let counter = ConstCounter::new(value);
        counter.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
    }
    Ok(())
}

/// Nothing is ever deferred here: every waiting request waits for capacity.
fn waiting_by_reason(stats: &EngineStats, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let mut family = encoder.encode_descriptor(
        "vllm:num_requests_waiting_by_reason",
        "Requests that wait, by reason",
        None,
        MetricType::Gauge,
    )?;
    for (reason, waiting) in [("capacity", stats.waiting as f64), ("deferred", 0.0)] {
        ConstGauge::new(waiting).encode(family.encode_family(&[("reason", reason)])?)?;
    }
    Ok(())
}

fn iteration_tokens(stats: &EngineStats, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let tokens = &stats.iteration_tokens;
    // The encoder writes `f64::MAX` as +Inf and adds the counts up itself.
    let bounds = ITERATION_TOKEN_BUCKETS.iter().map(|bound| *bound as f64).chain([f64::MAX]);
    let buckets: Vec<(f64, u64)> = bounds.zip(tokens.counts).collect();
    let count = tokens.counts.iter().sum();
    encoder
        .encode_descriptor("vllm:iteration_tokens_total", "Tokens of each step", None, MetricType::Histogram)?
        .encode_histogram::<NoLabelSet>(tokens.sum as f64, count, &buckets, None)
}
