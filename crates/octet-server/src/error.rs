//! Errors: of requests, with the one place that maps them to HTTP, and of the server as a whole.

use std::path::PathBuf;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use octet_engine::{RequestFault, SubmitError};
use octet_text::TextError;
use serde::Serialize;

/// Seconds after which a client may try again when the queue was full. Short: a queue of short answers drains in
/// about this time, and clients back off on their own.
const RETRY_AFTER_SECONDS: &str = "1";

/// Why a request was not served. `Display` is the message that the client reads.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// No such path.
    #[error("no such path: {path}; see GET / for what is here")]
    NoRoute { path: String },
    /// The path exists, with another method.
    #[error("{method} is not allowed on {path}")]
    WrongMethod { method: String, path: String },
    /// No key, or a wrong one. The body is a plain string, as vLLM's.
    #[error("Unauthorized")]
    Unauthorized,
    /// Neither `application/json` nor a relative of it.
    #[error("unsupported media type {found}; send the header Content-Type: application/json")]
    ContentType { found: String },
    /// Longer than allowed.
    #[error("the request body is larger than the limit of {limit} bytes")]
    BodyTooLarge { limit: usize },
    /// More memory than one request may ever take.
    #[error(
        "the request would take up to {bytes} bytes of memory, and one request may take {limit} (--request-memory-bytes); \
         send less text, fewer messages, parts or token ids, or ask for fewer prompt_logprobs"
    )]
    TooCostly { bytes: usize, limit: usize },
    /// The memory of requests is in use.
    #[error("the server has as many requests in memory as it may (--request-memory-bytes); try again")]
    Busy,
    /// Nobody waits for the answer any more.
    #[error("the client went away")]
    Abandoned,
    /// The body broke off.
    #[error("the request body could not be read: {message}")]
    BodyUnreadable { message: String },
    /// The body did not come in time.
    #[error("the request body came too slowly; send it in one piece, or faster")]
    BodyTooSlow,
    /// Nobody reads the stream.
    #[error("the stream was not read: {bytes} bytes waited for the client, and generation was ended")]
    NotRead { bytes: usize },
    /// Not text.
    #[error("the request body is not valid UTF-8: byte {valid_up_to} does not continue a character")]
    BodyNotUtf8 { valid_up_to: usize },
    /// Not JSON.
    #[error("the request body is not valid JSON: {message}")]
    BodyNotJson { message: String },
    /// JSON of another shape. `location` is a path such as `body.messages[0].role`.
    #[error("{location}: {message}")]
    BodyShape { location: String, message: String },
    /// A value that makes no sense, or none together with others.
    #[error("{message}")]
    Invalid { field: &'static str, message: String },
    /// A number outside its range.
    #[error("{field} must be {range}, got {value}")]
    OutOfRange { field: &'static str, range: String, value: String },
    /// A field that would change the result and that this server does not obey.
    #[error("{field} is not supported: {remedy}")]
    Unsupported { field: &'static str, remedy: &'static str },
    /// No room for the prompt and a token more. Clients match on the first sentence.
    #[error(
        "This model's maximum context length is {max_model_len} tokens. However, your prompt has {prompt_tokens} \
         tokens, and the answer needs at least one more. Please shorten the prompt."
    )]
    PromptTooLong { max_model_len: usize, prompt_tokens: usize },
    /// So many characters that no tokenisation could fit.
    #[error(
        "This model's maximum context length is {max_model_len} tokens. However, your prompt has {bytes} bytes, \
         which is more than so many tokens can hold. Please shorten the prompt."
    )]
    PromptTextTooLong { max_model_len: usize, bytes: usize },
    /// No room for a prompt that is not to be continued.
    #[error(
        "This model's maximum context length is {max_model_len} tokens. However, your input has {prompt_tokens} \
         tokens. Please shorten it, or let truncate_prompt_tokens cut it (-1: to what fits)."
    )]
    InputTooLong { max_model_len: usize, prompt_tokens: usize },
    /// Prompt and requested output together do not fit.
    #[error(
        "This model's maximum context length is {max_model_len} tokens. However, you requested {requested} output \
         tokens and your prompt has {prompt_tokens} tokens, {} in total. Please shorten the prompt or lower \
         max_tokens.", requested + prompt_tokens
    )]
    OutputTooLong { max_model_len: usize, prompt_tokens: usize, requested: usize },
    /// Another model is served.
    #[error("The model `{requested}` does not exist; this server has: {served}")]
    UnknownModel { requested: String, served: String },
    /// Tokenizer or template.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The engine did not take it.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// The engine took it and gave it up.
    #[error(transparent)]
    Fault(#[from] RequestFault),
    /// The server is stopping and its time for requests in flight is over.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// A failure of ours.
    #[error("{message}")]
    Internal { message: String },
}

