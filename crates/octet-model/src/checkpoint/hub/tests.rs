//! The Hub's client against servers on the loopback that are slow, broken or hostile.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::*;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const NEXT_COMMIT: &str = "1123456789abcdef0123456789abcdef01234567";

/// A request as it arrived.
#[derive(Clone, Debug, Default)]
struct Request {
    method: String,
    path: String,
    host: String,
    token: Option<String>,
    from: usize,
}

/// What is sent back.
#[derive(Clone, Debug, Default)]
struct Reply {
    status: &'static str,
    headers: Vec<String>,
    body: String,
    /// Bytes of the body after which the connection breaks.
    breaks_after: Option<usize>,
}

impl Reply {
    fn of(status: &'static str) -> Self {
        Self { status, ..Self::default() }
    }

    fn with(mut self, header: impl Into<String>) -> Self {
        self.headers.push(header.into());
        self
    }
}

/// A server that asks a function for each answer, and keeps the requests.
struct Server {
    address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    fn start(reply: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, reply) = (Arc::clone(&requests), Arc::new(reply));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (seen, reply) = (Arc::clone(&seen), Arc::clone(&reply));
                thread::spawn(move || answer(stream, &seen, &*reply));
            }
        });
        Self { address, requests }
    }

    fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

fn answer(mut stream: TcpStream, seen: &Mutex<Vec<Request>>, reply: &dyn Fn(&Request) -> Reply) {
    let lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let Some(first) = head.first() else { return };
    let mut words = first.split(' ').map(str::to_owned);
    let mut request =
        Request { method: words.next().unwrap(), path: words.next().unwrap(), ..Request::default() };
    for (name, value) in head.iter().filter_map(|line| line.split_once(": ")) {
        match name.to_ascii_lowercase().as_str() {
            "authorization" => request.token = Some(value.to_owned()),
            "host" => request.host = value.to_owned(),
            "range" => request.from = value.trim_matches(|it: char| !it.is_ascii_digit()).parse().unwrap(),
            _ => {}
        }
    }
    seen.lock().unwrap().push(request.clone());
    let Reply { status, mut headers, body, breaks_after } = reply(&request);
    if !headers.iter().any(|header| header.to_ascii_lowercase().starts_with("content-length")) {
        headers.push(format!("Content-Length: {}", body.len()));
    }
    let sent = if request.method == "HEAD" { "" } else { &body[..breaks_after.unwrap_or(body.len())] };
    let head = headers.join("\r\n");
    // A client that has seen enough may hang up.
    let _ = write!(stream, "HTTP/1.1 {status}\r\n{head}\r\nConnection: close\r\n\r\n{sent}");
}

fn listing(commit: &str, names: &[&str]) -> Reply {
    let names: Vec<String> = names.iter().map(|name| format!("{{\"rfilename\": {name:?}}}")).collect();
    let body = format!("{{\"sha\": {commit:?}, \"siblings\": [{}]}}", names.join(","));
    Reply { body, ..Reply::of("200 OK") }
}

/// A file as the Hub sends it, from the byte that is asked for.
fn file(request: &Request, etag: &str, text: &str) -> Reply {
    let (status, body) = match request.from {
        0 => ("200 OK", text),
        from => ("206 Partial Content", &text[from..]),
    };
    let range = format!("Content-Range: bytes {}-{}/{}", request.from, text.len() - 1, text.len());
    Reply { body: body.to_owned(), ..Reply::of(status) }.with(format!("ETag: \"{etag}\"")).with(range)
}

const FILES: [(&str, &str); 8] = [
    ("1_Pooling/config.json", "{ \"a\": 0 }"),
    ("config.json", "{}"),
    ("model.safetensors", "weights"),
    ("tokenizer.json", "{\"a\": 1}"),
    ("consolidated.safetensors", "the same again"),
    ("pytorch_model.bin", "and again"),
    ("original/params.json", "{}"),
    (".gitattributes", ""),
];

