//! The URL map, and what every request passes on its way.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::Request;
use axum::middleware::{Next, from_fn_with_state, map_request};
use axum::response::Response;
use axum::routing::{get, post};

use crate::access::observe;
use crate::auth::require_key;
use crate::chat::ChatShape;
use crate::completions::CompletionShape;
use crate::embeddings::Embeddings;
use crate::endpoint::answer;
use crate::error::ServerError;
use crate::generation::Generating;
use crate::health::{health, index, load, no_route, version, wrong_method};
use crate::metrics::metrics;
use crate::models::{model, models};
use crate::state::App;
use crate::tokenize::{detokenize, tokenize};
use crate::{cors, request_id};

/// All paths.
pub(crate) fn router(app: Arc<App>) -> Result<Router, ServerError> {
    // The last layer is the outermost: a refused request is counted and logged too, and a page of another origin
    // can read the refusal.
    let prefix = app.config.root_path.trim_end_matches('/').to_owned();
    let router = Router::new()
        .route("/", get(index))
        .route("/v1/completions", post(answer::<Generating<CompletionShape>>))
        .route("/v1/chat/completions", post(answer::<Generating<ChatShape>>))
        .route("/v1/embeddings", post(answer::<Embeddings>))
        .route("/v1/models", get(models))
        .route("/v1/models/{*name}", get(model))
        .route("/tokenize", post(tokenize))
        .route("/detokenize", post(detokenize))
        .route("/health", get(health))
        .route("/ping", get(health).post(health))
        .route("/version", get(version))
        .route("/load", get(load))
        .route("/metrics", get(metrics))
        .fallback(no_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(Arc::clone(&app), require_key))
        .layer(cors::layer(&app.config.cors)?)
        .layer(from_fn_with_state(Arc::clone(&app), name_request))
        .layer(from_fn_with_state(Arc::clone(&app), observe))
        .with_state(app);
    if prefix.is_empty() {
        return Ok(router);
    }
    // A layer of the router itself would come after the choice of the route.
    let strip = move |request| std::future::ready(without_prefix(request, &prefix));
    Ok(Router::new().fallback_service(router).layer(map_request(strip)))
}

/// The request with a path as if there were no proxy. A path without the prefix stays as it is, as in vLLM.
fn without_prefix(mut request: Request<Body>, prefix: &str) -> Request<Body> {
    let uri = request.uri();
    let Some(rest) = uri.path_and_query().and_then(|whole| whole.as_str().strip_prefix(prefix)) else {
        return request;
    };
    let stripped = match rest.chars().next() {
        Some('/') => rest.parse(),
        None | Some('?') => format!("/{rest}").parse(),
        // Another path that only begins alike.
        Some(_) => return request,
    };
    if let Ok(stripped) = stripped {
        *request.uri_mut() = stripped;
    }
    request
}

/// Middleware: an X-Request-Id on every response, if the server is to send them.
async fn name_request(State(app): State<Arc<App>>, request: Request<Body>, next: Next) -> Response {
    if !app.config.responses.request_id_headers {
        return next.run(request).await;
    }
    let id = request_id::header(request.headers());
    let mut response = next.run(request).await;
    request_id::echo(id, &mut response);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_taken_off_where_it_is_one() {
        for (path, expected) in [
            ("/llm/v1/models?x=1", "/v1/models?x=1"),
            ("/llm", "/"),
            ("/llm?x", "/?x"),
            ("/v1/models", "/v1/models"),
            ("/llms/v1", "/llms/v1"),
        ] {
            let request = Request::builder().uri(path).body(Body::empty()).unwrap();
            assert_eq!(without_prefix(request, "/llm").uri().to_string(), expected, "{path}");
        }
    }
}
