//! The element types of the KV cache: how one is written, and how sixteen are widened in registers.

use half::{bf16, f16};
use octet_backend::{BackendError, DataType};
use octet_float8::{E4M3, E5M2, Float8, Float8Format};

use crate::memory::Plain;
use crate::simd::tiles::{ROW_BYTES, TileDot};
use crate::simd::{LANES, STORED_E4M3_FACTOR, Simd};

/// An element type of the KV cache.
///
/// A load may return the stored value times a tiny power of two, because that makes widening cheap. Products with
/// such a value would be subnormal, so kernels multiply the other factor by [`Storage::BEFORE`] and the sum by
/// [`Storage::AFTER`]: powers of two that together undo the load's.
pub(crate) trait Storage: Send + Sync + 'static {
    /// One element as it lies in memory.
    type Element: Plain + Default;
    /// Factor on the vector that meets loaded values.
    const BEFORE: f32;
    /// Factor on the sum of their products.
    const AFTER: f32;

    /// Widens sixteen elements.
    ///
    /// # Safety
    /// `source` is valid for reading sixteen elements.
    unsafe fn load<S: Simd>(simd: S, source: *const Self::Element) -> S::F32;

    /// Whether bfloat16 holds every value, so that matrix tiles can multiply with it.
    const ON_TILES: bool = false;

    /// Widens four rows of sixteen elements to bfloat16, exactly: sixteen pairs of the first two rows, then sixteen of the
    /// other two. Only for types that are [`Storage::ON_TILES`].
    ///
    /// # Safety
    /// `source` is valid for reading sixty-four elements, `target` for writing 128 bytes.
    unsafe fn interleave<S: TileDot>(simd: S, source: *const Self::Element, target: *mut u8) {
        let _ = (simd, source, target);
        unreachable!("matrix tiles hold bfloat16");
    }

    /// Writes the nearest element to each `value / scale`, ties to even; slices of equal length. FP8 saturates.
    fn encode(values: &[f32], scale: f32, elements: &mut [Self::Element]);
}

/// The types that a KV cache can hold.
pub(crate) const TYPES: &[DataType] = &[
    DataType::F32,
    DataType::BF16,
    DataType::F16,
    DataType::F8(Float8Format::E4M3),
    DataType::F8(Float8Format::E5M2),
];

/// The choice among the implementations of [`Storage`] at run time. FNUZ has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StorageKind {
    /// [`StoredF32`].
    F32,
    /// [`StoredBf16`].
    Bf16,
    /// [`StoredF16`].
    F16,
    /// [`StoredE4m3`].
    E4m3,
    /// [`StoredE5m2`].
    E5m2,
}

impl StorageKind {
    /// The kernels for an element type.
    ///
    /// # Errors
    /// There are none.
    pub(crate) fn of(data_type: DataType) -> Result<Self, BackendError> {
        match data_type {
            DataType::F32 => Ok(Self::F32),
            DataType::BF16 => Ok(Self::Bf16),
            DataType::F16 => Ok(Self::F16),
            DataType::F8(Float8Format::E4M3) => Ok(Self::E4m3),
            DataType::F8(Float8Format::E5M2) => Ok(Self::E5m2),
            DataType::I8 | DataType::F8(Float8Format::E4M3Fnuz | Float8Format::E5M2Fnuz) => {
                Err(BackendError::UnsupportedDataType {
                    what: "the KV cache",
                    data_type,
                    supported: "float32, float16, bfloat16, fp8_e4m3, fp8_e5m2",
                })
            }
        }
    }
}

/// `f32`.
pub(crate) struct StoredF32;
/// bfloat16.
pub(crate) struct StoredBf16;
/// IEEE binary16.
pub(crate) struct StoredF16;
/// OCP E4M3.
pub(crate) struct StoredE4m3;
/// OCP E5M2.
pub(crate) struct StoredE5m2;

impl Storage for StoredF32 {
    type Element = f32;
    const BEFORE: f32 = 1.0;
    const AFTER: f32 = 1.0;

    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, source: *const f32) -> S::F32 {
        // SAFETY: the caller's promise.
        unsafe { simd.load(source) }
    }

    fn encode(values: &[f32], scale: f32, elements: &mut [f32]) {
        for (element, value) in elements.iter_mut().zip(values) {
            *element = value / scale;
        }
    }
}

impl Storage for StoredBf16 {
    type Element = u16;
    const BEFORE: f32 = 1.0;
    const AFTER: f32 = 1.0;
    const ON_TILES: bool = true;

    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, source: *const u16) -> S::F32 {
        // SAFETY: the caller's promise.
        unsafe { simd.load_bf16(source.cast()) }
    }

    #[inline(always)]
    unsafe fn interleave<S: TileDot>(simd: S, source: *const u16, target: *mut u8) {
        // SAFETY: the caller's promise, half of it each.
        unsafe {
            simd.interleave_bf16(source.cast(), target);
            simd.interleave_bf16(source.add(2 * LANES).cast(), target.add(ROW_BYTES));
        }
    }

    fn encode(values: &[f32], scale: f32, elements: &mut [u16]) {
        for (element, value) in elements.iter_mut().zip(values) {
            *element = bf16::from_f32(value / scale).to_bits();
        }
    }
}

impl Storage for StoredF16 {
    type Element = u16;
    const BEFORE: f32 = 1.0;
    const AFTER: f32 = 1.0;

    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, source: *const u16) -> S::F32 {
        // SAFETY: the caller's promise.
        unsafe { simd.load_f16(source.cast()) }
    }

    fn encode(values: &[f32], scale: f32, elements: &mut [u16]) {
        for (element, value) in elements.iter_mut().zip(values) {
            *element = f16::from_f32(value / scale).to_bits();
        }
    }
}

impl Storage for StoredE4m3 {
    type Element = u8;
    const BEFORE: f32 = crate::simd::power_of_two(4);
    const AFTER: f32 = crate::simd::power_of_two(4);
    const ON_TILES: bool = true;

    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, source: *const u8) -> S::F32 {
        // SAFETY: the caller's promise.
        unsafe { simd.load_e4m3(source) }
    }

    #[inline(always)]
    unsafe fn interleave<S: TileDot>(simd: S, source: *const u8, target: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { simd.interleave_float8::<false>(source, target) }
    }

    fn encode(values: &[f32], scale: f32, elements: &mut [u8]) {
        encode_float8::<E4M3>(values, scale, elements);
    }
}

impl Storage for StoredE5m2 {
    type Element = u8;
    const BEFORE: f32 = 1.0;
    const AFTER: f32 = 1.0;
    const ON_TILES: bool = true;

    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, source: *const u8) -> S::F32 {
        // SAFETY: the caller's promise.
        unsafe { simd.load_e5m2(source) }
    }

    #[inline(always)]
    unsafe fn interleave<S: TileDot>(simd: S, source: *const u8, target: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { simd.interleave_float8::<true>(source, target) }
    }

    fn encode(values: &[f32], scale: f32, elements: &mut [u8]) {
        encode_float8::<E5M2>(values, scale, elements);
    }
}

const _: () = assert!(StoredE4m3::BEFORE * StoredE4m3::AFTER * STORED_E4M3_FACTOR == 1.0);

fn encode_float8<F: Float8>(values: &[f32], scale: f32, elements: &mut [u8]) {
    for (element, value) in elements.iter_mut().zip(values) {
        *element = F::from_f32_saturating(value / scale).to_bits();
    }
}
