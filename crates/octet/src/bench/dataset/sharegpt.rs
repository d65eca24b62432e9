//! Conversations in ShareGPT's form: a JSON list of `{"conversations": [{"value": ...}, {"value": ...}]}`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::source::PromptSource;
use super::{Prompt, Sample};
use crate::cli::bench::PromptForm;

/// Which lengths are sent: vLLM's rule for this data set.
const SHORTEST: usize = 4;
const LONGEST_PROMPT: usize = 1024;
const LONGEST_SEQUENCE: usize = 2048;

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    conversations: Vec<Turn>,
}

#[derive(Deserialize)]
struct Turn {
    value: String,
}

/// The first two turns of a conversation.
pub(super) struct Conversation {
    prompt: String,
    answer: String,
}

/// All conversations of at least two turns.
///
/// # Errors
/// A file that cannot be read or has another form.
pub(super) fn read(path: &Path) -> Result<Vec<Conversation>> {
    let said = || format!("--dataset-path: {}", path.display());
    let text = fs::read_to_string(path).with_context(said)?;
    let entries: Vec<Entry> = serde_json::from_str(&text).with_context(said)?;
    let first_two = |entry: Entry| {
        let mut turns = entry.conversations.into_iter();
        Some(Conversation { prompt: turns.next()?.value, answer: turns.next()?.value })
    };
    Ok(entries.into_iter().filter_map(first_two).collect())
}

/// The first `wanted` conversations of a usable length.
///
/// # Errors
/// A text that the tokenizer cannot read.
pub(super) fn samples(
    conversations: &[Conversation],
    wanted: usize,
    output_len: Option<usize>,
    source: &PromptSource<'_>,
) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    for Conversation { prompt, answer } in conversations {
        if samples.len() == wanted {
            break;
        }
        let ids = source.encode(prompt, true)?;
        let (prompt_len, shortest_output) = (ids.len(), if output_len.is_some() { 1 } else { SHORTEST });
        let output_len = match output_len {
            Some(output_len) => output_len,
            None => source.encode(answer, true)?.len(),
        };
        let fits = (SHORTEST..=LONGEST_PROMPT).contains(&prompt_len)
            && output_len >= shortest_output
            && prompt_len + output_len <= LONGEST_SEQUENCE;
        if fits {
            let prompt = match source.form() {
                PromptForm::Tokens => Prompt::Tokens(ids),
                PromptForm::Text => Prompt::Text(prompt.clone()),
            };
            samples.push(Sample { prompt, prompt_len, output_len });
        }
    }
    Ok(samples)
}
