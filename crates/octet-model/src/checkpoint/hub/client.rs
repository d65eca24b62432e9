//! The Hub's protocol: which files a revision has, what is known of one, and its bytes. Nothing that is answered is
//! trusted: names are checked before they become paths, lengths before memory or disk is spent, and the token goes to
//! the endpoint alone.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use serde::Deserialize;
use ureq::http::{HeaderMap, Response, Uri};
use ureq::{Agent, Body};

use super::environment::Environment;
use super::names::{blob_name, is_commit};
use crate::checkpoint::layout::is_plain_name;

/// The longest list of a repository's files.
const LISTING_BYTES_MAX: u64 = 32 << 20;
/// The longest file that is not weights.
const TEXT_BYTES_MAX: u64 = 256 << 20;
/// Redirections that are followed for one request.
const REDIRECTIONS_MAX: usize = 5;
/// How often in a row a download may fail without a byte arriving.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(300);
const BUFFER_BYTES: usize = 256 << 10;

/// What went wrong between here and the Hub.
#[derive(Debug)]
pub(super) enum Fault {
    /// The Hub refused, with its status and its own word for the reason.
    Status(u16, Option<String>),
    /// It was not reached, or fell silent.
    Network(String),
    /// It answered what cannot be true, or must not be believed.
    Answer(String),
    /// The repository is no model that can be loaded; the text says what it is.
    NoModel(String),
    /// The cache cannot be read or written.
    Store(PathBuf, io::Error),
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status, None) => write!(formatter, "HTTP {status}"),
            Self::Status(status, Some(reason)) => write!(formatter, "HTTP {status}, {reason}"),
            Self::Network(problem) | Self::Answer(problem) | Self::NoModel(problem) => {
                formatter.write_str(problem)
            }
            Self::Store(path, error) => write!(formatter, "{}: {error}", path.display()),
        }
    }
}

/// A revision as the Hub knows it.
#[derive(Debug)]
pub(super) struct Listing {
    /// The commit that it is now.
    pub(super) commit: String,
    /// The files, those of folders included.
    pub(super) names: Vec<String>,
}

/// What the Hub tells of a file.
#[derive(Debug)]
pub(super) struct RemoteFile {
    url: String,
    /// Name of its blob.
    pub(super) blob: String,
    /// Its length.
    pub(super) bytes: u64,
}

/// Talks to the Hub about one model.
pub(super) struct Client<'a> {
    agent: Agent,
    environment: &'a Environment,
    id: &'a str,
}

#[derive(Clone, Copy, PartialEq)]
enum Method {
    Get,
    Head,
}

/// A request before it is sent.
struct Request<'a> {
    method: Method,
    url: &'a str,
    /// First byte that is wanted.
    from: u64,
    /// How long all of it may take.
    limit: Option<Duration>,
    /// Follow redirections to other servers too.
    leaves: bool,
}

impl<'a> Client<'a> {
    /// For a model with a checked id.
    pub(super) fn new(environment: &'a Environment, id: &'a str) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("octet/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .timeout_resolve(Some(environment.metadata_wait))
            .timeout_connect(Some(environment.metadata_wait))
            .timeout_recv_response(Some(environment.download_wait.max(environment.metadata_wait)))
            .timeout_per_read(Some(environment.download_wait))
            .build()
            .new_agent();
        Self { agent, environment, id }
    }

    /// The commit of a checked revision, and its files.
    pub(super) fn listing(&self, revision: &str) -> Result<Listing, Fault> {
        #[derive(Deserialize)]
        struct Answer {
            sha: String,
            siblings: Vec<Sibling>,
        }
        #[derive(Deserialize)]
        struct Sibling {
            rfilename: String,
        }
        let Environment { endpoint, metadata_wait, .. } = self.environment;
        let url = format!("{endpoint}/api/models/{}/revision/{}", self.id, revision.replace('/', "%2F"));
        let limit = Some(3 * *metadata_wait);
        let mut response =
            self.request(&Request { method: Method::Get, url: &url, from: 0, limit, leaves: false })?;
        expect(&response, &[200])?;
        let body =
            response.body_mut().with_config().limit(LISTING_BYTES_MAX).read_to_vec().map_err(network)?;
        let answer: Answer = serde_json::from_slice(&body).map_err(|error| {
            Fault::Answer(format!("{url} did not answer with a list of files, as the Hub does: {error}"))
        })?;
        if !is_commit(&answer.sha) {
            return Err(Fault::Answer(format!(
                "the Hub names {:?} as a commit, which it is not",
                answer.sha
            )));
        }
        let names: Vec<String> = answer.siblings.into_iter().map(|file| file.rfilename).collect();
        match names.iter().find(|name| !name.split('/').all(is_plain_name)) {
            Some(name) => {
                Err(Fault::Answer(format!("the Hub names a file {name:?}, which is no file's name")))
            }
            None => Ok(Listing { commit: answer.sha, names }),
        }
    }

