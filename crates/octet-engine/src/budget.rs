//! What is left of a step: tokens in all, tokens for prompts, and of these the share that is kept for brief prompts.

use crate::sequence::SequenceKey;

/// A prompt with far less left than the first in line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Brief {
    pub(crate) key: SequenceKey,
    /// Tokens that are left of it.
    pub(crate) left: usize,
    /// Tokens that are kept for it.
    pub(crate) kept: usize,
}

/// What is left of a step.
#[derive(Debug)]
pub(crate) struct Budget {
    /// Tokens in all.
    tokens: usize,
    /// Tokens of prompts.
    prompts: usize,
    /// Running streams that have not got their token: whatever prompts there are, they will.
    streams: usize,
    /// Brief prompts that have not got their tokens, the briefest first.
    briefs: Vec<Brief>,
    /// Tokens that are kept for these.
    kept: usize,
}

impl Budget {
    /// A step of at most `tokens` tokens, `prompts` of prompts, beside `streams`.
    pub(crate) fn new(tokens: usize, prompts: usize, streams: usize) -> Self {
        Self { tokens, prompts, streams, briefs: Vec::new(), kept: 0 }
    }

    /// Tokens for prompts.
    pub(crate) fn for_prompts(&self) -> usize {
        self.prompts.min(self.tokens.saturating_sub(self.streams))
    }

    /// Tokens that a prompt can have.
    pub(crate) fn for_prompt(&self, key: SequenceKey) -> usize {
        self.unclaimed() + self.briefs.iter().find(|brief| brief.key == key).map_or(0, |brief| brief.kept)
    }

    /// Tokens that any prompt can have.
    pub(crate) fn unclaimed(&self) -> usize {
        self.for_prompts().saturating_sub(self.kept)
    }

    /// Keeps tokens for brief prompts: half of what prompts have at most, the briefest first.
    pub(crate) fn keep_for(&mut self, mut briefs: Vec<Brief>) {
        let mut spare = self.for_prompts() / 2;
        for brief in &mut briefs {
            brief.kept = brief.left.min(spare);
            spare -= brief.kept;
        }
        briefs.retain(|brief| brief.kept > 0);
        self.kept = briefs.iter().map(|brief| brief.kept).sum();
        self.briefs = briefs;
    }

    /// The briefest prompt for which tokens are kept.
    pub(crate) fn next_brief(&self) -> Option<SequenceKey> {
        self.briefs.first().map(|brief| brief.key)
    }

    /// Gives a stream its token.
    pub(crate) fn take_for_stream(&mut self) {
        self.tokens -= 1;
        self.streams -= 1;
    }

    /// Gives a prompt tokens. What was kept for it beyond them is free.
    pub(crate) fn take_for_prompt(&mut self, key: SequenceKey, tokens: usize) {
        self.forget(key);
        self.tokens -= tokens;
        self.prompts -= tokens;
    }

    /// Takes a sequence's tokens back; a stream that leaves without any needs none.
    pub(crate) fn give_back(&mut self, key: SequenceKey, tokens: usize, is_stream: bool) {
        self.forget(key);
        self.tokens += tokens;
        match (is_stream, tokens) {
            (false, _) => self.prompts += tokens,
            (true, 0) => self.streams -= 1,
            (true, _) => {}
        }
    }

    fn forget(&mut self, key: SequenceKey) {
        if let Some(at) = self.briefs.iter().position(|brief| brief.key == key) {
            self.kept -= self.briefs.remove(at).kept;
        }
    }
}
