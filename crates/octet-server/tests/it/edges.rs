//! Numbers at their edges, sampled for real: what a client sends is its own fault or is answered, and never ends the
//! engine.

use std::collections::HashMap;

use octet_engine::{Executor, ExecutorError, OutputRow, RowOutcome, Slot, StepOutput, StepPlan, Task};
use octet_sample::{SampleError, Sampler, SequenceState};
use serde_json::json;

use crate::server::{Options, TestServer, VOCABULARY_SIZE};

/// An executor whose model always says the same, extreme logits included; its sampler is the real one.
struct Sampled {
    sampler: Sampler,
    sequences: HashMap<Slot, SequenceState>,
}

impl Sampled {
    fn new() -> Self {
        Self { sampler: Sampler::new(VOCABULARY_SIZE), sequences: HashMap::new() }
    }

    fn logits() -> Vec<f32> {
        let mut logits: Vec<f32> =
            (0..VOCABULARY_SIZE).map(|token| (token * 37 % 101) as f32 * 0.5 - 20.0).collect();
        (logits[65], logits[66], logits[67]) = (1e30, f32::MIN, 0.0);
        logits
    }
}

impl Executor for Sampled {
    fn admit(&mut self, slot: Slot, task: &Task, prompt: &[u32]) {
        let sampling = task.sampling().expect("tokens are asked for");
        self.sequences.insert(slot, SequenceState::new(sampling, prompt));
    }

    fn release(&mut self, slot: Slot) {
        self.sequences.remove(&slot);
    }

    fn execute(&mut self, plan: &StepPlan, output: &mut StepOutput) -> Result<(), ExecutorError> {
        output.rows.clear();
        for row in &plan.outputs {
            let outcome = match *row {
                OutputRow::Pool { .. } => unreachable!("tokens are asked for"),
                OutputRow::Sample(slot) => {
                    let state = self.sequences.get_mut(&slot).unwrap();
                    self.sampler.sample(state, &mut Self::logits()).map(RowOutcome::Token)
                }
                OutputRow::PromptLogprob { slot, target } => {
                    let params = self.sequences[&slot].params();
                    self.sampler
                        .prompt_logprobs(params, &Self::logits(), target)
                        .map(RowOutcome::PromptLogprobs)
                }
            };
            output.rows.push(outcome.unwrap_or_else(|error| match error {
                SampleError::NothingLeft { .. } => RowOutcome::NothingLeft(error.to_string()),
                error => RowOutcome::Fault(error.to_string()),
            }));
        }
        Ok(())
    }
}

#[test]
fn every_number_at_its_edges_is_answered_or_refused() {
    let server = TestServer::with_executor(Options::default(), Sampled::new());
    let fields = "temperature top_p top_k min_p repetition_penalty presence_penalty frequency_penalty n best_of seed \
                  min_tokens max_tokens max_completion_tokens logprobs top_logprobs prompt_logprobs \
                  truncate_prompt_tokens stream_interval priority logit_bias stop_token_ids allowed_token_ids";
    let values = "0 -0.0 5e-324 1e-45 1.4e-45 1e-39 -1e-39 1e-5 0.5 1 -1 2 1e5 1e39 -1e39 1e308 -1e308 1e309 2147483648 \
                  4294967295 9223372036854775807 -9223372036854775808 9223372036854775808 18446744073709551616 NaN \
                  \"NaN\" \"Infinity\" \"-inf\" true null {} [] [1e308] \"x\"";
    let ways = [
        ("/v1/completions", r#""prompt": "AB""#),
        ("/v1/chat/completions", r#""messages": [{"role": "user", "content": "AB"}]"#),
    ];
    for (path, start) in ways {
        for field in fields.split_whitespace() {
            for value in values.split_whitespace() {
                let value =
                    if field == "logit_bias" { format!("{{\"65\": {value}}}") } else { value.to_owned() };
                let rest = if field.starts_with("max") { "" } else { r#", "max_tokens": 3"# };
                let body = format!("{{{start}{rest}, \"ignore_eos\": true, \"{field}\": {value}}}");
                let status = server.client().post(path, body.as_bytes()).status;
                assert!(matches!(status, 200 | 400), "{body}: {status}");
            }
        }
    }
    assert!(server.engine.is_alive());
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn extreme_penalties_are_refused_and_extreme_logits_are_not() {
    let server = TestServer::with_executor(Options::default(), Sampled::new());
    let ask = |more: serde_json::Value| {
        let mut body = json!({ "prompt": "AB", "max_tokens": 4 });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        server.post("/v1/completions", &body)
    };
    for penalty in [1e-39, 1e-9, 1e9, 1e38] {
        let answer = ask(json!({ "repetition_penalty": penalty }));
        assert_eq!((answer.status, &answer.json()["error"]["param"]), (400, &json!("repetition_penalty")));
    }
    for temperature in [0.0, 1e-45, 2.0] {
        let answer = ask(json!({ "repetition_penalty": 1e-5, "temperature": temperature, "logprobs": 5 }));
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
}

#[test]
fn masks_that_leave_no_token_are_the_clients_fault() {
    let server = TestServer::with_executor(Options::default(), Sampled::new());
    let body = json!({ "prompt": "AB", "max_tokens": 4, "min_tokens": 2, "allowed_token_ids": [257] });
    let answer = server.post("/v1/completions", &body);
    assert_eq!(
        (answer.status, &answer.json()["error"]["param"]),
        (400, &json!("allowed_token_ids")),
        "{}",
        answer.body
    );
    assert!(answer.message().contains("min_tokens exclude all"), "{}", answer.message());
    assert_eq!(server.post("/v1/completions", &json!({ "prompt": "AB", "max_tokens": 1 })).status, 200);
}

#[test]
fn masks_are_sets() {
    let server = TestServer::start();
    let ids: Vec<u32> = (0..100_000).map(|index| 65 + index % 3).collect();
    let body = json!({ "prompt": "a", "max_tokens": 1, "allowed_token_ids": ids, "stop": ["x", "y", "x"],
                       "logit_bias": { "65": 1, "065": 2, "+65": 3 } });
    assert_eq!(server.post("/v1/completions", &body).status, 200);
    let sampling = server.admitted.lock().unwrap().pop().unwrap().0;
    assert_eq!(sampling.allowed_token_ids, Some([65, 66, 67].into()));
    assert_eq!(sampling.logit_bias.len(), 1);
}
