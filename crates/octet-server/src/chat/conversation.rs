//! A conversation: checked messages, ready for the chat template.

use std::sync::Arc;

use octet_text::{ChatInput, ChatTemplate};
use serde_json::{Map, Value, json};

use super::types::ConversationFields;
use crate::error::ApiError;
use crate::state::App;

/// What the template renders. Messages are objects with a role; contents are strings or lists of text parts, which the
/// template's wrapper turns into the form that it takes.
pub(crate) struct Conversation {
    template: Arc<ChatTemplate>,
    messages: Vec<Value>,
    tools: Option<Vec<Value>>,
    documents: Option<Vec<Value>>,
    add_generation_prompt: bool,
    continue_final_message: bool,
    kwargs: Map<String, Value>,
}

impl Conversation {
    /// Checks the fields.
    pub(crate) fn new(app: &App, fields: ConversationFields) -> Result<Self, ApiError> {
        let continue_final_message = fields.continue_final_message.is_some_and(|flag| flag.0);
        let add_generation_prompt =
            fields.add_generation_prompt.map_or(!continue_final_message, |flag| flag.0);
        if continue_final_message && add_generation_prompt {
            let message = "continue_final_message and add_generation_prompt must not both be true";
            return Err(ApiError::invalid("continue_final_message", message));
        }
        if fields.tools.as_ref().is_some_and(Vec::is_empty) {
            return Err(ApiError::invalid("tools", "tools must not be an empty array; leave the field out"));
        }
        let template = template(app, fields.chat_template.as_deref(), fields.tools.is_some())?;
        let messages = messages(fields.messages)?;
        let mut kwargs = app.config.default_chat_template_kwargs.clone();
        kwargs.extend(fields.chat_template_kwargs.unwrap_or_default());
        if let Some(effort) = fields.reasoning_effort.filter(|effort| !effort.is_null()) {
            kwargs.entry("reasoning_effort").or_insert(effort);
        }
        let objects = |items: Vec<Map<String, Value>>| items.into_iter().map(Value::Object).collect();
        Ok(Self {
            template,
            messages,
            tools: fields.tools.map(objects),
            documents: fields.documents.map(objects),
            add_generation_prompt,
            continue_final_message,
            kwargs,
        })
    }

    /// The prompt. May take long: runs off the threads that serve connections.
    pub(crate) fn render(&self) -> Result<String, ApiError> {
        let input = ChatInput {
            messages: &self.messages,
            tools: self.tools.as_deref(),
            documents: self.documents.as_deref(),
            add_generation_prompt: self.add_generation_prompt,
            continue_final_message: self.continue_final_message,
            kwargs: &self.kwargs,
        };
        Ok(self.template.render(&input)?)
    }

    /// Who answers: the server's role, or, when a message is continued, that message's.
    pub(crate) fn answering_role<'a>(&'a self, response_role: &'a str) -> &'a str {
        if self.add_generation_prompt { response_role } else { self.last_role().unwrap_or(response_role) }
    }

    /// Text of the last message, if `role` wrote it.
    pub(crate) fn last_text_of(&self, role: &str) -> Option<String> {
        (self.last_role() == Some(role)).then(|| text_of(&self.messages[self.messages.len() - 1]["content"]))
    }

    pub(crate) fn has_tools(&self) -> bool {
        self.tools.is_some()
    }

    fn last_role(&self) -> Option<&str> {
        self.messages.last()?.get("role")?.as_str()
    }
}

fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}

/// The model's template, or the request's own where that is allowed: its source, or the name of one that the model has.
fn template(app: &App, own: Option<&str>, has_tools: bool) -> Result<Arc<ChatTemplate>, ApiError> {
    if let Some(source) = own {
        if !app.config.trust_request_chat_template {
            let message = "chat_template is not accepted from requests by this server \
                           (--trust-request-chat-template); chat_template_kwargs are";
            return Err(ApiError::invalid("chat_template", message));
        }
        let tokenizer = &app.model.tokenizer;
        let source = tokenizer.named_chat_template(source).unwrap_or(source);
        let compiled = ChatTemplate::for_tokenizer(source, tokenizer)
            .map_err(|error| ApiError::invalid("chat_template", error.to_string()))?;
        return Ok(Arc::new(compiled));
    }
    let for_tools = app.model.tool_template.as_ref().filter(|_| has_tools);
    for_tools.or(app.model.template.as_ref()).cloned().ok_or_else(|| {
        let message = "this model has no chat template; start the server with --chat-template, or send a prompt to \
                       /v1/completions";
        ApiError::invalid("messages", message)
    })
}