/// How an error shows: status, type and parameter.
struct ErrorResponse {
    status: StatusCode,
    kind: &'static str,
    param: Option<String>,
}

impl ErrorResponse {
    fn new(status: StatusCode, kind: &'static str) -> Self {
        Self { status, kind, param: None }
    }

    fn bad_request() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequestError")
    }

    fn validation(param: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "Bad Request").about(param)
    }

    fn unavailable() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailableError")
    }

    fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError")
    }

    fn about(mut self, param: &str) -> Self {
        self.param = Some(param.to_owned());
        self
    }
}

impl ApiError {
    /// A value that makes no sense.
    pub(crate) fn invalid(field: &'static str, message: impl Into<String>) -> Self {
        Self::Invalid { field, message: message.into() }
    }

    /// A failure of ours.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::Internal { message: message.into() }
    }

    /// The single map from errors to HTTP.
    fn response(&self) -> ErrorResponse {
        match self {
            Self::NoRoute { .. } => ErrorResponse::new(StatusCode::NOT_FOUND, "Not Found"),
            Self::WrongMethod { .. } => {
                ErrorResponse::new(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
            }
            Self::Unauthorized => ErrorResponse::new(StatusCode::UNAUTHORIZED, "Unauthorized"),
            Self::BodyTooSlow | Self::NotRead { .. } => {
                ErrorResponse::new(StatusCode::REQUEST_TIMEOUT, "Request Timeout")
            }
            Self::BodyTooLarge { .. } | Self::TooCostly { .. } => {
                ErrorResponse::new(StatusCode::PAYLOAD_TOO_LARGE, "Payload Too Large")
            }
            Self::ContentType { .. }
            | Self::BodyUnreadable { .. }
            | Self::BodyNotUtf8 { .. }
            | Self::BodyNotJson { .. } => ErrorResponse::validation("body"),
            Self::BodyShape { location, .. } => ErrorResponse::validation(location),
            Self::Invalid { field, .. }
            | Self::OutOfRange { field, .. }
            | Self::Unsupported { field, .. } => ErrorResponse::bad_request().about(field),
            Self::PromptTextTooLong { .. } => ErrorResponse::bad_request().about("input_text"),
            Self::PromptTooLong { .. }
            | Self::InputTooLong { .. }
            | Self::Submit(SubmitError::DoesNotFit { .. }) => {
                ErrorResponse::bad_request().about("input_tokens")
            }
            Self::OutputTooLong { .. } => ErrorResponse::bad_request().about("max_tokens"),
            Self::UnknownModel { .. } => {
                ErrorResponse::new(StatusCode::NOT_FOUND, "NotFoundError").about("model")
            }
            Self::Text(error) if error.is_request_error() => ErrorResponse::bad_request(),
            Self::Submit(SubmitError::EmptyPrompt) => ErrorResponse::bad_request().about("prompt"),
            Self::Submit(SubmitError::AsksForNothing) => ErrorResponse::bad_request().about("max_tokens"),
            Self::Fault(RequestFault::DoesNotFit { .. }) => {
                ErrorResponse::bad_request().about("input_tokens")
            }
            Self::Fault(RequestFault::NothingLeft(_)) => {
                ErrorResponse::bad_request().about("allowed_token_ids")
            }
            Self::Submit(
                SubmitError::QueueFull { .. } | SubmitError::ShareTaken { .. } | SubmitError::Stalled,
            )
            | Self::Fault(RequestFault::DeviceStalled)
            | Self::Busy
            | Self::Abandoned
            | Self::ShuttingDown => ErrorResponse::unavailable(),
            Self::Text(_)
            | Self::Submit(SubmitError::Stopped | SubmitError::DuplicateId { .. })
            | Self::Fault(RequestFault::Output(_) | RequestFault::EngineStopped)
            | Self::Internal { .. } => ErrorResponse::internal(),
        }
    }

    /// Whether the fault is ours rather than the client's: such errors are logged.
    pub(crate) fn is_internal(&self) -> bool {
        self.response().status == StatusCode::INTERNAL_SERVER_ERROR
    }

    /// The body that a client reads, also inside a stream.
    pub(crate) fn body(&self) -> ErrorBody {
        let ErrorResponse { status, kind, param } = self.response();
        ErrorBody { error: ErrorInfo { message: self.to_string(), kind, param, code: status.as_u16() } }
    }
}

