//! Inputs in the order in which tiles read them.

use half::bf16;

use super::plan::Tiles;

/// What one 32-bit input of a step is, and which columns it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InputOrder {
    /// One column, as binary32.
    Columns,
    /// Columns 2n and 2n + 1, rounded to bfloat16.
    Pairs,
    /// Columns 4n and 4n + 2, then 4n + 1 and 4n + 3, rounded to bfloat16.
    AlternatePairs,
}

impl InputOrder {
    /// Columns of one step.
    pub(super) const fn columns_per_step(self) -> usize {
        match self {
            Self::Columns => 1,
            Self::Pairs | Self::AlternatePairs => 2,
        }
    }

    /// The columns of a step that multiplies a pair.
    fn pair(self, step: usize) -> [usize; 2] {
        match self {
            Self::Columns | Self::Pairs => [2 * step, 2 * step + 1],
            Self::AlternatePairs => {
                let first = 4 * (step / 2) + step % 2;
                [first, first + 2]
            }
        }
    }
}

/// A matrix of inputs, `[rows, columns]`, to be arranged for tiles.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    /// Row-major values.
    pub values: &'a [f32],
    /// Columns of a row.
    pub columns: usize,
    /// How steps read it.
    pub order: InputOrder,
    /// A power of two that every value is multiplied by.
    pub factor: f32,
}

impl Input<'_> {
    /// Writes the inputs of one tile for steps `steps` to `target`, `[steps, rows of the tile]`. Columns past the end
    /// are zero.
    pub(super) fn pack(&self, tiles: Tiles, tile: usize, steps: std::ops::Range<usize>, target: &mut [f32]) {
        /// Steps whose part of `target` surely stays in the first cache while row after row is spread over it.
        const CHUNK: usize = 256;
        let rows = tiles.rows_of(tile);
        for first in steps.clone().step_by(CHUNK) {
            let chunk = first..steps.end.min(first + CHUNK);
            let start = (first - steps.start) * rows;
            for row in 0..rows {
                let source = (tiles.first_row(tile) + row) * self.columns;
                let source = &self.values[source..source + self.columns];
                let target = &mut target[start + row..];
                match self.order {
                    InputOrder::Columns => self.pack_columns(source, chunk.clone(), target, rows),
                    InputOrder::Pairs | InputOrder::AlternatePairs => {
                        self.pack_pairs(source, chunk.clone(), target, rows);
                    }
                }
            }
        }
    }

    fn pack_columns(&self, source: &[f32], steps: std::ops::Range<usize>, target: &mut [f32], rows: usize) {
        let present = &source[steps.start.min(source.len())..steps.end.min(source.len())];
        let (values, padding) = target.split_at_mut(target.len().min(present.len() * rows));
        if rows == 1 {
            for (target, value) in values.iter_mut().zip(present) {
                *target = value * self.factor;
            }
        } else {
            for (target, value) in values.chunks_mut(rows).zip(present) {
                target[0] = value * self.factor;
            }
        }
        let missing = steps.len() - present.len();
        padding.iter_mut().step_by(rows).take(missing).for_each(|target| *target = 0.0);
    }

    fn pack_pairs(&self, source: &[f32], steps: std::ops::Range<usize>, target: &mut [f32], rows: usize) {
        for (target, step) in target.iter_mut().step_by(rows).zip(steps) {
            let [low, high] = self.order.pair(step).map(|column| {
                let value = source.get(column).copied().unwrap_or(0.0) * self.factor;
                u32::from(bf16::from_f32(value).to_bits())
            });
            *target = f32::from_bits(low | high << 16);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(order: InputOrder, rows: usize, columns: usize, steps: usize) -> Vec<f32> {
        let values: Vec<f32> = (0..rows * columns).map(|index| index as f32).collect();
        let input = Input { values: &values, columns, order, factor: 2.0 };
        let mut target = vec![f32::NAN; rows * steps];
        input.pack(Tiles::new(rows), 0, 0..steps, &mut target);
        target
    }

    #[test]
    fn columns_are_interleaved_and_padded() {
        assert_eq!(packed(InputOrder::Columns, 2, 3, 4), [0.0, 6.0, 2.0, 8.0, 4.0, 10.0, 0.0, 0.0]);
        assert_eq!(packed(InputOrder::Columns, 1, 3, 4), [0.0, 2.0, 4.0, 0.0]);
    }

    #[test]
    fn pairs_hold_the_lower_column_in_the_lower_half() {
        let pairs = |order, steps| -> Vec<[f32; 2]> {
            let halves = |pair: f32| [pair.to_bits() << 16, pair.to_bits() & 0xFFFF_0000].map(f32::from_bits);
            packed(order, 1, 7, steps).into_iter().map(halves).collect()
        };
        assert_eq!(pairs(InputOrder::Pairs, 4), [[0.0, 2.0], [4.0, 6.0], [8.0, 10.0], [12.0, 0.0]]);
        assert_eq!(pairs(InputOrder::AlternatePairs, 4), [[0.0, 4.0], [2.0, 6.0], [8.0, 12.0], [10.0, 0.0]]);
    }
}
