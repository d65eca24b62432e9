//! Answers of `/v1/chat/completions`: whole, and in chunks.

use octet_sample::{LogprobCount, SampledToken};

use super::convert::ChatShape;
use super::types::{
    ChatChoice, ChatChunk, ChatChunkChoice, ChatDelta, ChatLogprobs, ChatMessage, ChatResponse,
    ChatTokenLogprob, ChatTopLogprob,
};
use crate::FINGERPRINT;
use crate::generation::{Delta, Generation, Output};
use crate::logprobs::{TokenNames, clip, prompt_logprobs};
use crate::sse::{ChunkWriter, Frames};
use crate::usage::Usage;

/// The whole answer.
pub(super) fn whole(shape: &ChatShape, outputs: Vec<Output>, usage: Usage) -> ChatResponse {
    let prompt_logprobs = shape.common.show_prompt_logprobs.then(|| {
        let positions = outputs.first().and_then(|output| output.prompt_logprobs.as_deref());
        prompt_logprobs(positions.unwrap_or_default(), &shape.common.names)
    });
    let choices =
        outputs.into_iter().enumerate().map(|(index, output)| choice(shape, index, output)).collect();
    ChatResponse {
        id: shape.common.id.clone(),
        object: "chat.completion",
        created: shape.common.created,
        model: shape.common.model.clone(),
        choices,
        service_tier: None,
        system_fingerprint: FINGERPRINT,
        usage,
        prompt_logprobs,
        prompt_token_ids: shape.common.return_token_ids.then(|| shape.prompt.to_vec()),
        kv_transfer_params: None,
    }
}

fn choice(shape: &ChatShape, index: usize, output: Output) -> ChatChoice {
    let mut content = shape.echo.clone().unwrap_or_default();
    content.push_str(&output.text);
    ChatChoice {
        index,
        message: ChatMessage {
            role: shape.role.clone(),
            content,
            refusal: None,
            annotations: None,
            audio: None,
            function_call: None,
            reasoning: None,
        },
        logprobs: shape.common.logprobs.map(|count| logprobs(&output.tokens, count, &shape.common.names)),
        finish_reason: output.finish.reason.name(),
        token_ids: shape.common.token_ids(&output.tokens),
        stop_reason: output.finish.stop_reason,
    }
}

fn logprobs(tokens: &[SampledToken], count: LogprobCount, names: &TokenNames) -> ChatLogprobs {
    let limit = match count {
        LogprobCount::Top(count) => count as usize,
        LogprobCount::All => usize::MAX,
    };
    let entry = |token: &SampledToken| {
        let position = token.logprobs.as_ref()?;
        let top = position.top.iter().take(limit).map(|other| ChatTopLogprob {
            token: names.name(other.token),
            logprob: clip(other.logprob),
            bytes: names.bytes(other.token),
        });
        Some(ChatTokenLogprob {
            token: names.name(token.token),
            logprob: clip(position.chosen.logprob),
            bytes: names.bytes(token.token),
            top_logprobs: top.collect(),
        })
    };
    ChatLogprobs { content: tokens.iter().filter_map(entry).collect() }
}

/// Writes chunks.
pub(super) struct ChatStream {
    shape: ChatShape,
    /// Whether each sequence's role has been sent.
    begun: Vec<bool>,
}

impl ChatStream {
    pub(super) fn new(shape: ChatShape) -> Self {
        let begun = vec![false; shape.common.n];
        Self { shape, begun }
    }

    fn chunk<'a>(&'a self, choices: Vec<ChatChunkChoice<'a>>, usage: Option<Usage>) -> ChatChunk<'a> {
        ChatChunk {
            id: &self.shape.common.id,
            object: "chat.completion.chunk",
            created: self.shape.common.created,
            model: &self.shape.common.model,
            choices,
            usage,
            prompt_token_ids: None,
        }
    }

    /// The first chunk of a sequence says who speaks; an echo comes right after.
    fn begin(&self, index: usize, usage: Option<Usage>, frames: &mut Frames) {
        let choice = |delta| ChatChunkChoice {
            index,
            delta,
            logprobs: None,
            finish_reason: None,
            stop_reason: None,
            token_ids: None,
        };
        let role = ChatDelta { role: Some(&self.shape.role), content: Some(String::new()) };
        let mut chunk = self.chunk(vec![choice(role)], usage);
        chunk.prompt_token_ids = self.shape.common.return_token_ids.then(|| self.shape.prompt.to_vec());
        frames.push(&chunk);
        if let Some(echo) = self.shape.echo.as_ref().filter(|echo| !echo.is_empty()) {
            let delta = ChatDelta { role: None, content: Some(echo.clone()) };
            frames.push(&self.chunk(vec![choice(delta)], usage));
        }
    }
}

impl ChunkWriter for ChatStream {
    fn delta(&mut self, delta: Delta, generation: &Generation, frames: &mut Frames) {
        if delta.tokens.is_empty() && delta.text.is_empty() && delta.finish.is_none() {
            return;
        }
        let shape = &self.shape;
        let index = delta.sequence;
        let usage = shape.common.usage_so_far(generation, index);
        if !self.begun[index] {
            self.begin(index, usage, frames);
        }
        let has_tokens = !delta.tokens.is_empty();
        let choice = ChatChunkChoice {
            index,
            delta: ChatDelta { role: None, content: Some(delta.text) },
            logprobs: shape
                .common
                .logprobs
                .filter(|_| has_tokens)
                .map(|count| logprobs(&delta.tokens, count, &shape.common.names)),
            finish_reason: delta.finish.as_ref().map(|finish| finish.reason.name()),
            stop_reason: delta.finish.and_then(|finish| finish.stop_reason),
            token_ids: shape.common.token_ids(&delta.tokens),
        };
        frames.push(&self.chunk(vec![choice], usage));
        self.begun[index] = true;
    }

    fn end(&mut self, generation: &Generation, frames: &mut Frames) {
        if let Some(usage) = self.shape.common.usage_at_end(generation) {
            frames.push(&self.chunk(Vec::new(), Some(usage)));
        }
    }
}
