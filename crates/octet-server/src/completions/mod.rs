//! `POST /v1/completions`: as it travels (`types`), checked (`validate`), planned (`convert`), answered (`response`).

mod convert;
mod logprobs;
mod response;
mod types;
mod validate;

pub(crate) use convert::CompletionShape;