    /// What the Hub tells of a file with a checked name.
    pub(super) fn describe(&self, commit: &str, name: &str) -> Result<RemoteFile, Fault> {
        let url = format!("{}/{}/resolve/{commit}/{}", self.environment.endpoint, self.id, escaped(name));
        let limit = Some(3 * self.environment.metadata_wait);
        let request = Request { method: Method::Head, url: &url, from: 0, limit, leaves: false };
        let response = self.request(&request)?;
        let status = response.status();
        if !status.is_redirection() {
            expect(&response, &[200])?;
        }
        let headers = response.headers();
        let etag = text(headers, "x-linked-etag").or_else(|| text(headers, "etag"));
        let etag =
            etag.ok_or_else(|| Fault::Answer(format!("{url} has no ETag, as the Hub's files have")))?;
        let blob = blob_name(etag).ok_or_else(|| {
            Fault::Answer(format!(
                "the Hub gives {name} the ETag {etag:?}, which cannot be the name of a blob"
            ))
        })?;
        // A redirection's own length is not the file's.
        let length = || text(headers, "content-length").filter(|_| !status.is_redirection());
        let bytes = text(headers, "x-linked-size").or_else(length).and_then(|bytes| bytes.parse().ok());
        let bytes = bytes.ok_or_else(|| Fault::Answer(format!("the Hub does not say how long {name} is")))?;
        if bytes > TEXT_BYTES_MAX && !name.ends_with(".safetensors") {
            return Err(Fault::Answer(format!("{name} would have {bytes} bytes, which no such file has")));
        }
        Ok(RemoteFile { blob: blob.to_owned(), bytes, url })
    }

    /// Fetches what a draft lacks of a file, however often the connection breaks, as long as more of it arrives.
    pub(super) fn download(
        &self,
        file: &RemoteFile,
        draft: &mut File,
        arrived: &mut dyn FnMut(u64),
    ) -> Result<(), Fault> {
        let mut position = draft.seek(SeekFrom::End(0)).map_err(Self::draft_fault(file))?;
        // What is as long as the whole and was not finished is not known to be it.
        if position >= file.bytes {
            position = 0;
        }
        let mut failures = 0;
        loop {
            let begun = position;
            let problem = match self.receive(file, draft, &mut position, arrived) {
                Ok(()) if position == file.bytes => return Ok(()),
                Ok(()) => format!("{} ends after {position} of {} bytes", file.url, file.bytes),
                Err(Fault::Network(problem)) => problem,
                Err(fault) => return Err(fault),
            };
            failures = if position > begun { 1 } else { failures + 1 };
            if failures >= TRIES {
                return Err(Fault::Network(problem));
            }
            thread::sleep(PAUSE * failures);
        }
    }

