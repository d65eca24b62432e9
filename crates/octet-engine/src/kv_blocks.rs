//! Block tables: the pool and the prefix cache together, applied to a sequence.

use crate::block_pool::{BlockPool, NULL_BLOCK};
use crate::config::EngineConfig;
use crate::prefix_cache::{BlockContent, PrefixCache, PrefixId};
use crate::sequence::Sequence;

/// Cached blocks that a sequence could begin with. Refilled by each look-up.
#[derive(Debug)]
pub(crate) struct PrefixHit {
    /// The blocks from the first on.
    blocks: Vec<u32>,
    /// The prefix that they make.
    prefix: PrefixId,
    /// Leading blocks that a sliding window has passed: they need not be held.
    passed: usize,
    /// Of those to be held, how many are free now and would leave the free queue.
    pub(crate) free: usize,
}

impl PrefixHit {
    /// Blocks that would be held.
    pub(crate) fn held(&self) -> usize {
        self.blocks.len() - self.passed
    }
}

/// The KV cache's blocks.
#[derive(Debug)]
pub(crate) struct KvBlocks {
    pool: BlockPool,
    cache: Option<PrefixCache>,
    block_size: usize,
    sliding_window: Option<usize>,
    hit: PrefixHit,
}

impl KvBlocks {
    /// All blocks free, nothing cached.
    pub(crate) fn new(config: &EngineConfig) -> Self {
        let cache = config
            .enable_prefix_caching
            .then(|| PrefixCache::new(config.num_blocks, config.block_size, config.hash_seed));
        Self {
            pool: BlockPool::new(config.num_blocks),
            cache,
            block_size: config.block_size,
            sliding_window: config.sliding_window,
            hit: PrefixHit { blocks: Vec::new(), prefix: PrefixId::ROOT, passed: 0, free: 0 },
        }
    }

    /// Free blocks, cached ones included.
    pub(crate) const fn free_blocks(&self) -> usize {
        self.pool.free_blocks()
    }

    /// Blocks that sequences hold.
    pub(crate) fn held_blocks(&self) -> usize {
        self.pool.held_blocks()
    }

    /// Blocks before this index hold no token that a token at position `computed` or later sees: it sees positions
    /// above `computed - window`.
    fn first_seen_block(&self, computed: usize) -> usize {
        self.sliding_window.map_or(0, |window| (computed + 1).saturating_sub(window) / self.block_size)
    }

    /// Looks up the longest cached prefix for a sequence that holds no blocks; returns its tokens and the details.
    pub(crate) fn find_prefix(&mut self, sequence: &mut Sequence) -> (usize, &PrefixHit) {
        self.hit.blocks.clear();
        self.hit.prefix = PrefixId::ROOT;
        let most_blocks = sequence.most_cached_tokens() / self.block_size;
        if let Some(cache) = &mut self.cache {
            while self.hit.blocks.len() < most_blocks {
                let content =
                    block_content(cache, sequence, self.hit.blocks.len(), self.hit.prefix, self.block_size);
                let Some((block, prefix)) = cache.find(content) else { break };
                self.hit.blocks.push(block);
                self.hit.prefix = prefix;
            }
        }
        let tokens = self.hit.blocks.len() * self.block_size;
        self.hit.passed = self.first_seen_block(tokens);
        let held = &self.hit.blocks[self.hit.passed..];
        self.hit.free = held.iter().filter(|block| self.pool.is_free(**block)).count();
        (tokens, &self.hit)
    }

    /// Gives a sequence the blocks of the last look-up, which was for this sequence.
    pub(crate) fn hold_prefix(&mut self, sequence: &mut Sequence) {
        debug_assert!(sequence.blocks.is_empty(), "a prefix comes first");
        for (index, block) in self.hit.blocks.iter().enumerate() {
            if index < self.hit.passed {
                sequence.blocks.push(NULL_BLOCK);
            } else {
                self.pool.hold(*block);
                sequence.tally.lend();
                sequence.blocks.push(*block);
            }
        }
        sequence.first_live_block = self.hit.passed;
        sequence.computed = self.hit.blocks.len() * self.block_size;
        sequence.cached_blocks = self.hit.blocks.len();
        sequence.cached_prefix = self.hit.prefix;
    }

