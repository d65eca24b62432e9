//! Tokens that stand beside `tokenizer.json`: in `tokenizer_config.json`, `special_tokens_map.json` and
//! `added_tokens.json`.
//!
//! The rules are those of `transformers` 5 (`PreTrainedTokenizerBase._from_pretrained` and `TokenizersBackend.__init__`),
//! held by `tools/golden/tokenizer_files.py`. In short: a token that the vocabulary knows keeps its id and takes the flags
//! that are declared; any other gets the next free id, whatever id a file gives it. Where `added_tokens_decoder` stands in
//! the configuration, the two older files are not read.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use tokenizers::{AddedToken, Tokenizer};

use crate::TextError;
use crate::files::{Document, TextFiles};

/// The tokens with a role, in the order in which they are added.
const ROLES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// What the files declare.
#[derive(Debug, Default)]
pub(crate) struct DeclaredTokens {
    /// By the id that a file gives.
    by_id: BTreeMap<u32, AddedToken>,
    /// Tokens with a role, those of [`ROLES`] first.
    named: Vec<(String, AddedToken)>,
    /// Further special tokens.
    extra: Vec<AddedToken>,
}

impl DeclaredTokens {
    /// Reads the declarations and says in `files.notices` what is not obeyed.
    pub(crate) fn read(files: &mut TextFiles, tokenizer: &Tokenizer) -> Result<Self, TextError> {
        let mut declared = Self::default();
        let mut roles: BTreeMap<&str, AddedToken> = BTreeMap::new();
        for role in ROLES {
            if let Some(token) = role_token(&files.config, role, &mut files.notices)? {
                roles.insert(role, token);
            }
        }
        declared.read_extra(&files.config)?;
        let specific = model_specific(&files.config)?;
        if let Some(tokens) = files.config.get("added_tokens_decoder") {
            declared.by_id = tokens_by_id(&files.config, tokens)?;
        } else {
            for role in ROLES {
                if let Some(token) = role_token(&files.special_tokens_map, role, &mut files.notices)? {
                    roles.insert(role, token);
                }
            }
            declared.read_older_extra(files)?;
            declared.read_added_file(&files.added_tokens, &roles)?;
            declared.by_id.extend(tokenizer.get_added_tokens_decoder());
        }
        declared.named = ROLES
            .iter()
            .filter_map(|role| roles.remove(role).map(|token| ((*role).to_owned(), token)))
            .chain(specific)
            .collect();
        Ok(declared)
    }

    /// `extra_special_tokens` where it says something, else `additional_special_tokens`, its older name.
    fn read_extra(&mut self, config: &Document) -> Result<(), TextError> {
        let says = |value: &&Value| match value {
            Value::Array(items) => !items.is_empty(),
            Value::Object(items) => !items.is_empty(),
            _ => true,
        };
        for key in ["extra_special_tokens", "additional_special_tokens"] {
            if let Some(value) = config.get(key).filter(says) {
                // Named tokens of an object are the model's own: `model_specific` reads them.
                if !value.is_object() {
                    self.extra = token_list(config, key, value)?;
                }
                return Ok(());
            }
        }
        Ok(())
    }

    fn read_older_extra(&mut self, files: &TextFiles) -> Result<(), TextError> {
        let map = &files.special_tokens_map;
        if let Some(value @ Value::Array(_)) = map.get("extra_special_tokens") {
            for token in token_list(map, "extra_special_tokens", value)? {
                if !self.extra.iter().any(|known| known.content == token.content) {
                    self.extra.push(token);
                }
            }
        } else if let Some(value) = map.get("additional_special_tokens")
            && self.extra.is_empty()
        {
            self.extra = token_list(map, "additional_special_tokens", value)?;
        }
        Ok(())
    }

    fn read_added_file(
        &mut self,
        file: &Document,
        roles: &BTreeMap<&str, AddedToken>,
    ) -> Result<(), TextError> {
        for (text, id) in &file.fields {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
            let id = id.ok_or_else(|| file.invalid(format!("the id of {text:?} is no token id")))?;
            let is_special = roles.values().chain(&self.extra).any(|token| token.content == *text);
            self.by_id.insert(id, AddedToken::from(text.as_str(), is_special));
        }
        Ok(())
    }

    /// The tokens with a role, as they are written: what templates call by these names.
    pub(crate) fn named(&self) -> impl Iterator<Item = (&str, &str)> {
        self.named.iter().map(|(role, token)| (role.as_str(), token.content.as_str()))
    }

