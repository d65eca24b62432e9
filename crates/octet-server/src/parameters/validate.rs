//! From fields as typed to parameters as meant. What needs the tokenizer or the prompt's length comes later, in
//! `convert`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::Arc;

use octet_sample::{LogprobCount, LogprobsMode, SamplingParams};
use octet_text::StopStrings;
use serde_json::Value;

use super::types::{ParameterFields, StreamFields, TruncationSide};
use crate::config::{GenerationDefaults, Limits};
use crate::error::ApiError;
use crate::json::{Flag, Integer, Number};

/// Temperatures between 0 and this are raised to it: dividing logits by less drives them out of the range in which
/// the softmax still tells tokens apart.
const SMALLEST_TEMPERATURE: f32 = 0.01;

/// Repetition penalties below this, and above its inverse, drive every logit out of the range of `f32`: whatever was
/// meant, it was not that.
const SMALLEST_REPETITION: f64 = 1e-5;

/// Bias beyond this is clamped: OpenAI's bounds.
const LARGEST_BIAS: f64 = 100.0;

/// Most strings in `stop` and in `bad_words`: each is looked for at every token.
const MAX_STRINGS: usize = 1024;

/// Longest `stop`, and longest `bad_words`, all strings together: no text that ends an answer is as long.
const MAX_STRING_BYTES: usize = 64 << 10;

/// Longest `cache_salt`: it is kept as long as the request, and names a tenant.
const MAX_SALT_BYTES: usize = 1024;

/// The longest of `bad_words`: each is compared with the end of the output at every token.
const LONGEST_BAD_WORD_BYTES: usize = 1000;

/// What the checks need to know of the server and its model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules<'a> {
    pub(crate) limits: Limits,
    pub(crate) defaults: GenerationDefaults,
    pub(crate) priority_scheduling: bool,
    pub(crate) tokens_as_token_ids: bool,
    pub(crate) force_include_usage: bool,
    pub(crate) stream_interval: usize,
    pub(crate) logprobs_mode: LogprobsMode,
    pub(crate) vocabulary_size: usize,
    pub(crate) max_model_len: usize,
    pub(crate) eos_token_id: Option<u32>,
    pub(crate) stop_token_ids: &'a [u32],
}

/// The checked parameters of one request.
#[derive(Clone, Debug)]
pub(crate) struct Parameters {
    /// Sequences for each prompt.
    pub(crate) n: usize,
    /// All but the seed, the bad words and the number of logprobs.
    pub(crate) sampling: SamplingParams,
    /// If the request has one.
    pub(crate) seed: Option<i64>,
    pub(crate) stop: StopStrings,
    pub(crate) include_stop_str_in_output: bool,
    pub(crate) skip_special_tokens: bool,
    pub(crate) bad_words: Vec<String>,
    pub(crate) truncation: Option<Truncation>,
    pub(crate) add_special_tokens: Option<bool>,
    /// Present if the answer is streamed.
    pub(crate) stream: Option<StreamUsage>,
    /// Tokens of a sequence that are passed on together, after the first.
    pub(crate) stream_interval: usize,
    pub(crate) priority: i32,
    pub(crate) request_id: Option<String>,
    pub(crate) cache_salt: Option<String>,
    pub(crate) return_token_ids: bool,
    pub(crate) tokens_as_token_ids: bool,
}

/// How a prompt that is too long is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Truncation {
    /// Tokens to keep; `None` keeps as many as leave room for the output.
    pub(crate) keep: Option<usize>,
    pub(crate) side: TruncationSide,
}

/// Where usage shows in a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StreamUsage {
    /// In a last chunk without choices.
    pub(crate) at_end: bool,
    /// In every chunk.
    pub(crate) continuous: bool,
}

