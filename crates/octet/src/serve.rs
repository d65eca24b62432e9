//! `octet serve`: a model behind OpenAI's HTTP API.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use octet_backend::TunableBackend;
use octet_model::{
    GenerationConfig, GenerationKeys, ModelConfig, PoolingConfig, RequestBudget, ResolvedModel,
};
use octet_sample::LogprobsMode;
use octet_server::{
    ApiKeyList, BoundSocket, CorsConfig, EmbeddingModel, GenerationDefaults, Limits, Model, ResponseConfig,
    ServerConfig, Service,
};
use octet_text::{ChatTemplate, ContentFormat, Tokenizer};
use serde_json::{Map, Value};

use crate::cli::serve::{self as typed, ServeArgs};
use crate::device::{DevicePlan, DeviceTask};
use crate::settings::{self, Source};
use crate::start::{self, Purpose, Ready};
use crate::tuning::GemmPlan;
use crate::{environment, logging, report};

/// Where a model's makers say how to sample.
const GENERATION_FILE: &str = "generation_config.json";
/// vLLM's variable for a key.
const KEY_VARIABLE: &str = "VLLM_API_KEY";

/// Serves until a signal or a fault of the engine ends it.
///
/// # Errors
/// Whatever keeps the model from being served.
pub(crate) fn run(arguments: &ServeArgs) -> Result<()> {
    let begun = Instant::now();
    logging::start()?;
    let (service, socket) = prepare(arguments, api_keys(&arguments.api_key))?;
    let names = service.model.names.join(", ");
    let root = service.config.root_path.clone();
    octet_server::run(service, socket, |address| {
        let seconds = begun.elapsed().as_secs_f64();
        let path = format!("{}/v1", root.trim_end_matches('/'));
        report::line(format_args!("serving {names} at {address}{path} (ready after {seconds:.2} s)"));
    })?;
    Ok(())
}

/// Claims the address, loads the model and starts its engine.
///
/// # Errors
/// Whatever keeps the model from being served.
pub(crate) fn prepare(arguments: &ServeArgs, api_keys: Vec<String>) -> Result<(Service, BoundSocket)> {
    check(arguments)?;
    let mut config = server_config(arguments)?;
    config.api_keys = ApiKeyList(api_keys);
    let plan = GemmPlan::new(&arguments.gemm)?;
    let gap = settings::stream_gap(arguments.max_stream_gap, &arguments.engine)?;
    // A taken port and a missing device are known before minutes are spent on loading.
    let socket = octet_server::bind(&config)?;
    let device = DevicePlan::new(&arguments.engine, &plan.library)?;
    let source =
        Source::new(arguments.model.as_deref().or(arguments.model_flag.as_deref()), &arguments.engine)?;
    let resolved = start::resolve(&source, &arguments.engine)?;
    let Some(tokenizer_folder) = arguments.tokenizer.as_deref().or(resolved.folder.as_deref()) else {
        bail!("{} has no tokenizer; name the folder of one with --tokenizer", source.name);
    };
    let tokenizer = load_tokenizer(tokenizer_folder, resolved.config.vocabulary)?;
    let generation = generation_config(arguments, resolved.folder.as_deref())?;
    if !generation.ignored.is_empty() {
        let keys = generation.ignored.join(", ");
        report::line(format_args!("note: {GENERATION_FILE}: not obeyed, as in vLLM: {keys}"));
    }
    config.generation_defaults = generation_defaults(&generation);
    let templates = templates(arguments, &tokenizer)?;
    let purpose = Purpose {
        prefix_caching: !arguments.engine.no_enable_prefix_caching,
        requests: request_budget(arguments)?,
    };
    let pooling = pooling_config(arguments, resolved.folder.as_deref())?;
    let text = TextSide { tokenizer, templates, generation, pooling };
    let serving =
        Serving { arguments, source: &source, resolved, purpose, plan, config, text, max_stream_gap: gap };
    Ok((device.run(serving)?, socket))
}

/// Refuses what no model could make right, before one is looked for.
///
/// # Errors
/// A flag, a variable or a file that cannot be followed.
pub(crate) fn check(arguments: &ServeArgs) -> Result<()> {
    settings::check(&arguments.engine)?;
    server_config(arguments)?;
    check_template_file(arguments)?;
    generation_config(arguments, None)?;
    if let Some(folder) = &arguments.tokenizer
        && !folder.is_dir()
    {
        bail!("--tokenizer: {} is no folder; expected one with tokenizer.json", folder.display());
    }
    GemmPlan::new(&arguments.gemm)?;
    Ok(())
}

