//! Matrix tiles: Intel's AMX, with bfloat16 products.
//!
//! Intrinsics for AMX are not stable yet, assembly is. Tile registers belong to nobody: compilers never touch them, so
//! they live inside [`TileDot::run_tiles`], between the instruction that configures them and the one that gives them
//! back, and every loop that uses them is one block of assembly.

use std::arch::asm;
use std::arch::x86_64::{
    __cpuid_count, __m512i, _MM_HINT_T0, _MM_HINT_T1, _mm_prefetch, _mm512_gf2p8affine_epi64_epi8,
    _mm512_loadu_si512, _mm512_mask_permutexvar_epi8, _mm512_permutexvar_epi8, _mm512_permutexvar_epi16,
    _mm512_set1_epi8, _mm512_set1_epi64, _mm512_storeu_si512, _mm512_ternarylogic_epi32,
    _mm512_testn_epi8_mask, _mm512_unpackhi_epi8, _mm512_unpacklo_epi8,
};

use super::LANES;
use super::avx512::Avx512Bf16;
use super::portable::float8_to_bf16;
use super::tiles::{
    GROUP_CODES, ROW_BYTES, TILE_BYTES, TILE_CODES, TILE_ROWS, TileDot, TileKernel, TileOperands,
};

/// Proof that the processor has AMX with bfloat16 and AVX-512 as [`Avx512Bf16`] says, and that the system lets this
/// process use tiles.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Amx {
    vectors: Avx512Bf16,
}

impl Amx {
    /// Asks the processor, and the system for its permission.
    pub(crate) fn detect() -> Option<Self> {
        let vectors = Avx512Bf16::detect()?;
        // Leaf 7, EDX: bit 22 AMX-BF16, bit 24 AMX-TILE (Intel's Software Developer's Manual, CPUID).
        let features = __cpuid_count(7, 0).edx;
        let has_tiles =
            features >> 22 & 1 == 1 && features >> 24 & 1 == 1 && is_x86_feature_detected!("gfni");
        (has_tiles && may_use_tiles()).then_some(Self { vectors })
    }

    /// The vectors beside the tiles.
    pub(crate) fn vectors(self) -> Avx512Bf16 {
        self.vectors
    }
}

/// Asks the system once for the tiles' state, which is too large to be in every process.
#[cfg(target_os = "linux")]
fn may_use_tiles() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call takes two integers and changes nothing but what this process may use.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn may_use_tiles() -> bool {
    false
}