/// Checks the fields.
pub(crate) fn validate(fields: &ParameterFields, rules: &Rules<'_>) -> Result<Parameters, ApiError> {
    refuse_unsupported(fields)?;
    let sampling = sampling(fields, rules)?;
    let n = sequences(fields, rules, sampling.temperature)?;
    if fields.cache_salt.as_deref() == Some("") {
        return Err(ApiError::invalid("cache_salt", "cache_salt must not be empty; leave it out instead"));
    }
    if let Some(bytes) = fields.cache_salt.as_ref().map(String::len).filter(|bytes| *bytes > MAX_SALT_BYTES) {
        let message = format!("cache_salt must have at most {MAX_SALT_BYTES} bytes, got {bytes}");
        return Err(ApiError::invalid("cache_salt", message));
    }
    let priority = fields.priority.map_or(0, |priority| priority.0);
    if priority != 0 && !rules.priority_scheduling {
        let message =
            "priority must be 0 unless the server schedules by priority (--scheduling-policy priority)";
        return Err(ApiError::invalid("priority", message));
    }
    Ok(Parameters {
        n,
        sampling,
        seed: fields.seed.map(|seed| seed.0).filter(|seed| *seed != -1),
        stop: stop_strings(fields)?,
        include_stop_str_in_output: on(fields.include_stop_str_in_output),
        skip_special_tokens: fields.skip_special_tokens.is_none_or(|flag| flag.0),
        bad_words: bad_words(fields)?,
        truncation: truncation(fields)?,
        add_special_tokens: fields.add_special_tokens.map(|flag| flag.0),
        stream: stream(fields, rules)?,
        stream_interval: stream_interval(fields, rules)?,
        priority: integer("priority", priority)?,
        request_id: fields.request_id.clone(),
        cache_salt: fields.cache_salt.clone(),
        return_token_ids: on(fields.return_token_ids),
        tokens_as_token_ids: fields
            .return_tokens_as_token_ids
            .map_or(rules.tokens_as_token_ids, |flag| flag.0),
    })
}

fn sampling(fields: &ParameterFields, rules: &Rules<'_>) -> Result<SamplingParams, ApiError> {
    let defaults = &rules.defaults;
    let mut temperature = match fields.temperature {
        Some(value) => number("temperature", value, "between 0 and 2", |value| (0.0..=2.0).contains(&value))?,
        None => defaults.temperature.unwrap_or(1.0),
    };
    if temperature > 0.0 && temperature < SMALLEST_TEMPERATURE {
        tracing::warn!(temperature, raised_to = SMALLEST_TEMPERATURE, "temperature is too small");
        temperature = SMALLEST_TEMPERATURE;
    }
    let top_p = match fields.top_p {
        // What `f32` would round to 0 keeps the most likely token, as the smallest that it can hold does.
        Some(value) => number("top_p", value, "above 0 and at most 1", |value| value > 0.0 && value <= 1.0)?
            .max(f32::MIN_POSITIVE),
        None => defaults.top_p.unwrap_or(1.0),
    };
    let top_k = match fields.top_k {
        Some(Integer(-1)) => 0,
        Some(Integer(value)) => u32::try_from(value).map_err(|_| {
            out_of_range("top_k", "-1 or 0 (both: all tokens), or a positive 32-bit integer", value)
        })?,
        None => defaults.top_k.unwrap_or(0),
    };
    let min_p = match fields.min_p {
        Some(value) => number("min_p", value, "between 0 and 1", |value| (0.0..=1.0).contains(&value))?,
        None => defaults.min_p.unwrap_or(0.0),
    };
    let repetition_penalty = match fields.repetition_penalty {
        Some(value) => number("repetition_penalty", value, "between 0.00001 and 100000", |value| {
            (SMALLEST_REPETITION..=1.0 / SMALLEST_REPETITION).contains(&value)
        })?,
        None => defaults.repetition_penalty.unwrap_or(1.0),
    };
    let greedy = temperature == 0.0;
    Ok(SamplingParams {
        temperature,
        top_k: if greedy { 0 } else { top_k },
        top_p: if greedy { 1.0 } else { top_p },
        min_p: if greedy { 0.0 } else { min_p },
        repetition_penalty,
        presence_penalty: penalty("presence_penalty", fields.presence_penalty, defaults.presence_penalty)?,
        frequency_penalty: penalty(
            "frequency_penalty",
            fields.frequency_penalty,
            defaults.frequency_penalty,
        )?,
        seed: 0,
        min_tokens: min_tokens(fields)?,
        eos_token_id: rules.eos_token_id.filter(|_| !on(fields.ignore_eos)),
        stop_token_ids: stop_token_ids(fields, rules)?,
        logit_bias: logit_bias(fields, rules)?,
        allowed_token_ids: allowed_token_ids(fields, rules)?,
        bad_words: Arc::default(),
        logprobs: None,
        prompt_logprobs: prompt_logprobs(fields, rules)?,
        logprobs_mode: rules.logprobs_mode,
    })
}

