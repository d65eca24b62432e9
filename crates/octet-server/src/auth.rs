//! API keys: only their hashes are kept, and comparing takes the same time wherever a guess first differs.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, Request, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use subtle::{ConditionallySelectable, ConstantTimeEq};

use crate::error::ApiError;
use crate::state::App;

/// Paths that need a key, when there are keys. The rest (health, metrics, tokenizer) stays open, as in vLLM; who has no
/// key is served last there, and on one thread (`intake`).
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

    /// Whose key the headers carry.
    pub(crate) fn caller(&self, headers: &HeaderMap) -> Caller {
        if self.hashes.is_empty() {
            return Caller::Anybody;
        }
        let Some(value) = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes()) else {
            return Caller::Stranger;
        };
        let Some((scheme, key)) = value.split_at_checked("Bearer ".len()) else {
            return Caller::Stranger;
        };
        if !scheme.eq_ignore_ascii_case(b"Bearer ") {
            return Caller::Stranger;
        }
        let guess = hash(key);
        // Every key is compared, so that the time does not tell which one came close either.
        let mut place = u64::MAX;
        for (index, known) in (0_u64..).zip(&self.hashes) {
            place.conditional_assign(&index, known.ct_eq(&guess));
        }
        usize::try_from(place)
            .ok()
            .filter(|place| *place < self.hashes.len())
            .map_or(Caller::Stranger, Caller::Key)
    }
}

/// Who sends a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// No key is asked for.
    Anybody,
    /// The holder of the key with this number.
    Key(usize),
    /// Nobody with a key.
    Stranger,
}

fn hash(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

/// Middleware: refuses guarded paths without a key. Browsers send no key with OPTIONS.
pub(crate) async fn require_key(State(app): State<Arc<App>>, request: Request<Body>, next: Next) -> Response {
    let guarded = request.uri().path().starts_with(GUARDED_PREFIX) && request.method() != Method::OPTIONS;
    if guarded && app.keys.caller(request.headers()) == Caller::Stranger {
        return ApiError::Unauthorized.into_response();
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(keys: &[&str], value: Option<&str>) -> Caller {
        let keys = ApiKeys::new(&keys.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>());
        let mut headers = HeaderMap::new();
        if let Some(value) = value {
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        }
        keys.caller(&headers)
    }

    #[test]
    fn keys() {
        assert_eq!(caller(&[], None), Caller::Anybody);
        assert_eq!(caller(&["a", "b"], Some("Bearer b")), Caller::Key(1));
        assert_eq!(caller(&["a"], Some("bearer a")), Caller::Key(0));
        for wrong in [None, Some("Bearer c"), Some("Bearer a "), Some("Basic a"), Some("Bearer")] {
            assert_eq!(caller(&["a"], wrong), Caller::Stranger, "{wrong:?}");
        }
    }

    #[test]
    fn debug_output_does_not_show_keys() {
        let config = crate::config::ApiKeyList(vec!["secret".to_owned()]);
        assert_eq!(format!("{config:?}"), "1 keys");
    }
}
