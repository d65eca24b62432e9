//! One sequence inside the engine: what is known of it, how much of that is computed, and where.

use std::sync::Arc;

use octet_sample::PositionLogprobs;

use crate::config::EngineConfig;
use crate::executor::Slot;
use crate::groups::GroupKey;
use crate::ledger::BlockTally;
use crate::prefix_cache::{BlockHash, PrefixId};
use crate::queue::Rank;
use crate::request::{Finish, FinishReason, Pooling, RequestId, Task};

/// Index of a sequence in the scheduler's arena, valid until the sequence is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SequenceKey(u32);

impl SequenceKey {
    /// The key of entry `index`.
    pub(crate) fn new(index: usize) -> Self {
        Self(u32::try_from(index).expect("there are fewer than 2^32 requests"))
    }

    /// The entry that it names.
    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// The tokens that are known of a sequence, read as a slice.
#[derive(Debug)]
pub(crate) enum Tokens {
    /// Before admission: the prompt alone, which other sequences may share.
    Shared(Arc<[u32]>),
    /// From admission on: the sequence's own, so that they can grow.
    Own(Vec<u32>),
}

impl Tokens {
    /// Copies the prompt, with room for `longest` tokens in all.
    fn own(&mut self, longest: usize) {
        if let Self::Shared(prompt) = self {
            let mut tokens = Vec::with_capacity(longest.max(prompt.len()));
            tokens.extend_from_slice(prompt);
            *self = Self::Own(tokens);
        }
    }

    /// Appends a generated token.
    pub(crate) fn push(&mut self, token: u32) {
        match self {
            Self::Own(tokens) => tokens.push(token),
            Self::Shared(_) => unreachable!("only an admitted sequence generates"),
        }
    }
}

impl std::ops::Deref for Tokens {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        match self {
            Self::Shared(prompt) => prompt,
            Self::Own(tokens) => tokens,
        }
    }
}

/// A sequence. There are no phases: `tokens` are known, `computed` of them have keys and values in `blocks`, and each
/// step closes some of the difference.
#[derive(Debug)]
pub(crate) struct Sequence {
    /// Fixed at submission.
    pub(crate) id: RequestId,
    /// Fixed at submission.
    pub(crate) group: GroupKey,
    /// Fixed at submission.
    pub(crate) task: Task,
    /// Fixed at submission.
    pub(crate) rank: Rank,
    /// Fixed at submission; part of the first block's hash.
    pub(crate) cache_salt: Option<Arc<str>>,
    /// The prompt, then what was generated; grows when a token is booked.
    pub(crate) tokens: Tokens,
    /// Fixed at submission.
    pub(crate) prompt_tokens: usize,
    /// Tokens whose keys and values are in `blocks`; the scheduler sets it at admission and preemption, the engine
    /// adds to it after a step.
    pub(crate) computed: usize,
    /// Tokens in the current step, 0 between steps.
    pub(crate) scheduled: usize,
    /// From first admission to the end.
    pub(crate) slot: Option<Slot>,
    /// The block table; covers `computed + scheduled` tokens. Entries before `first_live_block` are the null block.
    pub(crate) blocks: Vec<u32>,
    /// Blocks before it were freed because no later token sees them.
    pub(crate) first_live_block: usize,
    /// Hashes of full blocks of `tokens`, as far as they were needed.
    pub(crate) hashes: Vec<BlockHash>,
    /// Leading blocks that the prefix cache was told of (or found them in).
    pub(crate) cached_blocks: usize,
    /// The prefix that these blocks make.
    pub(crate) cached_prefix: PrefixId,
    /// Blocks lent and returned.
    pub(crate) tally: BlockTally,
    /// Logprobs of prompt tokens 1, 2, ... as far as they are known.
    pub(crate) prompt_logprobs: Vec<PositionLogprobs>,
    /// Whether the whole prompt has been computed once; then its logprobs have been reported.
    pub(crate) prompt_done: bool,
    /// Whether the sink said on the first event that nobody listens.
    pub(crate) abandoned: bool,
}

impl Sequence {
    /// The tokens that it can have, prompt and output together.
    fn longest(&self, config: &EngineConfig) -> usize {
        config.longest_sequence().min(self.prompt_tokens.saturating_add(self.task.max_tokens()))
    }

