//! Frames between the members of an epoch, over QUIC.
//!
//! Every node sends on connections that it dialled and receives on those that it accepted: two
//! connections per pair, no tie to break, and a restarted node is heard as soon as it dials. Each
//! connection carries one unidirectional stream per [`Class`], votes before data before bulk. The
//! members change with the epochs ([`Transport::set_members`]); where a member's address is not in
//! the configuration, the address that it dials from is dialled: one socket does both.
//!
//! A *guest* is no member: a node of an earlier epoch that must learn that it ended, or a learner
//! whose key the operator named ([`Transport::admit`]). It is known by a number that no member has
//! ([`is_guest`]), may only ask for what proves itself, and is answered on the connection that it
//! dialled, on one bulk stream.
//!
//! The rules: both ends prove the key of a member or guest, with X25519MLKEM768 and ML-DSA-87 and
//! no 0-RTT, before a byte is read. Sending never blocks: what exceeds a bound, or has no
//! connection, is dropped and counted, and the protocol repairs it. What a peer may have in flight
//! towards the engine is bounded by its own budget, so that a flood slows down only whoever sends
//! it.

mod accept;
mod dial;
mod peers;
mod queue;
mod quic;
mod read;

use crate::{
    metrics::{Metrics, Port},
    peer_address::PeerAddress,
    sync::lock,
};
use bytes::Bytes;
use cretoai_consensus::Urgency;
use cretoai_control::{keys::SecretKey, tls::TlsError};
use cretoai_types::{MAX_FRAME, Member, NodeId, PublicKey};
pub use peers::is_guest;
use peers::{Peer, Peers};
use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, watch},
    task::JoinSet,
};

/// The ALPN name of the members' protocol.
pub const ALPN: &[u8] = b"cretoai/1";

/// What a frame may have: the protocol's limit and a small header.
pub const MAX_FRAME_BYTES: usize = MAX_FRAME + 1024;

/// How urgent a frame is; each class has a stream of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Votes, acknowledgements, status.
    Vote,
    /// New vertices.
    Data,
    /// Answers to fetches.
    Bulk,
}

impl Class {
    /// Every class, most urgent first.
    pub const ALL: [Self; 3] = [Self::Vote, Self::Data, Self::Bulk];

    const fn index(self) -> usize {
        self as usize
    }

    /// The first byte of a stream of this class.
    const fn byte(self) -> u8 {
        self as u8
    }

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.byte() == byte)
    }

    /// QUIC sends what has the higher number first.
    const fn priority(self) -> i32 {
        match self {
            Self::Vote => 2,
            Self::Data => 1,
            Self::Bulk => 0,
        }
    }

    const fn label(self) -> &'static str {
        match self {
            Self::Vote => "vote",
            Self::Data => "data",
            Self::Bulk => "bulk",
        }
    }

    /// KiB that one peer may have between the socket and the engine's attention.
    const fn budget_kib(self) -> usize {
        match self {
            Self::Vote => 2 * 1024,
            Self::Data => 8 * 1024,
            Self::Bulk => 4 * 1024,
        }
    }
}

impl From<Urgency> for Class {
    fn from(urgency: Urgency) -> Self {
        match urgency {
            Urgency::Vote => Self::Vote,
            Urgency::Data => Self::Data,
            Urgency::Bulk => Self::Bulk,
        }
    }
}

/// What happens at the network's side.
#[derive(Debug)]
pub enum Inbound {
    /// Our connection to this member is up. What was sent before is lost.
    Connected(NodeId),
    /// How long a packet to this member and its acknowledgement take, from time to time.
    RoundTrip(NodeId, Duration),
    /// Our connection to this member is gone.
    Disconnected(NodeId),
    /// A member sent this.
    Frame {
        /// The member, proven by its key.
        from: NodeId,
        /// The bytes, not yet decoded.
        frame: Bytes,
        /// The sender's share of our memory; dropping it lets the member send more.
        budget: Budget,
    },
}

/// A part of a member's budget, given back when dropped.
#[derive(Debug)]
pub struct Budget(#[allow(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl Budget {
    /// A budget of these permits.
    #[must_use]
    pub const fn of(permits: OwnedSemaphorePermit) -> Self {
        Self(permits)
    }
}

/// Why the transport could not start.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The UDP port cannot be bound.
    #[error(
        "UDP {address} cannot be bound: {source}; is another node running here, or network.quic_port taken?"
    )]
    Bind {
        /// Where.
        address: SocketAddr,
        /// What the system answered.
        source: io::Error,
    },
    /// The key cannot be used for TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// QUIC does not take the TLS configuration.
    #[error("QUIC set-up: {0}")]
    Quic(String),
}

/// The members' network. Lives until [`Transport::shutdown`].
pub struct Transport {
    shared: Arc<Shared>,
    endpoint: quinn::Endpoint,
    tasks: Mutex<JoinSet<()>>,
}

