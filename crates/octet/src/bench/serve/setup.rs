//! Everything that is found out and made before the first request: the server, its model, the prompts.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use octet_text::Tokenizer;
use serde_json::{Map, Value, json};

use super::super::dataset::{Dataset, PromptSource, Sample};
use super::report::Subject;
use super::request::Target;
use crate::cli::bench::{Api, DatasetName, PromptForm, ServeArgs};
use crate::client::http::{self, Http};
use crate::{report as say, shipped};

/// Ids of prompts are below it if nothing says how many the model has: every vocabulary holds at least the bytes.
const FEWEST_IDS: usize = 256;

/// Connections that are kept between requests, if no other limit is set.
const CONNECTIONS: usize = 4096;

/// How often a server that is not ready is asked again.
const READY_INTERVAL: Duration = Duration::from_millis(200);

/// Tokens that the first request asks for.
const READY_TOKENS: usize = 4;

/// Ready to measure.
pub(super) struct Setup {
    pub(super) target: Target,
    pub(super) subject: Subject,
    /// What is measured.
    pub(super) samples: Vec<Sample>,
    /// What is sent before.
    pub(super) warmups: Vec<Sample>,
}

impl Setup {
    /// Finds the server and makes the prompts; waits for the server if that is wanted.
    ///
    /// # Errors
    /// No server, or one that refuses; prompts that cannot be made.
    pub(super) fn new(arguments: &ServeArgs) -> Result<Self> {
        let dataset = Dataset::new(&arguments.dataset)?;
        let base = base_url(arguments);
        let url = format!("{base}{}", endpoint(arguments)?);
        let limit = arguments.load.max_concurrency.unwrap_or(CONNECTIONS);
        let http = Http::new(headers(arguments), "--base-url", limit, !arguments.insecure);
        let deadline = Instant::now() + Duration::from_secs(arguments.ready_check_timeout_sec);
        let listed = match &arguments.model {
            Some(_) => Value::Null,
            None => patiently(deadline, || http::first_model(&http, &format!("{base}/v1")))?,
        };
        let model = match &arguments.model {
            Some(name) => name.clone(),
            None => listed["id"].as_str().unwrap_or_default().to_owned(),
        };
        let (tokenizer_id, tokenizer) = tokenizer(arguments, &model)?.unzip();
        let form = prompt_form(arguments, dataset.name())?;
        let source = source(&dataset, tokenizer.as_ref(), form, &listed)?;
        let samples = dataset.samples(arguments.dataset.num_prompts, arguments.seed, &source)?;
        let other_seed = arguments.seed.wrapping_add(1);
        // One more than the warm-up needs, for the first request of all.
        let wanted = arguments.load.num_warmups + usize::from(arguments.ready_check_timeout_sec > 0);
        let mut warmups = match wanted {
            0 => Vec::new(),
            wanted => dataset.for_warmup().samples(wanted, other_seed, &source)?,
        };
        let target = Target {
            http,
            url,
            api: arguments.backend,
            model: arguments.served_model_name.clone().unwrap_or_else(|| model.clone()),
            extra: extra(arguments, dataset.name()),
            keeps_text: arguments.report.save_detailed,
        };
        if arguments.ready_check_timeout_sec > 0 {
            wait_until_ready(deadline, &target, warmups.pop())?;
        }
        let subject = Subject {
            date: jiff::Zoned::now().strftime("%Y%m%d-%H%M%S").to_string(),
            backend: arguments.backend.name(),
            label: arguments.report.label.clone(),
            model,
            tokenizer: tokenizer_id,
            num_prompts: arguments.dataset.num_prompts,
            dataset: dataset.name().name(),
            prompt_form: match form {
                PromptForm::Tokens => "tokens",
                PromptForm::Text => "text",
            },
            metadata: arguments.report.metadata.clone(),
        };
        Ok(Self { target, subject, samples, warmups })
    }
}

fn base_url(arguments: &ServeArgs) -> String {
    match &arguments.base_url {
        Some(url) => url.trim_end_matches('/').to_owned(),
        // An address with colons is one of IPv6.
        None if arguments.host.contains(':') => {
            format!("http://[{}]:{}", arguments.host.trim_matches(['[', ']']), arguments.port)
        }
        None => format!("http://{}:{}", arguments.host, arguments.port),
    }
}

