//! What every check does: fill tensors, begin batches, read results back.

use octet_backend::{Backend, Batch, TensorRole, TensorSpec};

/// Rows of the batches that operations without a context are tried with: alone, around the widths of vector registers
/// and tiles, and more than any tile.
pub(crate) const ROWS: [usize; 13] = [1, 2, 3, 5, 6, 7, 8, 13, 16, 17, 33, 64, 130];

/// The largest of [`ROWS`].
pub(crate) const MOST_ROWS: usize = 130;

/// Rows with different contents: the others repeat them, so that the reference computes each only once. No multiple of
/// a tile, so that equal rows meet in different places of their tiles.
pub(crate) const DIFFERENT_ROWS: usize = 37;

/// The first [`MOST_ROWS`] rows of a matrix whose [`DIFFERENT_ROWS`] rows repeat.
pub(crate) fn repeated(columns: usize, values: &[f32]) -> Vec<f32> {
    values.iter().copied().cycle().take(MOST_ROWS * columns).collect()
}

/// A tensor with `values`, as many rows as they fill.
pub(crate) fn filled<B: Backend>(
    backend: &mut B,
    role: TensorRole,
    columns: usize,
    values: &[f32],
) -> B::Tensor {
    let spec = TensorSpec { role, rows: values.len() / columns, columns };
    let mut tensor = backend.allocate(spec).expect("a small tensor");
    backend.write_tensor(&mut tensor, values).expect("values that fill the tensor");
    tensor
}

/// A tensor whose contents must not show: NaN.
pub(crate) fn undefined<B: Backend>(
    backend: &mut B,
    role: TensorRole,
    rows: usize,
    columns: usize,
) -> B::Tensor {
    filled(backend, role, columns, &vec![f32::NAN; rows * columns])
}

/// Begins a step of `rows` tokens of one sequence.
pub(crate) fn begin_rows<B: Backend>(backend: &mut B, rows: usize) {
    begin_tokens(backend, &vec![0; rows]);
}

/// Begins a step with these tokens of one sequence.
pub(crate) fn begin_tokens<B: Backend>(backend: &mut B, tokens: &[u32]) {
    let mut batch = Batch::default();
    let blocks: Vec<u32> = (1..=tokens.len().div_ceil(16) as u32).collect();
    batch.push_sequence(tokens, 0, &blocks);
    batch.output_rows.push(tokens.len() as u32 - 1);
    backend.begin_step(&batch).expect("a batch that the workspace holds");
}

/// The first rows of a tensor.
pub(crate) fn read<B: Backend>(backend: &mut B, tensor: &B::Tensor, rows: usize) -> Vec<f32> {
    backend.read_tensor(tensor, rows).expect("rows that the tensor has")
}
