//! The way of every request that the engine works for, from its body to its answer.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::Request;
use axum::response::Response;

use crate::access::TokenTally;
use crate::connection::Nudge;
use crate::error::ApiError;
use crate::intake::{Lease, Preparation, prepare};
use crate::request_id::ClientId;
use crate::state::App;

/// An endpoint: made of a body, it owns what is asked of the engine and what becomes of it.
pub(crate) trait Endpoint: Sized + Send + 'static {
    /// Decodes, checks and tokenises a body. May take long: runs off the threads that serve connections.
    fn prepare(app: &App, task: &Preparation, client: &ClientId) -> Result<Self, ApiError>;

    /// Asks the engine and answers.
    fn answer(
        self,
        app: Arc<App>,
        passage: Passage,
    ) -> impl Future<Output = Result<Response, ApiError>> + Send;
}

/// What accompanies a request on its way.
pub(crate) struct Passage {
    /// Stands for the memory that the request takes.
    pub(crate) lease: Lease,
    /// Where the line of the log finds how many tokens there were.
    pub(crate) tally: TokenTally,
    /// Asks for a sign of life.
    pub(crate) nudge: Nudge,
}

/// Answers a request.
pub(crate) async fn answer<E: Endpoint>(
    State(app): State<Arc<App>>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let client = ClientId::from_headers(request.headers());
    let tally = request.extensions().get::<TokenTally>().cloned().unwrap_or_default();
    let nudge = request.extensions().get::<Nudge>().cloned().unwrap_or_default();
    let work = move |app: &App, task: &Preparation| E::prepare(app, task, &client);
    let (endpoint, lease) = prepare(&app, request, work).await?;
    endpoint.answer(app, Passage { lease, tally, nudge }).await
}
