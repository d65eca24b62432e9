//! The work of vLLM's `bench throughput`: all of a data set waits, and the engine sets the pace.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use octet_backend::TunableBackend;
use octet_engine::{Engine, Executor, GroupId, Request, RequestId, Task};
use octet_model::ResolvedModel;
use octet_text::Tokenizer;
use octet_tune::LibraryChoice;
use serde_json::{Map, Value, json};

use super::dataset::{Dataset, Prompt, PromptSource, Sample};
use super::progress::Progress;
use super::statistics::count;
use super::{claim_json, configuration, progress_bar, sampling, write_json};
use crate::cli::bench::{DatasetName, PromptForm, ThroughputArgs};
use crate::device::{DevicePlan, DeviceTask};
use crate::output::OutputFile;
use crate::settings::Source;
use crate::start::{self, Purpose, Ready};

/// Runs `octet bench throughput`.
///
/// # Errors
/// Whatever keeps the model from running; a data set that cannot be made or does not fit; a file that cannot be
/// written.
pub(crate) fn run(arguments: &ThroughputArgs) -> Result<()> {
    let output = claim_json(arguments.output_json.as_deref())?;
    let dataset = Dataset::new(&arguments.dataset)?;
    let device = DevicePlan::new(&arguments.engine, &LibraryChoice::default())?;
    let source = Source::new(arguments.model.as_deref(), &arguments.engine)?;
    let resolved = start::resolve(&source, &arguments.engine)?;
    let folder = arguments.tokenizer.clone().or_else(|| resolved.folder.clone());
    let tokenizer = tokenizer(arguments, folder)?;
    let vocabulary = resolved.config.vocabulary;
    let prompts = match dataset.name() {
        DatasetName::ShareGpt => PromptSource::of_text(tokenizer.as_ref(), PromptForm::Tokens)?,
        _ => PromptSource::new(tokenizer.as_ref(), PromptForm::Tokens, vocabulary)?,
    };
    let seed = arguments.engine.seed;
    let samples = dataset.samples(arguments.dataset.num_prompts, seed, &prompts)?;
    let warmups = match arguments.num_warmups {
        0 => Vec::new(),
        wanted => dataset.for_warmup().samples(wanted, seed.wrapping_add(1), &prompts)?,
    };
    let prefix_caching = !arguments.engine.no_enable_prefix_caching;
    let work = Samples { warmups: &warmups, samples: &samples };
    let purpose = Purpose::measurement(prefix_caching);
    device.run(Throughput { arguments, source: &source, resolved, purpose, work, output: output.as_ref() })
}

/// A data set to be run on a model, and reported.
struct Throughput<'a> {
    arguments: &'a ThroughputArgs,
    source: &'a Source,
    resolved: ResolvedModel,
    purpose: Purpose,
    work: Samples<'a>,
    output: Option<&'a OutputFile>,
}

impl DeviceTask for Throughput<'_> {
    type Output = ();

    fn run<B: TunableBackend>(self, open: impl FnOnce() -> Result<B> + Send) -> Result<()> {
        let Self { arguments, source, resolved, purpose, work, output } = self;
        let ready = start::load(open, source, resolved, &arguments.engine, purpose)?;
        measure(arguments, source, ready, work, output)
    }
}

/// What is run before the measurement, and in it.
#[derive(Clone, Copy)]
struct Samples<'a> {
    warmups: &'a [Sample],
    samples: &'a [Sample],
}

