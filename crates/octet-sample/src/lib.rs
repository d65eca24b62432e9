//! Logits to tokens: masks, penalties, temperature, truncation, the draw, and logprobs.

mod params;

pub use params::{LogprobCount, LogprobsMode, PositionLogprobs, SampledToken, SamplingParams, TokenLogprob};
