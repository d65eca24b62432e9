//! A device without a run-time compiler: its kernels come from a file that was made at release time.

use std::fs;
use std::process::Command;

use octet_backend::{Backend as _, Batch, LinearPart, LinearSpec, LinearUse, TensorRole, TensorSpec};
use octet_backend::{DataType, WeightScale, WeightView};
use octet_gpu::{
    Architecture, BundleWriter, ElementType, GpuBackend, GpuError, GpuOptions, Kind, OfflineCompiler, Source,
};

use crate::simulator::runtime;

/// Names the bundle to the child, in which hiprtc is as good as missing.
const VARIABLE: &str = "OCTET_TEST_BUNDLE";

#[test]
fn a_device_without_a_compiler_runs_what_was_made_for_it() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let folder = tempfile::tempdir().unwrap();
    let library = octet_hipsim::library_path().unwrap();
    let compiler = OfflineCompiler::load(Kind::Hip, Some(&library)).unwrap();
    let architecture = Architecture::parse("gfx942").unwrap();
    let mut writer = BundleWriter::default();
    for source in [Source::rows(), Source::linear(ElementType::BF16, ElementType::BF16, false)] {
        let compiled = compiler.compile_portably(&source, architecture).unwrap();
        writer.add(&source, architecture, &compiled.code).unwrap();
    }
    let path = folder.path().join("kernels");
    fs::write(&path, writer.finish()).unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "bundle::child_without_a_compiler"])
        .env(VARIABLE, &path)
        .env("OCTET_HIPSIM_NO_COMPILER", "1")
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
}

/// Does nothing unless a bundle is named.
#[test]
fn child_without_a_compiler() {
    let Some(bundle) = std::env::var_os(VARIABLE) else { return };
    let options = GpuOptions { kernel_bundle: Some(bundle.into()), ..GpuOptions::default() };
    let runtime = runtime();
    assert!(runtime.describe().contains("no hiprtc"), "{}", runtime.describe());
    let mut backend = GpuBackend::new(runtime.open(0).unwrap(), &options).unwrap();
    // One row of ones times a matrix of twos.
    let bytes: Vec<u8> = std::iter::repeat_n([0x00, 0x40], 32 * 32).flatten().collect();
    let view = WeightView { bytes: &bytes, data_type: DataType::BF16, rows: 32, columns: 32, row_stride: 32 };
    let part = LinearPart { weight: view, scale: WeightScale::None };
    let spec =
        LinearSpec { data_type: DataType::BF16, usage: LinearUse::Multiply, bias: None, input_scale: None };
    let weight = backend.load_linear(spec.clone(), &[part]).unwrap();
    let mut tensor =
        || backend.allocate(TensorSpec { role: TensorRole::Activation, rows: 1, columns: 32 }).unwrap();
    let (mut input, mut output) = (tensor(), tensor());
    backend.write_tensor(&mut input, &[1.0; 32]).unwrap();
    let mut batch = Batch::default();
    batch.push_sequence(&[0], 0, &[1]);
    backend.begin_step(&batch).unwrap();
    backend.linear(&weight, &input, &mut output).unwrap();
    assert_eq!(backend.read_tensor(&output, 1).unwrap(), [64.0; 32]);
    // Another type is not in it.
    let view = WeightView { data_type: DataType::F16, ..view };
    let part = LinearPart { weight: view, scale: WeightScale::None };
    let weight = backend.load_linear(LinearSpec { data_type: DataType::F16, ..spec }, &[part]).unwrap();
    let error = backend.linear(&weight, &input, &mut output).unwrap_err().to_string();
    assert!(error.contains("linear(f16,bf16,0) for gfx942") && error.contains("other sources"), "{error}");
    // On another device, nothing is.
    let Err(GpuError::NoCode { bundle, compiler, .. }) = GpuBackend::new(runtime.open(1).unwrap(), &options)
    else {
        panic!("there is no code for gfx1100")
    };
    assert!(bundle.contains("nothing for this architecture") && bundle.contains("kernels"), "{bundle}");
    assert!(compiler.contains("hiprtcVersion"), "{compiler}");
}
