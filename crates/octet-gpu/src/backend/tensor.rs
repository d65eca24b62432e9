//! Workspace matrices: rows padded to a multiple of 64 elements, and what lies behind the last column is 0.

use half::bf16;
use octet_backend::{BackendError, InputScale, TensorRole, TensorSpec};

use crate::GpuError;
use crate::backend::float8::{self, Float8Rows, LinearInput, code_stride};
use crate::backend::parameters::QuantizeTarget;
use crate::driver::{DeviceBuffer, HostBuffer, Stream};
use crate::kernels::ElementType;

/// Rows of everything that is multiplied are padded to this many elements: kernels read whole pieces.
pub(super) const PADDING: usize = 64;

/// A workspace matrix on the device.
pub struct GpuTensor {
    pub(super) buffer: DeviceBuffer,
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// Elements from one row to the next.
    pub(super) stride: usize,
    pub(super) data_type: ElementType,
    /// Of logits: pinned memory that they are read into.
    pub(super) host: Option<HostBuffer>,
    /// The step whose logits `host` holds, visitors' changes included.
    pub(super) host_step: Option<u64>,
    /// How the next linear wants it in FP8, if it does: whoever writes it writes it so.
    pub(super) wanted: Option<InputScale>,
    /// Whether `buffer` holds codes of FP8 instead, and their scales.
    pub(super) is_float8: bool,
    /// `[rows]`, of activations on devices that multiply FP8.
    pub(super) scales: Option<DeviceBuffer>,
}

impl GpuTensor {
    pub(super) fn allocate(
        stream: &Stream,
        spec: TensorSpec,
        activation: ElementType,
    ) -> Result<Self, BackendError> {
        let data_type = if spec.role == TensorRole::Activation { activation } else { ElementType::F32 };
        let what = "the workspace";
        let full = || BackendError::OutOfMemory { what, requested_bytes: usize::MAX };
        let stride = spec.columns.checked_next_multiple_of(PADDING).ok_or_else(full)?;
        let bytes = spec
            .rows
            .checked_mul(stride)
            .and_then(|count| count.checked_mul(data_type.bytes()))
            .ok_or_else(full)?;
        if u32::try_from(spec.rows).is_err() || u32::try_from(stride).is_err() {
            return Err(BackendError::OutOfMemory { what, requested_bytes: bytes });
        }
        let mut buffer = DeviceBuffer::new(stream.device(), what, bytes)?;
        buffer.clear(stream)?;
        let host = match spec.role {
            TensorRole::Logits => Some(HostBuffer::new(stream.device(), bytes)?),
            TensorRole::Residual | TensorRole::Activation => None,
        };
        let TensorSpec { rows, columns, .. } = spec;
        let may_be_float8 =
            spec.role == TensorRole::Activation && stream.device().architecture().multiplies_float8();
        let scales = may_be_float8
            .then(|| DeviceBuffer::new(stream.device(), what, rows * size_of::<f32>()))
            .transpose()?;
        let (host_step, wanted, is_float8) = (None, None, false);
        Ok(Self { buffer, rows, columns, stride, data_type, host, host_step, wanted, is_float8, scales })
    }

    /// Holds an operand to its operation: a model that passes another tensor is wrong itself, so this panics.
    #[track_caller]
    pub(super) fn check(&self, what: &str, rows: usize, columns: usize) {
        assert!(
            self.columns == columns && self.rows >= rows,
            "{what} is [{}, {}] where at least {rows} rows of {columns} columns were expected",
            self.rows,
            self.columns
        );
    }

    pub(super) fn address(&self) -> u64 {
        self.buffer.address()
    }

    /// Where whoever writes it puts codes, if the next linear wants FP8; else it becomes wide again.
    pub(super) fn begin_write(&mut self) -> Option<QuantizeTarget> {
        let target = match (self.wanted, &self.scales) {
            (Some(scale), Some(scales)) => {
                Some(float8::target(self.buffer.address(), scales.address(), self.columns, scale))
            }
            _ => None,
        };
        self.is_float8 = target.is_some();
        target
    }

    /// As the input of a linear.
    pub(super) fn as_input(&self) -> LinearInput {
        match &self.scales {
            Some(scales) if self.is_float8 => LinearInput::Float8(Float8Rows {
                codes: self.address(),
                stride: code_stride(self.columns),
                scales: scales.address(),
            }),
            _ => LinearInput::Wide { address: self.address(), stride: self.stride },
        }
    }

    fn read_float8(&self, stream: &Stream, scales: &DeviceBuffer, rows: usize) -> Result<Vec<f32>, GpuError> {
        let mut codes = vec![0u8; rows * code_stride(self.columns)];
        self.buffer.read(stream, 0, &mut codes)?;
        let mut bytes = vec![0u8; rows * size_of::<f32>()];
        scales.read(stream, 0, &mut bytes)?;
        let (words, _) = bytes.as_chunks::<4>();
        let scales: Vec<f32> = words.iter().map(|&word| f32::from_le_bytes(word)).collect();
        let is_fnuz = stream.device().architecture().is_fnuz();
        Ok(float8::values(is_fnuz, &codes, &scales, self.columns))
    }

    /// The first rows as `f32`, without padding.
    pub(super) fn read(&self, stream: &Stream, rows: usize) -> Result<Vec<f32>, GpuError> {
        if let (true, Some(scales)) = (self.is_float8, &self.scales) {
            return self.read_float8(stream, scales, rows);
        }
        let mut bytes = vec![0u8; rows * self.stride * self.data_type.bytes()];
        self.buffer.read(stream, 0, &mut bytes)?;
        let element = |at: usize| match self.data_type {
            ElementType::F32 => f32::from_le_bytes(std::array::from_fn(|byte| bytes[4 * at + byte])),
            _ => bf16::from_le_bytes([bytes[2 * at], bytes[2 * at + 1]]).to_f32(),
        };
        let columns = self.columns;
        Ok((0..rows * columns).map(|at| element(at / columns * self.stride + at % columns)).collect())
    }

    /// Replaces the first elements; a last row that is not whole keeps 0 behind them.
    pub(super) fn write(&mut self, stream: &Stream, values: &[f32]) -> Result<(), BackendError> {
        let held = self.rows * self.columns;
        if values.len() > held {
            return Err(BackendError::Limit {
                what: "the number of values",
                value: values.len(),
                limit: held,
            });
        }
        let size = self.data_type.bytes();
        let mut bytes = vec![0u8; values.len().div_ceil(self.columns.max(1)) * self.stride * size];
        for (at, &value) in values.iter().enumerate() {
            let start = (at / self.columns * self.stride + at % self.columns) * size;
            match self.data_type {
                ElementType::F32 => bytes[start..start + 4].copy_from_slice(&value.to_le_bytes()),
                _ => bytes[start..start + 2].copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
            }
        }
        self.host_step = None;
        self.is_float8 = false;
        Ok(self.buffer.write(stream, 0, &bytes)?)
    }
}
