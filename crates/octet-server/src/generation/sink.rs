//! From the engine's thread to the request's task: an event is stamped and pushed, nothing more.

use std::time::Instant;

use octet_engine::{Delivery, Event, EventSink};
use tokio::sync::mpsc::UnboundedSender;

/// An event, with the sequence it belongs to and the time at which the engine had it. The stamp is taken on the
/// engine's side: a slow client must not show as a slow engine.
#[derive(Debug)]
pub(super) struct Stamped {
    pub(super) sequence: usize,
    pub(super) at: Instant,
    pub(super) event: Event,
}

/// Pushes events of one sequence. The channel has no bound of its own: a sequence has at most as many events as
/// tokens, and a receiver that is gone ends it.
pub(super) struct ChannelSink {
    sequence: usize,
    events: UnboundedSender<Stamped>,
}

impl ChannelSink {
    pub(super) fn new(sequence: usize, events: UnboundedSender<Stamped>) -> Self {
        Self { sequence, events }
    }
}

impl EventSink for ChannelSink {
    fn deliver(&mut self, event: Event) -> Delivery {
        let stamped = Stamped { sequence: self.sequence, at: Instant::now(), event };
        match self.events.send(stamped) {
            Ok(()) => Delivery::Taken,
            Err(_) => Delivery::Gone,
        }
    }
}
