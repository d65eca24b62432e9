//! One tile of queries against the keys and values of one KV head.

use std::ops::Range;

use octet_backend::{AttentionSpec, BackendError, Batch, BatchSequence, KvScale};

use super::super::cache::{Layout, PANEL};
use super::super::rows::SharedRows;
use super::super::storage::Storage;
use super::kept::Kept;
use super::matrix::{self, PackQueries, Panels, TileScores, TileSums};
use super::micro::{self, MOST_DIRECT_ROWS, Prefetch, ROW_COUNTS, Scores, Values, Widen};
use super::plan::{MAX_ROWS, PARTITION, Piece, visible};
use super::softmax::{Merge, RowState, Softmax};
use crate::isa::Isa;
use crate::memory::AlignedBuffer;
use crate::simd::tiles::TILE_ROWS;

/// Rows of a tile after its groups are rounded up.
pub(super) const MAX_PADDED_ROWS: usize = MAX_ROWS + 8;

/// A worker's own memory, as large as the largest tile needs.
pub(crate) struct Scratch {
    /// For each group `[head_dim, rows]`.
    queries: AlignedBuffer<f32>,
    /// For each group `[panels, rows, 16]`.
    scores: AlignedBuffer<f32>,
    /// Sums over one partition, for each group `[tiles, rows, 16]`.
    part: AlignedBuffer<f32>,
    /// Sums over the partitions so far.
    total: AlignedBuffer<f32>,
    /// A panel of keys or values as `f32`, or several in tiles.
    widened: AlignedBuffer<f32>,
    /// Weights in tiles.
    rounded: AlignedBuffer<f32>,
}

impl Scratch {
    /// Scratch for heads of at most this size.
    ///
    /// # Errors
    /// No memory.
    pub(crate) fn allocate(padded_head_dim: usize) -> Result<Self, BackendError> {
        let sums = MAX_PADDED_ROWS * padded_head_dim;
        let in_tiles = matrix::widened_floats(padded_head_dim);
        Ok(Self {
            queries: AlignedBuffer::zeroed(sums.max(matrix::query_floats(MAX_ROWS, padded_head_dim)))?,
            scores: AlignedBuffer::zeroed(MAX_PADDED_ROWS * PARTITION)?,
            part: AlignedBuffer::zeroed(sums)?,
            total: AlignedBuffer::zeroed(sums)?,
            widened: AlignedBuffer::zeroed(in_tiles.max(PANEL * padded_head_dim))?,
            rounded: AlignedBuffer::zeroed(matrix::weight_floats(MAX_ROWS))?,
        })
    }
}

/// How many panels ahead of the one in use the next are asked for. Memory answers in the time of about one panel, and
/// the processor's own prefetchers stop at the end of a page, which a head's part of a block hardly fills.
const PANELS_AHEAD: usize = 2;

/// Operands that all tiles of one operation share.
pub(super) struct Operands<'a, K: Storage> {
    pub(super) batch: &'a Batch,
    pub(super) attention: AttentionSpec,
    pub(super) layout: Layout,
    /// The layer's keys and values.
    pub(super) elements: &'a [K::Element],
    pub(super) scale: KvScale,
    /// `[rows, qkv_width]`.
    pub(super) qkv: &'a [f32],
    pub(super) qkv_width: usize,
    /// `[rows, query_heads * head_dim]`.
    pub(super) output: SharedRows<'a>,
    /// Sums of split tiles.
    pub(super) kept: Kept<'a>,
    pub(super) isa: Isa,
    /// Rows that the inner products take at once.
    pub(super) rows_at_once: usize,
}

impl<K: Storage> Operands<'_, K> {
    /// Query heads that share a KV head.
    fn group(&self) -> usize {
        self.attention.query_heads / self.layout.kv_heads
    }

    /// Vectors of a padded head.
    fn tiles(&self) -> usize {
        self.layout.padded_head_dim / PANEL
    }
}

/// Rows that the inner products take together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RowGroup {
    /// First row within the tile.
    first: usize,
    /// Rows that count.
    rows: usize,
    /// Rows computed: one of [`ROW_COUNTS`], or whole tiles.
    size: usize,
    /// Rows computed in the groups before.
    base: usize,
}

/// Rows that vectors compute where `rows` of them count.
fn compiled_size(rows: usize) -> usize {
    ROW_COUNTS.into_iter().find(|&size| size >= rows).unwrap_or(rows)
}

