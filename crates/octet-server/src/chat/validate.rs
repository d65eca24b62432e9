//! Checks of `/v1/chat/completions` that the shared parameters and the conversation do not cover.

use octet_sample::LogprobCount;
use serde_json::Value;

use super::types::ChatFields;
use crate::error::ApiError;
use crate::json::Integer;
use crate::parameters::{Rules, check_logprob_count};

/// What the endpoint's own fields mean.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ChatOptions {
    pub(crate) max_tokens: Option<usize>,
    pub(crate) logprobs: Option<LogprobCount>,
    pub(crate) echo: bool,
}

/// Checks the endpoint's own fields.
pub(crate) fn validate(
    fields: &ChatFields,
    has_tools: bool,
    rules: &Rules<'_>,
) -> Result<ChatOptions, ApiError> {
    refuse_functions(fields)?;
    check_tool_choice(fields.tool_choice.as_ref(), has_tools)?;
    let max_tokens = match (fields.max_completion_tokens, fields.max_tokens) {
        (Some(value), _) => Some(positive("max_completion_tokens", value)?),
        (None, Some(value)) => Some(positive("max_tokens", value)?),
        (None, None) => None,
    };
    Ok(ChatOptions {
        max_tokens,
        logprobs: logprobs(fields, rules)?,
        echo: fields.echo.is_some_and(|flag| flag.0),
    })
}

fn positive(field: &'static str, value: Integer) -> Result<usize, ApiError> {
    usize::try_from(value.0).ok().filter(|value| *value > 0).ok_or_else(|| ApiError::OutOfRange {
        field,
        range: "at least 1".to_owned(),
        value: value.0.to_string(),
    })
}

fn logprobs(fields: &ChatFields, rules: &Rules<'_>) -> Result<Option<LogprobCount>, ApiError> {
    let wanted = fields.logprobs.is_some_and(|flag| flag.0);
    match fields.top_logprobs {
        None => Ok(wanted.then_some(LogprobCount::Top(0))),
        Some(Integer(0)) if !wanted => Ok(None),
        Some(_) if !wanted => {
            Err(ApiError::invalid("top_logprobs", "top_logprobs can only be given when logprobs is true"))
        }
        Some(count) => check_logprob_count("top_logprobs", count, &rules.limits).map(Some),
    }
}

/// Clients that have no functions to offer send an empty list, or say that none is to be called.
fn refuse_functions(fields: &ChatFields) -> Result<(), ApiError> {
    let offers = |value: &Value| value.as_array().is_none_or(|functions| !functions.is_empty());
    let calls = |value: &Value| !matches!(value.as_str(), Some("none" | "auto"));
    let asks = |value: &Option<Value>, means: &dyn Fn(&Value) -> bool| {
        value.as_ref().is_some_and(|value| !value.is_null() && means(value))
    };
    let table = [
        ("functions", asks(&fields.functions, &offers)),
        ("function_call", asks(&fields.function_call, &calls)),
    ];
    match table.into_iter().find(|(_, asked)| *asked) {
        Some((field, _)) => Err(ApiError::Unsupported { field, remedy: "it was replaced by tools" }),
        None => Ok(()),
    }
}

/// Tools may be shown to the model; calls are not parsed out of its answer.
fn check_tool_choice(choice: Option<&Value>, has_tools: bool) -> Result<(), ApiError> {
    let choice = choice.filter(|choice| !choice.is_null());
    match choice {
        Some(Value::String(word)) if word == "none" => Ok(()),
        None if !has_tools => Ok(()),
        Some(_) if !has_tools => {
            Err(ApiError::invalid("tool_choice", "tool_choice can only be given together with tools"))
        }
        _ => Err(ApiError::Unsupported {
            field: "tool_choice",
            remedy: "this server does not parse tool calls yet; send \"none\" to show the tools to the model only",
        }),
    }
}
