//! Accepts members' connections and reads their frames.

use super::{
    Budget, Class, Inbound, MAX_FRAME_BYTES, Shared,
    dial::member_of,
    lock,
    quic::{CLOSE_SUPERFLUOUS, CLOSE_VIOLATION},
};
use crate::metrics::Port;
use bytes::BytesMut;
use cretoai_consensus::NodeId;
use cretoai_control::tls::refusal_of_alert;
use quinn::{Connection, ConnectionError, Incoming, ReadExactError, RecvStream};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};

/// Handshakes in progress: each costs a signature and two verifications before it is known who asks.
const MAX_HANDSHAKES: usize = 64;
/// From here on, whoever asks must first show that packets reach the address that it claims (RFC 9000, 8.1.2).
const VALIDATE_FROM: usize = 16;
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(3);

pub(super) async fn run(shared: Arc<Shared>, endpoint: quinn::Endpoint) {
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    let mut connections = JoinSet::new();
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            Some(_) = connections.join_next() => continue,
            () = shared.closed() => break,
        };
        let Some(incoming) = incoming else { break };
        let in_progress = MAX_HANDSHAKES - handshakes.available_permits();
        if in_progress >= VALIDATE_FROM && !incoming.remote_address_validated() && incoming.may_retry() {
            if let Err(error) = incoming.retry() {
                error.into_incoming().ignore();
            }
            continue;
        }
        match handshakes.clone().try_acquire_owned() {
            Ok(permit) => {
                connections.spawn(serve(shared.clone(), incoming, permit));
            }
            Err(_) => {
                shared.metrics.refused(Port::Quic, "busy");
                incoming.refuse();
            }
        }
    }
    // Dropping the set ends the readers; the endpoint closes the connections.
}

async fn serve(shared: Arc<Shared>, incoming: Incoming, permit: OwnedSemaphorePermit) {
    let address = incoming.remote_address();
    let handshake = async { incoming.accept()?.await };
    let refused = match tokio::time::timeout(HANDSHAKE_LIMIT, handshake).await {
        Ok(Ok(connection)) => {
            drop(permit);
            return receive(&shared, connection).await;
        }
        Ok(Err(error)) => refusal_of(&error),
        Err(_) => "timeout",
    };
    shared.metrics.refused(Port::Quic, refused);
    tracing::debug!(%address, reason = refused, "refused a connection");
}

/// A fixed word for why a handshake did not complete.
fn refusal_of(error: &ConnectionError) -> &'static str {
    match error {
        ConnectionError::TransportError(error) => {
            // RFC 9001, 4.8: a TLS alert is the error code 0x100 plus the alert.
            let code = u64::from(error.code);
            match u8::try_from(code.wrapping_sub(0x100)) {
                Ok(alert) => refusal_of_alert(alert),
                Err(_) => "handshake",
            }
        }
        ConnectionError::VersionMismatch => "incompatible",
        ConnectionError::TimedOut => "timeout",
        ConnectionError::ConnectionClosed(_) | ConnectionError::ApplicationClosed(_) | ConnectionError::Reset => "refused_by_peer",
        _ => "handshake",
    }
}

