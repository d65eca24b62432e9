//! From a connection to a prepared request, at a bounded cost: whose request it is (`client`), what its bytes and those
//! of others may take (`budget`), and when it is prepared (`turnstile`).
//!
//! The memory of requests has two halves. One holds bodies from their first byte to their preparation, and then what
//! generations keep until they end; where that is full, the next request is turned away. The other is what parsing,
//! rendering and tokenising take for a moment; requests wait for it in turn. Nothing waits for the first half while it
//! has a part of the second, so that nothing waits forever.

mod budget;
mod client;
mod turnstile;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use axum::body::Body;
use axum::http::Request;

use crate::config::Limits;
use crate::error::ApiError;
use crate::json::read_body;
use crate::outline::last_of_each;
use crate::state::App;
pub(crate) use budget::{Budget, Lease};
pub(crate) use client::Client;
use turnstile::Turnstile;

/// Threads that render templates and tokenise. More would only take cores from the engine; requests wait for a free one.
pub(crate) const PREPARING_THREADS: usize = 4;

/// What a byte of a body takes at most while it is prepared: its text, decoded and rendered, and a token of its own in
/// the tokenizer's books. An estimate.
const BYTE_COST: usize = 80;

/// What each value of a body takes at most, beyond its bytes: a node of the parsed JSON, and again as the template sees
/// it. Messages of a million empty parts (3 MB) took 1,108 MB.
const VALUE_COST: usize = 880;

/// Bytes from which a body is prepared behind others: some ten thousand tokens, milliseconds of a core.
const LARGE_BODY: usize = 32 << 10;

/// Tenth of a busy core, on Linux: each step of niceness takes a fifth of what is left.
const LARGE_BODY_NICENESS: i32 = 10;

/// What requests may take, and who is next.
pub(crate) struct Intake {
    held: Arc<Budget>,
    turnstile: Arc<Turnstile>,
    max_body_bytes: usize,
}

impl Intake {
    pub(crate) fn new(limits: &Limits) -> Self {
        let half = limits.request_memory_bytes / 2;
        let held = Arc::new(Budget::new(half));
        let max_body_bytes = limits.max_body_bytes.min(held.largest_share());
        // Clients that wait have a connection each; of one client no more wait than could ever be queued.
        let turnstile = Arc::new(Turnstile::new(PREPARING_THREADS, half, limits.max_sequences));
        Self { held, turnstile, max_body_bytes }
    }
}

/// A body that is being prepared.
pub(crate) struct Preparation {
    body: String,
    /// When the request came in.
    pub(crate) arrived: Instant,
    abandoned: Arc<AtomicBool>,
}

impl Preparation {
    pub(crate) fn body(&self) -> &str {
        &self.body
    }

    /// Fails once the client is gone. Asked before each long piece of work.
    pub(crate) fn check(&self) -> Result<(), ApiError> {
        if self.abandoned.load(Ordering::Relaxed) { Err(ApiError::Abandoned) } else { Ok(()) }
    }
}

/// Tells a task that nobody waits for it any more: the connection's future owns it, and is dropped with the connection.
struct Patience {
    abandoned: Arc<AtomicBool>,
}

impl Drop for Patience {
    fn drop(&mut self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }
}

/// Reads a body, waits for its turn and prepares it off the threads that serve connections. What it gives back beside
/// the result stands for the body's memory: it is dropped, or made to stand for what the result keeps.
pub(crate) async fn prepare<T: Send + 'static>(
    app: &Arc<App>,
    request: Request<Body>,
    work: impl FnOnce(&App, &Preparation) -> Result<T, ApiError> + Send + 'static,
) -> Result<(T, Lease), ApiError> {
    let arrived = Instant::now();
    let client = Client::of(&app.keys, &request);
    let mut lease = Budget::lease(&app.intake.held, client);
    let body = read_body(request, app.intake.max_body_bytes, &mut lease).await?;
    let pass = app.intake.turnstile.enter(client, cost(&body)).await?;
    let patience = Patience { abandoned: Arc::default() };
    let abandoned = Arc::clone(&patience.abandoned);
    let app = Arc::clone(app);
    let is_large = body.len() > LARGE_BODY;
    let work = move || {
        let task = Preparation { body: last_of_each(body), arrived, abandoned };
        let result = task.check().and_then(|()| work(&app, &task));
        drop(task);
        drop(pass);
        result
    };
    let prepared =
        if is_large { behind_others(work).await } else { tokio::task::spawn_blocking(work).await.ok() };
    prepared
        .map_or_else(|| Err(ApiError::internal("preparing the prompt failed")), |result| Ok((result?, lease)))
}

/// Does `work` on a thread that gives way to the engine's and to those that prepare short bodies. `None`: it panicked,
/// or there was no thread.
async fn behind_others<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new().name("octet-large".to_owned());
    let spawned = thread.spawn(move || {
        // A thread can lower its priority without any right, but not raise it again: so it does this and ends. Linux
        // has priorities of threads; elsewhere this would be the process's.
        #[cfg(target_os = "linux")]
        if let Err(error) = rustix::process::setpriority_process(None, LARGE_BODY_NICENESS) {
            tracing::debug!("a large body is prepared at the usual priority: {error}");
        }
        // Nobody may be waiting any more.
        let _ = sender.send(work());
    });
    spawned.ok()?;
    receiver.await.ok()
}

/// The most memory that preparing a body can take. Strings are searched for values too: arguments of tool calls are
/// JSON inside of a string.
fn cost(body: &str) -> usize {
    let values = body.bytes().filter(|byte| matches!(byte, b',' | b':' | b'[' | b'{')).count();
    body.len().saturating_mul(BYTE_COST).saturating_add(values.saturating_mul(VALUE_COST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_small_values_cost_more_than_one_large() {
        let parts = format!("[{}\"\"]", "\"\",".repeat(1_000_000));
        let text = "x".repeat(parts.len());
        assert!(cost(&parts) > 3 * cost(&text));
        assert!(
            cost(&"x".repeat(3 << 20)) < Limits::default().request_memory_bytes / 2,
            "a long prompt fits"
        );
    }
}
