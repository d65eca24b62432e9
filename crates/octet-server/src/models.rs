//! `GET /v1/models`: a card for each served name.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use uuid::Uuid;

use crate::error::ApiError;
use crate::state::App;

/// All cards.
#[derive(Debug, Serialize)]
pub(crate) struct ModelList {
    object: &'static str,
    data: Vec<ModelCard>,
}

/// A model under one of its names.
#[derive(Debug, Serialize)]
pub(crate) struct ModelCard {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    root: String,
    parent: Option<String>,
    max_model_len: usize,
    permission: [ModelPermission; 1],
}

/// OpenAI's form; its values mean nothing here.
#[derive(Debug, Serialize)]
struct ModelPermission {
    id: String,
    object: &'static str,
    created: u64,
    allow_create_engine: bool,
    allow_sampling: bool,
    allow_logprobs: bool,
    allow_search_indices: bool,
    allow_view: bool,
    allow_fine_tuning: bool,
    organization: &'static str,
    group: Option<String>,
    is_blocking: bool,
}

fn card(app: &App, name: &str) -> ModelCard {
    ModelCard {
        id: name.to_owned(),
        object: "model",
        created: app.started,
        owned_by: "octet",
        root: app.model.root.clone(),
        parent: None,
        max_model_len: app.model.max_model_len,
        permission: [ModelPermission {
            id: format!("modelperm-{}", Uuid::new_v4().simple()),
            object: "model_permission",
            created: app.started,
            allow_create_engine: false,
            allow_sampling: true,
            allow_logprobs: true,
            allow_search_indices: false,
            allow_view: true,
            allow_fine_tuning: false,
            organization: "*",
            group: None,
            is_blocking: false,
        }],
    }
}

/// Lists the served names.
pub(crate) async fn models(State(app): State<Arc<App>>) -> Json<ModelList> {
    let data = app.model.names.iter().map(|name| card(&app, name)).collect();
    Json(ModelList { object: "list", data })
}

/// One card. Names may have slashes.
pub(crate) async fn model(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
) -> Result<Json<ModelCard>, ApiError> {
    app.check_model(Some(&name))?;
    Ok(Json(card(&app, &name)))
}