/// Rows that matrix tiles have room for.
fn whole_tiles(rows: usize) -> usize {
    rows.next_multiple_of(TILE_ROWS)
}

/// Cuts the rows of a tile into groups of at most `at_once`, of which `size` says how many rows are computed.
fn row_groups(
    rows: usize,
    at_once: usize,
    size: fn(usize) -> usize,
) -> impl Iterator<Item = RowGroup> + Clone {
    let mut next = RowGroup { first: 0, rows: 0, size: 0, base: 0 };
    std::iter::from_fn(move || {
        next.first += next.rows;
        next.base += next.size;
        let left = rows - next.first;
        // The last two groups share what is left, since a single row keeps the pipeline half empty.
        next.rows = match left {
            0 => return None,
            _ if left >= 2 * at_once => at_once,
            _ if left > at_once => left.div_ceil(2),
            _ => left,
        };
        next.size = size(next.rows);
        Some(next)
    })
}

/// Where a layout has the keys or the values of a block's head and panel.
type PanelPlace = fn(&Layout, u32, usize, usize) -> usize;

/// How products are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Vectors; panels are widened in registers: few rows in one group.
    Direct,
    /// Vectors; each panel is widened once, for many rows.
    Widened,
    /// Matrix tiles; all rows are one group.
    Tiles,
}

/// A tile at work: one piece of it, for one KV head. The last piece of a tile writes its output.
pub(super) struct Tile<'a, K: Storage> {
    operands: &'a Operands<'a, K>,
    sequence: BatchSequence,
    table: &'a [u32],
    piece: &'a Piece,
    head: usize,
    scratch: &'a mut Scratch,
    way: Way,
    /// Panels of the sequence that the tile sees.
    panels: usize,
}

impl<'a, K: Storage> Tile<'a, K> {
    /// Prepares a piece.
    pub(super) fn new(
        operands: &'a Operands<'a, K>,
        piece: &'a Piece,
        head: usize,
        scratch: &'a mut Scratch,
    ) -> Self {
        let sequence = operands.batch.sequences[piece.sequence];
        let table = operands.batch.block_table(&sequence);
        let way = if K::ON_TILES && operands.isa.has_tiles() {
            Way::Tiles
        } else if piece.rows.len() <= MOST_DIRECT_ROWS.min(operands.rows_at_once) {
            Way::Direct
        } else {
            Way::Widened
        };
        let last_row = (piece.rows.end - 1) / operands.group();
        let panels = (sequence.computed + last_row + 1).div_ceil(PANEL);
        Self { operands, sequence, table, piece, head, scratch, way, panels }
    }

    /// Computes the piece.
    pub(super) fn run(&mut self) {
        self.pack_queries();
        let mut totals = [RowState::EMPTY; MAX_PADDED_ROWS];
        let mut parts = [RowState::EMPTY; MAX_PADDED_ROWS];
        let Some(split) = &self.piece.split else {
            for partition in self.piece.partitions.clone() {
                let sums = self.scratch.part.as_mut_ptr();
                self.partition(partition, sums, &mut parts);
                self.merge(sums, &parts, &mut totals);
            }
            return self.write_output(&totals);
        };
        let kept = self.operands.kept;
        for partition in self.piece.partitions.clone() {
            let place = split.first_kept + partition - split.partitions.start;
            // SAFETY: this partition of this tile and head is this piece's alone until it is counted as finished.
            let (sums, states) = unsafe { kept.partition(self.head, place) };
            self.partition(partition, sums, states);
        }
        if !kept.finish(self.head, split) {
            return;
        }
        for place in 0..split.partitions.len() {
            // SAFETY: all pieces of the tile are finished, and this one joins them.
            let (sums, states) = unsafe { kept.partition(self.head, split.first_kept + place) };
            self.merge(sums, states, &mut totals);
        }
        self.write_output(&totals);
    }

    fn row_groups(&self) -> impl Iterator<Item = RowGroup> + Clone + use<K> {
        let rows = self.piece.rows.len();
        if self.way == Way::Tiles {
            return row_groups(rows, MAX_ROWS, whole_tiles);
        }
        row_groups(rows, self.operands.rows_at_once, compiled_size)
    }

    /// The positions that a row of the tile sees.
    fn visible(&self, row: usize) -> Range<usize> {
        let position = self.sequence.computed + (self.piece.rows.start + row) / self.operands.group();
        visible(position, self.operands.attention.sliding_window)
    }