/// Why a member's connection is closed by us.
enum Violation {
    /// The stream or the connection ended by itself.
    Ended,
    /// The member broke this rule.
    Broke { rule: &'static str, detail: String },
}

async fn receive(shared: &Arc<Shared>, connection: Connection) {
    let Some(id) = member_of(shared, &connection) else {
        // The verifier admits members only, so this is a change of members between two looks.
        connection.close(CLOSE_VIOLATION, b"not a member");
        return shared.metrics.refused(Port::Quic, "unknown_key");
    };
    let Some(peer) = shared.peers.get(&id) else {
        return connection.close(CLOSE_SUPERFLUOUS, b"this is myself");
    };
    if let Some(older) = lock(&peer.accepted).replace(connection.clone()) {
        older.close(CLOSE_SUPERFLUOUS, b"replaced by a newer connection");
    }
    let _guard = Registration { shared, id, connection: &connection };
    shared.metrics.quic_connections.inc();
    if lock(&peer.outgoing).is_none() {
        shared.wake.notify_waiters();
    }
    let mut readers = JoinSet::new();
    let mut seen = [false; 3];
    let violation = loop {
        tokio::select! {
            stream = connection.accept_uni() => match stream {
                // QUIC itself allows no more than one stream per class at a time.
                Ok(stream) => drop(readers.spawn(read(shared.clone(), id, stream))),
                Err(_) => break Violation::Ended,
            },
            Some(ended) = readers.join_next() => match ended {
                Ok(Read::Opened { class, stream, budget }) => {
                    if std::mem::replace(seen.get_mut(class.index()).unwrap_or(&mut false), true) {
                        break Violation::Broke { rule: "stream", detail: format!("a second stream for {}", class.label()) };
                    }
                    readers.spawn(frames(shared.clone(), id, class, stream, budget));
                }
                Ok(Read::Closed(violation)) => break violation,
                Err(_) => break Violation::Ended,
            },
        }
    };
    match violation {
        Violation::Ended => {
            let reason = connection.close_reason().map(|r| r.to_string()).unwrap_or_default();
            connection.close(CLOSE_SUPERFLUOUS, b"a stream ended");
            tracing::debug!(peer = peer.name, reason, "a member's connection ended");
        }
        Violation::Broke { rule, detail } => {
            connection.close(CLOSE_VIOLATION, detail.as_bytes());
            shared.metrics.refused(Port::Quic, rule);
            tracing::warn!(peer = peer.name, detail, "closed a member's connection");
        }
    }
}

struct Registration<'a> {
    shared: &'a Shared,
    id: NodeId,
    connection: &'a Connection,
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        if let Some(peer) = self.shared.peers.get(&self.id) {
            lock(&peer.accepted).take_if(|current| current.stable_id() == self.connection.stable_id());
        }
        self.shared.metrics.quic_connections.dec();
    }
}

/// What a reader task ends with.
enum Read {
    Opened { class: Class, stream: RecvStream, budget: Arc<Semaphore> },
    Closed(Violation),
}

/// The first byte of a stream.
async fn read(shared: Arc<Shared>, id: NodeId, mut stream: RecvStream) -> Read {
    let mut byte = [0];
    if stream.read_exact(&mut byte).await.is_err() {
        return Read::Closed(Violation::Ended);
    }
    let [byte] = byte;
    let class = Class::from_byte(byte);
    let budget = class.and_then(|class| shared.peers.get(&id)?.budgets.get(class.index()).cloned());
    match class.zip(budget) {
        Some((class, budget)) => Read::Opened { class, stream, budget },
        None => Read::Closed(Violation::Broke { rule: "stream", detail: format!("a stream of unknown class {byte}") }),
    }
}

/// All further frames of a stream.
async fn frames(shared: Arc<Shared>, from: NodeId, class: Class, mut stream: RecvStream, budget: Arc<Semaphore>) -> Read {
    loop {
        let mut length = [0; 4];
        match stream.read_exact(&mut length).await {
            Ok(()) => {}
            Err(ReadExactError::FinishedEarly(_) | ReadExactError::ReadError(_)) => return Read::Closed(Violation::Ended),
        }
        let length = u32::from_be_bytes(length) as usize;
        if length == 0 || length > MAX_FRAME_BYTES {
            let detail = format!("a {} frame of {length} bytes; 1 to {MAX_FRAME_BYTES} are allowed", class.label());
            return Read::Closed(Violation::Broke { rule: "frame_size", detail });
        }
        // One KiB for the bookkeeping, so that many small frames are bounded as well.
        let kib = u32::try_from(1 + length / 1024).unwrap_or(u32::MAX);
        let Ok(permit) = budget.clone().acquire_many_owned(kib).await else { return Read::Closed(Violation::Ended) };
        let mut frame = BytesMut::zeroed(length);
        if stream.read_exact(&mut frame).await.is_err() {
            return Read::Closed(Violation::Ended);
        }
        shared.metrics.received_bytes.inc_by(length as u64);
        (shared.inbound)(Inbound::Frame { from, frame: frame.freeze(), budget: Budget(permit) });
    }
}
