//! Matrix tiles: Intel's AMX, with bfloat16 products.
//!
//! Intrinsics for AMX are not stable yet, assembly is. Tile registers belong to nobody: compilers never touch them, so
//! they live inside [`TileDot::run_tiles`], between the instruction that configures them and the one that gives them
//! back, and every loop that uses them is one block of assembly.

use std::arch::asm;
use std::arch::x86_64::{
    __cpuid_count, __m512bh, __m512i, _MM_HINT_T1, _mm_prefetch, _mm512_cvtne2ps_pbh, _mm512_loadu_ps,
    _mm512_shufflehi_epi16, _mm512_shufflelo_epi16,
};
use std::mem::transmute;

use super::LANES;
use super::avx512::Avx512Bf16;
use super::tiles::{ROW_BYTES, TILE_ROWS, TileDot, TileKernel, TileOperands};

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
        let has_tiles = features >> 22 & 1 == 1 && features >> 24 & 1 == 1;
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

/// The operand of `LDTILECFG`: palette 1, eight tiles of sixteen rows of 64 bytes.
#[repr(C, align(64))]
struct TileConfiguration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static WHOLE_TILES: TileConfiguration = {
    let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
    let mut tile = 0;
    while tile < 8 {
        row_bytes[tile] = ROW_BYTES as u16;
        rows[tile] = TILE_ROWS as u8;
        tile += 1;
    }
    TileConfiguration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
};

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

impl TileDot for Amx {
    type Vectors = Avx512Bf16;

    #[inline(always)]
    fn vectors(self) -> Avx512Bf16 {
        self.vectors
    }

    #[inline(always)]
    fn run_tiles<K: TileKernel>(self, kernel: K) -> K::Output {
        // SAFETY: an `Amx` exists, so the processor has the features, and this process may use tiles.
        unsafe { enter_tiles(self, kernel) }
    }

    #[inline(always)]
    fn ask_for(self, address: *const u8) {
        // SAFETY: a prefetch of any address does nothing that can be seen.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
    }

    #[inline(always)]
    unsafe fn round_to_bf16(self, source: *const f32) -> __m512i {
        // SAFETY: the caller's promise, and the proof of detection.
        unsafe {
            let (first, second) = (_mm512_loadu_ps(source), _mm512_loadu_ps(source.add(LANES)));
            transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second, first))
        }
    }

    #[inline(always)]
    fn alternate_pairs(self, bits: __m512i) -> __m512i {
        // SAFETY: the proof of detection exists; only registers are touched.
        unsafe { _mm512_shufflehi_epi16::<0b11_01_10_00>(_mm512_shufflelo_epi16::<0b11_01_10_00>(bits)) }
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

/// Runs a kernel of tiles with the instruction sets enabled and the tiles configured.
///
/// # Safety
/// The processor has AVX-512 F, BW, VL, DQ, BF16 and VBMI, AVX2, FMA, F16C and AMX, and the process may use tiles.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vbmi,avx2,fma,f16c")]
unsafe fn enter_tiles<K: TileKernel>(simd: Amx, kernel: K) -> K::Output {
    // SAFETY: the operand is as the instruction wants it; the system has given permission.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const WHOLE_TILES, options(nostack, readonly)) };
    let output = kernel.run_tiles(simd);
    // Tiles that are not given back are saved at every switch of threads.
    // SAFETY: nothing is left in the tiles.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
    output
}