fn messages(messages: Option<Vec<Map<String, Value>>>) -> Result<Vec<Value>, ApiError> {
    let messages = messages.unwrap_or_default();
    if messages.is_empty() {
        return Err(ApiError::invalid("messages", "messages must have at least one message"));
    }
    messages.into_iter().enumerate().map(|(index, message)| one_message(index, message)).collect()
}

fn one_message(index: usize, mut message: Map<String, Value>) -> Result<Value, ApiError> {
    let wrong = match message.get("role") {
        Some(Value::String(_)) => None,
        None | Some(Value::Null) => Some("is missing; it is"),
        Some(_) => Some("must be"),
    };
    if let Some(wrong) = wrong {
        let text = format!("messages[{index}].role {wrong} a string such as \"user\"");
        return Err(ApiError::invalid("messages", text));
    }
    let mut content = content(index, message.remove("content").unwrap_or(Value::Null))?;
    // Templates take results of tools as text, whatever form the others have.
    if message["role"] == "tool" {
        content = Value::String(text_of(&content));
    }
    message.insert("content".to_owned(), content);
    match message.get_mut("tool_calls") {
        Some(Value::Array(calls)) if !calls.is_empty() => {
            for call in calls {
                check_call(index, call)?;
            }
        }
        // Templates ask whether there is such a key: an empty one must not look like a call.
        Some(Value::Array(_) | Value::Null) => {
            message.shift_remove("tool_calls");
        }
        Some(_) => {
            let text = format!("messages[{index}].tool_calls must be an array of calls");
            return Err(ApiError::invalid("messages", text));
        }
        None => {}
    }
    // Thoughts have two names; templates know the one or the other.
    for (name, other) in [("reasoning", "reasoning_content"), ("reasoning_content", "reasoning")] {
        if let (Some(Value::String(thought)), false) = (message.get(name), message.contains_key(other)) {
            message.insert(other.to_owned(), Value::String(thought.clone()));
        }
    }
    Ok(Value::Object(message))
}

/// A message's content: text, or parts that are text.
fn content(index: usize, content: Value) -> Result<Value, ApiError> {
    match content {
        Value::Null => Ok(Value::String(String::new())),
        Value::String(text) => Ok(Value::String(text)),
        Value::Array(parts) => {
            let part = |(part, value)| {
                let text = part_text(index, part, value).transpose()?;
                Some(text.map(|text| json!({ "type": "text", "text": text })))
            };
            parts.into_iter().enumerate().filter_map(part).collect()
        }
        _ => {
            let text = format!("messages[{index}].content must be a string or an array of parts");
            Err(ApiError::invalid("messages", text))
        }
    }
}

/// A part's text; none for one that is null, which vLLM passes over.
fn part_text(index: usize, part: usize, value: Value) -> Result<Option<String>, ApiError> {
    let place = format!("messages[{index}].content[{part}]");
    let Value::Object(mut object) = value else {
        return match value {
            Value::String(text) => Ok(Some(text)),
            _ => Err(ApiError::invalid("messages", format!("{place} must be an object with a type"))),
        };
    };
    let kind = object.get("type").and_then(Value::as_str).unwrap_or("text").to_owned();
    let key = match kind.as_str() {
        "text" | "input_text" | "output_text" => "text",
        "refusal" => "refusal",
        "thinking" => "thinking",
        _ => {
            let text = format!("{place} has the type {kind:?}; this model takes only parts of type \"text\"");
            return Err(ApiError::invalid("messages", text));
        }
    };
    match object.remove(key) {
        Some(Value::String(text)) => Ok(Some(text)),
        Some(Value::Null) => Ok(None),
        _ => Err(ApiError::invalid("messages", format!("{place}.{key} must be a string"))),
    }
}

