//! Accepts connections of members and guests.

use super::{
    Class, Shared,
    dial::{self, who},
    lock,
    peers::{Peer, Who},
    quic::{CLOSE_SUPERFLUOUS, CLOSE_VIOLATION},
    read::{self, Violation},
};
use crate::metrics::Port;
use cretoai_control::tls::refusal_of_alert;
use quinn::{Connection, ConnectionError, Incoming};
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::task::JoinSet;

/// Handshakes in progress: each costs a signature and two verifications before it is known who
/// asks.
const MAX_HANDSHAKES: usize = 64;
/// From here on, whoever asks must first show that packets reach the address that it claims (RFC
/// 9000, 8.1.2).
const VALIDATE_FROM: usize = 16;
/// Handshakes in progress of one address, so that one stranger cannot take all places.
const MAX_OF_ADDRESS: usize = 16;
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(3);

/// Places for handshakes, and who has them.
struct Places {
    all: usize,
    by_address: Mutex<HashMap<IpAddr, usize>>,
}

impl Places {
    fn new() -> Arc<Self> {
        Arc::new(Self { all: MAX_HANDSHAKES, by_address: Mutex::default() })
    }

    fn taken(&self) -> usize {
        lock(&self.by_address).values().sum()
    }

    /// A place, if there is one for this address.
    fn take(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let address = network_of(address);
        let mut places = lock(&self.by_address);
        if places.values().sum::<usize>() >= self.all {
            return None;
        }
        let own = places.entry(address).or_default();
        if *own >= MAX_OF_ADDRESS {
            return None;
        }
        *own += 1;
        Some(Place { places: Arc::clone(self), address })
    }
}

/// What one caller has for itself: an IPv4 address, or the 64 bits of an IPv6 network.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

/// A place, given back when dropped.
struct Place {
    places: Arc<Places>,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = lock(&self.places.by_address);
        if let Some(own) = places.get_mut(&self.address) {
            *own -= 1;
            if *own == 0 {
                places.remove(&self.address);
            }
        }
    }
}

pub(super) async fn run(shared: Arc<Shared>, endpoint: quinn::Endpoint) {
    let places = Places::new();
    let mut connections = JoinSet::new();
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            Some(_) = connections.join_next() => continue,
            () = shared.closed() => break,
        };
        let Some(incoming) = incoming else { break };
        if places.taken() >= VALIDATE_FROM
            && !incoming.remote_address_validated()
            && incoming.may_retry()
        {
            if let Err(error) = incoming.retry() {
                error.into_incoming().ignore();
            }
            continue;
        }
        match places.take(incoming.remote_address().ip()) {
            Some(place) => {
                connections.spawn(serve(shared.clone(), endpoint.clone(), incoming, place));
            }
            None => {
                shared.metrics.refused(Port::Quic, "busy");
                incoming.refuse();
            }
        }
    }
    // Dropping the set ends the readers; the endpoint closes the connections.
}

async fn serve(shared: Arc<Shared>, endpoint: quinn::Endpoint, incoming: Incoming, place: Place) {
    let address = incoming.remote_address();
    let handshake = async { incoming.accept()?.await };
    let refused = match tokio::time::timeout(HANDSHAKE_LIMIT, handshake).await {
        Ok(Ok(connection)) => {
            drop(place);
            return receive(&shared, &endpoint, connection).await;
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
        ConnectionError::ConnectionClosed(_)
        | ConnectionError::ApplicationClosed(_)
        | ConnectionError::Reset => "refused_by_peer",
        _ => "handshake",
    }
}

async fn receive(shared: &Arc<Shared>, endpoint: &quinn::Endpoint, connection: Connection) {
    let peer = match who(shared, &connection) {
        Who::Peer(peer) if peer.is_shut_out() => {
            connection.close(CLOSE_VIOLATION, b"signatures that do not verify");
            return shared.metrics.refused(Port::Quic, "shut_out");
        }
        Who::Peer(peer) => peer,
        Who::Myself => return connection.close(CLOSE_SUPERFLUOUS, b"this is myself"),
        Who::Stranger => {
            // The verifier admits nobody else, so this is a change of members between two looks, or
            // one guest too many.
            connection.close(CLOSE_VIOLATION, b"not a member");
            return shared.metrics.refused(Port::Quic, "unknown_key");
        }
    };
    // Who dials twice opens streams on one of the connections only.
    let Ok(Ok(first)) = tokio::time::timeout(HANDSHAKE_LIMIT, connection.accept_uni()).await else {
        return connection.close(CLOSE_SUPERFLUOUS, b"no stream was opened");
    };
    if let Some(older) = lock(&peer.accepted).replace(connection.clone()) {
        older.close(CLOSE_SUPERFLUOUS, b"replaced by a newer connection");
    }
    let _guard = Registration { shared, peer: &peer, connection: &connection };
    shared.metrics.quic_connections.inc();
    if lock(&peer.outgoing).is_none() {
        shared.wake.notify_waiters();
    }
    peer.arrived.notify_waiters();
    let violation = tokio::select! {
        violation = read::streams(shared, &peer, &connection, &Class::ALL, Some(first)) => violation,
        () = peer.left() => Violation::Ended,
        () = dial::answer_guest(shared, &peer, &connection) => Violation::Ended,
        () = dial::back(shared, endpoint, &peer, connection.remote_address()) => Violation::Ended,
    };
    match violation {
        Violation::Ended => {
            let reason = connection.close_reason().map(|r| r.to_string()).unwrap_or_default();
            connection.close(CLOSE_SUPERFLUOUS, b"a stream ended");
            tracing::debug!(peer = peer.name, reason, "a peer's connection ended");
        }
        Violation::Broke { rule, detail } => {
            connection.close(CLOSE_VIOLATION, detail.as_bytes());
            shared.metrics.refused(Port::Quic, rule);
            tracing::warn!(peer = peer.name, detail, "closed a peer's connection");
        }
    }
}

struct Registration<'a> {
    shared: &'a Shared,
    peer: &'a Peer,
    connection: &'a Connection,
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        lock(&self.peer.accepted)
            .take_if(|current| current.stable_id() == self.connection.stable_id());
        self.shared.metrics.quic_connections.dec();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn one_address_cannot_take_all_places() {
        let places = Places::new();
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut held: Vec<Place> =
            (0..100).filter_map(|_| places.take(address("10.0.0.1"))).collect();
        assert_eq!(held.len(), MAX_OF_ADDRESS);
        assert!(places.take(address("::ffff:10.0.0.1")).is_none(), "the same one");
        held.extend((0..100).filter_map(|n| places.take(address(&format!("fd00::{n:x}")))));
        assert_eq!(held.len(), 2 * MAX_OF_ADDRESS, "one network");
        held.extend(places.take(address("10.0.0.2")));
        assert_eq!(places.taken(), 2 * MAX_OF_ADDRESS + 1);
        held.clear();
        assert!(places.take(address("10.0.0.1")).is_some());
        assert_eq!(places.taken(), 0);
    }
}
