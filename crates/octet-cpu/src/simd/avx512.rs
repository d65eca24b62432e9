//! Sixteen lanes in one 512-bit register: AVX-512, and its dot products of bfloat16 pairs.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _CMP_LT_OQ, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEAREST_INT, _MM_HINT_T0,
    _mm_add_ps, _mm_add_ss, _mm_cvtsi32_si128, _mm_cvtss_f32, _mm_loadu_si128, _mm_max_ps, _mm_max_ss,
    _mm_movehl_ps, _mm_prefetch, _mm_shuffle_ps, _mm256_add_ps, _mm256_and_si256, _mm256_castps256_ps128,
    _mm256_cvtepi8_epi16, _mm256_extractf128_ps, _mm256_loadu_si256, _mm256_max_ps, _mm256_set1_epi16,
    _mm256_sll_epi16, _mm512_add_epi32, _mm512_add_ps, _mm512_and_si512, _mm512_castps_si512,
    _mm512_castps512_ps256, _mm512_castsi512_ps, _mm512_cmp_ps_mask, _mm512_cvtepi8_epi32,
    _mm512_cvtepi32_ps, _mm512_cvtepu16_epi32, _mm512_cvtne2ps_pbh, _mm512_cvtph_ps, _mm512_cvtps_epi32,
    _mm512_div_ps, _mm512_dpbf16_ps, _mm512_extractf32x8_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_mask_blend_ps, _mm512_max_ps, _mm512_min_ps, _mm512_mul_ps, _mm512_or_si512,
    _mm512_permutex2var_epi8, _mm512_roundscale_ps, _mm512_set1_epi16, _mm512_set1_epi32, _mm512_set1_ps,
    _mm512_slli_epi16, _mm512_slli_epi32, _mm512_sllv_epi16, _mm512_sllv_epi32, _mm512_srav_epi16,
    _mm512_srli_epi16, _mm512_storeu_ps, _mm512_storeu_si512, _mm512_sub_ps,
};
use std::mem::transmute;

use super::portable::float8_to_bf16;
use super::{Kernel, PairDot, PairKernel, Simd};

/// Proof that the processor has AVX-512 F, BW, VL and DQ (and with it AVX2, FMA and F16C), and, if `PAIR_DOT`, BF16
/// and VBMI.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Level<const PAIR_DOT: bool> {
    _detected: (),
}

/// AVX-512 as of 2017.
pub(crate) type Avx512 = Level<false>;

/// AVX-512 with dot products of bfloat16 pairs and byte permutes across the whole register.
pub(crate) type Avx512Bf16 = Level<true>;

impl<const PAIR_DOT: bool> Level<PAIR_DOT> {
    /// Asks the processor.
    pub(crate) fn detect() -> Option<Self> {
        let base = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && super::Avx2::detect().is_some();
        let pairs = is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512vbmi");
        (base && (pairs || !PAIR_DOT)).then_some(Self { _detected: () })
    }
}

impl Avx512Bf16 {
    /// The same processor without the extension: for kernels that have no use for it, so that they need not be compiled
    /// twice.
    pub(crate) fn without_pairs(self) -> Avx512 {
        Level { _detected: self._detected }
    }
}

/// Runs a kernel with the instruction set enabled.
///
/// # Safety
/// The processor has AVX-512 F, BW, VL, DQ, AVX2, FMA and F16C.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
unsafe fn enter<S: Simd, K: Kernel>(simd: S, kernel: K) -> K::Output {
    kernel.run(simd)
}

/// Runs a kernel with the instruction set enabled.
///
/// # Safety
/// The processor has what [`enter`] needs, AVX-512 BF16 and VBMI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vbmi,avx2,fma,f16c")]
unsafe fn enter_pair_dot<S: Simd, K: Kernel>(simd: S, kernel: K) -> K::Output {
    kernel.run(simd)
}

/// Runs a kernel of pairs with the instruction set enabled.
///
/// # Safety
/// As for [`enter_pair_dot`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vbmi,avx2,fma,f16c")]
unsafe fn enter_pairs<S: PairDot, K: PairKernel>(simd: S, kernel: K) -> K::Output {
    kernel.run_pairs(simd)
}

/// Evaluates an expression of intrinsics that touch no memory.
macro_rules! registers {
    ($($body:tt)*) => {
        // SAFETY: the proof of detection exists, so the processor has the instructions; they touch registers only.
        unsafe { $($body)* }
    };
}

