//! The logprobs object of completions: four lists that grow with the text.

use octet_sample::{LogprobCount, PositionLogprobs, SampledToken};
use serde_json::{Map, Value};

use super::types::CompletionLogprobs;
use crate::logprobs::{TokenNames, chosen_and_others, clip};

/// Writes the lists of one sequence, in pieces when it is streamed: only the offset goes from piece to piece.
#[derive(Debug, Default)]
pub(super) struct LogprobWriter {
    /// Where the next token's text begins, in characters.
    offset: usize,
}

impl LogprobWriter {
    /// The lists for generated tokens.
    pub(super) fn write(
        &mut self,
        tokens: &[SampledToken],
        count: LogprobCount,
        names: &TokenNames,
        lists: &mut CompletionLogprobs,
    ) {
        for token in tokens {
            self.push(token.token, token.logprobs.as_ref(), count, names, lists);
        }
    }

    /// The lists for an echoed prompt; nothing predicts its first token.
    pub(super) fn write_prompt(
        &mut self,
        prompt: &[u32],
        positions: &[PositionLogprobs],
        count: LogprobCount,
        names: &TokenNames,
        lists: &mut CompletionLogprobs,
    ) {
        let positions = std::iter::once(None).chain(positions.iter().map(Some));
        for (token, position) in prompt.iter().zip(positions) {
            self.push(*token, position, count, names, lists);
        }
    }

    fn push(
        &mut self,
        token: u32,
        position: Option<&PositionLogprobs>,
        count: LogprobCount,
        names: &TokenNames,
        lists: &mut CompletionLogprobs,
    ) {
        let name = names.name(token);
        lists.text_offset.push(self.offset);
        self.offset += name.chars().count();
        lists.tokens.push(name);
        lists.token_logprobs.push(position.map(|position| clip(position.chosen.logprob)));
        lists.top_logprobs.push(position.map(|position| alternatives(position, count, names)));
    }
}

/// The token that was chosen and the most likely ones: one more than asked for if it is not among them.
fn alternatives(position: &PositionLogprobs, count: LogprobCount, names: &TokenNames) -> Map<String, Value> {
    let others = match count {
        LogprobCount::Top(count) => count as usize,
        LogprobCount::All => usize::MAX,
    };
    let wanted = position.top.iter().take(others);
    let top = PositionLogprobs { chosen: position.chosen, top: wanted.copied().collect() };
    let mut map = Map::new();
    for entry in chosen_and_others(&top) {
        // Two tokens may have the same text; the first is the likelier.
        map.entry(names.name(entry.token)).or_insert_with(|| Value::from(clip(entry.logprob)));
    }
    map
}
