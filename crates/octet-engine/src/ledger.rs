//! An account for every request: who listens, when its stages were passed, and that it ends exactly once.

use std::collections::HashMap;
use std::time::Duration;

use crate::request::{Delivery, Event, EventSink, Finish, Finished, RequestId, RequestTiming};

/// Blocks lent to a sequence and taken back. Both only grow; a closed account must have them equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BlockTally {
    lent: u64,
    returned: u64,
}

impl BlockTally {
    /// A block goes to the sequence.
    pub(crate) fn lend(&mut self) {
        self.lent += 1;
    }

    /// A block comes back.
    pub(crate) fn take_back(&mut self) {
        self.returned += 1;
        assert!(self.returned <= self.lent, "a sequence returned a block that it did not have");
    }

    /// Blocks that the sequence has.
    pub(crate) const fn outstanding(self) -> u64 {
        self.lent - self.returned
    }
}

struct Account {
    sink: Box<dyn EventSink>,
    arrival: Duration,
    first_scheduled: Option<Duration>,
    first_token: Option<Duration>,
    last_token: Option<Duration>,
}

impl Account {
    fn timing(&self, now: Duration) -> RequestTiming {
        let scheduled = self.first_scheduled.unwrap_or(now);
        let first_token = self.first_token.unwrap_or(now);
        let last_token = self.last_token.unwrap_or(first_token);
        RequestTiming {
            queued: scheduled.saturating_sub(self.arrival),
            prefill: self.first_scheduled.map_or(Duration::ZERO, |start| first_token.saturating_sub(start)),
            decode: last_token.saturating_sub(first_token),
        }
    }
}

/// The open accounts. An end event closes its account, and there is no other way to send one, so no request ends
/// twice; the engine asserts that no account is left without a sequence.
#[derive(Default)]
pub(crate) struct Ledger {
    accounts: HashMap<RequestId, Account>,
}

impl Ledger {
    /// Open accounts.
    pub(crate) fn len(&self) -> usize {
        self.accounts.len()
    }

    /// Whether the request has an account.
    pub(crate) fn is_open(&self, id: RequestId) -> bool {
        self.accounts.contains_key(&id)
    }

    /// Opens an account.
    pub(crate) fn open(&mut self, id: RequestId, sink: Box<dyn EventSink>, arrival: Duration) {
        let account = Account { sink, arrival, first_scheduled: None, first_token: None, last_token: None };
        let former = self.accounts.insert(id, account);
        assert!(former.is_none(), "request {} has an account already", id.0);
    }

    /// Books the first scheduling and reports it.
    pub(crate) fn start(&mut self, id: RequestId, cached_tokens: usize, now: Duration) -> Delivery {
        let account = self.account(id);
        let former = account.first_scheduled.replace(now);
        assert!(former.is_none(), "request {} starts for the first time once", id.0);
        account.sink.deliver(Event::Started { cached_tokens })
    }

    /// Delivers an event in the middle of a request's life, and books it if it is a token.
    pub(crate) fn deliver(&mut self, id: RequestId, event: Event, now: Duration) -> Delivery {
        let account = self.account(id);
        match &event {
            Event::Token { .. } => {
                account.first_token.get_or_insert(now);
                account.last_token = Some(now);
            }
            Event::Finished(_) | Event::Failed(_) => unreachable!("an end closes the account"),
            Event::Started { .. } | Event::PromptLogprobs(_) | Event::Pooled(_) => {}
        }
        account.sink.deliver(event)
    }

    /// Ends a request in order.
    pub(crate) fn finish(&mut self, id: RequestId, finish: Finish, now: Duration) {
        let mut account = self.close(id);
        let timing = account.timing(now);
        // Whether anybody listens makes no difference at the end.
        let _ = account.sink.deliver(Event::Finished(Finished { finish, timing }));
    }

    /// Ends a request by a fault.
    pub(crate) fn fail(&mut self, id: RequestId, fault: crate::request::RequestFault) {
        let _ = self.close(id).sink.deliver(Event::Failed(fault));
    }

    /// Ids of the open accounts, lowest first.
    pub(crate) fn ids(&self) -> Vec<RequestId> {
        let mut ids: Vec<RequestId> = self.accounts.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    fn account(&mut self, id: RequestId) -> &mut Account {
        self.accounts.get_mut(&id).unwrap_or_else(|| panic!("request {} has no account", id.0))
    }

    fn close(&mut self, id: RequestId) -> Account {
        self.accounts.remove(&id).unwrap_or_else(|| panic!("request {} ends a second time", id.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::FinishReason;

    struct Deaf;

    impl EventSink for Deaf {
        fn deliver(&mut self, _: Event) -> Delivery {
            Delivery::Taken
        }
    }

    #[test]
    #[should_panic(expected = "ends a second time")]
    fn a_second_end_is_caught() {
        let mut ledger = Ledger::default();
        ledger.open(RequestId(1), Box::new(Deaf), Duration::ZERO);
        ledger.finish(RequestId(1), Finish::by(FinishReason::Stop), Duration::ZERO);
        ledger.finish(RequestId(1), Finish::by(FinishReason::Stop), Duration::ZERO);
    }

    #[test]
    #[should_panic(expected = "did not have")]
    fn a_block_too_many_is_caught() {
        let mut tally = BlockTally::default();
        tally.lend();
        tally.take_back();
        tally.take_back();
    }

    #[test]
    fn stages_are_measured_between_their_ends() {
        let at = Duration::from_secs;
        let mut account = Account {
            sink: Box::new(Deaf),
            arrival: at(1),
            first_scheduled: None,
            first_token: None,
            last_token: None,
        };
        assert_eq!(account.timing(at(4)).queued, at(3));
        account.first_scheduled = Some(at(5));
        account.first_token = Some(at(8));
        account.last_token = Some(at(20));
        let expected = RequestTiming { queued: at(4), prefill: at(3), decode: at(12) };
        assert_eq!(account.timing(at(30)), expected);
    }
}
