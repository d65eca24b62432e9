//! The vector type that kernels are written in: sixteen lanes of 32 bits, on every instruction set.
//!
//! A kernel is written once, generic over [`Simd`], and wrapped in a struct that implements [`Kernel`].
//! [`crate::isa::Isa::run`] enters a function compiled for the chosen instruction set and runs the kernel there, so
//! that everything `#[inline(always)]` below it becomes instructions of that set. A set with narrower registers keeps
//! one vector in several of them; lanes are always sixteen, and reductions always use the same tree, so that results
//! are equal to the bit on every set.
//!
//! A value of a type that implements `Simd` is proof that the processor has the instructions: it can only be made by
//! asking the processor. That is why arithmetic is safe to call and only memory access is not.

mod portable;

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

pub(crate) mod math;
pub(crate) mod tiles;

#[cfg(test)]
mod tests;

pub(crate) use portable::Portable;

#[cfg(target_arch = "x86_64")]
pub(crate) use amx::Amx;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::{Avx512, Avx512Bf16};

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

/// What [`Simd::load_e4m3`] returns is the value times this.
pub(crate) const STORED_E4M3_FACTOR: f32 = power_of_two(-8);

/// What E4M3 weights are when their bits stand where binary32 has them: the value times this.
pub(crate) const E4M3_FACTOR: f32 = power_of_two(-120);

/// As [`E4M3_FACTOR`], for E5M2.
pub(crate) const E5M2_FACTOR: f32 = power_of_two(-112);

/// Two to the power of `exponent`, for normal results.
pub(crate) const fn power_of_two(exponent: i32) -> f32 {
    assert!(exponent >= -126 && exponent <= 127);
    f32::from_bits(((exponent + 127) as u32) << 23)
}

/// A computation over vectors of any instruction set.
pub(crate) trait Kernel {
    /// What it returns.
    type Output;

    /// Does the work. Must be `#[inline(always)]`, and so must every function below it that takes or returns vectors.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// A computation over vectors of an instruction set that has [`PairDot`].
pub(crate) trait PairKernel {
    /// What it returns.
    type Output;

    /// As [`Kernel::run`].
    fn run_pairs<S: PairDot>(self, simd: S) -> Self::Output;
}

/// Sixteen-lane arithmetic on one instruction set.
///
/// Lane-wise operations round as IEEE 754 says, to nearest even. Memory operations need not be aligned.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// Panels of sixteen outputs that a product with six rows takes at once: what the registers can hold sums for.
    const MANY_ROWS_PANELS: usize = 1;

    /// Sixteen lanes of `f32`.
    type F32: Copy;
    /// Sixteen lanes of 32 bits, or thirty-two of 16.
    type Bits: Copy;

    /// Runs a kernel in a function compiled for this instruction set.
    fn run<K: Kernel>(self, kernel: K) -> K::Output;

    // Memory.

    /// Reads sixteen values.
    ///
    /// # Safety
    /// `source` is valid for reading 64 bytes.
    unsafe fn load(self, source: *const f32) -> Self::F32;

    /// Writes sixteen values.
    ///
    /// # Safety
    /// `target` is valid for writing 64 bytes.
    unsafe fn store(self, target: *mut f32, value: Self::F32);

    /// Reads 64 bytes.
    ///
    /// # Safety
    /// `source` is valid for reading 64 bytes.
    unsafe fn load_bits(self, source: *const u8) -> Self::Bits;

    /// Reads sixteen bfloat16 values.
    ///
    /// # Safety
    /// `source` is valid for reading 32 bytes.
    unsafe fn load_bf16(self, source: *const u8) -> Self::F32;

    /// Reads sixteen binary16 values.
    ///
    /// # Safety
    /// `source` is valid for reading 32 bytes.
    unsafe fn load_f16(self, source: *const u8) -> Self::F32;

    /// Reads sixteen signed bytes.
    ///
    /// # Safety
    /// `source` is valid for reading 16 bytes.
    unsafe fn load_i8(self, source: *const u8) -> Self::F32;

    /// Reads sixteen bytes, extends their signs to 16 bits, shifts them left, masks them, and takes them for binary16.
    ///
    /// # Safety
    /// `source` is valid for reading 16 bytes.
    unsafe fn load_bytes_as_f16<const SHIFT: i32>(self, source: *const u8, mask: u16) -> Self::F32;

    /// Asks for the cache line at `address`, which may be any address, to be brought close.
    fn prefetch(self, address: *const u8);

    /// Reads sixteen E4M3 values times [`STORED_E4M3_FACTOR`]. No NaN among them. The eight bits move to where binary16 has
    /// them, and only the exponent's bias is left to correct. Conversion from binary16 makes subnormal numbers normal, which
    /// matters: a multiply-add with a subnormal operand costs some processors many times as much.
    ///
    /// # Safety
    /// `source` is valid for reading 16 bytes.
    #[inline(always)]
    unsafe fn load_e4m3(self, source: *const u8) -> Self::F32 {
        // SAFETY: the caller's promise.
        unsafe { self.load_bytes_as_f16::<7>(source, 0xBF80) }
    }