fn on(flag: Option<Flag>) -> bool {
    flag.is_some_and(|flag| flag.0)
}

fn sequences(fields: &ParameterFields, rules: &Rules<'_>, temperature: f32) -> Result<usize, ApiError> {
    let n = fields.n.map_or(1, |n| n.0);
    let max = rules.limits.max_sequences;
    let sequences = usize::try_from(n)
        .ok()
        .filter(|n| (1..=max).contains(n))
        .ok_or_else(|| out_of_range("n", &format!("between 1 and {max}"), n))?;
    if sequences > 1 && temperature == 0.0 {
        let message = "n must be 1 when temperature is 0: greedy sequences would all be the same";
        return Err(ApiError::invalid("n", message));
    }
    match fields.best_of {
        Some(Integer(best_of)) if best_of < n => {
            Err(ApiError::invalid("best_of", format!("best_of must be at least n ({n}), got {best_of}")))
        }
        Some(Integer(best_of)) if best_of > n => Err(ApiError::Unsupported {
            field: "best_of",
            remedy: "ask for n sequences and choose among them; best_of must equal n",
        }),
        _ => Ok(sequences),
    }
}

fn refuse_unsupported(fields: &ParameterFields) -> Result<(), ApiError> {
    let asks = |value: &Option<Value>| value.as_ref().is_some_and(|value| !value.is_null());
    let not_yet = "this server does not constrain outputs yet; leave the field out";
    let structured = [
        ("structured_outputs", asks(&fields.structured_outputs)),
        ("guided_json", asks(&fields.guided_json)),
        ("guided_regex", asks(&fields.guided_regex)),
        ("guided_choice", asks(&fields.guided_choice)),
        ("guided_grammar", asks(&fields.guided_grammar)),
    ];
    for (field, asked) in structured {
        if asked {
            return Err(ApiError::Unsupported { field, remedy: not_yet });
        }
    }
    if let Some(format) = fields.response_format.as_ref().filter(|format| !format.is_null()) {
        match format.get("type").and_then(Value::as_str) {
            Some("text") => {}
            Some(_) => {
                let remedy = "only {\"type\": \"text\"} is; this server does not constrain outputs yet";
                return Err(ApiError::Unsupported { field: "response_format", remedy });
            }
            None => {
                let message = "response_format must be an object with a type, such as {\"type\": \"text\"}";
                return Err(ApiError::invalid("response_format", message));
            }
        }
    }
    let others = [
        ("use_beam_search", on(fields.use_beam_search), "use n and seed for several sequences"),
        (
            "logprob_token_ids",
            fields.logprob_token_ids.as_ref().is_some_and(|ids| !ids.is_empty()),
            "ask for the most likely tokens with logprobs",
        ),
        ("thinking_token_budget", asks(&fields.thinking_token_budget), "bound the output with max_tokens"),
        ("repetition_detection", asks(&fields.repetition_detection), "use repetition_penalty"),
    ];
    match others.into_iter().find(|(_, asked, _)| *asked) {
        Some((field, _, remedy)) => Err(ApiError::Unsupported { field, remedy }),
        None => Ok(()),
    }
}

fn stop_strings(fields: &ParameterFields) -> Result<StopStrings, ApiError> {
    let stop = fields.stop.as_ref().map_or(&[][..], |stop| &stop.0);
    if stop.iter().any(String::is_empty) {
        return Err(ApiError::invalid(
            "stop",
            "stop must not contain an empty string: it would match everywhere",
        ));
    }
    check_strings("stop", stop)?;
    Ok(distinct(stop).into())
}

fn bad_words(fields: &ParameterFields) -> Result<Vec<String>, ApiError> {
    let words = fields.bad_words.as_deref().unwrap_or_default();
    if words.iter().any(|word| word.trim().is_empty()) {
        return Err(ApiError::invalid("bad_words", "bad_words must not contain an empty string"));
    }
    check_strings("bad_words", words)?;
    if let Some(word) = words.iter().find(|word| word.len() > LONGEST_BAD_WORD_BYTES) {
        let message = format!(
            "bad_words must have words of at most {LONGEST_BAD_WORD_BYTES} bytes, got one of {}",
            word.len()
        );
        return Err(ApiError::invalid("bad_words", message));
    }
    Ok(distinct(words))
}

/// Each once, in the order in which they came.
fn distinct(strings: &[String]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    strings.iter().filter(|string| seen.insert(string.as_str())).cloned().collect()
}

