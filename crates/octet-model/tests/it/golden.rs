//! Logits and greedy tokens against transformers in float32.

use octet_backend::Backend;
use octet_model::{LoadOptions, Warning, WeightType};
use octet_reference::ReferenceBackend;

use crate::support::{
    EXACT, Golden, MAX_MODEL_LEN, cpu, distance, generate, limits, load_on, logits, spread,
};

/// Every folder of `tests/golden`; the test below holds this list against the folder.
const CASES: [&str; 24] = [
    "gemma2",
    "gemma2-no-bounds",
    "granite",
    "granite-bias",
    "llama-bias-tied",
    "llama-f16",
    "llama-gqa-rope-llama3",
    "llama-head80-vocab517",
    "llama-head96-one-kv-head",
    "llama-mha",
    "llama-rope-dynamic",
    "llama-rope-linear",
    "llama-rope-two-blocks",
    "llama-rope-yarn",
    "llama-sharded",
    "llama-tied-other-head",
    "mistral-nemo-head-dim",
    "mistral-sliding-window",
    "olmo2",
    "olmo2-bias-one-kv-head",
    "qwen2-rope-yarn",
    "qwen2-tied",
    "qwen3",
    "qwen3-f32",
];

/// A greedy token may differ where the best two logits are this close.
const NEAR_TIE: f32 = 1e-3;

/// What a user is told about a case. The file of transformers' results lies beside each and is none of its own.
fn warnings(case: &str) -> Vec<Warning> {
    let beside = Warning::FilesNotRead("expected.safetensors".to_owned());
    match case {
        "llama-rope-dynamic" => vec![Warning::DynamicRope { tokens: 256 }, beside],
        "llama-tied-other-head" => vec![beside, Warning::HeadDiffers],
        _ => vec![beside],
    }
}

fn agrees<B: Backend>(backend: B, case: &str, options: LoadOptions, tolerance: f32) {
    let golden = Golden::read(case);
    let model = load_on(backend, &golden.folder, options).unwrap_or_else(|error| panic!("{case}: {error}"));
    assert_eq!(model.warnings(), warnings(case), "{case}");
    let mut runner = model.into_runner(limits(MAX_MODEL_LEN)).unwrap();
    let found = logits(&mut runner, &golden.prompt, usize::MAX / 2);
    let difference = distance(&found, &golden.logits) / spread(&golden.logits);
    assert!(difference < tolerance, "{case}: logits differ by {difference} of their spread");

    let generated = generate(&mut runner, &golden.prompt, golden.greedy.len());
    let differs = generated.iter().zip(&golden.greedy).position(|(found, expected)| found != expected);
    if let Some(step) = differs {
        let margin = golden.margins[step];
        assert!(margin < NEAR_TIE, "{case}: step {step} chose {}, margin {margin}", generated[step]);
    }
}

#[test]
fn the_list_of_cases_is_complete() {
    let folder = Golden::read(CASES[0]).folder;
    let mut names: Vec<String> = std::fs::read_dir(folder.parent().unwrap())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().path().is_dir())
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, CASES);
}

#[test]
fn reference_backend_agrees_in_float32() {
    for case in CASES {
        agrees(ReferenceBackend::new(), case, EXACT, 2e-5);
    }
}

#[test]
fn cpu_backend_agrees_in_float32() {
    for case in CASES {
        agrees(cpu(), case, EXACT, 1e-4);
    }
}

/// A checkpoint in bf16 or f16 is run as it is stored; only the KV cache is rounded besides.
#[test]
fn stored_types_stay_close_to_float32() {
    for case in ["llama-f16", "qwen3", "mistral-nemo-head-dim", "olmo2", "gemma2", "granite"] {
        let golden = Golden::read(case);
        let options = LoadOptions { weight_type: WeightType::Auto, ..EXACT };
        stays_close(ReferenceBackend::new(), &golden, options);
        stays_close(cpu(), &golden, options);
    }
}

fn stays_close<B: Backend>(backend: B, golden: &Golden, options: LoadOptions) {
    let model = load_on(backend, &golden.folder, options).unwrap();
    let mut runner = model.into_runner(limits(MAX_MODEL_LEN)).unwrap();
    let found = logits(&mut runner, &golden.prompt, usize::MAX / 2);
    let difference = distance(&found, &golden.logits) / spread(&golden.logits);
    assert!(difference > 0.0 && difference < 0.05, "{}: {difference}", golden.folder.display());
}

/// Weights in f32 are rounded to bf16 unless asked otherwise, and that is said.
#[test]
fn float32_checkpoints_are_rounded_with_a_warning() {
    let golden = Golden::read("qwen3-f32");
    let options = LoadOptions { weight_type: WeightType::Auto, ..EXACT };
    let model = load_on(ReferenceBackend::new(), &golden.folder, options).unwrap();
    let beside = Warning::FilesNotRead("expected.safetensors".to_owned());
    assert_eq!(model.warnings(), [beside, Warning::RoundedToBFloat16]);
    assert_eq!(model.weight_type(), octet_backend::DataType::BF16);
}
