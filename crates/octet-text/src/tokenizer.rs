//! A model's tokenizer.

use std::panic;
use std::path::Path;

use serde::de::IgnoredAny;

use crate::TextError;
use crate::declared_tokens::DeclaredTokens;
use crate::files::{self, DEFAULT_TEMPLATE, NamedTemplate, TOOL_TEMPLATE, TextFiles};
use crate::token_table::TokenTable;

/// A token with a meaning of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecialToken {
    /// Its id.
    pub id: u32,
    /// How it is written.
    pub text: String,
}

/// A model's tokenizer, loaded once and shared.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    table: TokenTable,
    bos: Option<SpecialToken>,
    eos: Option<SpecialToken>,
    /// Role and spelling of the special tokens that have one.
    named_tokens: Vec<(String, String)>,
    templates: Vec<NamedTemplate>,
    notices: Vec<String>,
}

/// Parses `tokenizer.json`. The library panics where the text is no JSON, and at some values of its own types.
fn parse(bytes: Vec<u8>) -> Result<tokenizers::Tokenizer, String> {
    let text = std::str::from_utf8(&bytes).map_err(|error| error.to_string())?;
    serde_json::from_str::<IgnoredAny>(text).map_err(|error| error.to_string())?;
    let parsed = panic::catch_unwind(|| tokenizers::Tokenizer::from_bytes(bytes));
    let parsed = parsed.map_err(|_| "the tokenizers library fails on its content".to_owned())?;
    parsed.map_err(|error| error.to_string())
}

impl Tokenizer {
    /// Reads `tokenizer.json`, the files that add tokens to it (`tokenizer_config.json`, `special_tokens_map.json`,
    /// `added_tokens.json`), and the chat templates of a folder. All but the first may be missing.
    ///
    /// # Errors
    /// [`TextError`] that names the file which is missing, unreadable or damaged.
    pub fn load(folder: &Path) -> Result<Self, TextError> {
        Self::load_for(folder, usize::MAX)
    }