/// A Hub that behaves: one public model, one that is gated.
fn well_behaved(request: &Request) -> Reply {
    let path = request.path.as_str();
    if path.contains("octet/gated") {
        return Reply::of("401 Unauthorized");
    }
    if path.starts_with("/api/models/octet/public/revision/") {
        return match path.rsplit('/').next() {
            Some("main" | "refs%2Fpr%2F1" | COMMIT) => listing(COMMIT, &FILES.map(|(name, _)| name)),
            _ => Reply::of("404 Not Found").with("X-Error-Code: RevisionNotFound"),
        };
    }
    let known = FILES.iter().find(|(name, _)| path == format!("/octet/public/resolve/{COMMIT}/{name}"));
    match known {
        Some((name, text)) => file(request, &format!("e{}", name.len()), text),
        None => Reply::of("404 Not Found"),
    }
}

fn environment(cache: &Path, server: Option<&Server>) -> Environment {
    let address = server.map_or("http://127.0.0.1:9", |server| &server.address);
    let read = Environment::read(&|name| match name {
        "HF_HUB_CACHE" => Some(cache.display().to_string()),
        "HF_ENDPOINT" => Some(address.to_owned()),
        "HF_HUB_OFFLINE" => server.is_none().then(|| "1".to_owned()),
        "HF_HUB_DOWNLOAD_TIMEOUT" | "HF_HUB_ETAG_TIMEOUT" => Some("1".to_owned()),
        "HF_HOME" => Some("/nowhere".to_owned()),
        _ => None,
    });
    read.unwrap()
}

fn model(id: &str, revision: Option<&str>) -> HubModel {
    HubModel { id: id.to_owned(), revision: revision.map(str::to_owned), cache: None }
}

fn fetch_public(environment: Environment, revision: Option<&str>) -> Result<Fetched, ModelError> {
    fetch_with(&model("octet/public", revision), false, environment, &mut |_| {})
}

fn error_of(server: &Server) -> (String, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("a/b/cache");
    let error = fetch_public(environment(&cache, Some(server)), None).unwrap_err().to_string();
    (error, folder)
}

/// Everything below a folder.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    let below = |path: PathBuf| if path.is_dir() { files_below(&path) } else { vec![path] };
    entries.flat_map(below).collect()
}

#[test]
fn what_is_needed_is_fetched_once_and_found_offline_afterwards() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(well_behaved);
    let mut downloads = Vec::new();
    let mut fetch = |environment: Environment, config_only| {
        fetch_with(&model("octet/public", None), config_only, environment, &mut |progress| {
            if let Progress::Download { file, loaded_bytes, total_bytes } = progress
                && loaded_bytes == total_bytes
            {
                downloads.push(file.to_owned());
            }
        })
    };
    let (online, offline) = (environment(cache.path(), Some(&server)), environment(cache.path(), None));
    let error = fetch(offline.clone(), false).unwrap_err().to_string();
    assert!(error.contains("octet/public") && error.contains("HF_HUB_OFFLINE is set"), "{error}");
    let config = fetch(online.clone(), true).unwrap().folder;
    assert!(config.join("config.json").exists() && !config.join("model.safetensors").exists());
    let error = fetch(offline.clone(), false).unwrap_err().to_string();
    assert!(error.contains("lacks model.safetensors"), "{error}");
    let folder = fetch(online, false).unwrap().folder;
    assert_eq!(fs::read_to_string(folder.join("model.safetensors")).unwrap(), "weights");
    for other in ["consolidated.safetensors", "pytorch_model.bin", "original", ".gitattributes"] {
        assert!(!folder.join(other).exists(), "{other}");
    }
    // As huggingface_hub lays it out.
    let model = cache.path().join("models--octet--public");
    assert_eq!(folder, model.join("snapshots").join(COMMIT));
    assert_eq!(fs::read_to_string(model.join("refs/main")).unwrap(), COMMIT);
    assert_eq!(fs::read_link(folder.join("config.json")).unwrap(), Path::new("../../blobs/e11"));
    assert_eq!(fetch(offline, false).unwrap().folder, folder);
    downloads.dedup();
    assert_eq!(downloads, ["1_Pooling/config.json", "config.json", "tokenizer.json", "model.safetensors"]);
    assert_eq!(fs::read_to_string(folder.join("1_Pooling/config.json")).unwrap(), "{ \"a\": 0 }");
}

