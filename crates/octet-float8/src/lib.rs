//! The four eight-bit floating-point formats, exact to the bit, and the arithmetic of their scales.
//!
//! - [`E4M3`], [`E4M3Fnuz`], [`E5M2`], [`E5M2Fnuz`]: one byte each, one type each, behind the trait [`Float8`].
//!   A format is a type so that a byte of one format cannot be read as another: the same byte means
//!   half as much in FNUZ, which gives fluent nonsense instead of an error.
//! - [`Float8Format`]: the same choice as a value, for where a file or a flag names the format.
//! - [`scale`]: quantization per tensor, per row, per group and per block, as vLLM computes it.
//! - [`mod@slice`]: conversion of whole slices, written so that the compiler turns them into vector code.
//! - [`fnuz`]: weights stored in an OCP format, for devices that multiply FNUZ.
//!
//! The life of a quantized weight: a 16-bit tensor is read, [`scale::max_abs`] finds its largest
//! magnitude (and refuses NaN and infinity), [`scale::tensor_scale`] turns that into a dequantization
//! scale, [`scale::quantize_with_scale`] writes the codes. Kernels then compute `code.to_f32() * scale`.
//!
//! A scale is always a *dequantization* scale: `weight ≈ code * scale`, in every checkpoint format.
//!
//! Rounding is to nearest, ties to even, subnormals included. [`Float8::from_f32`] agrees with the
//! Python package `ml_dtypes` for every input; [`Float8::from_f32_saturating`] is the conversion that
//! inference wants: what is too large becomes the largest finite value, and NaN stays NaN.
#![forbid(unsafe_code)]

mod convert;
mod element;
mod error;
pub mod fnuz;
mod format;
pub mod scale;
pub mod slice;
mod types;

pub use element::Element;
pub use error::Error;
pub use format::{Float8Format, Specials};
pub use types::{E4M3, E4M3Fnuz, E5M2, E5M2Fnuz, Float8};
