//! What a latency measurement says: vLLM's lines and JSON keys, then prefill and decode beside this machine's floor.
//!
//! The floor is the least time that the work can take: bytes that must be read over read bandwidth, or multiply-adds
//! over their peak, whichever is longer. A fraction of 1 would mean that nothing is lost.

use std::io::{self, Write};

use serde_json::{Map, Value, json};

use super::latency::{Iteration, LatencyRun};
use super::statistics::{Distribution, count};
use crate::roofline::{Measure, Roofline};

/// Percentiles that are reported.
const PERCENTILES: [u32; 6] = [10, 25, 50, 75, 90, 99];

/// What the model has to do, from its config alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct WorkPerStep {
    /// Bytes of weights that every step reads once: all linears, scales included, and the head; of the embedding
    /// nothing, since only looked-up rows are read.
    pub(crate) weight_bytes: f64,
    /// Bytes that attention reads for each cached token, all layers.
    pub(crate) kv_bytes_per_token: f64,
    /// Multiply-adds for each token in the linears of all layers.
    pub(crate) multiply_adds_per_token: f64,
    /// Multiply-adds of the head, for each row whose logits are wanted.
    pub(crate) multiply_adds_per_output: f64,
}

/// What sets a floor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    Memory,
    Arithmetic,
}

impl Bound {
    const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory bandwidth",
            Self::Arithmetic => "arithmetic",
        }
    }
}

/// One phase's speed, and the speed that the floor allows.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Speed {
    tokens_per_second: f64,
    floor_tokens_per_second: f64,
    bound: Bound,
}

impl Speed {
    /// A phase that took `seconds` for `tokens`, and reads `bytes` and does `multiply_adds`.
    fn new(tokens: f64, seconds: f64, bytes: f64, multiply_adds: f64, floor: Roofline) -> Option<Self> {
        let memory_seconds = bytes / floor.bytes_per_second;
        let arithmetic_seconds = multiply_adds / floor.multiply_add_per_second;
        let bound = if memory_seconds > arithmetic_seconds { Bound::Memory } else { Bound::Arithmetic };
        let least_seconds = memory_seconds.max(arithmetic_seconds);
        (tokens > 0.0 && seconds > 0.0 && least_seconds > 0.0).then(|| Self {
            tokens_per_second: tokens / seconds,
            floor_tokens_per_second: tokens / least_seconds,
            bound,
        })
    }

    fn fraction(&self) -> f64 {
        self.tokens_per_second / self.floor_tokens_per_second
    }
}

/// Everything that is reported about a run.
#[derive(Clone, Debug)]
pub(crate) struct LatencyReport {
    run: LatencyRun,
    work: WorkPerStep,
    /// None of a simulated device, whose times mean nothing.
    floor: Option<Roofline>,
    /// Of each iteration, seconds, in the order in which they ran.
    latencies: Vec<f64>,
    /// Of each iteration that has such a phase.
    prefill: Vec<Speed>,
    decode: Vec<Speed>,
}

impl LatencyReport {
    /// Holds a run with at least one iteration against the floor.
    pub(crate) fn new(run: LatencyRun, work: WorkPerStep, floor: Option<Roofline>) -> Self {
        let sequences = count(run.shape.sequences());
        let prefill = |iteration: &Iteration| {
            let tokens = count(iteration.prefill_tokens);
            let multiply_adds =
                tokens * work.multiply_adds_per_token + sequences * work.multiply_adds_per_output;
            Speed::new(tokens, iteration.prefill.as_secs_f64(), work.weight_bytes, multiply_adds, floor?)
        };
        let decode = |iteration: &Iteration| {
            let tokens = count(iteration.decode_tokens);
            let bytes = count(iteration.decode_steps) * work.weight_bytes
                + count(iteration.decode_context_tokens) * work.kv_bytes_per_token;
            let multiply_adds = tokens * (work.multiply_adds_per_token + work.multiply_adds_per_output);
            Speed::new(tokens, iteration.decode.as_secs_f64(), bytes, multiply_adds, floor?)
        };
        Self {
            latencies: run.iterations.iter().map(|iteration| iteration.elapsed.as_secs_f64()).collect(),
            prefill: run.iterations.iter().filter_map(prefill).collect(),
            decode: run.iterations.iter().filter_map(decode).collect(),
            run,
            work,
            floor,
        }
    }

