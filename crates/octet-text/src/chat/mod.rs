//! Chat templates: messages to a prompt, as `transformers` renders them.
//!
//! The templates are Jinja written for Python. [`python`] brings what they expect of it; [`content`] and [`roles`] suit the
//! messages to what the template can take.
//!
//! A template is a program that came with a model, or with a request. [`limits`] bounds its time and its memory.

mod content;
mod json;
mod limits;
mod python;
mod roles;

use std::cell::Cell;
use std::collections::BTreeMap;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, Value};
use serde_json::{Map, Value as Json};

use crate::{TextError, Tokenizer};
use content::Capabilities;
pub use content::ContentFormat;
use python::RaisedException;

/// The only template's name, which shows in messages about errors.
const NAME: &str = "chat_template";

/// Stands at the end of the message that is to be continued; where it comes out, the prompt is cut off.
const CONTINUATION_MARK: &str = "\u{1}continue here\u{1} ";

/// What a template renders.
#[derive(Clone, Copy, Debug)]
pub struct ChatInput<'a> {
    /// The chat, oldest first: objects with `role`, `content` and what else the template knows.
    pub messages: &'a [Json],
    /// Tools that the model may call, in OpenAI's form.
    pub tools: Option<&'a [Json]>,
    /// Documents for retrieval, for templates that know them.
    pub documents: Option<&'a [Json]>,
    /// Whether the prompt ends with the beginning of the assistant's next message.
    pub add_generation_prompt: bool,
    /// Whether the prompt ends inside of the last message, so that the model continues it.
    pub continue_final_message: bool,
    /// Further variables (`chat_template_kwargs`); they win over those above, but for the messages.
    pub kwargs: &'a Map<String, Json>,
}

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// Variables such as `bos_token`. Those that the model does not have stay undefined, as in `transformers`.
    special_tokens: Vec<(String, String)>,
    capabilities: Capabilities,
    knows_developer: bool,
    takes_system: bool,
}

impl ChatTemplate {
    /// Compiles a template. `bos` and `eos` are its variables `bos_token` and `eos_token`.
    ///
    /// # Errors
    /// [`TextError::TemplateSyntax`], [`TextError::TemplateTooLong`], and [`TextError::TemplateExhausted`] for a template that
    /// does not come to an end on any messages.
    pub fn compile(source: &str, bos: Option<&str>, eos: Option<&str>) -> Result<Self, TextError> {
        let tokens = [("bos_token", bos), ("eos_token", eos)];
        let known = |(role, text): (&str, Option<&str>)| Some((role.to_owned(), text?.to_owned()));
        Self::with_special_tokens(source, tokens.into_iter().filter_map(known).collect())
    }

    /// Compiles a template whose variables are all special tokens that the tokenizer has a role for.
    ///
    /// # Errors
    /// As [`ChatTemplate::compile`].
    pub fn for_tokenizer(source: &str, tokenizer: &Tokenizer) -> Result<Self, TextError> {
        Self::with_special_tokens(source, tokenizer.named_tokens().to_vec())
    }

    fn with_special_tokens(source: &str, special_tokens: Vec<(String, String)>) -> Result<Self, TextError> {
        limits::check_source(source)?;
        limits::with_room(|| Self::compile_and_probe(source, special_tokens))?
    }

