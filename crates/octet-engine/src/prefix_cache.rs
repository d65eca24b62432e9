//! Full blocks by content, so that sequences with a common prefix share them.
//!
//! A block's hash is chained: it covers the parent's hash and the block's tokens, so it names the whole prefix. The
//! hash only finds a candidate. What decides is a comparison: the candidate's tokens must be the same and its parent
//! must be the very prefix that was matched before it. Prefixes carry numbers for this ([`PrefixId`]), which are never
//! used twice; by induction, equal numbers mean equal tokens from the first to the last.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_128_with_seed;

/// Names a prefix that ends at a block boundary. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PrefixId(u64);

impl PrefixId {
    /// The empty prefix.
    pub(crate) const ROOT: Self = Self(0);
}

/// Hash of a prefix that ends at a block boundary.
pub(crate) type BlockHash = u128;

/// A full block's content as it is looked up or inserted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockContent<'a> {
    /// Hash of everything up to the block's end.
    pub(crate) hash: BlockHash,
    /// The prefix before the block.
    pub(crate) parent: PrefixId,
    /// The block's tokens, `[block_size]`.
    pub(crate) tokens: &'a [u32],
    /// The tenant's salt; it counts in the first block, whose hash covers it.
    pub(crate) salt: Option<&'a Arc<str>>,
}

/// What is remembered of one cached block.
#[derive(Clone, Debug)]
struct Entry {
    hash: BlockHash,
    parent: PrefixId,
    prefix: PrefixId,
    salt: Option<Arc<str>>,
}

/// The hashes are uniform already.
#[derive(Default)]
struct TruncatingHasher(u64);

impl Hasher for TruncatingHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for (index, byte) in bytes.iter().enumerate() {
            self.0 ^= u64::from(*byte) << (8 * (index % 8));
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "half of a uniform hash is a uniform hash")]
    fn write_u128(&mut self, hash: u128) {
        self.0 = hash as u64;
    }
}

/// Finds blocks by content. It holds no blocks: whether one is free or in use is the pool's matter, and a free block
/// stays findable until the pool hands it out for something else.
#[derive(Debug)]
pub(crate) struct PrefixCache {
    block_size: usize,
    seed: u64,
    /// Bits of the hash in use; fewer than all only in tests, to provoke collisions.
    mask: u128,
    by_hash: HashMap<BlockHash, u32, BuildHasherDefault<TruncatingHasher>>,
    /// By block id.
    entries: Vec<Option<Entry>>,
    /// By block id, `[blocks, block_size]`.
    tokens: Vec<u32>,
    next_prefix: u64,
    scratch: Vec<u8>,
}

impl PrefixCache {
    /// An empty cache for block ids below `num_blocks`.
    pub(crate) fn new(num_blocks: usize, block_size: usize, seed: u64) -> Self {
        Self {
            block_size,
            seed,
            mask: u128::MAX,
            // Twice what it will hold: the table then cleans up in place instead of growing.
            by_hash: HashMap::with_capacity_and_hasher(2 * num_blocks, BuildHasherDefault::default()),
            entries: vec![None; num_blocks],
            tokens: vec![0; num_blocks * block_size],
            next_prefix: 0,
            scratch: Vec::with_capacity(4 * block_size + 16),
        }
    }

    /// The hash of the block `tokens` after the prefix with hash `parent`; the first block takes the salt instead.
    pub(crate) fn hash(
        &mut self,
        parent: Option<BlockHash>,
        salt: Option<&Arc<str>>,
        tokens: &[u32],
    ) -> BlockHash {
        debug_assert_eq!(tokens.len(), self.block_size, "only full blocks are hashed");
        self.scratch.clear();
        match (parent, salt) {
            (Some(parent), _) => self.scratch.extend_from_slice(&parent.to_le_bytes()),
            (None, Some(salt)) => self.scratch.extend_from_slice(salt.as_bytes()),
            (None, None) => {}
        }
        for token in tokens {
            self.scratch.extend_from_slice(&token.to_le_bytes());
        }
        xxh3_128_with_seed(&self.scratch, self.seed) & self.mask
    }

    /// The cached block with this content, and the prefix that it completes.
    pub(crate) fn find(&self, content: BlockContent<'_>) -> Option<(u32, PrefixId)> {
        let id = *self.by_hash.get(&content.hash)?;
        self.matching(id, content).map(|entry| (id, entry.prefix))
    }

    /// Makes block `id`, which holds `content`, findable; returns the prefix that it completes. `in_use` says whether
    /// somebody holds a block.
    ///
    /// An equal block may be known already. It stays the one to be found while it is in use; when it is free, the new
    /// block takes its place, since it will be free later. Where another content occupies the hash, the new block is
    /// not cached.
    pub(crate) fn insert(
        &mut self,
        id: u32,
        content: BlockContent<'_>,
        in_use: impl Fn(u32) -> bool,
    ) -> PrefixId {
        let prefix = match self.by_hash.get(&content.hash) {
            None => self.new_prefix(),
            Some(&known) => match self.matching(known, content).map(|entry| entry.prefix) {
                None => return self.new_prefix(),
                Some(prefix) if known == id || in_use(known) => return prefix,
                Some(prefix) => {
                    self.forget(known);
                    prefix
                }
            },
        };
        self.forget(id);
        let BlockContent { hash, parent, tokens, salt } = content;
        let salt = salt.filter(|_| parent == PrefixId::ROOT).cloned();
        self.entries[id as usize] = Some(Entry { hash, parent, prefix, salt });
        self.tokens[id as usize * self.block_size..][..self.block_size].copy_from_slice(tokens);
        self.by_hash.insert(hash, id);
        prefix
    }