    /// The row of the batch and the query head of a row of the tile.
    fn place(&self, row: usize) -> (usize, usize) {
        let (row, group) = (self.piece.rows.start + row, self.operands.group());
        (self.sequence.first_row + row / group, self.head * group + row % group)
    }

    /// The query of a row of the tile, `[head_dim]`.
    fn query(&self, row: usize) -> &'a [f32] {
        let operands = self.operands;
        let (batch_row, query_head) = self.place(row);
        let start = batch_row * operands.qkv_width + query_head * operands.layout.head_dim;
        &operands.qkv[start..start + operands.layout.head_dim]
    }

    /// Factor on the products of queries and keys as they are kept.
    fn score_factor(&self) -> f32 {
        self.operands.attention.scale * self.operands.scale.key
    }

    /// Factor on weights, which values that are loaded with a factor of their own need.
    fn weight_factor(&self) -> f32 {
        if self.way == Way::Tiles { 1.0 } else { K::BEFORE }
    }

    /// Lays the queries out as the inner product reads them, `[head_dim, rows]` for each group, or tiles.
    fn pack_queries(&mut self) {
        if self.way == Way::Tiles {
            for row in 0..self.piece.rows.len() {
                let (query, factor) = (self.query(row), self.score_factor());
                let target = &mut self.scratch.queries;
                self.operands.isa.run_beside_tiles(PackQueries { query, factor, row, target });
            }
            return;
        }
        let head_dim = self.operands.layout.head_dim;
        for group in self.row_groups() {
            for row in 0..group.rows {
                let query = self.query(group.first + row);
                let packed = &mut self.scratch.queries[group.base * head_dim..][..group.size * head_dim];
                for (slot, &value) in packed[row..].iter_mut().step_by(group.size).zip(query) {
                    *slot = value * K::BEFORE;
                }
            }
        }
    }

    /// Start of the keys or values of a panel of the sequence.
    fn panel(&self, panel: usize, place: PanelPlace) -> *const K::Element {
        let layout = &self.operands.layout;
        let in_block = layout.block_size / PANEL;
        let start = place(layout, self.table[panel / in_block], self.head, panel % in_block);
        self.operands.elements[start..].as_ptr()
    }

    /// Asks for a panel that will be read soon: keys or values, whose panels have the same size but for padding.
    fn prefetch(&self, panel: usize, place: PanelPlace) {
        if panel < self.panels {
            let bytes = PANEL * self.operands.layout.head_dim * size_of::<K::Element>();
            self.operands.isa.run(Prefetch { start: self.panel(panel, place).cast(), bytes });
        }
    }

    /// Weights and weighted sums over one partition. States of rows that see none of it are empty.
    fn partition(&mut self, partition: usize, sums: *mut f32, states: &mut [RowState]) {
        let rows = self.piece.rows.len();
        let start = (partition * PARTITION).max(self.visible(0).start);
        let end = ((partition + 1) * PARTITION).min(self.visible(rows - 1).end);
        if start >= end {
            return states.fill(RowState::EMPTY);
        }
        let panels = start / PANEL..end.div_ceil(PANEL);
        match self.way {
            Way::Direct => self.scores_direct(panels.clone()),
            Way::Widened => self.scores_widened(panels.clone()),
            Way::Tiles => self.scores_in_tiles(panels.clone()),
        }
        for group in self.row_groups() {
            for row in 0..group.rows {
                let origin = panels.start * PANEL;
                let seen = self.visible(group.first + row);
                let seen = seen.start.max(start)..seen.end.min(end);
                let visible = if seen.is_empty() { 0..0 } else { seen.start - origin..seen.end - origin };
                let scores = self.scratch.scores[group.base * PARTITION + row * PANEL..].as_mut_ptr();
                states[group.base + row] = self.operands.isa.run(Softmax {
                    scores,
                    stride: group.size * PANEL,
                    panels: panels.len(),
                    visible,
                    cap: self.operands.attention.score_cap,
                    factor: self.weight_factor(),
                });
            }
        }
        match self.way {
            Way::Direct | Way::Widened => self.weighted_sums(start..end, panels, sums),
            Way::Tiles => self.sums_in_tiles(start..end, panels, sums),
        }
    }

    fn score_operands(&mut self, group: RowGroup, panel: usize) -> Scores {
        let layout = self.operands.layout;
        let scores = group.base * PARTITION + panel * group.size * PANEL;
        Scores {
            queries: self.scratch.queries[group.base * layout.head_dim..].as_ptr(),
            head_dim: layout.head_dim,
            factor: self.score_factor() * K::AFTER,
            scores: self.scratch.scores[scores..].as_mut_ptr(),
        }
    }

    /// Few rows: keys are widened in registers, several panels side by side.
    fn scores_direct(&mut self, panels: Range<usize>) {
        let Some(group) = self.row_groups().next() else { return };
        let at_once = micro::panels_at_once(group.size);
        let mut panel = panels.start;
        while panel < panels.end {
            let count = if panels.end - panel >= at_once { at_once } else { 1 };
            let mut keys = [std::ptr::null(); 4];
            for (offset, keys) in keys[..count].iter_mut().enumerate() {
                *keys = self.panel(panel + offset, Layout::key_panel);
            }
            for ahead in panel + PANELS_AHEAD..panel + count + PANELS_AHEAD {
                if ahead < panels.end {
                    self.prefetch(ahead, Layout::key_panel);
                } else {
                    self.prefetch(panels.start + ahead - panels.end, Layout::value_panel);
                }
            }
            let operands = self.score_operands(group, panel - panels.start);
            // SAFETY: the panels lie in the sequence's blocks; scratch has room for a partition of every group.
            unsafe { micro::scores::<K>(self.operands.isa, group.size, operands, &keys, count) };
            panel += count;
        }
    }

    /// Many rows: each panel is widened once.
    fn scores_widened(&mut self, panels: Range<usize>) {
        for panel in panels.clone() {
            let source = self.panel(panel, Layout::key_panel);
            let keys = self.widen(source, self.operands.layout.head_dim);
            for group in self.row_groups() {
                let operands = self.score_operands(group, panel - panels.start);
                // SAFETY: as above; the widened panel has a vector for each dimension.
                unsafe { micro::scores_widened(self.operands.isa, group.size, operands, keys) };
            }
        }
    }

    /// A panel as `f32`, the load's factor left in.
    fn widen(&mut self, source: *const K::Element, vectors: usize) -> *const f32 {
        let target = self.scratch.widened.as_mut_ptr();
        self.operands.isa.run(Widen::<K> { source, target, vectors });
        target
    }

    /// `sums = weights · values` over the tokens of a partition, for every group `[tiles, rows, 16]`.
    fn weighted_sums(&mut self, tokens: Range<usize>, panels: Range<usize>, sums: *mut f32) {
        let (tiles, padded) = (self.operands.tiles(), self.operands.layout.padded_head_dim);
        let rows = self.row_groups().map(|group| group.size).sum::<usize>();
        // SAFETY: the sums have room for the padded rows of a tile.
        unsafe { sums.write_bytes(0, rows * padded) };
        for panel in panels.clone() {
            let origin = panel * PANEL;
            // Slots past the last token may hold anything, even NaN, which a weight of zero would not hide.
            let tokens = tokens.start.max(origin) - origin..tokens.end.min(origin + PANEL) - origin;
            let source = self.panel(panel, Layout::value_panel);
            let ahead = panel + PANELS_AHEAD;
            if self.way == Way::Direct {
                // After the last values come the next partition's keys.
                let place = if ahead < panels.end { Layout::value_panel } else { Layout::key_panel };
                self.prefetch(ahead, place);
            }
            let widened = (self.way == Way::Widened).then(|| self.widen(source, padded));
            for group in self.row_groups() {
                let weights = group.base * PARTITION + (panel - panels.start) * group.size * PANEL;
                let weights = self.scratch.scores[weights..].as_ptr();
                // SAFETY: as above.
                let sums = unsafe { sums.add(group.base * padded) };
                let tokens = tokens.clone();
                // SAFETY: weights and sums are scratch of this group's shape, the values a panel of the cache or
                // its widened copy.
                unsafe {
                    match widened {
                        Some(values) => {
                            let operands = Values { weights, values, tokens, sums, tiles };
                            micro::values_widened(self.operands.isa, group.size, operands);
                        }
                        None => {
                            let operands = Values { weights, values: source, tokens, sums, tiles };
                            micro::values::<K>(self.operands.isa, group.size, operands);
                        }
                    }
                }
            }
        }
    }

    /// The panels of a partition, and after them the ones that will be read next.
    fn panels(
        &self,
        panels: Range<usize>,
        place: PanelPlace,
        next: (usize, PanelPlace),
    ) -> Panels<K::Element> {
        let (next_panel, next_place) = next;
        let mut result = Panels { starts: [std::ptr::null(); _], count: panels.len() };
        for (index, start) in result.starts.iter_mut().enumerate() {
            let after = (index + panels.start).checked_sub(panels.end).map(|offset| next_panel + offset);
            match after {
                None => *start = self.panel(panels.start + index, place),
                Some(after) if after < self.panels => *start = self.panel(after, next_place),
                Some(_) => {}
            }
        }
        result
    }

    fn scores_in_tiles(&mut self, panels: Range<usize>) {
        let Some(group) = self.row_groups().next() else { return };
        let keys = self.panels(panels.clone(), Layout::key_panel, (panels.start, Layout::value_panel));
        let kernel = TileScores::<K> {
            queries: self.scratch.queries.as_ptr(),
            rows: group.size,
            head_dim: self.operands.layout.head_dim,
            keys: &keys,
            scores: self.scratch.scores.as_mut_ptr(),
            widened: self.scratch.widened.as_mut_ptr(),
        };
        self.operands.isa.run_tiles(group.rows.min(TILE_ROWS), kernel);
    }

    fn sums_in_tiles(&mut self, tokens: Range<usize>, panels: Range<usize>, sums: *mut f32) {
        let Some(group) = self.row_groups().next() else { return };
        let values = self.panels(panels.clone(), Layout::value_panel, (panels.end, Layout::key_panel));
        let origin = panels.start * PANEL;
        let kernel = TileSums::<K> {
            weights: self.scratch.scores.as_ptr(),
            rows: group.size,
            values: &values,
            starts_odd: panels.start % 2 == 1,
            tokens: tokens.start - origin..tokens.end - origin,
            tiles: self.operands.tiles(),
            sums,
            rounded: self.scratch.rounded.as_mut_ptr(),
            widened: self.scratch.widened.as_mut_ptr(),
        };
        self.operands.isa.run_tiles(group.rows.min(TILE_ROWS), kernel);
    }

    /// Joins a partition's sums to the total.
    fn merge(&mut self, sums: *const f32, states: &[RowState], totals: &mut [RowState]) {
        let (tiles, padded) = (self.operands.tiles(), self.operands.layout.padded_head_dim);
        for group in self.row_groups() {
            for row in 0..group.rows {
                let start = group.base * padded + row * PANEL;
                let state = group.base + row;
                totals[state] = self.operands.isa.run(Merge {
                    total: self.scratch.total[start..].as_mut_ptr(),
                    total_state: totals[state],
                    // SAFETY: the sums have the shape of the total.
                    part: unsafe { sums.add(start) },
                    part_state: states[state],
                    stride: group.size * PANEL,
                    tiles,
                });
            }
        }
    }

    /// Divides by the sum of weights and writes the tile's part of the output.
    fn write_output(&mut self, totals: &[RowState]) {
        let layout = self.operands.layout;
        for group in self.row_groups() {
            for row in 0..group.rows {
                let (batch_row, query_head) = self.place(group.first + row);
                let columns = query_head * layout.head_dim..(query_head + 1) * layout.head_dim;
                // SAFETY: each row and head of the output belongs to one tile.
                let output = unsafe { self.operands.output.part(batch_row, columns) };
                let weights = if self.way == Way::Tiles { 1.0 } else { K::AFTER * K::BEFORE };
                let factor = weights * self.operands.scale.value / totals[group.base + row].sum;
                let start = group.base * layout.padded_head_dim + row * PANEL;
                let sums = self.scratch.total[start..].chunks(group.size * PANEL);
                for (output, sums) in output.chunks_mut(PANEL).zip(sums) {
                    for (output, sum) in output.iter_mut().zip(sums) {
                        *output = sum * factor;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_cover_the_rows_with_compiled_sizes() {
        for at_once in [6, 12] {
            for rows in 1..=MAX_ROWS {
                let mut next = RowGroup { first: 0, rows: 0, size: 0, base: 0 };
                for group in row_groups(rows, at_once, compiled_size) {
                    assert_eq!((group.first, group.base), (next.first + next.rows, next.base + next.size));
                    assert!(ROW_COUNTS.contains(&group.size) && group.size >= group.rows);
                    assert!(group.size <= at_once);
                    next = group;
                }
                assert_eq!(next.first + next.rows, rows);
                assert!(next.base + next.size <= MAX_PADDED_ROWS);
            }
        }
    }
}