    /// One request for the rest of a file.
    fn receive(
        &self,
        file: &RemoteFile,
        draft: &mut File,
        position: &mut u64,
        arrived: &mut dyn FnMut(u64),
    ) -> Result<(), Fault> {
        let request =
            Request { method: Method::Get, url: &file.url, from: *position, limit: None, leaves: true };
        let response = self.request(&request)?;
        expect(&response, &[200, 206])?;
        let range = text(response.headers(), "content-range").unwrap_or_default();
        let continues = response.status() == 206 && range.starts_with(&format!("bytes {position}-"));
        if response.status() == 206 && !continues {
            return Err(Fault::Answer(format!(
                "{} was asked from byte {position} and sent {range:?}",
                file.url
            )));
        }
        if !continues {
            *position = 0;
        }
        draft.set_len(*position).map_err(Self::draft_fault(file))?;
        draft.seek(SeekFrom::Start(*position)).map_err(Self::draft_fault(file))?;
        arrived(*position);
        let mut reader = response.into_body().into_reader();
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let count = match reader.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) => return Err(Fault::Network(error.to_string())),
            };
            if *position + count as u64 > file.bytes {
                let bytes = file.bytes;
                return Err(Fault::Answer(format!("{} is longer than its {bytes} bytes", file.url)));
            }
            draft.write_all(&buffer[..count]).map_err(Self::draft_fault(file))?;
            *position += count as u64;
            arrived(*position);
        }
    }

    fn draft_fault(file: &RemoteFile) -> impl Fn(io::Error) -> Fault {
        let path = PathBuf::from(&file.blob);
        move |error| Fault::Store(path.clone(), error)
    }

    /// Sends a request and follows redirections: those of the endpoint to itself, and where `leaves` says so, those to
    /// others, which do not get the token.
    fn request(&self, request: &Request<'_>) -> Result<Response<Body>, Fault> {
        let endpoint = parse(&self.environment.endpoint)?;
        let mut uri = parse(request.url)?;
        for _ in 0..=REDIRECTIONS_MAX {
            let response = self.send(request, &uri, is_same_server(&uri, &endpoint))?;
            let location =
                text(response.headers(), "location").filter(|_| response.status().is_redirection());
            let Some(location) = location else { return Ok(response) };
            let next = target(&uri, location).ok_or_else(|| {
                Fault::Answer(format!("{uri} redirects to {location:?}, which is no address"))
            })?;
            if !request.leaves && !is_same_server(&next, &uri) {
                return Ok(response);
            }
            if uri.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
                return Err(Fault::Answer(format!("{uri} redirects to {next}, which is not encrypted")));
            }
            uri = next;
        }
        Err(Fault::Answer(format!("{} redirects more than {REDIRECTIONS_MAX} times", request.url)))
    }

    fn send(&self, request: &Request<'_>, uri: &Uri, is_endpoint: bool) -> Result<Response<Body>, Fault> {
        let builder = match request.method {
            Method::Get => self.agent.get(uri),
            Method::Head => self.agent.head(uri),
        };
        let mut builder = builder.config().timeout_global(request.limit).build();
        if request.from > 0 {
            builder = builder.header("Range", format!("bytes={}-", request.from));
        }
        if let Some(token) = self.environment.token.as_deref().filter(|_| is_endpoint) {
            builder = builder.header("Authorization", format!("Bearer {token}"));
        }
        builder.call().map_err(network)
    }
}

fn expect(response: &Response<Body>, statuses: &[u16]) -> Result<(), Fault> {
    let status = response.status().as_u16();
    if statuses.contains(&status) {
        return Ok(());
    }
    let reason = text(response.headers(), "x-error-code");
    let is_word =
        |reason: &&str| reason.len() <= 40 && reason.bytes().all(|byte| byte.is_ascii_alphanumeric());
    Err(Fault::Status(status, reason.filter(is_word).map(str::to_owned)))
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

fn network(error: ureq::Error) -> Fault {
    match error {
        ureq::Error::BodyExceedsLimit(limit) => {
            Fault::Answer(format!("the list of files exceeds {limit} bytes"))
        }
        error => Fault::Network(error.to_string()),
    }
}

fn parse(url: &str) -> Result<Uri, Fault> {
    url.parse().map_err(|error| Fault::Answer(format!("{url:?} is no address: {error}")))
}

/// Letters of a file's name that mean something else in an address.
fn escaped(name: &str) -> String {
    let mut address = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                address.push(char::from(byte))
            }
            _ => address.push_str(&format!("%{byte:02X}")),
        }
    }
    address
}

fn is_same_server(one: &Uri, other: &Uri) -> bool {
    let port = |uri: &Uri| uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    one.scheme() == other.scheme() && one.host() == other.host() && port(one) == port(other)
}

/// Where a redirection leads.
fn target(from: &Uri, location: &str) -> Option<Uri> {
    let scheme = from.scheme_str()?;
    let absolute = if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{}{location}", from.authority()?)
    } else {
        location.to_owned()
    };
    let uri: Uri = absolute.parse().ok()?;
    (matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some()).then_some(uri)
}