/// Keys that were typed, else the one of the environment.
fn api_keys(typed: &[String]) -> Vec<String> {
    if typed.is_empty() { environment::variable(KEY_VARIABLE).into_iter().collect() } else { typed.to_vec() }
}

/// A model to be loaded, and all that is known of how to serve it.
struct Serving<'a> {
    arguments: &'a ServeArgs,
    source: &'a Source,
    resolved: ResolvedModel,
    purpose: Purpose,
    plan: GemmPlan,
    config: ServerConfig,
    text: TextSide,
    max_stream_gap: Duration,
}

impl DeviceTask for Serving<'_> {
    type Output = Service;

    fn run<B: TunableBackend>(self, open: impl FnOnce() -> Result<B> + Send) -> Result<Service> {
        let Self { arguments, source, resolved, purpose, plan, mut config, text, max_stream_gap } = self;
        let mut ready = start::load(open, source, resolved, &arguments.engine, purpose)?;
        ready.tune(plan)?;
        ready.engine.max_queued = arguments.max_queued_requests;
        ready.engine.max_stream_gap = max_stream_gap;
        config.limits.request_memory_bytes = ready.plan.request_bytes;
        config.cache_config = cache_labels(&ready, arguments);
        let model = served_model(arguments, source, &ready, text);
        let (engine, engine_thread) = ready.spawn()?;
        Ok(Service { config, model, engine, engine_thread })
    }
}

/// What of the model is about text.
struct TextSide {
    tokenizer: Arc<Tokenizer>,
    templates: Templates,
    generation: GenerationConfig,
    pooling: PoolingConfig,
}

/// With less, not even a long prompt could be prepared.
const LEAST_REQUEST_MEMORY: usize = 16 << 20;

fn request_budget(arguments: &ServeArgs) -> Result<RequestBudget> {
    match arguments.request_memory_bytes {
        None => Ok(RequestBudget::Auto),
        Some(bytes) if bytes < LEAST_REQUEST_MEMORY => {
            bail!("--request-memory-bytes is {bytes}, expected at least {LEAST_REQUEST_MEMORY} (16M)")
        }
        Some(bytes) => Ok(RequestBudget::Bytes(bytes)),
    }
}

fn server_config(arguments: &ServeArgs) -> Result<ServerConfig> {
    let max_logprobs = match arguments.max_logprobs {
        -1 => None,
        count => match u32::try_from(count) {
            Ok(count) => Some(count),
            Err(_) => bail!("--max-logprobs is {count}, expected -1 (no limit) or at least 0"),
        },
    };
    let mut config = ServerConfig {
        host: arguments.host.clone(),
        port: arguments.port,
        cors: CorsConfig {
            allowed_origins: arguments.allowed_origins.0.clone(),
            allowed_methods: arguments.allowed_methods.0.clone(),
            allowed_headers: arguments.allowed_headers.0.clone(),
            allow_credentials: arguments.allow_credentials,
        },
        limits: Limits {
            max_body_bytes: arguments.max_body_bytes,
            max_logprobs,
            // One request must leave places to others.
            max_sequences: (arguments.max_queued_requests / 2).max(1),
            ..Limits::default()
        },
        responses: ResponseConfig {
            return_tokens_as_token_ids: arguments.return_tokens_as_token_ids,
            prompt_tokens_details: arguments.enable_prompt_tokens_details,
            force_include_usage: arguments.enable_force_include_usage,
            request_id_headers: arguments.enable_request_id_headers,
            chat_role: arguments.response_role.clone(),
            stream_interval: arguments.stream_interval,
        },
        seed: arguments.engine.seed,
        logprobs_mode: match arguments.logprobs_mode {
            typed::LogprobsMode::RawLogprobs => LogprobsMode::RawLogprobs,
            typed::LogprobsMode::RawLogits => LogprobsMode::RawLogits,
            typed::LogprobsMode::ProcessedLogprobs => LogprobsMode::ProcessedLogprobs,
            typed::LogprobsMode::ProcessedLogits => LogprobsMode::ProcessedLogits,
        },
        priority_scheduling: settings::has_priorities(&arguments.engine),
        trust_request_chat_template: arguments.trust_request_chat_template,
        default_chat_template_kwargs: arguments.default_chat_template_kwargs.clone().unwrap_or_default(),
        shutdown_timeout: Duration::from_secs(arguments.shutdown_timeout),
        load_tracking: arguments.enable_server_load_tracking,
        lost_log_lines: logging::dropped_lines(),
        ..ServerConfig::default()
    };
    arguments.http.apply(&mut config)?;
    Ok(config)
}

