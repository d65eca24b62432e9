//! Products by the simulator's hipBLASLt beside our own kernels, and the choice among them.

use octet_backend::{
    Activation, Backend, Batch, DataType, GemmDevice, GemmProblem, GemmRun, InputScale, LinearPart,
    LinearSpec, LinearUse, TensorRole, TensorSpec, TunableBackend, WeightScale, WeightView,
};
use octet_float8::Float8Format;
use octet_gpu::{BlasOptions, GpuBackend, GpuLinear, GpuOptions, GpuTensor};

use octet_tune::SyntheticWeights;

use crate::simulator::backend;

/// Sizes of which no solution of the simulator asks too much, and a number of rows that is not its bucket's name.
const FEATURES: usize = 128;
const COLUMNS: usize = 192;
const ROWS: usize = 23;
/// All of the simulator's solutions but the one that wants 256 MiB.
const SOLUTIONS: [&str; 4] =
    ["Gemm_Hipblaslt_2107", "Gemm_Hipblaslt_1530", "Gemm_Hipblaslt_4711", "Gemm_Hipblaslt_902"];
const OWN: [&str; 3] = ["Octet_Skinny", "Octet_Tile_32", "Octet_Tile_Large"];

fn options(blas: BlasOptions) -> GpuOptions {
    GpuOptions { blas, ..GpuOptions::default() }
}

fn with_workspace() -> GpuOptions {
    options(BlasOptions { workspace_bytes: Some(32 << 20), ..BlasOptions::default() })
}

/// Numbers whose sums depend on their order in the last bits, which therefore tell who computed them.
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// What a linear is made of.
#[derive(Clone, Copy, Debug)]
struct Case {
    usage: LinearUse,
    role: TensorRole,
    data_type: DataType,
    has_bias: bool,
}

impl Case {
    const fn new(usage: LinearUse, role: TensorRole) -> Self {
        Self { usage, role, data_type: DataType::BF16, has_bias: false }
    }

    /// FP8 by FP8.
    const fn float8(self) -> Self {
        Self { data_type: DataType::F8(Float8Format::E4M3), ..self }
    }

    fn load(self, backend: &mut GpuBackend) -> GpuLinear {
        let parts = if self.usage == LinearUse::Gated { 2 } else { 1 };
        let is_float8 = self.data_type.is_float8();
        let values = numbers(FEATURES * COLUMNS, 7).into_iter();
        let bytes: Vec<u8> = if is_float8 {
            values.map(|value| Float8Format::E4M3.encode(value)).collect()
        } else {
            values.flat_map(|value| half::bf16::from_f32(value).to_le_bytes()).collect()
        };
        let weight = WeightView {
            bytes: &bytes,
            data_type: self.data_type,
            rows: FEATURES / parts,
            columns: COLUMNS,
            row_stride: COLUMNS,
        };
        let scales: Vec<f32> = numbers(FEATURES / parts, 13).iter().map(|value| value + 1.5).collect();
        let scale = if is_float8 { WeightScale::Channel(&scales) } else { WeightScale::None };
        let spec = LinearSpec {
            data_type: self.data_type,
            usage: self.usage,
            bias: self.has_bias.then(|| numbers(FEATURES, 3)),
            input_scale: is_float8.then_some(InputScale::Dynamic),
        };
        backend.load_linear(spec, &vec![LinearPart { weight, scale }; parts]).unwrap()
    }
}

/// A linear with its operands.
struct Bench {
    backend: GpuBackend,
    weight: GpuLinear,
    input: GpuTensor,
    output: GpuTensor,
}

impl Bench {
    fn new(options: &GpuOptions, case: Case) -> Self {
        let mut backend = backend("gfx942", options);
        let weight = case.load(&mut backend);
        let features = if case.usage == LinearUse::Gated { FEATURES / 2 } else { FEATURES };
        let mut tensor = |role, columns| backend.allocate(TensorSpec { role, rows: ROWS, columns }).unwrap();
        let (mut input, output) = (tensor(TensorRole::Activation, COLUMNS), tensor(case.role, features));
        backend.write_tensor(&mut input, &numbers(ROWS * COLUMNS, 11)).unwrap();
        Self { backend, weight, input, output }
    }

    fn solutions(&self, rows: usize) -> Vec<String> {
        let problem = self.backend.gemm_problem(&self.weight, &self.input, &self.output, rows);
        self.backend.gemm_solutions(&problem)
    }