    /// The same for a model that embeds `embedding_rows` tokens: a special token that only a configuration names is not given an
    /// id that the model cannot embed.
    ///
    /// # Errors
    /// As [`Tokenizer::load`].
    pub fn load_for(folder: &Path, embedding_rows: usize) -> Result<Self, TextError> {
        let path = folder.join("tokenizer.json");
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(TextError::TokenizerMissing {
                    folder: folder.to_owned(),
                    remedy: remedy(folder),
                });
            }
            Err(source) => return Err(TextError::Read { path, source }),
        };
        let inner = parse(bytes).map_err(|message| TextError::Invalid { path, message })?;
        Self::new(inner, files::read(folder)?, embedding_rows)
    }

    fn new(
        mut inner: tokenizers::Tokenizer,
        mut files: TextFiles,
        embedding_rows: usize,
    ) -> Result<Self, TextError> {
        // A server decides itself what is too long, and pads nothing.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| TextError::Encode { message: error.to_string() })?;
        let declared = DeclaredTokens::read(&mut files, &inner)?;
        declared.add_to(&mut inner, embedding_rows, &mut files.notices)?;
        if let Some(serde_json::Value::Bool(split)) = files.config.get("split_special_tokens") {
            inner.set_encode_special_tokens(*split);
        }
        let table = TokenTable::new(&inner)?;
        let named_tokens: Vec<(String, String)> =
            declared.named().map(|(role, text)| (role.to_owned(), text.to_owned())).collect();
        let special = |role: &str| {
            let (_, text) = named_tokens.iter().find(|(known, _)| known == role)?;
            inner.token_to_id(text).map(|id| SpecialToken { id, text: text.clone() })
        };
        let (bos, eos) = (special("bos_token"), special("eos_token"));
        let TextFiles { config, templates, mut notices, .. } = files;
        for (key, token, at_start) in [("add_bos_token", &bos, true), ("add_eos_token", &eos, false)] {
            let (Some(serde_json::Value::Bool(asked)), Some(token)) = (config.get(key), token) else {
                continue;
            };
            if *asked != is_framed(&inner, token.id, at_start) {
                notices.push(format!(
                    "{key} in tokenizer_config.json is {asked}, which the post-processor of tokenizer.json \
                     contradicts; the latter counts, as in transformers"
                ));
            }
        }
        if config.get("clean_up_tokenization_spaces") == Some(&serde_json::Value::Bool(true)) {
            notices.push(
                "clean_up_tokenization_spaces is true in tokenizer_config.json; texts are not changed after decoding"
                    .to_owned(),
            );
        }
        Ok(Self { inner, table, bos, eos, named_tokens, templates, notices })
    }

    /// Token ids of a text. Special tokens that are written out in the text are recognised in any case;
    /// `add_special_tokens` says whether those that frame a text (beginning of sequence) are added.
    ///
    /// # Errors
    /// [`TextError::Encode`] when the tokenizer has no token for a part of the text.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TextError> {
        let encoding = self
            .inner
            .encode_fast(text, add_special_tokens)
            .map_err(|error| TextError::Encode { message: error.to_string() })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of tokens. Ids that the tokenizer does not know are passed over; broken UTF-8 becomes U+FFFD.
    ///
    /// # Errors
    /// [`TextError::Decode`] when the tokenizer's decoder fails.
    pub fn decode(&self, tokens: &[u32], skip_special_tokens: bool) -> Result<String, TextError> {
        self.inner
            .decode(tokens, skip_special_tokens)
            .map_err(|error| TextError::Decode { message: error.to_string() })
    }

    /// The vocabulary's own spelling of a token, for example `Ġthe` or `<0x0A>`.
    #[must_use]
    pub fn token_text(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The id of a token in the vocabulary's own spelling.
    #[must_use]
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.inner.token_to_id(text)
    }

    /// The bytes that a token stands for inside of a text; none for an id that the tokenizer does not know.
    #[must_use]
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        self.table.bytes(id).to_vec()
    }

    /// Whether `skip_special_tokens` leaves this token out.
    #[must_use]
    pub fn is_special(&self, id: u32) -> bool {
        self.table.is_special(id)
    }

    /// The highest token id plus one.
    #[must_use]
    pub fn vocabulary_size(&self) -> usize {
        self.table.len()
    }

    /// What of the folder's files is not obeyed, a sentence each.
    #[must_use]
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// A sentence about tokens that the model cannot embed, if there are any. It may have more rows: they are padded.
    #[must_use]
    pub fn excess_over(&self, embedding_rows: usize) -> Option<String> {
        let size = self.vocabulary_size();
        let first = u32::try_from(embedding_rows).ok().filter(|_| size > embedding_rows)?;
        let text = self.token_text(first).unwrap_or_default();
        Some(format!(
            "the tokenizer has {size} tokens and the model embeds {embedding_rows}: prompts with the tokens from \
             {first} ({text:?}) on are refused, and the model never writes them"
        ))
    }

    /// Beginning of sequence, if the model has such a token.
    #[must_use]
    pub fn bos(&self) -> Option<&SpecialToken> {
        self.bos.as_ref()
    }

    /// End of sequence, if the model has such a token.
    #[must_use]
    pub fn eos(&self) -> Option<&SpecialToken> {
        self.eos.as_ref()
    }

    /// The special tokens that have a role: (`bos_token`, how it is written), and so on. Templates know them by these
    /// names.
    pub(crate) fn named_tokens(&self) -> &[(String, String)] {
        &self.named_tokens
    }

    /// Source of the chat template for plain chats. A single template is that one whatever its name.
    #[must_use]
    pub fn chat_template(&self) -> Option<&str> {
        self.named_chat_template(DEFAULT_TEMPLATE).or(match self.templates.as_slice() {
            [single] => Some(single.template.as_str()),
            _ => None,
        })
    }

    /// Source of the chat template for requests with tools, where the model has one of its own.
    #[must_use]
    pub fn tool_chat_template(&self) -> Option<&str> {
        self.named_chat_template(TOOL_TEMPLATE)
    }

    /// Source of the chat template of a name.
    #[must_use]
    pub fn named_chat_template(&self, name: &str) -> Option<&str> {
        self.templates.iter().find(|known| known.name == name).map(|known| known.template.as_str())
    }

    /// The names of the model's chat templates.
    pub fn chat_template_names(&self) -> impl Iterator<Item = &str> {
        self.templates.iter().map(|known| known.name.as_str())
    }

    pub(crate) fn table(&self) -> &TokenTable {
        &self.table
    }
}

/// Whether the post-processor puts a token at the start, or at the end, of a text.
fn is_framed(inner: &tokenizers::Tokenizer, token: u32, at_start: bool) -> bool {
    inner.encode_fast("a", true).is_ok_and(|encoding| {
        let ids = encoding.get_ids();
        let edge = if at_start { ids.first() } else { ids.last() };
        edge == Some(&token)
    })
}

/// What to do about a missing `tokenizer.json`.
fn remedy(folder: &Path) -> &'static str {
    if !folder.is_dir() {
        "there is no such folder; give the folder that also holds config.json"
    } else if folder.join("tokenizer.model").exists() || folder.join("tekken.json").exists() {
        "it has a tokenizer of another format; convert it with transformers: \
         AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
    } else {
        "copy it from where the model came from, or name another tokenizer"
    }
}
