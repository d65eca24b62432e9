//! Chat templates: messages to a prompt, as `transformers` renders them.
//!
//! The templates are Jinja written for Python. [`python`] brings what they expect of it; [`content`] suits the messages'
//! content to what the template can take.

mod content;
mod json;
mod python;

use std::collections::BTreeMap;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, Value};
use serde_json::{Map, Value as Json};

use crate::TextError;
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
    bos: Option<String>,
    eos: Option<String>,
    capabilities: Capabilities,
}

impl ChatTemplate {
    /// Compiles a template. `bos` and `eos` are its variables `bos_token` and `eos_token`.
    ///
    /// # Errors
    /// [`TextError::TemplateSyntax`].
    pub fn compile(source: &str, bos: Option<&str>, eos: Option<&str>) -> Result<Self, TextError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| syntax_error(&error))?);
        environment.set_debug(true);
        python::install(&mut environment);
        environment
            .add_template_owned(NAME, python::without_generation_tags(&python::with_line_feeds(source)))
            .map_err(|error| syntax_error(&error))?;
        let mut template = Self {
            environment,
            bos: bos.map(str::to_owned),
            eos: eos.map(str::to_owned),
            capabilities: Capabilities::default(),
        };
        template.capabilities = Capabilities::probe(|messages| template.probe(messages));
        Ok(template)
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
    /// on them, [`TextError::CannotContinue`] when the end of the last message cannot be found in the prompt.
    pub fn render(&self, input: &ChatInput<'_>) -> Result<String, TextError> {
        let mut messages = self.capabilities.adapt(input.messages)?;
        if input.continue_final_message {
            if input.add_generation_prompt {
                return Err(TextError::CannotContinue { reason: "add_generation_prompt is set too" });
            }
            mark_end(messages.to_mut())?;
        }
        let prompt = self.evaluate(self.variables(&messages, input)).map_err(|error| render_error(&error))?;
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

    /// Those that the model has; the others stay undefined, as in `transformers`.
    fn special_tokens(&self) -> BTreeMap<String, Value> {
        let tokens = [("bos_token", &self.bos), ("eos_token", &self.eos)];
        tokens
            .into_iter()
            .filter_map(|(name, text)| {
                text.as_ref().map(|text| (name.to_owned(), Value::from(text.as_str())))
            })
            .collect()
    }

    fn evaluate(&self, variables: BTreeMap<String, Value>) -> Result<String, Error> {
        self.environment.get_template(NAME)?.render(variables)
    }

    /// What the template makes of probing messages, if anything.
    fn probe(&self, messages: &Json) -> Option<String> {
        let mut variables = self.special_tokens();
        variables.insert("messages".to_owned(), Value::from(Serde(messages)));
        variables.insert("add_generation_prompt".to_owned(), false.into());
        variables.insert("continue_final_message".to_owned(), false.into());
        variables.insert("tools".to_owned(), ().into());
        variables.insert("documents".to_owned(), ().into());
        self.evaluate(variables).ok()
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

fn describe(error: &Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}
