//! A whole model whose products are tuned among our kernels and the simulator's hipBLASLt.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use octet_backend::{Batch, BucketSet, GemmDevice, GemmProblem, TokenBucket};
use octet_gpu::{BlasOptions, GpuBackend, GpuOptions};
use octet_model::Runner;
use octet_tune::{
    FileState, Store, Tuner, TunerStep, TuningLimits, TuningSettings, apply, import, take_over,
};

use crate::decoder::{AS_STORED, Golden, SIXTEEN_BITS, expect_near};

const CASE: &str = "llama-gqa-rope-llama3";
/// The batches of the runs below: two chunks of a prompt, then tokens one by one.
const DECODE_ROWS: usize = 1;

fn runner(golden: &Golden) -> Runner<GpuBackend> {
    let blas = BlasOptions { workspace_bytes: Some(1 << 20), ..BlasOptions::default() };
    golden.runner("gfx942", &GpuOptions { blas, ..GpuOptions::default() }, AS_STORED)
}

/// The products of batches of these sizes.
fn problems(runner: &mut Runner<GpuBackend>, rows: &[usize]) -> Vec<GemmProblem> {
    let mut buckets = BucketSet::default();
    buckets.extend(rows.iter().map(|&rows| TokenBucket::of(rows)));
    runner.projections().problems(buckets, buckets)
}

fn tune(runner: &mut Runner<GpuBackend>, file: &Path, problems: &[GemmProblem]) {
    let limits = TuningLimits { iterations: 2, problem: Duration::from_secs(60), ..TuningLimits::default() };
    let settings = TuningSettings { limits, ..TuningSettings::default() };
    let begun = Instant::now();
    let store = Store::open(file.to_owned(), runner.projections().validators());
    let mut tuner = Tuner::new(store, settings, Box::new(move || begun.elapsed()));
    tuner.add(problems.iter().copied());
    let mut tuned = 0;
    while tuner.has_work() {
        if let TunerStep::Tuned(result) = tuner.step(&mut runner.projections()).unwrap() {
            let refused = result.outcome.all.iter().find(|one| one.seconds.is_none());
            assert!(refused.is_none(), "every solution ran and was right: {refused:?}");
            tuned += 1;
        }
    }
    assert_eq!(tuned, problems.len());
}

/// Logits of one token, again and again, so that the step is recorded.
fn decode(runner: &mut Runner<GpuBackend>, times: usize) -> Vec<f32> {
    let mut logits = Vec::new();
    for _ in 0..times {
        let mut batch = Batch::default();
        batch.push_sequence(&[5], 0, &[1]);
        batch.output_rows.push(0);
        logits = runner.logits(&batch).unwrap();
    }
    logits
}

#[test]
fn results_are_found_kept_and_used_again() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let golden = Golden::read(CASE);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("results.csv");
    let mut first = runner(&golden);
    let all = problems(&mut first, &[DECODE_ROWS, 24]);
    assert!(all.iter().any(|problem| problem.is_gated) && all.len() > 6, "{all:?}");
    tune(&mut first, &file, &all);
    let text = fs::read_to_string(&file).unwrap();
    for line in
        ["Validator,GCN_ARCH_NAME,gfx942", "Validator,HIPBLASLT_VERSION,100100-hipsim", "TunableOp_BFloat16"]
    {
        assert!(text.contains(line), "{text}");
    }
    expect_near("tuned", &golden.run(&mut first, golden.prompt.len() - 4), &golden.logits, SIXTEEN_BITS);
    // Another process with the same device.
    let mut second = runner(&golden);
    let store = Store::open(file.clone(), second.projections().validators());
    assert_eq!((store.state(), store.results().len()), (&FileState::Applies, all.len()));
    assert_eq!(apply(store.results(), &mut second.projections()).chosen, all.len());
    // And one without the library, for which they do not hold.
    let blas = BlasOptions { is_off: true, ..BlasOptions::default() };
    let mut third = golden.runner("gfx942", &GpuOptions { blas, ..GpuOptions::default() }, AS_STORED);
    let store = Store::open(file, third.projections().validators());
    assert!(matches!(store.state(), FileState::Rejected(mismatch) if mismatch.key == "HIPBLASLT_VERSION"));
}

#[test]
fn a_new_choice_voids_recorded_steps_and_an_old_one_does_not() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let golden = Golden::read(CASE);
    let mut runner = runner(&golden);
    let before = decode(&mut runner, 3);
    assert_eq!(runner.backend().recorded_steps(), 1);
    let problem = problems(&mut runner, &[DECODE_ROWS])[0];
    assert!(runner.projections().choose(&problem, "Default"));
    assert_eq!(runner.backend().recorded_steps(), 1, "that is what it was");
    let solutions = runner.projections().solutions(&problem);
    let library = solutions.iter().find(|name| name.starts_with("Gemm_Hipblaslt_")).unwrap();
    assert!(runner.projections().choose(&problem, library));
    assert_eq!(runner.backend().recorded_steps(), 0);
    // The library's product is recorded and replayed as well.
    let after = decode(&mut runner, 4);
    assert_eq!(runner.backend().recorded_steps(), 1);
    expect_near("by the library", &after, &before, SIXTEEN_BITS);
}

#[test]
fn results_of_pytorch_for_the_same_library_are_taken_over() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let golden = Golden::read(CASE);
    let mut runner = runner(&golden);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pytorch.csv");
    let all = problems(&mut runner, &[24]);
    let sizes = |problem: &GemmProblem| format!("tn_{}_20_{}", problem.rows, problem.columns);
    let gated = all.iter().find(|problem| problem.is_gated).unwrap();
    let narrow = all.iter().find(|problem| problem.rows != gated.rows).unwrap();
    let text = format!(
        "Validator,PT_VERSION,2.5.0\nValidator,ROCM_VERSION,7.0.0\nValidator,HIPBLASLT_VERSION,1.1.0-hipsim\n\
         Validator,GCN_ARCH_NAME,gfx942:sramecc+:xnack-\nValidator,ROCBLAS_VERSION,4.2.0\n\
         GemmTunableOp_BFloat16_TN,{},Gemm_Hipblaslt_TN_1530,0.07\n\
         GemmTunableOp_BFloat16_BFloat16_float_TN,{},Gemm_Hipblaslt_1530,0.07\n",
        sizes(gated),
        sizes(narrow)
    );
    fs::write(&file, text).unwrap();
    let (results, _) = import(&file, &runner.projections(), "hip").unwrap();
    let over = take_over(&results, &mut runner.projections());
    assert_eq!(over.taken.iter().map(|(problem, _)| *problem).collect::<Vec<_>>(), [*gated]);
    let [left] = &over.left[..] else { panic!("{over:?}") };
    assert_eq!(left.line, 7, "a solution for an output of 32 bits is none for one of 16: {left}");
}
