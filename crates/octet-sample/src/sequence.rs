//! What sampling remembers of one sequence, and what it does to the sequence's logits before the choice.

use std::collections::HashMap;

use crate::{SamplingParams, random};

/// Sampling state of one sequence, from admission to its end; preemption does not touch it.
#[derive(Clone, Debug)]
pub struct SequenceState {
    params: SamplingParams,
    /// Tokens generated so far: the counter of the next draw.
    generated: u64,
    /// Present if a penalty is set.
    occurrences: Option<Occurrences>,
    /// The last generated tokens, as many as the longest bad word needs; up to twice that before it is cut.
    tail: Vec<u32>,
    /// How many of `tail` are needed.
    tail_needed: usize,
}

/// Which tokens occur in prompt and output.
#[derive(Clone, Debug, Default)]
struct Occurrences {
    /// Token and its count in the output; 0 for one that is in the prompt alone.
    counts: Vec<(u32, u32)>,
    /// Where in `counts` a token is.
    places: HashMap<u32, usize>,
}

impl Occurrences {
    fn of_prompt(prompt: &[u32]) -> Self {
        let mut occurrences = Self::default();
        for &token in prompt {
            occurrences.count_of(token);
        }
        occurrences
    }

    fn count_of(&mut self, token: u32) -> &mut u32 {
        let place = *self.places.entry(token).or_insert(self.counts.len());
        if place == self.counts.len() {
            self.counts.push((token, 0));
        }
        &mut self.counts[place].1
    }
}

impl SequenceState {
    /// State of a sequence of which nothing is generated yet.
    #[must_use]
    pub fn new(params: &SamplingParams, prompt: &[u32]) -> Self {
        let has_penalty = params.repetition_penalty != 1.0
            || params.presence_penalty != 0.0
            || params.frequency_penalty != 0.0;
        let tail_needed = params.bad_words.iter().map(|word| word.len().saturating_sub(1)).max().unwrap_or(0);
        Self {
            params: params.clone(),
            generated: 0,
            occurrences: has_penalty.then(|| Occurrences::of_prompt(prompt)),
            tail: Vec::with_capacity(2 * tail_needed),
            tail_needed,
        }
    }

    /// What the request asked for.
    #[must_use]
    pub fn params(&self) -> &SamplingParams {
        &self.params
    }

    /// How many tokens are generated: the counter of the next draw.
    #[must_use]
    pub fn generated(&self) -> u64 {
        self.generated
    }

    /// Where the next token is drawn, in `[0, 1)`: for rows that a device samples.
    #[must_use]
    pub fn next_fraction(&self) -> f64 {
        random::uniform(self.params.seed, self.generated)
    }

    /// Books a generated token. [`crate::Sampler::sample`] does it itself; this is for tokens that a device sampled.
    pub fn record(&mut self, token: u32) {
        self.generated += 1;
        if let Some(occurrences) = &mut self.occurrences {
            *occurrences.count_of(token) += 1;
        }
        if self.tail_needed > 0 {
            if self.tail.len() == 2 * self.tail_needed {
                self.tail.drain(..=self.tail_needed);
            }
            self.tail.push(token);
        }
    }

    /// Whether the next token's logits are changed before temperature; if not, they can be sampled as they are, by a
    /// device too.
    #[must_use]
    pub fn changes_logits(&self) -> bool {
        self.params.allowed_token_ids.is_some()
            || !self.params.bad_words.is_empty()
            || self.is_too_short()
            || !self.params.logit_bias.is_empty()
            || self.occurrences.is_some()
    }

    fn is_too_short(&self) -> bool {
        self.generated < u64::from(self.params.min_tokens)
    }

    /// Applies allowed ids, bad words, minimum length, bias and penalties, in this order. Ids outside of the row are
    /// passed over; `scratch` is any memory to reuse.
    pub(crate) fn apply(&self, logits: &mut [f32], scratch: &mut Vec<f32>) {
        if let Some(allowed) = &self.params.allowed_token_ids {
            keep_only(allowed, logits, scratch);
        }
        self.exclude_bad_words(logits);
        if self.is_too_short() {
            for &token in self.params.stop_token_ids.iter().chain(&self.params.eos_token_id) {
                exclude(token, logits);
            }
        }
        for &(token, bias) in &*self.params.logit_bias {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit += bias;
            }
        }
        self.penalize(logits);
    }

    fn exclude_bad_words(&self, logits: &mut [f32]) {
        for word in &*self.params.bad_words {
            if let Some((&last, before)) = word.split_last()
                && self.tail.ends_with(before)
            {
                exclude(last, logits);
            }
        }
    }

    fn penalize(&self, logits: &mut [f32]) {
        let Some(occurrences) = &self.occurrences else { return };
        let params = &self.params;
        for &(token, count) in &occurrences.counts {
            let Some(logit) = logits.get_mut(token as usize).filter(|logit| logit.is_finite()) else {
                continue;
            };
            let repetition = params.repetition_penalty;
            *logit = if *logit > 0.0 { *logit / repetition } else { *logit * repetition };
            if count > 0 {
                *logit -= params.frequency_penalty * count as f32;
                *logit -= params.presence_penalty;
            }
            // However extreme a penalty is, the row stays one that can be sampled.
            *logit = logit.clamp(f32::MIN, f32::MAX);
        }
    }
}

fn exclude(token: u32, logits: &mut [f32]) {
    if let Some(logit) = logits.get_mut(token as usize) {
        *logit = f32::NEG_INFINITY;
    }
}

fn keep_only(allowed: &[u32], logits: &mut [f32], kept: &mut Vec<f32>) {
    let value = |&token: &u32| logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
    kept.clear();
    kept.extend(allowed.iter().map(value));
    logits.fill(f32::NEG_INFINITY);
    for (&token, &value) in allowed.iter().zip(kept.iter()) {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit = value;
        }
    }
}