/// The operand of `LDTILECFG`: palette 1, eight tiles of rows of 64 bytes.
#[repr(C, align(64))]
struct TileConfiguration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl TileConfiguration {
    /// Tiles 2 and 3 hold weights and are whole; the others have `rows` rows.
    const fn new(rows: u8) -> Self {
        let whole = TILE_ROWS as u8;
        let mut row_bytes = [0; 16];
        let mut tile = 0;
        while tile < 8 {
            row_bytes[tile] = ROW_BYTES as u16;
            tile += 1;
        }
        let rows = [rows, rows, whole, whole, rows, rows, rows, rows, 0, 0, 0, 0, 0, 0, 0, 0];
        Self { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
    }
}

/// A loop over `steps` tiles of columns: the tiles of sums are loaded or cleared, then `step` runs for each tile of
/// columns and pointers go on to the next, then the sums are stored.
macro_rules! tile_loop {
    (
        $operands:ident,
        sums: [$($sum:literal at $place:literal),+],
        step: [$($step:expr),+ $(,)?],
        advance: {$($name:ident = $pointer:expr),+ $(,)?},
        $(fixed: {$($fixed:ident = $value:expr),+ $(,)?},)?
    ) => {
        asm!(
            "test {resume}, {resume}",
            "jz 2f",
            $(concat!("tileloadd ", $sum, ", [", $place, " + {row}]"),)+
            "jmp 3f",
            "2:",
            $(concat!("tilezero ", $sum),)+
            "3:",
            $($step,)+
            $(concat!("add {", stringify!($name), "}, 1024"),)+
            "dec {steps}",
            "jnz 3b",
            $(concat!("tilestored [", $place, " + {row}], ", $sum),)+
            $($name = inout(reg) $pointer => _,)+
            $($($fixed = in(reg) $value,)+)?
            resume = in(reg) usize::from($operands.resume),
            row = in(reg) ROW_BYTES,
            steps = inout(reg) $operands.steps => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        )
    };
}

/// Asks for the sixteen lines of the tile of weights that is `{ahead}` bytes after a pointer.
macro_rules! ask_for_tile {
    ($pointer:literal) => {
        ask_for_tile!($pointer: "0" "64" "128" "192" "256" "320" "384" "448" "512" "576" "640" "704" "768" "832" "896" "960")
    };
    ($pointer:literal: $($offset:literal)+) => {
        concat!($("prefetcht0 [{", $pointer, "} + {ahead} + ", $offset, "]\n"),+)
    };
}

/// One instruction on tiles.
macro_rules! tile {
    (clear $tile:tt) => {
        asm!(concat!("tilezero ", $tile), out($tile) _, options(nostack, nomem))
    };
    (load $tile:tt, $place:expr) => {
        asm!(
            concat!("tileloadd ", $tile, ", [{place} + {row}]"),
            place = in(reg) $place, row = in(reg) ROW_BYTES, out($tile) _, options(nostack, readonly),
        )
    };
    (store $tile:tt, $place:expr) => {
        asm!(
            concat!("tilestored [{place} + {row}], ", $tile),
            place = in(reg) $place, row = in(reg) ROW_BYTES, options(nostack),
        )
    };
    (multiply $sum:tt, $inputs:tt, $weights:tt) => {
        asm!(concat!("tdpbf16ps ", $sum, ", ", $inputs, ", ", $weights), out($sum) _, options(nostack, nomem))
    };
}

/// Exact widening of eight-bit codes by a matrix over single bits, which is right for all normal numbers, and by
/// tables for zero and subnormal ones.
struct Widening<const E5M2: bool>;

impl<const E5M2: bool> Widening<E5M2> {
    /// Bits that are zero in zero and subnormal numbers: the exponent.
    const EXPONENT: u8 = if E5M2 { 0x7C } else { 0x78 };
    /// The upper byte of the bfloat16: the sign and all but the last bit of the exponent. The exponent's bias is
    /// larger by 120 (or 112), which adds 60 (or 56) here: the first bit of the old exponent stays, and the bits below
    /// it are its opposite.
    const UPPER: u64 =
        if E5M2 { bit_matrix([7, 6, 6, 6, 6, 5, 4, 3]) } else { bit_matrix([7, 6, 6, 6, 6, 6, 5, 4]) };
    /// What is added to each bit of it.
    const UPPER_OPPOSITES: i32 = if E5M2 { 0b0011_1000 } else { 0b0011_1100 };
    /// The lower byte: the last bit of the exponent, then the mantissa.
    const LOWER: u64 =
        if E5M2 { bit_matrix([2, 1, 0, 8, 8, 8, 8, 8]) } else { bit_matrix([3, 2, 1, 0, 8, 8, 8, 8]) };
    /// Bytes of zero and of the subnormal numbers.
    const SMALL_UPPER: [u8; 64] = small_bytes::<E5M2>(true);
    const SMALL_LOWER: [u8; 64] = small_bytes::<E5M2>(false);
}

/// The operand of `GF2P8AFFINEQB` that makes bits 7 to 0 of each byte from the given bits of the source; 8 is none.
const fn bit_matrix(sources: [u32; 8]) -> u64 {
    let mut matrix = 0;
    let mut index = 0;
    while index < 8 {
        // Byte i of the operand is the row for bit 7 - i.
        if sources[index] < 8 {
            matrix |= 1_u64 << (sources[index] as usize + 8 * index);
        }
        index += 1;
    }
    matrix
}

/// Places 0, 16, 1, 17 and so on.
const fn interleaved() -> [u16; 32] {
    let mut places = [0; 32];
    let mut index = 0;
    while index < 32 {
        places[index] = (index / 2 + index % 2 * LANES) as u16;
        index += 1;
    }
    places
}

/// Where the codes of a group stand in four rows of sixteen, one row for each of its columns: in every 16 codes of a group
/// are four outputs, first their columns 0 and 1, then 2 and 3.
const fn rows_as_group() -> [u8; 64] {
    let mut places = [0; 64];
    let mut index = 0;
    while index < 64 {
        let (output, column) = (index / 16 * 4 + index % 8 / 2, index % 16 / 8 * 2 + index % 2);
        places[index] = (column * LANES + output) as u8;
        index += 1;
    }
    places
}

/// Upper or lower bytes of the bfloat16 values of codes that have a zero exponent, and no sign.
const fn small_bytes<const E5M2: bool>(upper: bool) -> [u8; 64] {
    let mut table = [0; 64];
    let mut code = 0;
    while code < (if E5M2 { 4 } else { 8 }) {
        table[code] = float8_to_bf16::<E5M2>(code as u8).to_le_bytes()[upper as usize];
        code += 1;
    }
    table
}

impl TileDot for Amx {
    type Vectors = Avx512Bf16;

