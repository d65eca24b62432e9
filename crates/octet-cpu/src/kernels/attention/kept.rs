//! Sums of split tiles, kept apart until the last piece is done.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::AcqRel;

use octet_backend::BackendError;

use super::super::cache::Layout;
use super::plan::{Plan, Split};
use super::softmax::RowState;
use super::tile::MAX_PADDED_ROWS;
use crate::memory::AlignedBuffer;

/// Memory for the sums of this many partitions; more are not split.
pub(super) const MAX_KEPT: usize = 512;

/// Where split tiles meet.
pub(super) struct KeptMemory {
    /// For each head and partition `[padded rows, padded_head_dim]`.
    sums: AlignedBuffer<f32>,
    /// For each head and partition `[padded rows]`.
    states: Vec<RowState>,
    /// For each head and split tile, the pieces that are not finished.
    unfinished: Vec<AtomicUsize>,
    padded_head_dim: usize,
}

impl KeptMemory {
    /// Memory for [`MAX_KEPT`] partitions.
    ///
    /// # Errors
    /// No memory.
    pub(super) fn allocate(padded_head_dim: usize) -> Result<Self, BackendError> {
        Ok(Self {
            sums: AlignedBuffer::zeroed(MAX_KEPT * MAX_PADDED_ROWS * padded_head_dim)?,
            states: vec![RowState::EMPTY; MAX_KEPT * MAX_PADDED_ROWS],
            unfinished: (0..MAX_KEPT).map(|_| AtomicUsize::new(0)).collect(),
            padded_head_dim,
        })
    }

    /// The largest head that there is room for.
    pub(super) fn padded_head_dim(&self) -> usize {
        self.padded_head_dim
    }

    /// Lends the memory to an operation.
    pub(super) fn lend(&mut self, plan: &Plan, layout: Layout) -> Kept<'_> {
        let kv_heads = layout.kv_heads;
        assert!(layout.padded_head_dim <= self.padded_head_dim);
        assert!(plan.kept * kv_heads <= MAX_KEPT && plan.splits * kv_heads <= MAX_KEPT);
        for piece in &plan.pieces {
            if let Some(split) = &piece.split {
                for head in 0..kv_heads {
                    *self.unfinished[head * plan.splits + split.index].get_mut() = split.pieces;
                }
            }
        }
        Kept {
            sums: self.sums.as_mut_ptr(),
            states: self.states.as_mut_ptr(),
            unfinished: &self.unfinished,
            padded_head_dim: layout.padded_head_dim,
            partitions: plan.kept,
            splits: plan.splits,
        }
    }
}

/// The memory as one operation uses it.
#[derive(Clone, Copy)]
pub(super) struct Kept<'a> {
    sums: *mut f32,
    states: *mut RowState,
    unfinished: &'a [AtomicUsize],
    padded_head_dim: usize,
    /// Partitions of one head.
    partitions: usize,
    /// Split tiles of one head.
    splits: usize,
}

// SAFETY: it stands for an exclusive borrow of the memory; `partition` asks its callers to keep apart.
unsafe impl Sync for Kept<'_> {}
// SAFETY: as above.
unsafe impl Send for Kept<'_> {}

impl Kept<'_> {
    /// The sums and states of one partition.
    ///
    /// # Safety
    /// One worker at a time uses a partition.
    ///
    /// # Panics
    /// If there is no such partition.
    #[expect(clippy::mut_from_ref, reason = "the caller keeps workers apart")]
    pub(super) unsafe fn partition(&self, head: usize, place: usize) -> (*mut f32, &mut [RowState]) {
        assert!(place < self.partitions);
        let start = (head * self.partitions + place) * MAX_PADDED_ROWS;
        // SAFETY: `lend` checked that all heads' partitions fit.
        unsafe {
            let states = std::slice::from_raw_parts_mut(self.states.add(start), MAX_PADDED_ROWS);
            (self.sums.add(start * self.padded_head_dim), states)
        }
    }

    /// Counts a piece as finished; says whether it was the tile's last, which then sees what the others wrote.
    pub(super) fn finish(&self, head: usize, split: &Split) -> bool {
        self.unfinished[head * self.splits + split.index].fetch_sub(1, AcqRel) == 1
    }
}
