//! Small answers about the server itself.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Json;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::state::App;

/// `GET /`.
pub(crate) async fn index(State(app): State<Arc<App>>) -> String {
    format!(
        "Octet {} serves {}: POST /v1/completions, POST /v1/chat/completions, GET /v1/models, GET /health, GET /metrics\n",
        crate::VERSION,
        app.model.name()
    )
}

/// `/health` and `/ping`: whether the engine runs.
pub(crate) async fn health(State(app): State<Arc<App>>) -> StatusCode {
    if app.engine.is_alive() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// `GET /version`.
pub(crate) async fn version() -> Json<Value> {
    Json(json!({ "version": crate::VERSION }))
}

/// `GET /load`: generation requests in progress, if the server counts them.
pub(crate) async fn load(State(app): State<Arc<App>>) -> Json<Value> {
    let load = if app.config.load_tracking { app.load.load(Ordering::Relaxed) } else { 0 };
    Json(json!({ "server_load": load }))
}

/// No such path.
pub(crate) async fn no_route(uri: Uri) -> ApiError {
    ApiError::NoRoute { path: uri.path().to_owned() }
}

/// A path that exists, with another method.
pub(crate) async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    ApiError::WrongMethod { method: method.to_string(), path: uri.path().to_owned() }
}
