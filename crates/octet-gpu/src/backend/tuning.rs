//! The choice of kernels and of a library's solutions, as the seam's tuner sees it.

use std::time::Duration;

use octet_backend::{
    Activation, Backend, BackendError, DataType, GemmProblem, GemmRun, ScaleMode, TunableBackend, Validator,
};

use crate::Kind;
use crate::backend::GpuBackend;
use crate::backend::gemm::{DEFAULT, FamilyId};
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

    /// The product of [`TunableBackend::time_gemm`], by whatever is forced.
    fn run_gemm(&mut self, run: GemmRun<'_, Self>) -> Result<(), BackendError> {
        let GemmRun { weight, rows, input, output, .. } = run;
        if weight.usage != octet_backend::LinearUse::Gated {
            return self.multiply(rows, weight, input, output, false);
        }
        // A gated product takes its number of rows from the batch, of which there is none now.
        let before = std::mem::replace(&mut self.batch.facts.rows, rows);
        let result = self.gated_linear(weight, Activation::Silu, input, output);
        self.batch.facts.rows = before;
        result
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
        if let ScaleMode::Block { columns, .. } = problem.scales
            && columns < problem.columns
            && !columns.is_multiple_of(BLOCK_COLUMNS)
        {
            return None;
        }
        let activation = self.activation_type();
        let output = if problem.output == DataType::F32 { DataType::F32 } else { activation };
        let output = if problem.is_gated { activation } else { output };
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
        let family = self.family_of(run.weight, run.output);
        let problem = self.gemms.problem(family).with_tokens(run.rows);
        let Some(found) = self.gemms.find(&problem, run.solution) else {
            let (solution, reason) = (run.solution.to_owned(), "it is none of this device's".to_owned());
            return Err(BackendError::Solution { solution, reason });
        };
        let solution = found.unwrap_or_else(|| self.gemms.default_solution(family, run.rows));
        self.gemms.force(solution);
        let time = self.timed(|backend| backend.run_gemm(run));
        self.gemms.release();
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
