//! `octet tune`: finds the fastest kernels for a model's matrix products, ahead of time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use octet_backend::{GemmDevice, GemmProblem, TunableBackend};
use octet_engine::Engine;
use octet_model::ResolvedModel;
use octet_tune::{SyntheticWeights, read_untuned};

use crate::bench::latency::{self, LatencyShape};
use crate::cli::tuning::TuneArgs;
use crate::device::{DevicePlan, DeviceTask};
use crate::report;
use crate::settings::Source;
use crate::start::{self, Purpose, Ready};
use crate::tuning::{GemmPlan, Session, TunedRunner};

/// Bytes of synthetic weights that take turns: more than the last cache of most processors.
const ROTATING_BYTES: usize = 256 << 20;

/// Defaults of `bench latency`, for whichever of the three flags is missing.
const INPUT_LEN: usize = 32;
const OUTPUT_LEN: usize = 128;
const BATCH_SIZE: usize = 8;

/// Tunes, and prints what was found.
///
/// # Errors
/// Whatever keeps the model from being loaded; an interrupt, after what was finished was written.
pub(crate) fn run(arguments: &TuneArgs) -> Result<()> {
    let interrupted = watch_for_interrupts()?;
    let plan = GemmPlan::of_tune(arguments)?;
    let device = DevicePlan::new(&arguments.engine, &plan.library)?;
    if let Some(path) = &arguments.from_untuned {
        let (problems, notes) = read_untuned(path)?;
        for note in notes {
            report::line(format_args!("warning: {}, {note}; it is skipped", path.display()));
        }
        return device.run(TuneProblems { plan, problems: &problems, interrupted: &interrupted });
    }
    let source =
        Source::new(arguments.model.as_deref().or(arguments.model_flag.as_deref()), &arguments.engine)?;
    let resolved = start::resolve(&source, &arguments.engine)?;
    device.run(TuneModel { arguments, source: &source, resolved, plan, interrupted: &interrupted })
}

/// Problems of a file, to be tuned with synthetic weights.
struct TuneProblems<'a> {
    plan: GemmPlan,
    problems: &'a [GemmProblem],
    interrupted: &'a AtomicBool,
}

impl DeviceTask for TuneProblems<'_> {
    type Output = ();

    fn run<B: TunableBackend>(self, open: impl FnOnce() -> Result<B> + Send) -> Result<()> {
        tune_synthetic(open()?, self.plan, self.problems, self.interrupted)
    }
}

/// A model whose products are to be tuned.
struct TuneModel<'a> {
    arguments: &'a TuneArgs,
    source: &'a Source,
    resolved: ResolvedModel,
    plan: GemmPlan,
    interrupted: &'a AtomicBool,
}

impl DeviceTask for TuneModel<'_> {
    type Output = ();

    fn run<B: TunableBackend>(self, open: impl FnOnce() -> Result<B> + Send) -> Result<()> {
        let Self { arguments, source, resolved, plan, interrupted } = self;
        let purpose = Purpose::measurement(false);
        let ready = start::load(open, source, resolved, &arguments.engine, purpose)?;
        tune_model(arguments, plan, ready, interrupted)
    }
}

/// Tunes the products of a loaded model.
fn tune_model<B: TunableBackend>(
    arguments: &TuneArgs,
    plan: GemmPlan,
    mut ready: Ready<TunedRunner<B>>,
    interrupted: &AtomicBool,
) -> Result<()> {
    ready.runner.begin_tuning(plan)?;
    let (tokens, sequences) = (ready.engine.max_num_batched_tokens, ready.engine.max_num_seqs);
    let of_a_batch = [arguments.input_len, arguments.output_len, arguments.batch_size];
    let (mut runner, problems) = if of_a_batch.iter().any(Option::is_some) {
        met_by_a_batch(arguments, ready)?
    } else {
        let problems = ready.runner.possible_problems(tokens, sequences);
        (ready.runner, problems)
    };
    let Some((session, mut device)) = runner.session() else { return Ok(()) };
    session.meet(&problems);
    work_off(session, &mut device, &problems, interrupted)
}

/// Runs the beginning of a batch of `bench latency`, and returns the products that it met.
fn met_by_a_batch<B: TunableBackend>(
    arguments: &TuneArgs,
    ready: Ready<TunedRunner<B>>,
) -> Result<(TunedRunner<B>, Vec<GemmProblem>)> {
    let shape = LatencyShape {
        batch_size: arguments.batch_size.unwrap_or(BATCH_SIZE),
        sequences_per_prompt: 1,
        input_len: arguments.input_len.unwrap_or(INPUT_LEN),
        output_len: arguments.output_len.unwrap_or(OUTPUT_LEN),
        warmups: 0,
        iterations: 1,
        vocabulary: ready.config.vocabulary,
        seed: arguments.engine.seed,
    };
    let mut engine = Engine::new(ready.engine, ready.runner)?;
    let start = Instant::now();
    latency::probe(&mut engine, shape, &|| start.elapsed())?;
    let mut runner = engine.into_executor();
    let problems = runner.met_problems();
    Ok((runner, problems))
}

/// Tunes problems of a file with synthetic weights.
fn tune_synthetic<B: TunableBackend>(
    backend: B,
    plan: GemmPlan,
    problems: &[GemmProblem],
    interrupted: &AtomicBool,
) -> Result<()> {
    let info = backend.info();
    report::device(&info);
    let mut here = Vec::new();
    for problem in problems {
        match backend.gemm_equivalent(problem) {
            Some(problem) if !here.contains(&problem) => here.push(problem),
            Some(_) => {}
            None => {
                report::line(format_args!("warning: this device does not multiply {problem}; it is skipped"))
            }
        }
    }
    let mut device = SyntheticWeights::new(backend, plan.rotating_bytes.unwrap_or(ROTATING_BYTES));
    let mut session = Session::begin(plan, &info, &mut device)?;
    session.meet(&here);
    work_off(&mut session, &mut device, &here, interrupted)
}

/// Steps until all is done, time is over, a result cannot be written, or the user interrupts; then prints the table.
fn work_off(
    session: &mut Session,
    device: &mut dyn GemmDevice,
    problems: &[GemmProblem],
    interrupted: &AtomicBool,
) -> Result<()> {
    if let Some(path) = session.record_path() {
        report::line(format_args!("GEMM tuning: {} products are in {}", problems.len(), path.display()));
        return Ok(());
    }
    session.show_bar();
    while session.has_work() && session.loss().is_none() && !interrupted.load(Ordering::Relaxed) {
        session.step(device)?;
    }
    session.table(problems, device).write(&mut std::io::stdout().lock()).context("the table")?;
    session.summarise();
    if let Some(loss) = session.loss() {
        bail!("{loss}");
    }
    if interrupted.load(Ordering::Relaxed) {
        bail!("interrupted; what was tuned is kept, and the same command goes on from there");
    }
    Ok(())
}

/// From now on an interrupt does not end the process but sets a flag; a second one ends it.
fn watch_for_interrupts() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let interrupted = Arc::clone(&flag);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let watch = move || {
        runtime.block_on(async {
            // Without signals there is no interrupt either.
            while tokio::signal::ctrl_c().await.is_ok() {
                if interrupted.swap(true, Ordering::Relaxed) {
                    std::process::exit(130);
                }
            }
        });
    };
    std::thread::Builder::new().name("octet-signals".to_owned()).spawn(watch)?;
    Ok(flag)
}
