//! Reads the frames of one connection.

use super::{Budget, Class, Inbound, MAX_FRAME_BYTES, Shared, peers::Peer};
use bytes::BytesMut;
use cretoai_types::NodeId;
use quinn::{Connection, ReadExactError, RecvStream};
use std::sync::Arc;
use tokio::{sync::Semaphore, task::JoinSet};

/// Why a peer's connection is closed by us.
pub(super) enum Violation {
    /// The stream or the connection ended by itself.
    Ended,
    /// The peer broke this rule.
    Broke { rule: &'static str, detail: String },
}

/// Hands over what comes on the connection's streams, one of each allowed class, until it ends.
/// `first` came already.
pub(super) async fn streams(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    connection: &Connection,
    allowed: &'static [Class],
    first: Option<RecvStream>,
) -> Violation {
    let mut readers = JoinSet::new();
    if let Some(first) = first {
        readers.spawn(first_byte(peer.clone(), allowed, first));
    }
    let mut seen = [false; 3];
    loop {
        tokio::select! {
            stream = connection.accept_uni() => match stream {
                // QUIC itself allows no more than one stream per class at a time.
                Ok(stream) => drop(readers.spawn(first_byte(peer.clone(), allowed, stream))),
                Err(_) => return Violation::Ended,
            },
            Some(ended) = readers.join_next() => match ended {
                Ok(Read::Opened { class, stream, budget }) => {
                    if std::mem::replace(seen.get_mut(class.index()).unwrap_or(&mut false), true) {
                        return Violation::Broke { rule: "stream", detail: format!("a second stream for {}", class.label()) };
                    }
                    readers.spawn(frames(shared.clone(), peer.id, class, stream, budget));
                }
                Ok(Read::Closed(violation)) => return violation,
                Err(_) => return Violation::Ended,
            },
        }
    }
}

/// What a reader task ends with.
enum Read {
    Opened { class: Class, stream: RecvStream, budget: Arc<Semaphore> },
    Closed(Violation),
}

/// The first byte of a stream.
async fn first_byte(peer: Arc<Peer>, allowed: &'static [Class], mut stream: RecvStream) -> Read {
    let mut byte = [0];
    if stream.read_exact(&mut byte).await.is_err() {
        return Read::Closed(Violation::Ended);
    }
    let [byte] = byte;
    let class = Class::from_byte(byte).filter(|class| allowed.contains(class));
    let budget = class.and_then(|class| peer.budgets.get(class.index()).cloned());
    match class.zip(budget) {
        Some((class, budget)) => Read::Opened { class, stream, budget },
        None => Read::Closed(Violation::Broke {
            rule: "stream",
            detail: format!("a stream of unknown class {byte}"),
        }),
    }
}

/// All further frames of a stream.
async fn frames(
    shared: Arc<Shared>,
    from: NodeId,
    class: Class,
    mut stream: RecvStream,
    budget: Arc<Semaphore>,
) -> Read {
    loop {
        let mut length = [0; 4];
        match stream.read_exact(&mut length).await {
            Ok(()) => {}
            Err(ReadExactError::FinishedEarly(_) | ReadExactError::ReadError(_)) => {
                return Read::Closed(Violation::Ended);
            }
        }
        let length = u32::from_be_bytes(length) as usize;
        if length == 0 || length > MAX_FRAME_BYTES {
            let detail = format!(
                "a {} frame of {length} bytes; 1 to {MAX_FRAME_BYTES} are allowed",
                class.label()
            );
            return Read::Closed(Violation::Broke { rule: "frame_size", detail });
        }
        // One KiB for the bookkeeping, so that many small frames are bounded as well.
        let kib = u32::try_from(1 + length / 1024).unwrap_or(u32::MAX);
        let Ok(permit) = budget.clone().acquire_many_owned(kib).await else {
            return Read::Closed(Violation::Ended);
        };
        let mut frame = BytesMut::zeroed(length);
        if stream.read_exact(&mut frame).await.is_err() {
            return Read::Closed(Violation::Ended);
        }
        shared.metrics.received_from(from, length as u64);
        (shared.inbound)(Inbound::Frame { from, frame: frame.freeze(), budget: Budget(permit) });
    }
}