/// Checks a call of a function. OpenAI sends its arguments as JSON in a string; templates want the object. What is no
/// object becomes an empty one, as in vLLM: it stands in a history, and to refuse it would end the conversation.
fn check_call(index: usize, call: &mut Value) -> Result<(), ApiError> {
    let is_function = call.get("type").is_none_or(|kind| kind == "function");
    let function = call.get_mut("function").and_then(Value::as_object_mut).filter(|_| is_function);
    let Some(function) = function else {
        let text = format!(
            "messages[{index}].tool_calls: each call must be an object of type \"function\" with a function"
        );
        return Err(ApiError::invalid("messages", text));
    };
    let arguments = match function.get("arguments") {
        None | Some(Value::Null) => Value::Null,
        Some(Value::String(text)) if text.trim().is_empty() => Value::Null,
        Some(Value::String(text)) => serde_json::from_str(text).unwrap_or_else(|error| {
            tracing::warn!(message = index, %error, "arguments of a call are not valid JSON; taken for none");
            Value::Null
        }),
        Some(other) => other.clone(),
    };
    let arguments = if arguments.is_object() { arguments } else { json!({}) };
    function.insert("arguments".to_owned(), arguments);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(message: Value) -> Result<Value, String> {
        let Value::Object(message) = message else { panic!("an object") };
        one_message(0, message).map_err(|error| error.to_string())
    }

    #[test]
    fn contents_are_text_or_parts_of_text() {
        let part = |text: &str| json!({ "type": "text", "text": text });
        let table = [
            (json!("a"), json!("a")),
            (Value::Null, json!("")),
            (json!([]), json!([])),
            (json!([part("a"), "b"]), json!([part("a"), part("b")])),
            (json!([{ "type": "refusal", "refusal": "no" }]), json!([part("no")])),
            (
                json!([{ "type": "thinking", "thinking": "hm" }, { "type": "text", "text": null }]),
                json!([part("hm")]),
            ),
            (
                json!([{ "type": "input_text", "text": "i" }, { "type": "output_text", "text": "o" }]),
                json!([part("i"), part("o")]),
            ),
        ];
        for (content, expected) in table {
            let message = json!({ "role": "user", "name": "n", "content": content });
            assert_eq!(
                prepared(message).unwrap(),
                json!({ "role": "user", "name": "n", "content": expected })
            );
        }
        assert_eq!(
            prepared(json!({ "role": "assistant" })).unwrap(),
            json!({ "role": "assistant", "content": "" })
        );
    }

    #[test]
    fn arguments_of_calls_become_objects() {
        let message = json!({ "role": "assistant", "tool_calls": [
            { "type": "function", "function": { "name": "f", "arguments": "{\"x\": 1}" } },
            { "function": { "name": "g", "arguments": "" } },
            { "function": { "name": "h", "arguments": "{" } },
            { "function": { "name": "i", "arguments": "[1]" } },
            { "function": { "name": "j", "arguments": { "y": 2 } } },
            { "function": { "name": "k" } } ] });
        let prepared = prepared(message).unwrap();
        assert_eq!(prepared["tool_calls"][0]["function"]["arguments"], json!({ "x": 1 }));
        for index in [1, 2, 3, 5] {
            assert_eq!(prepared["tool_calls"][index]["function"]["arguments"], json!({}));
        }
        assert_eq!(prepared["tool_calls"][4]["function"]["arguments"], json!({ "y": 2 }));
    }

    #[test]
    fn histories_are_as_templates_expect_them() {
        let part = |text: &str| json!({ "type": "text", "text": text });
        let table = [
            (
                json!({ "role": "assistant", "content": "a", "tool_calls": [] }),
                json!({ "role": "assistant", "content": "a" }),
            ),
            (
                json!({ "role": "assistant", "content": null, "tool_calls": null, "refusal": null }),
                json!({ "role": "assistant", "content": "", "refusal": null }),
            ),
            (
                json!({ "role": "tool", "tool_call_id": "1", "content": [part("a"), part("b")] }),
                json!({ "role": "tool", "tool_call_id": "1", "content": "a\nb" }),
            ),
            (
                json!({ "role": "assistant", "content": "a", "reasoning": "r" }),
                json!({ "role": "assistant", "content": "a", "reasoning": "r", "reasoning_content": "r" }),
            ),
        ];
        for (message, expected) in table {
            assert_eq!(prepared(message).unwrap(), expected);
        }
    }

    #[test]
    fn what_a_text_model_cannot_take_is_refused_with_its_place() {
        let table = [
            (json!({ "content": "a" }), "messages[0].role is missing"),
            (json!({ "role": 1, "content": "a" }), "messages[0].role must be a string"),
            (json!({ "role": "user", "content": 3 }), "messages[0].content must be a string"),
            (json!({ "role": "user", "content": [3] }), "messages[0].content[0] must be an object"),
            (
                json!({ "role": "user", "content": ["a", { "type": "image_url", "image_url": {} }] }),
                "messages[0].content[1] has the type \"image_url\"",
            ),
            (
                json!({ "role": "user", "content": [{ "type": "text" }] }),
                "messages[0].content[0].text must be a string",
            ),
            (json!({ "role": "assistant", "tool_calls": {} }), "messages[0].tool_calls must be an array"),
            (
                json!({ "role": "assistant", "tool_calls": ["f"] }),
                "messages[0].tool_calls: each call must be",
            ),
            (
                json!({ "role": "assistant", "tool_calls": [{ "type": "custom", "function": {} }] }),
                "messages[0].tool_calls: each call must be",
            ),
        ];
        for (message, expected) in table {
            let found = prepared(message).unwrap_err();
            assert!(found.starts_with(expected), "{found}");
        }
    }
}
