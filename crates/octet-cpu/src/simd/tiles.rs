//! Products of matrix tiles: sixteen rows of inputs times a panel of sixteen outputs, thirty-two columns at once.
//!
//! The arithmetic is that of AMX (Intel's Software Developer's Manual, `TDPBF16PS`): for each sum the products of even
//! columns are one chain of multiply-adds from zero, those of odd columns another, and then both are added to each
//! other and to the sum. A row of inputs meets the same operations whatever the other rows of its tile are.

use super::{LANES, PairDot};

/// Rows of a tile of inputs.
pub(crate) const TILE_ROWS: usize = 16;
/// Columns of a tile.
pub(crate) const TILE_COLUMNS: usize = 32;
/// Bytes of a tile's row: columns in bfloat16, or sums in binary32.
pub(crate) const ROW_BYTES: usize = 64;
/// Bytes of a tile, of inputs, weights or sums alike.
pub(crate) const TILE_BYTES: usize = TILE_ROWS * ROW_BYTES;
/// Floats of a tile of sums.
pub(crate) const TILE_FLOATS: usize = TILE_ROWS * LANES;

/// A computation over tiles.
pub(crate) trait TileKernel {
    /// What it returns.
    type Output;

    /// As [`super::Kernel::run`].
    fn run_tiles<S: TileDot>(self, simd: S) -> Self::Output;
}

/// Operands of a product of tiles.
#[derive(Clone, Copy)]
pub(crate) struct TileOperands {
    /// The first tile of inputs: rows of thirty-two bfloat16 values, in the order of the weights' columns.
    pub inputs: *const u8,
    /// Bytes from a tile of rows to the next.
    pub input_stride: usize,
    /// The first tile of weights: sixteen pairs of columns, each a pair of bfloat16 values for all sixteen outputs.
    pub weights: *const u8,
    /// Bytes from a panel to the next.
    pub panel_stride: usize,
    /// Tiles of columns, one after another in inputs and weights; at least one.
    pub steps: usize,
    /// The sums, `[panels, rows, 16]`.
    pub sums: *mut f32,
    /// Floats from a panel's sums to the next panel's.
    pub sum_stride: usize,
    /// Whether sums go on from what is there, or from zero.
    pub resume: bool,
    /// How far ahead of the product each panel's weights are asked for; only where one tile of rows is multiplied.
    pub ahead_bytes: usize,
}

/// Bytes of memory that [`TileDot::multiply_one_widened`] works in: two tiles for each of four panels.
pub(crate) const WIDENED_BYTES: usize = 2 * 4 * TILE_BYTES;
/// Eight-bit codes of a tile of weights.
pub(crate) const TILE_CODES: usize = TILE_COLUMNS * LANES;
/// Codes that are widened at once: four columns of sixteen outputs. Of each four outputs first come all first two
/// columns, then all other two, as bytes are interleaved most cheaply.
pub(crate) const GROUP_CODES: usize = 4 * LANES;

/// Matrix tiles of one instruction set.
pub(crate) trait TileDot: Copy + Send + Sync + 'static {
    /// The vectors beside the tiles.
    type Vectors: PairDot;

    /// The vectors beside the tiles.
    fn vectors(self) -> Self::Vectors;

    /// Runs a kernel with tiles ready for use: those of inputs and sums have `rows` rows, sixteen at most. Rows that
    /// nobody needs would cost as much as the others.
    fn run_tiles<K: TileKernel>(self, rows: usize, kernel: K) -> K::Output;

    /// Asks for the cache line at `address`, which may be any address, to be brought to the second cache.
    fn ask_for(self, address: *const u8);

    /// One tile of rows times `PANELS` (1, 2 or 4) panels that come from memory.
    ///
    /// # Safety
    /// Called inside [`TileDot::run_tiles`]; all pointers are valid for what [`TileOperands`] says, and nothing else
    /// writes there meanwhile.
    unsafe fn multiply_one<const PANELS: usize>(self, operands: &TileOperands);

    /// Widens [`GROUP_CODES`] E4M3 (or, if `E5M2`, E5M2) codes to bfloat16: columns 0 and 1 of sixteen outputs, then
    /// columns 2 and 3. No NaN or infinity among them.
    ///
    /// # Safety
    /// `source` is valid for reading the codes, `target` for writing twice as many bytes.
    unsafe fn widen_group<const E5M2: bool>(self, source: *const u8, target: *mut u8);

    /// Two rows of sixteen bfloat16 values, one after another, become sixteen pairs.
    ///
    /// # Safety
    /// `source` is valid for reading 64 bytes, `target` for writing as many.
    unsafe fn interleave_bf16(self, source: *const u8, target: *mut u8);

    /// Four rows of sixteen E4M3 (or, if `E5M2`, E5M2) codes, one after another, become sixteen pairs of the first two rows
    /// and sixteen of the other two, in bfloat16. No NaN or infinity among them.
    ///
    /// # Safety
    /// `source` is valid for reading 64 bytes, `target` for writing 128.
    unsafe fn interleave_float8<const E5M2: bool>(self, source: *const u8, target: *mut u8);

    /// As [`TileDot::multiply_one`], with weights in eight bits, `panel_stride` bytes from panel to panel: a tile of
    /// weights is widened into `wide` while the one before it is multiplied.
    ///
    /// # Safety
    /// As of [`TileDot::multiply_one`]; `wide` is valid for [`WIDENED_BYTES`].
    unsafe fn multiply_one_widened<const PANELS: usize, const E5M2: bool>(
        self,
        operands: &TileOperands,
        wide: *mut u8,
    );

    /// Two tiles of rows times `PANELS` (1 or 2) panels that are in the cache.
    ///
    /// # Safety
    /// As of [`TileDot::multiply_one`].
    unsafe fn multiply_two<const PANELS: usize>(self, operands: &TileOperands);
}
