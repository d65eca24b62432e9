//! `octet bench`: measurements with vLLM's flags, work and printed form, each beside what the machine could do at best.
//!
//! - `latency.rs` runs and times whole batches; `report.rs` compares with the floor, prints and writes JSON.
//! - `throughput.rs` runs a data set through the engine, in this process.
//! - `serve/` measures any server of OpenAI's API from outside.
//! - `dataset/` makes the prompts of the last two; `progress.rs` takes the
//!   engine's events; `random.rs` and `statistics.rs` are what all of them count on.

mod dataset;
pub(crate) mod latency;
mod progress;
mod random;
mod report;
pub(crate) mod serve;
mod statistics;
pub(crate) mod throughput;

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use octet_backend::TunableBackend;
use octet_engine::Engine;
use octet_model::{ModelConfig, ResolvedModel};
use octet_sample::{LogprobsMode, SamplingParams};
use serde_json::{Map, Value};

use crate::cli::bench::LatencyArgs;
use crate::device::{DevicePlan, DeviceTask};
use crate::output::OutputFile;
use crate::roofline::PendingRoofline;
use crate::settings::Source;
use crate::start::{self, Precision, Purpose, Ready};
use crate::tuning::{GemmMode, GemmPlan, TunedRunner};
use latency::LatencyShape;
use report::{LatencyReport, WorkPerStep};

/// Runs `octet bench latency`.
///
/// # Errors
/// Whatever keeps the model from running, and a file that cannot be written.
pub(crate) fn latency(arguments: &LatencyArgs) -> Result<()> {
    let plan = GemmPlan::new(&arguments.gemm)?;
    let output = claim_json(arguments.output_json.as_deref())?;
    if plan.mode == GemmMode::Background {
        bail!(
            "--gemm-tuning background is for a server's idle time, and a benchmark has none; --gemm-tuning tune tunes first"
        );
    }
    let device = DevicePlan::new(&arguments.engine, &plan.library)?;
    let source = Source::new(arguments.model.as_deref(), &arguments.engine)?;
    let resolved = start::resolve(&source, &arguments.engine)?;
    // As in vLLM, the same prompts run again and again: cached prefixes would hide the prefill.
    let prefix_caching = arguments.engine.enable_prefix_caching;
    // A GPU's is measured before the model takes its memory, a CPU's when the run is over and its workers are free.
    let roofline = PendingRoofline::of(&device)?;
    let purpose = Purpose::measurement(prefix_caching);
    device.run(Latency {
        arguments,
        source: &source,
        resolved,
        purpose,
        plan,
        output: output.as_ref(),
        roofline,
    })
}

/// Batches to be run on a model, and reported.
struct Latency<'a> {
    arguments: &'a LatencyArgs,
    source: &'a Source,
    resolved: ResolvedModel,
    purpose: Purpose,
    plan: GemmPlan,
    output: Option<&'a OutputFile>,
    roofline: PendingRoofline,
}

impl DeviceTask for Latency<'_> {
    type Output = ();

    fn run<B: TunableBackend>(self, open: impl FnOnce() -> Result<B> + Send) -> Result<()> {
        let Self { arguments, source, resolved, purpose, plan, output, roofline } = self;
        let ready = start::load(open, source, resolved, &arguments.engine, purpose)?;
        measure(arguments, source, plan, ready, output, roofline)
    }
}

/// Runs batches on a loaded model and reports them.
fn measure<B: TunableBackend>(
    arguments: &LatencyArgs,
    source: &Source,
    plan: GemmPlan,
    mut ready: Ready<TunedRunner<B>>,
    output: Option<&OutputFile>,
    roofline: PendingRoofline,
) -> Result<()> {
    ready.runner.begin_tuning(plan)?;
    let (work, precision) = (work_per_step(&ready), ready.precision);
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
    let tunes = ready.runner.mode() == GemmMode::Tune;
    if let Some((session, _)) = ready.runner.session().filter(|_| tunes) {
        session.show_bar();
    }
    let mut engine = Engine::new(ready.engine, ready.runner)?;
    let start = Instant::now();
    if tunes {
        // What the benchmark meets is tuned before it counts.
        latency::probe(&mut engine, shape, &|| start.elapsed())?;
        while engine.idle()? {}
    }
    let run = latency::run(&mut engine, shape, &|| start.elapsed())?;
    drop(engine);
    let report = LatencyReport::new(run, work, roofline.finish()?);
    let shown = report.write_text(&mut std::io::stdout().lock());
    if let Some(output) = output {
        write_json(output, &report.to_json(configuration(source, precision)))?;
    }
    shown.context("the report could not be written to standard output")
}

/// The file of `--output-json`, if one is wanted. Claimed before anything is measured.
fn claim_json(path: Option<&Path>) -> Result<Option<OutputFile>> {
    let claim = |path: &Path| {
        let claimed = OutputFile::claim(path.to_owned());
        claimed.with_context(|| format!("--output-json: {} cannot be written", path.display()))
    };
    path.map(claim).transpose()
}

/// Writes the file of `--output-json`.
fn write_json(output: &OutputFile, results: &Value) -> Result<()> {
    let written = output.replace(&serde_json::to_string_pretty(results)?);
    written.with_context(|| {
        format!("--output-json: the results could not be written to {}", output.path().display())
    })
}

/// What was measured, for the `octet` part of results.
fn configuration(source: &Source, precision: Precision) -> Map<String, Value> {
    let fields = [
        ("model", source.name.as_str().into()),
        ("weight_type", precision.weights.to_string().into()),
        ("quantization", precision.quantization.into()),
        ("kv_cache_type", precision.kv_cache.to_string().into()),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A bar on standard error, if that is a terminal.
fn progress_bar(length: u64) -> ProgressBar {
    let style = "{msg} {bar:30} {percent:>3}% [{elapsed_precise}, {eta_precise} left]";
    let style = ProgressStyle::with_template(style).expect("the template is a constant and valid");
    ProgressBar::new(length).with_style(style)
}

/// Temperature 1, nothing truncated, no end of sequence.
fn sampling(seed: u64) -> SamplingParams {
    SamplingParams {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        seed,
        min_tokens: 0,
        eos_token_id: None,
        stop_token_ids: Default::default(),
        logit_bias: Default::default(),
        allowed_token_ids: None,
        bad_words: Default::default(),
        logprobs: None,
        prompt_logprobs: None,
        logprobs_mode: LogprobsMode::RawLogprobs,
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of parameters and bytes are far below 2^53")]
fn work_per_step<R>(ready: &Ready<R>) -> WorkPerStep {
    let ModelConfig { hidden, vocabulary, .. } = ready.config;
    WorkPerStep {
        weight_bytes: ready.step_weight_bytes as f64,
        kv_bytes_per_token: ready.plan.block_bytes as f64 / ready.plan.block_size as f64,
        multiply_adds_per_token: ready.config.layer_parameters() as f64,
        multiply_adds_per_output: (vocabulary * hidden) as f64,
    }
}
