//! An executor without a model: it writes a fixed text over and over, a byte a token.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use octet_engine::{Executor, ExecutorError, OutputRow, RowOutcome, Slot, StepOutput, StepPlan, Task};
use octet_sample::{LogprobCount, PositionLogprobs, SampledToken, SamplingParams, TokenLogprob};

/// What it writes; characters of several bytes included.
pub(crate) const TEXT: &str = "One two thrée 日本 five. ";

/// End of sequence; ids below are bytes.
pub(crate) const EOS: u32 = 257;

/// After this many tokens a prompt that ends with `!` is answered.
pub(crate) const SHORT_ANSWER: usize = 5;

/// What the executor was told of each sequence.
pub(crate) type Admitted = Arc<Mutex<Vec<(SamplingParams, Vec<u32>)>>>;

/// See the module. Sequences with a temperature start at the byte that their seed names, others at the first.
pub(crate) struct Scripted {
    pub(crate) step_time: Duration,
    pub(crate) admitted: Admitted,
    sequences: HashMap<Slot, Sequence>,
}

struct Sequence {
    sampling: SamplingParams,
    prompt: Vec<u32>,
    written: usize,
}

impl Scripted {
    pub(crate) fn new(step_time: Duration, admitted: Admitted) -> Self {
        Self { step_time, admitted, sequences: HashMap::new() }
    }
}

impl Sequence {
    fn prompt_has(&self, text: &str) -> bool {
        let text: Vec<u32> = text.bytes().map(u32::from).collect();
        self.prompt.windows(text.len()).any(|window| window == text)
    }

    fn next(&mut self) -> RowOutcome {
        if self.prompt_has("one fault") {
            return RowOutcome::Fault("this row has no numbers".to_owned());
        }
        let start = if self.sampling.temperature == 0.0 { 0 } else { self.sampling.seed as usize };
        let index = (start % TEXT.len() + self.written) % TEXT.len();
        let is_short = self.prompt.last() == Some(&u32::from(b'!'));
        let may_end =
            self.written >= self.sampling.min_tokens as usize && self.sampling.eos_token_id.is_some();
        let token = if is_short && may_end && self.written >= SHORT_ANSWER {
            EOS
        } else {
            u32::from(TEXT.as_bytes()[index])
        };
        self.written += 1;
        let logprobs = self.sampling.logprobs.map(|count| sampled(token, count));
        RowOutcome::Token(SampledToken { token, logprobs })
    }
}

/// The sampled token is the most likely one.
fn sampled(token: u32, count: LogprobCount) -> PositionLogprobs {
    let chosen = TokenLogprob { token, logprob: -0.25, rank: 1 };
    let top = std::iter::once(chosen).chain(letters()).take(number(count)).collect();
    PositionLogprobs { chosen, top }
}

/// A prompt's token is less likely than any letter.
fn prompted(token: u32, count: LogprobCount) -> PositionLogprobs {
    let chosen = TokenLogprob { token, logprob: -40.0, rank: 27 };
    PositionLogprobs { chosen, top: letters().take(number(count)).collect() }
}

/// `A`, `B`, … one less likely than the other.
fn letters() -> impl Iterator<Item = TokenLogprob> {
    (0..26).map(|index| TokenLogprob {
        token: u32::from(b'A') + index,
        logprob: -1.0 - index as f32,
        rank: index + 1,
    })
}

/// Four numbers that tell the prompt, and how many rows counted.
fn vector(prompt: &[u32], rows: usize) -> Vec<f32> {
    let sum: u32 = prompt.iter().sum();
    [prompt.len(), sum as usize, rows, 4].map(|number| number as f32).to_vec()
}

fn number(count: LogprobCount) -> usize {
    match count {
        LogprobCount::Top(count) => count as usize,
        LogprobCount::All => usize::MAX,
    }
}

impl Executor for Scripted {
    fn admit(&mut self, slot: Slot, task: &Task, prompt: &[u32]) {
        let sampling = &task.sampling().cloned().unwrap_or_default();
        self.admitted.lock().unwrap().push((sampling.clone(), prompt.to_vec()));
        let sequence = Sequence { sampling: sampling.clone(), prompt: prompt.to_vec(), written: 0 };
        assert!(self.sequences.insert(slot, sequence).is_none(), "the slot is free");
    }

    fn release(&mut self, slot: Slot) {
        assert!(self.sequences.remove(&slot).is_some(), "the slot is taken");
    }

    fn execute(&mut self, plan: &StepPlan, output: &mut StepOutput) -> Result<(), ExecutorError> {
        std::thread::sleep(self.step_time);
        if self.sequences.values().any(|sequence| sequence.prompt_has("device fault")) {
            return Err(ExecutorError::Failed("the device is gone".to_owned()));
        }
        if self.sequences.values().any(|sequence| sequence.prompt_has("endless kernel")) {
            return Err(ExecutorError::Unfinished("a kernel does not end".to_owned()));
        }
        output.rows.clear();
        for row in &plan.outputs {
            let outcome = match row {
                OutputRow::Sample(slot) => self.sequences.get_mut(slot).unwrap().next(),
                OutputRow::Pool { slot, is_last, .. } => {
                    let sequence = self.sequences.get_mut(slot).unwrap();
                    sequence.written += 1;
                    RowOutcome::Pooled(is_last.then(|| vector(&sequence.prompt, sequence.written)))
                }
                OutputRow::PromptLogprob { slot, target } => {
                    let count = self.sequences[slot].sampling.prompt_logprobs.unwrap();
                    RowOutcome::PromptLogprobs(prompted(*target, count))
                }
            };
            output.rows.push(outcome);
        }
        Ok(())
    }
}