fn check_strings(field: &'static str, strings: &[String]) -> Result<(), ApiError> {
    let (found, bytes) = (strings.len(), strings.iter().map(String::len).sum::<usize>());
    if found > MAX_STRINGS {
        let message = format!("{field} must have at most {MAX_STRINGS} strings, got {found}");
        return Err(ApiError::invalid(field, message));
    }
    if bytes > MAX_STRING_BYTES {
        let message = format!("{field} must have at most {MAX_STRING_BYTES} bytes of text, got {bytes}");
        return Err(ApiError::invalid(field, message));
    }
    Ok(())
}

fn stop_token_ids(fields: &ParameterFields, rules: &Rules<'_>) -> Result<Arc<[u32]>, ApiError> {
    let mut ids = token_ids("stop_token_ids", fields.stop_token_ids.as_deref().unwrap_or_default(), rules)?;
    if !on(fields.ignore_eos) {
        ids.extend_from_slice(rules.stop_token_ids);
    }
    Ok(set(ids))
}

/// Sorted, each once: what the sampler does at every token costs as much as there are different ids.
fn set(mut ids: Vec<u32>) -> Arc<[u32]> {
    ids.sort_unstable();
    ids.dedup();
    ids.into()
}

fn allowed_token_ids(fields: &ParameterFields, rules: &Rules<'_>) -> Result<Option<Arc<[u32]>>, ApiError> {
    let Some(ids) = &fields.allowed_token_ids else {
        return Ok(None);
    };
    if ids.is_empty() {
        let message = "allowed_token_ids must not be empty: nothing could be generated";
        return Err(ApiError::invalid("allowed_token_ids", message));
    }
    token_ids("allowed_token_ids", ids, rules).map(|ids| Some(set(ids)))
}

fn logit_bias(fields: &ParameterFields, rules: &Rules<'_>) -> Result<Arc<[(u32, f32)]>, ApiError> {
    let Some(bias) = &fields.logit_bias else {
        return Ok(Arc::default());
    };
    let entry = |(key, value): (&String, &Number)| {
        let id = key.parse::<i64>().map_err(|_| {
            ApiError::invalid("logit_bias", format!("logit_bias has the key {key:?}; keys must be token ids"))
        })?;
        let ids = token_ids("logit_bias", &[Integer(id)], rules)?;
        Ok((ids[0], value.0.clamp(-LARGEST_BIAS, LARGEST_BIAS) as f32))
    };
    // Two keys may spell the same id.
    bias.iter().map(entry).collect::<Result<BTreeMap<_, _>, _>>().map(|bias| bias.into_iter().collect())
}

fn token_ids(field: &'static str, ids: &[Integer], rules: &Rules<'_>) -> Result<Vec<u32>, ApiError> {
    let check = |id: &Integer| {
        u32::try_from(id.0).ok().filter(|id| (*id as usize) < rules.vocabulary_size).ok_or_else(|| {
            let largest = rules.vocabulary_size.saturating_sub(1);
            let message =
                format!("{field} has the token id {}; ids of this model go from 0 to {largest}", id.0);
            ApiError::invalid(field, message)
        })
    };
    ids.iter().map(check).collect()
}

fn truncation(fields: &ParameterFields) -> Result<Option<Truncation>, ApiError> {
    let side = fields.truncation_side.unwrap_or_default();
    let keep = match fields.truncate_prompt_tokens {
        None => return Ok(None),
        Some(Integer(-1)) => None,
        Some(Integer(value)) => {
            Some(usize::try_from(value).ok().filter(|keep| *keep > 0).ok_or_else(|| {
                out_of_range("truncate_prompt_tokens", "-1 (as many as fit) or at least 1", value)
            })?)
        }
    };
    Ok(Some(Truncation { keep, side }))
}

fn stream(fields: &ParameterFields, rules: &Rules<'_>) -> Result<Option<StreamUsage>, ApiError> {
    let streams = on(fields.stream);
    if !streams && fields.stream_options.is_some() {
        let message = "stream_options can only be given when stream is true";
        return Err(ApiError::invalid("stream_options", message));
    }
    let wants_prompt_logprobs = fields.prompt_logprobs.is_some_and(|count| count.0 != 0);
    if streams && wants_prompt_logprobs {
        return Err(ApiError::invalid(
            "prompt_logprobs",
            "prompt_logprobs are not available when stream is true",
        ));
    }
    let StreamFields { include_usage, continuous_usage_stats } = fields.stream_options.unwrap_or_default();
    let at_end = on(include_usage) || rules.force_include_usage;
    let continuous = at_end && on(continuous_usage_stats);
    Ok(streams.then_some(StreamUsage { at_end, continuous }))
}

