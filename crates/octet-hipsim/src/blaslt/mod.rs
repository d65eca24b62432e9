//! The part of hipBLASLt that Octet uses: one matrix product with scales and a bias, by a choice of solutions.
//!
//! D = scale_d (alpha * scale_a * scale_b * op(A) op(B) + beta * scale_c * C) + bias, all column-major. Every solution
//! computes the same; they differ in what they ask for, so that a tuner has something to sort out.

mod compute;
mod solution;

use std::sync::Mutex;

pub(crate) use compute::Product;
pub(crate) use solution::{check, solutions};

use crate::profile::{Float8, Profile};
use crate::registry::Registry;
use crate::settings::settings;

/// A result that is not success, by its number in `hipblasStatus_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Status {
    NotInitialized = 1,
    InvalidValue = 3,
    NotSupported = 7,
    Execution = 6,
}

/// What an internal function returns.
pub(crate) type BlasResult<T> = Result<T, Status>;

/// A handle of the library: the device it was made for.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) profile: &'static Profile,
}

/// The element types that matrices may have, by their numbers in `hipDataType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    F32,
    F16,
    Bf16,
    Float8 { e5m2: bool, fnuz: bool },
}

impl Element {
    pub(crate) fn of_number(number: i32) -> BlasResult<Self> {
        match number {
            0 => Ok(Self::F32),
            2 => Ok(Self::F16),
            14 => Ok(Self::Bf16),
            28 => Ok(Self::Float8 { e5m2: false, fnuz: false }),
            29 => Ok(Self::Float8 { e5m2: true, fnuz: false }),
            1000 => Ok(Self::Float8 { e5m2: false, fnuz: true }),
            1001 => Ok(Self::Float8 { e5m2: true, fnuz: true }),
            _ => Err(Status::NotSupported),
        }
    }

    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Float8 { .. } => 1,
        }
    }

    /// Whether an architecture multiplies this type.
    fn is_of(self, profile: &Profile) -> bool {
        match self {
            Self::Float8 { fnuz, .. } => profile.float8 == if fnuz { Float8::Fnuz } else { Float8::Ocp },
            Self::F32 | Self::F16 | Self::Bf16 => true,
        }
    }
}

/// How a scale is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScaleMode {
    /// One value.
    Scalar,
    /// One for each row of op(A) or column of op(B).
    Vector,
}

/// Description of a product: `hipblasLtMatmulDesc_t`. Pointers are addresses in device memory, 0 for none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Description {
    pub(crate) transpose_a: bool,
    pub(crate) transpose_b: bool,
    pub(crate) bias: bool,
    pub(crate) bias_pointer: usize,
    pub(crate) bias_element: Option<Element>,
    /// Scales of A, B, C and D.
    pub(crate) scales: [usize; 4],
    /// Modes of the scales of A and B.
    pub(crate) modes: [ScaleMode; 2],
}

impl Default for Description {
    fn default() -> Self {
        Self {
            transpose_a: false,
            transpose_b: false,
            bias: false,
            bias_pointer: 0,
            bias_element: None,
            scales: [0; 4],
            modes: [ScaleMode::Scalar; 2],
        }
    }
}

/// Values of an attribute as a caller gives them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value {
    Word(i32),
    Pointer(usize),
}

impl Value {
    fn word(self) -> BlasResult<i32> {
        if let Self::Word(word) = self { Ok(word) } else { Err(Status::InvalidValue) }
    }

    fn pointer(self) -> BlasResult<usize> {
        if let Self::Pointer(pointer) = self { Ok(pointer) } else { Err(Status::InvalidValue) }
    }
}

fn transposed(word: i32) -> BlasResult<bool> {
    match word {
        111 => Ok(false),
        112 => Ok(true),
        _ => Err(Status::InvalidValue),
    }
}

