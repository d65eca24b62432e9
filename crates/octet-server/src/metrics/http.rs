//! Requests at the HTTP level: counted and timed.

use axum::http::Method;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::{Labels, buckets};

type HistogramFamily = Family<Labels, Histogram, fn() -> Histogram>;

/// Counts by path, method and class of status. Labels are a closed set: whatever a client may make up shares one, so that
/// nobody can grow the registry.
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

    /// Counts a request for a known path, or another.
    pub(crate) fn observe(&self, handler: Option<&str>, method: &Method, status: u16, seconds: f64) {
        let method = if handler.is_some() { method_label(method) } else { "any" };
        let handler = handler.unwrap_or("none");
        let mut labels =
            vec![("handler".to_owned(), handler.to_owned()), ("method".to_owned(), method.to_owned())];
        self.duration.get_or_create(&labels).observe(seconds);
        labels.push(("status".to_owned(), format!("{}xx", status / 100)));
        self.requests.get_or_create(&labels).inc();
    }
}

/// The methods of HTTP by name, all others by one.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}
