//! Where log lines go: standard error, `OCTET_LOG` choosing how many (`warn`, `info`, `debug`).
//!
//! A server must not stop because nobody reads its log. Once [`start`] was called, everything that the program says
//! (log lines, `crate::report`, the words of a panic) goes through a [`LineQueue`], which never blocks and never fails.

mod queue;

use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::panic::PanicHookInfo;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result};
use tracing_subscriber::EnvFilter;

use crate::{environment, report};
use queue::LineQueue;

/// Chooses what is logged.
const VARIABLE: &str = "OCTET_LOG";
/// The variable of vLLM's that says the same in Python's levels.
const VLLM_VARIABLE: &str = "VLLM_LOGGING_LEVEL";

/// How long the end of the process waits for its last lines.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long whoever says something waits for it where order matters: a thread that panics, as the process may end
/// right after, and a progress bar before it is drawn again.
const MOMENT: Duration = Duration::from_millis(100);

static QUEUES: OnceLock<Queues> = OnceLock::new();

/// The program's two streams. Their threads write to descriptors of their own, so that a stream that blocks does not
/// hold the locks of the standard library's.
struct Queues {
    error: Arc<LineQueue>,
    output: Arc<LineQueue>,
    dropped: Arc<AtomicU64>,
}

/// Starts logging. Called once, by the subcommands that run for long.
///
/// # Errors
/// The operating system gives no thread or no descriptor.
pub(crate) fn start() -> Result<()> {
    let queues = Queues::start().context("no thread that writes log lines")?;
    let error = Arc::clone(&queues.error);
    if QUEUES.set(queues).is_err() {
        return Ok(());
    }
    std::panic::set_hook(Box::new(say_panic));
    tracing_subscriber::fmt()
        .with_env_filter(filter())
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .with_writer(move || Line(Arc::clone(&error)))
        .compact()
        .init();
    Ok(())
}

/// The queue of standard error, if there is one.
pub(crate) fn error() -> Option<&'static LineQueue> {
    QUEUES.get().map(|queues| queues.error.as_ref())
}

/// The queue of standard output, if there is one.
pub(crate) fn output() -> Option<&'static LineQueue> {
    QUEUES.get().map(|queues| queues.output.as_ref())
}

/// Counts lines that were lost because a stream did not take them.
pub(crate) fn dropped_lines() -> Arc<AtomicU64> {
    QUEUES.get().map(|queues| Arc::clone(&queues.dropped)).unwrap_or_default()
}

/// Lets the last lines out, as far as somebody takes them. Called at the end of the process.
pub(crate) fn finish() {
    flush(LAST_WORDS);
}

/// Lets lines out before something else is drawn on the terminal.
pub(crate) fn settle() {
    flush(MOMENT);
}

fn flush(patience: Duration) {
    if let Some(queues) = QUEUES.get() {
        queues.error.flush(patience);
        queues.output.flush(patience);
    }
}

impl Queues {
    fn start() -> std::io::Result<Self> {
        let dropped = Arc::<AtomicU64>::default();
        let queue = |stream: std::os::fd::BorrowedFd<'_>| {
            LineQueue::start(File::from(stream.try_clone_to_owned()?), Arc::clone(&dropped))
        };
        let error = queue(std::io::stderr().as_fd())?;
        let output = queue(std::io::stdout().as_fd())?;
        Ok(Self { error, output, dropped })
    }
}

/// What `OCTET_LOG` chooses, else vLLM's variable.
fn filter() -> EnvFilter {
    let named = |name| Some((name, environment::variable(name)?));
    let (name, text) = named(VARIABLE).or_else(|| named(VLLM_VARIABLE)).unwrap_or((VARIABLE, String::new()));
    let text = if name == VLLM_VARIABLE { level(&text).to_owned() } else { text };
    let builder = EnvFilter::builder().with_default_directive(tracing::Level::INFO.into());
    builder.parse(&text).unwrap_or_else(|error| {
        report::line(format_args!(
            "warning: {name} is {text:?} ({error}), expected warn, info, debug or the like; info is used"
        ));
        EnvFilter::new("info")
    })
}

/// A level of Python's as one of ours.
fn level(python: &str) -> &str {
    match python.trim().to_ascii_uppercase().as_str() {
        "CRITICAL" | "FATAL" | "ERROR" => "error",
        "WARNING" | "WARN" => "warn",
        "INFO" => "info",
        "DEBUG" => "debug",
        "NOTSET" => "trace",
        _ => python,
    }
}

/// The words of the standard hook, which would block or panic again where standard error does not take them.
fn say_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let mut text = format!("thread '{}' {panic}\n", thread.name().unwrap_or("<unnamed>"));
    let trace = std::backtrace::Backtrace::capture();
    if trace.status() == std::backtrace::BacktraceStatus::Captured {
        text.push_str(&format!("{trace}\n"));
    }
    if let Some(queue) = error() {
        queue.push(text.as_bytes());
        queue.flush(MOMENT);
    }
}

/// One line of the log under construction: the subscriber writes each in one piece.
struct Line(Arc<LineQueue>);

impl std::io::Write for Line {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