/// The request's own interval wins over the server's. What is not streamed comes in one piece anyway.
fn stream_interval(fields: &ParameterFields, rules: &Rules<'_>) -> Result<usize, ApiError> {
    let Some(Integer(value)) = fields.stream_interval else {
        return Ok(rules.stream_interval);
    };
    if !on(fields.stream) {
        let message = "stream_interval can only be given when stream is true";
        return Err(ApiError::invalid("stream_interval", message));
    }
    let interval = usize::try_from(value).ok().filter(|interval| *interval > 0);
    interval.ok_or_else(|| out_of_range("stream_interval", "at least 1", value))
}

fn min_tokens(fields: &ParameterFields) -> Result<u32, ApiError> {
    let value = fields.min_tokens.map_or(0, |value| value.0);
    u32::try_from(value).map_err(|_| out_of_range("min_tokens", "0 or a positive 32-bit integer", value))
}

fn prompt_logprobs(fields: &ParameterFields, rules: &Rules<'_>) -> Result<Option<LogprobCount>, ApiError> {
    match fields.prompt_logprobs {
        // A stream has no place for them.
        Some(_) if on(fields.stream) => Ok(None),
        Some(count) => check_logprob_count("prompt_logprobs", count, &rules.limits).map(Some),
        None => Ok(None),
    }
}

/// Checks a number of alternatives; -1 asks for the whole vocabulary.
pub(crate) fn check_logprob_count(
    field: &'static str,
    count: Integer,
    limits: &Limits,
) -> Result<LogprobCount, ApiError> {
    match (count.0, limits.max_logprobs) {
        (-1, None) => Ok(LogprobCount::All),
        (value, None) => u32::try_from(value)
            .map(LogprobCount::Top)
            .map_err(|_| out_of_range(field, "-1 (the whole vocabulary) or at least 0", value)),
        (value, Some(max)) => u32::try_from(value)
            .ok()
            .filter(|value| *value <= max)
            .map(LogprobCount::Top)
            .ok_or_else(|| out_of_range(field, &format!("between 0 and {max} (--max-logprobs)"), value)),
    }
}

fn penalty(field: &'static str, value: Option<Number>, default: Option<f32>) -> Result<f32, ApiError> {
    value.map_or(Ok(default.unwrap_or(0.0)), |value| {
        number(field, value, "between -2 and 2", |value| (-2.0..=2.0).contains(&value))
    })
}

fn number(
    field: &'static str,
    value: Number,
    range: &str,
    holds: impl Fn(f64) -> bool,
) -> Result<f32, ApiError> {
    if holds(value.0) { Ok(value.0 as f32) } else { Err(out_of_range(field, range, value.0)) }
}

fn integer(field: &'static str, value: i64) -> Result<i32, ApiError> {
    i32::try_from(value).map_err(|_| out_of_range(field, "a 32-bit integer", value))
}

