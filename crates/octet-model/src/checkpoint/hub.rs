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

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use super::*;

    const FILES: [(&str, &str); 5] = [
        ("config.json", "{}"),
        ("model.safetensors", "weights"),
        ("tokenizer.json", "{\"a\": 1}"),
        ("consolidated.safetensors", "the same again"),
        ("pytorch_model.bin", "and again"),
    ];

    /// A Hub with one public model and one that is gated. Returns its address.
    fn serve() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || listener.incoming().for_each(|stream| answer(stream.unwrap())));
        format!("http://{address}")
    }

    fn answer(mut stream: TcpStream) {
        let lines = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
        let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
        let path = head[0].split(' ').nth(1).unwrap();
        let file = FILES.iter().find(|(name, _)| path == format!("/octet/public/resolve/main/{name}"));
        let (status, body) = if path == "/api/models/octet/public/revision/main" {
            let names = FILES.map(|(name, _)| format!("{{\"rfilename\": \"{name}\"}}")).join(",");
            ("200 OK", format!("{{\"siblings\": [{names}], \"sha\": \"c0ffee\"}}"))
        } else if path.contains("/octet/gated/") {
            ("401 Unauthorized", String::new())
        } else if let Some((_, text)) = file {
            ("206 Partial Content", (*text).to_owned())
        } else {
            ("404 Not Found", String::new())
        };
        let is_probe = head.iter().any(|line| line.to_ascii_lowercase().contains("bytes=0-0"));
        let sent = if is_probe { &body[..1] } else { &body[..] };
        let length = body.len();
        write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Range: bytes 0-0/{length}\r\nETag: \"e{length}\"\r\n\
             X-Repo-Commit: c0ffee\r\nConnection: close\r\n\r\n{sent}",
            sent.len()
        )
        .unwrap();
    }

    fn environment(cache: &Path, endpoint: Option<String>) -> Environment {
        Environment { cache: cache.to_owned(), is_offline: endpoint.is_none(), token: None, endpoint }
    }

    fn model(id: &str) -> HubModel {
        HubModel { id: id.to_owned(), revision: None }
    }

    #[test]
    fn what_is_needed_is_fetched_once_and_found_offline_afterwards() {
        let cache = tempfile::tempdir().unwrap();
        let mut downloads = Vec::new();
        let mut fetch = |environment: &Environment, config_only| {
            fetch_with(&model("octet/public"), config_only, environment, &mut |progress| {
                if let Progress::Download { file, loaded_bytes, total_bytes } = progress
                    && loaded_bytes == total_bytes
                {
                    downloads.push(file.to_owned());
                }
            })
        };
        let offline = environment(cache.path(), None);
        let error = fetch(&offline, false).unwrap_err().to_string();
        assert!(error.contains("octet/public") && error.contains("HF_HUB_OFFLINE is set"), "{error}");
        let online = environment(cache.path(), Some(serve()));
        let config = fetch(&online, true).unwrap();
        assert!(config.join("config.json").exists() && !config.join("model.safetensors").exists());
        assert!(fetch(&offline, false).is_err(), "a config is no model");
        let folder = fetch(&online, false).unwrap();
        assert_eq!(std::fs::read_to_string(folder.join("model.safetensors")).unwrap(), "weights");
        assert!(
            !folder.join("consolidated.safetensors").exists() && !folder.join("pytorch_model.bin").exists()
        );
        assert_eq!(fetch(&offline, false).unwrap(), folder);
        downloads.dedup();
        assert_eq!(downloads, ["config.json", "tokenizer.json", "model.safetensors"]);
    }

    #[test]
    fn errors_say_what_to_do() {
        let cache = tempfile::tempdir().unwrap();
        let mut online = environment(cache.path(), Some(serve()));
        let error = |environment: &Environment, id| {
            fetch_with(&model(id), false, environment, &mut |_| {}).unwrap_err().to_string()
        };
        let gated = error(&online, "octet/gated");
        assert!(gated.contains("gated or private") && gated.contains("set HF_TOKEN"), "{gated}");
        let absent = error(&online, "octet/absent");
        assert!(absent.contains("no such model or revision"), "{absent}");
        online.token = Some("hf_wrong".to_owned());
        assert!(error(&online, "octet/gated").contains("HF_TOKEN is not valid"));
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        online.endpoint = Some(format!("http://{closed}"));
        let refused = error(&online, "octet/public");
        assert!(refused.contains("without a network, give a folder"), "{refused}");
    }

    #[test]
    fn the_environment_means_what_it_means_to_python() {
        let read = |pairs: &'static [(&str, &str)]| {
            Environment::read(&|name| {
                pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(read(&[("HOME", "/h")]).cache, Path::new("/h/.cache/huggingface/hub"));
        assert_eq!(read(&[("HF_HOME", "/f"), ("HOME", "/h")]).cache, Path::new("/f/hub"));
        assert_eq!(read(&[("HF_HUB_CACHE", "/c"), ("HF_HOME", "/f")]).cache, Path::new("/c"));
        assert!(read(&[("HF_HUB_OFFLINE", "1")]).is_offline && !read(&[("HF_HUB_OFFLINE", "0")]).is_offline);
        assert_eq!(read(&[("HF_TOKEN", " hf_a\n")]).token.as_deref(), Some("hf_a"));
    }
}