    fn by(&mut self, solution: &str) -> Vec<f32> {
        let Self { backend, weight, input, output } = self;
        let run = GemmRun { weight, solution, rows: ROWS, input, output };
        assert!(backend.time_gemm(run).unwrap().as_nanos() > 0, "{solution} takes time");
        self.backend.read_tensor(&self.output, ROWS).unwrap()
    }

    fn choose(&mut self, solution: &str) {
        let problem = self.backend.gemm_problem(&self.weight, &self.input, &self.output, ROWS);
        assert!(self.backend.choose_gemm(&problem, solution), "{solution} for {problem}");
    }

    /// As a step does it.
    fn step(&mut self) -> Vec<f32> {
        let Self { backend, weight, input, output } = self;
        let mut batch = Batch::default();
        batch.push_sequence(&[1; ROWS], 0, &[0, 1]);
        backend.begin_step(&batch).unwrap();
        backend.linear(weight, input, output).unwrap();
        backend.read_tensor(output, ROWS).unwrap()
    }
}

/// As near as two orders of the same sum, and the rounding of an output of 16 bits, allow.
#[track_caller]
fn expect_near(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!(
            (found - expected).abs() <= tolerance * largest,
            "{what}: {found} where {expected} was expected at {index}"
        );
    }
}

#[test]
fn every_solution_computes_what_our_kernels_compute() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let wide = Case::new(LinearUse::Multiply, TensorRole::Residual);
    let narrow = Case::new(LinearUse::Multiply, TensorRole::Activation);
    let gated = Case::new(LinearUse::Gated, TensorRole::Activation);
    let cases = [
        (wide, 1e-5),
        (narrow, 1.0 / 128.0),
        (Case { has_bias: true, ..wide }, 1e-5),
        (gated, 1.0 / 64.0),
        (wide.float8(), 1e-5),
        (Case { has_bias: true, ..narrow.float8() }, 1.0 / 128.0),
        (gated.float8(), 1.0 / 64.0),
    ];
    for (case, tolerance) in cases {
        let mut bench = Bench::new(&with_workspace(), case);
        let expected = bench.by("Octet_Tile_32");
        let named = bench.solutions(ROWS);
        assert_eq!(named[0], "Default");
        for solution in OWN.iter().chain(&SOLUTIONS).chain(&["Default"]) {
            assert!(named.iter().any(|name| name == solution), "{solution} among {named:?}");
            let found = bench.by(solution);
            expect_near(&format!("{case:?} by {solution}"), &found, &expected, tolerance);
        }
        let run = GemmRun {
            weight: &bench.weight,
            solution: "Gemm_Hipblaslt_1",
            rows: ROWS,
            input: &bench.input,
            output: &mut bench.output,
        };
        let refused = bench.backend.time_gemm(run).unwrap_err().to_string();
        assert!(refused.contains("Gemm_Hipblaslt_1"), "{refused}");
    }
}

#[test]
fn a_choice_decides_who_computes_and_holds_for_its_bucket() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let mut bench = Bench::new(&with_workspace(), Case::new(LinearUse::Multiply, TensorRole::Residual));
    let (ours, library) = (bench.by("Octet_Tile_32"), bench.by("Gemm_Hipblaslt_902"));
    assert!(ours != library, "sums in another order have other last bits");
    assert!(bench.step() == library, "many rows are the library's without a choice");
    bench.choose("Octet_Tile_32");
    assert!(bench.step() == ours);
    bench.choose("Gemm_Hipblaslt_TN_902");
    assert!(bench.step() == library, "the name of older versions of PyTorch");
    bench.choose("Default");
    assert!(bench.step() == library);
    let problem = bench.backend.gemm_problem(&bench.weight, &bench.input, &bench.output, ROWS);
    assert!(!bench.backend.choose_gemm(&problem, "Gemm_Hipblaslt_3300"), "the workspace is too small for it");
    assert!(!bench.backend.choose_gemm(&problem.with_tokens(512), "Octet_Skinny"), "not for so many rows");
}

#[test]
fn without_a_library_our_own_kernels_do_all() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let missing =
        BlasOptions { library: Some("/nowhere/libhipblaslt.so.1".into()), ..BlasOptions::default() };
    let off = BlasOptions { is_off: true, ..BlasOptions::default() };
    for blas in [missing, off] {
        let mut bench = Bench::new(&options(blas), Case::new(LinearUse::Multiply, TensorRole::Residual));
        assert_eq!(bench.solutions(ROWS), ["Default", "Octet_Skinny", "Octet_Tile_Large"]);
        assert_eq!(bench.solutions(100), ["Default", "Octet_Tile_32"]);
        let ours = bench.by("Octet_Tile_32");
        assert!(bench.step() == ours);
        let keys: Vec<String> =
            bench.backend.gemm_validators().into_iter().map(|validator| validator.key).collect();
        assert!(!keys.iter().any(|key| key == "HIPBLASLT_VERSION"), "{keys:?}");
        assert!(bench.backend.pytorch_validators().is_empty());
    }
}

