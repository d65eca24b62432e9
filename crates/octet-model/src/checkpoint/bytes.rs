//! A buffer for a tensor's bytes that can be read as numbers without copying.

use half::{bf16, f16};
use octet_backend::DataType;

/// Bytes that start at a multiple of eight, so that every element type can be viewed in place.
#[derive(Debug, Default)]
pub(crate) struct Bytes {
    words: Vec<u64>,
    length: usize,
}

impl Bytes {
    /// Zeros.
    pub(crate) fn new(length: usize) -> Self {
        Self { words: vec![0; length.div_ceil(8)], length }
    }

    /// How many bytes it can hold without new memory.
    pub(crate) fn capacity(&self) -> usize {
        self.words.len() * 8
    }

    /// Makes the first `length` bytes of the buffer its contents; they keep what they were.
    pub(crate) fn reuse(mut self, length: usize) -> Self {
        assert!(length <= self.capacity(), "a buffer is reused for what fits");
        self.length = length;
        self
    }

    /// The bytes.
    pub(crate) fn as_slice(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.length]
    }

    /// The bytes, to be written.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.words)[..self.length]
    }

    /// The elements as `f32`, for a floating type of at least 16 bits.
    pub(crate) fn to_numbers(&self, data_type: DataType) -> Vec<f32> {
        let bytes = self.as_slice();
        match data_type {
            DataType::F32 => bytemuck::cast_slice::<u8, f32>(bytes).to_vec(),
            DataType::F16 => bytemuck::cast_slice::<u8, f16>(bytes).iter().map(|it| it.to_f32()).collect(),
            DataType::BF16 => bytemuck::cast_slice::<u8, bf16>(bytes).iter().map(|it| it.to_f32()).collect(),
            DataType::F8(format) => bytes.iter().map(|&code| format.decode(code)).collect(),
            DataType::I8 => bytes.iter().map(|&code| f32::from(code.cast_signed())).collect(),
        }
    }
}

// Views in place read numbers as they lie in the file.
const _: () =
    assert!(cfg!(target_endian = "little"), "weights are viewed in place: little-endian machines only");
