//! Data sets: which prompts are sent, and how much is to be generated for each. A seed fixes all of it.
//!
//! `source.rs` draws ids and makes text of an exact length; `sharegpt.rs` reads conversations.

mod sharegpt;
mod source;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::random::Random;
use super::statistics::count;
use crate::cli::bench::{DatasetArgs, DatasetName, RangeRatio};
pub(super) use source::PromptSource;

/// Tokens of a random prompt, unless said otherwise: vLLM's default.
const INPUT_LEN: usize = 1024;
/// Tokens to generate, unless said otherwise: vLLM's default.
const OUTPUT_LEN: usize = 128;
/// Prefixes, and tokens of a prefix and of what follows, unless said otherwise: vLLM's defaults.
const PREFIXES: usize = 10;
const PREFIX_LEN: usize = 256;

/// What is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Prompt {
    /// Token ids: exact, and nothing is added.
    Tokens(Vec<u32>),
    /// Text, to which the server's tokenizer adds what frames a text.
    Text(String),
}

/// One request's work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    /// The prompt.
    pub(super) prompt: Prompt,
    /// Its tokens.
    pub(super) prompt_len: usize,
    /// Tokens to generate.
    pub(super) output_len: usize,
}

/// What the flags ask for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Dataset {
    kind: Kind,
    shuffles: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Random { prefix_len: usize, input_len: usize, output_len: usize, ratio: RangeRatio },
    PrefixRepetition { prefixes: usize, prefix_len: usize, suffix_len: usize, output_len: usize },
    ShareGpt { path: PathBuf, output_len: Option<usize>, oversamples: bool },
}

impl Dataset {
    /// What is meant; without a name it is `sharegpt` if there is a file, and `random` if not.
    ///
    /// # Errors
    /// A flag that belongs to another data set; `sharegpt` without a file.
    pub(super) fn new(typed: &DatasetArgs) -> Result<Self> {
        let name = typed.dataset_name.unwrap_or(match typed.dataset_path {
            Some(_) => DatasetName::ShareGpt,
            None => DatasetName::Random,
        });
        refuse_others_flags(typed, name)?;
        let output_len = |own: Option<usize>| own.or(typed.output_len);
        let kind = match name {
            DatasetName::Random => Kind::Random {
                prefix_len: typed.random_prefix_len.unwrap_or(0),
                input_len: typed.random_input_len.or(typed.input_len).unwrap_or(INPUT_LEN),
                output_len: output_len(typed.random_output_len).unwrap_or(OUTPUT_LEN),
                ratio: typed.random_range_ratio.unwrap_or_default(),
            },
            DatasetName::PrefixRepetition => Kind::PrefixRepetition {
                prefixes: typed.prefix_repetition_num_prefixes.unwrap_or(PREFIXES),
                prefix_len: typed.prefix_repetition_prefix_len.unwrap_or(PREFIX_LEN),
                suffix_len: typed.prefix_repetition_suffix_len.unwrap_or(PREFIX_LEN),
                output_len: output_len(typed.prefix_repetition_output_len).unwrap_or(OUTPUT_LEN),
            },
            DatasetName::ShareGpt => Kind::ShareGpt {
                path: typed
                    .dataset_path
                    .clone()
                    .context("--dataset-name sharegpt needs --dataset-path FILE")?,
                output_len: output_len(typed.sharegpt_output_len),
                oversamples: !typed.no_oversample,
            },
        };
        Ok(Self { kind, shuffles: !typed.disable_shuffle })
    }

    /// Its name.
    pub(super) const fn name(&self) -> DatasetName {
        match self.kind {
            Kind::Random { .. } => DatasetName::Random,
            Kind::PrefixRepetition { .. } => DatasetName::PrefixRepetition,
            Kind::ShareGpt { .. } => DatasetName::ShareGpt,
        }
    }