#[test]
fn revisions_are_branches_commits_and_pull_requests() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(well_behaved);
    let fetch = |server: Option<&Server>, revision| fetch_public(environment(cache.path(), server), revision);
    let folder = fetch(Some(&server), Some("refs/pr/1")).unwrap().folder;
    let refs = cache.path().join("models--octet--public/refs");
    assert_eq!(fs::read_to_string(refs.join("refs/pr/1")).unwrap(), COMMIT);
    // A commit needs neither a ref nor, once it is there, the Hub.
    let asked = server.requests().len();
    assert_eq!(fetch(Some(&server), Some(COMMIT)).unwrap().folder, folder);
    assert_eq!(server.requests().len(), asked);
    assert_eq!(fetch(None, Some("refs/pr/1")).unwrap().folder, folder);
    let error = fetch(Some(&server), Some("v9")).unwrap_err().to_string();
    assert!(error.contains("no revision v9"), "{error}");
    let error = fetch(Some(&server), Some("../../x")).unwrap_err().to_string();
    assert!(error.contains("no branch, tag or commit"), "{error}");
    // A file that went missing is fetched again.
    fs::remove_file(folder.join("model.safetensors")).unwrap();
    assert!(fetch(None, Some(COMMIT)).unwrap_err().to_string().contains("lacks model.safetensors"));
    assert!(fetch(Some(&server), Some(COMMIT)).unwrap().folder.join("model.safetensors").exists());
}

#[test]
fn what_is_cached_serves_where_the_hub_does_not() {
    let cache = tempfile::tempdir().unwrap();
    let folder =
        fetch_public(environment(cache.path(), Some(&Server::start(well_behaved))), None).unwrap().folder;
    let broken = Server::start(|_| Reply::of("503 Service Unavailable"));
    let fetched = fetch_public(environment(cache.path(), Some(&broken)), None).unwrap();
    assert_eq!(fetched.folder, folder);
    assert!(fetched.not_asked.unwrap().contains("503"));
    // A newer commit whose weights cannot be had leaves the older one in use.
    let newer = Server::start(|request| match request.path.as_str() {
        path if path.starts_with("/api/") => listing(NEXT_COMMIT, &["config.json", "model.safetensors"]),
        path if path.ends_with("config.json") => file(request, "e2", "{ }"),
        _ => Reply::of("500 Internal Server Error"),
    });
    let fetched = fetch_public(environment(cache.path(), Some(&newer)), None).unwrap();
    assert!(fetched.folder == folder && fetched.not_asked.is_some());
    // The cache may also be named by a flag.
    let elsewhere = tempfile::tempdir().unwrap();
    let server = Server::start(well_behaved);
    let model = HubModel { cache: Some(elsewhere.path().to_owned()), ..model("octet/public", None) };
    let folder =
        fetch_with(&model, false, environment(cache.path(), Some(&server)), &mut |_| {}).unwrap().folder;
    assert!(folder.starts_with(elsewhere.path()));
}

