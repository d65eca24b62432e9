//! The choice of kernels and of a library's solutions, as the seam's tuner sees it.

use std::time::Duration;

use octet_backend::{
    Activation, Backend, BackendError, DataType, GemmProblem, GemmRun, ScaleShape, TunableBackend, Validator,
};
use octet_float8::Float8Format;

use crate::Kind;
use crate::backend::GpuBackend;
use crate::backend::gemm::{DEFAULT, FamilyId, ProductRun};
use crate::backend::linear::{self, GpuLinear};
use crate::backend::tensor::GpuTensor;
use crate::driver::Event;

/// Columns of a block of scales must be a multiple of this.
const BLOCK_COLUMNS: usize = 32;

impl GpuBackend {
    fn family_of(&self, weight: &GpuLinear, output: &GpuTensor) -> FamilyId {
        let Some(families) = weight.families else {
            panic!("a weight loaded as {:?} is part of no product", weight.usage);
        };
        families.of_output(output.data_type)
    }

    /// Runs something on the stream and returns how long the device took for it.
    fn timed(
        &mut self,
        body: impl FnOnce(&mut Self) -> Result<(), BackendError>,
    ) -> Result<Duration, BackendError> {
        let [start, end] = [Event::timed(&self.device)?, Event::timed(&self.device)?];
        if let Some(library) = self.gemms.library() {
            library.fill_workspace(&self.stream)?;
        }
        start.record(&self.stream)?;
        body(self)?;
        end.record(&self.stream)?;
        // Errors of the work itself show here, not at the event.
        self.stream.wait()?;
        Ok(end.since(&start)?)
    }
}

impl TunableBackend for GpuBackend {
    /// Besides what the device is: AMD's validators by AMD's names, and the same for NVIDIA's libraries. A library that
    /// is not there has no line, so that results of one with it do not hold.
    fn gemm_validators(&self) -> Vec<Validator> {
        let info = self.info();
        let mut validators = vec![
            Validator::new("DEVICE_KIND", info.kind),
            Validator::new("DEVICE_NAME", &info.name),
            Validator::new("DEVICE_ARCHITECTURE", &info.architecture),
            Validator::new("DEVICE_UNITS", &info.units.to_string()),
        ];
        let api = self.device.api();
        let (runtime, blas) = match api.kind {
            Kind::Hip => {
                validators.push(Validator::new("GCN_ARCH_NAME", &self.device.report().target));
                ("HIP_VERSION", "HIPBLASLT_VERSION")
            }
            Kind::Cuda => ("CUDA_VERSION", "CUBLASLT_VERSION"),
        };
        validators.push(Validator::new(runtime, &format!("{}.{}", api.version.0, api.version.1)));
        if let Some(library) = self.gemms.library() {
            let [version, _] = library.version.pytorch_names();
            validators.push(Validator::new(blas, version.trim_end_matches('-')));
        }
        validators
    }

    /// The device and hipBLASLt, whose version PyTorch writes in one of two forms. The revision in it names the build, so
    /// that ROCm's own version says nothing further.
    fn pytorch_validators(&self) -> Vec<Validator> {
        let Some(library) = self.gemms.library().filter(|_| self.device.api().kind == Kind::Hip) else {
            return Vec::new();
        };
        let versions = library.version.pytorch_names();
        let versions = versions.iter().map(|version| Validator::new("HIPBLASLT_VERSION", version));
        versions.chain([Validator::new("GCN_ARCH_NAME", &self.device.report().target)]).collect()
    }

    fn gemm_problem(
        &self,
        weight: &GpuLinear,
        _input: &GpuTensor,
        output: &GpuTensor,
        tokens: usize,
    ) -> GemmProblem {
        self.gemms.problem(self.family_of(weight, output)).with_tokens(tokens)
    }

    fn gemm_equivalent(&self, problem: &GemmProblem) -> Option<GemmProblem> {
        let weight = match problem.weight {
            DataType::F8(format) => DataType::F8(self.device.architecture().float8(format)?.0),
            wide => wide,
        };
        linear::element_type(self.device.architecture(), "weights", weight).ok()?;
        if let ScaleShape::Block { columns, .. } = problem.scales
            && columns < problem.columns
            && !columns.is_multiple_of(BLOCK_COLUMNS)
        {
            return None;
        }
        // FP8 by FP8 where the device multiplies it and weights have scales of rows or one.
        let is_quantized = problem.activation.is_float8()
            && self.takes_float8_inputs
            && self.device.architecture().multiplies_float8()
            && matches!(weight, DataType::F8(Float8Format::E4M3 | Float8Format::E4M3Fnuz))
            && !matches!(problem.scales, ScaleShape::Block { .. });
        let wide = self.activation_type();
        let activation = if is_quantized { weight } else { wide };
        let output = if problem.output == DataType::F32 { DataType::F32 } else { wide };
        let output = if problem.is_gated { wide } else { output };
        Some(GemmProblem { weight, activation, output, ..*problem })
    }

    fn gemm_solutions(&self, problem: &GemmProblem) -> Vec<String> {
        if self.gemm_equivalent(problem) != Some(*problem) {
            return Vec::new();
        }
        std::iter::once(DEFAULT.to_owned()).chain(self.gemms.names(problem)).collect()
    }

    fn time_gemm(&mut self, run: GemmRun<'_, Self>) -> Result<Duration, BackendError> {
        self.device.bind()?;
        let GemmRun { weight, solution, rows, input, output } = run;
        let family = self.family_of(weight, output);
        let problem = self.gemms.problem(family).with_tokens(rows);
        let Some(found) = self.gemms.find(&problem, solution) else {
            let (solution, reason) = (solution.to_owned(), "it is none of this device's".to_owned());
            return Err(BackendError::Solution { solution, reason });
        };
        let solution = found.unwrap_or_else(|| self.gemms.default_solution(family, rows));
        input.check("the product's input", rows, weight.columns);
        output.check("the product's output", rows, problem.output_columns());
        output.host_step = None;
        let target = match problem.is_gated {
            true => self.gated_products(weight)?,
            false => (output.address(), output.stride, output.data_type),
        };
        // Only the product itself is timed: what comes before and after is the same for all solutions.
        let input = (self.input_of(rows, weight, input)?, self.activation);
        self.gemms.force(solution);
        let product = ProductRun { weight, rows, input, target };
        let time = self.timed(|backend| backend.product(&product));
        self.gemms.release();
        if problem.is_gated {
            // Wide, whatever reads it in a step: numbers are compared.
            let wanted = output.wanted.take();
            self.gate(rows, target, Activation::Silu, output)?;
            output.wanted = wanted;
        }
        time
    }

    fn choose_gemm(&mut self, problem: &GemmProblem, solution: &str) -> bool {
        if self.gemm_equivalent(problem) != Some(*problem) {
            return false;
        }
        let Some(found) = self.gemms.find(problem, solution) else { return false };
        if self.gemms.choose(problem, found) {
            // Recorded steps have the old kernels in them. What is still running must have ended before they go.
            if self.stream.wait().is_err() {
                return false;
            }
            self.recordings.clear();
        }
        true
    }
}
