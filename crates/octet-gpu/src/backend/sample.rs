//! Sampling: parameters of all rows in one transfer, one kernel, tokens in another.

use octet_backend::{BackendError, SampleRow};

use crate::GpuError;
use crate::backend::parameters::{self, size};
use crate::backend::{GpuBackend, GpuTensor};
use crate::driver::{Device, DeviceBuffer, Function, HostBuffer, Module, Stream};
use crate::kernels::Source;
use crate::modules::Pending;

/// Bytes of `SampleRow` in `sample.cu`.
const ROW_BYTES: usize = 32;
const TOKEN_BYTES: usize = size_of::<u32>();
/// Threads of its blocks.
const THREADS: u32 = 1024;
/// Integer weights are summed up in 64 bits: more tokens might not fit.
const LARGEST_VOCABULARY: usize = 1 << 18;

/// The kernel of `sample.cu`.
pub(super) struct SampleKernel(Function);

impl SampleKernel {
    fn of(module: &Module) -> Result<Self, GpuError> {
        module.function("sample").map(Self)
    }
}

/// What sampling needs on the device, made with the tensor of logits.
pub(super) struct Sampling {
    kernel: SampleKernel,
    rows: usize,
    /// How many rows were sampled since the start.
    sampled_rows: u64,
    /// Parameters on their way there, then tokens on their way back.
    host: HostBuffer,
    parameters: DeviceBuffer,
    tokens: DeviceBuffer,
}

impl Sampling {
    /// For `rows` rows at once.
    fn new(device: &Device, kernel: SampleKernel, rows: usize) -> Result<Self, GpuError> {
        Ok(Self {
            kernel,
            rows,
            sampled_rows: 0,
            host: HostBuffer::new(device, rows * ROW_BYTES)?,
            parameters: DeviceBuffer::new(device, "parameters of sampling", rows * ROW_BYTES)?,
            tokens: DeviceBuffer::new(device, "sampled tokens", rows * TOKEN_BYTES)?,
        })
    }

    /// Samples and waits for the tokens.
    fn sample(
        &mut self,
        stream: &Stream,
        logits: &GpuTensor,
        rows: &[SampleRow],
        tokens: &mut [u32],
    ) -> Result<(), BackendError> {
        let bytes = self.host.as_bytes_mut();
        for (row, target) in rows.iter().zip(bytes.chunks_exact_mut(ROW_BYTES)) {
            assert!(row.row < logits.rows, "row {} of {} rows of logits", row.row, logits.rows);
            target.copy_from_slice(&row_bytes(row));
        }
        self.parameters.write_pinned(stream, 0, &self.host, rows.len() * ROW_BYTES)?;
        let parameters = parameters::Sample {
            logits: logits.address(),
            rows: self.parameters.address(),
            tokens: self.tokens.address(),
            stride: size(logits.stride),
            columns: size(logits.columns),
        };
        // SAFETY: the parameters are the kernel's, and each row is one of the logits.
        unsafe { self.kernel.0.launch_threads(stream, [rows.len(), 1, 1], THREADS, &parameters)? };
        self.tokens.read_pinned(stream, 0, &mut self.host, rows.len() * TOKEN_BYTES)?;
        stream.wait()?;
        let (words, _) = self.host.as_bytes_mut().as_chunks::<TOKEN_BYTES>();
        for (token, &word) in tokens.iter_mut().zip(words.iter()) {
            *token = u32::from_le_bytes(word);
        }
        self.sampled_rows += rows.len() as u64;
        Ok(())
    }
}

impl GpuBackend {
    /// How many rows of logits the device has sampled.
    #[must_use]
    pub fn sampled_rows(&self) -> u64 {
        self.sampling.as_ref().map_or(0, |sampling| sampling.sampled_rows)
    }

    /// Begins to make the kernel, once.
    pub(super) fn begin_sampling(&mut self) -> Result<(), GpuError> {
        if self.sample.is_none() && self.sampling.is_none() {
            let kernel = Pending::start(&self.device, &self.code, &Source::sample(), SampleKernel::of)?;
            self.sample = Some(kernel);
        }
        Ok(())
    }

    /// Makes room to sample the rows of a new tensor of logits.
    pub(super) fn make_room_for_sampling(&mut self, rows: usize) -> Result<(), GpuError> {
        let (kernel, sampled_rows) = match self.sampling.take() {
            Some(sampling) if sampling.rows >= rows => {
                self.sampling = Some(sampling);
                return Ok(());
            }
            Some(sampling) => {
                self.stream.wait()?;
                (sampling.kernel, sampling.sampled_rows)
            }
            None => {
                self.begin_sampling()?;
                let kernel = self.sample.take().ok_or(GpuError::Panicked)?;
                (kernel.finish()?, 0)
            }
        };
        self.sampling = Some(Sampling { sampled_rows, ..Sampling::new(&self.device, kernel, rows)? });
        Ok(())
    }

    /// Samples rows, unless the kernel cannot.
    pub(super) fn sample_rows(
        &mut self,
        logits: &GpuTensor,
        rows: &[SampleRow],
        tokens: &mut [u32],
    ) -> Result<bool, BackendError> {
        let Some(sampling) = self.sampling.as_mut().filter(|sampling| rows.len() <= sampling.rows) else {
            return Ok(false);
        };
        if logits.columns > LARGEST_VOCABULARY {
            return Ok(false);
        }
        sampling.sample(&self.stream, logits, rows, tokens)?;
        Ok(true)
    }
}

/// A number of `[0, 1]` in units of 2^-64; 1 is all ones.
fn in_64_bits(fraction: f64) -> u64 {
    // The conversion saturates.
    (fraction * 2f64.powi(64)) as u64
}

/// A row's parameters as the kernel reads them.
fn row_bytes(row: &SampleRow) -> [u8; ROW_BYTES] {
    let top_p = if row.top_p >= 1.0 { u64::MAX } else { in_64_bits(f64::from(row.top_p)) };
    let inverse_temperature = if row.temperature == 0.0 { 0.0 } else { 1.0 / row.temperature };
    let mut bytes = [0; ROW_BYTES];
    bytes[..8].copy_from_slice(&top_p.to_le_bytes());
    bytes[8..16].copy_from_slice(&in_64_bits(row.fraction).to_le_bytes());
    bytes[16..20].copy_from_slice(&size(row.row).to_le_bytes());
    bytes[20..24].copy_from_slice(&row.top_k.to_le_bytes());
    bytes[24..28].copy_from_slice(&inverse_temperature.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_keep_their_bits() {
        assert_eq!(in_64_bits(0.0), 0);
        assert_eq!(in_64_bits(0.5), 1 << 63);
        assert_eq!(in_64_bits(1.0), u64::MAX);
        assert_eq!(in_64_bits(1.0 - f64::EPSILON / 2.0), u64::MAX - 0x7ff);
    }

    #[test]
    fn parameters_lie_as_the_kernel_reads_them() {
        let row = SampleRow { row: 3, temperature: 0.5, top_k: 7, top_p: 1.0, fraction: 0.25 };
        let bytes = row_bytes(&row);
        assert_eq!(bytes[..8], [0xff; 8]);
        assert_eq!(bytes[8..16], (1u64 << 62).to_le_bytes());
        assert_eq!(
            bytes[16..28],
            [&3u32.to_le_bytes()[..], &7u32.to_le_bytes(), &2f32.to_le_bytes()].concat()
        );
        assert_eq!(row_bytes(&SampleRow { temperature: 0.0, ..row })[24..28], [0; 4]);
    }
}