/// The generation config that `--generation-config` names, with what `--override-generation-config` replaces. `vllm`
/// leaves out all but the ids that end a sequence, as vLLM does.
fn generation_config(arguments: &ServeArgs, folder: Option<&Path>) -> Result<GenerationConfig> {
    let own = folder.map(|folder| folder.join(GENERATION_FILE));
    let (path, keys) = match arguments.generation_config.as_str() {
        "vllm" => (own, GenerationKeys::EosOnly),
        "auto" => (own, GenerationKeys::All),
        // A model may have no such file, but a folder that was named for it must.
        named => {
            let path = Path::new(named).join(GENERATION_FILE);
            if !path.exists() {
                bail!(
                    "--generation-config: {named} has no {GENERATION_FILE}; expected auto, vllm, or a folder that has one"
                );
            }
            (Some(path), GenerationKeys::All)
        }
    };
    let typed = object("--override-generation-config", arguments.override_generation_config.as_deref())?;
    Ok(GenerationConfig::read(path.as_deref(), keys, &typed)?)
}

/// How prompts become vectors: what `--pooler-config` says before the model's own files.
fn pooling_config(arguments: &ServeArgs, folder: Option<&Path>) -> Result<PoolingConfig> {
    let typed = object("--pooler-config", arguments.pooler_config.as_deref())?;
    Ok(PoolingConfig::read(folder, &typed)?)
}

/// A JSON object that a flag was given; none is an empty one.
fn object(flag: &str, text: Option<&str>) -> Result<Map<String, Value>> {
    match text.map(str::trim) {
        None | Some("") => Ok(Map::new()),
        Some(text) => serde_json::from_str(text).with_context(|| format!("{flag}: expected a JSON object")),
    }
}

fn generation_defaults(config: &GenerationConfig) -> GenerationDefaults {
    GenerationDefaults {
        temperature: config.temperature,
        top_p: config.top_p,
        top_k: config.top_k,
        min_p: config.min_p,
        repetition_penalty: config.repetition_penalty,
        presence_penalty: config.presence_penalty,
        frequency_penalty: config.frequency_penalty,
        max_new_tokens: config.max_new_tokens,
    }
}

/// What ends a sequence: the tokenizer's own token first, which every template writes, then the further ids. Ids that
/// the model cannot sample are named and left out.
fn ending_ids(config: &ModelConfig, text: &TextSide) -> (Option<u32>, Vec<u32>) {
    let can_be_sampled = |id: &u32| (*id as usize) < config.vocabulary;
    let eos = text.tokenizer.eos().map(|token| token.id).filter(can_be_sampled);
    let further = config.ending_ids(&text.generation);
    let mut ids: Vec<u32> =
        further.iter().copied().filter(can_be_sampled).filter(|id| Some(*id) != eos).collect();
    ids.sort_unstable();
    ids.dedup();
    for id in further.iter().filter(|id| !can_be_sampled(id)) {
        let vocabulary = config.vocabulary;
        report::line(format_args!(
            "note: eos_token_id {id} is none of the {vocabulary} ids of the vocabulary and is left out"
        ));
    }
    (eos, ids)
}

fn served_model<R>(arguments: &ServeArgs, source: &Source, ready: &Ready<R>, text: TextSide) -> Model {
    let (eos_token_id, stop_token_ids) = ending_ids(&ready.config, &text);
    let names = &arguments.served_model_name;
    Model {
        template: text.templates.plain,
        tool_template: text.templates.with_tools,
        tokenizer: text.tokenizer,
        names: if names.is_empty() { vec![source.name.clone()] } else { names.clone() },
        root: source.name.clone(),
        max_model_len: ready.plan.max_model_len,
        vocabulary_size: ready.config.vocabulary,
        eos_token_id,
        stop_token_ids,
        embedding: EmbeddingModel {
            size: ready.config.hidden,
            pooling: text.pooling.pooling,
            normalize: text.pooling.normalize,
            matryoshka: ready.config.matryoshka.clone(),
        },
    }
}

