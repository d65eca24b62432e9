//! Requests at the HTTP level: counted, timed and logged.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{MatchedPath, State};
use axum::http::Request;
use axum::middleware::Next;
use axum::response::Response;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::{Labels, buckets};
use crate::state::App;

type HistogramFamily = Family<Labels, Histogram, fn() -> Histogram>;

/// Counts by path, method and class of status. Unknown paths share one label, so that a scan of the server does not
/// grow the registry.
pub(crate) struct HttpMetrics {
    requests: Family<Labels, Counter>,
    duration: HistogramFamily,
}

impl HttpMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let requests = Family::<Labels, Counter>::default();
        let duration: HistogramFamily =
            Family::new_with_constructor(|| Histogram::new(buckets::HTTP_SECONDS));
        registry.register("http_requests", "Requests by path, method and class of status", requests.clone());
        registry.register(
            "http_request_duration_seconds",
            "Until the head of the response",
            duration.clone(),
        );
        Self { requests, duration }
    }

    fn observe(&self, handler: &str, method: &str, status: u16, seconds: f64) {
        let mut labels =
            vec![("handler".to_owned(), handler.to_owned()), ("method".to_owned(), method.to_owned())];
        self.duration.get_or_create(&labels).observe(seconds);
        labels.push(("status".to_owned(), format!("{}xx", status / 100)));
        self.requests.get_or_create(&labels).inc();
    }
}

/// Middleware, outside all others.
pub(crate) async fn observe(State(app): State<Arc<App>>, request: Request<Body>, next: Next) -> Response {
    let start = Instant::now();
    let method = request.method().clone();
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let path = request.uri().path().to_owned();
    let response = next.run(request).await;
    let elapsed = start.elapsed();
    let status = response.status().as_u16();
    let handler = matched.as_ref().map_or("none", MatchedPath::as_str);
    let method_label = if matched.is_some() { method.as_str() } else { "any" };
    app.metrics.http.observe(handler, method_label, status, elapsed.as_secs_f64());
    if app.config.access_log {
        let milliseconds = elapsed.as_millis() as u64;
        tracing::info!(target: "octet::access", "{method} {path} {status} {milliseconds} ms");
    }
    response
}
