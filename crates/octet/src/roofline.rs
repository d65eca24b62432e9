//! What a device can do at best, measured, and said how: what times are held against.

use std::time::Instant;

use anyhow::{Context, Result};
use octet_backend::{
    Backend, BackendError, Batch, DataType, LinearPart, LinearSpec, LinearUse, TensorRole, TensorSpec,
    WeightScale, WeightView,
};
use octet_cpu::{CpuOptions, Isa, Pool};
use octet_gpu::GpuOptions;

use crate::device::{self, DevicePlan};

/// Rows, columns and features of the product that shows a GPU's arithmetic.
const SIDE: usize = 4096;
/// Products that are timed together, and how often.
const PRODUCTS: u32 = 8;
const ROUNDS: usize = 12;

/// What the machine can do at best, measured in the same minutes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Roofline {
    /// Bytes moved to and from memory.
    pub(crate) bytes_per_second: f64,
    /// Multiply-adds in the type in which the backend computes.
    pub(crate) multiply_add_per_second: f64,
    /// By what it was measured.
    pub(crate) measure: Measure,
}

/// By what a floor was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measure {
    /// All workers read memory, then multiply what is in their first caches.
    Loops,
    /// The device copies within its memory, then multiplies large matrices as a model does.
    CopyAndProduct,
}

impl Measure {
    /// For reports and results.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Loops => "reading memory, and multiply-adds in registers, on all workers",
            Self::CopyAndProduct => {
                "copying within the device's memory (bytes read and written), and a product of 4096 x 4096 by 4096 x 4096 \
                 in bfloat16"
            }
        }
    }
}

/// A roofline that was measured already, or will be.
pub(crate) enum PendingRoofline {
    /// A GPU's; nothing for a simulated one, whose times mean nothing.
    Measured(Option<Roofline>),
    /// A CPU's, which wants its workers for itself.
    OfCpu(CpuOptions),
}

impl PendingRoofline {
    /// Measures a GPU; a CPU's measurement waits.
    ///
    /// # Errors
    /// Of the device.
    pub(crate) fn of(device: &DevicePlan) -> Result<Self> {
        match device {
            DevicePlan::Cpu(options) => Ok(Self::OfCpu(options.clone())),
            DevicePlan::Gpu(gpu, options) => Roofline::of_gpu(gpu, options).map(Self::Measured),
        }
    }

    /// What the device can do at best.
    ///
    /// # Errors
    /// Of the measurement.
    pub(crate) fn finish(self) -> Result<Option<Roofline>> {
        match self {
            Self::Measured(roofline) => Ok(roofline),
            Self::OfCpu(options) => Roofline::of_cpu(&options).map(Some),
        }
    }
}

impl Roofline {
    /// The CPU's.
    ///
    /// # Errors
    /// No threads, or no memory to read.
    fn of_cpu(options: &CpuOptions) -> Result<Self> {
        let pool = Pool::new(&options.threads)?;
        let measured = octet_cpu::Roofline::measure(&pool, Isa::from_environment()?)?;
        Ok(Self {
            bytes_per_second: measured.read_bytes_per_second,
            multiply_add_per_second: measured.operations_per_second / 2.0,
            measure: Measure::Loops,
        })
    }

    /// A GPU's; nothing for a simulated one, whose times mean nothing. By a backend of its own, so that what a model
    /// allocates later does not depend on it.
    ///
    /// # Errors
    /// Of the device.
    fn of_gpu(gpu: &octet_gpu::Device, options: &GpuOptions) -> Result<Option<Self>> {
        if gpu.is_simulated() {
            return Ok(None);
        }
        let mut backend = device::open_gpu(gpu.clone(), options)?;
        let bytes_per_second = backend.copy_bytes_per_second().context("the memory could not be measured")?;
        let multiply_add_per_second =
            products_per_second(&mut backend, SIDE).context("the arithmetic could not be measured")?;
        Ok(Some(Self { bytes_per_second, multiply_add_per_second, measure: Measure::CopyAndProduct }))
    }

    /// The fewest seconds in which work that moves `bytes` and does `multiply_adds` can be done.
    pub(crate) fn seconds(&self, bytes: f64, multiply_adds: f64) -> f64 {
        (bytes / self.bytes_per_second).max(multiply_adds / self.multiply_add_per_second)
    }
}

/// Multiply-adds in a second of a product of `side` rows, columns and features in bfloat16.
fn products_per_second<B: Backend>(device: &mut B, side: usize) -> Result<f64, BackendError> {
    // Numbers of many patterns of bits, from about -1 to 1: devices are quicker, and cooler, with zeros.
    let value = |at: usize| ((at.wrapping_mul(2_654_435_761) >> 8) % 255) as f32 / 128.0 - 1.0;
    let values = (0..side * side).map(value);
    let stored: Vec<u8> =
        values.clone().flat_map(|value| value.to_bits().to_le_bytes()[2..].to_vec()).collect();
    let view =
        WeightView { bytes: &stored, data_type: DataType::BF16, rows: side, columns: side, row_stride: side };
    let spec =
        LinearSpec { data_type: DataType::BF16, usage: LinearUse::Multiply, bias: None, input_scale: None };
    let weight = device.load_linear(spec, &[LinearPart { weight: view, scale: WeightScale::None }])?;
    let mut tensor =
        || device.allocate(TensorSpec { role: TensorRole::Activation, rows: side, columns: side });
    let (mut input, mut output) = (tensor()?, tensor()?);
    device.write_tensor(&mut input, &values.collect::<Vec<f32>>())?;
    let mut batch = Batch::default();
    batch.push_sequence(&vec![0; side], 0, &(1..=side.div_ceil(16) as u32).collect::<Vec<u32>>());
    device.begin_step(&batch)?;
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        for _ in 0..PRODUCTS {
            device.linear(&weight, &input, &mut output)?;
        }
        // Reading waits for what was started.
        device.read_tensor(&output, 1)?;
        best = best.min(begun.elapsed().as_secs_f64() / f64::from(PRODUCTS));
    }
    Ok((side as f64).powi(3) / best)
}

#[cfg(test)]
mod tests {
    use octet_cpu::CpuBackend;

    use super::*;

    #[test]
    fn the_slower_of_moving_and_multiplying_counts() {
        let floor = Roofline {
            bytes_per_second: 10.0,
            multiply_add_per_second: 50.0,
            measure: Measure::CopyAndProduct,
        };
        assert_eq!(floor.seconds(20.0, 50.0), 2.0);
        assert_eq!(floor.seconds(20.0, 250.0), 5.0);
    }

    #[test]
    fn a_simulated_device_has_no_floor() {
        octet_unrun::needs!(octet_hipsim::compiler());
        let library = octet_hipsim::library_path().expect("Cargo builds the simulator beside the test");
        let runtime = octet_gpu::Runtime::load(octet_gpu::Kind::Hip, Some(&library)).expect("it loads");
        let device = runtime.open(0).expect("a simulated device");
        assert!(Roofline::of_gpu(&device, &GpuOptions::default()).expect("nothing is measured").is_none());
        // Its memory can be copied all the same.
        let options = octet_gpu::GpuOptions::default();
        let mut backend = octet_gpu::GpuBackend::new(device, &options).expect("a backend");
        assert!(backend.copy_bytes_per_second().expect("it copies") > 0.0);
    }

    #[test]
    fn products_are_counted() {
        let mut device = CpuBackend::new(&CpuOptions::default()).expect("a CPU");
        let rate = products_per_second(&mut device, 64).expect("it multiplies");
        assert!(rate > 1e6 && rate.is_finite(), "{rate}");
    }
}