    /// Frees the blocks that the sliding window has passed.
    pub(crate) fn release_passed(&mut self, sequence: &mut Sequence) {
        let end = self.first_seen_block(sequence.computed).min(sequence.blocks.len());
        for index in (sequence.first_live_block..end).rev() {
            let block = std::mem::replace(&mut sequence.blocks[index], NULL_BLOCK);
            sequence.tally.take_back();
            self.pool.release(block);
        }
        sequence.first_live_block = sequence.first_live_block.max(end);
    }

    /// Extends the block table to `tokens` tokens; without enough free blocks it changes nothing and says `false`.
    pub(crate) fn extend(&mut self, sequence: &mut Sequence, tokens: usize) -> bool {
        let missing = tokens.div_ceil(self.block_size).saturating_sub(sequence.blocks.len());
        if missing > self.pool.free_blocks() {
            return false;
        }
        for _ in 0..missing {
            let block = self.pool.take().expect("enough blocks are free");
            if let Some(cache) = &mut self.cache {
                cache.forget(block);
            }
            sequence.tally.lend();
            sequence.blocks.push(block);
        }
        true
    }

    /// Tells the prefix cache of the blocks that are full once the current step is done.
    pub(crate) fn cache_full_blocks(&mut self, sequence: &mut Sequence) {
        let Some(cache) = &mut self.cache else { return };
        let full = (sequence.computed + sequence.scheduled) / self.block_size;
        for index in sequence.cached_blocks..full {
            let parent = sequence.cached_prefix;
            let block = sequence.blocks[index];
            debug_assert_ne!(block, NULL_BLOCK, "a block is told of in the step that fills it");
            let content = block_content(cache, sequence, index, parent, self.block_size);
            sequence.cached_prefix = cache.insert(block, content, |id| !self.pool.is_free(id));
        }
        sequence.cached_blocks = sequence.cached_blocks.max(full);
    }

    /// Takes all blocks back, the last one first, so that a prefix's tail is forgotten before its head.
    pub(crate) fn release_all(&mut self, sequence: &mut Sequence) {
        for block in sequence.blocks.drain(sequence.first_live_block..).rev() {
            sequence.tally.take_back();
            self.pool.release(block);
        }
        sequence.blocks.clear();
        sequence.first_live_block = 0;
        assert_eq!(sequence.tally.outstanding(), 0, "a sequence without blocks owes none");
    }

    /// Makes a sequence's blocks impossible to find: what they hold is not to be trusted.
    pub(crate) fn distrust(&mut self, sequence: &Sequence) {
        if let Some(cache) = &mut self.cache {
            sequence.blocks[sequence.first_live_block..].iter().for_each(|block| cache.forget(*block));
        }
    }

    /// Forgets all cached prefixes, if no block is held.
    pub(crate) fn reset_prefixes(&mut self) -> bool {
        let idle = self.pool.held_blocks() == 0;
        if let (true, Some(cache)) = (idle, &mut self.cache) {
            cache.clear();
        }
        idle
    }
}

/// The content of block `index` of a sequence, which must be full; computes its hash if it is not known.
fn block_content<'a>(
    cache: &mut PrefixCache,
    sequence: &'a mut Sequence,
    index: usize,
    parent: PrefixId,
    block_size: usize,
) -> BlockContent<'a> {
    let tokens = &sequence.tokens[index * block_size..][..block_size];
    let salt = sequence.cache_salt.as_ref();
    if index == sequence.hashes.len() {
        sequence.hashes.push(cache.hash(sequence.hashes.last().copied(), salt, tokens));
    }
    BlockContent { hash: sequence.hashes[index], parent, tokens, salt }
}
