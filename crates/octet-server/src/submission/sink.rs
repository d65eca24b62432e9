//! From the engine's thread to the request's task: an event is stamped and pushed, nothing more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use octet_engine::{Delivery, Event, EventSink};
use octet_sample::PositionLogprobs;
use tokio::sync::mpsc::UnboundedSender;

/// An event, with the sequence it belongs to and the time at which the engine had it. The stamp is taken on the
/// engine's side: a slow client must not show as a slow engine.
#[derive(Debug)]
pub(crate) struct Stamped {
    pub(crate) sequence: usize,
    pub(crate) at: Instant,
    pub(crate) event: Event,
}

/// Bytes of events that may wait for the client of one request. Whole answers are taken as they come; only a stream
/// that nobody reads gets here.
const QUEUE_BYTES: usize = 8 << 20;

/// What waits between the engine and a request's task.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    bytes: AtomicUsize,
    overflowed: AtomicBool,
}

impl Backlog {
    /// Whether there is room for more. Once there was none, there is none again: a stream with a gap is worse than one
    /// with an end.
    fn add(&self, event: &Event) -> bool {
        let waiting = self.bytes.fetch_add(size(event), Ordering::Relaxed);
        if waiting > QUEUE_BYTES {
            self.overflowed.store(true, Ordering::Relaxed);
        }
        !self.overflowed.load(Ordering::Relaxed)
    }

    /// An event was taken.
    pub(crate) fn remove(&self, event: &Event) {
        self.bytes.fetch_sub(size(event), Ordering::Relaxed);
    }

    /// The bytes that were too many, if they were.
    pub(crate) fn overflow(&self) -> Option<usize> {
        self.overflowed.load(Ordering::Relaxed).then_some(QUEUE_BYTES)
    }
}

/// Bytes of an event, about.
fn size(event: &Event) -> usize {
    let position = |logprobs: &PositionLogprobs| size_of_val(logprobs) + size_of_val(logprobs.top.as_slice());
    let further = match event {
        Event::Token { token, .. } => token.logprobs.as_ref().map_or(0, position),
        Event::PromptLogprobs(logprobs) => logprobs.iter().map(position).sum(),
        Event::Pooled(vector) => size_of_val(vector.as_slice()),
        _ => 0,
    };
    size_of::<Stamped>() + further
}

/// Pushes events of one sequence, as long as they are taken; a receiver that is gone ends it, and so does one that falls
/// too far behind.
pub(crate) struct ChannelSink {
    sequence: usize,
    events: UnboundedSender<Stamped>,
    backlog: Arc<Backlog>,
}

impl ChannelSink {
    pub(crate) fn new(sequence: usize, events: UnboundedSender<Stamped>, backlog: Arc<Backlog>) -> Self {
        Self { sequence, events, backlog }
    }
}

impl EventSink for ChannelSink {
    fn deliver(&mut self, event: Event) -> Delivery {
        if !self.backlog.add(&event) {
            return Delivery::Gone;
        }
        let stamped = Stamped { sequence: self.sequence, at: Instant::now(), event };
        match self.events.send(stamped) {
            Ok(()) => Delivery::Taken,
            Err(_) => Delivery::Gone,
        }
    }
}

#[cfg(test)]
mod tests {
    use octet_sample::SampledToken;
    use tokio::sync::mpsc;

    use super::*;

    #[test]
    fn a_sequence_that_nobody_takes_from_ends_and_stays_ended() {
        let token = || Event::Token { token: SampledToken { token: 1, logprobs: None }, finish: None };
        let (sender, mut events) = mpsc::unbounded_channel();
        let backlog = Arc::<Backlog>::default();
        let mut sink = ChannelSink::new(0, sender, Arc::clone(&backlog));
        let most = 2 * QUEUE_BYTES / size_of::<Stamped>();
        let delivered = (0..most).take_while(|_| sink.deliver(token()) == Delivery::Taken).count();
        assert_eq!(delivered, QUEUE_BYTES / size_of::<Stamped>() + 1);
        assert_eq!(backlog.overflow(), Some(QUEUE_BYTES));
        while let Ok(Stamped { event, .. }) = events.try_recv() {
            backlog.remove(&event);
        }
        assert_eq!(sink.deliver(token()), Delivery::Gone);
    }

    #[test]
    fn whoever_keeps_up_is_never_ended() {
        let (sender, mut events) = mpsc::unbounded_channel();
        let backlog = Arc::<Backlog>::default();
        let mut sink = ChannelSink::new(0, sender, Arc::clone(&backlog));
        for _ in 0..2 * QUEUE_BYTES / size_of::<Stamped>() {
            let token = SampledToken { token: 1, logprobs: None };
            assert_eq!(sink.deliver(Event::Token { token, finish: None }), Delivery::Taken);
            backlog.remove(&events.try_recv().unwrap().event);
        }
        assert_eq!(backlog.overflow(), None);
    }
}