fn endpoint(arguments: &ServeArgs) -> Result<&str> {
    let (default, ending) = match arguments.backend {
        Api::Openai | Api::Vllm => ("/v1/completions", "completions"),
        Api::OpenaiChat => ("/v1/chat/completions", "chat/completions"),
    };
    let path = arguments.endpoint.as_deref().unwrap_or(default);
    let is_chat = path.ends_with("chat/completions");
    if !path.starts_with('/') || !path.ends_with(ending) || is_chat != (arguments.backend == Api::OpenaiChat)
    {
        bail!(
            "--endpoint {path} is no path of --backend {}; expected one such as {default}",
            arguments.backend.name()
        );
    }
    Ok(path)
}

/// The key of `OPENAI_API_KEY`, unless the user sends another.
fn headers(arguments: &ServeArgs) -> Vec<(String, String)> {
    let mut headers = arguments.header.clone();
    let has_key = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("authorization"));
    let key = std::env::var("OPENAI_API_KEY").ok().filter(|key| !key.is_empty() && !has_key);
    headers.extend(key.map(|key| ("authorization".to_owned(), format!("Bearer {key}"))));
    headers
}

/// The tokenizer that was named, or the one of a model that is a folder or the one inside this program.
fn tokenizer(arguments: &ServeArgs, model: &str) -> Result<Option<(String, Tokenizer)>> {
    if arguments.skip_tokenizer_init {
        return Ok(None);
    }
    let folder_of = |word: &str| -> Result<Option<PathBuf>> {
        if Path::new(word).is_dir() {
            Ok(Some(PathBuf::from(word)))
        } else if word == shipped::NAME {
            shipped::folder().map(Some)
        } else {
            Ok(None)
        }
    };
    if let Some(word) = &arguments.tokenizer {
        let Some(folder) = folder_of(word)? else {
            bail!("--tokenizer {word}: no such folder; it must hold a tokenizer.json");
        };
        let tokenizer = Tokenizer::load(&folder).with_context(|| format!("--tokenizer {word}"))?;
        return Ok(Some((word.clone(), tokenizer)));
    }
    match folder_of(model)? {
        Some(folder) if folder.join("tokenizer.json").exists() => {
            Ok(Some((model.to_owned(), Tokenizer::load(&folder)?)))
        }
        _ => Ok(None),
    }
}

fn prompt_form(arguments: &ServeArgs, dataset: DatasetName) -> Result<PromptForm> {
    let is_chat = arguments.backend == Api::OpenaiChat;
    match arguments.prompt_form {
        Some(PromptForm::Tokens) if is_chat => {
            bail!("--prompt-form tokens: a chat is text; measure --backend openai, or send text")
        }
        Some(form) => Ok(form),
        None if is_chat || dataset == DatasetName::ShareGpt => Ok(PromptForm::Text),
        None => Ok(PromptForm::Tokens),
    }
}

fn source<'a>(
    dataset: &Dataset,
    tokenizer: Option<&'a Tokenizer>,
    form: PromptForm,
    listed: &Value,
) -> Result<PromptSource<'a>> {
    if dataset.name() == DatasetName::ShareGpt {
        return PromptSource::of_text(tokenizer, form);
    }
    // llama-server tells the size of the vocabulary with the model.
    let told = listed["meta"]["n_vocab"].as_u64().and_then(|size| usize::try_from(size).ok());
    let id_limit = match (tokenizer, told) {
        (Some(_), told) => told.unwrap_or(usize::MAX),
        (None, Some(told)) => told,
        (None, None) => {
            if form == PromptForm::Tokens {
                say::line(format_args!(
                    "note: no tokenizer is known, so prompts are made of the ids below {FEWEST_IDS}; --tokenizer FOLDER \
                     takes them from the whole vocabulary"
                ));
            }
            FEWEST_IDS
        }
    };
    PromptSource::new(tokenizer, form, id_limit)
}

