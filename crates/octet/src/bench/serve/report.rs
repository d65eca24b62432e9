//! What a measurement says: vLLM's block of lines and JSON keys, and a note of what is Octet's own.

use std::io::{self, Write};

use serde_json::{Map, Value, json};

use super::measure::{Metric, Totals};
use super::request::Outcome;
use crate::cli::bench::{LoadArgs, RampUp};

/// Failures that are shown; more of the same kind would say nothing new.
const SHOWN_FAILURES: usize = 10;

/// Everything that is reported about a run.
pub(super) struct Report {
    /// What was measured.
    pub(super) subject: Subject,
    /// The load as it was asked for.
    pub(super) load: LoadArgs,
    /// Counts and rates.
    pub(super) totals: Totals,
    /// By request, in the order of arrival.
    pub(super) outcomes: Vec<Outcome>,
    /// Metrics that are reported.
    pub(super) metrics: Vec<Metric>,
    /// And their percentiles.
    pub(super) percents: Vec<f64>,
    /// Processor time of the client during the run, seconds, where it is known.
    pub(super) client_processor_seconds: Option<f64>,
}

/// What was measured.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    /// When: `20260131-235959`, local time.
    pub(super) date: String,
    /// As typed.
    pub(super) backend: &'static str,
    /// Of the measurement, if it has a name.
    pub(super) label: Option<String>,
    /// The model.
    pub(super) model: String,
    /// Where the tokenizer came from, if one was used.
    pub(super) tokenizer: Option<String>,
    /// Prompts that were asked for.
    pub(super) num_prompts: usize,
    /// The data set, and how its prompts were sent.
    pub(super) dataset: &'static str,
    /// `tokens` or `text`.
    pub(super) prompt_form: &'static str,
    /// Further fields of the user's.
    pub(super) metadata: Vec<(String, String)>,
}

impl Report {
    /// The first failures.
    ///
    /// # Errors
    /// Of the writer.
    pub(super) fn write_failures(&self, output: &mut impl Write) -> io::Result<()> {
        let mut failures =
            self.outcomes.iter().filter_map(|outcome| outcome.error.as_ref()).enumerate().peekable();
        if failures.peek().is_some() {
            writeln!(output, "Failed requests during benchmark run detected (capping to {SHOWN_FAILURES}):")?;
        }
        failures
            .take(SHOWN_FAILURES)
            .try_for_each(|(index, error)| writeln!(output, "Error {index}: {error}"))
    }

    /// vLLM's block, then notes.
    ///
    /// # Errors
    /// Of the writer.
    pub(super) fn write_text(&self, output: &mut impl Write) -> io::Result<()> {
        let totals = &self.totals;
        writeln!(output, "{:=^50}", " Serving Benchmark Result ")?;
        whole(output, "Successful requests:", totals.completed)?;
        whole(output, "Failed requests:", totals.failed)?;
        if let Some(limit) = self.load.max_concurrency {
            whole(output, "Maximum request concurrency:", limit)?;
        }
        if self.load.request_rate.is_finite() {
            fraction(output, "Request rate configured (RPS):", self.load.request_rate)?;
        }
        fraction(output, "Benchmark duration (s):", totals.duration)?;
        whole(output, "Total input tokens:", totals.input_tokens)?;
        whole(output, "Total generated tokens:", totals.output_tokens)?;
        fraction(output, "Request throughput (req/s):", totals.per_second(totals.completed))?;
        if let Some(good) = totals.good {
            fraction(output, "Request goodput (req/s):", totals.per_second(good))?;
        }
        fraction(output, "Output token throughput (tok/s):", totals.per_second(totals.output_tokens))?;
        fraction(
            output,
            "Peak output token throughput (tok/s):",
            super::count(totals.peak_output_tokens_per_second),
        )?;
        fraction(output, "Peak concurrent requests:", super::count(totals.peak_concurrent_requests))?;
        fraction(
            output,
            "Total token throughput (tok/s):",
            totals.per_second(totals.input_tokens + totals.output_tokens),
        )?;
        for metric in &self.metrics {
            self.write_metric(*metric, output)?;
        }
        writeln!(output, "{:=^50}", "")?;
        self.write_notes(output)
    }

