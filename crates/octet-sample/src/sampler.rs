//! The choice of one token from one row.

use crate::candidates::{Candidates, Ties};
use crate::logprobs::{Report, Scratch, report};
use crate::vocabulary::{CHUNK, Weighing, maximum};
use crate::{LogprobsMode, PositionLogprobs, SampleError, SampledToken, SamplingParams, SequenceState};

/// With top-p, this many of the best tokens are looked at first: for a trained model they nearly always suffice.
const FIRST_TOP_P_CANDIDATES: usize = 1024;

/// Scratch memory for sampling, one for each thread that samples. Rows leave no trace in it.
#[derive(Debug)]
pub struct Sampler {
    scratch: Scratch,
    /// Logits as the model made them, when they are reported but were changed.
    raw: Vec<f32>,
    /// Values set aside while the rest of a row is masked.
    aside: Vec<f32>,
}

/// The largest logit of a row and where it stands.
#[derive(Clone, Copy, Debug)]
struct Peak {
    logit: f32,
    token: u32,
}

/// Which tokens were left after truncation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    All,
    Candidates,
}

impl Sampler {
    /// Scratch memory for rows of `vocabulary_size`; longer rows would make it grow.
    #[must_use]
    pub fn new(vocabulary_size: usize) -> Self {
        let scratch = Scratch {
            candidates: Candidates::with_capacity(vocabulary_size),
            chunk_sums: Vec::with_capacity(vocabulary_size.div_ceil(CHUNK)),
        };
        Self { scratch, raw: Vec::new(), aside: Vec::new() }
    }

    /// Chooses the sequence's next token from its `logits` `[vocabulary]` and books it. The row is changed.
    ///
    /// # Errors
    /// [`SampleError`] when the row holds NaN or infinity, or when masks leave nothing; the state is then unchanged.
    pub fn sample(
        &mut self,
        sequence: &mut SequenceState,
        logits: &mut [f32],
    ) -> Result<SampledToken, SampleError> {
        let params = sequence.params();
        let mode = params.logprobs_mode;
        let reports_raw = matches!(mode, LogprobsMode::RawLogprobs | LogprobsMode::RawLogits);
        if sequence.changes_logits() {
            // A mask must not hide that the model computed nonsense.
            maximum(logits)?;
            if reports_raw && params.logprobs.is_some() {
                self.raw.clear();
                self.raw.extend_from_slice(logits);
            }
            sequence.apply(logits, &mut self.aside);
        }
        let (logit, token) = maximum(logits)?;
        let peak = Peak { logit, token };
        let is_greedy = params.is_greedy();
        let (token, left) = if is_greedy {
            (peak.token, Left::All)
        } else {
            let fraction = sequence.next_fraction();
            self.draw(logits, params, peak, fraction)
        };
        let logprobs = match params.logprobs {
            None => None,
            Some(count) => {
                let normalized = matches!(mode, LogprobsMode::RawLogprobs | LogprobsMode::ProcessedLogprobs);
                let values = if !reports_raw {
                    self.finish_processing(logits, if is_greedy { 1.0 } else { params.temperature }, left);
                    &*logits
                } else if sequence.changes_logits() {
                    &self.raw
                } else {
                    &*logits
                };
                Some(report(values, Report { chosen: token, count, normalized }, &mut self.scratch)?)
            }
        };
        sequence.record(token);
        Ok(SampledToken { token, logprobs })
    }

    /// Reports on a prompt token: `logits` `[vocabulary]` are those of the position before it.
    ///
    /// Prompt tokens were not sampled, so there is nothing processed: the processed modes report as the raw ones.
    /// Reports nothing but the token itself when the request did not say how many alternatives it wants.
    ///
    /// # Errors
    /// [`SampleError`] when the row holds NaN or infinity, or not this token.
    pub fn prompt_logprobs(
        &mut self,
        params: &SamplingParams,
        logits: &[f32],
        target: u32,
    ) -> Result<PositionLogprobs, SampleError> {
        let count = params.prompt_logprobs.unwrap_or(crate::LogprobCount::Top(0));
        let normalized =
            matches!(params.logprobs_mode, LogprobsMode::RawLogprobs | LogprobsMode::ProcessedLogprobs);
        report(logits, Report { chosen: target, count, normalized }, &mut self.scratch)
    }

