//! The files of a model's folder that concern text, besides `tokenizer.json`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::TextError;

/// What is read of `tokenizer_config.json`, and of `special_tokens_map.json`, which repeats part of it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct TokenizerConfig {
    pub(crate) tokenizer_class: Option<String>,
    pub(crate) bos_token: Option<TokenEntry>,
    pub(crate) eos_token: Option<TokenEntry>,
    pub(crate) add_bos_token: Option<bool>,
    pub(crate) add_eos_token: Option<bool>,
    chat_template: Option<Templates>,
}

/// A special token, with or without its attributes.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum TokenEntry {
    Text(String),
    Detailed { content: String },
}

impl TokenEntry {
    pub(crate) fn into_text(self) -> String {
        match self {
            Self::Text(text) | Self::Detailed { content: text } => text,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<NamedTemplate>),
}

/// A chat template with its name; `default` is the one for plain chats, `tool_use` the one for requests with tools.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct NamedTemplate {
    pub(crate) name: String,
    pub(crate) template: String,
}

/// Name of the template for plain chats.
pub(crate) const DEFAULT_TEMPLATE: &str = "default";

/// What the folder says, besides `tokenizer.json`.
pub(crate) fn read(folder: &Path) -> Result<(TokenizerConfig, Vec<NamedTemplate>), TextError> {
    let mut config: TokenizerConfig = read_json(&folder.join("tokenizer_config.json"))?.unwrap_or_default();
    let map: TokenizerConfig = read_json(&folder.join("special_tokens_map.json"))?.unwrap_or_default();
    config.bos_token = config.bos_token.or(map.bos_token);
    config.eos_token = config.eos_token.or(map.eos_token);
    let mut templates = match config.chat_template.take() {
        None => Vec::new(),
        Some(Templates::Named(templates)) => templates,
        Some(Templates::One(template)) => vec![NamedTemplate { name: DEFAULT_TEMPLATE.to_owned(), template }],
    };
    // A file of its own wins over the configuration.
    if let Some(template) = read_text(&folder.join("chat_template.jinja"))? {
        set_template(&mut templates, DEFAULT_TEMPLATE, template);
    }
    for path in jinja_files(&folder.join("additional_chat_templates"))? {
        if let (Some(name), Some(template)) =
            (path.file_stem().and_then(|stem| stem.to_str()), read_text(&path)?)
        {
            set_template(&mut templates, name, template);
        }
    }
    Ok((config, templates))
}

fn set_template(templates: &mut Vec<NamedTemplate>, name: &str, template: String) {
    templates.retain(|known| known.name != name);
    templates.push(NamedTemplate { name: name.to_owned(), template });
}

/// The Jinja files of a folder in the order of their names; none when there is no such folder.
fn jinja_files(folder: &Path) -> Result<Vec<PathBuf>, TextError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(TextError::Read { path: folder.to_owned(), source }),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(|source| TextError::Read { path: folder.to_owned(), source })?.path();
        if path.extension().is_some_and(|extension| extension == "jinja") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// A file's text; none when there is no such file.
fn read_text(path: &Path) -> Result<Option<String>, TextError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TextError::Read { path: path.to_owned(), source }),
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, TextError> {
    let Some(text) = read_text(path)? else { return Ok(None) };
    let invalid =
        |error: serde_json::Error| TextError::Invalid { path: path.to_owned(), message: error.to_string() };
    serde_json::from_str(&text).map(Some).map_err(invalid)
}
