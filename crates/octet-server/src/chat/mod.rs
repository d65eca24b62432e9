//! `POST /v1/chat/completions`: as it travels (`types`), checked (`validate`, `conversation`), planned (`convert`),
//! answered (`response`).

mod conversation;
mod convert;
mod response;
mod types;
mod validate;

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::Request;
use axum::response::{IntoResponse, Response};

use crate::error::ApiError;
use crate::generation::Generation;
use crate::json::read_body;
use crate::request_id::ClientId;
use crate::sse;
use crate::state::{App, off_thread};
use crate::usage::Usage;

pub(crate) use conversation::Conversation;
pub(crate) use types::ConversationFields;

/// Answers a conversation.
pub(crate) async fn chat_completions(
    State(app): State<Arc<App>>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    let client = ClientId::from_headers(request.headers());
    let body = read_body(request, app.config.limits.max_body_bytes).await?;
    let preparing = Arc::clone(&app);
    let (plan, shape) = off_thread(move || convert::prepare(&preparing, &body, &client, arrived)).await?;
    let mut generation = Generation::start(&app, plan)?;
    if shape.stream.is_some() {
        return Ok(sse::stream(generation, response::ChatStream::new(shape)));
    }
    let outputs = generation.gather().await?;
    let usage = Usage::new(generation.usage(), shape.prompt_tokens_details);
    Ok(Json(response::whole(&shape, outputs, usage)).into_response())
}