    /// Reads sixteen E5M2 values, all of them finite: the upper bytes of binary16 values.
    ///
    /// # Safety
    /// `source` is valid for reading 16 bytes.
    #[inline(always)]
    unsafe fn load_e5m2(self, source: *const u8) -> Self::F32 {
        // SAFETY: the caller's promise.
        unsafe { self.load_bytes_as_f16::<8>(source, 0xFF00) }
    }

    /// Reads the first `count` values (at most sixteen); the other lanes are zero.
    ///
    /// # Safety
    /// `source` is valid for reading `count` values.
    #[inline(always)]
    unsafe fn load_first(self, source: *const f32, count: usize) -> Self::F32 {
        let mut values = [0.0; LANES];
        // SAFETY: the caller's promise for `source`; `values` has sixteen.
        unsafe {
            std::ptr::copy_nonoverlapping(source, values.as_mut_ptr(), count.min(LANES));
            self.load(values.as_ptr())
        }
    }

    /// Writes the first `count` values (at most sixteen).
    ///
    /// # Safety
    /// `target` is valid for writing `count` values.
    #[inline(always)]
    unsafe fn store_first(self, target: *mut f32, value: Self::F32, count: usize) {
        let mut values = [0.0; LANES];
        // SAFETY: the caller's promise for `target`; `values` has sixteen.
        unsafe {
            self.store(values.as_mut_ptr(), value);
            std::ptr::copy_nonoverlapping(values.as_ptr(), target, count.min(LANES));
        }
    }

    // Arithmetic, lane by lane.

    /// The same value in all lanes.
    fn splat(self, value: f32) -> Self::F32;
    /// `left + right`.
    fn add(self, left: Self::F32, right: Self::F32) -> Self::F32;
    /// `left - right`.
    fn subtract(self, left: Self::F32, right: Self::F32) -> Self::F32;
    /// `left * right`.
    fn multiply(self, left: Self::F32, right: Self::F32) -> Self::F32;
    /// `left / right`.
    fn divide(self, left: Self::F32, right: Self::F32) -> Self::F32;
    /// `left * right + addend`, rounded once.
    fn multiply_add(self, left: Self::F32, right: Self::F32, addend: Self::F32) -> Self::F32;
    /// The smaller; `right` where either is NaN.
    fn min(self, left: Self::F32, right: Self::F32) -> Self::F32;
    /// The larger; `right` where either is NaN.
    fn max(self, left: Self::F32, right: Self::F32) -> Self::F32;
    /// The nearest integer, ties to even.
    fn round(self, value: Self::F32) -> Self::F32;
    /// `value * 2^exponent` for integral exponents; `value` and the result must be normal.
    fn scale_by_power_of_two(self, value: Self::F32, exponent: Self::F32) -> Self::F32;
    /// `if left < right { yes } else { no }`.
    fn select_less(self, left: Self::F32, right: Self::F32, yes: Self::F32, no: Self::F32) -> Self::F32;

    // Reductions: lanes i and i + 8 first, then i and i + 4, + 2, + 1.

    /// The sum of all lanes.
    fn reduce_add(self, value: Self::F32) -> f32;
    /// The largest of all lanes.
    fn reduce_max(self, value: Self::F32) -> f32;

    // Bits.

    /// Bits as values.
    fn as_f32(self, bits: Self::Bits) -> Self::F32;
    /// Each 32-bit lane masked.
    fn and(self, bits: Self::Bits, mask: u32) -> Self::Bits;
    /// Each 32-bit lane shifted left.
    fn shift_left<const COUNT: i32>(self, bits: Self::Bits) -> Self::Bits;
    /// Each 16-bit lane shifted left.
    fn shift_left_16<const COUNT: i32>(self, bits: Self::Bits) -> Self::Bits;
    /// Each 16-bit lane shifted right, its sign extended.
    fn shift_right_signed_16<const COUNT: i32>(self, bits: Self::Bits) -> Self::Bits;
}

/// Dot products of bfloat16 pairs, as AVX-512's BF16 extension has them.
pub(crate) trait PairDot: Simd {
    /// As [`Simd::run`].
    fn run_pairs<K: PairKernel>(self, kernel: K) -> K::Output;

    /// `sum + left.high * right.high`, then `+ left.low * right.low`: two multiply-adds that round to nearest even
    /// each. Subnormal inputs count as zero and subnormal results become zero, whatever the control register says.
    /// (Intel's Software Developer's Manual, `VDPBF16PS`.)
    fn dot_bf16_pairs(self, sum: Self::F32, left: Self::Bits, right: Self::Bits) -> Self::F32;

    /// The same 32 bits in all lanes.
    fn splat_bits(self, bits: u32) -> Self::Bits;

    /// Writes 64 bytes.
    ///
    /// # Safety
    /// `target` is valid for writing 64 bytes.
    unsafe fn store_bits(self, target: *mut u8, bits: Self::Bits);

    /// Widens sixty-four E4M3 (or, if `E5M2`, E5M2) codes to bfloat16, exactly: those at even places, then those at
    /// odd places. No NaN or infinity among them.
    fn widen_float8<const E5M2: bool>(self, codes: Self::Bits) -> (Self::Bits, Self::Bits);

    /// Sixteen values and sixteen more, rounded to bfloat16 (to nearest even), in their order.
    fn round_to_bf16(self, first: Self::F32, second: Self::F32) -> Self::Bits;
}