    fn write_metric(&self, metric: Metric, output: &mut impl Write) -> io::Result<()> {
        let (name, heading) = metric.titles();
        let values = metric.distribution_ms(&self.outcomes);
        writeln!(output, "{heading:-^50}")?;
        fraction(output, &format!("Mean {name} (ms):"), values.mean())?;
        fraction(output, &format!("Median {name} (ms):"), values.median())?;
        for percent in &self.percents {
            fraction(output, &format!("P{percent} {name} (ms):"), values.percentile(*percent))?;
        }
        Ok(())
    }

    fn write_notes(&self, output: &mut impl Write) -> io::Result<()> {
        if self.totals.counted_by_chunks > 0 {
            writeln!(
                output,
                "Note: the server reported no usage for {} requests; their tokens were counted by chunks, which may \
                 hold several",
                self.totals.counted_by_chunks
            )?;
        }
        if let (Some(seconds), true) = (self.client_processor_seconds, self.totals.duration > 0.0) {
            let percent = 100.0 * seconds / self.totals.duration;
            writeln!(
                output,
                "Note: this client used {seconds:.2} s of processor time, {percent:.1}% of one core"
            )?;
        }
        Ok(())
    }

    /// vLLM's keys, and `octet` with what vLLM does not report. `detailed` adds what each request did.
    pub(super) fn to_json(&self, detailed: bool) -> Map<String, Value> {
        let mut json = self.subject_to_json();
        let totals = &self.totals;
        let figures = json!({
            "duration": totals.duration,
            "completed": totals.completed,
            "failed": totals.failed,
            "total_input_tokens": totals.input_tokens,
            "total_output_tokens": totals.output_tokens,
            "request_throughput": totals.per_second(totals.completed),
            "request_goodput": totals.good.map(|good| totals.per_second(good)),
            "output_throughput": totals.per_second(totals.output_tokens),
            "total_token_throughput": totals.per_second(totals.input_tokens + totals.output_tokens),
            "max_output_tokens_per_s": super::count(totals.peak_output_tokens_per_second),
            "max_concurrent_requests": totals.peak_concurrent_requests,
            "rtfx": 0.0,
        });
        extend(&mut json, figures);
        if detailed {
            extend(&mut json, self.details());
        }
        for metric in &self.metrics {
            let (key, values) = (metric.key(), metric.distribution_ms(&self.outcomes));
            json.insert(format!("mean_{key}_ms"), values.mean().into());
            json.insert(format!("median_{key}_ms"), values.median().into());
            json.insert(format!("std_{key}_ms"), values.standard_deviation().into());
            for percent in &self.percents {
                json.insert(format!("p{percent}_{key}_ms"), values.percentile(*percent).into());
            }
        }
        let own = json!({ "octet": {
            "dataset_name": self.subject.dataset,
            "prompt_form": self.subject.prompt_form,
            "requests_counted_by_chunks": totals.counted_by_chunks,
            "client_processor_seconds": self.client_processor_seconds,
        } });
        extend(&mut json, own);
        json
    }