    /// Prints vLLM's lines, then the speeds.
    ///
    /// # Errors
    /// Of the writer.
    pub(crate) fn write_text(&self, output: &mut impl Write) -> io::Result<()> {
        // `{:?}` writes 1.0 where `{}` would write 1: as Python does.
        let latencies = Distribution::new(self.latencies.clone());
        writeln!(output, "Avg latency: {:?} seconds", latencies.mean())?;
        for percent in PERCENTILES {
            writeln!(
                output,
                "{percent}% percentile latency: {:?} seconds",
                latencies.percentile(f64::from(percent))
            )?;
        }
        for (name, speeds) in [("Prefill", &self.prefill), ("Decode", &self.decode)] {
            if let Some(speed) = median(speeds) {
                writeln!(
                    output,
                    "{name}: {:.2} tokens/s, {:.1}% of the floor of {:.2} tokens/s set by {}",
                    speed.tokens_per_second,
                    100.0 * speed.fraction(),
                    speed.floor_tokens_per_second,
                    speed.bound.name()
                )?;
            }
        }
        match self.floor {
            None => writeln!(output, "Note: the device is simulated: its times mean nothing")?,
            Some(floor) if floor.measure == Measure::CopyAndProduct => writeln!(
                output,
                "Floors: {:.2} TB/s and {:.1} TFLOP/s, measured by {}",
                floor.bytes_per_second / 1e12,
                2.0 * floor.multiply_add_per_second / 1e12,
                floor.measure.name()
            )?,
            Some(_) => {}
        }
        if self.run.preemptions > 0 {
            writeln!(
                output,
                "Note: the KV cache is too small for the batch: {} times a sequence had to be computed again",
                self.run.preemptions
            )?;
        }
        Ok(())
    }

    /// vLLM's keys, and `octet` with what vLLM does not report: first the fields that say what was measured.
    pub(crate) fn to_json(&self, configuration: Map<String, Value>) -> Value {
        let latencies = Distribution::new(self.latencies.clone());
        let percentiles: Map<String, Value> = PERCENTILES
            .iter()
            .map(|percent| (percent.to_string(), latencies.percentile(f64::from(*percent)).into()))
            .collect();
        let shape = &self.run.shape;
        let figures = json!({
            "batch_size": shape.batch_size,
            "n": shape.sequences_per_prompt,
            "input_len": shape.input_len,
            "output_len": shape.output_len,
            "prefill": speeds_to_json(&self.prefill),
            "decode": speeds_to_json(&self.decode),
            "preemptions": self.run.preemptions,
            "floor": {
                "read_bytes_per_second": self.floor.map(|floor| floor.bytes_per_second),
                "multiply_add_per_second": self.floor.map(|floor| floor.multiply_add_per_second),
                "measured_by": self.floor.map(|floor| floor.measure.name()),
                "weight_bytes": self.work.weight_bytes,
                "kv_bytes_per_token": self.work.kv_bytes_per_token,
                "multiply_adds_per_token": self.work.multiply_adds_per_token,
                "multiply_adds_per_output": self.work.multiply_adds_per_output,
            },
        });
        let mut own = configuration;
        if let Value::Object(figures) = figures {
            own.extend(figures);
        }
        json!({
            "avg_latency": latencies.mean(),
            "latencies": self.latencies,
            "percentiles": percentiles,
            "octet": own,
        })
    }
}

/// The median, and each iteration's value; null if there was no such phase.
fn speeds_to_json(speeds: &[Speed]) -> Value {
    median(speeds).map_or(Value::Null, |speed| {
        json!({
            "tokens_per_second": speed.tokens_per_second,
            "floor_tokens_per_second": speed.floor_tokens_per_second,
            "fraction_of_floor": speed.fraction(),
            "bound": speed.bound.name(),
            "tokens_per_second_by_iteration":
                speeds.iter().map(|speed| speed.tokens_per_second).collect::<Vec<_>>(),
        })
    })
}