    /// How it finishes with the token that it generated last, if it does: end of sequence and stop ids count once
    /// `min_tokens` are out, then the lengths.
    pub(crate) fn finish(&self, config: &EngineConfig) -> Option<Finish> {
        let (sampling, token) = (self.task.sampling()?, *self.tokens.last()?);
        if self.generated() >= sampling.min_tokens as usize {
            if sampling.eos_token_id == Some(token) {
                return Some(Finish::by(FinishReason::Stop));
            }
            if sampling.stop_token_ids.contains(&token) {
                return Some(Finish { reason: FinishReason::Stop, stop_token_id: Some(token) });
            }
        }
        (self.tokens.len() >= self.longest(config)).then_some(Finish::by(FinishReason::Length))
    }

    /// Makes room for as long as the sequence can get, so that later steps allocate nothing.
    pub(crate) fn reserve(&mut self, config: &EngineConfig) {
        let longest = self.longest(config);
        let blocks = longest.div_ceil(config.block_size);
        self.tokens.own(longest);
        self.blocks.reserve_exact(blocks.saturating_sub(self.blocks.len()));
        self.hashes.reserve_exact(blocks.saturating_sub(self.hashes.len()));
    }

    /// Tokens that are to be computed.
    pub(crate) fn left(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Whether one token is all that is to be computed: the next token of a stream, which nothing may delay.
    pub(crate) fn is_stream(&self) -> bool {
        self.left() == 1
    }

    /// Tokens generated so far.
    pub(crate) fn generated(&self) -> usize {
        self.tokens.len() - self.prompt_tokens
    }

    /// Blocks in the table that are really held.
    pub(crate) fn live_blocks(&self) -> usize {
        self.blocks.len() - self.first_live_block
    }

    /// Whether the prompt's logprobs are asked for and not all known: such a sequence computes those positions itself.
    pub(crate) fn lacks_prompt_logprobs(&self) -> bool {
        let known = self.prompt_logprobs.len();
        let asked = self.task.sampling().is_some_and(|sampling| sampling.prompt_logprobs.is_some());
        !self.prompt_done && asked && known + 1 < self.prompt_tokens
    }

    /// Whether it takes what the prefix cache has, so that its prompt counts among the queries.
    pub(crate) fn asks_prefix_cache(&self) -> bool {
        !matches!(self.task, Task::Embed(Pooling::Mean | Pooling::First)) && !self.lacks_prompt_logprobs()
    }

    /// The most tokens that may come from the prefix cache: not the last one, whose row gives the next token, and none
    /// whose prompt logprobs or hidden states are wanted.
    pub(crate) fn most_cached_tokens(&self) -> usize {
        match self.task {
            Task::Embed(Pooling::Mean | Pooling::First) => 0,
            _ if self.lacks_prompt_logprobs() => self.prompt_logprobs.len(),
            _ => self.tokens.len() - 1,
        }
    }
}

/// Sequences by key, in reused places.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    places: Vec<Option<Sequence>>,
    vacant: Vec<SequenceKey>,
}

impl Arena {
    /// Moves a sequence in.
    pub(crate) fn insert(&mut self, sequence: Sequence) -> SequenceKey {
        if let Some(key) = self.vacant.pop() {
            self.places[key.index()] = Some(sequence);
            key
        } else {
            self.places.push(Some(sequence));
            SequenceKey::new(self.places.len() - 1)
        }
    }

    /// Moves a sequence out.
    pub(crate) fn remove(&mut self, key: SequenceKey) -> Sequence {
        let sequence = self.places[key.index()].take().expect("a key is used until its sequence is removed");
        self.vacant.push(key);
        sequence
    }
}

impl std::ops::Index<SequenceKey> for Arena {
    type Output = Sequence;

    fn index(&self, key: SequenceKey) -> &Sequence {
        self.places[key.index()].as_ref().expect("a key is used until its sequence is removed")
    }
}

impl std::ops::IndexMut<SequenceKey> for Arena {
    fn index_mut(&mut self, key: SequenceKey) -> &mut Sequence {
        self.places[key.index()].as_mut().expect("a key is used until its sequence is removed")
    }
}