/// OpenAI's error object.
#[derive(Debug, Serialize)]
pub(crate) struct ErrorBody {
    error: ErrorInfo,
}

#[derive(Debug, Serialize)]
struct ErrorInfo {
    message: String,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<String>,
    code: u16,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if self.is_internal() {
            tracing::error!(error = %self, "request failed");
        }
        let status = self.response().status;
        if matches!(self, Self::Unauthorized) {
            let body = Json(serde_json::json!({ "error": "Unauthorized" }));
            return (status, [(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))], body)
                .into_response();
        }
        let mut response = (status, Json(self.body())).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
        }
        response
    }
}

/// Why the server did not start, or why it ended.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The host is no address and no known name.
    #[error(
        "cannot listen on {host}: {source}; --host takes an address of this machine, or a name that has one"
    )]
    Host {
        /// As it was given.
        host: String,
        /// Why.
        source: std::io::Error,
    },
    /// Another program listens there.
    #[error(
        "port {port} on {host} is already in use; stop the program that listens there, or choose another with --port"
    )]
    PortInUse {
        /// As it was given.
        host: String,
        /// The port.
        port: u16,
    },
    /// Ports below 1024 and the like.
    #[error("no permission to listen on port {port} of {host}; choose a port above 1023 with --port")]
    PortForbidden {
        /// As it was given.
        host: String,
        /// The port.
        port: u16,
    },
    /// Anything else about listening.
    #[error("cannot listen on {host}, port {port}: {source}")]
    Listen {
        /// As it was given.
        host: String,
        /// The port.
        port: u16,
        /// Why.
        source: std::io::Error,
    },
    /// A CORS value that HTTP cannot carry.
    #[error("{flag} has {value:?}: {problem}")]
    Cors {
        /// The flag.
        flag: &'static str,
        /// The value.
        value: String,
        /// What is wrong and what would be right.
        problem: &'static str,
    },
    /// The operating system gave no thread, timer or signal handler.
    #[error("the server could not be set up: {0}")]
    Setup(#[source] std::io::Error),
    /// Listening at a path failed.
    #[error("cannot listen at the Unix socket {}: {source}", path.display())]
    UnixSocket {
        /// As it was given.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another program listens at the path.
    #[error(
        "the Unix socket {} is in use; stop the program that listens there, or choose another path with --uds",
        path.display()
    )]
    UnixSocketInUse {
        /// As it was given.
        path: PathBuf,
    },
    /// The path is taken by something else.
    #[error("{} exists and is no socket; it stays as it is: choose another path with --uds", path.display())]
    NoUnixSocket {
        /// As it was given.
        path: PathBuf,
    },
    /// The engine ended although nobody asked it to.
    #[error("the engine failed: {message}")]
    EngineFault {
        /// What it said.
        message: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(error: &ApiError) -> (u16, String, Option<String>) {
        let response = error.response();
        (response.status.as_u16(), response.kind.to_owned(), response.param)
    }

    fn row(status: u16, kind: &str, param: Option<&str>) -> (u16, String, Option<String>) {
        (status, kind.to_owned(), param.map(str::to_owned))
    }

    #[test]
    fn every_error_has_its_face() {
        let text = || "x".to_owned();
        let table = [
            (ApiError::NoRoute { path: text() }, row(404, "Not Found", None)),
            (ApiError::WrongMethod { method: text(), path: text() }, row(405, "Method Not Allowed", None)),
            (ApiError::Unauthorized, row(401, "Unauthorized", None)),
            (ApiError::ContentType { found: text() }, row(400, "Bad Request", Some("body"))),
            (ApiError::BodyTooLarge { limit: 3 }, row(413, "Payload Too Large", None)),
            (ApiError::BodyTooSlow, row(408, "Request Timeout", None)),
            (ApiError::NotRead { bytes: 3 }, row(408, "Request Timeout", None)),
            (ApiError::BodyUnreadable { message: text() }, row(400, "Bad Request", Some("body"))),
            (ApiError::BodyNotUtf8 { valid_up_to: 3 }, row(400, "Bad Request", Some("body"))),
            (ApiError::BodyNotJson { message: text() }, row(400, "Bad Request", Some("body"))),
            (
                ApiError::BodyShape { location: "body.n".to_owned(), message: text() },
                row(400, "Bad Request", Some("body.n")),
            ),
            (ApiError::invalid("stop", "x"), row(400, "BadRequestError", Some("stop"))),
            (
                ApiError::OutOfRange { field: "top_p", range: text(), value: text() },
                row(400, "BadRequestError", Some("top_p")),
            ),
            (
                ApiError::Unsupported { field: "suffix", remedy: "x" },
                row(400, "BadRequestError", Some("suffix")),
            ),
            (
                ApiError::PromptTooLong { max_model_len: 8, prompt_tokens: 9 },
                row(400, "BadRequestError", Some("input_tokens")),
            ),
            (
                ApiError::PromptTextTooLong { max_model_len: 8, bytes: 9 },
                row(400, "BadRequestError", Some("input_text")),
            ),
            (
                ApiError::OutputTooLong { max_model_len: 8, prompt_tokens: 5, requested: 6 },
                row(400, "BadRequestError", Some("max_tokens")),
            ),
            (
                ApiError::UnknownModel { requested: text(), served: text() },
                row(404, "NotFoundError", Some("model")),
            ),
        ];
        for (error, expected) in table {
            assert_eq!(shown(&error), expected, "{error:?}");
        }
    }

    #[test]
    fn errors_of_the_engine_and_of_what_is_left_of_the_server_have_theirs() {
        let text = || "x".to_owned();
        let table = [
            (
                ApiError::Submit(SubmitError::QueueFull { limit: 1 }),
                row(503, "ServiceUnavailableError", None),
            ),
            (
                ApiError::Submit(SubmitError::ShareTaken { held: 1, limit: 2 }),
                row(503, "ServiceUnavailableError", None),
            ),
            (ApiError::Submit(SubmitError::Stopped), row(500, "InternalServerError", None)),
            (ApiError::Submit(SubmitError::Stalled), row(503, "ServiceUnavailableError", None)),
            (
                ApiError::Submit(SubmitError::DoesNotFit { prompt_tokens: 9, capacity_tokens: 8 }),
                row(400, "BadRequestError", Some("input_tokens")),
            ),
            (ApiError::Submit(SubmitError::EmptyPrompt), row(400, "BadRequestError", Some("prompt"))),
            (ApiError::Submit(SubmitError::DuplicateId { id: 1 }), row(500, "InternalServerError", None)),
            (
                ApiError::Fault(RequestFault::DoesNotFit { prompt_tokens: 9, capacity_tokens: 8 }),
                row(400, "BadRequestError", Some("input_tokens")),
            ),
            (
                ApiError::Fault(RequestFault::NothingLeft(text())),
                row(400, "BadRequestError", Some("allowed_token_ids")),
            ),
            (ApiError::Fault(RequestFault::Output(text())), row(500, "InternalServerError", None)),
            (ApiError::Fault(RequestFault::EngineStopped), row(500, "InternalServerError", None)),
            (ApiError::Fault(RequestFault::DeviceStalled), row(503, "ServiceUnavailableError", None)),
            (ApiError::TooCostly { bytes: 9, limit: 8 }, row(413, "Payload Too Large", None)),
            (ApiError::Busy, row(503, "ServiceUnavailableError", None)),
            (ApiError::ShuttingDown, row(503, "ServiceUnavailableError", None)),
            (ApiError::internal("x"), row(500, "InternalServerError", None)),
        ];
        for (error, expected) in table {
            assert_eq!(shown(&error), expected, "{error:?}");
        }
    }

    #[test]
    fn clients_find_the_phrase_that_they_match_on() {
        let errors = [
            ApiError::PromptTooLong { max_model_len: 8, prompt_tokens: 9 },
            ApiError::PromptTextTooLong { max_model_len: 8, bytes: 900 },
            ApiError::OutputTooLong { max_model_len: 8, prompt_tokens: 5, requested: 6 },
        ];
        for error in errors {
            let message = error.to_string();
            assert!(message.starts_with("This model's maximum context length is 8 tokens."), "{message}");
        }
    }

    #[test]
    fn the_body_repeats_the_status_as_code() {
        let body = serde_json::to_value(ApiError::invalid("stop", "no").body()).unwrap();
        let expected = serde_json::json!({
            "error": { "message": "no", "type": "BadRequestError", "param": "stop", "code": 400 }
        });
        assert_eq!(body, expected);
    }

    #[test]
    fn a_full_queue_says_when_to_come_back() {
        let response = ApiError::Submit(SubmitError::QueueFull { limit: 4 }).into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[header::RETRY_AFTER], RETRY_AFTER_SECONDS);
    }
}