/// Sampling, then the user's own fields, which win.
fn extra(arguments: &ServeArgs, dataset: DatasetName) -> Map<String, Value> {
    let typed = &arguments.sampling;
    let is_chat = arguments.backend == Api::OpenaiChat;
    let mut extra = Map::new();
    // As in vLLM: random prompts have no natural end.
    if typed.ignore_eos || dataset == DatasetName::Random {
        extra.insert("ignore_eos".to_owned(), json!(true));
    }
    let fields = [
        ("top_p", typed.top_p.map(Value::from)),
        ("top_k", typed.top_k.map(Value::from)),
        ("min_p", typed.min_p.map(Value::from)),
        ("temperature", typed.temperature.map(Value::from)),
        ("frequency_penalty", typed.frequency_penalty.map(Value::from)),
        ("presence_penalty", typed.presence_penalty.map(Value::from)),
        ("repetition_penalty", typed.repetition_penalty.map(Value::from)),
        // Completions take a number, chats a yes and a number.
        ("logprobs", typed.logprobs.map(|number| if is_chat { true.into() } else { number.into() })),
        ("top_logprobs", typed.logprobs.filter(|_| is_chat).map(Value::from)),
    ];
    extra.extend(fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    extra.extend(typed.extra_body.clone().unwrap_or_default());
    extra
}

/// Tries until it works or the time is over; at least once.
fn patiently<T>(deadline: Instant, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() + READY_INTERVAL > deadline => return Err(error),
            Err(_) => thread::sleep(READY_INTERVAL),
        }
    }
}

/// Waits until a short request succeeds.
fn wait_until_ready(deadline: Instant, target: &Target, sample: Option<Sample>) -> Result<()> {
    let Some(mut sample) = sample else { return Ok(()) };
    sample.output_len = sample.output_len.min(READY_TOKENS);
    patiently(deadline, || match target.perform(&sample, None, Instant::now(), Duration::ZERO).error {
        None => Ok(()),
        Some(error) => bail!("the server was not ready in time; the last answer was: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        serve: ServeArgs,
    }

    fn typed(flags: &[&str]) -> ServeArgs {
        Typed::parse_from([&["octet"], flags].concat()).serve
    }

    #[test]
    fn the_url_is_made_of_what_was_typed() {
        assert_eq!(base_url(&typed(&[])), "http://127.0.0.1:8000");
        assert_eq!(base_url(&typed(&["--host", "::1", "--port", "9"])), "http://[::1]:9");
        assert_eq!(base_url(&typed(&["--base-url", "https://a/b/"])), "https://a/b");
        assert_eq!(endpoint(&typed(&[])).unwrap(), "/v1/completions");
        assert_eq!(endpoint(&typed(&["--backend", "openai-chat"])).unwrap(), "/v1/chat/completions");
        for wrong in ["/v1/chat/completions", "completions", "/v1/embeddings"] {
            assert!(endpoint(&typed(&["--endpoint", wrong])).is_err(), "{wrong} was taken");
        }
    }

    #[test]
    fn extra_fields_win_over_sampling_flags() {
        let arguments =
            typed(&["--temperature", "0", "--top-k", "-1", "--extra-body", r#"{"temperature": 2, "x": []}"#]);
        let expected = json!({ "ignore_eos": true, "top_k": -1, "temperature": 2, "x": [] });
        assert_eq!(Value::Object(extra(&arguments, DatasetName::Random)), expected);
        assert_eq!(extra(&typed(&[]), DatasetName::ShareGpt), Map::new());
    }

    #[test]
    fn chats_are_text() {
        let form = |flags: &[&str], dataset| prompt_form(&typed(flags), dataset);
        assert_eq!(form(&[], DatasetName::Random).unwrap(), PromptForm::Tokens);
        assert_eq!(form(&[], DatasetName::ShareGpt).unwrap(), PromptForm::Text);
        assert_eq!(form(&["--backend", "openai-chat"], DatasetName::Random).unwrap(), PromptForm::Text);
        assert!(form(&["--backend", "openai-chat", "--prompt-form", "tokens"], DatasetName::Random).is_err());
    }

    #[test]
    fn a_header_replaces_the_key() {
        let headers = headers(&typed(&["--header", "Authorization=Basic x", "a=b"]));
        assert_eq!(headers.len(), 2, "{headers:?}");
    }
}
