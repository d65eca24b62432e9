//! The flat batch of one step: what every operation of the step reads besides its tensors.

/// One sequence's share of the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSequence {
    /// First row in the flat batch.
    pub first_row: usize,
    /// Rows, that is, tokens computed in this step; at least one.
    pub rows: usize,
    /// Tokens computed before this step: the position of `first_row`.
    pub computed: usize,
    /// Start of the sequence's block ids in [`Batch::block_tables`].
    pub first_block: usize,
    /// Blocks of the sequence; they cover `computed + rows` tokens.
    pub blocks: usize,
}

/// All tokens planned for a step, sequence after sequence, prefill and decode mixed.
///
/// The owner clears and refills it each step, so that its vectors keep their capacity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Token ids, `[tokens]`.
    pub tokens: Vec<u32>,
    /// Position of each token in its sequence, `[tokens]`.
    pub positions: Vec<u32>,
    /// The sequences, in row order; their rows cover the batch without gaps.
    pub sequences: Vec<BatchSequence>,
    /// Block ids of all sequences, one table after another.
    pub block_tables: Vec<u32>,
    /// Rows whose logits or hidden states are wanted, ascending.
    pub output_rows: Vec<u32>,
}

impl Batch {
    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.sequences.clear();
        self.block_tables.clear();
        self.output_rows.clear();
    }

    /// Appends a sequence: `tokens` continue it after `computed` tokens, `blocks` hold its keys and values.
    /// Returns its first row.
    pub fn push_sequence(&mut self, tokens: &[u32], computed: usize, blocks: &[u32]) -> usize {
        let first_row = self.tokens.len();
        self.tokens.extend_from_slice(tokens);
        let positions = computed..computed + tokens.len();
        self.positions
            .extend(positions.map(|position| u32::try_from(position).expect("positions are below 2^32")));
        self.sequences.push(BatchSequence {
            first_row,
            rows: tokens.len(),
            computed,
            first_block: self.block_tables.len(),
            blocks: blocks.len(),
        });
        self.block_tables.extend_from_slice(blocks);
        first_row
    }

    /// Number of tokens, the row count of every activation in the step.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.tokens.len()
    }

    /// Copies another batch without giving up memory that this one already has.
    pub fn copy_from(&mut self, other: &Self) {
        self.tokens.clone_from(&other.tokens);
        self.positions.clone_from(&other.positions);
        self.sequences.clone_from(&other.sequences);
        self.block_tables.clone_from(&other.block_tables);
        self.output_rows.clone_from(&other.output_rows);
    }

    /// Holds the batch to what its fields promise. Backends do so in [`crate::Backend::begin_step`]: kernels write to
    /// rows and slots of different workers' sequences without looking again.
    ///
    /// # Panics
    /// The batch was built wrongly.
    #[track_caller]
    pub fn check(&self) {
        assert_eq!(self.positions.len(), self.rows(), "a position for each token");
        let mut rows = 0;
        for sequence in &self.sequences {
            assert_eq!(sequence.first_row, rows, "sequences cover the batch without gaps");
            assert!(sequence.rows > 0, "a sequence has at least one row");
            let last_block = sequence.first_block + sequence.blocks;
            assert!(last_block <= self.block_tables.len(), "a sequence's blocks are in the table");
            rows += sequence.rows;
            assert!(rows <= self.rows(), "sequences do not pass the end of the batch");
            let mut positions = self.positions[sequence.first_row..rows].iter().zip(sequence.computed..);
            let continues = positions.all(|(&found, expected)| found as usize == expected);
            assert!(continues, "positions continue a sequence");
        }
        assert_eq!(rows, self.rows(), "sequences cover the batch");
        assert!(self.output_rows.is_sorted(), "output rows ascend");
        assert!(self.output_rows.last().is_none_or(|&row| (row as usize) < rows), "output rows are rows");
    }

    /// The block ids of one sequence.
    #[must_use]
    pub fn block_table(&self, sequence: &BatchSequence) -> &[u32] {
        &self.block_tables[sequence.first_block..sequence.first_block + sequence.blocks]
    }
}

/// Names the shape of a step: steps with equal keys issue the same operations with the same launch sizes, so that a
/// device may record one and replay it for the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StepKey {
    /// Rows of the batch.
    pub rows: usize,
    /// Rows that the batch has results for.
    pub output_rows: usize,
    /// Those of them whose logits are computed in the step.
    pub logit_rows: usize,
    /// Whether every sequence has exactly one row: the shape that is worth recording.
    pub decode_only: bool,
}

impl StepKey {
    /// The key of a batch in whose step the logits of `logit_rows` rows are computed.
    #[must_use]
    pub fn of(batch: &Batch, logit_rows: usize) -> Self {
        Self {
            rows: batch.rows(),
            output_rows: batch.output_rows.len(),
            logit_rows,
            decode_only: batch.sequences.len() == batch.rows(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> Batch {
        let mut batch = Batch::default();
        batch.push_sequence(&[1, 2, 3], 16, &[4, 5]);
        batch.push_sequence(&[6], 0, &[7]);
        batch.output_rows = vec![2, 3];
        batch
    }

    #[test]
    fn a_copy_is_equal_and_keeps_its_memory() {
        let mut copy = Batch::default();
        copy.push_sequence(&[0; 100], 0, &[1; 7]);
        let place = copy.tokens.as_ptr();
        copy.copy_from(&batch());
        assert_eq!(copy, batch());
        assert_eq!(copy.tokens.as_ptr(), place);
    }

    #[test]
    fn what_breaks_a_promise_is_found() {
        batch().check();
        Batch::default().check();
        let damages: [fn(&mut Batch); 7] = [
            |batch| batch.positions.truncate(3),
            |batch| batch.positions[1] = 16,
            |batch| batch.sequences[1].first_row = 2,
            |batch| batch.sequences[1].rows = 0,
            |batch| batch.sequences[1].blocks = 2,
            |batch| batch.output_rows = vec![4],
            |batch| batch.output_rows = vec![3, 2],
        ];
        for (index, damage) in damages.into_iter().enumerate() {
            let mut batch = batch();
            damage(&mut batch);
            assert!(std::panic::catch_unwind(|| batch.check()).is_err(), "damage {index}");
        }
    }
}
