//! Sixteen lanes in two 256-bit registers: AVX2 with FMA and F16C.

use std::arch::x86_64::{
    __m128i, __m256, __m256i, _CMP_LT_OQ, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEAREST_INT, _MM_HINT_T0,
    _mm_add_ps, _mm_add_ss, _mm_and_si128, _mm_cvtepi8_epi16, _mm_cvtsi32_si128, _mm_cvtss_f32,
    _mm_loadl_epi64, _mm_loadu_si128, _mm_max_ps, _mm_max_ss, _mm_movehl_ps, _mm_prefetch, _mm_set1_epi16,
    _mm_shuffle_ps, _mm_sll_epi16, _mm256_add_epi32, _mm256_add_ps, _mm256_and_si256, _mm256_blendv_ps,
    _mm256_castps_si256, _mm256_castps256_ps128, _mm256_castsi256_ps, _mm256_cmp_ps, _mm256_cvtepi8_epi32,
    _mm256_cvtepi32_ps, _mm256_cvtepu16_epi32, _mm256_cvtph_ps, _mm256_cvtps_epi32, _mm256_div_ps,
    _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_max_ps,
    _mm256_min_ps, _mm256_mul_ps, _mm256_round_ps, _mm256_set1_epi32, _mm256_set1_ps, _mm256_slli_epi16,
    _mm256_slli_epi32, _mm256_srai_epi16, _mm256_storeu_ps, _mm256_sub_ps,
};

use super::{Kernel, Simd};

/// Proof that the processor has AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2 {
    _detected: (),
}

impl Avx2 {
    /// Asks the processor.
    pub(crate) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        found.then_some(Self { _detected: () })
    }
}

/// Runs a kernel with the instruction set enabled.
///
/// # Safety
/// The processor has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn enter<K: Kernel>(simd: Avx2, kernel: K) -> K::Output {
    kernel.run(simd)
}

/// Sixteen values of `f32`.
#[derive(Clone, Copy)]
pub(crate) struct F32(__m256, __m256);

/// Sixteen times 32 bits.
#[derive(Clone, Copy)]
pub(crate) struct Bits(__m256i, __m256i);

/// Evaluates an expression of intrinsics that touch no memory.
macro_rules! registers {
    ($($body:tt)*) => {
        // SAFETY: an `Avx2` exists, so the processor has the instructions; they touch registers only.
        unsafe { $($body)* }
    };
}

/// Applies a binary intrinsic to both halves.
macro_rules! both {
    ($kind:ident, $intrinsic:ident, $left:expr, $right:expr) => {
        registers! { $kind($intrinsic($left.0, $right.0), $intrinsic($left.1, $right.1)) }
    };
}

/// Reads 128 bits.
///
/// # Safety
/// `source` is valid for reading 16 bytes; the processor has SSE2, as every x86-64 does.
#[inline(always)]
unsafe fn load_128(source: *const u8) -> __m128i {
    // SAFETY: the caller's promise.
    unsafe { _mm_loadu_si128(source.cast()) }
}