impl<const PAIR_DOT: bool> Simd for Level<PAIR_DOT> {
    const MANY_ROWS_PANELS: usize = 2;

    type F32 = __m512;
    type Bits = __m512i;

    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: a `Level` exists, so the processor has the features of that level.
        unsafe { if PAIR_DOT { enter_pair_dot(self, kernel) } else { enter(self, kernel) } }
    }

    #[inline(always)]
    unsafe fn load(self, source: *const f32) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_loadu_ps(source) }
    }

    #[inline(always)]
    unsafe fn store(self, target: *mut f32, value: __m512) {
        // SAFETY: the caller's promise.
        unsafe { _mm512_storeu_ps(target, value) }
    }

    #[inline(always)]
    unsafe fn load_bits(self, source: *const u8) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_loadu_si512(source.cast()) }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, source: *const u8) -> __m512 {
        // SAFETY: the caller's promise.
        let halves = unsafe { _mm512_cvtepu16_epi32(_mm256_loadu_si256(source.cast())) };
        self.as_f32(self.shift_left::<16>(halves))
    }

    #[inline(always)]
    unsafe fn load_f16(self, source: *const u8) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(source.cast())) }
    }

    #[inline(always)]
    unsafe fn load_i8(self, source: *const u8) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(source.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_bytes_as_f16<const SHIFT: i32>(self, source: *const u8, mask: u16) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe {
            let words = _mm256_cvtepi8_epi16(_mm_loadu_si128(source.cast()));
            let shifted = _mm256_sll_epi16(words, _mm_cvtsi32_si128(SHIFT));
            _mm512_cvtph_ps(_mm256_and_si256(shifted, _mm256_set1_epi16(mask.cast_signed())))
        }
    }

    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        registers! { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        registers! { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn add(self, left: __m512, right: __m512) -> __m512 {
        registers! { _mm512_add_ps(left, right) }
    }

    #[inline(always)]
    fn subtract(self, left: __m512, right: __m512) -> __m512 {
        registers! { _mm512_sub_ps(left, right) }
    }

    #[inline(always)]
    fn multiply(self, left: __m512, right: __m512) -> __m512 {
        registers! { _mm512_mul_ps(left, right) }
    }

    #[inline(always)]
    fn divide(self, left: __m512, right: __m512) -> __m512 {
        registers! { _mm512_div_ps(left, right) }
    }

    #[inline(always)]
    fn multiply_add(self, left: __m512, right: __m512, addend: __m512) -> __m512 {
        registers! { _mm512_fmadd_ps(left, right, addend) }
    }

    #[inline(always)]
    fn min(self, left: __m512, right: __m512) -> __m512 {
        registers! { _mm512_min_ps(left, right) }
    }

    #[inline(always)]
    fn max(self, left: __m512, right: __m512) -> __m512 {
        registers! { _mm512_max_ps(left, right) }
    }

    #[inline(always)]
    fn round(self, value: __m512) -> __m512 {
        const MODE: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        registers! { _mm512_roundscale_ps::<MODE>(value) }
    }

    #[inline(always)]
    fn scale_by_power_of_two(self, value: __m512, exponent: __m512) -> __m512 {
        // Not VSCALEFPS: its results at the edges are others than those of the narrower sets.
        registers! {
            let shift = _mm512_slli_epi32::<23>(_mm512_cvtps_epi32(exponent));
            _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(value), shift))
        }
    }

    #[inline(always)]
    fn select_less(self, left: __m512, right: __m512, yes: __m512, no: __m512) -> __m512 {
        registers! { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(left, right), no, yes) }
    }

    #[inline(always)]
    fn reduce_add(self, value: __m512) -> f32 {
        registers! {
            let eight = _mm256_add_ps(_mm512_castps512_ps256(value), _mm512_extractf32x8_ps::<1>(value));
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }

    #[inline(always)]
    fn reduce_max(self, value: __m512) -> f32 {
        registers! {
            let eight = _mm256_max_ps(_mm512_castps512_ps256(value), _mm512_extractf32x8_ps::<1>(value));
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }

    #[inline(always)]
    fn as_f32(self, bits: __m512i) -> __m512 {
        registers! { _mm512_castsi512_ps(bits) }
    }

    #[inline(always)]
    fn and(self, bits: __m512i, mask: u32) -> __m512i {
        registers! { _mm512_and_si512(bits, _mm512_set1_epi32(mask.cast_signed())) }
    }

    #[inline(always)]
    fn shift_left<const COUNT: i32>(self, bits: __m512i) -> __m512i {
        // The compiler turns variable shifts by a constant into immediate ones.
        registers! { _mm512_sllv_epi32(bits, _mm512_set1_epi32(COUNT)) }
    }

    #[inline(always)]
    fn shift_left_16<const COUNT: i32>(self, bits: __m512i) -> __m512i {
        registers! { _mm512_sllv_epi16(bits, _mm512_set1_epi16(COUNT as i16)) }
    }

    #[inline(always)]
    fn shift_right_signed_16<const COUNT: i32>(self, bits: __m512i) -> __m512i {
        registers! { _mm512_srav_epi16(bits, _mm512_set1_epi16(COUNT as i16)) }
    }
}

/// The upper or lower bytes of the bfloat16 values of the 128 codes without sign.
const fn bf16_bytes<const E5M2: bool>(upper: bool) -> [u8; 128] {
    let mut table = [0; 128];
    let mut code = 0;
    while code < 128 {
        let bits = float8_to_bf16::<E5M2>(code as u8);
        table[code] = if upper { (bits >> 8) as u8 } else { (bits & 0xFF) as u8 };
        code += 1;
    }
    table
}

/// Tables for [`PairDot::widen_float8`]: upper bytes, lower bytes.
struct Tables<const E5M2: bool>;

impl<const E5M2: bool> Tables<E5M2> {
    const UPPER: [u8; 128] = bf16_bytes::<E5M2>(true);
    const LOWER: [u8; 128] = bf16_bytes::<E5M2>(false);
}

impl PairDot for Avx512Bf16 {
    fn run_pairs<K: PairKernel>(self, kernel: K) -> K::Output {
        // SAFETY: an `Avx512Bf16` exists, so the processor has the features.
        unsafe { enter_pairs(self, kernel) }
    }

    #[inline(always)]
    fn dot_bf16_pairs(self, sum: __m512, left: __m512i, right: __m512i) -> __m512 {
        registers! { _mm512_dpbf16_ps(sum, transmute::<__m512i, __m512bh>(left), transmute::<__m512i, __m512bh>(right)) }
    }

    #[inline(always)]
    fn splat_bits(self, bits: u32) -> __m512i {
        registers! { _mm512_set1_epi32(bits.cast_signed()) }
    }

    #[inline(always)]
    unsafe fn store_bits(self, target: *mut u8, bits: __m512i) {
        // SAFETY: the caller's promise.
        unsafe { _mm512_storeu_si512(target.cast(), bits) }
    }

    #[inline(always)]
    fn widen_float8<const E5M2: bool>(self, codes: __m512i) -> (__m512i, __m512i) {
        // SAFETY: the tables have 128 bytes, two registers each.
        let (upper, lower) = unsafe {
            let upper = Tables::<E5M2>::UPPER.as_ptr();
            let lower = Tables::<E5M2>::LOWER.as_ptr();
            let table = |start: *const u8| (self.load_bits(start), self.load_bits(start.add(64)));
            (table(upper), table(lower))
        };
        registers! {
            // The permute looks at seven bits of each code; the sign is put back.
            let sign = _mm512_and_si512(codes, _mm512_set1_epi32(0x8080_8080_u32.cast_signed()));
            let upper = _mm512_or_si512(_mm512_permutex2var_epi8(upper.0, codes, upper.1), sign);
            let lower = _mm512_permutex2var_epi8(lower.0, codes, lower.1);
            let low_bytes = _mm512_set1_epi16(0x00FF);
            let high_bytes = _mm512_set1_epi32(0xFF00_FF00_u32.cast_signed());
            let even =
                _mm512_or_si512(_mm512_slli_epi16::<8>(upper), _mm512_and_si512(lower, low_bytes));
            let odd =
                _mm512_or_si512(_mm512_and_si512(upper, high_bytes), _mm512_srli_epi16::<8>(lower));
            (even, odd)
        }
    }

    #[inline(always)]
    fn round_to_bf16(self, first: __m512, second: __m512) -> __m512i {
        // SAFETY: the proof of detection; the types have the same bits.
        unsafe { transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second, first)) }
    }
}
