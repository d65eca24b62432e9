//! From a body to a plan for the engine and the shape of the answer. Renders and tokenises: runs off the threads that
//! serve connections.

use std::sync::Arc;
use std::time::Instant;

use octet_sample::LogprobCount;
use octet_text::StreamOptions;

use super::conversation::Conversation;
use super::types::{ChatFields, ConversationFields};
use super::validate::{ChatOptions, validate};
use crate::error::ApiError;
use crate::generation::{GenerationPlan, SequencePlan};
use crate::json::decode;
use crate::logprobs::TokenNames;
use crate::parameters::{self, LogprobWishes, OutputRules, ParameterFields, Parameters, StreamUsage};
use crate::request_id::ClientId;
use crate::state::{App, unix_seconds};

/// What the answer looks like, apart from what is generated.
pub(crate) struct Shape {
    pub(crate) id: String,
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) role: String,
    pub(crate) n: usize,
    pub(crate) names: TokenNames,
    pub(crate) prompt: Arc<[u32]>,
    /// The last message's text, if it is to be repeated.
    pub(crate) echo: Option<String>,
    pub(crate) logprobs: Option<LogprobCount>,
    pub(crate) show_prompt_logprobs: bool,
    pub(crate) return_token_ids: bool,
    pub(crate) prompt_tokens_details: bool,
    pub(crate) stream: Option<StreamUsage>,
}

/// Decodes, checks, renders and tokenises a body.
pub(crate) fn prepare(
    app: &App,
    body: &str,
    client: &ClientId,
    arrived: Instant,
) -> Result<(GenerationPlan, Shape), ApiError> {
    let fields: ChatFields = decode(body)?;
    let conversation: ConversationFields = decode(body)?;
    let shared: ParameterFields = decode(body)?;
    app.check_model(shared.model.as_deref())?;
    let rules = app.rules();
    let parameters = parameters::validate(&shared, &rules)?;
    let conversation = Conversation::new(app, conversation)?;
    let options = validate(&fields, conversation.has_tools(), &rules)?;
    let prompt = prompt(app, &conversation, &options, &parameters)?;
    let plan = plan(app, &options, &parameters, &prompt, arrived)?;
    let role = conversation.answering_role(&app.config.responses.chat_role).to_owned();
    let shape = Shape {
        id: client.response_id("chatcmpl", parameters.request_id.as_deref()),
        created: unix_seconds(),
        model: app.model.name().to_owned(),
        echo: options.echo.then(|| conversation.last_text_of(&role)).flatten(),
        role,
        n: parameters.n,
        names: TokenNames::new(Arc::clone(&app.model.tokenizer), parameters.tokens_as_token_ids),
        prompt,
        logprobs: options.logprobs,
        show_prompt_logprobs: parameters.sampling.prompt_logprobs.is_some(),
        return_token_ids: parameters.return_token_ids,
        prompt_tokens_details: app.config.responses.prompt_tokens_details,
        stream: parameters.stream,
    };
    Ok((plan, shape))
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
    conversation: &Conversation,
    options: &ChatOptions,
    parameters: &Parameters,
) -> Result<Arc<[u32]>, ApiError> {
    let tokenizer = &app.model.tokenizer;
    let text = conversation.render()?;
    if parameters.truncation.is_none() {
        app.check_text_size(&text)?;
    }
    // Templates write the special tokens themselves.
    let mut tokens = tokenizer.encode(&text, parameters.add_special_tokens.unwrap_or(false))?;
    let bos = tokenizer.bos().map(|token| token.id);
    parameters::truncate(&mut tokens, parameters.truncation, &output_rules(app, options), bos)?;
    Ok(tokens.into())
}

fn plan(
    app: &App,
    options: &ChatOptions,
    parameters: &Parameters,
    prompt: &Arc<[u32]>,
    arrived: Instant,
) -> Result<GenerationPlan, ApiError> {
    let bad_words = parameters::encode_bad_words(&app.model.tokenizer, &parameters.bad_words)?;
    let max_tokens = output_rules(app, options).max_tokens(prompt.len())?;
    parameters::check_min_tokens(parameters, max_tokens)?;
    let wishes = LogprobWishes { output: options.logprobs, prompt: parameters.sampling.prompt_logprobs };
    let sequence = |index| SequencePlan {
        prompt: Arc::clone(prompt),
        sampling: parameters::sequence_sampling(parameters, &bad_words, wishes, index, &app.seeds),
        max_tokens,
    };
    Ok(GenerationPlan {
        sequences: (0..parameters.n).map(sequence).collect(),
        n: parameters.n,
        text: StreamOptions {
            skip_special_tokens: parameters.skip_special_tokens,
            stop: parameters.stop.clone(),
            include_stop_str_in_output: parameters.include_stop_str_in_output,
        },
        priority: parameters.priority,
        cache_salt: parameters.cache_salt.clone(),
        arrived,
    })
}
