//! Message content: a string, or a list of parts.
//!
//! Older templates write `message['content']` as it is; newer ones walk over a list of parts, and most of those take a
//! string too. What a template can take is found out once, by letting it render both.

use std::borrow::Cow;

use serde_json::{Value as Json, json};

use crate::TextError;

/// In which form a template takes message content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentFormat {
    /// As a string; parts are joined with line breaks.
    String,
    /// As a list of parts, in OpenAI's form.
    OpenAi,
}

/// What a template can take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Capabilities {
    takes_strings: bool,
    takes_parts: bool,
}

impl Default for Capabilities {
    fn default() -> Self {
        Self { takes_strings: true, takes_parts: false }
    }
}

/// A word that no template writes by itself. Small letters: a template may change them.
const PROBE: &str = "octet-probe";

impl Capabilities {
    /// Finds out by rendering: `render` gives a template's output, or nothing when it failed.
    pub(super) fn probe(render: impl Fn(&Json) -> Option<String>) -> Self {
        let shows = |content: Json| {
            let user = json!({"role": "user", "content": content});
            let system = json!({"role": "system", "content": content});
            // Some templates want a system message first, others refuse one.
            [json!([user]), json!([system, user])].iter().filter_map(&render).any(|shown| {
                let shown = shown.to_lowercase();
                // A list that was printed as such shows its keys.
                shown.contains(PROBE) && !shown.contains("'type'") && !shown.contains("\"type\"")
            })
        };
        let takes_parts = shows(json!([{"type": "text", "text": PROBE}]));
        let takes_strings = shows(json!(PROBE));
        if takes_parts || takes_strings { Self { takes_strings, takes_parts } } else { Self::default() }
    }

    /// Whether the template shows a system message; one that fails on any messages is believed to.
    pub(super) fn takes_system(self, render: impl Fn(&Json) -> Option<String>) -> bool {
        let content = |text: &str| {
            if self.takes_strings { json!(text) } else { json!([{"type": "text", "text": text}]) }
        };
        let user = json!({"role": "user", "content": content("hello")});
        let system = json!({"role": "system", "content": content(PROBE)});
        let shown = render(&json!([system, user]));
        shown.is_some_and(|shown| shown.to_lowercase().contains(PROBE)) || render(&json!([user])).is_none()
    }

    /// What a user says that the template takes.
    pub(super) fn forced(format: ContentFormat) -> Self {
        let takes_parts = format == ContentFormat::OpenAi;
        Self { takes_strings: !takes_parts, takes_parts }
    }

    pub(super) fn format(self) -> ContentFormat {
        if self.takes_parts { ContentFormat::OpenAi } else { ContentFormat::String }
    }

    /// The messages with content in a form that the template takes; unchanged where it is one already.
    pub(super) fn adapt(self, messages: &[Json]) -> Result<Cow<'_, [Json]>, TextError> {
        let mut adapted = Cow::Borrowed(messages);
        for (index, message) in messages.iter().enumerate() {
            let content = match message.get("content") {
                // Results of tools come as text, as in vLLM: templates that walk over parts take them so.
                Some(Json::String(text)) if !self.takes_strings && message["role"] != "tool" => {
                    json!([{"type": "text", "text": text}])
                }
                Some(Json::Array(parts)) if !self.takes_parts => Json::String(join(parts)?),
                _ => continue,
            };
            adapted.to_mut()[index]["content"] = content;
        }
        Ok(adapted)
    }
}

/// The texts of parts, joined with line breaks as vLLM joins them.
fn join(parts: &[Json]) -> Result<String, TextError> {
    let mut texts = Vec::with_capacity(parts.len());
    for part in parts {
        let text =
            part.as_str().or_else(|| part.get("text")?.as_str()).or_else(|| part.get("refusal")?.as_str());
        let kind = || part.get("type").and_then(Json::as_str).unwrap_or("unknown").to_owned();
        texts.push(text.ok_or_else(|| TextError::UnsupportedPart { kind: kind() })?);
    }
    Ok(texts.join("\n"))
}
