//! The choice of schedules, as the seam's tuner sees it.

use std::time::{Duration, Instant};

use octet_backend::{
    Activation, Backend, BackendError, DataType, GemmProblem, GemmRun, LinearPart, LinearSpec, LinearUse,
    ScaleShape, TokenBucket, TunableBackend, Validator,
};

use crate::backend::{CpuBackend, CpuLinear, CpuTensor};
use crate::kernels::linear::{self, DEFAULT, Schedule, can_pack, candidates};

/// Chosen schedules by problem and number of rows.
#[derive(Default)]
pub(crate) struct Choices {
    families: Vec<Family>,
}

/// The choices for one kind of weight.
struct Family {
    /// The problem of one token.
    problem: GemmProblem,
    /// By bucket; none is the default.
    chosen: [Option<Schedule>; TokenBucket::COUNT],
}

/// Number of a family in [`Choices`], by which weights find theirs at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FamilyId(usize);

impl Choices {
    /// The family of a problem, made if it is new.
    pub(crate) fn family(&mut self, problem: &GemmProblem) -> FamilyId {
        let problem = problem.with_tokens(1);
        let known = self.families.iter().position(|family| family.problem == problem);
        FamilyId(known.unwrap_or_else(|| {
            self.families.push(Family { problem, chosen: [None; TokenBucket::COUNT] });
            self.families.len() - 1
        }))
    }

    /// What was chosen for this number of rows.
    pub(crate) fn get(&self, family: FamilyId, rows: usize) -> Option<Schedule> {
        self.families[family.0].chosen[TokenBucket::of(rows).index()]
    }

    fn set(&mut self, problem: &GemmProblem, schedule: Option<Schedule>) {
        let family = self.family(problem);
        self.families[family.0].chosen[problem.bucket.index()] = schedule;
    }

    fn problem(&self, family: FamilyId) -> GemmProblem {
        self.families[family.0].problem
    }
}

