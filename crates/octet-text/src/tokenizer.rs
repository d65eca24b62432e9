//! A model's tokenizer.

use std::panic;
use std::path::Path;

use serde::de::IgnoredAny;

use crate::TextError;
use crate::files::{self, DEFAULT_TEMPLATE, NamedTemplate, TokenizerConfig};
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
    framing: Framing,
    templates: Vec<NamedTemplate>,
}

/// Who adds the special tokens around a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// The post-processor of `tokenizer.json`.
    PostProcessor,
    /// The flags of `tokenizer_config.json`: for the classes of Llama, `transformers` replaces the post-processor.
    Flags { bos: bool, eos: bool },
}

impl Framing {
    fn of(config: &TokenizerConfig) -> Self {
        let class = config.tokenizer_class.as_deref().unwrap_or_default();
        match class.strip_suffix("Fast").unwrap_or(class) {
            "LlamaTokenizer" | "CodeLlamaTokenizer" | "GemmaTokenizer" => Self::Flags {
                bos: config.add_bos_token.unwrap_or(true),
                eos: config.add_eos_token.unwrap_or(false),
            },
            _ => Self::PostProcessor,
        }
    }
}

/// Parses `tokenizer.json`. The library panics where the text is no JSON, and at some values of its own types.
fn parse(bytes: Vec<u8>) -> Result<tokenizers::Tokenizer, String> {
    serde_json::from_slice::<IgnoredAny>(&bytes).map_err(|error| error.to_string())?;
    let parsed = panic::catch_unwind(|| tokenizers::Tokenizer::from_bytes(bytes));
    let parsed = parsed.map_err(|_| "the tokenizers library fails on its content".to_owned())?;
    parsed.map_err(|error| error.to_string())
}

impl Tokenizer {
    /// Reads `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json` and the chat templates of a folder.
    /// All but the first may be missing.
    ///
    /// # Errors
    /// [`TextError`] that names the file which is missing, unreadable, damaged or at odds with another.
    pub fn load(folder: &Path) -> Result<Self, TextError> {
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
        let (config, templates) = files::read(folder)?;
        Self::new(inner, config, templates)
    }

    fn new(
        mut inner: tokenizers::Tokenizer,
        config: TokenizerConfig,
        templates: Vec<NamedTemplate>,
    ) -> Result<Self, TextError> {
        // A server decides itself what is too long, and pads nothing.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| TextError::Encode { message: error.to_string() })?;
        let table = TokenTable::new(&inner)?;
        let framing = Framing::of(&config);
        let special = |role, entry: Option<files::TokenEntry>| -> Result<Option<SpecialToken>, TextError> {
            let Some(text) = entry.map(files::TokenEntry::into_text) else { return Ok(None) };
            match inner.token_to_id(&text) {
                Some(id) => Ok(Some(SpecialToken { id, text })),
                None => Err(TextError::UnknownSpecialToken { role, text }),
            }
        };
        let bos = special("bos_token", config.bos_token)?;
        let eos = special("eos_token", config.eos_token)?;
        Ok(Self { inner, table, bos, eos, framing, templates })
    }

    /// Token ids of a text. Special tokens that are written out in the text are recognised in any case;
    /// `add_special_tokens` says whether those that frame a text (beginning of sequence) are added.
    ///
    /// # Errors
    /// [`TextError::Encode`] when the tokenizer has no token for a part of the text.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TextError> {
        let by_flags = add_special_tokens && self.framing != Framing::PostProcessor;
        let encoding = self
            .inner
            .encode_fast(text, add_special_tokens && !by_flags)
            .map_err(|error| TextError::Encode { message: error.to_string() })?;
        let mut ids = encoding.get_ids().to_vec();
        if let (true, Framing::Flags { bos, eos }) = (by_flags, self.framing) {
            if let (true, Some(token)) = (bos, &self.bos) {
                ids.insert(0, token.id);
            }
            if let (true, Some(token)) = (eos, &self.eos) {
                ids.push(token.id);
            }
        }
        Ok(ids)
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

    /// Fails unless the model has an embedding for every token. It may have more: rows are padded.
    ///
    /// # Errors
    /// [`TextError::VocabularyTooLarge`].
    pub fn check_vocabulary(&self, embedding_rows: usize) -> Result<(), TextError> {
        let vocabulary_size = self.vocabulary_size();
        if vocabulary_size <= embedding_rows {
            Ok(())
        } else {
            Err(TextError::VocabularyTooLarge { vocabulary_size, embedding_rows })
        }
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

    /// Source of the chat template for plain chats.
    #[must_use]
    pub fn chat_template(&self) -> Option<&str> {
        self.named_chat_template(DEFAULT_TEMPLATE)
    }

    /// Source of the chat template of a name; `tool_use` is for requests with tools, where the model has one.
    #[must_use]
    pub fn named_chat_template(&self, name: &str) -> Option<&str> {
        self.templates.iter().find(|known| known.name == name).map(|known| known.template.as_str())
    }

    pub(crate) fn table(&self) -> &TokenTable {
        &self.table
    }
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