    #[inline(always)]
    fn vectors(self) -> Avx512Bf16 {
        self.vectors
    }

    #[inline(always)]
    fn run_tiles<K: TileKernel>(self, rows: usize, kernel: K) -> K::Output {
        assert!((1..=TILE_ROWS).contains(&rows), "{rows} rows of a tile");
        // SAFETY: an `Amx` exists, so the processor has the features, and this process may use tiles.
        unsafe { enter_tiles(self, &TileConfiguration::new(rows as u8), kernel) }
    }

    #[inline(always)]
    fn ask_for(self, address: *const u8) {
        // SAFETY: a prefetch of any address does nothing that can be seen.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
    }

    #[inline(always)]
    unsafe fn multiply_one<const PANELS: usize>(self, operands: &TileOperands) {
        let TileOperands { inputs, ahead_bytes: ahead, .. } = *operands;
        let weights = |panel: usize| operands.weights.wrapping_add(panel * operands.panel_stride);
        let sums = |panel: usize| operands.sums.wrapping_add(panel * operands.sum_stride);
        // SAFETY: the caller's promise; tile registers are configured, and used by nothing else.
        unsafe {
            match PANELS {
                1 => tile_loop!(
                    operands,
                    sums: ["tmm4" at "{s0}"],
                    step: [
                        ask_for_tile!("b0"),
                        "tileloadd tmm0, [{a} + {row}]",
                        "tileloadd tmm2, [{b0} + {row}]",
                        "tdpbf16ps tmm4, tmm0, tmm2",
                    ],
                    advance: { a = inputs, b0 = weights(0) },
                    fixed: { s0 = sums(0), ahead = ahead },
                ),
                2 => tile_loop!(
                    operands,
                    sums: ["tmm4" at "{s0}", "tmm5" at "{s1}"],
                    step: [
                        ask_for_tile!("b0"),
                        "tileloadd tmm0, [{a} + {row}]",
                        "tileloadd tmm2, [{b0} + {row}]",
                        "tdpbf16ps tmm4, tmm0, tmm2",
                        ask_for_tile!("b1"),
                        "tileloadd tmm3, [{b1} + {row}]",
                        "tdpbf16ps tmm5, tmm0, tmm3",
                    ],
                    advance: { a = inputs, b0 = weights(0), b1 = weights(1) },
                    fixed: { s0 = sums(0), s1 = sums(1), ahead = ahead },
                ),
                _ => tile_loop!(
                    operands,
                    sums: ["tmm4" at "{s0}", "tmm5" at "{s1}", "tmm6" at "{s2}", "tmm7" at "{s3}"],
                    step: [
                        ask_for_tile!("b0"),
                        "tileloadd tmm0, [{a} + {row}]",
                        "tileloadd tmm2, [{b0} + {row}]",
                        "tdpbf16ps tmm4, tmm0, tmm2",
                        ask_for_tile!("b1"),
                        "tileloadd tmm3, [{b1} + {row}]",
                        "tdpbf16ps tmm5, tmm0, tmm3",
                        ask_for_tile!("b2"),
                        "tileloadd tmm2, [{b2} + {row}]",
                        "tdpbf16ps tmm6, tmm0, tmm2",
                        ask_for_tile!("b3"),
                        "tileloadd tmm3, [{b3} + {row}]",
                        "tdpbf16ps tmm7, tmm0, tmm3",
                    ],
                    advance: {
                        a = inputs, b0 = weights(0), b1 = weights(1), b2 = weights(2), b3 = weights(3),
                    },
                    fixed: { s0 = sums(0), s1 = sums(1), s2 = sums(2), s3 = sums(3), ahead = ahead },
                ),
            }
        }
    }