    fn subject_to_json(&self) -> Map<String, Value> {
        let Subject { date, backend, label, model, tokenizer, num_prompts, metadata, .. } = &self.subject;
        let mut json = Map::new();
        let subject = json!({
            "date": date,
            "endpoint_type": backend,
            "backend": backend,
            "label": label,
            "model_id": model,
            "tokenizer_id": tokenizer,
            "num_prompts": num_prompts,
        });
        extend(&mut json, subject);
        json.extend(metadata.iter().map(|(key, value)| (key.clone(), value.as_str().into())));
        let finite = |number: f64| if number.is_finite() { json!(number) } else { json!("inf") };
        let load = json!({
            "request_rate": finite(self.load.request_rate),
            "burstiness": finite(self.load.burstiness),
            "max_concurrency": self.load.max_concurrency,
        });
        extend(&mut json, load);
        if let Some(strategy) = self.load.ramp_up_strategy {
            let ramp = json!({
                "ramp_up_strategy": name_of(strategy),
                "ramp_up_start_rps": self.load.ramp_up_start_rps,
                "ramp_up_end_rps": self.load.ramp_up_end_rps,
            });
            extend(&mut json, ramp);
        }
        json
    }

    /// Lists with an entry for each request; a failed one generated nothing.
    fn details(&self) -> Value {
        let list = |value: &dyn Fn(&Outcome) -> Value| Value::from_iter(self.outcomes.iter().map(value));
        json!({
            "input_lens": list(&|outcome| outcome.prompt_len.into()),
            "output_lens": list(&|outcome| {
                if outcome.error.is_some() { 0.into() } else { outcome.output_len.into() }
            }),
            "ttfts": list(&|outcome| outcome.first.as_secs_f64().into()),
            "itls": list(&|outcome| outcome.gaps.clone().into()),
            "latencies": list(&|outcome| outcome.latency.as_secs_f64().into()),
            "start_times": list(&|outcome| outcome.started.as_secs_f64().into()),
            "queue_times": list(&|outcome| outcome.queued.as_secs_f64().into()),
            "generated_texts": list(&|outcome| outcome.text.as_str().into()),
            "errors": list(&|outcome| outcome.error.as_deref().unwrap_or_default().into()),
        })
    }

    /// The name of the results' file, if the user has none in mind: vLLM's.
    pub(super) fn file_name(&self) -> String {
        let Subject { date, backend, label, model, .. } = &self.subject;
        let label = label.as_deref().unwrap_or(backend);
        let rate = match self.load.ramp_up_strategy {
            Some(strategy) => format!(
                "ramp-up-{}-{}qps-{}qps",
                name_of(strategy),
                self.load.ramp_up_start_rps.unwrap_or_default(),
                self.load.ramp_up_end_rps.unwrap_or_default()
            ),
            // `{:?}` writes 4.0 where `{}` would write 4: as Python does.
            None => format!("{:?}qps", self.load.request_rate),
        };
        let limit =
            self.load.max_concurrency.map_or_else(String::new, |limit| format!("-concurrency{limit}"));
        let model = model.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        format!("{label}-{rate}{limit}-{model}-{date}.json")
    }
}

const fn name_of(strategy: RampUp) -> &'static str {
    match strategy {
        RampUp::Linear => "linear",
        RampUp::Exponential => "exponential",
    }
}

fn extend(json: &mut Map<String, Value>, fields: Value) {
    if let Value::Object(fields) = fields {
        json.extend(fields);
    }
}

fn whole(output: &mut impl Write, name: &str, number: usize) -> io::Result<()> {
    writeln!(output, "{name:<40} {number:<10}")
}

