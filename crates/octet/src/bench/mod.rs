//! `octet bench`: measurements with vLLM's flags, work and printed form, each beside what the machine could do at best.
//!
//! `latency.rs` runs and times; `report.rs` compares with the floor, prints and writes JSON.

pub(crate) mod latency;
pub(crate) mod report;

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use octet_cpu::{Isa, Pool};
use octet_engine::Engine;
use octet_model::ModelConfig;

use crate::cli::Device;
use crate::cli::bench::LatencyArgs;
use crate::settings::{self, Source};
use crate::start::{self, Ready};
use latency::LatencyShape;
use report::{Floor, LatencyReport, WorkPerStep};

/// Runs `octet bench latency`.
///
/// # Errors
/// Whatever keeps the model from running, and a file that cannot be written.
pub(crate) fn run(arguments: &LatencyArgs) -> Result<()> {
    if !matches!(arguments.engine.device, Device::Auto | Device::Cpu) {
        bail!("bench latency measures the CPU; on a GPU, measure a server");
    }
    let source = Source::new(arguments.model.as_deref(), &arguments.engine)?;
    let resolved = start::resolve(&source, &arguments.engine)?;
    // As in vLLM, the same prompts run again and again: cached prefixes would hide the prefill.
    let prefix_caching = arguments.engine.enable_prefix_caching;
    let ready = start::load(&source, resolved, &arguments.engine, prefix_caching)?;
    let work = work_per_step(&ready);
    let shape = LatencyShape {
        batch_size: arguments.batch_size,
        sequences_per_prompt: arguments.n,
        input_len: arguments.input_len,
        output_len: arguments.output_len,
        warmups: arguments.num_iters_warmup,
        iterations: arguments.num_iters,
        vocabulary: ready.config.vocabulary,
        seed: arguments.engine.seed,
    };
    let mut engine = Engine::new(ready.engine, ready.runner)?;
    let start = Instant::now();
    let run = latency::run(&mut engine, shape, &|| start.elapsed())?;
    drop(engine);
    let report = LatencyReport::new(run, work, floor(arguments)?);
    report.write_text(&mut std::io::stdout().lock())?;
    if let Some(path) = &arguments.output_json {
        let text = serde_json::to_string_pretty(&report.to_json())?;
        fs::write(path, text)
            .with_context(|| format!("--output-json: {} could not be written", path.display()))?;
    }
    Ok(())
}

/// What this machine could do at best, now that the run is over and the workers are free.
fn floor(arguments: &LatencyArgs) -> Result<Floor> {
    let pool = Pool::new(&settings::cpu_options(&arguments.engine)?.threads)?;
    let measured = octet_cpu::Floor::measure(&pool, Isa::from_environment()?)?;
    Ok(Floor {
        read_bytes_per_second: measured.read_bytes_per_second,
        multiply_add_per_second: measured.operations_per_second / 2.0,
    })
}

#[expect(clippy::cast_precision_loss, reason = "counts of parameters and bytes are far below 2^53")]
fn work_per_step(ready: &Ready) -> WorkPerStep {
    let ModelConfig { layers, hidden, intermediate, vocabulary, .. } = ready.config;
    let attention = hidden * (ready.config.qkv_columns() + ready.config.attention_columns());
    WorkPerStep {
        weight_bytes: ready.step_weight_bytes as f64,
        kv_bytes_per_token: ready.plan.block_bytes as f64 / ready.plan.block_size as f64,
        operations_per_token: (layers * (attention + 3 * hidden * intermediate)) as f64,
        operations_per_output: (vocabulary * hidden) as f64,
    }
}