    #[inline(always)]
    unsafe fn widen_group<const E5M2: bool>(self, source: *const u8, target: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { self.widen_codes::<E5M2>(_mm512_loadu_si512(source.cast()), target) }
    }

    #[inline(always)]
    unsafe fn interleave_bf16(self, source: *const u8, target: *mut u8) {
        /// Element i of the first row, then of the second.
        const PAIRS: [u16; 32] = interleaved();
        // SAFETY: the caller's promise, the proof of detection, and an array of 64 bytes.
        unsafe {
            let order = _mm512_loadu_si512(PAIRS.as_ptr().cast());
            let pairs = _mm512_permutexvar_epi16(order, _mm512_loadu_si512(source.cast()));
            _mm512_storeu_si512(target.cast(), pairs);
        }
    }

    #[inline(always)]
    unsafe fn interleave_float8<const E5M2: bool>(self, source: *const u8, target: *mut u8) {
        /// The order of codes that widening makes pairs of rows from.
        const GROUP: [u8; 64] = rows_as_group();
        // SAFETY: the caller's promise, the proof of detection, and an array of 64 bytes.
        unsafe {
            let order = _mm512_loadu_si512(GROUP.as_ptr().cast());
            let codes = _mm512_permutexvar_epi8(order, _mm512_loadu_si512(source.cast()));
            self.widen_codes::<E5M2>(codes, target);
        }
    }

    #[inline(always)]
    unsafe fn multiply_one_widened<const PANELS: usize, const E5M2: bool>(
        self,
        operands: &TileOperands,
        wide: *mut u8,
    ) {
        // SAFETY: the caller's promise; tile registers are configured, and used by nothing else: no compiler puts
        // anything there, so they keep their values from one instruction to the next.
        unsafe {
            let sums = |panel: usize| operands.sums.wrapping_add(panel * operands.sum_stride);
            sums_from::<PANELS>(operands.resume, sums);
            for panel in 0..PANELS {
                self.widen_tile::<PANELS, E5M2>(operands, wide, panel, 0);
            }
            for step in 0..operands.steps {
                let weights = |panel: usize| wide.add((step % 2 * PANELS + panel) * TILE_BYTES);
                let goes_on = step + 1 < operands.steps;
                tile!(load "tmm0", operands.inputs.add(step * TILE_BYTES));
                tile!(load "tmm2", weights(0));
                tile!(multiply "tmm4", "tmm0", "tmm2");
                if goes_on {
                    self.widen_tile::<PANELS, E5M2>(operands, wide, 0, step + 1);
                }
                if PANELS > 1 {
                    tile!(load "tmm3", weights(1));
                    tile!(multiply "tmm5", "tmm0", "tmm3");
                    if goes_on {
                        self.widen_tile::<PANELS, E5M2>(operands, wide, 1, step + 1);
                    }
                }
                if PANELS > 2 {
                    tile!(load "tmm2", weights(2));
                    tile!(multiply "tmm6", "tmm0", "tmm2");
                    if goes_on {
                        self.widen_tile::<PANELS, E5M2>(operands, wide, 2, step + 1);
                    }
                    tile!(load "tmm3", weights(3));
                    tile!(multiply "tmm7", "tmm0", "tmm3");
                    if goes_on {
                        self.widen_tile::<PANELS, E5M2>(operands, wide, 3, step + 1);
                    }
                }
            }
            sums_to::<PANELS>(sums);
        }
    }

