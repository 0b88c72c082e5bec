//! QUIC's configuration: RFC 9000 with the TLS of `cretoai_control::tls`, windows for lanes of a
//! few MiB, and timers that notice a dead member within three seconds.

use super::{ALPN, TransportError};
use aws_lc_rs::hmac;
use cretoai_control::{
    keys::SecretKey,
    tls::{self, Admit, Expect},
};
use quinn::{
    EndpointConfig, IdleTimeout, TokioRuntime, TransportConfig, VarInt,
    congestion::CubicConfig,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use quinn_proto::HashedConnectionIdGenerator;
use rustls::{crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256, quic::Suite};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

/// This node goes away.
pub(super) const CLOSE_SHUTDOWN: VarInt = VarInt::from_u32(0);
/// There is a newer connection of the same two nodes, or it is the node itself.
pub(super) const CLOSE_SUPERFLUOUS: VarInt = VarInt::from_u32(1);
/// The member broke a rule; the reason says which.
pub(super) const CLOSE_VIOLATION: VarInt = VarInt::from_u32(2);

/// One stream per class and direction of a connection.
const STREAMS: u32 = 3;
/// What a stream may carry unread. All three together stay below the connection's window and below
/// what may be unacknowledged, so that a stream which nobody reads never blocks the votes.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
const INITIAL_WINDOW: u64 = 256 << 10;
/// After so long without a packet, one is sent that the other end answers.
pub(super) const KEEP_ALIVE: Duration = Duration::from_millis(200);
const IDLE_TIMEOUT_MS: u32 = 3_000;
/// Only the first retransmission of a handshake depends on it: a member that has just started is
/// found soon.
const INITIAL_RTT: Duration = Duration::from_millis(50);
/// RFC 9000.
const QUIC_V1: u32 = 1;
const SOCKET_BUFFER: usize = 8 << 20;

/// Binds the socket and makes an endpoint that both listens and dials.
pub(super) fn endpoint(
    listen: SocketAddr,
    key: &SecretKey,
    members: Arc<dyn Admit>,
) -> Result<quinn::Endpoint, TransportError> {
    let transport = Arc::new(transport_config());
    let server = tls::server_config(key, members.clone(), ALPN)?;
    let server = QuicServerConfig::with_initial(Arc::new(server), initial_suite()?)
        .map_err(|e| TransportError::Quic(e.to_string()))?;
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(server));
    server
        .transport_config(transport.clone())
        .migration(false)
        .max_incoming(128)
        .incoming_buffer_size(64 << 10)
        .incoming_buffer_size_total(4 << 20);
    let client = tls::client_config(key, Expect::AnyOf(members), ALPN)?;
    let client = QuicClientConfig::with_initial(Arc::new(client), initial_suite()?)
        .map_err(|e| TransportError::Quic(e.to_string()))?;
    let mut client = quinn::ClientConfig::new(Arc::new(client));
    client.transport_config(transport);

    let socket = bind(listen).map_err(|source| TransportError::Bind { address: listen, source })?;
    // The key of stateless resets is derived from the node's own: after a crash it can tell its
    // peers at once that their connections are gone (RFC 9000, 10.3), instead of leaving them to
    // time out.
    let reset = blake3::derive_key("creto quic stateless reset v1", key.seed());
    let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &reset)));
    // Only for a connection id that it knows for its own does an endpoint send a reset: ids of the
    // time before a crash must be known, too.
    let ids = connection_ids(key);
    config
        .cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)))
        .supported_versions(vec![QUIC_V1]);
    let mut endpoint = quinn::Endpoint::new(config, Some(server), socket, Arc::new(TokioRuntime))
        .map_err(|source| TransportError::Bind { address: listen, source })?;
    endpoint.set_default_client_config(client);
    Ok(endpoint)
}

/// What the connection ids of the node with this key are recognised by, now and after a restart.
fn connection_ids(key: &SecretKey) -> u64 {
    let derived = blake3::derive_key("creto quic connection ids v1", key.seed());
    derived.first_chunk().map_or(0, |first| u64::from_le_bytes(*first))
}

fn transport_config() -> TransportConfig {
    let mut congestion = CubicConfig::default();
    congestion.initial_window(INITIAL_WINDOW);
    let mut config = TransportConfig::default();
    config
        .max_concurrent_uni_streams(VarInt::from_u32(STREAMS))
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(u64::from(CONNECTION_WINDOW))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT_MS))))
        .initial_rtt(INITIAL_RTT)
        .congestion_controller_factory(Arc::new(congestion));
    config
}

/// QUIC's Initial packets are protected with AES-128 and a public key (RFC 9001, 5.2), whatever is
/// used afterwards.
fn initial_suite() -> Result<Suite, TransportError> {
    let suite = TLS13_AES_128_GCM_SHA256.tls13().and_then(|suite| suite.quic_suite());
    suite.ok_or_else(|| TransportError::Quic("no cipher suite for Initial packets".into()))
}

fn bind(listen: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP))?;
    if listen.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // The system gives what it allows (net.core.rmem_max); QUIC works with less.
    for (what, result) in [
        ("receive", socket.set_recv_buffer_size(SOCKET_BUFFER)),
        ("send", socket.set_send_buffer_size(SOCKET_BUFFER)),
    ] {
        if let Err(error) = result {
            tracing::debug!(%error, "the UDP {what} buffer keeps its size");
        }
    }
    socket.bind(&listen.into())?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use cretoai_types::PublicKey;
    use quinn_proto::ConnectionIdGenerator;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn connections_of_the_time_before_a_crash_are_reset() {
        let key = SecretKey::from_seed(&[5; 32]).unwrap();
        let started =
            endpoint("127.0.0.1:0".parse().unwrap(), &key, Arc::new(|_: &PublicKey| true)).unwrap();
        // A packet of a connection that an earlier process of this node had: a short header, one of
        // its connection ids, and what looks like ciphertext.
        let id = HashedConnectionIdGenerator::from_key(connection_ids(&key)).generate_cid();
        let packet = [&[0x40][..], &id[..], &[7; 200][..]].concat();
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        peer.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let to = started.local_addr().unwrap();
        let answered = (0..50).find_map(|_| {
            peer.send_to(&packet, to).unwrap();
            let mut answer = [0; 1500];
            peer.recv(&mut answer).ok()
        });
        let length = answered.expect("no reset within 10 s");
        assert!((21..packet.len()).contains(&length), "{length} bytes");
    }
}
