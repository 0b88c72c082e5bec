//! What the engine's thread waits for, and the queue in which it does.
//!
//! The rule: no peer delays another. Each has a line of its own for votes and one for the rest, and
//! the lines are served in turn, votes more often. How much a peer may have in its lines is bounded
//! by its budget in the transport, which is given back with each event.

use super::fair::Fair;
use crate::{sync::lock, transport::Budget};
use cretoai_consensus::{Message, Urgency};
use cretoai_types::{NodeId, Payload, SignedReconfig};
use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// An event.
pub(super) enum Event {
    /// A peer's message.
    Message {
        from: NodeId,
        message: Message,
        _budget: Budget,
    },
    Connected(NodeId),
    /// What the network measured of the way to a peer and back.
    RoundTrip(NodeId, Duration),
    Submit(Payload),
    Reconfigure(Box<SignedReconfig>),
    /// Another node should lead.
    Resign,
    Stop,
}

#[derive(Clone, Copy)]
enum Lane {
    Votes,
    Rest,
    Local,
}

/// In this order the lanes are asked, each for one event.
const TURNS: [Lane; 6] =
    [Lane::Votes, Lane::Votes, Lane::Local, Lane::Votes, Lane::Votes, Lane::Rest];

#[derive(Default)]
struct Lanes {
    votes: Fair<Event>,
    rest: Fair<Event>,
    local: VecDeque<Event>,
    turn: usize,
    closed: bool,
}

impl Lanes {
    fn pop(&mut self) -> Option<Event> {
        for _ in 0..TURNS.len() {
            let lane = TURNS.get(self.turn).copied().unwrap_or(Lane::Local);
            self.turn = (self.turn + 1) % TURNS.len();
            let event = match lane {
                Lane::Votes => self.votes.pop().map(|(_, event)| event),
                Lane::Rest => self.rest.pop().map(|(_, event)| event),
                Lane::Local => self.local.pop_front(),
            };
            if event.is_some() {
                return event;
            }
        }
        None
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Events {
    lanes: Mutex<Lanes>,
    filled: Condvar,
}

impl Events {
    /// Queues an event. False once the engine's thread has ended.
    pub(super) fn push(&self, event: Event) -> bool {
        let mut lanes = lock(&self.lanes);
        if lanes.closed {
            return false;
        }
        match event {
            Event::Message { from, ref message, .. } => match message.urgency() {
                Urgency::Vote => lanes.votes.push(from, event),
                Urgency::Data | Urgency::Bulk => lanes.rest.push(from, event),
            },
            event => lanes.local.push_back(event),
        }
        drop(lanes);
        self.filled.notify_one();
        true
    }

    /// The next event, if one comes in time.
    pub(super) fn wait(&self, limit: Duration) -> Option<Event> {
        let until = Instant::now() + limit;
        let mut lanes = lock(&self.lanes);
        loop {
            if let Some(event) = lanes.pop() {
                return Some(event);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            (lanes, _) =
                self.filled.wait_timeout(lanes, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The next event, if one is there.
    pub(super) fn take(&self) -> Option<Event> {
        lock(&self.lanes).pop()
    }

    /// Drops what a peer sent.
    pub(super) fn forget(&self, peer: NodeId) {
        let mut lanes = lock(&self.lanes);
        lanes.votes.forget(peer);
        lanes.rest.forget(peer);
    }

    /// How many events wait.
    pub(super) fn len(&self) -> usize {
        let lanes = lock(&self.lanes);
        lanes.votes.len() + lanes.rest.len() + lanes.local.len()
    }

    /// Takes no more events, and forgets those that wait.
    pub(super) fn close(&self) {
        let forgotten =
            std::mem::replace(&mut *lock(&self.lanes), Lanes { closed: true, ..Lanes::default() });
        drop(forgotten);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use cretoai_types::{Epoch, Sequence};
    use std::sync::Arc;
    use tokio::sync::Semaphore;

    fn message(from: u32, message: Message, budget: &Arc<Semaphore>) -> Event {
        let permit = Arc::clone(budget).try_acquire_many_owned(1).unwrap();
        Event::Message { from: NodeId(from), message, _budget: Budget::of(permit) }
    }

    /// Each of another urgency, as the message itself says.
    fn vote() -> Message {
        let vote = Message::FetchRecords { epoch: Epoch(0), from: Sequence(1) };
        assert_eq!(vote.urgency(), Urgency::Vote);
        vote
    }

    #[test]
    fn votes_of_others_pass_a_flood_and_nothing_starves() {
        let budget = Arc::new(Semaphore::new(4_000));
        let events = Events::default();
        for _ in 0..3_000 {
            events.push(message(1, vote(), &budget));
        }
        events.push(message(2, vote(), &budget));
        events.push(Event::Connected(NodeId(9)));
        let mut came = vec![];
        for _ in 0..6 {
            match events.take() {
                Some(Event::Message { from, .. }) => came.push(from.0),
                Some(Event::Connected(peer)) => came.push(peer.0),
                _ => panic!("nothing came"),
            }
        }
        assert!(came.contains(&2) && came.contains(&9), "{came:?}");
        assert_eq!(events.len(), 2_996);
        // A closed queue gives the budgets back.
        events.close();
        assert_eq!(budget.available_permits(), 4_000);
        assert!(!events.push(Event::Resign));
        assert!(events.wait(Duration::from_millis(1)).is_none());
    }
}