    #[inline(always)]
    unsafe fn multiply_two<const PANELS: usize>(self, operands: &TileOperands) {
        let (first, second) = (operands.inputs, operands.inputs.wrapping_add(operands.input_stride));
        let weights = |panel: usize| operands.weights.wrapping_add(panel * operands.panel_stride);
        let sums = |panel: usize| operands.sums.wrapping_add(panel * operands.sum_stride);
        // SAFETY: the caller's promise; tile registers are configured, and used by nothing else.
        unsafe {
            match PANELS {
                1 => tile_loop!(
                    operands,
                    sums: ["tmm4" at "{s0}", "tmm6" at "1024 + {s0}"],
                    step: [
                        "tileloadd tmm2, [{b0} + {row}]",
                        "tileloadd tmm0, [{a0} + {row}]",
                        "tdpbf16ps tmm4, tmm0, tmm2",
                        "tileloadd tmm1, [{a1} + {row}]",
                        "tdpbf16ps tmm6, tmm1, tmm2",
                    ],
                    advance: { a0 = first, a1 = second, b0 = weights(0) },
                    fixed: { s0 = sums(0) },
                ),
                _ => tile_loop!(
                    operands,
                    sums: [
                        "tmm4" at "{s0}", "tmm5" at "{s1}", "tmm6" at "1024 + {s0}", "tmm7" at "1024 + {s1}"
                    ],
                    step: [
                        "tileloadd tmm0, [{a0} + {row}]",
                        "tileloadd tmm2, [{b0} + {row}]",
                        "tdpbf16ps tmm4, tmm0, tmm2",
                        "tileloadd tmm3, [{b1} + {row}]",
                        "tdpbf16ps tmm5, tmm0, tmm3",
                        "tileloadd tmm1, [{a1} + {row}]",
                        "tdpbf16ps tmm6, tmm1, tmm2",
                        "tdpbf16ps tmm7, tmm1, tmm3",
                    ],
                    advance: { a0 = first, a1 = second, b0 = weights(0), b1 = weights(1) },
                    fixed: { s0 = sums(0), s1 = sums(1) },
                ),
            }
        }
    }
}

impl Amx {
    /// As [`TileDot::widen_group`], of codes in a register.
    ///
    /// # Safety
    /// `target` is valid for writing 128 bytes.
    #[inline(always)]
    unsafe fn widen_codes<const E5M2: bool>(self, codes: __m512i, target: *mut u8) {
        // SAFETY: the caller's promise, the proof of detection, and tables of 64 bytes.
        unsafe {
            let upper_matrix = _mm512_set1_epi64(Widening::<E5M2>::UPPER.cast_signed());
            let lower_matrix = _mm512_set1_epi64(Widening::<E5M2>::LOWER.cast_signed());
            let upper = if E5M2 {
                _mm512_gf2p8affine_epi64_epi8::<{ Widening::<true>::UPPER_OPPOSITES }>(codes, upper_matrix)
            } else {
                _mm512_gf2p8affine_epi64_epi8::<{ Widening::<false>::UPPER_OPPOSITES }>(codes, upper_matrix)
            };
            let lower = _mm512_gf2p8affine_epi64_epi8::<0>(codes, lower_matrix);
            let exponents = _mm512_set1_epi8(Widening::<E5M2>::EXPONENT.cast_signed());
            let small = _mm512_testn_epi8_mask(codes, exponents);
            let small_upper = _mm512_loadu_si512(Widening::<E5M2>::SMALL_UPPER.as_ptr().cast());
            let small_lower = _mm512_loadu_si512(Widening::<E5M2>::SMALL_LOWER.as_ptr().cast());
            // The tables know no sign, and lower bytes have none.
            let signs = _mm512_set1_epi8(0x80_u8.cast_signed());
            let upper = _mm512_mask_permutexvar_epi8(upper, small, codes, small_upper);
            let upper = _mm512_ternarylogic_epi32::<0b1101_1000>(upper, codes, signs);
            let lower = _mm512_mask_permutexvar_epi8(lower, small, codes, small_lower);
            _mm512_storeu_si512(target.cast(), _mm512_unpacklo_epi8(lower, upper));
            _mm512_storeu_si512(target.add(ROW_BYTES).cast(), _mm512_unpackhi_epi8(lower, upper));
        }
    }

