//! Brings a model up: device, weights, memory plan, runner. Every subcommand that computes begins here.

use std::panic::resume_unwind;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use octet_backend::{Backend, DataType, TunableBackend};
use octet_engine::{EngineConfig, EngineHandle, EngineThread, Executor};
use octet_model::{LoadedModel, MemoryPlan, ModelConfig, Progress, RequestBudget, ResolvedModel};

use crate::cli::EngineArgs;
use crate::environment;
use crate::report;
use crate::selftest::startup::{self, InUse, Passed};
use crate::settings::{self, Source};
use crate::tuning::{GemmPlan, TunedRunner};

/// The longest that a server tunes before it is ready, unless said otherwise.
const SERVER_BUDGET: Duration = Duration::from_secs(60);

/// A model that is ready to run, and what was found out on the way.
pub(crate) struct Ready<R> {
    /// Runs steps.
    pub(crate) runner: R,
    /// For the engine that will plan them.
    pub(crate) engine: EngineConfig,
    /// Where the memory went.
    pub(crate) plan: MemoryPlan,
    /// The model's config.
    pub(crate) config: ModelConfig,
    /// Bytes of weights that every step reads: all but an embedding table that is only looked up.
    pub(crate) step_weight_bytes: usize,
    /// In what weights and cached keys and values are held.
    pub(crate) precision: Precision,
}

/// Element types of a loaded model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Precision {
    /// Of weights that are not quantized.
    pub(crate) weights: DataType,
    /// How the others are quantized.
    pub(crate) quantization: Option<&'static str>,
    /// Of the KV cache.
    pub(crate) kv_cache: DataType,
}

impl<B: TunableBackend> Ready<TunedRunner<B>> {
    /// Uses tuned kernels for a server, and measures what is missing if that was asked for. On a thread of its own, as
    /// [`load`] is.
    ///
    /// # Errors
    /// A file to import that cannot be, and a fault of the device.
    pub(crate) fn tune(&mut self, plan: GemmPlan) -> Result<()> {
        let (tokens, sequences) = (self.engine.max_num_batched_tokens, self.engine.max_num_seqs);
        let runner = &mut self.runner;
        let tune = move || {
            runner.begin_tuning(plan.within(SERVER_BUDGET))?;
            runner.tune_for_serving(tokens, sequences)
        };
        thread::scope(|scope| {
            let tuner = thread::Builder::new().name("octet-tune".to_owned()).spawn_scoped(scope, tune);
            tuner.context("no thread to tune the model")?.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }
}

impl<R: Executor + Send + 'static> Ready<R> {
    /// Starts the engine on a thread of its own.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub(crate) fn spawn(self) -> Result<(EngineHandle, EngineThread)> {
        Ok(octet_engine::spawn(self.engine, self.runner)?)
    }
}

/// What a model is brought up for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Purpose {
    /// Whether prompts with a known beginning begin where it ends.
    pub(crate) prefix_caching: bool,
    /// What is kept free for requests.
    pub(crate) requests: RequestBudget,
}

impl Purpose {
    /// To run what the program itself makes up.
    pub(crate) const fn measurement(prefix_caching: bool) -> Self {
        Self { prefix_caching, requests: RequestBudget::Nothing }
    }
}

/// Looks the model up; downloads it if it is to come from the Hub.
///
/// # Errors
/// Everything that can be wrong with a source or a config.
pub(crate) fn resolve(source: &Source, arguments: &EngineArgs) -> Result<ResolvedModel> {
    settings::check(arguments)?;
    environment::check()?;
    let overrides = &arguments.hf_overrides;
    if !overrides.is_empty() {
        report::line(format_args!("--hf-overrides: {overrides}"));
    }
    let mut bar = LoadBar::new();
    let format = settings::load_format(arguments);
    let resolved =
        ResolvedModel::with_overrides(&source.source, format, overrides, &mut |progress| bar.show(progress))
            .with_context(|| format!("{} cannot be loaded", source.name))?;
    settings::check_quantization(arguments, &resolved.config)?;
    Ok(resolved)
}

