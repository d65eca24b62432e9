//! Server-sent events: the framing, and the body that turns a running generation into frames.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::connection::{Nudge, Phase};
use crate::error::ApiError;
use crate::generation::{Delta, Generation};
use crate::state::App;

/// The last frame of every stream.
const DONE: &[u8] = b"data: [DONE]\n\n";

/// A line that clients skip: it shows that the stream is alive, and finds out whether its client is.
const COMMENT: &[u8] = b": keep-alive\n\n";

/// Frames under construction.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    bytes: Vec<u8>,
}

impl Frames {
    /// Appends one event. JSON escapes line breaks, so that a frame is always one line.
    pub(crate) fn push(&mut self, value: &impl Serialize) {
        self.bytes.extend_from_slice(b"data: ");
        match serde_json::to_writer(&mut self.bytes, value) {
            Ok(()) => self.bytes.extend_from_slice(b"\n\n"),
            Err(error) => tracing::error!(%error, "a chunk could not be written as JSON"),
        }
    }

    fn push_done(&mut self) {
        self.bytes.extend_from_slice(DONE);
    }

    fn take(&mut self) -> Bytes {
        std::mem::take(&mut self.bytes).into()
    }
}

/// What makes a stream speak besides its generation.
pub(crate) struct Pace {
    /// After so long a silence it sends a comment.
    heartbeat: Duration,
    /// Asks for one at once.
    nudge: Nudge,
    /// The server may end before the stream.
    phase: watch::Receiver<Phase>,
}

impl Pace {
    pub(crate) fn new(app: &App, nudge: Nudge) -> Self {
        Self { heartbeat: app.config.connections.heartbeat, nudge, phase: app.phase.subscribe() }
    }
}

/// Turns deltas into an endpoint's chunks.
pub(crate) trait ChunkWriter: Send + 'static {
    /// One delta; it may make no frame at all.
    fn delta(&mut self, delta: Delta, generation: &Generation, frames: &mut Frames);

    /// After the last delta, before `[DONE]`.
    fn end(&mut self, generation: &Generation, frames: &mut Frames);
}

/// A streamed response. When the client goes away the body is dropped, and with it the generation, which gives its
/// sequences up.
pub(crate) fn stream(generation: Generation, writer: impl ChunkWriter, pace: Pace) -> Response {
    let state = Running { generation, writer, pace, ended: false };
    let body = futures_util::stream::unfold(state, |mut state| async move {
        let bytes = state.next().await?;
        Some((Ok::<_, Infallible>(bytes), state))
    });
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies that collect a response before they pass it on would defeat streaming; nginx obeys this.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

struct Running<W> {
    generation: Generation,
    writer: W,
    pace: Pace,
    ended: bool,
}

impl<W: ChunkWriter> Running<W> {
    /// The next frames, as soon as there are any.
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let mut frames = Frames::default();
        let Pace { heartbeat, nudge, phase } = &mut self.pace;
        while frames.bytes.is_empty() {
            let next = tokio::select! {
                biased;
                next = self.generation.next() => next,
                // An error means that the server is gone: the end as well.
                _ = phase.wait_for(|phase| *phase >= Phase::Ending) => Some(Err(ApiError::ShuttingDown)),
                () = nudge.0.notified() => {
                    frames.bytes.extend_from_slice(COMMENT);
                    break;
                }
                () = sleep(*heartbeat) => {
                    frames.bytes.extend_from_slice(COMMENT);
                    break;
                }
            };
            match next {
                Some(Ok(delta)) => self.writer.delta(delta, &self.generation, &mut frames),
                Some(Err(error)) => {
                    self.ended = true;
                    fail(&error, &mut frames);
                }
                None => {
                    self.ended = true;
                    self.writer.end(&self.generation, &mut frames);
                    frames.push_done();
                }
            }
        }
        Some(frames.take())
    }
}

/// The status has been sent long since: the error becomes an event.
fn fail(error: &ApiError, frames: &mut Frames) {
    if error.is_internal() {
        tracing::error!(%error, "request failed while streaming");
    }
    frames.push(&error.body());
    frames.push_done();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(frames: &mut Frames) -> String {
        String::from_utf8(frames.take().to_vec()).unwrap()
    }

    #[test]
    fn a_frame_is_one_line_and_an_empty_one() {
        let mut frames = Frames::default();
        frames.push(&serde_json::json!({ "text": "a\nb\r\n\u{2028}é" }));
        frames.push(&serde_json::json!([]));
        frames.push_done();
        let expected = "data: {\"text\":\"a\\nb\\r\\n\u{2028}é\"}\n\ndata: []\n\ndata: [DONE]\n\n";
        assert_eq!(text(&mut frames), expected);
    }

    #[test]
    fn an_error_is_an_event_and_the_end() {
        let mut frames = Frames::default();
        fail(&ApiError::ShuttingDown, &mut frames);
        let text = text(&mut frames);
        assert!(text.starts_with("data: {\"error\":{\"message\":\"the server is shutting down\""), "{text}");
        assert!(text.ends_with("}\n\ndata: [DONE]\n\n"), "{text}");
    }
}
