use std::fs;

use octet_backend::{InputScale, WeightFormat};
use octet_cpu::{CpuBackend, CpuOptions};
use octet_gpu::{GpuBackend, GpuOptions, Kind, Runtime};

use super::*;

fn form(data_type: DataType, scale: ScaleShape) -> WeightForm {
    WeightForm { format: WeightFormat { element: data_type, scale }, input_scale: None }
}

/// A change of the kernels, and what the self-test must say of it.
struct SeededFault {
    /// gfx942 is 0, with FNUZ; gfx1100 is 1, without instructions that convert FP8.
    device: usize,
    file: &'static str,
    from: &'static str,
    to: &'static str,
    said: &'static str,
}

const FAULTS: [SeededFault; 5] = [
    SeededFault {
        device: 1,
        file: "device.h",
        from: "float value = low >> mantissa ? normal : subnormal;",
        to: "float value = normal;",
        said: "of a weight in fp8_e4m3 is",
    },
    // A weight's scale is half of FNUZ's meaning.
    SeededFault {
        device: 0,
        file: "linear.cu",
        from: "if (!GROUPED && p.scales) value *= p.scales[feature];",
        to: "",
        said: "of a weight in fp8_e4m3 is",
    },
    SeededFault {
        device: 0,
        file: "linear.cu",
        from: "if (p.bias) value += p.bias[feature];",
        to: "if (feature == 71) value = 0;",
        said: "a product of 1 rows by a weight in bfloat16 is off",
    },
    SeededFault {
        device: 0,
        file: "rotary.cu",
        from: "smaller(value, limit)",
        to: "smaller(value, 0.75f * limit)",
        said: "in a KV cache in fp8_e4m3 comes back as",
    },
    SeededFault {
        device: 0,
        file: "attention.cu",
        from: "* p.score_scale;",
        to: "* 0.5f * p.score_scale;",
        said: "attention of 34 rows after 0",
    },
];

/// A model's two kinds of weights and a cache in FP8.
fn in_use() -> InUse {
    let e4m3 = DataType::F8(Float8Format::E4M3);
    InUse {
        forms: vec![form(DataType::BF16, ScaleShape::None), form(e4m3, ScaleShape::Channel)],
        kv_type: e4m3,
        head_dim: 64,
        query_heads: 8,
        kv_heads: 2,
    }
}

fn cpu() -> CpuBackend {
    CpuBackend::new(&CpuOptions::default()).expect("a CPU")
}

/// A simulated device, perhaps with a file that replaces one of the kernels' own.
fn gpu(index: usize, changed: Option<(&str, String)>) -> (GpuBackend, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    if let Some((name, text)) = changed {
        fs::write(folder.path().join(name), text).expect("a file");
    }
    let library = octet_hipsim::library_path().expect("Cargo builds the simulator beside the test");
    let runtime = Runtime::load(Kind::Hip, Some(&library)).expect("the simulator loads like HIP");
    let options = GpuOptions { kernel_sources: Some(folder.path().to_path_buf()), ..GpuOptions::default() };
    let device = runtime.open(index).expect("a simulated device");
    (GpuBackend::new(device, &options).expect("a backend"), folder)
}

/// A kernel source with one change.
fn changed(name: &str, from: &str, to: &str) -> String {
    let path = format!("{}/../octet-gpu/kernels/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(path).expect("a kernel source");
    assert_eq!(text.matches(from).count(), 1, "{from} is in one place of {name}");
    text.replace(from, to)
}

#[test]
fn the_cpu_passes_in_every_type() {
    let (e4m3, e5m2) = (DataType::F8(Float8Format::E4M3), DataType::F8(Float8Format::E5M2));
    let blocks = ScaleShape::Block { rows: 128, columns: 128 };
    let forms = vec![
        form(DataType::BF16, ScaleShape::None),
        form(DataType::F16, ScaleShape::None),
        form(DataType::F32, ScaleShape::None),
        form(e4m3, ScaleShape::Tensor),
        form(e4m3, blocks),
        form(e5m2, ScaleShape::Channel),
        WeightForm { input_scale: Some(InputScale::Dynamic), ..form(e4m3, ScaleShape::Channel) },
    ];
    for kv_type in [DataType::BF16, DataType::F16, DataType::F32, e4m3, e5m2] {
        let used = InUse { forms: forms.clone(), kv_type, ..in_use() };
        let passed = check(&mut cpu(), &used).expect("the CPU computes rightly");
        assert_eq!(passed.weights, [DataType::BF16, DataType::F16, DataType::F32, e4m3, e5m2]);
        assert_eq!(passed.kv_type, kv_type);
    }
}

#[test]
fn simulated_gpus_pass_with_fnuz_and_without() {
    octet_unrun::needs!(octet_hipsim::compiler());
    for index in [0, 1] {
        let (mut device, _folder) = gpu(index, None);
        let passed = check(&mut device, &in_use()).expect("the simulated device computes rightly");
        assert!(passed.to_string().contains("fp8_e4m3"), "{passed}");
    }
}

#[test]
fn seeded_faults_are_refused_with_what_is_wrong() {
    octet_unrun::needs!(octet_hipsim::compiler());
    for SeededFault { device, file, from, to, said } in FAULTS {
        let (mut backend, _folder) = gpu(device, Some((file, changed(file, from, to))));
        let error = check(&mut backend, &in_use()).expect_err(from).to_string();
        assert!(error.contains(said) && error.contains("must not serve"), "{from}: {error}");
        let architecture = ["gfx942", "gfx1100"][device];
        assert!(error.contains(architecture) && error.contains("--device hip"), "{error}");
    }
}
