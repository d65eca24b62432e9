//! What can go wrong between text and tokens.

use std::path::PathBuf;

/// Why text could not be turned into tokens or back.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// The folder has no `tokenizer.json`.
    #[error("no tokenizer.json in {}: {remedy}", folder.display())]
    TokenizerMissing {
        /// The model's folder.
        folder: PathBuf,
        /// What to do about it.
        remedy: &'static str,
    },

    /// A file is there and cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },

    /// A file is not what its name says.
    #[error("{} is damaged or of an unknown form: {message}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What was found.
        message: String,
    },

    /// A decoder that cannot be run token by token.
    #[error(
        "the tokenizer decodes with {found}, which is not supported; supported are ByteLevel, Metaspace, WordPiece and \
         sequences of Replace, Strip, ByteFallback and Fuse"
    )]
    UnsupportedDecoder {
        /// The offending part of the decoder.
        found: String,
    },

    /// A token id that no model has.
    #[error("tokenizer.json has the token id {id}; ids from {limit} on are not supported")]
    TokenIdTooLarge {
        /// The highest id.
        id: u32,
        /// The lowest one that is refused.
        limit: u32,
    },

    /// The tokenizer refused a text.
    #[error("the text cannot be tokenized: {message}")]
    Encode {
        /// The tokenizer's words.
        message: String,
    },

    /// The tokenizer refused tokens.
    #[error("the tokens cannot be decoded: {message}")]
    Decode {
        /// The tokenizer's words.
        message: String,
    },

    /// The chat template is not valid Jinja.
    #[error("the chat template has an error in line {line}: {message}")]
    TemplateSyntax {
        /// Line in the template, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },

    /// The chat template refused the messages by `raise_exception`.
    #[error("{message}")]
    TemplateRaised {
        /// The template's words.
        message: String,
    },

    /// The chat template failed on these messages.
    #[error("the chat template cannot render these messages: {message}")]
    TemplateFailed {
        /// Where and why.
        message: String,
    },

    /// The chat template did more work than a chat can need.
    #[error(
        "the chat template does not come to an end on these messages: it loops, or makes more text than any prompt has"
    )]
    TemplateExhausted,

    /// The chat template's source is longer than any template.
    #[error("the chat template has {bytes} bytes; at most {limit} are taken")]
    TemplateTooLong {
        /// Its length.
        bytes: usize,
        /// The longest that is compiled.
        limit: usize,
    },

    /// A message has content that this template cannot take.
    #[error("content of type {kind:?} is not supported by this model's chat template; only text is")]
    UnsupportedPart {
        /// The part's type.
        kind: String,
    },

    /// `continue_final_message` cannot be fulfilled.
    #[error("continue_final_message cannot be done: {reason}")]
    CannotContinue {
        /// Why not.
        reason: &'static str,
    },
}

impl TextError {
    /// Whether the fault lies with one request (HTTP 400) and not with the model's files (500).
    #[must_use]
    pub fn is_request_error(&self) -> bool {
        match self {
            Self::Encode { .. }
            | Self::Decode { .. }
            | Self::TemplateRaised { .. }
            | Self::TemplateFailed { .. }
            | Self::TemplateExhausted
            | Self::UnsupportedPart { .. }
            | Self::CannotContinue { .. } => true,
            Self::TokenizerMissing { .. }
            | Self::Read { .. }
            | Self::Invalid { .. }
            | Self::UnsupportedDecoder { .. }
            | Self::TokenIdTooLarge { .. }
            | Self::TemplateSyntax { .. }
            | Self::TemplateTooLong { .. } => false,
        }
    }
}
