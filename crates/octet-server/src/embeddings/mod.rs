//! `POST /v1/embeddings`: as it travels (`types`), checked (`validate`), computed and answered (here).

mod types;
mod validate;

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use octet_engine::{Event, FinishReason, Task};

use crate::endpoint::{Endpoint, Passage};
use crate::error::ApiError;
use crate::generation::TokenCounts;
use crate::intake::Preparation;
use crate::json::decode;
use crate::metrics::{Ending, Meter};
use crate::outline::fields_of;
use crate::prompts::Encoding;
use crate::request_id::ClientId;
use crate::state::{App, unix_seconds};
use crate::submission::{Asked, SEQUENCE_BYTES, Shared, Stamped, Submission};
use crate::usage::Usage;
use types::{EmbeddingData, EmbeddingFields, EmbeddingResponse, EncodingFormat, Vector};
use validate::{VectorOptions, validate};

/// What an element of a vector takes until the answer is sent: itself, and its digits.
const ELEMENT_BYTES: usize = 32;

/// A request for vectors.
pub(crate) struct Embeddings {
    id: String,
    prompts: Vec<Arc<[u32]>>,
    options: VectorOptions,
    shared: Shared,
    arrived: Instant,
}

impl Endpoint for Embeddings {
    fn prepare(app: &App, task: &Preparation, client: &ClientId) -> Result<Self, ApiError> {
        let fields: EmbeddingFields = decode(task.body())?;
        app.check_model(fields.model.as_deref())?;
        app.ignored.notice(task.body(), &[fields_of::<EmbeddingFields>()]);
        let (inputs, options, parameters) = validate(fields, &app.rules(), &app.model.embedding)?;
        let (count, max) = (inputs.count(), app.config.limits.max_sequences);
        if count > max {
            let message = format!(
                "{count} inputs are more than the {max} that one request can have: send them in several, or start \
                 the server with a larger --max-queued-requests, half of which one request may take"
            );
            return Err(ApiError::invalid("input", message));
        }
        let max_model_len = app.model.max_model_len;
        let bos = app.model.tokenizer.bos().map(|token| token.id);
        let finish = |mut tokens: Vec<u32>, _: Option<&str>| {
            if let Some(truncation) = parameters.truncation {
                truncation.cut(&mut tokens, max_model_len, max_model_len, bos)?;
            }
            match tokens.len() {
                prompt_tokens if prompt_tokens > max_model_len => {
                    Err(ApiError::InputTooLong { max_model_len, prompt_tokens })
                }
                0 => Err(ApiError::invalid("input", "an input is empty: it has no tokens")),
                _ => Ok(tokens.into()),
            }
        };
        let how = Encoding {
            field: "input",
            truncation: parameters.truncation,
            add_special_tokens: parameters.add_special_tokens.unwrap_or(true),
        };
        Ok(Self {
            prompts: inputs.encode(app, task, how, finish)?,
            id: client.response_id("embd", parameters.request_id.as_deref()),
            options,
            shared: Shared {
                priority: parameters.priority,
                cache_salt: parameters.cache_salt.map(Into::into),
            },
            arrived: task.arrived,
        })
    }

    async fn answer(self, app: Arc<App>, passage: Passage) -> Result<Response, ApiError> {
        let Self { id, prompts, options, shared, arrived } = self;
        let prompt_tokens = prompts.iter().map(|prompt| prompt.len()).sum();
        if app.config.request_log {
            tracing::info!(
                target: "octet::requests",
                "request {id}: {} inputs, {prompt_tokens} prompt tokens, pooling {:?}, priority {}",
                prompts.len(),
                app.model.embedding.pooling,
                shared.priority,
            );
        }
        let element_bytes = app.model.embedding.size * ELEMENT_BYTES;
        let kept_bytes = prompts.len() * (element_bytes + SEQUENCE_BYTES) + prompt_tokens * size_of::<u32>();
        let mut meters: Vec<Meter> = prompts
            .iter()
            .map(|prompt| Meter::new(Arc::clone(&app.metrics), arrived, prompt.len(), 0))
            .collect();
        let task = Task::Embed(app.model.embedding.pooling);
        let asked = prompts.into_iter().map(|prompt| Asked { prompt, task: task.clone() });
        let submission = Submission::start(&app, asked, &shared, kept_bytes, passage.lease)?;
        let (vectors, cached) = gather(submission, &mut meters).await?;
        let data = vectors.into_iter().enumerate().map(|(index, vector)| EmbeddingData {
            index,
            object: "embedding",
            embedding: written(options.finish(vector), options.encoding),
        });
        let counts = TokenCounts { prompt: prompt_tokens, cached, completion: 0 };
        let response = EmbeddingResponse {
            id,
            object: "list",
            created: unix_seconds(),
            model: app.model.name().to_owned(),
            data: data.collect(),
            usage: Usage::new(counts, app.config.responses.prompt_tokens_details),
        };
        Ok(Json(response).into_response())
    }
}

/// Waits for all vectors; gives them and the number of prompt tokens that were in the cache.
async fn gather(
    mut submission: Submission,
    meters: &mut [Meter],
) -> Result<(Vec<Vec<f32>>, usize), ApiError> {
    let mut vectors = vec![Vec::new(); meters.len()];
    let mut cached = 0;
    while let Some(stamped) = submission.next().await {
        let Stamped { sequence, at, event } = stamped?;
        let meter = &mut meters[sequence];
        match event {
            Event::Started { cached_tokens } => {
                cached += cached_tokens;
                meter.started(at, cached_tokens);
            }
            Event::Pooled(vector) => {
                meter.pooled(at);
                vectors[sequence] = vector;
            }
            Event::Finished(finished) => {
                submission.ended(sequence);
                meter.end(Ending::Finished(finished.finish.reason), at);
                // Only a server that stops aborts a request whose client still waits.
                if finished.finish.reason == FinishReason::Abort {
                    return Err(ApiError::ShuttingDown);
                }
            }
            Event::Failed(fault) => {
                submission.ended(sequence);
                meter.end(Ending::Error, at);
                return Err(fault.into());
            }
            Event::Token { .. } | Event::PromptLogprobs(_) => {
                return Err(ApiError::internal("tokens came where a vector was asked for"));
            }
        }
    }
    Ok((vectors, cached))
}

fn written(vector: Vec<f32>, encoding: EncodingFormat) -> Vector {
    match encoding {
        EncodingFormat::Float => Vector::Numbers(vector),
        EncodingFormat::Base64 => {
            let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
            Vector::Base64(STANDARD.encode(bytes))
        }
    }
}
