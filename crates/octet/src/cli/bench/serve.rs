//! Flags of `octet bench serve`.

use std::convert::Infallible;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use serde_json::{Map, Value};

use super::DatasetArgs;
use super::refused::refuse;
use crate::cli::parse_count;

/// Measures a running server of OpenAI's API under load: Octet, vLLM, llama-server, or any other.
#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    /// API to measure; `vllm` is another name of `openai`.
    #[arg(long, value_enum, default_value = "openai", help_heading = "Server")]
    pub(crate) backend: Api,
    /// Where the server is, without the path: http://host:8000. By default --host and --port say it.
    #[arg(long, value_name = "URL", help_heading = "Server")]
    pub(crate) base_url: Option<String>,
    /// The server's address.
    #[arg(long, default_value = "127.0.0.1", help_heading = "Server")]
    pub(crate) host: String,
    /// The server's port.
    #[arg(long, default_value_t = 8000, help_heading = "Server")]
    pub(crate) port: u16,
    /// Path of requests; by default that of the --backend's API: /v1/completions or /v1/chat/completions.
    #[arg(long, value_name = "PATH", help_heading = "Server")]
    pub(crate) endpoint: Option<String>,
    /// Headers of every request. A key for the server is taken from OPENAI_API_KEY.
    #[arg(long, num_args = 1.., value_parser = parse_pair, value_name = "KEY=VALUE", help_heading = "Server")]
    pub(crate) header: Vec<(String, String)>,
    /// The model; by default the first that the server lists. If it names a folder, the tokenizer there is used.
    #[arg(long, help_heading = "Server")]
    pub(crate) model: Option<String>,
    /// The model's name in requests, if it is not --model.
    #[arg(long, value_name = "NAME", help_heading = "Server")]
    pub(crate) served_model_name: Option<String>,
    /// Do not check the server's certificate.
    #[arg(long, help_heading = "Server")]
    pub(crate) insecure: bool,
    /// Wait so long for the server to answer a first, short request; 0 does not wait and sends none.
    #[arg(long, default_value_t = 0, value_name = "SECONDS", help_heading = "Server")]
    pub(crate) ready_check_timeout_sec: u64,

    #[command(flatten)]
    pub(crate) dataset: DatasetArgs,
    /// Folder of the tokenizer, or `octet-mini`. Needed for text of an exact length and for `sharegpt`; prompts of
    /// token ids do without.
    #[arg(long, value_name = "FOLDER", help_heading = "Data set")]
    pub(crate) tokenizer: Option<String>,
    /// Use no tokenizer, even if one is found.
    #[arg(long, conflicts_with = "tokenizer", help_heading = "Data set")]
    pub(crate) skip_tokenizer_init: bool,
    /// How prompts are sent. `tokens`: as ids, which is exact on Octet, vLLM and llama-server. `text`: as text that is
    /// checked to have the exact length. By default `tokens`, but `text` for chats and for `sharegpt`.
    #[arg(long, value_enum, value_name = "FORM", help_heading = "Data set")]
    pub(crate) prompt_form: Option<PromptForm>,
    /// Seed of prompts and arrivals: the same seed sends the same.
    #[arg(long, default_value_t = 0, help_heading = "Data set")]
    pub(crate) seed: u64,

    #[command(flatten)]
    pub(crate) load: LoadArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) report: ReportArgs,
    #[command(flatten)]
    pub(crate) refused: RefusedArgs,
}

/// When requests are sent.
#[derive(Args, Clone, Debug)]
pub(crate) struct LoadArgs {
    /// Requests a second; `inf` sends all at once.
    #[arg(long, default_value = "inf", value_parser = parse_positive, value_name = "RATE", help_heading = "Load")]
    pub(crate) request_rate: f64,
    /// With a finite rate: gaps between requests follow a gamma distribution of this shape. 1 is a Poisson process,
    /// less comes in bursts, more is more regular, `inf` is a metronome.
    #[arg(long, default_value = "1", value_parser = parse_positive, value_name = "SHAPE", help_heading = "Load")]
    pub(crate) burstiness: f64,
    /// Requests in flight at most; further ones wait here.
    #[arg(long, value_parser = parse_count, value_name = "COUNT", help_heading = "Load")]
    pub(crate) max_concurrency: Option<usize>,
    /// Requests before the measurement, with prompts of their own.
    #[arg(long, default_value_t = 0, value_name = "COUNT", help_heading = "Load")]
    pub(crate) num_warmups: usize,
    /// Raise the rate during the run, instead of --request-rate.
    #[arg(long, value_enum, requires_all = ["ramp_up_start_rps", "ramp_up_end_rps"], conflicts_with = "request_rate",
          value_name = "HOW", help_heading = "Load")]
    pub(crate) ramp_up_strategy: Option<RampUp>,
    /// With --ramp-up-strategy: requests a second at the beginning.
    #[arg(long, requires = "ramp_up_strategy", value_parser = parse_positive, value_name = "RATE", help_heading = "Load")]
    pub(crate) ramp_up_start_rps: Option<f64>,
    /// With --ramp-up-strategy: requests a second at the end.
    #[arg(long, requires = "ramp_up_strategy", value_parser = parse_positive, value_name = "RATE", help_heading = "Load")]
    pub(crate) ramp_up_end_rps: Option<f64>,
}

