//! One request on a connection: what may end it besides its answer. The client may hang up or send its body too
//! slowly, and the server may stop.

use std::convert::Infallible;
use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::ConnectInfo;
use axum::http::{Request, Response, Version};
use axum::response::IntoResponse;
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::Phase;
use super::activity::Activity;
use super::socket::{Peer, Socket};
use crate::error::ApiError;

/// How often a peer is looked at while an answer is awaited.
const LOOK: Duration = Duration::from_millis(250);

/// Bytes of a body that are worth a second more.
const BODY_BYTES_PER_SECOND: u64 = 4096;

/// What shows whether a peer that sends no more still reads, before there is an answer: an interim response, which
/// clients skip. One that has hung up resets the connection.
const PROBE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Asks a stream to send something now, to find out whether its client still reads. In the extensions of a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Nudge(pub(crate) Arc<Notify>);

/// The peer hung up: there is nobody to answer.
#[derive(Debug, thiserror::Error)]
#[error("the client hung up")]
pub(crate) struct HungUp;

/// What the request's part of a connection knows of the rest.
pub(super) struct Surroundings {
    pub(super) socket: Arc<Socket>,
    pub(super) activity: Arc<Activity>,
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) body_time: Duration,
}

/// How far the body of a request has come.
#[derive(Debug, Default)]
struct Progress {
    bytes: AtomicU64,
    complete: AtomicBool,
}

/// Answers a request with what `respond` makes of it, unless something ends it before.
///
/// # Errors
/// The client hung up.
pub(super) async fn answer<F>(
    request: Request<Incoming>,
    around: Surroundings,
    respond: impl FnOnce(Request<Body>) -> F,
) -> Result<Response<Body>, HungUp>
where
    F: Future<Output = Result<Response<Body>, Infallible>>,
{
    around.activity.request_began();
    let busy = Busy(Arc::clone(&around.activity));
    let nudge = Nudge::default();
    let watch = Watch {
        socket: Arc::clone(&around.socket),
        activity: Arc::clone(&around.activity),
        knows_interim: request.version() >= Version::HTTP_11,
        nudge: nudge.clone(),
    };
    let progress = Arc::<Progress>::default();
    let (mut head, body) = request.into_parts();
    head.extensions.insert(nudge);
    if let Some(address) = around.socket.address() {
        head.extensions.insert(ConnectInfo(address));
    }
    let body = Body::new(CountedBody::new(body, Arc::clone(&progress)));
    let mut phase = around.phase;
    let response = tokio::select! {
        biased;
        response = respond(Request::from_parts(head, body)) => response.unwrap_or_else(|never| match never {}),
        HungUp = watch.hung_up_before_answer(&progress) => return Err(HungUp),
        () = progress.overdue(around.body_time) => ApiError::BodyTooSlow.into_response(),
        () = stopped(&mut phase, &progress) => ApiError::ShuttingDown.into_response(),
    };
    Ok(response.map(|body| Body::new(Answering::new(body, watch, busy))))
}

/// Waits until the server has no time left for this request: at once if its body is not here yet, else when requests
/// in flight have had theirs.
async fn stopped(phase: &mut watch::Receiver<Phase>, progress: &Progress) {
    // An error means that the server is gone: the end as well.
    let _ = phase.wait_for(|phase| *phase >= Phase::Draining).await;
    if progress.complete.load(Ordering::Acquire) {
        let _ = phase.wait_for(|phase| *phase >= Phase::Ending).await;
    }
}

impl Progress {
    /// Waits until the body is late. Never, once it is complete.
    async fn overdue(&self, time: Duration) {
        let began = Instant::now();
        loop {
            let seconds = self.bytes.load(Ordering::Relaxed) / BODY_BYTES_PER_SECOND;
            let deadline = began + time + Duration::from_secs(seconds);
            if deadline <= Instant::now() {
                break;
            }
            sleep_until(deadline).await;
        }
        if self.complete.load(Ordering::Acquire) {
            pending().await
        }
    }
}

/// Marks the connection as busy until it is dropped.
struct Busy(Arc<Activity>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.request_ended();
    }
}

/// Looks after the peer of a request.
struct Watch {
    socket: Arc<Socket>,
    activity: Arc<Activity>,
    knows_interim: bool,
    nudge: Nudge,
}

impl Watch {
    /// Waits until the peer has hung up, while nothing of an answer has been sent. One that only sends no more gets its
    /// answer; HTTP/1.0 has no way to tell the two apart, and there hanging up is what clients do.
    async fn hung_up_before_answer(&self, progress: &Progress) -> HungUp {
        let mut probed = false;
        loop {
            sleep(LOOK).await;
            match self.socket.peer() {
                Peer::Gone => return HungUp,
                Peer::HalfClosed if !self.knows_interim => return HungUp,
                // An end in the middle of a body is met by whoever reads it.
                Peer::HalfClosed if !probed && progress.complete.load(Ordering::Acquire) => {
                    // Between answers only, whole or not at all.
                    if !self.activity.is_sending() {
                        match self.socket.try_write(PROBE) {
                            Ok(written) if written == PROBE.len() => probed = true,
                            _ => return HungUp,
                        }
                    }
                }
                Peer::Present | Peer::HalfClosed => {}
            }
        }
    }

    /// The same while an answer is sent: a nudged stream sends a comment.
    async fn hung_up_in_answer(self) -> HungUp {
        let mut nudged = false;
        loop {
            sleep(LOOK).await;
            match self.socket.peer() {
                Peer::Gone => return HungUp,
                Peer::HalfClosed if !nudged => {
                    self.nudge.0.notify_one();
                    nudged = true;
                }
                Peer::Present | Peer::HalfClosed => {}
            }
        }
    }
}

/// The body of a request, counted.
struct CountedBody {
    inner: Incoming,
    progress: Arc<Progress>,
}

impl CountedBody {
    fn new(inner: Incoming, progress: Arc<Progress>) -> Self {
        progress.complete.store(inner.is_end_stream(), Ordering::Release);
        Self { inner, progress }
    }
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()).and_then(Frame::data_ref);
        self.progress.bytes.fetch_add(data.map_or(0, |data| data.len() as u64), Ordering::Relaxed);
        if frame.is_none() || self.inner.is_end_stream() {
            self.progress.complete.store(true, Ordering::Release);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The body of an answer. It fails when the client hangs up between two of its frames.
struct Answering {
    inner: Body,
    hung_up: Pin<Box<dyn Future<Output = HungUp> + Send>>,
    /// Held until the answer is complete or given up.
    _busy: Busy,
}

impl Answering {
    fn new(inner: Body, watch: Watch, busy: Busy) -> Self {
        Self { inner, hung_up: Box::pin(watch.hung_up_in_answer()), _busy: busy }
    }
}

impl HttpBody for Answering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(context) {
            return Poll::Ready(frame);
        }
        let hung_up = ready!(self.hung_up.as_mut().poll(context));
        Poll::Ready(Some(Err(axum::Error::new(hung_up))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
