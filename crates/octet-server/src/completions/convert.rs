//! From checked options to a plan for the engine and the shape of the answer. Tokenises: runs off the threads that
//! serve connections.

use std::sync::Arc;

use octet_sample::LogprobCount;
use serde::Serialize;

use super::response;
use super::types::CompletionFields;
use super::validate::{CompletionOptions, validate};
use crate::error::ApiError;
use crate::generation::{AnswerShape, CommonShape, GenerationPlan, Output, SequencePlan};
use crate::intake::Preparation;
use crate::json::decode;
use crate::outline::fields_of;
use crate::parameters::{self, LogprobRequest, OutputRules, ParameterFields, Parameters};
use crate::prompts::Encoding;
use crate::request_id::ClientId;
use crate::sse::ChunkWriter;
use crate::state::App;
use crate::usage::Usage;

/// `max_tokens` of a request that does not say: OpenAI's.
const DEFAULT_MAX_TOKENS: usize = 16;

/// What the answer looks like, apart from what is generated.
pub(crate) struct CompletionShape {
    pub(super) common: CommonShape,
    pub(super) prompts: Vec<PromptShape>,
    pub(super) echo: bool,
}

/// A prompt as the answer may show it.
pub(super) struct PromptShape {
    pub(super) tokens: Arc<[u32]>,
    /// Its text, if it is echoed.
    pub(super) text: Option<String>,
}

impl AnswerShape for CompletionShape {
    fn prepare(app: &App, task: &Preparation, client: &ClientId) -> Result<(GenerationPlan, Self), ApiError> {
        let body = task.body();
        let fields: CompletionFields = decode(body)?;
        let shared: ParameterFields = decode(body)?;
        app.check_model(shared.model.as_deref())?;
        app.ignored.notice(body, &[fields_of::<CompletionFields>(), fields_of::<ParameterFields>()]);
        let rules = app.rules();
        let parameters = parameters::validate(&shared, &rules)?;
        let options = validate(fields, &rules, parameters.truncation)?;
        let prompts = prompts(app, task, &options, &parameters)?;
        let sequences = sequences(app, &options, &parameters, &prompts)?;
        let common = CommonShape::new(app, client, "cmpl", &parameters, options.logprobs);
        let shape = Self { common, prompts, echo: options.echo };
        Ok((GenerationPlan::new(sequences, parameters, task.arrived), shape))
    }

    fn common(&self) -> &CommonShape {
        &self.common
    }

    fn whole(&self, outputs: Vec<Output>, usage: Usage) -> impl Serialize {
        response::whole(self, outputs, usage)
    }

    fn chunks(self) -> impl ChunkWriter {
        response::CompletionStream::new(self)
    }
}

fn output_rules(app: &App, options: &CompletionOptions) -> OutputRules {
    OutputRules {
        max_model_len: app.model.max_model_len,
        requested: options.max_tokens,
        default: Some(DEFAULT_MAX_TOKENS),
        cap: app.config.generation_defaults.max_new_tokens,
    }
}

/// Tokenises and truncates.
fn prompts(
    app: &App,
    task: &Preparation,
    options: &CompletionOptions,
    parameters: &Parameters,
) -> Result<Vec<PromptShape>, ApiError> {
    let tokenizer = &app.model.tokenizer;
    let count = options.prompts.count();
    let max = app.config.limits.max_sequences;
    if count.saturating_mul(parameters.n) > max {
        let message = format!(
            "{count} prompts with n = {} are {} sequences; one request can have at most {max}",
            parameters.n,
            count * parameters.n
        );
        return Err(ApiError::invalid("prompt", message));
    }
    let rules = output_rules(app, options);
    let bos = tokenizer.bos().map(|token| token.id);
    let finish = |mut tokens: Vec<u32>, text: Option<&str>| {
        let before = tokens.len();
        parameters::truncate(&mut tokens, parameters.truncation, &rules, bos)?;
        let text = match text {
            _ if !options.echo => None,
            Some(text) if tokens.len() == before => Some(text.to_owned()),
            _ => Some(tokenizer.decode(&tokens, parameters.skip_special_tokens)?),
        };
        Ok(PromptShape { tokens: tokens.into(), text })
    };
    let how = Encoding {
        field: "prompt",
        truncation: parameters.truncation,
        add_special_tokens: parameters.add_special_tokens.unwrap_or(true),
    };
    options.prompts.encode(app, task, how, finish)
}

fn sequences(
    app: &App,
    options: &CompletionOptions,
    parameters: &Parameters,
    prompts: &[PromptShape],
) -> Result<Vec<SequencePlan>, ApiError> {
    let bad_words = parameters::encode_bad_words(&app.model.tokenizer, &parameters.bad_words)?.into();
    let rules = output_rules(app, options);
    let mut sequences = Vec::with_capacity(prompts.len() * parameters.n);
    for prompt in prompts {
        let max_tokens = rules.max_tokens(prompt.tokens.len())?;
        parameters::check_min_tokens(parameters, max_tokens)?;
        let logprobs = logprobs(options, parameters, max_tokens);
        for index in 0..parameters.n {
            sequences.push(SequencePlan {
                prompt: Arc::clone(&prompt.tokens),
                sampling: parameters::sequence_sampling(parameters, &bad_words, logprobs, index, &app.seeds),
                max_tokens,
            });
        }
    }
    Ok(sequences)
}

/// An echoed prompt shows logprobs too, and a request for no tokens is one for prompt logprobs: the engine computes
/// nothing else for it.
fn logprobs(options: &CompletionOptions, parameters: &Parameters, max_tokens: usize) -> LogprobRequest {
    let echoed = options.logprobs.filter(|_| options.echo);
    let nothing_else = (max_tokens == 0).then_some(LogprobCount::Top(0));
    LogprobRequest {
        output: options.logprobs,
        prompt: parameters.sampling.prompt_logprobs.or(echoed).or(nothing_else),
    }
}