/// What requests ask for.
#[derive(Args, Clone, Debug)]
pub(crate) struct SamplingArgs {
    /// Go on to the full output length, whatever the model says; always so with the `random` data set.
    #[arg(long, help_heading = "Sampling")]
    pub(crate) ignore_eos: bool,
    /// Temperature; like all of these, the server decides if it is not given.
    #[arg(long, help_heading = "Sampling")]
    pub(crate) temperature: Option<f64>,
    /// Top-p.
    #[arg(long, help_heading = "Sampling")]
    pub(crate) top_p: Option<f64>,
    /// Top-k.
    #[arg(long, allow_hyphen_values = true, help_heading = "Sampling")]
    pub(crate) top_k: Option<i64>,
    /// Min-p.
    #[arg(long, help_heading = "Sampling")]
    pub(crate) min_p: Option<f64>,
    /// Frequency penalty.
    #[arg(long, allow_hyphen_values = true, help_heading = "Sampling")]
    pub(crate) frequency_penalty: Option<f64>,
    /// Presence penalty.
    #[arg(long, allow_hyphen_values = true, help_heading = "Sampling")]
    pub(crate) presence_penalty: Option<f64>,
    /// Repetition penalty.
    #[arg(long, help_heading = "Sampling")]
    pub(crate) repetition_penalty: Option<f64>,
    /// Logprobs for each token.
    #[arg(long, value_name = "COUNT", help_heading = "Sampling")]
    pub(crate) logprobs: Option<u32>,
    /// Further fields of the request's body, as a JSON object; they win over all others.
    #[arg(long, value_parser = parse_object, value_name = "JSON", help_heading = "Sampling")]
    pub(crate) extra_body: Option<Map<String, Value>>,
    /// Beginning of the requests' ids, which are sent as X-Request-Id.
    #[arg(long, value_name = "TEXT", help_heading = "Sampling")]
    pub(crate) request_id_prefix: Option<String>,
}

/// What is reported, and where.
#[derive(Args, Clone, Debug)]
pub(crate) struct ReportArgs {
    /// Also count the requests that meet all of these, in milliseconds: ttft:MS tpot:MS e2el:MS.
    #[arg(long, num_args = 1.., value_name = "METRIC:MS", help_heading = "Report")]
    pub(crate) goodput: Vec<Objective>,
    /// Metrics to report: ttft, tpot, itl, e2el; with --max-concurrency also client_queue_time, and with a finite rate
    /// e2el_including_client_queue.
    #[arg(
        long,
        default_value = "ttft,tpot,itl",
        value_delimiter = ',',
        value_name = "LIST",
        help_heading = "Report"
    )]
    pub(crate) percentile_metrics: Vec<String>,
    /// Percentiles of each.
    #[arg(long, default_value = "99", value_delimiter = ',', value_parser = parse_percent, value_name = "LIST", help_heading = "Report")]
    pub(crate) metric_percentiles: Vec<f64>,
    /// Write the results to a file, as JSON.
    #[arg(long, help_heading = "Report")]
    pub(crate) save_result: bool,
    /// With the results: times, lengths, texts and errors of each request.
    #[arg(long, help_heading = "Report")]
    pub(crate) save_detailed: bool,
    /// Write the results as a further line of the file.
    #[arg(long, help_heading = "Report")]
    pub(crate) append_result: bool,
    /// Folder of the file; made if need be. The current one by default.
    #[arg(long, value_name = "FOLDER", help_heading = "Report")]
    pub(crate) result_dir: Option<PathBuf>,
    /// Name of the file; by default made of label, rate, model and time.
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub(crate) result_filename: Option<String>,
    /// Further fields of the results.
    #[arg(long, num_args = 1.., value_parser = parse_pair, value_name = "KEY=VALUE", help_heading = "Report")]
    pub(crate) metadata: Vec<(String, String)>,
    /// Name of the measurement; by default the --backend.
    #[arg(long, help_heading = "Report")]
    pub(crate) label: Option<String>,
    /// Show no progress bar.
    #[arg(long, help_heading = "Report")]
    pub(crate) disable_tqdm: bool,
}