/// Runs all samples on a loaded model and reports them.
fn measure<R: Executor>(
    arguments: &ThroughputArgs,
    source: &Source,
    ready: Ready<R>,
    Samples { warmups, samples }: Samples<'_>,
    output: Option<&OutputFile>,
) -> Result<()> {
    let seed = arguments.engine.seed;
    let precision = ready.precision;
    let mut engine = Engine::new(ready.engine, ready.runner)?;
    let begun = Instant::now();
    let clock = || begun.elapsed();
    work_off(&mut engine, warmups, Work { sequences: arguments.n, seed, name: "Warming up" }, &clock)?;
    let work = Work { sequences: arguments.n, seed, name: "Processed tokens" };
    let run = work_off(&mut engine, samples, work, &clock)?;
    let shown = run.write_text(&mut io::stdout().lock());
    if let Some(output) = output {
        write_json(output, &run.to_json(configuration(source, precision)))?;
    }
    shown.context("the report could not be written to standard output")
}

/// The tokenizer, if there is one: only conversations cannot do without.
fn tokenizer(arguments: &ThroughputArgs, folder: Option<PathBuf>) -> Result<Option<Tokenizer>> {
    match folder {
        Some(folder) if arguments.tokenizer.is_some() || folder.join("tokenizer.json").exists() => {
            Ok(Some(Tokenizer::load(&folder).with_context(|| folder.display().to_string())?))
        }
        _ => Ok(None),
    }
}

/// How samples are run.
#[derive(Clone, Copy)]
struct Work {
    /// Generated from each prompt.
    sequences: usize,
    /// Of sampling.
    seed: u64,
    /// Beside the progress bar.
    name: &'static str,
}

/// What was run, and how long it took.
#[derive(Clone, Debug, PartialEq)]
struct Run {
    elapsed: Duration,
    requests: usize,
    prompt_tokens: usize,
    output_tokens: usize,
    /// Prompt tokens that were found in the prefix cache.
    cached_tokens: usize,
    /// Sequences that lost their blocks and were computed again.
    preemptions: u64,
}

/// Submits all samples and steps until none is left.
fn work_off<E: Executor>(
    engine: &mut Engine<E>,
    samples: &[Sample],
    work: Work,
    clock: &dyn Fn() -> Duration,
) -> Result<Run> {
    let sequences = samples.len() * work.sequences;
    let wanted = |sequence: usize| samples[sequence / work.sequences].output_len;
    let output_tokens = (0..sequences).map(wanted).sum();
    let progress = Arc::new(Progress::new(sequences));
    let preemptions = engine.stats().preemptions;
    let bar = progress_bar(output_tokens as u64);
    bar.set_message(work.name);
    let start = clock();
    for sequence in 0..sequences {
        submit(engine, sequence, &samples[sequence / work.sequences], work.seed, &progress, start)?;
    }
    while engine.has_work() {
        let stepped = engine.step(clock);
        if stepped.is_err() {
            bar.finish_and_clear();
        }
        bar.inc(stepped?.generated as u64);
    }
    let elapsed = clock().saturating_sub(start);
    bar.finish_and_clear();
    progress.check(wanted)?;
    Ok(Run {
        elapsed,
        requests: samples.len(),
        prompt_tokens: samples.iter().map(|sample| sample.prompt_len).sum(),
        output_tokens,
        cached_tokens: progress.cached(),
        preemptions: engine.stats().preemptions - preemptions,
    })
}

fn submit<E: Executor>(
    engine: &mut Engine<E>,
    sequence: usize,
    sample: &Sample,
    seed: u64,
    progress: &Arc<Progress>,
    now: Duration,
) -> Result<()> {
    let Prompt::Tokens(ids) = &sample.prompt else { bail!("the engine takes token ids, not text") };
    let longest = engine.config().longest_sequence();
    if ids.len() + sample.output_len > longest {
        bail!(
            "a prompt of {} tokens and {} to generate are more than the {longest} of the longest sequence (raise \
             --max-model-len or the KV cache's memory, or take shorter ones)",
            ids.len(),
            sample.output_len
        );
    }
    let request = Request {
        id: RequestId(sequence as u64),
        group: GroupId(sequence as u64),
        prompt: ids.as_slice().into(),
        task: Task::Generate {
            sampling: Arc::new(sampling(seed.wrapping_add(sequence as u64))),
            max_tokens: sample.output_len,
        },
        priority: 0,
        cache_salt: None,
        sink: progress.sink(sequence),
    };
    engine.submit(request, now).map_err(|refused| refused.reason)?;
    Ok(())
}