fn out_of_range(field: &'static str, range: &str, value: impl Display) -> ApiError {
    ApiError::OutOfRange { field, range: range.to_owned(), value: value.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::decode;

    fn rules() -> Rules<'static> {
        Rules {
            limits: Limits::default(),
            defaults: GenerationDefaults::default(),
            priority_scheduling: false,
            tokens_as_token_ids: false,
            force_include_usage: false,
            stream_interval: 1,
            logprobs_mode: LogprobsMode::RawLogprobs,
            vocabulary_size: 100,
            max_model_len: 512,
            eos_token_id: Some(2),
            stop_token_ids: &[9, 4],
        }
    }

    fn check(body: &str, rules: &Rules<'_>) -> Result<Parameters, ApiError> {
        validate(&decode(body).unwrap(), rules)
    }

    #[test]
    fn an_empty_request_is_neutral() {
        let parameters = check("{}", &rules()).unwrap();
        let expected = SamplingParams {
            eos_token_id: Some(2),
            stop_token_ids: [4, 9].into(),
            ..SamplingParams::default()
        };
        assert_eq!(parameters.sampling, expected);
        assert_eq!((parameters.n, parameters.seed, parameters.stream), (1, None, None));
        assert!(parameters.skip_special_tokens);
    }

    #[test]
    fn greedy_needs_no_truncation_and_small_temperatures_are_raised() {
        let body = r#"{"temperature": 0, "top_k": 5, "top_p": 0.5, "min_p": 0.1}"#;
        let sampling = check(body, &rules()).unwrap().sampling;
        assert_eq!((sampling.top_k, sampling.top_p, sampling.min_p), (0, 1.0, 0.0));
        let temperature = |body: &str| check(body, &rules()).unwrap().sampling.temperature;
        assert_eq!(temperature(r#"{"temperature": 0.001}"#), 0.01);
        assert_eq!(temperature(r#"{"temperature": 2}"#), 2.0);
    }

    #[test]
    fn the_ends_of_a_sequence() {
        let body = r#"{"stop_token_ids": [7, 4]}"#;
        assert_eq!(check(body, &rules()).unwrap().sampling.stop_token_ids[..], [4, 7, 9]);
        let body = r#"{"stop_token_ids": [7], "ignore_eos": true}"#;
        let sampling = check(body, &rules()).unwrap().sampling;
        assert_eq!((sampling.eos_token_id, &sampling.stop_token_ids[..]), (None, &[7][..]));
    }

    #[test]
    fn seeds_of_any_sign_and_minus_one_for_none() {
        assert_eq!(check(r#"{"seed": -1}"#, &rules()).unwrap().seed, None);
        assert_eq!(check(r#"{"seed": -7}"#, &rules()).unwrap().seed, Some(-7));
        assert_eq!(check(r#"{"seed": 9223372036854775807}"#, &rules()).unwrap().seed, Some(i64::MAX));
    }

    #[test]
    fn logprob_counts_follow_the_servers_bound() {
        let unbounded = Limits { max_logprobs: None, ..Limits::default() };
        let count = |value, limits: &Limits| check_logprob_count("logprobs", Integer(value), limits).ok();
        assert_eq!(count(20, &Limits::default()), Some(LogprobCount::Top(20)));
        assert_eq!(count(21, &Limits::default()), None);
        assert_eq!(count(-1, &Limits::default()), None);
        assert_eq!(count(-1, &unbounded), Some(LogprobCount::All));
        assert_eq!(count(5000, &unbounded), Some(LogprobCount::Top(5000)));
        assert_eq!(count(-2, &unbounded), None);
    }

    #[test]
    fn usage_in_streams() {
        let stream = |body: &str, rules: &Rules<'_>| check(body, rules).unwrap().stream;
        let plain = StreamUsage { at_end: false, continuous: false };
        assert_eq!(stream(r#"{"stream": true}"#, &rules()), Some(plain));
        let forced = Rules { force_include_usage: true, ..rules() };
        let at_end = StreamUsage { at_end: true, continuous: false };
        assert_eq!(stream(r#"{"stream": true}"#, &forced), Some(at_end));
        let body = r#"{"stream": true, "stream_options": {"continuous_usage_stats": true}}"#;
        assert_eq!(stream(body, &rules()), Some(plain), "continuous usage is a kind of usage");
        let both = StreamUsage { at_end: true, continuous: true };
        assert_eq!(stream(body, &forced), Some(both));
    }

    #[test]
    fn intervals_of_streams() {
        let interval = |body: &str, rules: &Rules<'_>| check(body, rules).map(|it| it.stream_interval).ok();
        let slower = Rules { stream_interval: 5, ..rules() };
        assert_eq!(interval(r#"{"stream": true}"#, &slower), Some(5));
        assert_eq!(interval(r#"{"stream": true, "stream_interval": 3}"#, &slower), Some(3));
        assert_eq!(interval(r#"{"stream": true, "stream_interval": 0}"#, &slower), None);
        assert_eq!(interval(r#"{"stream_interval": 3}"#, &slower), None);
    }

    #[test]
    fn priorities_where_the_engine_has_them() {
        let by_priority = Rules { priority_scheduling: true, ..rules() };
        assert_eq!(check(r#"{"priority": -3}"#, &by_priority).unwrap().priority, -3);
        assert!(check(r#"{"priority": 3000000000}"#, &by_priority).is_err());
        assert!(check(r#"{"priority": 0}"#, &rules()).is_ok());
    }
}
