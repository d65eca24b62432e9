//! Dummy weights, the memory budget of a loaded model, and sampling faults that stay with their row.

use octet_backend::Batch;
use octet_engine::{Executor, OutputRow, RowOutcome, Slot, StepOutput, StepPlan};
use octet_model::{
    KvBudget, LoadFormat, LoadOptions, LoadedModel, MaxModelLen, MemoryRequest, ModelSource,
    OnlineQuantization, Progress, RequestBudget, ResolvedModel,
};
use octet_reference::ReferenceBackend;
use octet_sample::LogprobCount;
use serde_json::json;

use crate::support::{
    Draft, EXACT, Golden, block_table, distance, generate, generating, greedy_params, limits, load, logits,
};

const CASE: &str = "llama-gqa-rope-llama3";

fn request(kv: KvBudget) -> MemoryRequest {
    MemoryRequest {
        kv,
        requests: RequestBudget::Nothing,
        block_size: 16,
        max_batched_tokens: 64,
        max_sequences: 4,
    }
}

/// A folder that holds a config alone.
fn config_only() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), Draft::of(CASE).config.to_string()).unwrap();
    folder
}

#[test]
fn dummy_weights_run_from_a_config_alone() {
    let folder = config_only();
    for quantization in [None, Some(OnlineQuantization::Channel)] {
        let options = LoadOptions { load_format: LoadFormat::Dummy, quantization, ..EXACT };
        let run = |seed| {
            let model = load(folder.path(), LoadOptions { seed, ..options }).unwrap();
            assert_eq!(model.quantization(), quantization.map(OnlineQuantization::name));
            let mut runner = model.into_runner(limits(128)).unwrap();
            logits(&mut runner, &[1, 2, 3], 3)
        };
        let found = run(0);
        assert_eq!(found, run(0), "the same in every run");
        assert_ne!(found, run(1), "another seed, other weights");
        assert!(found.iter().all(|logit| logit.is_finite()) && found.iter().any(|&logit| logit != 0.0));
    }
}

#[test]
fn a_shape_has_no_weights_to_read() {
    let source = ModelSource::Shape("llama-160m".to_owned());
    for format in [LoadFormat::Auto, LoadFormat::Safetensors] {
        let error = ResolvedModel::new(&source, format, &mut |_| {}).unwrap_err().to_string();
        assert!(error.contains("llama-160m is a config without weights"), "{error}");
    }
    assert!(ResolvedModel::new(&source, LoadFormat::Dummy, &mut |_| {}).is_ok());
}

#[test]
fn quantized_dummies_follow_the_config() {
    let folder = config_only();
    let mut config = Draft::of(CASE).config;
    config["quantization_config"] = json!({ "quant_method": "fp8", "activation_scheme": "static" });
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let model = load(folder.path(), LoadOptions { load_format: LoadFormat::Dummy, ..EXACT }).unwrap();
    assert_eq!(model.quantization(), Some("fp8"));
    let mut runner = model.into_runner(limits(128)).unwrap();
    assert!(logits(&mut runner, &[1, 2, 3], 3).iter().all(|logit| logit.is_finite()));
}

#[test]
fn progress_ends_where_it_should() {
    let golden = Golden::read(CASE);
    let mut seen = Vec::new();
    let mut progress = |progress: Progress<'_>| {
        if let Progress::Weights { loaded_bytes, total_bytes, .. } = progress {
            seen.push((loaded_bytes, total_bytes));
        }
    };
    let source = ModelSource::Folder(golden.folder);
    LoadedModel::load(ReferenceBackend::new(), &source, &EXACT, &mut progress).unwrap();
    let (loaded, total) = *seen.last().unwrap();
    assert_eq!((loaded, seen.len()), (total, 2 + 2 * 4));
    assert!(seen.is_sorted());
}

