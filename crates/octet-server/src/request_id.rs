//! Ids of responses: the client's own, or a new one.

use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use uuid::Uuid;

const HEADER: &str = "x-request-id";

/// Longest id taken from a client; what is longer is cut. Ids go into every chunk of a stream.
const MAX_LENGTH: usize = 256;

/// The id of a request: from its header, else from its body, else random.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientId(Option<String>);

impl ClientId {
    pub(crate) fn from_headers(headers: &HeaderMap) -> Self {
        let value = headers.get(HEADER).and_then(|value| value.to_str().ok());
        Self(value.filter(|value| !value.is_empty()).map(str::to_owned))
    }

    /// `prefix-` and the id.
    pub(crate) fn response_id(&self, prefix: &str, in_body: Option<&str>) -> String {
        let given = self.0.as_deref().or(in_body.filter(|id| !id.is_empty()));
        match given {
            Some(id) => format!("{prefix}-{}", id.chars().take(MAX_LENGTH).collect::<String>()),
            None => format!("{prefix}-{}", Uuid::new_v4().simple()),
        }
    }
}

/// Answers with the request's X-Request-Id, or with a new one.
pub(crate) fn echo(request: Option<HeaderValue>, response: &mut Response) {
    let new = || HeaderValue::from_str(&Uuid::new_v4().simple().to_string()).ok();
    if let Some(value) = request.or_else(new) {
        response.headers_mut().insert(HEADER, value);
    }
}

/// The header as it came.
pub(crate) fn header(headers: &HeaderMap) -> Option<HeaderValue> {
    headers.get(HEADER).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_wins_over_the_body_and_both_over_chance() {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, HeaderValue::from_static("from-header"));
        let with = ClientId::from_headers(&headers);
        assert_eq!(with.response_id("cmpl", Some("from-body")), "cmpl-from-header");
        let without = ClientId::from_headers(&HeaderMap::new());
        assert_eq!(without.response_id("cmpl", Some("from-body")), "cmpl-from-body");
        let random = without.response_id("cmpl", None);
        assert_eq!(random.len(), "cmpl-".len() + 32);
        assert_ne!(random, without.response_id("cmpl", None));
        let long = "x".repeat(1000);
        assert_eq!(without.response_id("cmpl", Some(&long)).len(), "cmpl-".len() + MAX_LENGTH);
    }
}