impl Description {
    /// Sets an attribute by its number in `hipblasLtMatmulDescAttributes_t`.
    pub(crate) fn set(&mut self, attribute: i32, value: Value) -> BlasResult<()> {
        let is_7 = settings().rocm_major >= 7;
        match attribute {
            0 => self.transpose_a = transposed(value.word()?)?,
            1 => self.transpose_b = transposed(value.word()?)?,
            2 => {
                self.bias = match value.word()? {
                    1 => false,
                    4 => true,
                    _ => return Err(Status::NotSupported),
                }
            }
            3 => self.bias_pointer = value.pointer()?,
            4 => self.bias_element = Some(Element::of_number(value.word()?)?),
            5..=8 => self.scales[usize::try_from(attribute - 5).unwrap_or(0)] = value.pointer()?,
            // Only scalars in memory of the host.
            13 if value.word()? == 0 => {}
            31 | 32 if is_7 => {
                let mode = match value.word()? {
                    0 => ScaleMode::Scalar,
                    3 => ScaleMode::Vector,
                    _ => return Err(Status::NotSupported),
                };
                self.modes[usize::try_from(attribute - 31).unwrap_or(0)] = mode;
            }
            // Since version 1.0 these are arguments of the activation, which takes any value: who means scales of rows
            // gets no error and wrong numbers.
            102 | 103 if is_7 => {}
            102 | 103 => {
                let side = usize::try_from(attribute - 102).unwrap_or(0);
                self.scales[side] = value.pointer()?;
                self.modes[side] = ScaleMode::Vector;
            }
            _ => return Err(Status::InvalidValue),
        }
        Ok(())
    }
}

/// Layout of a matrix: `hipblasLtMatrixLayout_t`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) element: Element,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) leading: usize,
    pub(crate) batches: usize,
    /// Elements from one batch to the next.
    pub(crate) batch_stride: usize,
}

impl Layout {
    /// Elements from the first to behind the last.
    pub(crate) fn extent(&self) -> usize {
        let one = if self.columns == 0 { 0 } else { (self.columns - 1) * self.leading + self.rows };
        (self.batches.max(1) - 1) * self.batch_stride + one
    }
}

/// The wanted limits: `hipblasLtMatmulPreference_t`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Preference {
    pub(crate) workspace_bytes: usize,
}

/// A product's description and layouts, which say whether and how it can be computed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Problem {
    pub(crate) description: Description,
    /// Of A, B, C and D.
    pub(crate) layouts: [Layout; 4],
}

/// Sizes of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) batches: usize,
}

impl Problem {
    /// Sizes, if the layouts fit each other.
    pub(crate) fn sizes(&self) -> BlasResult<Sizes> {
        let [a, b, c, d] = &self.layouts;
        let turned = |layout: &Layout, transposed: bool| {
            if transposed { (layout.columns, layout.rows) } else { (layout.rows, layout.columns) }
        };
        let (m, k) = turned(a, self.description.transpose_a);
        let (other_k, n) = turned(b, self.description.transpose_b);
        let fit = k == other_k && [c, d].iter().all(|layout| (layout.rows, layout.columns) == (m, n));
        let batches = d.batches;
        let regular =
            self.layouts.iter().all(|layout| layout.leading >= layout.rows && layout.batches == batches);
        if fit && regular { Ok(Sizes { m, n, k, batches }) } else { Err(Status::InvalidValue) }
    }

    /// Whether any solution computes this on an architecture.
    pub(crate) fn is_supported(&self, profile: &Profile) -> BlasResult<()> {
        self.sizes()?;
        let [a, b, c, d] = self.layouts.map(|layout| layout.element);
        let is_float8 = |element| matches!(element, Element::Float8 { .. });
        let inputs = if is_float8(a) { is_float8(b) } else { a == b };
        let outputs = d == Element::F32 || d == a || is_float8(a) && !is_float8(d);
        let scaled = is_float8(a) || self.description.scales == [0; 4];
        // Row scales come for both operands or for none.
        let modes = self.description.modes[0] == self.description.modes[1];
        let known = a.is_of(profile) && b.is_of(profile);
        if inputs && outputs && c == d && scaled && modes && known {
            Ok(())
        } else {
            Err(Status::NotSupported)
        }
    }
}

/// Objects of the library by their handles.
pub(crate) static CONTEXTS: Registry<Context> = Registry::new();
pub(crate) static DESCRIPTIONS: Registry<Mutex<Description>> = Registry::new();
pub(crate) static LAYOUTS: Registry<Mutex<Layout>> = Registry::new();
pub(crate) static PREFERENCES: Registry<Mutex<Preference>> = Registry::new();
