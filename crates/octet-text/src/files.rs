//! The files of a model's folder that concern text, besides `tokenizer.json`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::TextError;

const CONFIG_FILE: &str = "tokenizer_config.json";
const TEMPLATE_FILE: &str = "chat_template.jinja";
const PROCESSOR_TEMPLATE_FILE: &str = "chat_template.json";
const TEMPLATE_FOLDER: &str = "additional_chat_templates";

/// Name of the template for plain chats.
pub(crate) const DEFAULT_TEMPLATE: &str = "default";
/// Name of the template for requests with tools.
pub(crate) const TOOL_TEMPLATE: &str = "tool_use";

/// What the folder says, besides `tokenizer.json`: each file's own words, empty where there is no such file.
#[derive(Debug, Default)]
pub(crate) struct TextFiles {
    pub(crate) config: Document,
    pub(crate) special_tokens_map: Document,
    pub(crate) added_tokens: Document,
    pub(crate) templates: Vec<NamedTemplate>,
    /// What is not obeyed, a sentence each.
    pub(crate) notices: Vec<String>,
}

/// A JSON object and the file that it stands in.
#[derive(Debug, Default)]
pub(crate) struct Document {
    path: PathBuf,
    pub(crate) fields: Map<String, Value>,
}

impl Document {
    fn read(path: PathBuf) -> Result<Self, TextError> {
        let Some(text) = read_text(&path)? else { return Ok(Self { path, fields: Map::new() }) };
        match serde_json::from_str(&text) {
            Ok(fields) => Ok(Self { path, fields }),
            Err(error) => Err(TextError::Invalid { path, message: error.to_string() }),
        }
    }

    /// A field that is there and not null.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.fields.get(key).filter(|value| !value.is_null())
    }

    pub(crate) fn invalid(&self, message: impl Into<String>) -> TextError {
        TextError::Invalid { path: self.path.clone(), message: message.into() }
    }
}

/// A chat template with its name; `default` is the one for plain chats, `tool_use` the one for requests with tools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedTemplate {
    pub(crate) name: String,
    pub(crate) template: String,
}

/// What the folder says, besides `tokenizer.json`.
pub(crate) fn read(folder: &Path) -> Result<TextFiles, TextError> {
    let mut files = TextFiles {
        config: Document::read(folder.join(CONFIG_FILE))?,
        special_tokens_map: Document::read(folder.join("special_tokens_map.json"))?,
        added_tokens: Document::read(folder.join("added_tokens.json"))?,
        ..TextFiles::default()
    };
    files.read_templates(folder)?;
    Ok(files)
}

impl TextFiles {
    /// Files of their own win over the configuration as a whole, as in `transformers`; only a default that they lack is
    /// still taken from it.
    fn read_templates(&mut self, folder: &Path) -> Result<(), TextError> {
        let mut templates = Vec::new();
        if let Some(template) = read_text(&folder.join(TEMPLATE_FILE))? {
            templates.push(NamedTemplate { name: DEFAULT_TEMPLATE.to_owned(), template });
        }
        for path in jinja_files(&folder.join(TEMPLATE_FOLDER))? {
            if let (Some(name), Some(template)) =
                (path.file_stem().and_then(|stem| stem.to_str()), read_text(&path)?)
            {
                templates.push(NamedTemplate { name: name.to_owned(), template });
            }
        }
        let has_default =
            |templates: &[NamedTemplate]| templates.iter().any(|known| known.name == DEFAULT_TEMPLATE);
        let configured = configured_templates(&self.config)?;
        if templates.is_empty() {
            templates = configured;
        } else if !has_default(&templates) {
            templates.extend(configured.into_iter().filter(|known| known.name == DEFAULT_TEMPLATE));
        }
        let processor = Document::read(folder.join(PROCESSOR_TEMPLATE_FILE))?;
        if let Some(Value::String(template)) = processor.get("chat_template") {
            if has_default(&templates) {
                self.notices.push(format!(
                    "{PROCESSOR_TEMPLATE_FILE} is not used: the chat template of {TEMPLATE_FILE} or {CONFIG_FILE} is"
                ));
            } else {
                templates
                    .push(NamedTemplate { name: DEFAULT_TEMPLATE.to_owned(), template: template.clone() });
            }
        }
        self.templates = templates;
        Ok(())
    }
}

/// The configuration's templates: a string, a list of `{name, template}`, or an object of names to templates.
fn configured_templates(config: &Document) -> Result<Vec<NamedTemplate>, TextError> {
    let wrong = || {
        config.invalid(
            "chat_template must be a string, an array of {\"name\", \"template\"}, or an object of names to templates",
        )
    };
    let named = |name: Option<&str>, template: &Value| match (name, template.as_str()) {
        (Some(name), Some(template)) => {
            Ok(NamedTemplate { name: name.to_owned(), template: template.to_owned() })
        }
        _ => Err(wrong()),
    };
    match config.get("chat_template") {
        None => Ok(Vec::new()),
        Some(template @ Value::String(_)) => Ok(vec![named(Some(DEFAULT_TEMPLATE), template)?]),
        Some(Value::Array(entries)) => {
            let mut templates: Vec<NamedTemplate> = Vec::new();
            for entry in entries {
                let template = named(entry["name"].as_str(), &entry["template"])?;
                // Of two of one name, the later counts.
                templates.retain(|known| known.name != template.name);
                templates.push(template);
            }
            Ok(templates)
        }
        Some(Value::Object(entries)) => {
            entries.iter().map(|(name, template)| named(Some(name), template)).collect()
        }
        Some(_) => Err(wrong()),
    }
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

/// A file's text, without the mark that some editors put before it; none when there is no such file.
fn read_text(path: &Path) -> Result<Option<String>, TextError> {
    match fs::read_to_string(path) {
        Ok(mut text) => {
            if text.starts_with('\u{feff}') {
                text.remove(0);
            }
            Ok(Some(text))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TextError::Read { path: path.to_owned(), source }),
    }
}