/// Loads the weights, divides the memory, and allocates workspace and KV cache.
///
/// It does so on a thread of its own: workers bind the thread that calls them to a CPU, and every thread that such a
/// thread starts (those that serve connections, say) would be bound to the same one.
///
/// # Errors
/// Everything that can be wrong with a checkpoint, and a model that does not fit.
pub(crate) fn load<B: TunableBackend>(
    backend: impl FnOnce() -> Result<B> + Send,
    source: &Source,
    model: ResolvedModel,
    arguments: &EngineArgs,
    purpose: Purpose,
) -> Result<Ready<TunedRunner<B>>> {
    let load = move || load_here(backend()?, source, model, arguments, purpose);
    thread::scope(|scope| {
        let loader = thread::Builder::new().name("octet-load".to_owned()).spawn_scoped(scope, load);
        loader.context("no thread to load the model")?.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

fn load_here<B: TunableBackend>(
    backend: B,
    source: &Source,
    model: ResolvedModel,
    arguments: &EngineArgs,
    purpose: Purpose,
) -> Result<Ready<TunedRunner<B>>> {
    let begun = Instant::now();
    report::device(&backend.info());
    settings::check_kv_memory(arguments, backend.memory())?;
    let mut bar = LoadBar::new();
    let options = settings::load_options(arguments);
    let loaded = LoadedModel::load_resolved(backend, model, &options, &mut |progress| bar.show(progress));
    drop(bar);
    let mut loaded = loaded.with_context(|| format!("{} cannot be loaded", source.name))?;
    for warning in loaded.warnings() {
        report::line(format_args!("warning: {warning}"));
    }
    report::model(&source.name, &loaded, begun.elapsed());
    report::line(test_device(&mut loaded)?);
    let longest = match loaded.max_model_len() {
        octet_model::MaxModelLen::Tokens(tokens) => tokens,
        octet_model::MaxModelLen::Model | octet_model::MaxModelLen::Auto => {
            loaded.config().longest_sequence()
        }
    };
    let plan = loaded.plan_memory(&settings::memory_request(arguments, purpose.requests, longest)?)?;
    report::memory(&plan);
    let config = loaded.config().clone();
    let engine = settings::engine_config(arguments, &plan, &config, purpose.prefix_caching)?;
    let table_bytes = config.vocabulary * config.hidden * loaded.weight_type().bytes();
    let looked_up_only = !config.tied_embeddings || arguments.quantize_head;
    let step_weight_bytes = loaded.weight_bytes() - if looked_up_only { table_bytes } else { 0 };
    let precision = Precision {
        weights: loaded.weight_type(),
        quantization: loaded.quantization(),
        kv_cache: loaded.kv_type(),
    };
    let runner = TunedRunner::new(loaded.into_runner(plan.limits())?);
    Ok(Ready { runner, engine, plan, config, step_weight_bytes, precision })
}

/// Sends known values through the model's operations. On a thread of its own: a device may bind the thread that calls it.
fn test_device<B: Backend>(loaded: &mut LoadedModel<B>) -> Result<Passed> {
    let used = InUse::of(loaded);
    let device = loaded.backend_mut();
    thread::scope(|scope| {
        scope.spawn(|| startup::check(device, &used)).join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// A progress bar on terminals; silent elsewhere.
struct LoadBar {
    bar: ProgressBar,
}

impl LoadBar {
    fn new() -> Self {
        let style =
            ProgressStyle::with_template("{msg:24!} {bar:30} {bytes}/{total_bytes} {binary_bytes_per_sec}");
        let bar = ProgressBar::no_length().with_style(style.expect("the template is a constant and valid"));
        Self { bar }
    }

    fn show(&mut self, progress: Progress<'_>) {
        let (name, loaded_bytes, total_bytes) = match progress {
            Progress::Download { file, loaded_bytes, total_bytes } => (file, loaded_bytes, total_bytes),
            Progress::Weights { tensor, loaded_bytes, total_bytes } => (tensor, loaded_bytes, total_bytes),
        };
        self.bar.set_length(total_bytes as u64);
        self.bar.set_position(loaded_bytes as u64);
        self.bar.set_message(name.to_owned());
    }
}

impl Drop for LoadBar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