#[test]
fn validators_name_device_and_library_as_amd_does() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let backend = backend("gfx942", &with_workspace());
    let validators = backend.gemm_validators();
    for (key, value) in [
        ("DEVICE_KIND", "hip"),
        ("DEVICE_ARCHITECTURE", "gfx942"),
        ("GCN_ARCH_NAME", "gfx942:sramecc+:xnack-"),
        ("HIPBLASLT_VERSION", "100100-hipsim"),
    ] {
        let found = validators.iter().find(|validator| validator.key == key);
        assert_eq!(found.map(|found| found.value.as_str()), Some(value), "{key}");
    }
    let pytorch = backend.pytorch_validators();
    let versions: Vec<&str> = pytorch
        .iter()
        .filter(|validator| validator.key == "HIPBLASLT_VERSION")
        .map(|validator| validator.value.as_str())
        .collect();
    assert_eq!(versions, ["100100-hipsim", "1.1.0-hipsim"]);
}

#[test]
fn a_product_that_no_library_takes_is_ours() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let mut backend = backend("gfx942", &with_workspace());
    let bytes: Vec<u8> = numbers(64 * 64, 9).into_iter().flat_map(f32::to_le_bytes).collect();
    let weight =
        WeightView { bytes: &bytes, data_type: DataType::F32, rows: 64, columns: 64, row_stride: 64 };
    let spec =
        LinearSpec { data_type: DataType::F32, usage: LinearUse::Gated, bias: None, input_scale: None };
    let weight = backend.load_linear(spec, &[LinearPart { weight, scale: WeightScale::None }; 2]).unwrap();
    let spec = TensorSpec { role: TensorRole::Activation, rows: 40, columns: 64 };
    let (input, mut output) = (backend.allocate(spec).unwrap(), backend.allocate(spec).unwrap());
    let problem = backend.gemm_problem(&weight, &input, &output, 40);
    assert_eq!(backend.gemm_solutions(&problem), ["Default", "Octet_Skinny", "Octet_Tile_Large"]);
    let mut batch = Batch::default();
    batch.push_sequence(&[1; 40], 0, &[0, 1, 2]);
    backend.begin_step(&batch).unwrap();
    backend.gated_linear(&weight, Activation::Silu, &input, &mut output).unwrap();
    assert!(backend.read_tensor(&output, 40).unwrap().iter().all(|&value| value == 0.0), "of zeros");
}

#[test]
fn products_of_pytorchs_untuned_files_get_synthetic_operands() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let names = [
        ("GemmTunableOp_BFloat16_TN", "tn_64_20_128", "BFloat16"),
        ("GemmTunableOp_BFloat16_BFloat16_float_TN", "tn_64_20_128", "float"),
        (
            "ScaledGemmTunableOp_Float8_e4m3fn_Float8_e4m3fn_BFloat16_TN",
            "tn_64_20_128_rw_1_bias_None",
            "fnuz",
        ),
        ("GemmTunableOp_Half_TN", "tn_64_20_128", "Half_BFloat16_BFloat16"),
    ];
    let mut device = SyntheticWeights::new(backend("gfx942", &with_workspace()), 1);
    for (operation, parameters, word) in names {
        let problem = GemmProblem::from_signatures(operation, parameters).unwrap();
        let here = device.backend().gemm_equivalent(&problem).unwrap();
        assert!(here.operation_signature().contains(word), "{}", here.operation_signature());
        device.begin(&here).unwrap();
        let solutions = device.solutions(&here);
        let of_library = solutions.iter().filter(|name| name.starts_with("Gemm_Hipblaslt_")).count();
        assert_eq!(of_library, if word == "Half_BFloat16_BFloat16" { 0 } else { 4 }, "{here}: {solutions:?}");
        for solution in solutions {
            assert!(device.run(&here, &solution, 0).unwrap().as_nanos() > 0);
            let output = device.output(&here).unwrap();
            assert!(output.iter().all(|value| value.is_finite()) && output.iter().any(|&value| value != 0.0));
        }
    }
}