    fn compile_and_probe(source: &str, special_tokens: Vec<(String, String)>) -> Result<Self, TextError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| syntax_error(&error))?);
        environment.set_debug(true);
        environment.set_fuel(Some(limits::FUEL));
        python::install(&mut environment);
        environment
            .add_template_owned(NAME, python::without_generation_tags(&python::with_line_feeds(source)))
            .map_err(|error| syntax_error(&error))?;
        let mut template = Self {
            environment,
            special_tokens,
            capabilities: Capabilities::default(),
            knows_developer: roles::knows_developer(source),
            takes_system: true,
        };
        template.probe_all()?;
        Ok(template)
    }

    /// Finds out what the template takes, by rendering.
    fn probe_all(&mut self) -> Result<(), TextError> {
        let is_exhausted = Cell::new(false);
        let probe = |messages: &Json| {
            if is_exhausted.get() {
                return None;
            }
            let rendered = self.probe(messages);
            is_exhausted.set(rendered.as_ref().is_err_and(is_out_of_fuel));
            rendered.ok()
        };
        let capabilities = Capabilities::probe(probe);
        let takes_system = capabilities.takes_system(probe);
        if is_exhausted.get() {
            return Err(TextError::TemplateExhausted);
        }
        self.capabilities = capabilities;
        self.takes_system = takes_system;
        Ok(())
    }

    /// Whether the template takes message content as a list of parts, or as a string.
    #[must_use]
    pub fn content_format(&self) -> ContentFormat {
        self.capabilities.format()
    }

    /// The same template with content always passed in one form, whatever was detected
    /// (`--chat-template-content-format`).
    #[must_use]
    pub fn with_content_format(mut self, format: ContentFormat) -> Self {
        self.capabilities = Capabilities::forced(format);
        self
    }

    /// Renders a chat to the text of a prompt.
    ///
    /// # Errors
    /// [`TextError::TemplateRaised`] when the template refuses the messages, [`TextError::TemplateFailed`] when it fails
    /// on them, [`TextError::TemplateExhausted`] when it does not come to an end, [`TextError::CannotContinue`] when the end
    /// of the last message cannot be found in the prompt.
    pub fn render(&self, input: &ChatInput<'_>) -> Result<String, TextError> {
        let converted = (!self.knows_developer && roles::has_developer(input.messages))
            .then(|| roles::as_system(input.messages, self.takes_system));
        let mut messages = self.capabilities.adapt(converted.as_deref().unwrap_or(input.messages))?;
        if input.continue_final_message {
            if input.add_generation_prompt {
                return Err(TextError::CannotContinue { reason: "add_generation_prompt is set too" });
            }
            mark_end(messages.to_mut())?;
        }
        let variables = self.variables(&messages, input);
        let prompt = limits::with_room(|| self.evaluate(variables).map_err(|error| render_error(&error)))??;
        if input.continue_final_message { cut_at_mark(prompt) } else { Ok(prompt) }
    }

    fn variables(&self, messages: &[Json], input: &ChatInput<'_>) -> BTreeMap<String, Value> {
        let mut variables = self.special_tokens();
        variables.insert("tools".to_owned(), Value::from(Serde(input.tools)));
        variables.insert("documents".to_owned(), Value::from(Serde(input.documents)));
        variables.insert("add_generation_prompt".to_owned(), input.add_generation_prompt.into());
        variables.insert("continue_final_message".to_owned(), input.continue_final_message.into());
        variables.extend(input.kwargs.iter().map(|(name, value)| (name.clone(), Value::from(Serde(value)))));
        variables.insert("messages".to_owned(), Value::from(Serde(messages)));
        variables
    }

    fn special_tokens(&self) -> BTreeMap<String, Value> {
        self.special_tokens.iter().map(|(role, text)| (role.clone(), Value::from(text.as_str()))).collect()
    }

    fn evaluate(&self, variables: BTreeMap<String, Value>) -> Result<String, Error> {
        self.environment.get_template(NAME)?.render(variables)
    }

    /// What the template makes of probing messages.
    fn probe(&self, messages: &Json) -> Result<String, Error> {
        let mut variables = self.special_tokens();
        variables.insert("messages".to_owned(), Value::from(Serde(messages)));
        variables.insert("add_generation_prompt".to_owned(), false.into());
        variables.insert("continue_final_message".to_owned(), false.into());
        variables.insert("tools".to_owned(), ().into());
        variables.insert("documents".to_owned(), ().into());
        self.evaluate(variables)
    }
}

/// Puts the mark at the end of the last message's text.
fn mark_end(messages: &mut [Json]) -> Result<(), TextError> {
    let last = messages.last_mut().ok_or(TextError::CannotContinue { reason: "there is no message" })?;
    let text = match last.get_mut("content") {
        Some(Json::Array(parts)) => parts.iter_mut().rev().find_map(|part| part.get_mut("text")),
        other => other,
    };
    if let Some(Json::String(text)) = text {
        text.push_str(CONTINUATION_MARK);
        Ok(())
    } else {
        Err(TextError::CannotContinue { reason: "the final message has no text" })
    }
}

/// Cuts the prompt where the last message ends.
fn cut_at_mark(mut prompt: String) -> Result<String, TextError> {
    let at = prompt
        .rfind(CONTINUATION_MARK.trim_end())
        .ok_or(TextError::CannotContinue { reason: "the chat template does not show the final message" })?;
    let is_trimmed = !prompt[at..].starts_with(CONTINUATION_MARK);
    prompt.truncate(at);
    if is_trimmed {
        // The template trims content, so it would have trimmed the message's own trailing blanks.
        prompt.truncate(prompt.trim_end().len());
    }
    Ok(prompt)
}

fn syntax_error(error: &Error) -> TextError {
    TextError::TemplateSyntax { line: error.line().unwrap_or(1), message: describe(error) }
}

fn render_error(error: &Error) -> TextError {
    if is_out_of_fuel(error) {
        return TextError::TemplateExhausted;
    }
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(RaisedException(message)) = cause.downcast_ref() {
            return TextError::TemplateRaised { message: message.clone() };
        }
        source = cause.source();
    }
    let place = error.line().map_or(String::new(), |line| format!("line {line}: "));
    TextError::TemplateFailed { message: format!("{place}{}", describe(error)) }
}

/// Whether this, or what caused it, is the end of the fuel.
fn is_out_of_fuel(error: &Error) -> bool {
    let mut current: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = current {
        if cause.downcast_ref::<Error>().is_some_and(|error| error.kind() == ErrorKind::OutOfFuel) {
            return true;
        }
        current = cause.source();
    }
    false
}

fn describe(error: &Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}
