//! Answers peers' fetches from the store, on a thread of its own: a laggard must never slow down a
//! vote.

use crate::{
    storage::Storage,
    transport::{Transport, is_guest},
};
use bytes::Bytes;
use cretoai_consensus::Message;
use cretoai_types::{NodeId, encode};
use std::{
    collections::HashMap,
    io,
    sync::{Arc, Weak, mpsc},
    time::{Duration, Instant},
};

/// How many requests may wait; more are dropped, and asked again elsewhere.
pub(super) const MAX_WAITING: usize = 64;

/// Bytes a second that one peer may fetch.
const RATE: u64 = 32 << 20;

/// What a request costs beside its answer: the reads that it makes, even when they find nothing.
const REQUEST_COST: i64 = 64 << 10;

/// A guest's bytes count so many times.
const GUEST_FACTOR: i64 = 4;

/// Peers whose use is remembered. Guests come and go with new numbers.
const MAX_BUCKETS: usize = 64;

/// What a peer asks for: [`Message::FetchRecords`], [`Message::FetchLane`] or
/// [`Message::FetchBranch`].
pub(super) struct Request {
    pub(super) from: NodeId,
    pub(super) message: Message,
}

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

/// Starts the thread. It ends when nobody can ask any more, which is when the transport is gone:
/// the thread must not keep it.
pub(super) fn spawn(
    requests: mpsc::Receiver<Request>,
    storage: Arc<Storage>,
    transport: Weak<Transport>,
    #[cfg(feature = "byzantine")] attack: Option<Arc<crate::byzantine::Attack>>,
    #[cfg(feature = "byzantine")] validators: Arc<cretoai_types::Validators>,
) -> io::Result<()> {
    std::thread::Builder::new().name("creto-serve".into()).spawn(move || {
        let mut buckets: HashMap<NodeId, Bucket> = HashMap::new();
        for Request { from, message } in requests {
            let Some(transport) = transport.upgrade() else { break };
            if buckets.len() >= MAX_BUCKETS {
                // Whoever asked for nothing in a second has a full bucket again.
                buckets.retain(|_, bucket| bucket.filled.elapsed() < Duration::from_secs(1));
            }
            let factor = if is_guest(from) { GUEST_FACTOR } else { 1 };
            let bucket = buckets.entry(from).or_insert_with(Bucket::full);
            bucket.refill();
            if bucket.bytes <= 0 {
                continue;
            }
            bucket.bytes -= REQUEST_COST * factor;
            let answers = answer(&storage, &message);
            #[cfg(feature = "byzantine")]
            let answers = match &attack {
                Some(attack) => attack.lie(&validators, from, answers),
                None => answers,
            };
            for answer in answers {
                let frame = Bytes::from(encode(&answer));
                bucket.bytes -= frame.len() as i64 * factor;
                transport.send(from, answer.urgency().into(), frame);
            }
        }
    })?;
    Ok(())
}

fn answer(storage: &Storage, request: &Message) -> Vec<Message> {
    let found = match request {
        Message::FetchRecords { epoch, from } => {
            storage.records(*epoch, *from).map(|records| records.into_iter().collect())
        }
        Message::FetchLane { author, above, up_to } => storage.lane(*author, *above, *up_to),
        Message::FetchBranch { author, tip, above } => storage.branch(*author, *tip, *above),
        _ => return Vec::new(),
    };
    found.unwrap_or_else(|error| {
        tracing::error!(%error, "a peer's fetch cannot be answered");
        Vec::new()
    })
}
