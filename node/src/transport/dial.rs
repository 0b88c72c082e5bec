//! Dials one address for ever: a connection is made, used to send, and made again when it breaks.

use super::{
    Class, Inbound, Shared, lock,
    peers::{Peer, Who},
    queue::Outgoing,
    quic::{CLOSE_SUPERFLUOUS, CLOSE_VIOLATION, KEEP_ALIVE},
    read,
};
use crate::peer_address::PeerAddress;
use bytes::Bytes;
use cretoai_control::tls;
use cretoai_types::NodeId;
use quinn::{Connection, SendStream, WriteError};
use rand::Rng;
use rustls::pki_types::CertificateDer;
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// After meeting itself, or a member that another address reaches already.
const SUPERFLUOUS_PAUSE: Duration = Duration::from_secs(5);
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(3);
/// A connection that lasted this long was no accident.
const STABLE: Duration = Duration::from_secs(2);
const RTT_EVERY: Duration = Duration::from_secs(2);
/// A member whose address is known is dialled by it first.
const DIAL_BACK_AFTER: Duration = Duration::from_millis(500);
/// A live connection brings a packet in half of this time, also when nobody sends.
const SIGN_OF_LIFE: Duration = KEEP_ALIVE.saturating_mul(2);
/// How often the address of a live connection is looked up again.
const RESOLVE_AGAIN: Duration = Duration::from_secs(10);

/// How one attempt ended.
enum Ended {
    /// It is our own address, or a member that is already connected.
    Superfluous,
    /// No connection.
    Failed(String),
    /// There was one.
    Closed { reason: String, lasted: Duration },
}

pub(super) async fn run(shared: Arc<Shared>, endpoint: quinn::Endpoint, address: PeerAddress) {
    let mut pause = FIRST_PAUSE;
    let mut told = false;
    while !shared.is_closing() {
        let ended = tokio::select! {
            ended = attempt(&shared, &endpoint, &address) => ended,
            () = shared.closed() => break,
        };
        let wait = match ended {
            Ended::Superfluous => SUPERFLUOUS_PAUSE,
            Ended::Failed(reason) => {
                // Once in the open, then only for those who look closely: a missing peer is not
                // news every second.
                if std::mem::replace(&mut told, true) {
                    tracing::debug!(%address, reason, "still no connection");
                } else {
                    tracing::info!(%address, reason, "no connection yet, trying on");
                }
                pause
            }
            Ended::Closed { reason, lasted } => {
                tracing::info!(%address, reason, "connection lost");
                told = false;
                if lasted >= STABLE {
                    pause = FIRST_PAUSE;
                }
                pause
            }
        };
        pause = (pause * 2).min(LONGEST_PAUSE);
        let jitter = rand::rng().random_range(0.0..0.5);
        tokio::time::sleep(FIRST_PAUSE).await;
        tokio::select! {
            () = tokio::time::sleep(wait.saturating_sub(FIRST_PAUSE).mul_f64(1.0 + jitter)) => {}
            () = shared.wake.notified() => pause = FIRST_PAUSE,
            () = shared.closed() => break,
        }
    }
}

async fn attempt(shared: &Arc<Shared>, endpoint: &quinn::Endpoint, address: &PeerAddress) -> Ended {
    let targets = match address.resolve().await {
        Ok(targets) => targets,
        Err(error) => return Ended::Failed(format!("the name does not resolve: {error}")),
    };
    let Ok(local) = endpoint.local_addr() else {
        return Ended::Failed("the socket is gone".into());
    };
    let mut failure = "the name has no address of the kind that this node listens on".to_owned();
    for target in targets.into_iter().filter_map(|target| reachable_from(local, target)) {
        match connect(endpoint, target).await {
            Ok(connection) => return serve(shared, connection, Some(address), local).await,
            Err(reason) => failure = format!("{target}: {reason}"),
        }
    }
    Ended::Failed(failure)
}

/// An IPv6 socket reaches IPv4 by mapped addresses; an IPv4 socket does not reach IPv6.
fn reachable_from(local: SocketAddr, target: SocketAddr) -> Option<SocketAddr> {
    match (local, target) {
        (SocketAddr::V6(_), SocketAddr::V4(v4)) => {
            Some(SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()))
        }
        (SocketAddr::V4(_), SocketAddr::V6(_)) => None,
        _ => Some(target),
    }
}

