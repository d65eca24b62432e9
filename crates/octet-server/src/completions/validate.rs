//! Checks of `/v1/completions` that the shared parameters do not cover.

use octet_sample::LogprobCount;

use super::types::CompletionFields;
use crate::error::ApiError;
use crate::json::Integer;
use crate::parameters::{Rules, Truncation, check_logprob_count};
use crate::prompts::Prompts;

/// What the endpoint's own fields mean.
#[derive(Debug)]
pub(crate) struct CompletionOptions {
    pub(crate) prompts: Prompts,
    /// Zero only with `echo`.
    pub(crate) max_tokens: Option<usize>,
    pub(crate) logprobs: Option<LogprobCount>,
    pub(crate) echo: bool,
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
    let longest = if truncation.is_some() { usize::MAX } else { rules.max_model_len.saturating_sub(1) };
    let prompts = Prompts::check("prompt", fields.prompt, longest, rules)?;
    Ok(CompletionOptions { prompts, max_tokens, logprobs, echo })
}
