//! Paged attention: every query row over its sequence's cached keys and values.
//!
//! The query heads that share a KV head, and several rows of a prefill, go through one pass over the keys and values
//! (a tile). Keys come in partitions of a fixed size: scores of a partition, its softmax, its weighted sum of values;
//! then partitions are joined in order. All boundaries are positions in the sequence, and every sum is a chain in the
//! order of dimensions or tokens, so a row's result does not depend, to the bit, on the batch, on how the prompt was
//! cut into chunks, or on the number of workers.
//!
//! - `plan`: which tiles, for which worker;
//! - `tile`: a tile from its queries to its output;
//! - `micro`: the two inner products in vectors; `matrix`: the same in matrix tiles;
//! - `softmax`: weights of a partition, and joining partitions;
//! - `kept`: where the pieces of a split tile meet.

mod kept;
mod matrix;
mod micro;
mod plan;
mod softmax;
mod tile;

#[cfg(test)]
mod tests;

use std::sync::{Mutex, PoisonError};

use octet_backend::{AttentionSpec, BackendError, Batch};

use self::kept::{KeptMemory, MAX_KEPT};
use self::plan::{Plan, Shape};
use self::tile::{Operands, Scratch, Tile};
use super::cache::{CpuKvCache, Layout, with_storage};
use super::rows::SharedRows;
use super::storage::Storage;
use crate::isa::Isa;
use crate::threads::Pool;

/// Memory and plan of the operation, kept from one call to the next.
pub(crate) struct Attention {
    /// One for each worker.
    scratch: Vec<Mutex<Scratch>>,
    kept: KeptMemory,
    plan: Plan,
    /// The step and shape that the plan was made for: layers share it.
    planned: Option<(u64, Shape)>,
}

/// Operands of one operation.
pub(crate) struct AttentionCall<'a> {
    pub(crate) batch: &'a Batch,
    /// Counts steps, so that the plan of a step is made once.
    pub(crate) step: u64,
    pub(crate) attention: AttentionSpec,
    /// `[rows, (query_heads + 2 * kv_heads) * head_dim]`.
    pub(crate) qkv: &'a [f32],
    pub(crate) cache: &'a CpuKvCache,
    /// `[rows, query_heads * head_dim]`.
    pub(crate) output: &'a mut [f32],
}

impl Attention {
    /// For this many workers, and as yet no cache.
    ///
    /// # Errors
    /// No memory.
    pub(crate) fn new(workers: usize) -> Result<Self, BackendError> {
        let scratch = (0..workers).map(|_| Scratch::allocate(0).map(Mutex::new));
        Ok(Self {
            scratch: scratch.collect::<Result<_, _>>()?,
            kept: KeptMemory::allocate(0)?,
            plan: Plan::default(),
            planned: None,
        })
    }

    /// Makes room for heads of a cache.
    ///
    /// # Errors
    /// No memory.
    pub(crate) fn reserve(&mut self, layout: Layout) -> Result<(), BackendError> {
        if layout.padded_head_dim > self.kept.padded_head_dim() {
            for scratch in &mut self.scratch {
                *scratch = Mutex::new(Scratch::allocate(layout.padded_head_dim)?);
            }
            self.kept = KeptMemory::allocate(layout.padded_head_dim)?;
        }
        Ok(())
    }

    /// Runs the operation.
    pub(crate) fn run(&mut self, pool: &Pool, isa: Isa, call: AttentionCall<'_>) {
        let layout = call.cache.layout;
        let shape = Shape {
            group: call.attention.query_heads / layout.kv_heads,
            kv_heads: layout.kv_heads,
            sliding_window: call.attention.sliding_window,
            workers: pool.workers(),
            kept_partitions: MAX_KEPT,
        };
        if self.planned != Some((call.step, shape)) {
            self.plan.refill(call.batch, shape);
            self.planned = Some((call.step, shape));
        }
        with_storage!(call.cache.kind, K => self.run_stored::<K>(pool, isa, call));
    }

    fn run_stored<K: Storage>(&mut self, pool: &Pool, isa: Isa, call: AttentionCall<'_>) {
        let AttentionCall { batch, attention, qkv, cache, output, .. } = call;
        let layout = cache.layout;
        let operands = Operands::<K> {
            batch,
            attention,
            layout,
            elements: cache.layer::<K>(attention.layer),
            scale: cache.scale(attention.layer),
            qkv,
            qkv_width: (attention.query_heads + 2 * layout.kv_heads) * layout.head_dim,
            output: SharedRows::new(output, attention.query_heads * layout.head_dim),
            kept: self.kept.lend(&self.plan, layout),
            isa,
            rows_at_once: rows_at_once(isa),
        };
        let (pieces, scratch) = (&self.plan.pieces, &self.scratch);
        pool.run_tasks(pieces.len() * layout.kv_heads, &|worker, task| {
            // A head's tiles follow each other, so that its keys are still in the cache for the next one.
            let (head, piece) = (task / pieces.len(), &pieces[task % pieces.len()]);
            // A panic in a task cannot leave scratch that the next one would trust.
            let mut scratch = scratch[worker].lock().unwrap_or_else(PoisonError::into_inner);
            Tile::new(&operands, piece, head, &mut scratch).run();
        });
    }
}

/// Rows of sixteen sums that fit the registers beside a vector of keys and a query.
fn rows_at_once(isa: Isa) -> usize {
    match isa.level() {
        #[cfg(target_arch = "x86_64")]
        crate::isa::Level::Avx512(_) | crate::isa::Level::Avx512Bf16(_) | crate::isa::Level::Amx(_) => 12,
        _ => 6,
    }
}
