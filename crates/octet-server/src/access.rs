//! What a request leaves in the log and in the metrics: one line when its answer has ended, however it ended, and on
//! wish one when it comes.

use std::fmt::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{MatchedPath, State};
use axum::http::{Method, Request};
use axum::middleware::Next;
use axum::response::Response;
use hyper::body::{Frame, SizeHint};

use crate::generation::GenerationPlan;
use crate::state::App;

/// The status of a request whose client hung up: nginx' own, which log readers know.
const CLIENT_GONE: u16 = 499;

/// Characters of a path and of a method that are logged: clients choose both.
const LOGGED_PATH: usize = 256;
const LOGGED_METHOD: usize = 16;

/// Tokens that were generated for a request, told at its end. In the extensions of a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct TokenTally(Arc<AtomicUsize>);

impl TokenTally {
    pub(crate) fn set(&self, tokens: usize) {
        self.0.store(tokens, Ordering::Relaxed);
    }
}

/// Middleware, outside all others.
pub(crate) async fn observe(State(app): State<Arc<App>>, mut request: Request<Body>, next: Next) -> Response {
    let mut record = Record {
        method: request.method().clone(),
        path: request.uri().path().to_owned(),
        matched: request.extensions().get::<MatchedPath>().cloned(),
        began: Instant::now(),
        status: None,
        first_byte: None,
        tally: TokenTally::default(),
        app,
        is_told: false,
    };
    request.extensions_mut().insert(record.tally.clone());
    let response = next.run(request).await;
    record.head_is_made(response.status().as_u16());
    response.map(|body| Body::new(Recorded { body, record }))
}

/// A request on its way. Dropped before its answer has ended, it tells that the client hung up.
struct Record {
    app: Arc<App>,
    method: Method,
    path: String,
    matched: Option<MatchedPath>,
    began: Instant,
    /// Of the answer, when it has begun.
    status: Option<u16>,
    first_byte: Option<Duration>,
    tally: TokenTally,
    is_told: bool,
}

impl Record {
    fn head_is_made(&mut self, status: u16) {
        self.status = Some(status);
        self.count(status);
    }

    fn count(&self, status: u16) {
        let handler = self.matched.as_ref().map(MatchedPath::as_str);
        self.app.metrics.http.observe(handler, &self.method, status, self.began.elapsed().as_secs_f64());
    }

    /// Called at the end, once.
    fn tell(&mut self, status: u16) {
        self.is_told = true;
        let config = &self.app.config;
        if config.access_log && !config.quiet_paths.contains(&self.path) {
            let line = self.line(status, self.began.elapsed());
            tracing::info!(target: "octet::access", "{line}");
        }
    }

    fn line(&self, status: u16, elapsed: Duration) -> String {
        let method: String = self.method.as_str().chars().take(LOGGED_METHOD).collect();
        let path: String = self.path.chars().take(LOGGED_PATH).collect();
        let mut line = format!("{method} {path} {status} {} ms", elapsed.as_millis());
        // Writing to a string does not fail.
        if let Some(first) = self.first_byte.filter(|first| first.as_millis() < elapsed.as_millis()) {
            let _ = write!(line, ", first byte after {} ms", first.as_millis());
        }
        match self.tally.0.load(Ordering::Relaxed) {
            0 => {}
            1 => line.push_str(", 1 token"),
            tokens => drop(write!(line, ", {tokens} tokens")),
        }
        if status == CLIENT_GONE {
            line.push_str(": the client hung up");
        }
        line
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.is_told {
            if self.status.is_none() {
                self.count(CLIENT_GONE);
            }
            self.tell(CLIENT_GONE);
        }
    }
}

/// The body of an answer, followed to its end.
struct Recorded {
    body: Body,
    record: Record,
}

impl Recorded {
    fn tell(&mut self) {
        if let (Some(status), false) = (self.record.status, self.record.is_told) {
            self.record.tell(status);
        }
    }
}

impl HttpBody for Recorded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let began = self.record.began;
        self.record.first_byte.get_or_insert_with(|| began.elapsed());
        if frame.is_none() {
            self.tell();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        // Whoever sends a body asks no more once it says that nothing is left, and never for that of HEAD.
        if self.body.is_end_stream() || self.record.method == Method::HEAD {
            self.tell();
        }
        // What is generated for it ends here, and tells how many tokens there were.
        self.body = Body::empty();
    }
}

/// Says what a request asks for. Prompts may be private: they are for the level `debug`, as in vLLM.
pub(crate) fn log_request(app: &App, id: &str, plan: &GenerationPlan) {
    for sequence in plan.sequences.iter().step_by(plan.n.max(1)) {
        let sampling = &sequence.sampling;
        tracing::info!(
            target: "octet::requests",
            "request {id}: {} prompt tokens, max_tokens {}, n {}, temperature {}, top_p {}, top_k {}, min_p {}, \
             seed {}, presence_penalty {}, frequency_penalty {}, repetition_penalty {}, priority {}",
            sequence.prompt.len(),
            sequence.max_tokens,
            plan.n,
            sampling.temperature,
            sampling.top_p,
            sampling.top_k,
            sampling.min_p,
            sampling.seed,
            sampling.presence_penalty,
            sampling.frequency_penalty,
            sampling.repetition_penalty,
            plan.shared.priority,
        );
        if tracing::enabled!(target: "octet::requests", tracing::Level::DEBUG) {
            let most = app.config.max_logged_prompt.unwrap_or(usize::MAX);
            let bytes: Vec<u8> = sequence
                .prompt
                .iter()
                .take(most)
                .flat_map(|token| app.model.tokenizer.token_bytes(*token).to_vec())
                .collect();
            let text: String = String::from_utf8_lossy(&bytes).chars().take(most).collect();
            tracing::debug!(target: "octet::requests", "request {id}: prompt {text:?}");
        }
    }
}
