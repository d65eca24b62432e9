//! Connections: accepted within a limit, served by hyper, and closed when they take longer than they may.
//!
//! [`Connections`] knows all that are open. A connection is busy from the head of a request to the end of its answer;
//! one that is not may be closed at any time: when it has idled too long (`activity.rs`), when another needs its place,
//! and when the server stops. What may end a request early is in `request.rs`, what a peer does in `socket.rs`.

mod activity;
mod limits;
mod request;
mod socket;

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{sleep, sleep_until, timeout};

use crate::listen::Listener;
use activity::{Activity, Verdict};
use request::Surroundings;
use socket::{Peer, Stream};

pub use limits::ConnectionLimits;
pub(crate) use request::Nudge;
pub(crate) use socket::Socket;

/// Pause before accepting is tried again when the system has no room for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How often the log says that the system has no room.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);

/// How long a connection stays open for a client that is still sending what nobody reads: closed at once, it would
/// lose the answer.
const LINGER: Duration = Duration::from_secs(2);

/// And how many bytes are read away for it.
const LINGER_BYTES: usize = 64 << 20;

/// Connections beyond the limit that are told so at a time; more are closed without a word.
const REFUSALS: usize = 16;

/// How often a connection is looked at while the server stops.
const STOPPING_LOOK: Duration = Duration::from_millis(50);

/// What a connection beyond the limit is answered.
const REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\n\
    Content-Type: application/json\r\nContent-Length: 126\r\n\r\n\
    {\"error\":{\"message\":\"the server has no room for another connection\",\
    \"type\":\"ServiceUnavailableError\",\"param\":null,\"code\":503}}";

/// What is sent where a head did not come in time.
const SLOW_HEAD: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// How far the server is on its way to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// It serves.
    Open,
    /// It accepts no more; requests in flight may go on.
    Draining,
    /// Their time is over: they get errors.
    Ending,
    /// Everything is closed.
    Closed,
}

/// All open connections.
pub(crate) struct Connections {
    router: Router,
    limits: ConnectionLimits,
    phase: watch::Sender<Phase>,
    open: Mutex<Open>,
    /// Held by every connection; when all are gone, the other end knows.
    alive: Mutex<Option<mpsc::Sender<()>>>,
}

#[derive(Default)]
struct Open {
    next: u64,
    connections: HashMap<u64, Entry>,
    refused: usize,
}

#[derive(Clone)]
struct Entry {
    activity: Arc<Activity>,
    leave: Arc<Notify>,
}

impl Connections {
    /// For requests to `router`. What is returned with it ends when the last connection does.
    pub(crate) fn new(
        router: Router,
        limits: ConnectionLimits,
        phase: watch::Sender<Phase>,
    ) -> (Arc<Self>, mpsc::Receiver<()>) {
        let (alive, last) = mpsc::channel(1);
        let limits = limits.within_descriptors();
        let connections =
            Self { router, limits, phase, open: Mutex::default(), alive: Mutex::new(Some(alive)) };
        (Arc::new(connections), last)
    }

