//! A runner whose device samples: the tokens are those that the host samples from the same logits.

use std::path::Path;

use std::sync::Arc;

use octet_engine::{Executor, OutputRow, RowOutcome, Slot, StepOutput, StepPlan, Task};
use octet_gpu::{GpuBackend, GpuOptions};
use octet_model::{LoadedModel, ModelSource, Runner, RunnerLimits};
use octet_sample::{LogprobCount, Sampler, SamplingParams, SequenceState};

use crate::decoder::AS_STORED;
use crate::simulator::backend;

const PROMPT: [u32; 4] = [5, 17, 3, 44];

fn runner(device: &str) -> Runner<GpuBackend> {
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../octet-model/tests/golden/llama-gqa-rope-llama3");
    let backend = backend(device, &GpuOptions::default());
    let model = LoadedModel::load(backend, &ModelSource::Folder(folder), &AS_STORED, &mut |_| {}).unwrap();
    let limits = RunnerLimits {
        max_batched_tokens: 32,
        max_sequences: 4,
        max_model_len: 64,
        block_size: 16,
        num_blocks: 8,
    };
    model.into_runner(limits).unwrap()
}

/// What four requests ask: three that the device samples alone, one that needs the host.
fn requests() -> [SamplingParams; 4] {
    let of = |temperature, top_k, top_p, seed| SamplingParams {
        temperature,
        top_k,
        top_p,
        seed,
        ..SamplingParams::default()
    };
    let logprobs = Some(LogprobCount::Top(1));
    [
        of(0.0, 0, 1.0, 1),
        of(1.0, 20, 0.9, 2),
        SamplingParams { presence_penalty: 0.5, logprobs, ..of(0.8, 0, 0.8, 3) },
        of(1.5, 0, 1.0, 4),
    ]
}

#[test]
fn rows_that_need_the_host_and_rows_that_do_not_go_together() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let mut runner = runner("gfx942");
    let requests = requests();
    let mut sequences: Vec<SequenceState> =
        requests.iter().map(|params| SequenceState::new(params, &PROMPT)).collect();
    for (slot, params) in requests.iter().enumerate() {
        let task = Task::Generate { sampling: Arc::new(params.clone()), max_tokens: 1 };
        runner.admit(Slot(slot as u32), &task, &PROMPT);
    }
    let mut known: Vec<Vec<u32>> = vec![PROMPT.to_vec(); 4];
    let mut computed = 0;
    // A prompt, then steps of decode alone: run, recorded, and replayed.
    for step in 0..4 {
        let mut plan = StepPlan::default();
        for (slot, tokens) in known.iter().enumerate() {
            plan.batch.push_sequence(&tokens[computed..], computed, &[slot as u32 + 1]);
            plan.batch.output_rows.push(plan.batch.rows() as u32 - 1);
            plan.outputs.push(OutputRow::Sample(Slot(slot as u32)));
        }
        computed = known[0].len();
        let mut output = StepOutput::default();
        runner.execute(&plan, &mut output).unwrap();
        // The same logits again, for the host.
        let logits = runner.logits(&plan.batch).unwrap();
        let columns = logits.len() / 4;
        for (slot, outcome) in output.rows.iter().enumerate() {
            let RowOutcome::Token(sampled) = outcome else { panic!("{outcome:?}") };
            let mut row = logits[slot * columns..(slot + 1) * columns].to_vec();
            let expected = Sampler::new(columns).sample(&mut sequences[slot], &mut row).unwrap();
            assert_eq!(sampled, &expected, "step {step}, request {slot}");
            known[slot].push(sampled.token);
        }
    }
    assert_eq!(runner.backend().sampled_rows(), 4 * 3, "the device sampled what it can");
    let recorded = runner.backend().recorded_steps();
    assert_eq!(recorded, 1, "steps of four rows are recorded once");
    let generated: Vec<&[u32]> = known.iter().map(|tokens| &tokens[PROMPT.len()..]).collect();
    assert!(generated.windows(2).any(|pair| pair[0] != pair[1]), "requests differ: {generated:?}");
}