/// The problem of a weight for one token.
pub(crate) fn problem_of(spec: &LinearSpec, parts: &[LinearPart<'_>]) -> GemmProblem {
    GemmProblem {
        rows: parts.iter().map(|part| part.weight.rows).sum(),
        bucket: TokenBucket::of(1),
        columns: parts.first().map_or(0, |part| part.weight.columns),
        weight: spec.data_type,
        activation: DataType::F32,
        output: DataType::F32,
        scales: ScaleShape::finest(parts.iter().map(|part| part.scale.shape())),
        has_bias: spec.bias.is_some(),
        is_gated: spec.usage == LinearUse::Gated,
    }
}

impl CpuBackend {
    /// The schedule of a name; `Err` if it is none for the problem.
    fn schedule(&self, problem: &GemmProblem, name: &str) -> Result<Option<Schedule>, BackendError> {
        if name == DEFAULT {
            return Ok(None);
        }
        let all = candidates(self.isa(), problem);
        match all.into_iter().find(|(known, _)| known == name) {
            Some((_, schedule)) => Ok(Some(schedule)),
            None => {
                let (solution, reason) = (name.to_owned(), "the table has no such entry for it".to_owned());
                Err(BackendError::Solution { solution, reason })
            }
        }
    }
}

impl TunableBackend for CpuBackend {
    fn gemm_validators(&self) -> Vec<Validator> {
        let info = self.info();
        vec![
            Validator::new("DEVICE_KIND", info.kind),
            Validator::new("DEVICE_NAME", &info.name),
            Validator::new("DEVICE_ARCHITECTURE", &info.architecture),
            Validator::new("DEVICE_UNITS", &info.units.to_string()),
        ]
    }

    fn gemm_problem(
        &self,
        weight: &CpuLinear,
        _input: &CpuTensor,
        _output: &CpuTensor,
        tokens: usize,
    ) -> GemmProblem {
        self.choices.problem(weight.family()).with_tokens(tokens)
    }

    fn gemm_equivalent(&self, problem: &GemmProblem) -> Option<GemmProblem> {
        let here = GemmProblem { activation: DataType::F32, output: DataType::F32, ..*problem };
        can_pack(problem.weight).then_some(here)
    }

    fn gemm_solutions(&self, problem: &GemmProblem) -> Vec<String> {
        if self.gemm_equivalent(problem) != Some(*problem) {
            return Vec::new();
        }
        let named = candidates(self.isa(), problem).into_iter().map(|(name, _)| name);
        std::iter::once(DEFAULT.to_owned()).chain(named).collect()
    }

    fn time_gemm(&mut self, run: GemmRun<'_, Self>) -> Result<Duration, BackendError> {
        let GemmRun { weight, solution, rows, input, output } = run;
        let problem = self.gemm_problem(weight, input, output, rows);
        let schedule = self.schedule(&problem, solution)?;
        let packed = weight.packed();
        input.check("the product's input", rows, packed.columns());
        output.check("the product's output", rows, packed.output_columns());
        let (input, output) = (input.values(), output.values_mut());
        let mut context = self.linear_context(schedule);
        let start = Instant::now();
        if problem.is_gated {
            linear::gated_linear(&mut context, packed, Activation::Silu, input, rows, output)?;
        } else {
            linear::linear(&mut context, packed, input, rows, output)?;
        }
        Ok(start.elapsed())
    }

    fn choose_gemm(&mut self, problem: &GemmProblem, solution: &str) -> bool {
        if self.gemm_equivalent(problem) != Some(*problem) {
            return false;
        }
        match self.schedule(problem, solution) {
            Ok(schedule) => {
                self.choices.set(problem, schedule);
                true
            }
            Err(_) => false,
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate does not need the last digits")]
    fn gemm_floor_seconds(&mut self, problem: &GemmProblem, tokens: usize) -> Option<f64> {
        if self.floor.is_none() {
            self.floor = self.measure_roofline().ok();
        }
        let floor = self.floor?;
        Some(floor.seconds(problem.weight_bytes() as f64, problem.operations(tokens)))
    }
}

#[cfg(test)]
mod tests {
    use octet_backend::{TensorRole, TensorSpec, WeightScale, WeightView};

    use super::*;
    use crate::{CpuOptions, PoolOptions, ThreadBinding};

    const ROWS: usize = 48;
    const COLUMNS: usize = 64;

    fn backend() -> CpuBackend {
        let threads = PoolOptions { workers: Some(2), binding: ThreadBinding::Unbound, reserved_cores: 0 };
        CpuBackend::new(&CpuOptions { threads, isa: None }).unwrap()
    }

    fn load(backend: &mut CpuBackend, usage: LinearUse) -> CpuLinear {
        let parts = if usage == LinearUse::Gated { 2 } else { 1 };
        let values = (0..ROWS * COLUMNS).map(|index| half::bf16::from_f32((index % 13) as f32 - 6.0));
        let bytes: Vec<u8> = values.flat_map(half::bf16::to_le_bytes).collect();
        let weight = WeightView {
            bytes: &bytes,
            data_type: DataType::BF16,
            rows: ROWS,
            columns: COLUMNS,
            row_stride: COLUMNS,
        };
        let spec = LinearSpec { data_type: DataType::BF16, usage, bias: None, input_scale: None };
        let part = LinearPart { weight, scale: WeightScale::None };
        backend.load_linear(spec, &vec![part; parts]).unwrap()
    }

    #[test]
    fn a_choice_holds_for_its_problem_and_bucket_alone() {
        let mut backend = backend();
        let (one, other) = (load(&mut backend, LinearUse::Multiply), load(&mut backend, LinearUse::Multiply));
        let gated = load(&mut backend, LinearUse::Gated);
        let spec = TensorSpec { role: TensorRole::Activation, rows: 16, columns: COLUMNS };
        let tensor = backend.allocate(spec).unwrap();
        let problem = backend.gemm_problem(&one, &tensor, &tensor, 11);
        assert_eq!(problem.parameter_signature(), "tn_48_12_64_ld_64_64_48");
        assert_eq!(problem.operation_signature(), "GemmTunableOp_BFloat16_float_float_TN");
        let solutions = backend.gemm_solutions(&problem);
        assert!(solutions[0] == DEFAULT && solutions.len() > 4, "{solutions:?}");
        assert!(backend.choose_gemm(&problem, &solutions[2]));
        let chosen = candidates(backend.isa(), &problem)[1].1;
        assert_eq!(backend.choices.get(one.family(), 9), Some(chosen));
        assert_eq!(backend.choices.get(other.family(), 12), Some(chosen), "equal weights share it");
        assert_eq!(backend.choices.get(one.family(), 13), None);
        assert_eq!(backend.choices.get(gated.family(), 12), None);
        assert!(!backend.choose_gemm(&problem, "Tiles_R1_P1_C1_A1"), "no such entry");
        assert_eq!(backend.choices.get(one.family(), 12), Some(chosen), "and nothing changed");
        assert!(backend.choose_gemm(&problem, DEFAULT));
        assert_eq!(backend.choices.get(one.family(), 12), None);
        let foreign = GemmProblem { activation: DataType::BF16, ..problem };
        assert!(backend.gemm_solutions(&foreign).is_empty() && !backend.choose_gemm(&foreign, DEFAULT));
        assert_eq!(backend.gemm_equivalent(&foreign), Some(problem));
    }

    #[test]
    fn every_solution_can_be_timed() {
        let mut backend = backend();
        for usage in [LinearUse::Multiply, LinearUse::Gated] {
            let weight = load(&mut backend, usage);
            let rows = 3;
            let spec = |columns| TensorSpec { role: TensorRole::Activation, rows, columns };
            let mut input = backend.allocate(spec(COLUMNS)).unwrap();
            let mut output = backend.allocate(spec(ROWS)).unwrap();
            backend.write_tensor(&mut input, &vec![0.5; rows * COLUMNS]).unwrap();
            let problem = backend.gemm_problem(&weight, &input, &output, rows);
            for solution in backend.gemm_solutions(&problem) {
                backend.write_tensor(&mut output, &vec![f32::NAN; rows * ROWS]).unwrap();
                let run = GemmRun {
                    weight: &weight,
                    solution: &solution,
                    rows,
                    input: &input,
                    output: &mut output,
                };
                assert!(backend.time_gemm(run).unwrap() > Duration::ZERO);
                let found = backend.read_tensor(&output, rows).unwrap();
                assert!(found.iter().all(|value| value.is_finite()), "{solution} wrote everything");
            }
            let run = GemmRun { weight: &weight, solution: "None", rows, input: &input, output: &mut output };
            assert!(backend.time_gemm(run).is_err());
        }
    }
}
