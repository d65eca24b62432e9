//! The step's batch on the device: one transfer.

use octet_backend::{BackendError, Batch};

use crate::GpuError;
use crate::backend::parameters::size;
use crate::driver::{Device, DeviceBuffer, Event, HostBuffer, Stream};

/// Words of a sequence: first row, rows, computed, first block. `Sequence` in `device.h`.
const SEQUENCE_WORDS: usize = 4;
const WORD_BYTES: usize = size_of::<u32>();

/// The batch as kernels read it. Its arrays lie one after another, so that batches of one key have them at the same
/// places: block tables, whose length varies, come last.
pub(super) struct DeviceBatch {
    staging: HostBuffer,
    words: DeviceBuffer,
    /// The last transfer: until then the staging memory must not change.
    sent: Event,
    is_sending: bool,
    /// Addresses of the arrays.
    pub(super) tokens: u64,
    pub(super) positions: u64,
    pub(super) row_sequence: u64,
    pub(super) output_rows: u64,
    pub(super) sequences: u64,
    pub(super) block_tables: u64,
    /// What the host must know of it.
    pub(super) facts: Facts,
}

/// Properties of a batch that operations are checked against.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) rows: usize,
    pub(super) output_rows: usize,
    pub(super) largest_token: u32,
    pub(super) largest_block: u32,
    /// The longest context after the step, in tokens.
    pub(super) longest_context: usize,
    /// Tokens and blocks of the sequence that has the fewest blocks for its tokens.
    tightest: (usize, usize),
}

impl Facts {
    fn of(batch: &Batch) -> Self {
        let tokens = |sequence: &octet_backend::BatchSequence| sequence.computed + sequence.rows;
        let tightest = batch
            .sequences
            .iter()
            .map(|sequence| (tokens(sequence), sequence.blocks))
            .max_by(|one, other| (one.0 * other.1.max(1)).cmp(&(other.0 * one.1.max(1))));
        Self {
            rows: batch.rows(),
            output_rows: batch.output_rows.len(),
            largest_token: batch.tokens.iter().copied().max().unwrap_or(0),
            largest_block: batch.block_tables.iter().copied().max().unwrap_or(0),
            longest_context: batch.sequences.iter().map(tokens).max().unwrap_or(0),
            tightest: tightest.unwrap_or((0, 0)),
        }
    }

    /// Fails if the batch's tables name blocks that a cache does not have, or too few.
    pub(super) fn check_cache(&self, blocks: usize, block_size: usize) -> Result<(), BackendError> {
        if self.largest_block as usize >= blocks {
            let value = self.largest_block as usize;
            return Err(BackendError::Limit {
                what: "a KV block's id",
                value,
                limit: blocks.saturating_sub(1),
            });
        }
        let (tokens, held) = self.tightest;
        if tokens > held * block_size {
            return Err(BackendError::Limit {
                what: "a sequence's number of tokens",
                value: tokens,
                limit: held * block_size,
            });
        }
        Ok(())
    }

    /// Fails if a token has no row in an embedding.
    pub(super) fn check_tokens(&self, rows: usize) -> Result<(), BackendError> {
        if (self.largest_token as usize) < rows {
            return Ok(());
        }
        let value = self.largest_token as usize;
        Err(BackendError::Limit { what: "a token id", value, limit: rows.saturating_sub(1) })
    }
}

/// Words that a batch takes.
fn words_of(batch: &Batch) -> usize {
    3 * batch.rows()
        + batch.output_rows.len()
        + SEQUENCE_WORDS * batch.sequences.len()
        + batch.block_tables.len()
}

impl DeviceBatch {
    pub(super) fn new(device: &Device, words: usize) -> Result<Self, GpuError> {
        Ok(Self {
            staging: HostBuffer::new(device, words * WORD_BYTES)?,
            words: DeviceBuffer::new(device, "the batch", words * WORD_BYTES)?,
            sent: Event::new(device)?,
            is_sending: false,
            tokens: 0,
            positions: 0,
            row_sequence: 0,
            output_rows: 0,
            sequences: 0,
            block_tables: 0,
            facts: Facts::default(),
        })
    }

    /// Makes room for a batch. Returns whether its memory moved, so that recorded steps are void.
    pub(super) fn reserve(&mut self, stream: &Stream, batch: &Batch) -> Result<bool, GpuError> {
        let needed = words_of(batch);
        if needed * WORD_BYTES <= self.words.bytes() {
            return Ok(false);
        }
        stream.wait()?;
        *self = Self::new(stream.device(), needed.next_power_of_two())?;
        Ok(true)
    }

    /// Sends a batch for which room was made.
    pub(super) fn send(&mut self, stream: &Stream, batch: &Batch) -> Result<(), GpuError> {
        if self.is_sending {
            self.sent.wait()?;
        }
        let base = self.words.address();
        let mut writer = Writer { bytes: self.staging.as_bytes_mut(), words: 0, base };
        self.tokens = writer.append(batch.tokens.iter().copied());
        self.positions = writer.append(batch.positions.iter().copied());
        let rows_of = batch.sequences.iter().enumerate();
        self.row_sequence = writer
            .append(rows_of.flat_map(|(index, sequence)| std::iter::repeat_n(size(index), sequence.rows)));
        self.output_rows = writer.append(batch.output_rows.iter().copied());
        self.sequences = writer.append(batch.sequences.iter().flat_map(|sequence| {
            [sequence.first_row, sequence.rows, sequence.computed, sequence.first_block].map(size)
        }));
        self.block_tables = writer.append(batch.block_tables.iter().copied());
        let bytes = writer.words * WORD_BYTES;
        self.words.write_pinned(stream, 0, &self.staging, bytes)?;
        self.sent.record(stream)?;
        self.is_sending = true;
        self.facts = Facts::of(batch);
        Ok(())
    }
}

/// Appends arrays of words and says where they will be on the device.
struct Writer<'a> {
    bytes: &'a mut [u8],
    words: usize,
    base: u64,
}

impl Writer<'_> {
    fn append(&mut self, values: impl Iterator<Item = u32>) -> u64 {
        let address = self.base + (self.words * WORD_BYTES) as u64;
        for value in values {
            let start = self.words * WORD_BYTES;
            self.bytes[start..start + WORD_BYTES].copy_from_slice(&value.to_le_bytes());
            self.words += 1;
        }
        address
    }
}
