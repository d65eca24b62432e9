//! Flags of GEMM tuning, and of `octet tune`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{EngineArgs, parse_count};

/// What is done about tuning. Without these flags the variables of PyTorch's TunableOp decide.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct GemmArgs {
    /// Kernels of matrix products: `use` those that a results file names; `tune` also measures what it lacks, before
    /// the server is ready or the benchmark counts; `background` measures in a server's idle time; `off` does neither.
    /// Default: by PYTORCH_TUNABLEOP_ENABLED (1 tunes, with PYTORCH_TUNABLEOP_TUNING=0 it only uses, 0 is off), else `use`.
    #[arg(long, value_enum, value_name = "MODE", help_heading = "GEMM tuning")]
    pub(crate) gemm_tuning: Option<GemmTuningMode>,
    /// The results file. `%d` stands for the device's number, which otherwise comes before the last dot. Default:
    /// PYTORCH_TUNABLEOP_FILENAME, else tunableop_results.csv, that is, tunableop_results0.csv.
    #[arg(long, value_name = "FILE", help_heading = "GEMM tuning")]
    pub(crate) gemm_tuning_file: Option<PathBuf>,
    /// With `tune`, the most time to spend before the server is ready or the benchmark counts; what is left then
    /// keeps its default. Such as 90s or 5m. Default: 60s for a server, no limit for a benchmark.
    #[arg(long, value_parser = parse_duration, value_name = "TIME", help_heading = "GEMM tuning")]
    pub(crate) gemm_tuning_budget: Option<Duration>,
    /// Write the products that are met and have no result to PYTORCH_TUNABLEOP_UNTUNED_FILENAME (default
    /// tunableop_untuned0.csv), for `octet tune --from-untuned`.
    #[arg(long, help_heading = "GEMM tuning")]
    pub(crate) record_untuned: bool,
    /// Take over results that PyTorch's TunableOp wrote. Only on a device with the same versions of PyTorch's libraries.
    #[arg(long, value_name = "FILE", help_heading = "GEMM tuning")]
    pub(crate) import_tunableop: Option<PathBuf>,
}

/// What is done about tuning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum GemmTuningMode {
    /// Measure what the results file lacks, first.
    Tune,
    /// Use the results file.
    Use,
    /// Nothing.
    Off,
    /// Use the results file, and measure what it lacks in idle time.
    Background,
}

/// Find the fastest kernels for a model's matrix products, ahead of time.
#[derive(Args, Debug)]
pub(crate) struct TuneArgs {
    /// A folder, a config.json, a Hub id, or a shape inside this program (its weights are then random). Without it: the
    /// small model inside this program.
    pub(crate) model: Option<String>,
    /// The same, as a flag.
    #[arg(long = "model", value_name = "MODEL", conflicts_with = "model", hide = true)]
    pub(crate) model_flag: Option<String>,

    #[command(flatten)]
    pub(crate) engine: EngineArgs,

    /// Tune what `bench latency` meets with prompts of this many tokens. Without these three flags: all that a server
    /// with --max-num-seqs and --max-num-batched-tokens can meet.
    #[arg(long, value_parser = parse_count, help_heading = "Work", value_name = "TOKENS")]
    pub(crate) input_len: Option<usize>,
    /// As --input-len: tokens generated for each prompt.
    #[arg(long, value_parser = parse_count, help_heading = "Work", value_name = "TOKENS")]
    pub(crate) output_len: Option<usize>,
    /// As --input-len: prompts of a batch.
    #[arg(long, value_parser = parse_count, help_heading = "Work", value_name = "COUNT")]
    pub(crate) batch_size: Option<usize>,
    /// Tune the products that a run with --record-untuned wrote down; no model is needed.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["model", "model_flag", "input_len", "output_len", "batch_size", "record_untuned"],
        help_heading = "Work"
    )]
    pub(crate) from_untuned: Option<PathBuf>,
    /// The most time to spend, such as 60s or 5m. What is left is tuned the next time.
    #[arg(long, value_parser = parse_duration, value_name = "TIME", help_heading = "Work")]
    pub(crate) budget: Option<Duration>,

    /// The results file; see `octet serve --help`.
    #[arg(long, value_name = "FILE", help_heading = "GEMM tuning")]
    pub(crate) gemm_tuning_file: Option<PathBuf>,
    /// Only write the products down, to PYTORCH_TUNABLEOP_UNTUNED_FILENAME (default tunableop_untuned0.csv).
    #[arg(long, help_heading = "GEMM tuning")]
    pub(crate) record_untuned: bool,
    /// Take over results that PyTorch's TunableOp wrote; see `octet serve --help`.
    #[arg(long, value_name = "FILE", help_heading = "GEMM tuning")]
    pub(crate) import_tunableop: Option<PathBuf>,
}

/// `90`, `90s`, `1.5m`, `2h` or `500ms`.
///
/// # Errors
/// A message for the user.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        unit => return Err(format!("unknown unit {unit:?}; known are ms, s, m and h")),
    };
    let number: f64 = digits.parse().map_err(|_| format!("{text:?} is no time; examples: 90s, 5m"))?;
    match Duration::try_from_secs_f64(number * unit) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err(format!("{text} is no time above zero")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        let read = |text| parse_duration(text).map(|duration| duration.as_millis());
        assert_eq!(
            [read("90"), read("1.5m"), read("2h"), read("500ms"), read("3s")],
            [90_000, 90_000, 7_200_000, 500, 3000].map(Ok)
        );
        for wrong in ["", "s", "5d", "-1s", "0", "1e400", "NaN"] {
            assert!(parse_duration(wrong).is_err(), "{wrong} was taken");
        }
    }
}