    /// Block `id` gets other contents, or its contents are not to be trusted.
    pub(crate) fn forget(&mut self, id: u32) {
        if let Some(entry) = self.entries[id as usize].take() {
            let known = self.by_hash.remove(&entry.hash);
            debug_assert_eq!(known, Some(id), "a hash names the block that remembers it");
        }
    }

    /// Forgets all blocks.
    pub(crate) fn clear(&mut self) {
        self.by_hash.clear();
        self.entries.fill(None);
    }

    fn new_prefix(&mut self) -> PrefixId {
        self.next_prefix += 1;
        PrefixId(self.next_prefix)
    }

    fn matching(&self, id: u32, content: BlockContent<'_>) -> Option<&Entry> {
        let stored = &self.tokens[id as usize * self.block_size..][..self.block_size];
        self.entries[id as usize].as_ref().filter(|entry| {
            entry.parent == content.parent
                && stored == content.tokens
                && (entry.parent != PrefixId::ROOT || entry.salt.as_ref() == content.salt)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: fn(u32) -> bool = |_| false;
    const IN_USE: fn(u32) -> bool = |_| true;

    fn first<'a>(cache: &mut PrefixCache, tokens: &'a [u32], salt: Option<&'a Arc<str>>) -> BlockContent<'a> {
        BlockContent { hash: cache.hash(None, salt, tokens), parent: PrefixId::ROOT, tokens, salt }
    }

    fn after<'a>(
        cache: &mut PrefixCache,
        before: BlockContent<'_>,
        parent: PrefixId,
        tokens: &'a [u32],
    ) -> BlockContent<'a> {
        BlockContent { hash: cache.hash(Some(before.hash), None, tokens), parent, tokens, salt: None }
    }

    #[test]
    fn a_chain_is_found_again_and_only_after_its_own_prefix() {
        let mut cache = PrefixCache::new(8, 2, 7);
        let one = first(&mut cache, &[1, 2], None);
        let one_prefix = cache.insert(3, one, FREE);
        let two = after(&mut cache, one, one_prefix, &[5, 6]);
        let two_prefix = cache.insert(4, two, FREE);
        assert_eq!(cache.find(one), Some((3, one_prefix)));
        assert_eq!(cache.find(two), Some((4, two_prefix)));
        let other = first(&mut cache, &[1, 3], None);
        assert_eq!(cache.find(other), None);
        let other_prefix = cache.insert(5, other, FREE);
        let elsewhere = after(&mut cache, other, other_prefix, &[5, 6]);
        assert_eq!(cache.find(elsewhere), None, "same tokens after another prefix");
    }

    #[test]
    fn the_salt_separates_tenants_from_the_first_block_on() {
        let mut cache = PrefixCache::new(8, 2, 0);
        let (red, blue): (Arc<str>, Arc<str>) = ("red".into(), "blue".into());
        let red_block = first(&mut cache, &[1, 2], Some(&red));
        cache.insert(1, red_block, FREE);
        let blue_block = first(&mut cache, &[1, 2], Some(&blue));
        let plain = first(&mut cache, &[1, 2], None);
        assert_eq!(cache.find(blue_block), None);
        assert_eq!(cache.find(plain), None);
        assert!(cache.find(red_block).is_some());
    }

    #[test]
    fn colliding_hashes_are_told_apart_by_content() {
        let mut cache = PrefixCache::new(8, 2, 0);
        cache.mask = 0;
        let red: Arc<str> = "red".into();
        let one = first(&mut cache, &[1, 2], None);
        let other = first(&mut cache, &[1, 3], None);
        let salted = first(&mut cache, &[1, 2], Some(&red));
        let prefix = cache.insert(1, one, FREE);
        let child = after(&mut cache, one, prefix, &[1, 2]);
        assert_eq!(one.hash, child.hash);
        assert_eq!(cache.find(other), None);
        assert_eq!(cache.find(salted), None);
        assert_eq!(cache.find(child), None);
        let other_prefix = cache.insert(2, other, FREE);
        assert_ne!(other_prefix, prefix);
        assert_eq!(cache.find(one), Some((1, prefix)), "the first content keeps the hash");
        cache.forget(1);
        assert_eq!(cache.find(one), None);
    }

    #[test]
    fn of_two_equal_blocks_the_one_in_use_is_found() {
        let mut cache = PrefixCache::new(8, 2, 0);
        let content = first(&mut cache, &[1, 2], None);
        let prefix = cache.insert(1, content, FREE);
        assert_eq!(cache.insert(2, content, IN_USE), prefix);
        assert_eq!(cache.find(content), Some((1, prefix)));
        assert_eq!(cache.insert(2, content, FREE), prefix);
        assert_eq!(cache.find(content), Some((2, prefix)));
        cache.forget(1);
        assert_eq!(cache.find(content), Some((2, prefix)), "block 1 had lost its entry");
    }

    #[test]
    fn a_prefix_that_comes_back_is_a_new_prefix_for_its_children() {
        let mut cache = PrefixCache::new(8, 2, 0);
        let one = first(&mut cache, &[1, 2], None);
        let old = cache.insert(1, one, FREE);
        let child = after(&mut cache, one, old, &[3, 4]);
        cache.insert(2, child, FREE);
        cache.forget(1);
        let new = cache.insert(3, one, FREE);
        assert_ne!(old, new);
        assert_eq!(cache.find(BlockContent { parent: new, ..child }), None);
    }
}
