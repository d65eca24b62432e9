//! Models of the Hugging Face Hub: from the local cache if they are there, else fetched into it.
//!
//! The cache and the variables are those of `huggingface_hub` (`cache.rs`, `environment.rs`). The client is our own
//! (`client.rs`), because what a server answers decides which files are written: `hf-hub` joins an `ETag` and a commit to
//! paths as they come, sets no limits to lengths and times, and appends to a file whatever range it is sent.

mod cache;
mod client;
mod environment;
mod names;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use cache::{ModelCache, has_tokenizer, lacking};
use client::{Client, Fault, Listing};
use environment::Environment;
use names::{is_commit, is_revision};

use super::contents::Contents;
use super::layout::{INDEX, SINGLE, is_usual, read_index};
use crate::{ModelError, Progress};

/// A model of the Hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubModel {
    /// `owner/name`.
    pub id: String,
    /// Branch, tag or commit; `main` if none.
    pub revision: Option<String>,
    /// `--download-dir`: the folder of the cache, if not the one that the environment names.
    pub cache: Option<PathBuf>,
}

/// A model's files on disk.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// Where they are.
    pub(crate) folder: PathBuf,
    /// Why the Hub was not asked for something newer.
    pub(crate) not_asked: Option<String>,
}

/// The folder of a model's files. Fetches what the cache lacks; with `config_only`, no weights.
///
/// # Errors
/// [`ModelError::Hub`], which says what to do: offline, no such model, no permission, no network.
pub(crate) fn fetch(
    model: &HubModel,
    config_only: bool,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Fetched, ModelError> {
    let environment = Environment::read(&|name| std::env::var(name).ok())
        .map_err(|problem| ModelError::Hub { repository: model.id.clone(), problem })?;
    fetch_with(model, config_only, environment, progress)
}

/// As in `huggingface_hub`: a commit that is cached needs no question; a branch is looked up, and if that fails, what is
/// cached of it will do.
fn fetch_with(
    model: &HubModel,
    config_only: bool,
    mut environment: Environment,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Fetched, ModelError> {
    let failed = |problem: String| ModelError::Hub { repository: model.id.clone(), problem };
    let revision = model.revision.as_deref().unwrap_or("main");
    if !is_revision(revision) {
        return Err(failed(format!("{revision:?} is no branch, tag or commit")));
    }
    if let Some(folder) = &model.cache {
        environment.cache.clone_from(folder);
    }
    let cache = ModelCache::new(&environment.cache, &model.id);
    let cached = cache.cached(revision);
    let lacks = cached.as_deref().map(|folder| lacking(folder, config_only));
    let complete = cached.clone().filter(|_| lacks.as_ref().is_some_and(Vec::is_empty));
    if let Some(folder) = &complete
        && (environment.is_offline || (is_commit(revision) && (config_only || has_tokenizer(folder))))
    {
        return Ok(Fetched { folder: folder.clone(), not_asked: None });
    }
    if environment.is_offline {
        return Err(failed(offline(&environment, revision, cached.as_deref(), lacks.as_deref())));
    }
    let update =
        Update { client: Client::new(&environment, &model.id), cache: &cache, config_only, progress };
    match (update.run(revision), complete) {
        (Ok(folder), _) => Ok(Fetched { folder, not_asked: None }),
        (Err(fault), Some(folder)) => Ok(Fetched { folder, not_asked: Some(fault.to_string()) }),
        (Err(fault), None) => Err(failed(explain(&fault, revision, &environment))),
    }
}

/// Brings the cache up to what the Hub has.
struct Update<'a> {
    client: Client<'a>,
    cache: &'a ModelCache,
    config_only: bool,
    progress: &'a mut dyn FnMut(Progress<'_>),
}

