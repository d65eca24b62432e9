//! From a body to a plan for the engine and the shape of the answer. Renders and tokenises: runs off the threads that
//! serve connections.

use std::sync::Arc;

use serde::Serialize;

use super::conversation::Conversation;
use super::response;
use super::types::{ChatFields, ConversationFields};
use super::validate::{ChatOptions, validate};
use crate::error::ApiError;
use crate::generation::{AnswerShape, CommonShape, GenerationPlan, Output, SequencePlan};
use crate::intake::Preparation;
use crate::json::decode;
use crate::outline::fields_of;
use crate::parameters::{self, LogprobRequest, OutputRules, ParameterFields, Parameters};
use crate::request_id::ClientId;
use crate::sse::ChunkWriter;
use crate::state::App;
use crate::usage::Usage;

/// What the answer looks like, apart from what is generated.
pub(crate) struct ChatShape {
    pub(super) common: CommonShape,
    pub(super) role: String,
    pub(super) prompt: Arc<[u32]>,
    /// The last message's text, if it is to be repeated.
    pub(super) echo: Option<String>,
}

impl AnswerShape for ChatShape {
    fn prepare(app: &App, task: &Preparation, client: &ClientId) -> Result<(GenerationPlan, Self), ApiError> {
        let body = task.body();
        let fields: ChatFields = decode(body)?;
        let conversation: ConversationFields = decode(body)?;
        let shared: ParameterFields = decode(body)?;
        app.check_model(shared.model.as_deref())?;
        let known =
            [fields_of::<ChatFields>(), fields_of::<ConversationFields>(), fields_of::<ParameterFields>()];
        app.ignored.notice(body, &known);
        let rules = app.rules();
        let parameters = parameters::validate(&shared, &rules)?;
        let conversation = Conversation::new(app, conversation)?;
        let options = validate(&fields, conversation.has_tools(), &rules)?;
        let prompt = prompt(app, task, (&conversation, &options, &parameters))?;
        let sequences = sequences(app, &options, &parameters, &prompt)?;
        let role = conversation.answering_role(&app.config.responses.chat_role).to_owned();
        let echo = options.echo.then(|| conversation.last_text_of(&role)).flatten();
        let common = CommonShape::new(app, client, "chatcmpl", &parameters, options.logprobs);
        let shape = Self { common, role, prompt, echo };
        Ok((GenerationPlan::new(sequences, parameters, task.arrived), shape))
    }

    fn common(&self) -> &CommonShape {
        &self.common
    }

    fn whole(&self, outputs: Vec<Output>, usage: Usage) -> impl Serialize {
        response::whole(self, outputs, usage)
    }

    fn chunks(self) -> impl ChunkWriter {
        response::ChatStream::new(self)
    }
}

/// By default an answer may fill the context, up to the model's own cap.
fn output_rules(app: &App, options: &ChatOptions) -> OutputRules {
    OutputRules {
        max_model_len: app.model.max_model_len,
        requested: options.max_tokens,
        default: None,
        cap: app.config.generation_defaults.max_new_tokens,
    }
}

fn prompt(
    app: &App,
    task: &Preparation,
    (conversation, options, parameters): (&Conversation, &ChatOptions, &Parameters),
) -> Result<Arc<[u32]>, ApiError> {
    let tokenizer = &app.model.tokenizer;
    task.check()?;
    let text = conversation.render()?;
    task.check()?;
    let text = app.within_reach(&text, parameters.truncation)?;
    // Templates write the special tokens themselves.
    let mut tokens = app.encode("messages", &text, parameters.add_special_tokens.unwrap_or(false))?;
    let bos = tokenizer.bos().map(|token| token.id);
    parameters::truncate(&mut tokens, parameters.truncation, &output_rules(app, options), bos)?;
    Ok(tokens.into())
}

fn sequences(
    app: &App,
    options: &ChatOptions,
    parameters: &Parameters,
    prompt: &Arc<[u32]>,
) -> Result<Vec<SequencePlan>, ApiError> {
    let bad_words = parameters::encode_bad_words(&app.model.tokenizer, &parameters.bad_words)?.into();
    let max_tokens = output_rules(app, options).max_tokens(prompt.len())?;
    parameters::check_min_tokens(parameters, max_tokens)?;
    let logprobs = LogprobRequest { output: options.logprobs, prompt: parameters.sampling.prompt_logprobs };
    let sequence = |index| SequencePlan {
        prompt: Arc::clone(prompt),
        sampling: parameters::sequence_sampling(parameters, &bad_words, logprobs, index, &app.seeds),
        max_tokens,
    };
    Ok((0..parameters.n).map(sequence).collect())
}
