//! `octet bench serve`: any server of OpenAI's API under load, measured as vLLM's `bench serve` does.
//!
//! Prompts and arrivals are made before anything is timed (`arrivals.rs`, and `dataset/` beside this folder). `load.rs`
//! starts the requests when they arrive; `request.rs` sends each and times its stream; `measure.rs` makes figures of
//! what came of them, and `report.rs` the lines and the JSON.

mod arrivals;
mod load;
mod measure;
mod processor;
mod report;
mod request;
mod setup;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::dataset::Sample;
use super::progress_bar;
use super::random::Random;
use super::statistics::count;
use crate::cli::bench::ServeArgs;
use crate::output::OutputFile;
use arrivals::Rate;
use measure::{Metric, Totals};
use report::Report;
use request::{Outcome, Target};
use setup::Setup;

/// Runs `octet bench serve`.
///
/// # Errors
/// No server; a data set that cannot be made; not one request that succeeded; a file that cannot be written.
pub(crate) fn run(arguments: &ServeArgs) -> Result<()> {
    let metrics = metrics(arguments)?;
    let folder = claim_folder(arguments)?;
    let setup = Setup::new(arguments)?;
    warm_up(arguments, &setup)?;
    let load = &arguments.load;
    let mut random = Random::new(arguments.seed.wrapping_add(1 << 32));
    let arrivals = arrivals::arrivals(setup.samples.len(), rate(arguments), load.burstiness, &mut random);
    let processor_before = processor::seconds();
    let (outcomes, duration) = measure(arguments, &setup, &arrivals)?;
    let processor = processor::seconds().zip(processor_before).map(|(after, before)| after - before);
    let report = Report {
        totals: Totals::new(&outcomes, duration, &arguments.report.goodput),
        subject: setup.subject,
        load: load.clone(),
        outcomes,
        metrics,
        percents: arguments.report.metric_percentiles.clone(),
        client_processor_seconds: processor,
    };
    // A standard error that nobody reads costs no result.
    let _ = report.write_failures(&mut std::io::stderr().lock());
    let shown = report.write_text(&mut std::io::stdout().lock());
    if let Some(folder) = folder {
        save(arguments, &folder, &report)?;
    }
    shown.context("the report could not be written to standard output")?;
    if report.totals.completed == 0 {
        bail!("all {} requests failed", report.totals.failed);
    }
    Ok(())
}

/// Which metrics to report, in the order of vLLM's report.
fn metrics(arguments: &ServeArgs) -> Result<Vec<Metric>> {
    let typed = &arguments.report.percentile_metrics;
    let load = &arguments.load;
    for name in typed {
        let metric = Metric::ALL.into_iter().find(|metric| metric.key() == name);
        match metric {
            None => bail!(
                "--percentile-metrics: {name:?} is none; known are {}",
                Metric::ALL.map(Metric::key).join(", ")
            ),
            Some(Metric::ClientQueue | Metric::EndToEndWithQueue) if load.max_concurrency.is_none() => {
                bail!(
                    "--percentile-metrics {name} needs --max-concurrency: without it nothing waits in the client"
                )
            }
            Some(Metric::EndToEndWithQueue) if load.request_rate.is_infinite() => {
                bail!("--percentile-metrics {name} needs a finite --request-rate")
            }
            Some(_) => {}
        }
    }
    let is_typed = |metric: &Metric| typed.iter().any(|name| metric.key() == name);
    Ok(Metric::ALL.into_iter().filter(is_typed).collect())
}

fn rate(arguments: &ServeArgs) -> Rate {
    let load = &arguments.load;
    match (load.ramp_up_strategy, load.ramp_up_start_rps, load.ramp_up_end_rps) {
        (Some(strategy), Some(start), Some(end)) => Rate::Ramp { strategy, start, end },
        _ => Rate::Constant(load.request_rate),
    }
}

/// Sends requests whose prompts are not those of the measurement.
fn warm_up(arguments: &ServeArgs, setup: &Setup) -> Result<()> {
    if setup.warmups.is_empty() {
        return Ok(());
    }
    let all_at_once = vec![Duration::ZERO; setup.warmups.len()];
    let (outcomes, _) = send(arguments, &setup.target, &setup.warmups, &all_at_once, "Warming up", None)?;
    match outcomes.into_iter().find_map(|outcome| outcome.error) {
        Some(error) => bail!("a warm-up request failed: {error}"),
        None => Ok(()),
    }
}

fn measure(arguments: &ServeArgs, setup: &Setup, arrivals: &[Duration]) -> Result<(Vec<Outcome>, Duration)> {
    let prefix = arguments.sampling.request_id_prefix.as_deref();
    send(arguments, &setup.target, &setup.samples, arrivals, "Requests", prefix)
}

/// Sends all samples; returns what became of them and how long it took.
fn send(
    arguments: &ServeArgs,
    target: &Target,
    samples: &[Sample],
    arrivals: &[Duration],
    name: &'static str,
    id_prefix: Option<&str>,
) -> Result<(Vec<Outcome>, Duration)> {
    let hidden = arguments.report.disable_tqdm;
    let bar = if hidden { indicatif::ProgressBar::hidden() } else { progress_bar(samples.len() as u64) };
    bar.set_message(name);
    let limit = arguments.load.max_concurrency.unwrap_or(usize::MAX);
    let start = Instant::now();
    let outcomes = load::run(start, arrivals, limit, &|index| {
        let id = id_prefix.map(|prefix| format!("{prefix}{index}"));
        let outcome = target.perform(&samples[index], id.as_deref(), start, arrivals[index]);
        bar.inc(1);
        outcome
    });
    let duration = start.elapsed();
    bar.finish_and_clear();
    Ok((outcomes?, duration))
}

/// The folder of the file of results, if one is wanted, and known to be writable: the load may take hours.
fn claim_folder(arguments: &ServeArgs) -> Result<Option<PathBuf>> {
    let wanted = &arguments.report;
    if !wanted.save_result && !wanted.append_result {
        return Ok(None);
    }
    let folder = wanted.result_dir.clone().unwrap_or_else(|| PathBuf::from("."));
    fs::create_dir_all(&folder)
        .with_context(|| format!("--result-dir: {} could not be made", folder.display()))?;
    // The report names its file itself when it is made.
    let path = folder.join(wanted.result_filename.as_deref().unwrap_or("results.json"));
    OutputFile::claim(path.clone())
        .with_context(|| format!("the results cannot be written to {}", path.display()))?;
    Ok(Some(folder))
}

/// Writes the file of results.
fn save(arguments: &ServeArgs, folder: &Path, report: &Report) -> Result<()> {
    let wanted = &arguments.report;
    let path = folder.join(wanted.result_filename.clone().unwrap_or_else(|| report.file_name()));
    let text = serde_json::to_string(&report.to_json(wanted.save_detailed))?;
    let output = OutputFile::claim(path.clone());
    let written = output
        .and_then(|output| if wanted.append_result { output.append(&text) } else { output.replace(&text) });
    written.with_context(|| format!("the results could not be written to {}", path.display()))
}
