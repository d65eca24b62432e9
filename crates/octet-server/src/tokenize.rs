//! `POST /tokenize` and `POST /detokenize`.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::Request;
use serde::{Deserialize, Serialize};

use crate::chat::{Conversation, ConversationFields};
use crate::error::ApiError;
use crate::intake::{Preparation, prepare};
use crate::json::{Flag, Integer, decode};
use crate::state::App;

/// A prompt or a conversation; the latter's fields are [`ConversationFields`].
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "an object")]
struct TokenizeFields {
    model: Option<String>,
    prompt: Option<String>,
    add_special_tokens: Option<Flag>,
    return_token_strs: Option<Flag>,
}

/// Tokens of a text.
#[derive(Debug, Serialize)]
pub(crate) struct TokenizeResponse {
    count: usize,
    max_model_len: usize,
    tokens: Vec<u32>,
    token_strs: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "an object")]
struct DetokenizeFields {
    model: Option<String>,
    tokens: Option<Vec<Integer>>,
}

/// Text of tokens.
#[derive(Debug, Serialize)]
pub(crate) struct DetokenizeResponse {
    prompt: String,
}

/// Text, or a conversation, to tokens.
pub(crate) async fn tokenize(
    State(app): State<Arc<App>>,
    request: Request<Body>,
) -> Result<Json<TokenizeResponse>, ApiError> {
    prepare(&app, request, tokenize_body).await.map(|(response, _)| Json(response))
}

fn tokenize_body(app: &App, task: &Preparation) -> Result<TokenizeResponse, ApiError> {
    let fields: TokenizeFields = decode(task.body())?;
    let conversation: ConversationFields = decode(task.body())?;
    app.check_model(fields.model.as_deref())?;
    // A template writes the special tokens itself; a plain prompt gets them from the tokenizer.
    let (text, special_by_default) = match (fields.prompt, conversation.messages.is_some()) {
        (Some(prompt), false) => (prompt, true),
        (None, true) => (Conversation::new(app, conversation)?.render()?, false),
        _ => return Err(ApiError::invalid("prompt", "send either prompt or messages")),
    };
    // A text that the model could not read is not worth a thread's time either.
    let text = app.within_reach(&text, None)?;
    task.check()?;
    let tokenizer = &app.model.tokenizer;
    let tokens =
        tokenizer.encode(&text, fields.add_special_tokens.map_or(special_by_default, |flag| flag.0))?;
    let name = |token: &u32| tokenizer.token_text(*token).unwrap_or_default();
    let token_strs =
        fields.return_token_strs.is_some_and(|flag| flag.0).then(|| tokens.iter().map(name).collect());
    Ok(TokenizeResponse { count: tokens.len(), max_model_len: app.model.max_model_len, tokens, token_strs })
}

/// Tokens to text, special tokens included.
pub(crate) async fn detokenize(
    State(app): State<Arc<App>>,
    request: Request<Body>,
) -> Result<Json<DetokenizeResponse>, ApiError> {
    prepare(&app, request, detokenize_body).await.map(|(response, _)| Json(response))
}

fn detokenize_body(app: &App, task: &Preparation) -> Result<DetokenizeResponse, ApiError> {
    let fields: DetokenizeFields = decode(task.body())?;
    app.check_model(fields.model.as_deref())?;
    let tokens = fields
        .tokens
        .ok_or_else(|| ApiError::invalid("tokens", "tokens is missing: an array of token ids"))?;
    task.check()?;
    let size = app.model.tokenizer.vocabulary_size();
    let check = |id: &Integer| {
        u32::try_from(id.0).ok().filter(|id| (*id as usize) < size).ok_or_else(|| {
            let largest = size.saturating_sub(1);
            let message = format!("tokens has the id {}; ids of this tokenizer go from 0 to {largest}", id.0);
            ApiError::invalid("tokens", message)
        })
    };
    let tokens: Vec<u32> = tokens.iter().map(check).collect::<Result<_, _>>()?;
    Ok(DetokenizeResponse { prompt: app.model.tokenizer.decode(&tokens, false)? })
}
