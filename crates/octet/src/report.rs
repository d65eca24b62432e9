//! What the program says on standard error: its start-up report and its last words.

use std::fmt::Display;
use std::io::{ErrorKind, Write};
use std::time::Duration;

use anyhow::{Context, Result};
use octet_backend::{Backend, DeviceInfo};
use octet_model::{LoadedModel, MemoryPlan};

use crate::logging;

/// One line for the user. Standard output is for results alone.
pub(crate) fn line(text: impl Display) {
    match logging::error() {
        Some(queue) => queue.push(format!("{text}\n").as_bytes()),
        // Nothing can be done if standard error is closed, and nothing depends on it.
        None => drop(writeln!(std::io::stderr().lock(), "{text}")),
    }
}

/// A result, on standard output. Whoever closed it does not want it.
///
/// # Errors
/// It is lost, as on a disk without room.
pub(crate) fn result(text: &str) -> Result<()> {
    if let Some(queue) = logging::output() {
        queue.push(text.as_bytes());
        return Ok(());
    }
    let mut output = std::io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("the results could not be written to standard output"),
    }
}

/// Says something between two states of a progress bar: the bar is drawn again when it is out.
pub(crate) fn beside_bar(say: impl FnOnce()) {
    say();
    logging::settle();
}

/// The chain of causes, one line, so that the last line of a log says it all.
pub(crate) fn failure(error: &anyhow::Error) {
    line(format_args!("octet: error: {}", causes(error)));
}

/// The causes, outermost first. Those that an outer one has told already are left out.
fn causes(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

/// `1234567` as `1,234,567`.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The device line.
pub(crate) fn device(info: &DeviceInfo) {
    line(format_args!(
        "device: {} ({}), {} {}, {} kernels",
        info.name,
        info.kind,
        info.units,
        if info.kind == "cpu" { "threads" } else { "compute units" },
        info.architecture
    ));
}

/// What was loaded, and how long it took.
pub(crate) fn model<B: Backend>(name: &str, model: &LoadedModel<B>, elapsed: Duration) {
    let quantization =
        model.quantization().map_or_else(String::new, |method| format!(", quantized by {method}"));
    line(format_args!(
        "model: {name} ({}), weights in {}{quantization}, KV cache in {}, loaded in {:.2} s",
        model.config().architecture,
        model.weight_type(),
        model.kv_type(),
        elapsed.as_secs_f64()
    ));
}

/// The budget as a table, then the capacity in the article's form and in today's.
pub(crate) fn memory(plan: &MemoryPlan) {
    line(plan);
    line(format_args!("# GPU blocks: {}, # CPU blocks: 0", plan.num_blocks));
    line(format_args!(
        "GPU KV cache size: {} tokens, Maximum concurrency for {} tokens per request: {:.2}x",
        grouped(plan.capacity_tokens()),
        grouped(plan.max_model_len),
        plan.max_concurrency()
    ));
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::{causes, grouped};

    #[test]
    fn a_cause_is_told_once() {
        let error = anyhow::anyhow!("no such file").context("cannot read x: no such file; name another");
        let error = Err::<(), _>(error).context("the model cannot be loaded").unwrap_err();
        assert_eq!(causes(&error), "the model cannot be loaded: cannot read x: no such file; name another");
    }

    #[test]
    fn digits_are_grouped_by_three() {
        assert_eq!([0, 12, 123, 1234, 1_262_352].map(grouped), ["0", "12", "123", "1,234", "1,262,352"]);
    }
}
