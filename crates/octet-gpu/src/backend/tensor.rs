//! Workspace matrices: rows padded to a multiple of 64 elements, and what lies behind the last column is 0.

use half::bf16;
use octet_backend::{BackendError, TensorRole, TensorSpec};

use crate::GpuError;
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
        Ok(Self { buffer, rows, columns, stride, data_type, host, host_step: None })
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

    /// The first rows as `f32`, without padding.
    pub(super) fn read(&self, stream: &Stream, rows: usize) -> Result<Vec<f32>, GpuError> {
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
        Ok(self.buffer.write(stream, 0, &bytes)?)
    }
}