    /// `wanted` requests; `prefix_repetition` makes the same number for each prefix and may so make fewer, and
    /// `sharegpt` has no more than its file if it must not repeat any.
    ///
    /// # Errors
    /// Fewer prompts than prefixes; a file that cannot be read or has nothing to send; text of the wanted length that
    /// the tokenizer cannot make.
    pub(super) fn samples(&self, wanted: usize, seed: u64, source: &PromptSource<'_>) -> Result<Vec<Sample>> {
        let mut random = Random::new(seed);
        match &self.kind {
            Kind::Random { prefix_len, input_len, output_len, ratio } => {
                let prefix = source.ids(&mut random, *prefix_len);
                let mut make = || {
                    let input = drawn_len(*input_len, ratio.input, &mut random);
                    let output = drawn_len(*output_len, ratio.output, &mut random);
                    source.sample(&prefix, prefix.len() + input, output, &mut random)
                };
                (0..wanted).map(|_| make()).collect()
            }
            Kind::PrefixRepetition { prefixes, prefix_len, suffix_len, output_len } => {
                let each = wanted / prefixes;
                if each == 0 {
                    bail!("{wanted} prompts are too few for {prefixes} prefixes: at least one for each");
                }
                let mut samples = Vec::with_capacity(each * prefixes);
                for _ in 0..*prefixes {
                    let prefix = source.ids(&mut random, *prefix_len);
                    for _ in 0..each {
                        samples.push(source.sample(
                            &prefix,
                            prefix_len + suffix_len,
                            *output_len,
                            &mut random,
                        )?);
                    }
                }
                if self.shuffles {
                    random.shuffle(&mut samples);
                }
                Ok(samples)
            }
            Kind::ShareGpt { path, output_len, oversamples } => {
                let mut conversations = sharegpt::read(path)?;
                if self.shuffles {
                    random.shuffle(&mut conversations);
                }
                let mut samples = sharegpt::samples(&conversations, wanted, *output_len, source)?;
                if samples.is_empty() {
                    bail!("{} has no conversation of a usable length", path.display());
                }
                let found = samples.len();
                while *oversamples && samples.len() < wanted {
                    samples.push(samples[random.below(found)].clone());
                }
                Ok(samples)
            }
        }
    }

    /// The same for warm-up requests, of which there can be any number: their prefix is one.
    pub(super) fn for_warmup(&self) -> Self {
        let mut dataset = self.clone();
        if let Kind::PrefixRepetition { prefixes, .. } = &mut dataset.kind {
            *prefixes = 1;
        }
        dataset
    }
}

/// No flag is ignored: one that belongs to another data set is an error.
fn refuse_others_flags(typed: &DatasetArgs, name: DatasetName) -> Result<()> {
    use DatasetName::{PrefixRepetition, Random, ShareGpt};
    let flags = [
        ("--dataset-path", typed.dataset_path.is_some(), ShareGpt),
        ("--input-len", typed.input_len.is_some(), Random),
        ("--random-input-len", typed.random_input_len.is_some(), Random),
        ("--random-output-len", typed.random_output_len.is_some(), Random),
        ("--random-range-ratio", typed.random_range_ratio.is_some(), Random),
        ("--random-prefix-len", typed.random_prefix_len.is_some(), Random),
        ("--sharegpt-output-len", typed.sharegpt_output_len.is_some(), ShareGpt),
        ("--no-oversample", typed.no_oversample, ShareGpt),
        (
            "--prefix-repetition-num-prefixes",
            typed.prefix_repetition_num_prefixes.is_some(),
            PrefixRepetition,
        ),
        ("--prefix-repetition-prefix-len", typed.prefix_repetition_prefix_len.is_some(), PrefixRepetition),
        ("--prefix-repetition-suffix-len", typed.prefix_repetition_suffix_len.is_some(), PrefixRepetition),
        ("--prefix-repetition-output-len", typed.prefix_repetition_output_len.is_some(), PrefixRepetition),
    ];
    match flags.into_iter().find(|(_, is_given, owner)| *is_given && *owner != name) {
        Some((flag, _, owner)) => {
            bail!("{flag} belongs to --dataset-name {}, but the data set is {}", owner.name(), name.name())
        }
        None => Ok(()),
    }
}

/// A length from `mean * (1 - ratio)` to `mean * (1 + ratio)`, both included, at least 1.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "lengths are small and positive")]
fn drawn_len(mean: usize, ratio: f64, random: &mut Random) -> usize {
    let low = (count(mean) * (1.0 - ratio)).floor() as usize;
    let high = (count(mean) * (1.0 + ratio)).ceil() as usize;
    (low + random.below(high - low + 1)).max(1)
}