    /// Adds to the tokenizer what it does not know like this. A token that has a role and no id below
    /// `embedding_rows` could never be read or written by the model: it is left out, with a notice.
    pub(crate) fn add_to(
        &self,
        tokenizer: &mut Tokenizer,
        embedding_rows: usize,
        notices: &mut Vec<String>,
    ) -> Result<(), TextError> {
        let known: Vec<AddedToken> = tokenizer.get_added_tokens_decoder().into_values().collect();
        let has_role = |text: &str| self.named.iter().any(|(_, token)| token.content == text);
        let mut fresh: Vec<AddedToken> =
            self.by_id.values().filter(|token| !known.contains(token)).cloned().collect();
        for token in &mut fresh {
            token.special |= has_role(&token.content);
        }
        let mut texts: Vec<String> = known.iter().chain(&fresh).map(|token| token.content.clone()).collect();
        let mut next_id = add(tokenizer, fresh)?;
        let mut further = Vec::new();
        for (role, token) in self
            .named
            .iter()
            .map(|(role, token)| (Some(role), token))
            .chain(self.extra.iter().map(|token| (None, token)))
        {
            if texts.contains(&token.content) {
                continue;
            }
            texts.push(token.content.clone());
            let is_new = tokenizer.token_to_id(&token.content).is_none();
            if let Some(role) = role.filter(|_| is_new) {
                let text = &token.content;
                if next_id >= embedding_rows {
                    notices.push(format!(
                        "{role} is {text:?}, which is not in the vocabulary of tokenizer.json, and the model has no row \
                         for another token: it is spelled out where it occurs in a text, and ends no sequence"
                    ));
                    continue;
                }
                notices.push(format!(
                    "{role} is {text:?}, which is not in the vocabulary of tokenizer.json: it gets the id {next_id}"
                ));
            }
            next_id += usize::from(is_new);
            let token = token.clone();
            let special = token.special || has_role(&token.content);
            further.push(token.special(special));
        }
        add(tokenizer, further)?;
        Ok(())
    }
}

/// Adds tokens; the result is the id that the next new one would get.
fn add(tokenizer: &mut Tokenizer, tokens: Vec<AddedToken>) -> Result<usize, TextError> {
    if !tokens.is_empty() {
        tokenizer.add_tokens(tokens).map_err(|error| TextError::Encode { message: error.to_string() })?;
    }
    let vocabulary = tokenizer.get_vocab_size(false);
    let highest = tokenizer.get_added_tokens_decoder().into_keys().max();
    Ok(highest.map_or(vocabulary, |id| vocabulary.max(id as usize + 1)))
}

/// The token of a role, if the document names one.
fn role_token(
    document: &Document,
    role: &str,
    notices: &mut Vec<String>,
) -> Result<Option<AddedToken>, TextError> {
    match document.get(role) {
        None => Ok(None),
        Some(Value::Bool(false)) => {
            notices.push(format!("{role} is false, which is taken for none"));
            Ok(None)
        }
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(value) => token(document, role, value).map(Some),
    }
}

/// Tokens under names of their own, such as `image_token`, and those of an `extra_special_tokens` that has names.
fn model_specific(config: &Document) -> Result<Vec<(String, AddedToken)>, TextError> {
    let mut named: Vec<(String, AddedToken)> = Vec::new();
    let is_token = |value: &Value| value.is_string() || value.get("__type").is_some();
    for (name, value) in &config.fields {
        if name.ends_with("_token") && !ROLES.contains(&name.as_str()) && is_token(value) {
            named.push((name.clone(), token(config, name, value)?));
        }
    }
    if let Some(Value::Object(extra)) = config.get("extra_special_tokens") {
        for (name, value) in extra {
            named.retain(|(known, _)| known != name);
            named.push((name.clone(), token(config, name, value)?));
        }
    }
    Ok(named)
}

fn tokens_by_id(config: &Document, tokens: &Value) -> Result<BTreeMap<u32, AddedToken>, TextError> {
    const KEY: &str = "added_tokens_decoder";
    let Value::Object(tokens) = tokens else {
        return Err(config.invalid(format!("{KEY} must be an object of token ids to tokens")));
    };
    let mut by_id = BTreeMap::new();
    for (id, value) in tokens {
        let number = id
            .parse()
            .map_err(|_| config.invalid(format!("{KEY} has the key {id:?}; keys are token ids")))?;
        let Value::Object(fields) = value else {
            return Err(config.invalid(format!("{KEY}.{id} must be an object with a content")));
        };
        by_id.insert(number, detailed(config, KEY, fields, false)?);
    }
    Ok(by_id)
}

fn token_list(document: &Document, key: &str, value: &Value) -> Result<Vec<AddedToken>, TextError> {
    let Value::Array(items) = value else {
        return Err(document.invalid(format!("{key} must be an array of tokens")));
    };
    items.iter().map(|item| token(document, key, item)).collect()
}

/// A special token, with or without its flags.
fn token(document: &Document, key: &str, value: &Value) -> Result<AddedToken, TextError> {
    match value {
        Value::String(text) => Ok(AddedToken::from(text.as_str(), true)),
        Value::Object(fields) => detailed(document, key, fields, true),
        _ => Err(document.invalid(format!("{key} must be a token: a string, or an object with a content"))),
    }
}

fn detailed(
    document: &Document,
    key: &str,
    fields: &Map<String, Value>,
    special_by_default: bool,
) -> Result<AddedToken, TextError> {
    let Some(Value::String(content)) = fields.get("content") else {
        return Err(document.invalid(format!("{key}: a token needs a content, a string")));
    };
    let flag = |name: &str| match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(other) => {
            Err(document.invalid(format!("{key}: {name} of {content:?} is {other}, not true or false")))
        }
    };
    let special = flag("special")?.unwrap_or(special_by_default);
    let token = AddedToken::from(content.as_str(), special);
    let normalized = flag("normalized")?.unwrap_or(token.normalized);
    Ok(token
        .normalized(normalized)
        .single_word(flag("single_word")?.unwrap_or(false))
        .lstrip(flag("lstrip")?.unwrap_or(false))
        .rstrip(flag("rstrip")?.unwrap_or(false)))
}
