//! What answers of generated tokens look like: what both endpoints share, and their way from a plan to an answer.

use std::sync::Arc;

use axum::Json;
use axum::response::{IntoResponse, Response};
use octet_sample::{LogprobCount, SampledToken};
use serde::Serialize;

use super::{Generation, GenerationPlan, Output, TokenCounts};
use crate::access;
use crate::endpoint::{Endpoint, Passage};
use crate::error::ApiError;
use crate::intake::Preparation;
use crate::logprobs::TokenNames;
use crate::parameters::{Parameters, StreamUsage};
use crate::request_id::ClientId;
use crate::sse::{self, ChunkWriter, Pace};
use crate::state::{App, unix_seconds};
use crate::usage::Usage;

/// What the answer of an endpoint looks like, apart from what is generated; made of a request.
pub(crate) trait AnswerShape: Sized + Send + Sync + 'static {
    /// Decodes, checks and tokenises a body.
    fn prepare(app: &App, task: &Preparation, client: &ClientId) -> Result<(GenerationPlan, Self), ApiError>;

    /// What the endpoints share of it.
    fn common(&self) -> &CommonShape;

    /// The answer in one piece.
    fn whole(&self, outputs: Vec<Output>, usage: Usage) -> impl Serialize;

    /// The answer in chunks.
    fn chunks(self) -> impl ChunkWriter;
}

/// An endpoint that generates.
pub(crate) struct Generating<S> {
    plan: GenerationPlan,
    shape: S,
}

impl<S: AnswerShape> Endpoint for Generating<S> {
    fn prepare(app: &App, task: &Preparation, client: &ClientId) -> Result<Self, ApiError> {
        S::prepare(app, task, client).map(|(plan, shape)| Self { plan, shape })
    }

    async fn answer(self, app: Arc<App>, passage: Passage) -> Result<Response, ApiError> {
        let Self { plan, shape } = self;
        if app.config.request_log {
            access::log_request(&app, &shape.common().id, &plan);
        }
        let mut generation = Generation::start(&app, plan, passage.lease)?.told_to(passage.tally);
        if shape.common().stream.is_some() {
            return Ok(sse::stream(generation, shape.chunks(), Pace::new(&app, passage.nudge)));
        }
        let outputs = generation.gather().await?;
        let usage = shape.common().usage(generation.usage());
        Ok(Json(shape.whole(outputs, usage)).into_response())
    }
}

/// What the answers of both endpoints have in common.
pub(crate) struct CommonShape {
    pub(crate) id: String,
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) n: usize,
    pub(crate) names: TokenNames,
    pub(crate) logprobs: Option<LogprobCount>,
    pub(crate) show_prompt_logprobs: bool,
    pub(crate) return_token_ids: bool,
    /// Present if the answer is streamed.
    stream: Option<StreamUsage>,
    prompt_tokens_details: bool,
}

impl CommonShape {
    /// The shape of an answer whose id begins with `prefix`.
    pub(crate) fn new(
        app: &App,
        client: &ClientId,
        prefix: &str,
        parameters: &Parameters,
        logprobs: Option<LogprobCount>,
    ) -> Self {
        Self {
            id: client.response_id(prefix, parameters.request_id.as_deref()),
            created: unix_seconds(),
            model: app.model.name().to_owned(),
            n: parameters.n,
            names: TokenNames::new(Arc::clone(&app.model.tokenizer), parameters.tokens_as_token_ids),
            logprobs,
            show_prompt_logprobs: parameters.sampling.prompt_logprobs.is_some(),
            return_token_ids: parameters.return_token_ids,
            stream: parameters.stream,
            prompt_tokens_details: app.config.responses.prompt_tokens_details,
        }
    }

    /// Ids of generated tokens, if they were asked for.
    pub(crate) fn token_ids(&self, tokens: &[SampledToken]) -> Option<Vec<u32>> {
        self.return_token_ids.then(|| tokens.iter().map(|token| token.token).collect())
    }

    /// Usage of one sequence so far, for each of its chunks, if it was asked for.
    pub(crate) fn usage_so_far(&self, generation: &Generation, sequence: usize) -> Option<Usage> {
        let asked = self.stream.is_some_and(|usage| usage.continuous);
        asked.then(|| self.usage(generation.sequence_usage(sequence)))
    }

    /// Usage of the whole request, for a stream's last chunk, if it was asked for.
    pub(crate) fn usage_at_end(&self, generation: &Generation) -> Option<Usage> {
        self.stream.is_some_and(|usage| usage.at_end).then(|| self.usage(generation.usage()))
    }

    fn usage(&self, counts: TokenCounts) -> Usage {
        Usage::new(counts, self.prompt_tokens_details)
    }
}
