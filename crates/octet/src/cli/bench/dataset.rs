//! Flags that say which prompts a benchmark sends.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use serde_json::Value;

use crate::cli::parse_count;

/// Which prompts, how many, how long.
#[derive(Args, Clone, Debug)]
pub(crate) struct DatasetArgs {
    /// `random`: ids drawn anew for each prompt. `sharegpt`: conversations of a file, --dataset-path.
    /// `prefix_repetition`: random prompts of which several share a beginning.
    #[arg(long, value_name = "NAME", help_heading = "Data set")]
    pub(crate) dataset_name: Option<DatasetName>,
    /// File of `sharegpt`: a JSON list of objects with `conversations`, each a list of objects with `value`.
    #[arg(long, value_name = "FILE", help_heading = "Data set")]
    pub(crate) dataset_path: Option<PathBuf>,
    /// Prompts to send.
    #[arg(long, default_value = "1000", value_parser = parse_count, value_name = "COUNT", help_heading = "Data set")]
    pub(crate) num_prompts: usize,
    /// Tokens of each prompt: another name of --random-input-len.
    #[arg(long, value_parser = parse_count, conflicts_with = "random_input_len", value_name = "TOKENS", help_heading = "Data set")]
    pub(crate) input_len: Option<usize>,
    /// Tokens to generate for each prompt, whatever the data set.
    #[arg(long, value_parser = parse_count, value_name = "TOKENS", help_heading = "Data set",
          conflicts_with_all = ["random_output_len", "sharegpt_output_len", "prefix_repetition_output_len"])]
    pub(crate) output_len: Option<usize>,

    /// `random`: tokens of each prompt, without the prefix; 1024 by default.
    #[arg(long, value_parser = parse_count, value_name = "TOKENS", help_heading = "Data set")]
    pub(crate) random_input_len: Option<usize>,
    /// `random`: tokens to generate for each prompt; 128 by default.
    #[arg(long, value_parser = parse_count, value_name = "TOKENS", help_heading = "Data set")]
    pub(crate) random_output_len: Option<usize>,
    /// `random`: lengths are drawn from LEN * (1 - RATIO) to LEN * (1 + RATIO); 0 by default. Or as JSON,
    /// {"input": RATIO, "output": RATIO}.
    #[arg(long, value_name = "RATIO", help_heading = "Data set")]
    pub(crate) random_range_ratio: Option<RangeRatio>,
    /// `random`: tokens before them that all prompts share; 0 by default.
    #[arg(long, alias = "prefix-len", value_name = "TOKENS", help_heading = "Data set")]
    pub(crate) random_prefix_len: Option<usize>,

    /// `sharegpt`: tokens to generate for each prompt; by default as many as the file's answer has.
    #[arg(long, value_parser = parse_count, value_name = "TOKENS", help_heading = "Data set")]
    pub(crate) sharegpt_output_len: Option<usize>,
    /// `sharegpt`: send no conversation twice, even if the file has fewer than --num-prompts.
    #[arg(long, help_heading = "Data set")]
    pub(crate) no_oversample: bool,

    /// `prefix_repetition`: different prefixes; each begins --num-prompts / COUNT prompts. 10 by default.
    #[arg(long, value_parser = parse_count, value_name = "COUNT", help_heading = "Data set")]
    pub(crate) prefix_repetition_num_prefixes: Option<usize>,
    /// `prefix_repetition`: tokens of each prefix; 256 by default.
    #[arg(long, value_parser = parse_count, value_name = "TOKENS", help_heading = "Data set")]
    pub(crate) prefix_repetition_prefix_len: Option<usize>,
    /// `prefix_repetition`: tokens after it that no other prompt has; 256 by default.
    #[arg(long, value_parser = parse_count, value_name = "TOKENS", help_heading = "Data set")]
    pub(crate) prefix_repetition_suffix_len: Option<usize>,
    /// `prefix_repetition`: tokens to generate for each prompt; 128 by default.
    #[arg(long, value_parser = parse_count, value_name = "TOKENS", help_heading = "Data set")]
    pub(crate) prefix_repetition_output_len: Option<usize>,

    /// `sharegpt`, `prefix_repetition`: keep prompts in the order in which they are read or made.
    #[arg(long, help_heading = "Data set")]
    pub(crate) disable_shuffle: bool,
}

/// Where prompts come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DatasetName {
    /// Ids drawn at random.
    Random,
    /// A file of conversations.
    ShareGpt,
    /// Random prompts that share prefixes.
    PrefixRepetition,
}

impl DatasetName {
    /// As it is typed.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::ShareGpt => "sharegpt",
            Self::PrefixRepetition => "prefix_repetition",
        }
    }
}

impl FromStr for DatasetName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Random, Self::ShareGpt, Self::PrefixRepetition]
            .into_iter()
            .find(|dataset| dataset.name() == text)
            .ok_or_else(|| "supported are random, sharegpt and prefix_repetition".to_owned())
    }
}

/// How far lengths are spread around their mean, each from 0 to less than 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct RangeRatio {
    /// Of prompts.
    pub(crate) input: f64,
    /// Of outputs.
    pub(crate) output: f64,
}

impl FromStr for RangeRatio {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(text)
            .map_err(|_| "expected a number, or {\"input\": RATIO, \"output\": RATIO}".to_owned())?;
        let ratio = |value: &Value| match value.as_f64() {
            Some(ratio) if (0.0..1.0).contains(&ratio) => Ok(ratio),
            _ => Err(format!("{value} is no ratio of at least 0 and below 1")),
        };
        match &value {
            Value::Object(fields) => {
                let of = |name: &str| fields.get(name).map_or(Ok(0.0), ratio);
                if let Some(name) = fields.keys().find(|name| *name != "input" && *name != "output") {
                    return Err(format!("{name:?} has no ratio; known are \"input\" and \"output\""));
                }
                Ok(Self { input: of("input")?, output: of("output")? })
            }
            number => ratio(number).map(|ratio| Self { input: ratio, output: ratio }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_one_number_or_two() {
        assert_eq!("0.5".parse(), Ok(RangeRatio { input: 0.5, output: 0.5 }));
        assert_eq!("{\"input\": 0.25}".parse(), Ok(RangeRatio { input: 0.25, output: 0.0 }));
        for wrong in ["1", "-0.1", "a", "\"0.5\"", "{\"in\": 0}", "{\"input\": 2}", "[]"] {
            assert!(wrong.parse::<RangeRatio>().is_err(), "{wrong} was taken");
        }
    }

    #[test]
    fn other_data_sets_are_refused_with_what_there_is() {
        assert_eq!("prefix_repetition".parse(), Ok(DatasetName::PrefixRepetition));
        assert!("sonnet".parse::<DatasetName>().unwrap_err().contains("sharegpt"));
    }
}
