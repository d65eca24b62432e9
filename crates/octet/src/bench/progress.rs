//! What sequences that run in this process have done so far: the benchmarks' side of the engine's events.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, bail};
use octet_engine::{Delivery, Event, EventSink, FinishReason};

/// What the sinks of some sequences have seen.
pub(super) struct Progress {
    /// By sequence.
    generated: Vec<AtomicUsize>,
    /// Prompt tokens found in the prefix cache.
    cached: AtomicUsize,
    /// The first end that was not by length.
    fault: Mutex<Option<String>>,
}

impl Progress {
    /// Of sequences of which none has begun.
    pub(super) fn new(sequences: usize) -> Self {
        let generated = (0..sequences).map(|_| AtomicUsize::new(0)).collect();
        Self { generated, cached: AtomicUsize::new(0), fault: Mutex::new(None) }
    }

    /// Where the events of one of them go.
    pub(super) fn sink(self: &Arc<Self>, index: usize) -> Box<dyn EventSink> {
        Box::new(Sink { progress: Arc::clone(self), index })
    }

    /// Tokens generated, by sequence.
    pub(super) fn counts(&self) -> impl Iterator<Item = usize> {
        self.generated.iter().map(|count| count.load(Ordering::Relaxed))
    }

    /// Sequences that have their first token.
    pub(super) fn started(&self) -> usize {
        self.counts().filter(|count| *count > 0).count()
    }

    /// Prompt tokens found in the prefix cache, of all sequences.
    pub(super) fn cached(&self) -> usize {
        self.cached.load(Ordering::Relaxed)
    }

    /// Checks that each sequence has as many tokens as `wanted` says for it.
    ///
    /// # Errors
    /// One ended by a fault, or early.
    pub(super) fn check(&self, wanted: impl Fn(usize) -> usize) -> Result<()> {
        if let Some(fault) = self.fault.lock().unwrap_or_else(PoisonError::into_inner).take() {
            bail!("a sequence of the benchmark ended early: {fault}");
        }
        if let Some((index, count)) =
            self.counts().enumerate().find(|(index, count)| *count != wanted(*index))
        {
            bail!("a sequence of the benchmark ended after {count} of {} tokens", wanted(index));
        }
        Ok(())
    }
}

struct Sink {
    progress: Arc<Progress>,
    index: usize,
}

impl EventSink for Sink {
    fn deliver(&mut self, event: Event) -> Delivery {
        let fault = match event {
            Event::Started { cached_tokens } => {
                self.progress.cached.fetch_add(cached_tokens, Ordering::Relaxed);
                None
            }
            Event::Token { .. } => {
                self.progress.generated[self.index].fetch_add(1, Ordering::Relaxed);
                None
            }
            Event::PromptLogprobs(_) | Event::Pooled(_) => None,
            Event::Finished(finished) => {
                let reason = finished.finish.reason;
                (reason != FinishReason::Length).then(|| format!("{reason:?}"))
            }
            Event::Failed(fault) => Some(fault.to_string()),
        };
        if fault.is_some() {
            let mut first = self.progress.fault.lock().unwrap_or_else(PoisonError::into_inner);
            *first = first.take().or(fault);
        }
        Delivery::Taken
    }
}