/// What all tasks of a transport share.
struct Shared {
    peers: Arc<Peers>,
    metrics: Arc<Metrics>,
    inbound: Box<dyn Fn(Inbound) + Send + Sync>,
    /// A member that we cannot reach has just reached us: dial at once.
    wake: Notify,
    closing: watch::Sender<bool>,
}

impl Shared {
    fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    /// Resolves when the transport closes.
    async fn closed(&self) {
        let mut closing = self.closing.subscribe();
        // An error means that the sender is gone, which is as closed as can be.
        if closing.wait_for(|closing| *closing).await.is_err() {}
    }
}

impl Transport {
    /// Listens on `listen`, dials every address of `dial` for as long as it lives, and hands what
    /// comes to `inbound`, which must not block: it is bounded by the members' budgets.
    ///
    /// # Errors
    /// [`TransportError`].
    #[allow(
        clippy::unused_async,
        reason = "it must be called within the runtime that its tasks run on"
    )]
    pub async fn start(
        listen: SocketAddr,
        key: &SecretKey,
        members: &[Member],
        dial: Vec<PeerAddress>,
        metrics: Arc<Metrics>,
        inbound: impl Fn(Inbound) + Send + Sync + 'static,
    ) -> Result<Arc<Self>, TransportError> {
        let peers = Arc::new(Peers::new(key.public_key().clone(), members));
        let admit = Arc::clone(&peers);
        let shared = Arc::new(Shared {
            peers,
            metrics,
            inbound: Box::new(inbound),
            wake: Notify::new(),
            closing: watch::Sender::new(false),
        });
        let endpoint =
            quic::endpoint(listen, key, Arc::new(move |key: &PublicKey| admit.admits(key)))?;
        let mut tasks = JoinSet::new();
        tasks.spawn(accept::run(shared.clone(), endpoint.clone()));
        for address in dial {
            tasks.spawn(dial::run(shared.clone(), endpoint.clone(), address));
        }
        Ok(Arc::new(Self { shared, endpoint, tasks: Mutex::new(tasks) }))
    }

    /// The address that it listens on.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// The members of the epoch that begins. Connections to who stays stay; who leaves becomes a
    /// guest.
    pub fn set_members(&self, members: &[Member]) {
        self.shared.peers.set_members(members);
        self.shared.wake.notify_waiters();
    }

    /// Lets the holders of these keys connect as guests.
    pub fn admit(&self, keys: impl IntoIterator<Item = PublicKey>) {
        self.shared.peers.admit(keys);
    }

    /// Queues a frame for one peer. Never blocks; what has no connection or no room is dropped and
    /// counted.
    pub fn send(&self, to: NodeId, class: Class, frame: Bytes) {
        let outgoing = self.shared.peers.get(to).and_then(|peer| lock(&peer.outgoing).clone());
        let taken = frame.len() <= MAX_FRAME_BYTES
            && outgoing.is_some_and(|outgoing| outgoing.push(class, frame));
        if !taken {
            self.shared.metrics.dropped_frames.with_label_values(&[class.label()]).inc();
        }
    }

    /// Queues a frame for every other member.
    pub fn broadcast(&self, class: Class, frame: Bytes) {
        for peer in self.shared.peers.members() {
            self.send(peer.id, class, frame.clone());
        }
    }

    /// A signature that came from this peer did not verify. After too many of them its channel is
    /// closed and it stays out for a while, which this says.
    pub fn strike(&self, from: NodeId) -> bool {
        let Some(peer) = self.shared.peers.get(from).filter(|peer| peer.strike()) else {
            return false;
        };
        if let Some(connection) = lock(&peer.accepted).take() {
            connection.close(quic::CLOSE_VIOLATION, b"signatures that do not verify");
        }
        self.shared.metrics.refused(Port::Quic, "bad_signatures");
        tracing::warn!(peer = peer.name, "shut out a peer: its signatures do not verify");
        true
    }

    /// Every other member, and whether there are connections in both directions.
    #[must_use]
    pub fn connected(&self) -> Vec<(NodeId, bool)> {
        let both = |peer: &Peer| lock(&peer.outgoing).is_some() && lock(&peer.accepted).is_some();
        self.shared.peers.members().iter().map(|peer| (peer.id, both(peer))).collect()
    }

    /// Closes every connection and tells the peers, within a second. Frames still queued are lost.
    pub async fn shutdown(&self) {
        self.shared.closing.send_replace(true);
        self.endpoint.close(quic::CLOSE_SHUTDOWN, b"this node is shutting down");
        let mut tasks = std::mem::take(&mut *lock(&self.tasks));
        let ended = tokio::time::timeout(Duration::from_secs(1), async {
            self.endpoint.wait_idle().await;
            while tasks.join_next().await.is_some() {}
        });
        if ended.await.is_err() {
            tasks.shutdown().await;
        }
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.shared.closing.send_replace(true);
        self.endpoint.close(quic::CLOSE_SHUTDOWN, b"this node is shutting down");
    }
}