#[test]
fn the_plan_leads_to_a_runner() {
    let golden = Golden::read(CASE);
    let options = LoadOptions { max_model_len: MaxModelLen::Auto, ..EXACT };
    let model = load(&golden.folder, options).unwrap();
    let block = model.kv_block_bytes(16, model.kv_type());
    assert_eq!(block, 2 * 2 * 16 * model.config().kv_heads * model.config().head_dim * 4);
    let plan = model.plan_memory(&request(KvBudget::Bytes(10 * block))).unwrap();
    assert_eq!((plan.num_blocks, plan.max_model_len, plan.capacity_tokens()), (11, 160, 160));
    let table = plan.to_string();
    assert!(table.contains("KV cache") && table.contains("11 blocks of 16 tokens in float32"), "{table}");
    let mut runner = model.into_runner(plan.limits()).unwrap();
    assert_eq!(generate(&mut runner, &golden.prompt, 16), golden.greedy[..16]);

    let options = LoadOptions { max_model_len: MaxModelLen::Tokens(200), ..EXACT };
    let model = load(&golden.folder, options).unwrap();
    let error = model.plan_memory(&request(KvBudget::Bytes(10 * block))).unwrap_err().to_string();
    assert!(
        error.contains("max_model_len 200 needs") && error.contains("--max-model-len 160 would fit"),
        "{error}"
    );
}

/// More output rows than fit into the logits' workspace at once.
#[test]
fn logits_in_pieces_are_the_logits() {
    let golden = Golden::read(CASE);
    let model = load(&golden.folder, EXACT).unwrap();
    let mut small = limits(128);
    small.max_sequences = 1;
    let mut runner = model.into_runner(small).unwrap();
    let found = logits(&mut runner, &golden.prompt, usize::MAX / 2);
    assert!(distance(&found, &golden.logits) < 1e-3);
}

#[test]
fn a_fault_stays_with_its_row() {
    let golden = Golden::read(CASE);
    let mut runner = load(&golden.folder, EXACT).unwrap().into_runner(limits(128)).unwrap();
    let mut excluded = greedy_params();
    excluded.allowed_token_ids = Some([3].into());
    excluded.logit_bias = [(3, f32::NEG_INFINITY)].into();
    let mut reported = greedy_params();
    reported.prompt_logprobs = Some(LogprobCount::Top(2));
    runner.admit(Slot(7), &generating(excluded), &golden.prompt);
    runner.admit(Slot(2), &generating(reported), &golden.prompt);

    let mut plan = StepPlan::default();
    let mut batch = Batch::default();
    let length = golden.prompt.len();
    batch.push_sequence(&golden.prompt, 0, &block_table(length, 1));
    let first = batch.push_sequence(&golden.prompt[..9], 0, &block_table(9, 20));
    let row = |row: usize| u32::try_from(row).unwrap();
    batch.output_rows = vec![row(length - 1), row(first), row(first + 8)];
    plan.outputs = vec![
        OutputRow::Sample(Slot(7)),
        OutputRow::PromptLogprob { slot: Slot(2), target: golden.prompt[1] },
        OutputRow::Sample(Slot(2)),
    ];
    plan.batch = batch;
    let mut output = StepOutput::default();
    runner.execute(&plan, &mut output).unwrap();
    let [RowOutcome::NothingLeft(text), RowOutcome::PromptLogprobs(prompt), RowOutcome::Token(sampled)] =
        &output.rows[..]
    else {
        panic!("{:?}", output.rows)
    };
    assert!(text.contains("no token is left"), "{text}");
    assert_eq!((prompt.chosen.token, prompt.top.len()), (golden.prompt[1], 2));
    assert!((sampled.token as usize) < runner_vocabulary(&golden));
    // What was not admitted is a fault too, not a panic.
    runner.release(Slot(7));
    runner.execute(&plan, &mut output).unwrap();
    assert!(matches!(&output.rows[0], RowOutcome::Fault(text) if text.contains("not admitted")));
}

fn runner_vocabulary(golden: &Golden) -> usize {
    golden.logits.len() / golden.prompt.len()
}