    /// Accepts until the server stops.
    pub(crate) async fn accept(self: Arc<Self>, listener: Listener) {
        let mut phase = self.phase.subscribe();
        let mut complained: Option<Instant> = None;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = phase.wait_for(|phase| *phase > Phase::Open) => break,
            };
            match accepted {
                Ok(socket) => self.admit(socket),
                Err(error) if is_of_the_client(&error) => {}
                Err(error) => {
                    let is_news = complained.is_none_or(|last| last.elapsed() > COMPLAINT_INTERVAL);
                    if is_news {
                        tracing::warn!(%error, "no room for a new connection; idle ones are closed");
                        complained = Some(Instant::now());
                    }
                    self.make_room();
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(self.alive.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves a new connection, or refuses it.
    fn admit(self: &Arc<Self>, socket: Socket) {
        let Some(alive) = self.alive.lock().unwrap_or_else(PoisonError::into_inner).clone() else { return };
        socket.prepare();
        let connections = Arc::clone(self);
        let is_full = self.open().connections.len() >= self.limits.max_connections;
        if is_full && !self.make_room() {
            let mut open = self.open();
            if open.refused < REFUSALS {
                open.refused += 1;
                drop(open);
                tokio::spawn(async move {
                    refuse(socket).await;
                    connections.open().refused -= 1;
                    drop(alive);
                });
            }
            return;
        }
        let entry = Entry { activity: Arc::new(Activity::new()), leave: Arc::default() };
        let id = {
            let mut open = self.open();
            open.next += 1;
            let id = open.next;
            open.connections.insert(id, entry.clone());
            id
        };
        tokio::spawn(async move {
            // The guard also acts where the task panics.
            let _registered = Registered { connections: &connections, id };
            connections.serve(id, Arc::new(socket), entry).await;
            drop(alive);
        });
    }

    /// Closes the connection that has idled longest; says whether there was one.
    fn make_room(&self) -> bool {
        let mut open = self.open();
        let idle =
            open.connections.iter().filter_map(|(id, entry)| Some((entry.activity.idle_since()?, *id)));
        let Some((_, id)) = idle.min() else { return false };
        // Out of the count at once, so that the next newcomer does not choose the same.
        if let Some(entry) = open.connections.remove(&id) {
            entry.leave.notify_one();
        }
        true
    }

    /// The life of a connection.
    async fn serve(self: &Arc<Self>, id: u64, socket: Arc<Socket>, entry: Entry) {
        let Entry { activity, leave } = entry.clone();
        let stream = Stream::new(Arc::clone(&socket), Arc::clone(&activity), self.limits.write);
        let router = TowerToHyperService::new(self.router.clone());
        let service = service_fn(|request| {
            let router = router.clone();
            let around = Surroundings {
                socket: Arc::clone(&socket),
                activity: Arc::clone(&activity),
                phase: self.phase.subscribe(),
                body_time: self.limits.body,
            };
            request::answer(request, around, move |request: Request<Body>| router.call(request))
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            // Idle connections and slow heads are closed below, with more regard to what they do.
            .header_read_timeout(None)
            // A client that sends no more may still read: `request.rs` finds out.
            .half_close(true)
            .max_headers(self.limits.max_head_fields)
            .max_buf_size(self.limits.max_head_bytes.max(8192));
        let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
        let mut phase = self.phase.subscribe();
        let mut look_at = Instant::now() + self.limits.head.min(self.limits.keep_alive);
        loop {
            tokio::select! {
                result = connection.as_mut() => {
                    if let Err(error) = result {
                        tracing::debug!(%error, "a connection ended early");
                    }
                    break;
                }
                () = leave.notified() => {
                    if activity.idle_since().is_some() {
                        return;
                    }
                    // A request came in the meantime, so it counts again.
                    self.open().connections.insert(id, entry.clone());
                }
                changed = phase.changed() => {
                    if changed.is_err() || *phase.borrow() == Phase::Closed {
                        return;
                    }
                    connection.as_mut().graceful_shutdown();
                    look_at = Instant::now() + STOPPING_LOOK;
                }
                () = sleep_until(look_at.into()) => {
                    let now = Instant::now();
                    if *phase.borrow() > Phase::Open {
                        // Whatever is half sent has no time to come.
                        if activity.idle_since().is_some() {
                            return;
                        }
                        look_at = now + STOPPING_LOOK;
                        continue;
                    }
                    match activity.judge(&self.limits, now) {
                        Verdict::LookAt(later) => look_at = later,
                        Verdict::Idle => return,
                        Verdict::SlowHead => {
                            // Whoever is so slow may not read it either.
                            let _ = socket.try_write(SLOW_HEAD);
                            return;
                        }
                    }
                }
            }
        }
        if socket.peer() == Peer::Present && *phase.borrow() == Phase::Open {
            socket.end_sending();
            // A client that goes on sending for longer has had its chance.
            let _ = timeout(LINGER, socket.drain(LINGER_BYTES)).await;
        }
    }
}

/// Takes the connection off the list at its end.
struct Registered<'a> {
    connections: &'a Connections,
    id: u64,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.connections.open().connections.remove(&self.id);
    }
}

/// Says that there is no room, to a client that may not have sent its request yet.
async fn refuse(socket: Socket) {
    if socket.try_write(REFUSAL).is_ok() {
        socket.end_sending();
        // Until the client has read it and closes.
        let _ = timeout(LINGER, socket.drain(LINGER_BYTES)).await;
    }
}

/// The client was gone before it was accepted: nothing is wrong with the server.
fn is_of_the_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionRefused
            | ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_is_as_long_as_it_says() {
        let text = std::str::from_utf8(REFUSAL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{}", body.len());
        assert!(serde_json::from_str::<serde_json::Value>(body).is_ok(), "{body}");
    }
}