async fn connect(endpoint: &quinn::Endpoint, target: SocketAddr) -> Result<Connection, String> {
    let connecting = endpoint.connect(target, "creto").map_err(|e| e.to_string())?;
    match tokio::time::timeout(HANDSHAKE_LIMIT, connecting).await {
        Ok(connected) => connected.map_err(|e| e.to_string()),
        Err(_) => Err(format!("no answer within {} s", HANDSHAKE_LIMIT.as_secs())),
    }
}

/// Who is at the other end, by the key that the handshake proved.
pub(super) fn who(shared: &Shared, connection: &Connection) -> Who {
    let shown = connection
        .peer_identity()
        .and_then(|shown| shown.downcast::<Vec<CertificateDer<'static>>>().ok());
    match shown.and_then(|shown| tls::peer_key(&shown)) {
        Some(key) => shared.peers.who(&key),
        None => Who::Stranger,
    }
}

/// Dials a member where its own connection comes from, as long as there is no other way to it. Ends
/// never.
pub(super) async fn back(
    shared: &Arc<Shared>,
    endpoint: &quinn::Endpoint,
    peer: &Arc<Peer>,
    address: SocketAddr,
) {
    let Ok(local) = endpoint.local_addr() else { return std::future::pending().await };
    loop {
        tokio::time::sleep(DIAL_BACK_AFTER).await;
        if peer.is_guest() || lock(&peer.outgoing).is_some() {
            continue;
        }
        let ended = match connect(endpoint, address).await {
            Ok(connection) => serve(shared, connection, None, local).await,
            Err(reason) => Ended::Failed(reason),
        };
        if let Ended::Failed(reason) | Ended::Closed { reason, .. } = ended {
            tracing::debug!(%address, reason, "dialled back a member");
        }
    }
}

/// Answers a guest on the connection that it dialled. Ends with that stream; for a member never.
pub(super) async fn answer_guest(shared: &Arc<Shared>, peer: &Arc<Peer>, connection: &Connection) {
    if !peer.is_guest() {
        return std::future::pending().await;
    }
    let opened = tokio::time::timeout(HANDSHAKE_LIMIT, open(connection, Class::Bulk)).await;
    let Ok(Ok(bulk)) = opened else { return };
    let outgoing = Arc::new(Outgoing::default());
    *lock(&peer.outgoing) = Some(Arc::clone(&outgoing));
    let _slot = Slot { peer, outgoing: &outgoing };
    let ended = write(shared, peer.id, &outgoing, bulk, Class::Bulk).await;
    tracing::debug!(peer = peer.name, %ended, "a guest is gone");
}

/// What frames for a peer go into; emptied whatever ends its use.
struct Slot<'a> {
    peer: &'a Peer,
    outgoing: &'a Arc<Outgoing>,
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        lock(&self.peer.outgoing).take_if(|current| Arc::ptr_eq(current, self.outgoing));
    }
}

/// Resolves when the address leads elsewhere than the connection: the pod that it names came back
/// with another IP, and the one at the other end is somebody else.
async fn moved(address: Option<&PeerAddress>, local: SocketAddr, remote: SocketAddr) {
    // Dialled back: its own connection says where it is.
    let Some(address) = address else { return std::future::pending().await };
    loop {
        tokio::time::sleep(RESOLVE_AGAIN).await;
        let Ok(targets) = address.resolve().await else { continue };
        let mut targets =
            targets.into_iter().filter_map(|target| reachable_from(local, target)).peekable();
        if targets.peek().is_some() && !targets.any(|target| target == remote) {
            return;
        }
    }
}

/// Resolves when the member connects to us while nobody answers on our connection to it: its pod
/// came back with another address. To wait until the connection is idle for long would leave it
/// deaf.
async fn deserted(peer: &Peer, connection: &Connection) {
    let heard = || connection.stats().udp_rx.datagrams;
    loop {
        peer.arrived.notified().await;
        let before = heard();
        tokio::time::sleep(SIGN_OF_LIFE).await;
        if heard() == before {
            return;
        }
    }
}