/// Flags of vLLM's that cannot be honoured.
#[derive(Args, Debug)]
pub(crate) struct RefusedArgs {
    #[arg(long, hide = true, num_args = 0.., default_missing_value = "",
          value_parser = refuse("profiling endpoints are vLLM's own; profile the server with the system's tools, such as perf"))]
    pub(crate) profile: Option<Infallible>,
    #[arg(long, hide = true, num_args = 0.., default_missing_value = "", alias = "lora-assignment",
          value_parser = refuse("one model is measured at a time; name it with --model"))]
    pub(crate) lora_modules: Option<Infallible>,
    #[arg(long, hide = true, num_args = 0.., default_missing_value = "",
          value_parser = refuse("beam search has no tokens to time before its end"))]
    pub(crate) use_beam_search: Option<Infallible>,
    #[arg(long, hide = true, num_args = 0.., default_missing_value = "", allow_hyphen_values = true,
          value_parser = refuse("no second load is sent beside the first; run two clients"))]
    pub(crate) probe_request_rate: Option<Infallible>,
    #[arg(long, hide = true, num_args = 0.., default_missing_value = "", aliases = ["plot-dataset-stats", "timeline-itl-thresholds"],
          value_parser = refuse("plots are not made here; --save-result --save-detailed writes all that they show"))]
    pub(crate) plot_timeline: Option<Infallible>,
    #[arg(long, hide = true, num_args = 0.., default_missing_value = "", alias = "no-self-timed",
          value_parser = refuse("traces with times of their own are not supported; use --request-rate"))]
    pub(crate) self_timed: Option<Infallible>,
}

/// The API that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Api {
    /// Completions.
    Openai,
    /// The same, by vLLM's other name.
    Vllm,
    /// Chat completions: each prompt is one user's message, whose length the chat template adds to.
    OpenaiChat,
}

impl Api {
    /// As it is typed, and as reports name it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Openai => "openai",
            Self::Vllm => "vllm",
            Self::OpenaiChat => "openai-chat",
        }
    }
}

/// How prompts are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PromptForm {
    /// As token ids.
    Tokens,
    /// As text.
    Text,
}

/// How the rate rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RampUp {
    /// By the same amount with each request.
    Linear,
    /// By the same factor with each request.
    Exponential,
}

/// What a request must meet to be good.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Objective {
    /// `ttft`, `tpot` or `e2el`.
    pub(crate) metric: &'static str,
    /// At most so long, milliseconds.
    pub(crate) limit_ms: f64,
}

impl FromStr for Objective {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || "expected METRIC:MS with ttft, tpot or e2el, such as ttft:500".to_owned();
        let (name, limit) = text.split_once(':').ok_or_else(form)?;
        let metric = ["ttft", "tpot", "e2el"].into_iter().find(|metric| *metric == name).ok_or_else(form)?;
        let limit_ms: f64 = limit.parse().map_err(|_| form())?;
        if limit_ms.is_nan() || limit_ms < 0.0 {
            return Err(format!("{limit} is no time of at least 0 ms"));
        }
        Ok(Self { metric, limit_ms })
    }
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

fn parse_positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 => Ok(number),
        _ => Err("expected a number above 0, or inf".to_owned()),
    }
}

fn parse_percent(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(percent),
        _ => Err("expected percentages from 0 to 100, such as 50,90,99".to_owned()),
    }
}

fn parse_object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("expected a JSON object: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_checked_where_they_are_typed() {
        assert_eq!("ttft:200".parse(), Ok(Objective { metric: "ttft", limit_ms: 200.0 }));
        for wrong in ["ttft", "itl:5", "ttft:x", "e2el:-1", "tpot:nan"] {
            assert!(wrong.parse::<Objective>().is_err(), "{wrong} was taken");
        }
        assert_eq!(parse_pair("a = b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(parse_pair("a").is_err() && parse_pair("=b").is_err());
        assert_eq!(parse_positive("inf"), Ok(f64::INFINITY));
        assert!(parse_positive("0").is_err() && parse_positive("nan").is_err());
        assert!(parse_percent("101").is_err() && parse_object("[]").is_err());
    }
}
