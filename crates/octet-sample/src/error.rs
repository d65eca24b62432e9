//! Why a row cannot be sampled.

/// A fault of one row of logits, and so of one request.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SampleError {
    /// The model computed NaN.
    #[error(
        "the model computed NaN as the logit of token {token}: its weights or its number format do not suit this prompt"
    )]
    NotANumber {
        /// The first such token.
        token: u32,
    },

    /// The model computed positive infinity.
    #[error(
        "the model computed infinity as the logit of token {token}: a value overflowed its number format"
    )]
    Infinite {
        /// The first such token.
        token: u32,
    },

    /// Allowed ids, bad words and minimum length exclude each other.
    #[error(
        "no token is left to choose from: allowed_token_ids, bad_words and min_tokens exclude all {vocabulary_size} together"
    )]
    NothingLeft {
        /// Length of the row.
        vocabulary_size: usize,
    },

    /// A logprob was asked for a token that the row does not have.
    #[error("token {token} is outside of the model's vocabulary of {vocabulary_size}")]
    OutsideVocabulary {
        /// The token.
        token: u32,
        /// Length of the row.
        vocabulary_size: usize,
    },
}