fn fraction(output: &mut impl Write, name: &str, number: f64) -> io::Result<()> {
    writeln!(output, "{name:<40} {number:<10.2}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::measure::tests::{failure, outcome};
    use super::*;
    use crate::cli::bench::Objective;

    fn report() -> Report {
        let outcomes = vec![outcome(0, 100, &[10, 30]), failure(), outcome(500, 300, &[20])];
        let objectives = [Objective { metric: "ttft", limit_ms: 150.0 }];
        Report {
            subject: Subject {
                date: "20260102-030405".to_owned(),
                backend: "openai",
                label: None,
                model: "some/model".to_owned(),
                tokenizer: None,
                num_prompts: 3,
                dataset: "random",
                prompt_form: "tokens",
                metadata: vec![("tp".to_owned(), "1".to_owned())],
            },
            load: LoadArgs {
                request_rate: 4.0,
                burstiness: 1.0,
                max_concurrency: Some(2),
                num_warmups: 0,
                ramp_up_strategy: None,
                ramp_up_start_rps: None,
                ramp_up_end_rps: None,
            },
            totals: Totals::new(&outcomes, Duration::from_secs(2), &objectives),
            outcomes,
            metrics: vec![Metric::FirstToken, Metric::InterToken],
            percents: vec![50.0, 99.5],
            client_processor_seconds: Some(0.05),
        }
    }

    #[test]
    fn the_printed_form_is_vllms() {
        let mut text = Vec::new();
        report().write_text(&mut text).expect("memory can be written");
        let expected = "\
============ Serving Benchmark Result ============
Successful requests:                     2         
Failed requests:                         1         
Maximum request concurrency:             2         
Request rate configured (RPS):           4.00      
Benchmark duration (s):                  2.00      
Total input tokens:                      20        
Total generated tokens:                  5         
Request throughput (req/s):              1.00      
Request goodput (req/s):                 0.50      
Output token throughput (tok/s):         2.50      
Peak output token throughput (tok/s):    5.00      
Peak concurrent requests:                2.00      
Total token throughput (tok/s):          12.50     
---------------Time to First Token----------------
Mean TTFT (ms):                          200.00    
Median TTFT (ms):                        200.00    
P50 TTFT (ms):                           200.00    
P99.5 TTFT (ms):                         299.00    
---------------Inter-token Latency----------------
Mean ITL (ms):                           20.00     
Median ITL (ms):                         20.00     
P50 ITL (ms):                            20.00     
P99.5 ITL (ms):                          29.90     
==================================================
Note: this client used 0.05 s of processor time, 2.5% of one core
";
        assert_eq!(String::from_utf8_lossy(&text), expected);
    }

    #[test]
    fn json_has_vllms_keys_and_ours() {
        let json = Value::Object(report().to_json(false));
        assert_eq!((&json["request_rate"], &json["max_concurrency"]), (&json!(4.0), &json!(2)));
        assert_eq!((&json["model_id"], &json["tp"]), (&json!("some/model"), &json!("1")));
        assert_eq!((&json["label"], &json["request_goodput"]), (&Value::Null, &json!(0.5)));
        for key in ["mean_ttft_ms", "median_itl_ms", "std_ttft_ms", "p50_itl_ms", "p99.5_ttft_ms", "rtfx"] {
            assert!(json[key].is_number(), "{key} is missing in {json}");
        }
        assert_eq!(json["octet"]["prompt_form"], "tokens");
        assert!(json.get("mean_tpot_ms").is_none() && json.get("ttfts").is_none(), "{json}");
        let detailed = Value::Object(report().to_json(true));
        assert_eq!(detailed["output_lens"], json!([3, 0, 2]));
        assert_eq!(detailed["errors"], json!(["", "no", ""]));
        assert_eq!(detailed["itls"][0], json!([0.01, 0.03]));
    }

    #[test]
    fn the_file_is_named_as_vllm_does() {
        let mut report = report();
        assert_eq!(report.file_name(), "openai-4.0qps-concurrency2-model-20260102-030405.json");
        report.load.request_rate = f64::INFINITY;
        report.load.max_concurrency = None;
        report.subject.label = Some("mine".to_owned());
        assert_eq!(report.file_name(), "mine-infqps-model-20260102-030405.json");
    }

    #[test]
    fn failures_are_shown_up_to_a_limit() {
        let mut report = report();
        let mut text = Vec::new();
        report.write_failures(&mut text).expect("memory can be written");
        assert!(String::from_utf8_lossy(&text).ends_with("\nError 0: no\n"));
        report.outcomes = vec![failure(); 30];
        text.clear();
        report.write_failures(&mut text).expect("memory can be written");
        assert_eq!(String::from_utf8_lossy(&text).lines().count(), 1 + SHOWN_FAILURES);
    }
}
