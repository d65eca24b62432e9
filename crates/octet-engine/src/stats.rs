//! Numbers about the engine, for metrics and logs.

/// Upper bounds of the buckets of [`EngineStats::iteration_tokens`]; one more bucket takes what is above.
pub const ITERATION_TOKEN_BUCKETS: [u64; 13] =
    [1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384];

/// Distribution of the number of tokens in a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IterationTokens {
    /// Steps in each bucket (not cumulative): the first whose bound in [`ITERATION_TOKEN_BUCKETS`] is not exceeded,
    /// or the last.
    pub counts: [u64; ITERATION_TOKEN_BUCKETS.len() + 1],
    /// Tokens of all steps.
    pub sum: u64,
}

impl IterationTokens {
    /// Counts a step.
    pub(crate) fn observe(&mut self, tokens: u64) {
        self.counts[ITERATION_TOKEN_BUCKETS.partition_point(|bound| *bound < tokens)] += 1;
        self.sum += tokens;
    }
}

/// A snapshot of the engine. Counters only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EngineStats {
    /// Sequences that take part in steps.
    pub running: usize,
    /// Requests that wait, preempted ones included.
    pub waiting: usize,
    /// Fraction of the usable blocks that sequences hold, 0 to 1.
    pub kv_cache_usage: f64,
    /// Counter: prompt tokens looked up in the prefix cache.
    pub prefix_cache_queries: u64,
    /// Counter: of these, tokens found.
    pub prefix_cache_hits: u64,
    /// Counter: sequences that lost their blocks to another.
    pub preemptions: u64,
    /// Counter: prompt tokens of sequences whose prompt was completed, from the cache or computed.
    pub prompt_tokens: u64,
    /// Counter: tokens sampled.
    pub generation_tokens: u64,
    /// Counter: steps run.
    pub steps: u64,
    /// Tokens of each step.
    pub iteration_tokens: IterationTokens,
    /// Blocks that requests can use.
    pub capacity_blocks: usize,
    /// Tokens in a block.
    pub block_size: usize,
}
