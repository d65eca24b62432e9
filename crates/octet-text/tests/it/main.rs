//! Tokenizer folders as models ship them, text streams against full decodes, chat templates against `transformers`.
#![expect(clippy::unwrap_used, reason = "a test panics when its own set-up fails")]

mod chat;
mod chat_goldens;
mod loading;
mod streams;
mod support;
mod template_limits;
mod tokenizer_goldens;
