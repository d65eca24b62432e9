//! Checks of `/v1/completions` that the shared parameters do not cover.

use octet_sample::LogprobCount;

use super::types::{CompletionFields, Prompt};
use crate::error::ApiError;
use crate::json::Integer;
use crate::parameters::{Rules, Truncation, check_logprob_count};

/// What the endpoint's own fields mean.
#[derive(Debug)]
pub(crate) struct CompletionOptions {
    pub(crate) prompts: Prompts,
    /// Zero only with `echo`.
    pub(crate) max_tokens: Option<usize>,
    pub(crate) logprobs: Option<LogprobCount>,
    pub(crate) echo: bool,
}

/// Prompts, at least one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Prompts {
    Texts(Vec<String>),
    /// Ids below the vocabulary's size, at least one in each.
    Tokens(Vec<Vec<u32>>),
}

/// Checks the endpoint's own fields.
pub(crate) fn validate(
    fields: CompletionFields,
    rules: &Rules<'_>,
    truncation: Option<Truncation>,
) -> Result<CompletionOptions, ApiError> {
    if fields.prompt_embeds.is_some_and(|embeds| !embeds.is_null()) {
        let remedy = "send the prompt as text or as token ids";
        return Err(ApiError::Unsupported { field: "prompt_embeds", remedy });
    }
    if fields.suffix.is_some_and(|suffix| !suffix.is_empty()) {
        let remedy = "write the model's own fill-in-the-middle form into the prompt";
        return Err(ApiError::Unsupported { field: "suffix", remedy });
    }
    let echo = fields.echo.is_some_and(|flag| flag.0);
    let least = i64::from(!echo);
    let max_tokens = match fields.max_tokens {
        None => None,
        Some(Integer(value)) if value >= least => Some(value as usize),
        Some(Integer(value)) => {
            let range = if echo { "at least 0" } else { "at least 1 (0 is for echo)" };
            return Err(ApiError::OutOfRange {
                field: "max_tokens",
                range: range.to_owned(),
                value: value.to_string(),
            });
        }
    };
    let logprobs =
        fields.logprobs.map(|count| check_logprob_count("logprobs", count, &rules.limits)).transpose()?;
    Ok(CompletionOptions { prompts: prompts(fields.prompt, rules, truncation)?, max_tokens, logprobs, echo })
}

fn prompts(
    prompt: Option<Prompt>,
    rules: &Rules<'_>,
    truncation: Option<Truncation>,
) -> Result<Prompts, ApiError> {
    let refuse = |message: &str| Err(ApiError::invalid("prompt", message));
    match prompt {
        None => refuse("prompt is missing: a string, or an array of strings or token ids"),
        Some(Prompt::Texts(texts)) if texts.iter().all(String::is_empty) => {
            refuse("prompt must not be empty")
        }
        Some(Prompt::Texts(texts)) => Ok(Prompts::Texts(texts)),
        Some(Prompt::Tokens(prompts)) if prompts.iter().any(Vec::is_empty) => {
            refuse("prompt must not be empty: each array of token ids needs at least one")
        }
        Some(Prompt::Tokens(prompts)) => {
            let max_model_len = rules.max_model_len;
            let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
            if longest >= max_model_len && truncation.is_none() {
                return Err(ApiError::PromptTooLong { max_model_len, prompt_tokens: longest });
            }
            let check = |ids: &Vec<Integer>| ids.iter().map(|id| token(*id, rules)).collect();
            prompts.iter().map(check).collect::<Result<_, _>>().map(Prompts::Tokens)
        }
    }
}

fn token(id: Integer, rules: &Rules<'_>) -> Result<u32, ApiError> {
    u32::try_from(id.0).ok().filter(|id| (*id as usize) < rules.vocabulary_size).ok_or_else(|| {
        let largest = rules.vocabulary_size.saturating_sub(1);
        let message = format!("prompt has the token id {}; ids of this model go from 0 to {largest}", id.0);
        ApiError::invalid("prompt", message)
    })
}
