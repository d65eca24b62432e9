//! Answers of `/v1/completions`: whole, and in chunks.

use super::convert::CompletionShape;
use super::logprobs::LogprobWriter;
use super::types::{
    CompletionChoice, CompletionChunk, CompletionChunkChoice, CompletionLogprobs, CompletionResponse,
};
use crate::FINGERPRINT;
use crate::generation::{Delta, Generation, Output};
use crate::logprobs::prompt_logprobs;
use crate::sse::{ChunkWriter, Frames};
use crate::usage::Usage;

const OBJECT: &str = "text_completion";

/// The whole answer.
pub(super) fn whole(shape: &CompletionShape, outputs: Vec<Output>, usage: Usage) -> CompletionResponse {
    let choices =
        outputs.into_iter().enumerate().map(|(index, output)| choice(shape, index, output)).collect();
    CompletionResponse {
        id: shape.common.id.clone(),
        object: OBJECT,
        created: shape.common.created,
        model: shape.common.model.clone(),
        choices,
        service_tier: None,
        system_fingerprint: FINGERPRINT,
        usage,
        kv_transfer_params: None,
    }
}

fn choice(shape: &CompletionShape, index: usize, output: Output) -> CompletionChoice {
    let prompt = &shape.prompts[index / shape.common.n];
    let mut writer = LogprobWriter::default();
    let positions = output.prompt_logprobs.as_deref().unwrap_or_default();
    let logprobs = shape.common.logprobs.map(|count| {
        let mut lists = CompletionLogprobs::default();
        if shape.echo {
            writer.write_prompt(&prompt.tokens, positions, count, &shape.common.names, &mut lists);
        }
        writer.write(&output.tokens, count, &shape.common.names, &mut lists);
        lists
    });
    let mut text = prompt.text.clone().unwrap_or_default();
    text.push_str(&output.text);
    CompletionChoice {
        index,
        text,
        logprobs,
        finish_reason: output.finish.reason.name(),
        token_ids: shape.common.token_ids(&output.tokens),
        prompt_logprobs: shape
            .common
            .show_prompt_logprobs
            .then(|| prompt_logprobs(positions, &shape.common.names)),
        prompt_token_ids: shape.common.return_token_ids.then(|| prompt.tokens.to_vec()),
        stop_reason: output.finish.stop_reason,
    }
}

/// Writes chunks.
pub(super) struct CompletionStream {
    shape: CompletionShape,
    /// One for each sequence.
    sequences: Vec<StreamedSequence>,
}

#[derive(Default)]
struct StreamedSequence {
    logprobs: LogprobWriter,
    begun: bool,
}

impl CompletionStream {
    pub(super) fn new(shape: CompletionShape) -> Self {
        let count = shape.prompts.len() * shape.common.n;
        Self { shape, sequences: (0..count).map(|_| StreamedSequence::default()).collect() }
    }

    fn chunk(&self, choices: Vec<CompletionChunkChoice>, usage: Option<Usage>) -> CompletionChunk<'_> {
        CompletionChunk {
            id: &self.shape.common.id,
            object: OBJECT,
            created: self.shape.common.created,
            model: &self.shape.common.model,
            choices,
            usage,
        }
    }
}

impl ChunkWriter for CompletionStream {
    fn delta(&mut self, delta: Delta, generation: &Generation, frames: &mut Frames) {
        if delta.tokens.is_empty() && delta.text.is_empty() && delta.finish.is_none() {
            return;
        }
        let index = delta.sequence;
        let shape = &self.shape;
        let prompt = &shape.prompts[index / shape.common.n];
        let sequence = &mut self.sequences[index];
        let is_first = !std::mem::replace(&mut sequence.begun, true);
        let mut lists = CompletionLogprobs::default();
        let mut text = String::new();
        if is_first && shape.echo {
            text.push_str(prompt.text.as_deref().unwrap_or_default());
            if let Some(count) = shape.common.logprobs {
                let positions = delta.prompt_logprobs.as_deref().unwrap_or_default();
                sequence.logprobs.write_prompt(
                    &prompt.tokens,
                    positions,
                    count,
                    &shape.common.names,
                    &mut lists,
                );
            }
        }
        text.push_str(&delta.text);
        if let Some(count) = shape.common.logprobs {
            sequence.logprobs.write(&delta.tokens, count, &shape.common.names, &mut lists);
        }
        let has_logprobs = !lists.tokens.is_empty();
        let choice = CompletionChunkChoice {
            index,
            text,
            logprobs: has_logprobs.then_some(lists),
            finish_reason: delta.finish.as_ref().map(|finish| finish.reason.name()),
            stop_reason: delta.finish.and_then(|finish| finish.stop_reason),
            token_ids: shape.common.token_ids(&delta.tokens),
            prompt_token_ids: (shape.common.return_token_ids && is_first).then(|| prompt.tokens.to_vec()),
        };
        let usage = shape.common.usage_so_far(generation, index);
        frames.push(&self.chunk(vec![choice], usage));
    }

    fn end(&mut self, generation: &Generation, frames: &mut Frames) {
        if let Some(usage) = self.shape.common.usage_at_end(generation) {
            frames.push(&self.chunk(Vec::new(), Some(usage)));
        }
    }
}
