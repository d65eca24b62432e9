//! Models of the Hugging Face Hub: from the local cache if they are there, else fetched into it.
//!
//! `HF_HOME`, `HF_HUB_CACHE`, `HF_HUB_OFFLINE`, `HF_TOKEN` and `HF_ENDPOINT` mean what they mean to `huggingface_hub`,
//! and the cache has its layout, so that both share files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};

use super::{INDEX, SINGLE, read_index};
use crate::{ModelError, Progress};

/// A model of the Hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubModel {
    /// `owner/name`.
    pub id: String,
    /// Branch, tag or commit; `main` if none.
    pub revision: Option<String>,
}

/// What the environment says.
struct Environment {
    cache: PathBuf,
    is_offline: bool,
    token: Option<String>,
    endpoint: Option<String>,
}

impl Environment {
    fn read(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let home = set("HF_HOME").map(PathBuf::from).or_else(|| {
            let caches = set("XDG_CACHE_HOME").map(PathBuf::from);
            let caches = caches.or_else(|| set("HOME").map(|home| Path::new(&home).join(".cache")));
            caches.map(|caches| caches.join("huggingface"))
        });
        let home = home.unwrap_or_else(|| PathBuf::from(".huggingface"));
        let token_file = || std::fs::read_to_string(home.join("token")).ok();
        let token = set("HF_TOKEN").or_else(token_file).map(|token| token.trim().to_owned());
        Self {
            cache: set("HF_HUB_CACHE").map_or_else(|| home.join("hub"), PathBuf::from),
            is_offline: set("HF_HUB_OFFLINE").is_some_and(|value| {
                !matches!(value.to_ascii_lowercase().as_str(), "0" | "false" | "no" | "off")
            }),
            token: token.filter(|token| !token.is_empty()),
            endpoint: set("HF_ENDPOINT"),
        }
    }
}

/// The folder of a model's files. Fetches what the cache lacks; with `config_only`, no weights.
///
/// # Errors
/// [`ModelError::Hub`], which says what to do: offline, no such model, no permission, no network.
pub(crate) fn fetch(
    model: &HubModel,
    config_only: bool,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<PathBuf, ModelError> {
    fetch_with(model, config_only, &Environment::read(&|name| std::env::var(name).ok()), progress)
}

fn fetch_with(
    model: &HubModel,
    config_only: bool,
    environment: &Environment,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<PathBuf, ModelError> {
    let revision = model.revision.clone().unwrap_or_else(|| "main".to_owned());
    let repo = Repo::with_revision(model.id.clone(), RepoType::Model, revision);
    let cache = Cache::new(environment.cache.clone());
    if let Some(folder) = complete_snapshot(&cache.repo(repo.clone()), config_only) {
        return Ok(folder);
    }
    let failed = |problem: String| ModelError::Hub { repository: model.id.clone(), problem };
    if environment.is_offline {
        return Err(failed(format!(
            "HF_HUB_OFFLINE is set and the cache {} lacks it or a part of it; fetch it once with a network, or give a folder",
            environment.cache.display()
        )));
    }
    let api = api(cache.clone(), environment).map_err(|error| failed(explain(&error, environment)))?;
    let folder = download(&api.repo(repo.clone()), &cache.repo(repo), config_only, progress);
    folder
        .map_err(|error| failed(explain(&error, environment)))?
        .ok_or_else(|| failed("it has no config.json: it is not a model in Hugging Face's format".to_owned()))
}

fn api(cache: Cache, environment: &Environment) -> Result<Api, ApiError> {
    let builder = ApiBuilder::from_cache(cache)
        .with_progress(false)
        .with_retries(3)
        .with_token(environment.token.clone())
        .with_user_agent("octet", env!("CARGO_PKG_VERSION"));
    match &environment.endpoint {
        Some(endpoint) => builder.with_endpoint(endpoint.trim_end_matches('/').to_owned()).build(),
        None => builder.build(),
    }
}

/// The snapshot's folder, if everything that is needed is in the cache.
fn complete_snapshot(cache: &CacheRepo, config_only: bool) -> Option<PathBuf> {
    let config = cache.get("config.json")?;
    let folder = config.parent()?.to_owned();
    if config_only {
        return Some(folder);
    }
    let has_tokenizer = ["tokenizer.json", "tokenizer.model"].iter().any(|name| folder.join(name).exists());
    let index = folder.join(INDEX);
    let has_weights = if index.exists() {
        read_index(&index).is_ok_and(|files| files.keys().all(|file| folder.join(file).exists()))
    } else {
        folder.join(SINGLE).exists()
    };
    (has_tokenizer && has_weights).then_some(folder)
}

/// Fetches what a run needs of a repository; none if it has no config.
fn download(
    repo: &ApiRepo,
    cache: &CacheRepo,
    config_only: bool,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Option<PathBuf>, ApiError> {
    let names: BTreeSet<String> = repo.info()?.siblings.into_iter().map(|file| file.rfilename).collect();
    let mut folder = None;
    for name in needed(&names, config_only) {
        let path = match cache.get(name) {
            Some(path) => path,
            None => repo
                .download_with_progress(name, Meter { file: name.clone(), loaded: 0, total: 0, progress })?,
        };
        if name == "config.json" {
            folder = path.parent().map(Path::to_owned);
        }
    }
    Ok(folder)
}

/// Of a repository's files, those that a run needs.
fn needed(names: &BTreeSet<String>, config_only: bool) -> Vec<&String> {
    let has_usual_weights = names.contains(SINGLE) || names.contains(INDEX);
    let is_needed = |name: &&String| {
        if name.contains('/') {
            return false;
        }
        let is_weight = name.ends_with(".safetensors");
        let is_text = [".json", ".model", ".jinja"].iter().any(|end| name.ends_with(end))
            || matches!(name.as_str(), "merges.txt" | "vocab.txt");
        let is_other_format = name.starts_with("consolidated") && has_usual_weights;
        is_text || (is_weight && !config_only && !is_other_format)
    };
    names.iter().filter(is_needed).collect()
}

/// Hands the library's progress on.
struct Meter<'a> {
    file: String,
    loaded: usize,
    total: usize,
    progress: &'a mut dyn FnMut(Progress<'_>),
}

impl Meter<'_> {
    fn report(&mut self) {
        let Self { file, loaded, total, progress } = self;
        progress(Progress::Download { file, loaded_bytes: *loaded, total_bytes: *total });
    }
}

impl hf_hub::api::Progress for Meter<'_> {
    fn init(&mut self, size: usize, _filename: &str) {
        self.total = size;
        self.report();
    }

    fn update(&mut self, size: usize) {
        self.loaded += size;
        self.report();
    }

    fn finish(&mut self) {
        self.loaded = self.total;
        self.report();
    }
}

/// What an error means and what to do about it.
fn explain(error: &ApiError, environment: &Environment) -> String {
    let text = error.to_string();
    let status = [401, 403, 404].into_iter().find(|status| text.contains(&status.to_string()));
    let has_token = environment.token.is_some();
    match status {
        Some(401 | 403) if has_token => {
            "access is refused (HTTP 401 or 403): HF_TOKEN is not valid, or its account has not accepted the model's terms on its page"
                .to_owned()
        }
        Some(401 | 403) => {
            "access is refused (HTTP 401 or 403): the model is gated or private, or does not exist; accept its terms on its page and set HF_TOKEN"
                .to_owned()
        }
        Some(_) => "there is no such model or revision (HTTP 404)".to_owned(),
        None => format!(
            "{text}; without a network, give a folder, or fetch the model elsewhere and copy the cache to {}",
            environment.cache.display()
        ),
    }
}
