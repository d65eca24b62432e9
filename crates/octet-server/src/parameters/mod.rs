//! The parameters that completions and chat share: as typed (`types`), as checked (`validate`), and as the engine
//! takes them (`convert`).

mod convert;
mod types;
mod validate;

pub(crate) use convert::{
    LogprobRequest, OutputRules, SeedSource, check_min_tokens, encode_bad_words, sequence_sampling, truncate,
};
pub(crate) use types::{ParameterFields, TruncationSide};
pub(crate) use validate::{Parameters, Rules, StreamUsage, Truncation, check_logprob_count, validate};
