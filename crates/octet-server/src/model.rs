//! What is served: the model as the server sees it.

use std::sync::Arc;

use octet_engine::Pooling;
use octet_text::{ChatTemplate, Tokenizer};

/// The served model: its text side, its limits and its names. Built by the program before [`crate::serve`].
pub struct Model {
    /// Text to tokens and back.
    pub tokenizer: Arc<Tokenizer>,
    /// How messages become a prompt; without it chat requests are refused.
    pub template: Option<Arc<ChatTemplate>>,
    /// The one for requests with tools, where the model has one of its own.
    pub tool_template: Option<Arc<ChatTemplate>>,
    /// Names that requests may use, at least one. Responses carry the first.
    pub names: Vec<String>,
    /// Where the model came from: a path or a repository's name.
    pub root: String,
    /// The longest sequence, prompt and output together, in tokens.
    pub max_model_len: usize,
    /// Rows of the output head: token ids are below it.
    pub vocabulary_size: usize,
    /// The tokenizer's end of sequence.
    pub eos_token_id: Option<u32>,
    /// Further ids that end a sequence, from generation_config.json.
    pub stop_token_ids: Vec<u32>,
    /// How prompts become vectors.
    pub embedding: EmbeddingModel,
}

/// How the model's hidden states become the vector of a text.
#[derive(Clone, Debug)]
pub struct EmbeddingModel {
    /// Elements of a vector.
    pub size: usize,
    /// Which hidden states count.
    pub pooling: Pooling,
    /// Vectors have length 1, unless a request asks otherwise.
    pub normalize: bool,
    /// Whether the beginning of a vector is one too (Matryoshka), and which lengths are allowed: none named, all.
    pub matryoshka: Option<Vec<usize>>,
}

impl Model {
    /// The name that responses carry.
    pub(crate) fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }

    /// Whether a request may name the model so.
    pub(crate) fn answers_to(&self, name: &str) -> bool {
        self.names.iter().any(|served| served == name)
    }
}
