//! Softmax over one partition, and how partitions are joined.

use std::ops::Range;

use super::super::cache::PANEL;
use crate::simd::{Kernel, Simd, math};

/// What is left of a row's softmax over some keys: its largest score, and the sum of `exp(score - largest)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct RowState {
    /// Minus infinity if the row saw no key.
    pub(super) largest: f32,
    /// Times [`super::super::storage::Storage::BEFORE`].
    pub(super) sum: f32,
}

impl RowState {
    /// No key seen.
    pub(super) const EMPTY: Self = Self { largest: f32::NEG_INFINITY, sum: 0.0 };
}

/// Turns the scores of one row into weights, `factor * exp(score - largest)`; what the row does not see weighs zero.
pub(super) struct Softmax {
    /// `[panels, 16]`, panels `stride` values apart.
    pub(super) scores: *mut f32,
    pub(super) stride: usize,
    pub(super) panels: usize,
    /// Tokens that the row sees, counted from the first panel's.
    pub(super) visible: Range<usize>,
    /// If set, bounds scores before all else.
    pub(super) cap: Option<f32>,
    pub(super) factor: f32,
}

impl Softmax {
    /// Hides the lanes of the edge panels that the row does not see, and zeroes panels beyond them. Returns the panels
    /// between.
    ///
    /// # Safety
    /// The scores are valid as described.
    unsafe fn mask(&self) -> Range<usize> {
        let seen = self.visible.start / PANEL..self.visible.end.div_ceil(PANEL);
        for panel in (0..self.panels).filter(|panel| !seen.contains(panel)) {
            // SAFETY: the panel is one of `panels`.
            unsafe { self.scores.add(panel * self.stride).write_bytes(0, PANEL) };
        }
        let hidden_before = seen.start * PANEL..self.visible.start;
        let hidden_after = self.visible.end..seen.end * PANEL;
        for token in hidden_before.chain(hidden_after) {
            let place = token / PANEL * self.stride + token % PANEL;
            // SAFETY: the token lies in one of the panels.
            unsafe { self.scores.add(place).write(f32::NEG_INFINITY) };
        }
        seen
    }
}

impl Kernel for Softmax {
    type Output = RowState;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> RowState {
        if self.visible.is_empty() {
            for panel in 0..self.panels {
                // SAFETY: the panel is one of `panels`.
                unsafe { self.scores.add(panel * self.stride).write_bytes(0, PANEL) };
            }
            return RowState::EMPTY;
        }
        if let Some(cap) = self.cap {
            for panel in self.visible.start / PANEL..self.visible.end.div_ceil(PANEL) {
                // SAFETY: the panel is one of `panels`.
                unsafe {
                    let place = self.scores.add(panel * self.stride);
                    simd.store(place, math::cap(simd, simd.load(place), cap));
                }
            }
        }
        // SAFETY: the code that makes this struct provides valid scores.
        let seen = unsafe { self.mask() };
        let mut largest = simd.splat(f32::NEG_INFINITY);
        for panel in seen.clone() {
            // SAFETY: the panel is one of `panels`.
            largest = simd.max(largest, unsafe { simd.load(self.scores.add(panel * self.stride)) });
        }
        let largest = simd.reduce_max(largest);
        let mut sum = simd.splat(0.0);
        for panel in seen {
            // SAFETY: the panel is one of `panels`.
            unsafe {
                let place = self.scores.add(panel * self.stride);
                let weight = math::exp(simd, simd.subtract(simd.load(place), simd.splat(largest)));
                let weight = simd.multiply(weight, simd.splat(self.factor));
                simd.store(place, weight);
                sum = simd.add(sum, weight);
            }
        }
        RowState { largest, sum: simd.reduce_add(sum) }
    }
}

/// Joins one row's sums over a partition to those over the partitions before it.
pub(super) struct Merge {
    /// `[tiles, 16]`, tiles `stride` values apart.
    pub(super) total: *mut f32,
    pub(super) total_state: RowState,
    /// As `total`.
    pub(super) part: *const f32,
    pub(super) part_state: RowState,
    pub(super) stride: usize,
    pub(super) tiles: usize,
}

impl Kernel for Merge {
    type Output = RowState;

    /// Partitions without a visible key change nothing, and the first one with some is taken as it is, so that the
    /// result depends on the row's own keys alone.
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> RowState {
        let (total, part) = (self.total_state, self.part_state);
        if part == RowState::EMPTY {
            return total;
        }
        let is_first = total == RowState::EMPTY;
        let largest = if total.largest > part.largest { total.largest } else { part.largest };
        let (keep, add) = ((total.largest - largest).exp(), (part.largest - largest).exp());
        for tile in 0..self.tiles {
            // SAFETY: the code that makes this struct provides sums with `tiles` vectors.
            unsafe {
                let place = self.total.add(tile * self.stride);
                let new = simd.load(self.part.add(tile * self.stride));
                let joined = if is_first {
                    new
                } else {
                    let kept = simd.multiply(simd.load(place), simd.splat(keep));
                    simd.multiply_add(new, simd.splat(add), kept)
                };
                simd.store(place, joined);
            }
        }
        if is_first {
            return part;
        }
        RowState { largest, sum: part.sum.mul_add(add, total.sum * keep) }
    }
}