/// The iteration in the middle by speed; of an even number, the slower of the two.
fn median(speeds: &[Speed]) -> Option<Speed> {
    let mut sorted = speeds.to_vec();
    sorted.sort_by(|one, other| one.tokens_per_second.total_cmp(&other.tokens_per_second));
    sorted.get(sorted.len().saturating_sub(1) / 2).copied()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bench::latency::LatencyShape;

    const WORK: WorkPerStep = WorkPerStep {
        weight_bytes: 1000.0,
        kv_bytes_per_token: 10.0,
        multiply_adds_per_token: 400.0,
        multiply_adds_per_output: 100.0,
    };
    const FLOOR: Roofline =
        Roofline { bytes_per_second: 1000.0, multiply_add_per_second: 1000.0, measure: Measure::Loops };

    /// Two sequences of 10 tokens each, prefilled in 10 s; then two steps of 2 tokens in 4 s.
    fn report(output_len: usize) -> LatencyReport {
        report_with(output_len, Some(FLOOR))
    }

    fn report_with(output_len: usize, floor: Option<Roofline>) -> LatencyReport {
        let shape = LatencyShape {
            batch_size: 2,
            sequences_per_prompt: 1,
            input_len: 10,
            output_len,
            warmups: 0,
            iterations: 2,
            vocabulary: 50,
            seed: 0,
        };
        let iteration = |seconds: u64| Iteration {
            elapsed: Duration::from_secs(seconds),
            prefill: Duration::from_secs(10),
            prefill_tokens: 20,
            decode: Duration::from_secs(4),
            decode_tokens: 2 * (output_len - 1),
            decode_steps: output_len - 1,
            decode_context_tokens: 4 * 12,
        };
        LatencyReport::new(
            LatencyRun { shape, iterations: vec![iteration(14), iteration(15)], preemptions: 0 },
            WORK,
            floor,
        )
    }

    #[test]
    fn the_printed_form_is_vllms_then_speeds_with_their_floors() {
        let mut text = Vec::new();
        report(3).write_text(&mut text).expect("memory can be written");
        // Prefill: 20 * 400 + 2 * 100 multiply-adds take 8.2 s at best. Decode: 2 * 1000 + 48 * 10 bytes take 2.48 s.
        let expected = "\
Avg latency: 14.5 seconds
10% percentile latency: 14.1 seconds
25% percentile latency: 14.25 seconds
50% percentile latency: 14.5 seconds
75% percentile latency: 14.75 seconds
90% percentile latency: 14.9 seconds
99% percentile latency: 14.99 seconds
Prefill: 2.00 tokens/s, 82.0% of the floor of 2.44 tokens/s set by arithmetic
Decode: 1.00 tokens/s, 62.0% of the floor of 1.61 tokens/s set by memory bandwidth
";
        assert_eq!(String::from_utf8_lossy(&text), expected);
    }

    #[test]
    fn json_has_vllms_keys_and_ours() {
        let model = Map::from_iter([("model".to_owned(), json!("m"))]);
        let json = report(3).to_json(model);
        assert_eq!(json["avg_latency"], 14.5);
        assert_eq!(json["latencies"], json!([14.0, 15.0]));
        assert_eq!(json["percentiles"]["25"], 14.25);
        assert_eq!(json["octet"]["decode"]["tokens_per_second_by_iteration"], json!([1.0, 1.0]));
        assert!(
            (json["octet"]["prefill"]["fraction_of_floor"].as_f64().expect("a number") - 0.82).abs() < 1e-9
        );
        assert_eq!(json["octet"]["floor"]["weight_bytes"], 1000.0);
        assert_eq!(json["octet"]["model"], "m");
    }

    #[test]
    fn a_gpu_is_told_how_its_floor_was_measured_and_a_simulated_one_has_none() {
        let text = |floor| {
            let mut text = Vec::new();
            report_with(3, floor).write_text(&mut text).expect("memory can be written");
            String::from_utf8(text).expect("text")
        };
        let measured = Roofline { measure: Measure::CopyAndProduct, ..FLOOR };
        let gpu = text(Some(measured));
        assert!(gpu.contains("82.0% of the floor") && gpu.contains("measured by copying"), "{gpu}");
        let simulated = text(None);
        assert!(
            simulated.contains("its times mean nothing") && !simulated.contains("of the floor"),
            "{simulated}"
        );
        let json = report_with(3, None).to_json(Map::new());
        assert_eq!(json["octet"]["floor"]["measured_by"], Value::Null);
        assert_eq!(json["octet"]["decode"], Value::Null);
    }

    #[test]
    fn a_single_token_has_no_decode() {
        let report = report(1);
        let mut text = Vec::new();
        report.write_text(&mut text).expect("memory can be written");
        assert!(!String::from_utf8_lossy(&text).contains("Decode"));
        assert_eq!(report.to_json(Map::new())["octet"]["decode"], Value::Null);
    }
}
