//! Text to token ids and back: tokenizer, incremental detokeniser, stop strings, chat templates.
//!
//! - [`Tokenizer`]: what a model's folder says about text; loaded once, shared by all requests.
//! - [`TextStream`]: one sequence's text as its tokens come. It lives as long as the sequence, holds back what is half
//!   a character or may begin a stop string, and says when a stop string is complete.
//! - [`StopMatcher`]: the search for stop strings by itself.
//! - [`ChatTemplate`]: a model's Jinja template, compiled once, rendered as `transformers` renders it.
//!
//! # The life of a chat request's text
//!
//! [`ChatTemplate::render`] turns messages into a prompt, [`Tokenizer::encode`] (without special tokens: the template has
//! written them) into ids. Each generated id goes to [`TextStream::push`], and what comes back is sent on. After the
//! last one, [`TextStream::finish`] gives up what was held back.
//!
//! # Invariants
//!
//! The deltas of a stream joined are what decoding all tokens at once gives, whatever the tokens are. The work for a
//! token does not grow with the length of the text. Where a stop string is found does not depend on how its text is cut
//! into tokens. Nothing here does I/O but [`Tokenizer::load`]. What a template may do
//! is bounded.
#![forbid(unsafe_code)]

mod chat;
mod declared_tokens;
mod detokenizer;
mod error;
mod files;
mod stop;
mod stream;
mod token_table;
mod tokenizer;

pub use chat::{ChatInput, ChatTemplate, ContentFormat};
pub use error::TextError;
pub use stop::{StopMatcher, StopStrings};
pub use stream::{StreamOptions, TextDelta, TextStream};
pub use tokenizer::{SpecialToken, Tokenizer};