    /// Widens one tile of a panel's weights into its place in `wide`, where steps take turns.
    ///
    /// # Safety
    /// As of [`TileDot::multiply_one_widened`].
    #[inline(always)]
    unsafe fn widen_tile<const PANELS: usize, const E5M2: bool>(
        self,
        operands: &TileOperands,
        wide: *mut u8,
        panel: usize,
        step: usize,
    ) {
        // SAFETY: the caller's promise: a tile of codes, and room for two tiles of each panel.
        unsafe {
            let codes = operands.weights.add(panel * operands.panel_stride + step * TILE_CODES);
            let target = wide.add((step % 2 * PANELS + panel) * TILE_BYTES);
            for group in 0..TILE_CODES / GROUP_CODES {
                let codes = codes.add(group * GROUP_CODES);
                _mm_prefetch::<_MM_HINT_T0>(codes.wrapping_add(operands.ahead_bytes).cast());
                self.widen_group::<E5M2>(codes, target.add(group * 2 * GROUP_CODES));
            }
        }
    }
}

/// Loads the tiles of sums of one tile of rows, or clears them.
///
/// # Safety
/// Tiles are configured; `sums` gives places that are valid for reading a tile.
#[inline(always)]
unsafe fn sums_from<const PANELS: usize>(resume: bool, sums: impl Fn(usize) -> *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        if !resume {
            tile!(clear "tmm4");
            tile!(clear "tmm5");
            tile!(clear "tmm6");
            tile!(clear "tmm7");
            return;
        }
        tile!(load "tmm4", sums(0));
        if PANELS > 1 {
            tile!(load "tmm5", sums(1));
        }
        if PANELS > 2 {
            tile!(load "tmm6", sums(2));
            tile!(load "tmm7", sums(3));
        }
    }
}

/// Stores what [`sums_from`] loaded.
///
/// # Safety
/// As of [`sums_from`], for writing.
#[inline(always)]
unsafe fn sums_to<const PANELS: usize>(sums: impl Fn(usize) -> *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        tile!(store "tmm4", sums(0));
        if PANELS > 1 {
            tile!(store "tmm5", sums(1));
        }
        if PANELS > 2 {
            tile!(store "tmm6", sums(2));
            tile!(store "tmm7", sums(3));
        }
    }
}

/// Runs a kernel of tiles with the instruction sets enabled and the tiles configured.
///
/// # Safety
/// The processor has AVX-512 F, BW, VL, DQ, BF16 and VBMI, GFNI, AVX2, FMA, F16C and AMX, and the process may use tiles.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vbmi,gfni,avx2,fma,f16c")]
unsafe fn enter_tiles<K: TileKernel>(simd: Amx, tiles: &TileConfiguration, kernel: K) -> K::Output {
    // SAFETY: the operand is as the instruction wants it; the system has given permission.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const *tiles, options(nostack, readonly)) };
    let output = kernel.run_tiles(simd);
    // Tiles that are not given back are saved at every switch of threads.
    // SAFETY: nothing is left in the tiles.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
    output
}
