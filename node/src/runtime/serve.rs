//! Answers peers' fetches from the store, on a thread of its own: a laggard must never slow down a
//! vote.
//!
//! The rule: no peer's fetches delay another's. Each has a line of its own, the lines are served in
//! turn, and a peer that used up its rate is not even queued.

use super::{fair::Fair, safety::or_stop, vitals::Vitals};
use crate::{
    storage::Storage,
    sync::lock,
    transport::{Transport, is_guest},
};
use bytes::Bytes;
use cretoai_consensus::Message;
use cretoai_types::{NodeId, encode};
use std::{
    collections::HashMap,
    io,
    sync::{Arc, Condvar, Mutex, PoisonError, Weak},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// How many requests of one peer may wait: a laggard asks for every lane at once.
const MAX_WAITING: usize = 32;

/// Bytes a second that one peer may fetch.
const RATE: u64 = 32 << 20;

/// What a request costs beside its answer: the reads that it makes, even when they find nothing.
const REQUEST_COST: i64 = 64 << 10;

/// A guest's bytes count so many times.
const GUEST_FACTOR: i64 = 4;

/// Peers whose use is remembered. Guests come and go with new numbers.
const MAX_BUCKETS: usize = 64;

/// A token bucket that holds one second of [`RATE`]. It may be overdrawn by one answer.
struct Bucket {
    bytes: i64,
    filled: Instant,
}

impl Bucket {
    fn full() -> Self {
        Self { bytes: RATE as i64, filled: Instant::now() }
    }

    fn refill(&mut self) {
        let elapsed = self.filled.elapsed().min(Duration::from_secs(1));
        self.filled = Instant::now();
        self.bytes = (self.bytes + (elapsed.as_secs_f64() * RATE as f64) as i64).min(RATE as i64);
    }
}

#[derive(Default)]
struct Waiting {
    requests: Fair<Message>,
    buckets: HashMap<NodeId, Bucket>,
    closed: bool,
}

impl Waiting {
    fn bucket(&mut self, peer: NodeId) -> &mut Bucket {
        if self.buckets.len() >= MAX_BUCKETS {
            // Whoever asked for nothing in a second has a full bucket again.
            self.buckets.retain(|_, bucket| bucket.filled.elapsed() < Duration::from_secs(1));
        }
        self.buckets.entry(peer).or_insert_with(Bucket::full)
    }
}

/// What peers ask for: [`Message::FetchRecords`], [`Message::FetchLane`] or
/// [`Message::FetchBranch`].
#[derive(Default)]
pub(super) struct Requests {
    waiting: Mutex<Waiting>,
    filled: Condvar,
}

impl Requests {
    /// Queues a request.
    ///
    /// # Errors
    /// A fixed word for why it is dropped; the laggard asks somebody else after a while.
    pub(super) fn push(&self, from: NodeId, request: Message) -> Result<(), &'static str> {
        let mut waiting = lock(&self.waiting);
        if waiting.closed {
            return Err("stopping");
        }
        let bucket = waiting.bucket(from);
        bucket.refill();
        if bucket.bytes <= 0 {
            return Err("rate");
        }
        if waiting.requests.of(from) >= MAX_WAITING {
            return Err("queue_full");
        }
        waiting.requests.push(from, request);
        drop(waiting);
        self.filled.notify_one();
        Ok(())
    }

    /// The next request, charged to its peer. Nothing when the queue is closed.
    fn next(&self) -> Option<(NodeId, Message)> {
        let mut waiting = lock(&self.waiting);
        loop {
            if waiting.closed {
                return None;
            }
            let Some((from, request)) = waiting.requests.pop() else {
                waiting = self.filled.wait(waiting).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let bucket = waiting.bucket(from);
            bucket.refill();
            if bucket.bytes > 0 {
                bucket.bytes -= REQUEST_COST * factor(from);
                return Some((from, request));
            }
        }
    }

    fn charge(&self, peer: NodeId, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let mut waiting = lock(&self.waiting);
        let bucket = waiting.bucket(peer);
        bucket.bytes = bucket.bytes.saturating_sub(bytes.saturating_mul(factor(peer)));
    }

    /// Takes no more requests, and ends the thread.
    pub(super) fn close(&self) {
        lock(&self.waiting).closed = true;
        self.filled.notify_all();
    }
}

const fn factor(peer: NodeId) -> i64 {
    if is_guest(peer) { GUEST_FACTOR } else { 1 }
}

/// Starts the thread. It ends when the requests are closed, and does not keep the transport.
pub(super) fn spawn(
    requests: Arc<Requests>,
    storage: Arc<Storage>,
    transport: Weak<Transport>,
    vitals: Arc<Vitals>,
    #[cfg(feature = "byzantine")] attack: Option<Arc<crate::byzantine::Attack>>,
    #[cfg(feature = "byzantine")] validators: Arc<cretoai_types::Validators>,
) -> io::Result<JoinHandle<()>> {
    let serve = move || {
        while let Some((from, message)) = requests.next() {
            let Some(transport) = transport.upgrade() else { break };
            let answers = answer(&storage, &vitals, &message);
            #[cfg(feature = "byzantine")]
            let answers = match &attack {
                Some(attack) => attack.lie(&validators, from, answers),
                None => answers,
            };
            for answer in answers {
                let frame = Bytes::from(encode(&answer));
                requests.charge(from, frame.len());
                transport.send(from, answer.urgency().into(), frame);
            }
        }
    };
    std::thread::Builder::new()
        .name("creto-serve".into())
        .spawn(move || or_stop("creto-serve", serve))
}

fn answer(storage: &Storage, vitals: &Vitals, request: &Message) -> Vec<Message> {
    let found = match request {
        Message::FetchRecords { epoch, from } => {
            storage.records(*epoch, *from).map(|records| records.into_iter().collect())
        }
        Message::FetchLane { author, above, up_to } => storage.lane(*author, *above, *up_to),
        Message::FetchBranch { author, tip, above } => storage.branch(*author, *tip, *above),
        _ => return Vec::new(),
    };
    found.unwrap_or_else(|error| {
        if error.is_damage() {
            vitals.damaged(&error.to_string());
        }
        tracing::debug!(%error, "a peer's fetch cannot be answered");
        Vec::new()
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use cretoai_types::{Epoch, Sequence};

    fn fetch(from: u64) -> Message {
        Message::FetchRecords { epoch: Epoch(0), from: Sequence(from) }
    }

    #[test]
    fn a_peer_that_asks_for_much_leaves_the_others_their_turn() {
        let requests = Requests::default();
        let taken = (0..1_000).filter(|n| requests.push(NodeId(1), fetch(*n)).is_ok()).count();
        assert_eq!(taken, MAX_WAITING);
        assert_eq!(requests.push(NodeId(1), fetch(0)), Err("queue_full"));
        requests.push(NodeId(2), fetch(7)).unwrap();
        let served: Vec<u32> = (0..2).map(|_| requests.next().unwrap().0.0).collect();
        assert_eq!(served, [1, 2]);
        // One that used up its rate is not queued, and the others are.
        requests.charge(NodeId(3), 64 << 20);
        assert_eq!(requests.push(NodeId(3), fetch(1)), Err("rate"));
        requests.push(NodeId(2), fetch(8)).unwrap();
        requests.close();
        assert_eq!(requests.push(NodeId(2), fetch(9)), Err("stopping"));
        assert!(requests.next().is_none());
    }
}
