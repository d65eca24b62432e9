//! The URL map, and what every request passes on its way.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::Request;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post};

use crate::auth::require_key;
use crate::chat::ChatShape;
use crate::completions::CompletionShape;
use crate::endpoint::generate;
use crate::error::ServerError;
use crate::health::{health, index, load, no_route, version, wrong_method};
use crate::metrics::{metrics, observe};
use crate::models::{model, models};
use crate::state::App;
use crate::tokenize::{detokenize, tokenize};
use crate::{cors, request_id};

/// All paths.
pub(crate) fn router(app: Arc<App>) -> Result<Router, ServerError> {
    // The last layer is the outermost: a refused request is counted and logged too, and a page of another origin
    // can read the refusal.
    Ok(Router::new()
        .route("/", get(index))
        .route("/v1/completions", post(generate::<CompletionShape>))
        .route("/v1/chat/completions", post(generate::<ChatShape>))
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
        .with_state(app))
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