    /// Temperature, min-p, top-k, top-p, and the draw at `fraction` of the remaining weight.
    fn draw(&mut self, logits: &[f32], params: &SamplingParams, peak: Peak, fraction: f64) -> (u32, Left) {
        let Scratch { candidates, chunk_sums } = &mut self.scratch;
        let weighing = Weighing { largest: peak.logit, inverse_temperature: 1.0 / params.temperature };
        let floor = if params.min_p > 0.0 { weighing.logit(params.min_p) } else { f32::NEG_INFINITY };
        let top_k = match params.top_k as usize {
            0 => usize::MAX,
            count => count,
        };
        let is_listed = top_k < logits.len() || params.min_p > 0.0;
        let sum = if is_listed {
            candidates.take_best(logits, top_k, floor, Ties::Keep);
            candidates.weigh(weighing)
        } else {
            weighing.sum(logits, chunk_sums)
        };
        if params.top_p >= 1.0 && !is_listed {
            let token = draw_from_chunks(logits, weighing, chunk_sums, fraction * sum);
            return (token.unwrap_or(peak.token), Left::All);
        }
        if params.top_p < 1.0 {
            let target = f64::from(params.top_p) * sum;
            if !is_listed {
                list_for_top_p(candidates, logits, weighing, (sum, target));
            }
            candidates.keep_weight(target);
        }
        (candidates.draw(fraction), Left::Candidates)
    }

    /// Makes a row what it was at the moment of the draw: divided by the temperature, dropped tokens masked.
    fn finish_processing(&mut self, logits: &mut [f32], temperature: f32, left: Left) {
        if left == Left::Candidates {
            self.aside.clear();
            self.aside.extend(self.scratch.candidates.iter().map(|(token, _)| logits[token as usize]));
            logits.fill(f32::NEG_INFINITY);
            for ((token, _), &logit) in self.scratch.candidates.iter().zip(&self.aside) {
                logits[token as usize] = logit;
            }
        }
        for logit in logits.iter_mut().filter(|logit| logit.is_finite()) {
            *logit = (*logit / temperature).clamp(f32::MIN, f32::MAX);
        }
    }
}

/// Lists tokens among which are the fewest best that reach `target` of the whole `sum` of weights.
fn list_for_top_p(
    candidates: &mut Candidates,
    logits: &[f32],
    weighing: Weighing,
    (sum, target): (f64, f64),
) {
    candidates.take_best(logits, FIRST_TOP_P_CANDIDATES, f32::NEG_INFINITY, Ties::LowestTokens);
    if candidates.weigh(weighing) >= target {
        return;
    }
    // Were all tokens this light, they would not make up together what top-p drops: none of them can be kept. Half of
    // that leaves room for rounding.
    let lightest = (sum - target) / logits.len() as f64 * 0.5;
    candidates.take_best(logits, usize::MAX, weighing.logit(lightest as f32), Ties::Keep);
    candidates.weigh(weighing);
}

/// The token at which the running sum of weights passes `target`, by the sums of chunks first. None if rounding put
/// the whole sum at or below the target.
fn draw_from_chunks(logits: &[f32], weighing: Weighing, chunk_sums: &[f64], target: f64) -> Option<u32> {
    let mut running = 0.0;
    let mut last_with_weight = None;
    for (index, (chunk, &sum)) in logits.chunks(CHUNK).zip(chunk_sums).enumerate() {
        if running + sum <= target {
            running += sum;
            continue;
        }
        for (offset, &logit) in chunk.iter().enumerate() {
            let weight = weighing.weight(logit);
            running += f64::from(weight);
            if weight > 0.0 {
                last_with_weight = Some((index * CHUNK + offset) as u32);
                if running > target {
                    return last_with_weight;
                }
            }
        }
    }
    last_with_weight
}