impl Update<'_> {
    fn run(mut self, revision: &str) -> Result<PathBuf, Fault> {
        let listing = self.client.listing(revision)?;
        let contents = Contents::of_names(&listing.names);
        let is_model = contents.has("config.json")
            && (self.config_only || contents.safetensors().any(is_usual) || contents.has(INDEX));
        if !is_model {
            let wanted = if contents.has("config.json") { "safetensors files" } else { "config.json" };
            let advice = contents.advice("it is not a model in Hugging Face's format");
            return Err(Fault::NoModel(format!("it has no {wanted}: {advice}")));
        }
        let folder = self.cache.snapshot(&listing.commit);
        for name in listing.names.iter().filter(|name| is_text(name)) {
            self.file(&listing.commit, name)?;
        }
        for name in self.weights(&listing, &contents, &folder)? {
            self.file(&listing.commit, &name)?;
        }
        // Last, so that a download that ends early leaves the older model in use.
        let stored = self.cache.write_ref(revision, &listing.commit);
        stored.map_err(|error| Fault::Store(folder.clone(), error))?;
        Ok(folder)
    }

    /// The files of the weights, as the loader will choose them.
    fn weights(&self, listing: &Listing, contents: &Contents, folder: &Path) -> Result<Vec<String>, Fault> {
        if self.config_only {
            return Ok(Vec::new());
        }
        if contents.has(INDEX) {
            let index = read_index(&folder.join(INDEX)).map_err(|error| Fault::Answer(error.to_string()))?;
            if index.files.keys().all(|name| contents.has(name)) {
                return Ok(index.files.into_keys().collect());
            }
        }
        if contents.has(SINGLE) {
            return Ok(vec![SINGLE.to_owned()]);
        }
        let names = listing.names.iter().filter(|name| !name.contains('/') && name.ends_with(".safetensors"));
        Ok(names.filter(|name| is_usual(name)).cloned().collect())
    }

    /// Fetches one file, unless it is there.
    fn file(&mut self, commit: &str, name: &str) -> Result<(), Fault> {
        let path = self.cache.snapshot(commit).join(name);
        if path.is_file() {
            return Ok(());
        }
        let remote = self.client.describe(commit, name)?;
        let blob = self.cache.blob(&remote.blob);
        let store = |path: &Path| {
            let path = path.to_owned();
            move |error| Fault::Store(path, error)
        };
        let is_whole = || blob.metadata().is_ok_and(|it| it.is_file() && it.len() == remote.bytes);
        if !is_whole() {
            let mut draft = self.cache.begin(&remote.blob).map_err(store(&blob))?;
            // Another process may have fetched it while this one waited.
            if !is_whole() {
                let (progress, total_bytes) = (&mut self.progress, remote.bytes as usize);
                let arrived = &mut |bytes: u64| {
                    progress(Progress::Download { file: name, loaded_bytes: bytes as usize, total_bytes });
                };
                let outcome = self.client.download(&remote, &mut draft.file, arrived);
                outcome.map_err(|fault| match fault {
                    Fault::Store(_, error) => Fault::Store(draft.path().to_owned(), error),
                    fault => fault,
                })?;
                draft.finish(&blob).map_err(store(&blob))?;
            }
        }
        self.cache.link(&remote.blob, commit, name).map_err(store(&path))
    }
}

/// Configs, tokenizers and templates of the repository itself, and how sentence-transformers pool.
fn is_text(name: &str) -> bool {
    let is_text = [".json", ".model", ".jinja"].iter().any(|end| name.ends_with(end))
        || matches!(name, "merges.txt" | "vocab.txt");
    let is_pooling = name.strip_suffix("_Pooling/config.json").is_some_and(|it| it.parse::<u8>().is_ok());
    is_pooling || is_text && !name.contains('/')
}

/// What the cache has when nothing may be fetched, and what to do.
fn offline(
    environment: &Environment,
    revision: &str,
    cached: Option<&Path>,
    lacks: Option<&[String]>,
) -> String {
    let remedy = "fetch it once with a network, or give a folder";
    match (cached, lacks) {
        (Some(folder), Some(lacks)) => {
            let names = super::first_of(lacks.to_vec());
            format!("HF_HUB_OFFLINE is set and the cached {} lacks {names}; {remedy}", folder.display())
        }
        _ => format!(
            "HF_HUB_OFFLINE is set and the cache {} has no {revision} of it; {remedy}",
            environment.cache.display()
        ),
    }
}

/// What a fault means and what to do about it.
fn explain(fault: &Fault, revision: &str, environment: &Environment) -> String {
    let Environment { cache, endpoint, .. } = environment;
    match fault {
        Fault::Status(status @ (401 | 403), _) if environment.token.is_some() => format!(
            "access is refused (HTTP {status}): HF_TOKEN is not valid, or its account has not accepted the model's terms on its page"
        ),
        Fault::Status(status @ (401 | 403), _) => format!(
            "access is refused (HTTP {status}): the model is gated or private, or does not exist; accept its terms on its page and set HF_TOKEN"
        ),
        Fault::Status(404, Some(reason)) if reason == "RevisionNotFound" => {
            format!("the model has no revision {revision} (HTTP 404)")
        }
        Fault::Status(404, _) => {
            "there is no such model or revision (HTTP 404), and no folder of this name here".to_owned()
        }
        Fault::Status(429, _) => "too many requests (HTTP 429): wait, or set HF_TOKEN".to_owned(),
        Fault::Status(..) => format!("{endpoint} answers {fault}; try again later, or give a folder"),
        Fault::Network(problem) => format!(
            "{problem}; without a network, give a folder, or fetch the model elsewhere and copy the cache to {}",
            cache.display()
        ),
        Fault::Answer(problem) => format!("{problem}; is {endpoint} a Hub?"),
        Fault::NoModel(problem) => problem.clone(),
        Fault::Store(..) => format!(
            "the cache cannot be written ({fault}); free some space, or name another folder with --download-dir or HF_HOME"
        ),
    }
}