/// The tokenizer of a folder, with a line for all that it says and that is not obeyed.
fn load_tokenizer(folder: &Path, embedding_rows: usize) -> Result<Arc<Tokenizer>> {
    let tokenizer = Tokenizer::load_for(folder, embedding_rows)?;
    for notice in tokenizer.notices().iter().cloned().chain(tokenizer.excess_over(embedding_rows)) {
        report::line(format_args!("warning: {notice}"));
    }
    Ok(Arc::new(tokenizer))
}

/// Chat templates, compiled once.
struct Templates {
    plain: Option<Arc<ChatTemplate>>,
    with_tools: Option<Arc<ChatTemplate>>,
}

/// The template of `--chat-template`, or those of the tokenizer.
fn templates(arguments: &ServeArgs, tokenizer: &Tokenizer) -> Result<Templates> {
    let compile = |source: &str| -> Result<Arc<ChatTemplate>> {
        let template = ChatTemplate::for_tokenizer(source, tokenizer)?;
        Ok(Arc::new(match arguments.chat_template_content_format {
            typed::ContentFormat::Auto => template,
            typed::ContentFormat::String => template.with_content_format(ContentFormat::String),
            typed::ContentFormat::Openai => template.with_content_format(ContentFormat::OpenAi),
        }))
    };
    if let Some(given) = &arguments.chat_template {
        return Ok(Templates {
            plain: Some(compile(&template_source(given, tokenizer)?)?),
            with_tools: None,
        });
    }
    let plain = tokenizer.chat_template();
    let names: Vec<&str> = tokenizer.chat_template_names().collect();
    if plain.is_none() && !names.is_empty() {
        report::line(format_args!(
            "warning: the model has the chat templates {} and no default; choose one with --chat-template NAME",
            names.join(", ")
        ));
    }
    Ok(Templates {
        plain: plain.map(compile).transpose()?,
        with_tools: tokenizer.tool_chat_template().map(compile).transpose()?,
    })
}

/// What `--chat-template` means: a file, else the name of one of the model's templates, else the template itself.
fn template_source(given: &str, tokenizer: &Tokenizer) -> Result<String> {
    if is_template(given) {
        return Ok(given.to_owned());
    }
    match (fs::read_to_string(given), tokenizer.named_chat_template(given)) {
        (Ok(source), _) => Ok(source),
        (Err(_), Some(source)) => Ok(source.to_owned()),
        (Err(error), None) => {
            let names: Vec<&str> = tokenizer.chat_template_names().collect();
            let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            Err(error).with_context(|| {
                format!("--chat-template: {given} could not be read, and it names no template of the model ({known})")
            })
        }
    }
}

/// A template always has braces, a path hardly ever.
fn is_template(given: &str) -> bool {
    given.contains(['{', '\n'])
}

/// Refuses a file for `--chat-template` that cannot be read. A plain word may name a template of the model, which is
/// known only once there is one.
fn check_template_file(arguments: &ServeArgs) -> Result<()> {
    match &arguments.chat_template {
        Some(given) if !is_template(given) && given.contains(['/', '.']) => fs::read_to_string(given)
            .map(drop)
            .with_context(|| format!("--chat-template: {given} could not be read")),
        _ => Ok(()),
    }
}

/// Labels of `vllm:cache_config_info`.
fn cache_labels<R>(ready: &Ready<R>, arguments: &ServeArgs) -> Vec<(String, String)> {
    let plan = &ready.plan;
    let engine = &arguments.engine;
    let labels = [
        ("block_size", plan.block_size.to_string()),
        ("cache_dtype", engine.kv_cache_dtype.to_string()),
        ("num_gpu_blocks", plan.num_blocks.to_string()),
        ("num_cpu_blocks", "0".to_owned()),
        ("gpu_memory_utilization", engine.gpu_memory_utilization.to_string()),
        ("kv_cache_memory_bytes", plan.kv_bytes.to_string()),
        ("enable_prefix_caching", ready.engine.enable_prefix_caching.to_string()),
        (
            "sliding_window",
            ready.engine.sliding_window.map_or_else(|| "None".to_owned(), |window| window.to_string()),
        ),
    ];
    labels.map(|(name, value)| (name.to_owned(), value)).to_vec()
}