#[test]
fn errors_say_what_to_do() {
    let cache = tempfile::tempdir().unwrap();
    let mut online = environment(cache.path(), Some(&Server::start(well_behaved)));
    let error = |environment: &Environment, id| {
        fetch_with(&model(id, None), false, environment.clone(), &mut |_| {}).unwrap_err().to_string()
    };
    let gated = error(&online, "octet/gated");
    assert!(gated.contains("gated or private") && gated.contains("set HF_TOKEN"), "{gated}");
    let absent = error(&online, "octet/absent");
    assert!(absent.contains("no such model or revision"), "{absent}");
    online.token = Some("hf_wrong".to_owned());
    assert!(error(&online, "octet/gated").contains("HF_TOKEN is not valid"));
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    online.endpoint = format!("http://{closed}");
    let refused = error(&online, "octet/public");
    assert!(refused.contains("without a network, give a folder"), "{refused}");
    for (names, words) in [
        (&["x-Q4.gguf", "config.json"][..], "a GGUF file (x-Q4.gguf)"),
        (&["adapter_config.json", "adapter_model.safetensors"], "an adapter"),
        (&["config.json", "pytorch_model.bin"], "pickle format (pytorch_model.bin)"),
        (&["consolidated.safetensors", "params.json"], "Mistral's own format"),
        (&["onnx/model.onnx", "config.json"], "another runtime"),
    ] {
        let server = Server::start(move |_| listing(COMMIT, names));
        let (error, _) = error_of(&server);
        assert!(error.contains(words), "{words}: {error}");
    }
}

/// Names in answers never become paths outside the cache, and nothing that exists is overwritten.
#[test]
fn names_that_leave_the_cache_are_refused() {
    for (etag, commit, name, words) in [
        ("../../../../../victim", COMMIT, "config.json", "cannot be the name of a blob"),
        ("/victim", COMMIT, "config.json", "cannot be the name of a blob"),
        ("", COMMIT, "config.json", "cannot be the name of a blob"),
        ("e1", "../../../../victim", "config.json", "as a commit, which it is not"),
        ("e1", "", "config.json", "as a commit, which it is not"),
        ("e1", COMMIT, "../../../../../victim.json", "is no file's name"),
        ("e1", COMMIT, "/victim.json", "is no file's name"),
        ("e1", COMMIT, "..\\victim.json", "is no file's name"),
    ] {
        let server = Server::start(move |request| match request.path.as_str() {
            path if path.starts_with("/api/") => {
                listing(commit, &["config.json", "model.safetensors", "tokenizer.json", name])
            }
            _ => file(request, etag, "{}"),
        });
        let folder = tempfile::tempdir().unwrap();
        let victim = folder.path().join("victim");
        fs::write(&victim, "untouched").unwrap();
        let cache = folder.path().join("a/b");
        let error = fetch_public(environment(&cache, Some(&server)), None).unwrap_err().to_string();
        assert!(error.contains(words), "{etag} {commit} {name}: {error}");
        assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
        assert_eq!(files_below(folder.path()), [victim], "{etag} {commit} {name}");
    }
}

