//! Who holds which block of the KV cache: reference counts and the queue of free blocks.

/// Block 0 is never handed out: it stands in block tables where a sequence needs no block any more.
pub(crate) const NULL_BLOCK: u32 = 0;

/// A block's share of the queue and its number of holders.
#[derive(Clone, Copy, Debug)]
struct Block {
    /// Sequences that hold it; 0 means that it is in the free queue.
    holders: u32,
    /// Neighbours in the free queue, valid while it is there.
    previous: u32,
    next: u32,
}

/// Blocks by id. Free blocks form a doubly linked list through the array, so that any of them leaves in O(1). The null
/// block is never free, which makes its entry the list's two ends: `next` is the front, `previous` the back.
#[derive(Debug)]
pub(crate) struct BlockPool {
    blocks: Vec<Block>,
    free: usize,
}

impl BlockPool {
    /// `num_blocks` blocks, the null block included; all others are free, in the order of their ids.
    pub(crate) fn new(num_blocks: usize) -> Self {
        let count = u32::try_from(num_blocks).expect("the configuration was validated");
        let blocks = (0..count)
            .map(|id| Block { holders: 0, previous: (id + count - 1) % count, next: (id + 1) % count })
            .collect();
        Self { blocks, free: num_blocks - 1 }
    }

    /// Blocks in the free queue.
    pub(crate) const fn free_blocks(&self) -> usize {
        self.free
    }

    /// Blocks that somebody holds.
    pub(crate) fn held_blocks(&self) -> usize {
        self.blocks.len() - 1 - self.free
    }

    /// Whether nobody holds the block.
    pub(crate) fn is_free(&self, id: u32) -> bool {
        self.blocks[id as usize].holders == 0
    }

    /// Takes the block that has been free for longest; the caller is its only holder.
    pub(crate) fn take(&mut self) -> Option<u32> {
        let front = self.blocks[NULL_BLOCK as usize].next;
        (front != NULL_BLOCK).then(|| {
            self.hold(front);
            front
        })
    }

    /// Adds a holder; a free block leaves the queue.
    pub(crate) fn hold(&mut self, id: u32) {
        assert!(id != NULL_BLOCK, "nobody holds the null block");
        let block = self.blocks[id as usize];
        if block.holders == 0 {
            self.blocks[block.previous as usize].next = block.next;
            self.blocks[block.next as usize].previous = block.previous;
            self.free -= 1;
        }
        self.blocks[id as usize].holders = block.holders + 1;
    }

    /// Removes a holder; after the last, the block goes to the back of the free queue.
    pub(crate) fn release(&mut self, id: u32) {
        let block = &mut self.blocks[id as usize];
        assert!(block.holders > 0, "block {id} is returned more often than it was taken");
        block.holders -= 1;
        if block.holders == 0 {
            let back = self.blocks[NULL_BLOCK as usize].previous;
            self.blocks[id as usize] = Block { holders: 0, previous: back, next: NULL_BLOCK };
            self.blocks[back as usize].next = id;
            self.blocks[NULL_BLOCK as usize].previous = id;
            self.free += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(pool: &mut BlockPool) -> Vec<u32> {
        std::iter::from_fn(|| pool.take()).collect()
    }

    #[test]
    fn a_new_pool_hands_out_all_but_the_null_block_in_order() {
        let mut pool = BlockPool::new(5);
        assert_eq!(pool.free_blocks(), 4);
        assert_eq!(drain(&mut pool), [1, 2, 3, 4]);
        assert_eq!((pool.free_blocks(), pool.held_blocks()), (0, 4));
        assert_eq!(pool.take(), None);
    }

    #[test]
    fn released_blocks_queue_behind_older_ones() {
        let mut pool = BlockPool::new(5);
        assert_eq!((pool.take(), pool.take()), (Some(1), Some(2)));
        pool.release(2);
        pool.release(1);
        assert_eq!(drain(&mut pool), [3, 4, 2, 1]);
    }

    #[test]
    fn a_block_leaves_the_middle_of_the_queue_when_it_is_held_again() {
        let mut pool = BlockPool::new(5);
        pool.hold(2);
        pool.hold(2);
        assert!(!pool.is_free(2));
        assert_eq!(pool.free_blocks(), 3);
        pool.release(2);
        assert!(!pool.is_free(2), "one holder is left");
        assert_eq!(drain(&mut pool), [1, 3, 4]);
        pool.release(2);
        assert_eq!(drain(&mut pool), [2]);
    }

    #[test]
    #[should_panic(expected = "returned more often")]
    fn a_second_return_is_caught() {
        let mut pool = BlockPool::new(3);
        let block = pool.take().expect("a block is free");
        pool.release(block);
        pool.release(block);
    }

    #[test]
    #[should_panic(expected = "null block")]
    fn the_null_block_is_never_held() {
        BlockPool::new(3).hold(NULL_BLOCK);
    }
}
