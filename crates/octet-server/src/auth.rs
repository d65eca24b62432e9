//! API keys: only their hashes are kept, and comparing takes the same time wherever a guess first differs.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, Request, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::error::ApiError;
use crate::state::App;

/// Paths that need a key, when there are keys. The rest (health, metrics, tokenizer) stays open, as in vLLM.
const GUARDED_PREFIX: &str = "/v1";

/// SHA-256 of each accepted key.
#[derive(Debug)]
pub(crate) struct ApiKeys {
    hashes: Vec<[u8; 32]>,
}

impl ApiKeys {
    pub(crate) fn new(keys: &[String]) -> Self {
        Self { hashes: keys.iter().map(|key| hash(key.as_bytes())).collect() }
    }

    /// Whether the headers carry an accepted key, or none is asked for.
    fn accept(&self, headers: &HeaderMap) -> bool {
        if self.hashes.is_empty() {
            return true;
        }
        let Some(value) = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes()) else {
            return false;
        };
        let Some((scheme, key)) = value.split_at_checked("Bearer ".len()) else {
            return false;
        };
        if !scheme.eq_ignore_ascii_case(b"Bearer ") {
            return false;
        }
        let guess = hash(key);
        // Every key is compared, so that the time does not tell which one came close either.
        let found =
            self.hashes.iter().fold(subtle::Choice::from(0), |found, known| found | known.ct_eq(&guess));
        found.into()
    }
}

fn hash(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

/// Middleware: refuses guarded paths without a key. Browsers send no key with OPTIONS.
pub(crate) async fn require_key(State(app): State<Arc<App>>, request: Request<Body>, next: Next) -> Response {
    let guarded = request.uri().path().starts_with(GUARDED_PREFIX) && request.method() != Method::OPTIONS;
    if guarded && !app.keys.accept(request.headers()) {
        return ApiError::Unauthorized.into_response();
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(keys: &[&str], value: Option<&str>) -> bool {
        let keys = ApiKeys::new(&keys.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>());
        let mut headers = HeaderMap::new();
        if let Some(value) = value {
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        }
        keys.accept(&headers)
    }

    #[test]
    fn keys() {
        assert!(accepted(&[], None));
        assert!(accepted(&["a", "b"], Some("Bearer b")));
        assert!(accepted(&["a"], Some("bearer a")));
        assert!(!accepted(&["a"], None));
        assert!(!accepted(&["a"], Some("Bearer c")));
        assert!(!accepted(&["a"], Some("Bearer a ")));
        assert!(!accepted(&["a"], Some("Basic a")));
        assert!(!accepted(&["a"], Some("Bearer")));
    }

    #[test]
    fn debug_output_does_not_show_keys() {
        let config = crate::config::ApiKeyList(vec!["secret".to_owned()]);
        assert_eq!(format!("{config:?}"), "1 keys");
    }
}
