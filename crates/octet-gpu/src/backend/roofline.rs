//! What the device can do at best, measured.

use std::time::Instant;

use crate::GpuError;
use crate::backend::GpuBackend;
use crate::driver::DeviceBuffer;

/// Bytes of each of the two buffers on a device that has the memory: many times its last cache.
const COPY_BYTES: usize = 1 << 30;
/// Copies that are timed together, so that starting them does not count.
const COPIES: u32 = 8;
/// The best of this many runs counts: disturbances only slow a run down, and the first ones are timed less exactly.
const ROUNDS: usize = 16;

impl GpuBackend {
    /// Bytes that the device moves in a second, read and written, when it copies within its memory.
    ///
    /// # Errors
    /// No memory for two buffers, or the driver's.
    pub fn copy_bytes_per_second(&mut self) -> Result<f64, GpuError> {
        self.device.bind()?;
        let memory = self.device.memory();
        // A small device, such as a simulated one, is not filled.
        let bytes = COPY_BYTES.min(memory.free_bytes / 8).min(memory.total_bytes / 32);
        let mut source = DeviceBuffer::new(&self.device, "a measurement", bytes)?;
        let mut target = DeviceBuffer::new(&self.device, "a measurement", bytes)?;
        // Untouched memory may not be there yet.
        source.clear(&self.stream)?;
        target.copy_from(&self.stream, &source)?;
        self.stream.wait()?;
        let mut best = f64::INFINITY;
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            for _ in 0..COPIES {
                target.copy_from(&self.stream, &source)?;
            }
            self.stream.wait()?;
            best = best.min(begun.elapsed().as_secs_f64() / f64::from(COPIES));
        }
        Ok(2.0 * bytes as f64 / best)
    }
}