impl Simd for Avx2 {
    type F32 = F32;
    type Bits = Bits;

    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: an `Avx2` exists, so the processor has the features.
        unsafe { enter(self, kernel) }
    }

    #[inline(always)]
    unsafe fn load(self, source: *const f32) -> F32 {
        // SAFETY: the caller's promise.
        unsafe { F32(_mm256_loadu_ps(source), _mm256_loadu_ps(source.add(8))) }
    }

    #[inline(always)]
    unsafe fn store(self, target: *mut f32, value: F32) {
        // SAFETY: the caller's promise.
        unsafe {
            _mm256_storeu_ps(target, value.0);
            _mm256_storeu_ps(target.add(8), value.1);
        }
    }

    #[inline(always)]
    unsafe fn load_bits(self, source: *const u8) -> Bits {
        // SAFETY: the caller's promise.
        unsafe { Bits(_mm256_loadu_si256(source.cast()), _mm256_loadu_si256(source.add(32).cast())) }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, source: *const u8) -> F32 {
        // SAFETY: the caller's promise.
        let halves = unsafe {
            Bits(_mm256_cvtepu16_epi32(load_128(source)), _mm256_cvtepu16_epi32(load_128(source.add(16))))
        };
        self.as_f32(self.shift_left::<16>(halves))
    }

    #[inline(always)]
    unsafe fn load_f16(self, source: *const u8) -> F32 {
        // SAFETY: the caller's promise.
        unsafe { F32(_mm256_cvtph_ps(load_128(source)), _mm256_cvtph_ps(load_128(source.add(16)))) }
    }

    #[inline(always)]
    unsafe fn load_i8(self, source: *const u8) -> F32 {
        // SAFETY: the caller's promise.
        unsafe {
            let half = |place: usize| {
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(source.add(place).cast())))
            };
            F32(half(0), half(8))
        }
    }

    #[inline(always)]
    unsafe fn load_bytes_as_f16<const SHIFT: i32>(self, source: *const u8, mask: u16) -> F32 {
        // SAFETY: the caller's promise.
        unsafe {
            let half = |place: usize| {
                let words = _mm_cvtepi8_epi16(_mm_loadl_epi64(source.add(place).cast()));
                let shifted = _mm_sll_epi16(words, _mm_cvtsi32_si128(SHIFT));
                _mm256_cvtph_ps(_mm_and_si128(shifted, _mm_set1_epi16(mask.cast_signed())))
            };
            F32(half(0), half(8))
        }
    }

    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        registers! { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> F32 {
        registers! {
            let half = _mm256_set1_ps(value);
            F32(half, half)
        }
    }

    #[inline(always)]
    fn add(self, left: F32, right: F32) -> F32 {
        both!(F32, _mm256_add_ps, left, right)
    }

    #[inline(always)]
    fn subtract(self, left: F32, right: F32) -> F32 {
        both!(F32, _mm256_sub_ps, left, right)
    }

    #[inline(always)]
    fn multiply(self, left: F32, right: F32) -> F32 {
        both!(F32, _mm256_mul_ps, left, right)
    }

    #[inline(always)]
    fn divide(self, left: F32, right: F32) -> F32 {
        both!(F32, _mm256_div_ps, left, right)
    }

    #[inline(always)]
    fn multiply_add(self, left: F32, right: F32, addend: F32) -> F32 {
        registers! {
            F32(_mm256_fmadd_ps(left.0, right.0, addend.0), _mm256_fmadd_ps(left.1, right.1, addend.1))
        }
    }

    #[inline(always)]
    fn min(self, left: F32, right: F32) -> F32 {
        both!(F32, _mm256_min_ps, left, right)
    }

    #[inline(always)]
    fn max(self, left: F32, right: F32) -> F32 {
        both!(F32, _mm256_max_ps, left, right)
    }

    #[inline(always)]
    fn round(self, value: F32) -> F32 {
        const MODE: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        registers! { F32(_mm256_round_ps::<MODE>(value.0), _mm256_round_ps::<MODE>(value.1)) }
    }

    #[inline(always)]
    fn scale_by_power_of_two(self, value: F32, exponent: F32) -> F32 {
        registers! {
            let scale = |value, exponent| {
                let shift = _mm256_slli_epi32::<23>(_mm256_cvtps_epi32(exponent));
                _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(value), shift))
            };
            F32(scale(value.0, exponent.0), scale(value.1, exponent.1))
        }
    }

    #[inline(always)]
    fn select_less(self, left: F32, right: F32, yes: F32, no: F32) -> F32 {
        registers! {
            F32(
                _mm256_blendv_ps(no.0, yes.0, _mm256_cmp_ps::<_CMP_LT_OQ>(left.0, right.0)),
                _mm256_blendv_ps(no.1, yes.1, _mm256_cmp_ps::<_CMP_LT_OQ>(left.1, right.1)),
            )
        }
    }

    #[inline(always)]
    fn reduce_add(self, value: F32) -> f32 {
        registers! {
            let eight = _mm256_add_ps(value.0, value.1);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }

    #[inline(always)]
    fn reduce_max(self, value: F32) -> f32 {
        registers! {
            let eight = _mm256_max_ps(value.0, value.1);
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }

    #[inline(always)]
    fn as_f32(self, bits: Bits) -> F32 {
        registers! { F32(_mm256_castsi256_ps(bits.0), _mm256_castsi256_ps(bits.1)) }
    }

    #[inline(always)]
    fn and(self, bits: Bits, mask: u32) -> Bits {
        registers! {
            let mask = _mm256_set1_epi32(mask.cast_signed());
            Bits(_mm256_and_si256(bits.0, mask), _mm256_and_si256(bits.1, mask))
        }
    }

    #[inline(always)]
    fn shift_left<const COUNT: i32>(self, bits: Bits) -> Bits {
        registers! { Bits(_mm256_slli_epi32::<COUNT>(bits.0), _mm256_slli_epi32::<COUNT>(bits.1)) }
    }

    #[inline(always)]
    fn shift_left_16<const COUNT: i32>(self, bits: Bits) -> Bits {
        registers! { Bits(_mm256_slli_epi16::<COUNT>(bits.0), _mm256_slli_epi16::<COUNT>(bits.1)) }
    }

    #[inline(always)]
    fn shift_right_signed_16<const COUNT: i32>(self, bits: Bits) -> Bits {
        registers! { Bits(_mm256_srai_epi16::<COUNT>(bits.0), _mm256_srai_epi16::<COUNT>(bits.1)) }
    }
}
