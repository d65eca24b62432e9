//! The role `developer`, OpenAI's newer name of `system`, which most templates do not know.

use serde_json::{Value as Json, json};

const DEVELOPER: &str = "developer";
const SYSTEM: &str = "system";

/// Whether a template tells the role apart, by vLLM's rule: it names it.
pub(super) fn knows_developer(source: &str) -> bool {
    source.contains("\"developer\"") || source.contains("'developer'")
}

pub(super) fn has_developer(messages: &[Json]) -> bool {
    messages.iter().any(|message| message["role"] == DEVELOPER)
}

/// Makes one system message of all that system and developer say, at the start, where templates look for it. A template
/// that takes no system message gets it at the start of what the user says first.
pub(super) fn as_system(messages: &[Json], takes_system: bool) -> Vec<Json> {
    let is_instruction = |message: &&Json| message["role"] == DEVELOPER || message["role"] == SYSTEM;
    let texts: Vec<String> = messages
        .iter()
        .filter(is_instruction)
        .map(|message| text_of(&message["content"]))
        .filter(|text| !text.is_empty())
        .collect();
    let instructions = texts.join("\n\n");
    let mut others: Vec<Json> = messages.iter().filter(|message| !is_instruction(message)).cloned().collect();
    if instructions.is_empty() {
        return others;
    }
    if takes_system {
        others.insert(0, json!({"role": SYSTEM, "content": instructions}));
        return others;
    }
    match others.iter_mut().find(|message| message["role"] == "user") {
        Some(message) => prepend(&mut message["content"], &instructions),
        None => others.insert(0, json!({"role": "user", "content": instructions})),
    }
    others
}

fn prepend(content: &mut Json, text: &str) {
    match content {
        Json::Array(parts) => parts.insert(0, json!({"type": "text", "text": format!("{text}\n\n")})),
        other => *other = Json::String(format!("{text}\n\n{}", text_of(other))),
    }
}

fn text_of(content: &Json) -> String {
    match content {
        Json::String(text) => text.clone(),
        Json::Array(parts) => {
            parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}
