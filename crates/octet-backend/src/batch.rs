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
    /// Rows whose logits are wanted, ascending.
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
    /// Rows whose logits are wanted.
    pub output_rows: usize,
    /// Whether every sequence has exactly one row: the shape that is worth recording.
    pub decode_only: bool,
}

impl StepKey {
    /// The key of a batch.
    #[must_use]
    pub fn of(batch: &Batch) -> Self {
        Self {
            rows: batch.rows(),
            output_rows: batch.output_rows.len(),
            decode_only: batch.sequences.len() == batch.rows(),
        }
    }
}