impl Run {
    fn total_tokens(&self) -> usize {
        self.prompt_tokens + self.output_tokens
    }

    fn per_second(&self, number: usize) -> f64 {
        let seconds = self.elapsed.as_secs_f64();
        if seconds > 0.0 { count(number) / seconds } else { 0.0 }
    }

    /// vLLM's lines, then notes.
    fn write_text(&self, output: &mut impl Write) -> io::Result<()> {
        writeln!(
            output,
            "Throughput: {:.2} requests/s, {:.2} total tokens/s, {:.2} output tokens/s",
            self.per_second(self.requests),
            self.per_second(self.total_tokens()),
            self.per_second(self.output_tokens)
        )?;
        writeln!(output, "Total num prompt tokens:  {}", self.prompt_tokens)?;
        writeln!(output, "Total num output tokens:  {}", self.output_tokens)?;
        if self.cached_tokens > 0 {
            writeln!(output, "Note: {} prompt tokens were found in the prefix cache", self.cached_tokens)?;
        }
        if self.preemptions > 0 {
            writeln!(
                output,
                "Note: the KV cache is too small for the load: {} times a sequence had to be computed again",
                self.preemptions
            )?;
        }
        Ok(())
    }

    /// vLLM's keys, and `octet` with what vLLM does not report: first the fields that say what was measured.
    fn to_json(&self, configuration: Map<String, Value>) -> Value {
        let mut own = configuration;
        let further = [
            ("output_tokens_per_second", self.per_second(self.output_tokens).into()),
            ("total_prompt_tokens", self.prompt_tokens.into()),
            ("total_output_tokens", self.output_tokens.into()),
            ("cached_prompt_tokens", self.cached_tokens.into()),
            ("preemptions", self.preemptions.into()),
        ];
        own.extend(further.map(|(name, value): (&str, Value)| (name.to_owned(), value)));
        json!({
            "model_id": own.get("model"),
            "elapsed_time": self.elapsed.as_secs_f64(),
            "num_requests": self.requests,
            "total_num_tokens": self.total_tokens(),
            "requests_per_second": self.per_second(self.requests),
            "tokens_per_second": self.per_second(self.total_tokens()),
            "octet": own,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished() -> Run {
        Run {
            elapsed: Duration::from_secs(4),
            requests: 10,
            prompt_tokens: 100,
            output_tokens: 60,
            cached_tokens: 0,
            preemptions: 0,
        }
    }

    #[test]
    fn the_printed_form_is_vllms() {
        let mut text = Vec::new();
        finished().write_text(&mut text).expect("memory can be written");
        let expected = "\
Throughput: 2.50 requests/s, 40.00 total tokens/s, 15.00 output tokens/s
Total num prompt tokens:  100
Total num output tokens:  60
";
        assert_eq!(String::from_utf8_lossy(&text), expected);
        text.clear();
        Run { cached_tokens: 7, preemptions: 2, ..finished() }.write_text(&mut text).expect("likewise");
        assert_eq!(String::from_utf8_lossy(&text).lines().count(), 5);
    }

    #[test]
    fn json_has_vllms_keys_and_ours() {
        let json = finished().to_json(Map::from_iter([("model".to_owned(), json!("m"))]));
        assert_eq!((&json["model_id"], &json["num_requests"]), (&json!("m"), &json!(10)));
        assert_eq!((&json["elapsed_time"], &json["total_num_tokens"]), (&json!(4.0), &json!(160)));
        assert_eq!((&json["requests_per_second"], &json["tokens_per_second"]), (&json!(2.5), &json!(40.0)));
        assert_eq!(json["octet"]["output_tokens_per_second"], 15.0);
    }
}