/// Uses a connection until it ends. `address` is what was dialled by name.
async fn serve(
    shared: &Arc<Shared>,
    connection: Connection,
    address: Option<&PeerAddress>,
    local: SocketAddr,
) -> Ended {
    let started = Instant::now();
    let superfluous = |why: &'static [u8]| {
        connection.close(CLOSE_SUPERFLUOUS, why);
        Ended::Superfluous
    };
    let peer = match who(shared, &connection) {
        Who::Peer(peer) if peer.is_guest() => return superfluous(b"guests are not dialled"),
        Who::Peer(peer) => peer,
        Who::Myself => return superfluous(b"this is myself"),
        Who::Stranger => {
            connection.close(CLOSE_VIOLATION, b"not a member");
            return Ended::Failed("the handshake proved no member's key".into());
        }
    };
    // First the slot, then the streams: a connection that turns out superfluous never opens one,
    // and the other end, which goes by streams, keeps the one that is used.
    let outgoing = Arc::new(Outgoing::default());
    {
        let mut slot = lock(&peer.outgoing);
        if slot.is_some() {
            drop(slot);
            return superfluous(b"already connected");
        }
        *slot = Some(outgoing.clone());
    }
    // From here on the slot is ours; whatever ends this function, also being dropped, must empty
    // it.
    let slot = Slot { peer: &peer, outgoing: &outgoing };
    let streams = match open_streams(&connection).await {
        Ok(streams) => streams,
        Err(reason) => return Ended::Failed(reason),
    };
    let _guard = Registration { shared, id: peer.id, _slot: slot };
    shared.metrics.quic_connections.inc();
    tracing::info!(peer = peer.name, address = %connection.remote_address(), "connected");
    (shared.inbound)(Inbound::Connected(peer.id));
    let [vote, data, bulk] = streams;
    let remote = connection.remote_address();
    let reason = tokio::select! {
        error = write(shared, peer.id, &outgoing, vote, Class::Vote) => error.to_string(),
        error = write(shared, peer.id, &outgoing, data, Class::Data) => error.to_string(),
        error = write(shared, peer.id, &outgoing, bulk, Class::Bulk) => error.to_string(),
        error = connection.closed() => error.to_string(),
        // To the other end this node may be a guest, which is answered here.
        _ = read::streams(shared, &peer, &connection, &[Class::Bulk], None) => "an answer broke off".to_owned(),
        () = peer.left() => "its standing changed".to_owned(),
        () = deserted(&peer, &connection) => "it came back, and not to this connection".to_owned(),
        () = moved(address, local, remote) => "its address leads elsewhere now".to_owned(),
        () = measure(shared, &connection, peer.id) => String::new(),
    };
    let reason = connection.close_reason().map_or(reason, |closed| closed.to_string());
    connection.close(CLOSE_SUPERFLUOUS, b"closed");
    Ended::Closed { reason: format!("{}: {reason}", peer.name), lasted: started.elapsed() }
}

struct Registration<'a> {
    shared: &'a Shared,
    id: NodeId,
    _slot: Slot<'a>,
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        self.shared.metrics.quic_connections.dec();
        (self.shared.inbound)(Inbound::Disconnected(self.id));
    }
}

async fn open(connection: &Connection, class: Class) -> Result<SendStream, String> {
    let mut stream = connection.open_uni().await.map_err(|e| e.to_string())?;
    stream.set_priority(class.priority()).map_err(|e| e.to_string())?;
    // Opens the stream at the other end and says what it is for.
    stream.write_all(&[class.byte()]).await.map_err(|e| e.to_string())?;
    Ok(stream)
}

async fn open_streams(connection: &Connection) -> Result<[SendStream; 3], String> {
    let opened = async {
        Ok([
            open(connection, Class::Vote).await?,
            open(connection, Class::Data).await?,
            open(connection, Class::Bulk).await?,
        ])
    };
    tokio::time::timeout(HANDSHAKE_LIMIT, opened)
        .await
        .unwrap_or_else(|_| Err("the peer allows no streams".into()))
}

/// Frames from the queue to the stream, each behind its length, until the connection breaks.
async fn write(
    shared: &Shared,
    to: NodeId,
    outgoing: &Outgoing,
    mut stream: SendStream,
    class: Class,
) -> WriteError {
    let sent = shared.metrics.sent_bytes.with_label_values(&[class.label()]);
    loop {
        let frames = outgoing.take(class).await;
        let mut chunks = Vec::with_capacity(frames.len() * 2);
        let mut bytes = 0;
        for frame in frames {
            // Bounded by MAX_FRAME_BYTES when it was queued.
            let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
            bytes += u64::from(length);
            chunks.push(Bytes::copy_from_slice(&length.to_be_bytes()));
            chunks.push(frame);
        }
        if let Err(error) = stream.write_all_chunks(&mut chunks).await {
            return error;
        }
        sent.inc_by(bytes);
        shared.metrics.sent_to(to, bytes);
    }
}

/// Never ends: the round-trip time, as a metric and for the engine's intervals.
async fn measure(shared: &Shared, connection: &Connection, member: NodeId) {
    loop {
        let time = connection.rtt();
        shared.metrics.round_trip(member, time);
        (shared.inbound)(Inbound::RoundTrip(member, time));
        tokio::time::sleep(RTT_EVERY).await;
    }
}