#[test]
fn an_index_names_files_of_the_repository_alone() {
    let server = Server::start(|request| match request.path.as_str() {
        path if path.starts_with("/api/") => {
            listing(COMMIT, &["config.json", "model.safetensors.index.json"])
        }
        path if path.ends_with(".index.json") => {
            file(request, "e1", r#"{"weight_map": {"a": "../../../x"}}"#)
        }
        _ => file(request, "e2", "{}"),
    });
    let (error, _) = error_of(&server);
    assert!(error.contains("not a plain file name"), "{error}");
}

#[test]
fn answers_that_are_too_long_or_no_list_are_refused() {
    let endless = Server::start(|_| Reply { body: " ".repeat(33 << 20), ..Reply::of("200 OK") });
    let (error, _) = error_of(&endless);
    assert!(error.contains("the list of files exceeds"), "{error}");
    let page = Server::start(|_| Reply { body: "<html>".to_owned(), ..Reply::of("200 OK") });
    let (error, _) = error_of(&page);
    assert!(error.contains("did not answer with a list of files") && error.contains("is http"), "{error}");
    for (header, words) in [
        ("X-Linked-Size: 999999999999", "which no such file has"),
        ("X-Linked-Size: 1", "is longer than its 1 bytes"),
        ("X-Linked-Size: many", "does not say how long"),
    ] {
        let server = Server::start(move |request| match request.path.as_str() {
            path if path.starts_with("/api/") => listing(COMMIT, &["config.json", "model.safetensors"]),
            _ => file(request, "e1", "{}").with(header),
        });
        let (error, folder) = error_of(&server);
        assert!(error.contains(words), "{error}");
        let blobs = files_below(folder.path());
        assert!(!blobs.iter().any(|path| path.ends_with("e1")), "{blobs:?}");
    }
}

#[test]
fn the_token_stays_with_the_endpoint() {
    let elsewhere = Server::start(|request| file(request, "e9", "weights"));
    let other = elsewhere.address.clone();
    let server = Server::start(move |request| match request.path.as_str() {
        path if path.ends_with("model.safetensors") => Reply::of("302 Found")
            .with(format!("Location: {other}/blob"))
            .with("X-Linked-Etag: \"e9\"")
            .with("X-Linked-Size: 7"),
        path if path.starts_with("/octet/public/resolve") && path.ends_with("config.json") => {
            Reply::of("307 Temporary Redirect").with("Location: /moved/config.json")
        }
        "/moved/config.json" => file(request, "e2", "{}"),
        _ => well_behaved(request),
    });
    let cache = tempfile::tempdir().unwrap();
    let mut environment = environment(cache.path(), Some(&server));
    environment.token = Some("hf_secret".to_owned());
    let folder = fetch_public(environment, None).unwrap().folder;
    assert_eq!(fs::read_to_string(folder.join("model.safetensors")).unwrap(), "weights");
    assert!(server.requests().iter().all(|request| request.token.as_deref() == Some("Bearer hf_secret")));
    let sent = elsewhere.requests();
    assert!(!sent.is_empty() && sent.iter().all(|request| request.token.is_none()), "{sent:?}");
}

#[test]
fn redirections_end() {
    let server = Server::start(|request| match request.path.as_str() {
        path if path.starts_with("/api/") => well_behaved(request),
        path => Reply::of("302 Found").with(format!("Location: {path}")),
    });
    let (error, _) = error_of(&server);
    assert!(error.contains("redirects more than"), "{error}");
}

#[test]
fn a_download_that_breaks_goes_on_where_it_was() {
    let server = Server::start(|request| match request.path.as_str() {
        path if path.ends_with("model.safetensors") => {
            let reply = file(request, "e9", "weights");
            Reply { breaks_after: Some(reply.body.len().min(3)), ..reply }
        }
        _ => well_behaved(request),
    });
    let cache = tempfile::tempdir().unwrap();
    let folder = fetch_public(environment(cache.path(), Some(&server)), None).unwrap().folder;
    assert_eq!(fs::read_to_string(folder.join("model.safetensors")).unwrap(), "weights");
    let asked: Vec<usize> = server
        .requests()
        .iter()
        .filter(|it| it.path.ends_with("model.safetensors"))
        .map(|it| it.from)
        .collect();
    assert_eq!(asked, [0, 0, 3, 6]);
    // A server that sends another part than it was asked for would damage the file.
    let liar = Server::start(|request| match request.path.as_str() {
        path if path.ends_with("model.safetensors") && request.from > 0 => {
            let range = "Content-Range: bytes 0-6/7";
            Reply { body: "weights".to_owned(), ..Reply::of("206 Partial Content") }.with(range)
        }
        path if path.ends_with("model.safetensors") => {
            Reply { breaks_after: Some(3), ..file(request, "e9", "weights") }
        }
        _ => well_behaved(request),
    });
    let (error, _) = error_of(&liar);
    assert!(error.contains("was asked from byte 3"), "{error}");
}

#[test]
fn a_server_that_falls_silent_is_left() {
    let server = Server::start(|request| {
        if request.path.starts_with("/api/") {
            thread::sleep(Duration::from_secs(20));
        }
        well_behaved(request)
    });
    let begun = std::time::Instant::now();
    let (error, _) = error_of(&server);
    assert!(error.contains("without a network"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(15));
}

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let in_the_way = folder.path().join("file");
    fs::write(&in_the_way, "").unwrap();
    let server = Server::start(well_behaved);
    let error = fetch_public(environment(&in_the_way, Some(&server)), None).unwrap_err().to_string();
    assert!(error.contains("the cache cannot be written") && error.contains("--download-dir"), "{error}");
}
