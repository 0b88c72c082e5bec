//! The members' network on loopback: frames of all classes, restarts, floods, and everybody who
//! must stay out.

use bytes::Bytes;
use cretoai_control::{
    keys::SecretKey,
    tls::{self, Expect},
};
use cretoai_node::{
    metrics::Metrics,
    peer_address::PeerAddress,
    transport::{
        ALPN, Budget, Class, Inbound, MAX_FRAME_BYTES, Transport, TransportError, is_guest,
    },
};
use cretoai_types::{Epoch, Member, NodeId, PublicKey};
use quinn::crypto::rustls::QuicClientConfig;
use rustls::{
    SignatureScheme, client::ResolvesClientCert, pki_types::CertificateDer, sign::CertifiedKey,
};
use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

fn key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32]).unwrap()
}

/// Ports that are free: the members must know each other's before they start. Below the range that
/// the system hands out to clients, so that nobody takes one in between.
fn ports<const N: usize>() -> [SocketAddr; N] {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    std::array::from_fn(|_| {
        loop {
            let next = (std::process::id() * 64 + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
            let address = SocketAddr::from(([127, 0, 0, 1], 20_000 + next as u16));
            if UdpSocket::bind(address).is_ok() {
                return address;
            }
        }
    })
}

fn dial(address: SocketAddr) -> PeerAddress {
    format!("/ip4/{}/udp/{}/quic", address.ip(), address.port()).parse().unwrap()
}

struct Node {
    transport: Arc<Transport>,
    metrics: Arc<Metrics>,
    inbound: mpsc::UnboundedReceiver<Inbound>,
}

fn member(i: usize) -> Member {
    Member {
        id: NodeId(i as u32),
        name: format!("node-{i}"),
        key: key(i as u8).public_key().clone(),
        since: Epoch(0),
    }
}

fn members(n: usize) -> Vec<Member> {
    (0..n).map(member).collect()
}

/// Starts member `n` of those who listen on `addresses`; it dials all of them, itself included.
async fn start(n: usize, addresses: &[SocketAddr]) -> Node {
    start_among(n, addresses, &members(addresses.len()), addresses).await
}

/// Starts node `n`, which knows these members and dials these addresses.
async fn start_among(
    n: usize,
    addresses: &[SocketAddr],
    members: &[Member],
    dials: &[SocketAddr],
) -> Node {
    let metrics = Arc::new(Metrics::new().unwrap());
    let (sender, inbound) = mpsc::unbounded_channel();
    // A socket that a stopped endpoint has just given up may take a moment to close.
    let started = Instant::now();
    let transport = loop {
        let sender = sender.clone();
        let dial = dials.iter().copied().map(dial).collect();
        let hand_over = move |event| drop(sender.send(event));
        match Transport::start(
            addresses[n],
            &key(n as u8),
            members,
            dial,
            metrics.clone(),
            hand_over,
        )
        .await
        {
            Ok(transport) => break transport,
            Err(TransportError::Bind { .. }) if started.elapsed() < Duration::from_secs(5) => {
                tokio::time::sleep(Duration::from_millis(5)).await
            }
            Err(error) => panic!("{error}"),
        }
    };
    Node { transport, metrics, inbound }
}

impl Node {
    async fn next(&mut self) -> Inbound {
        tokio::time::timeout(Duration::from_secs(15), self.inbound.recv())
            .await
            .expect("nothing came within 15 s")
            .unwrap()
    }

    async fn connected_to(&mut self, peer: u32) {
        while !matches!(self.next().await, Inbound::Connected(NodeId(id)) if id == peer) {}
    }

    async fn frame(&mut self) -> (NodeId, Bytes, Budget) {
        loop {
            if let Inbound::Frame { from, frame, budget } = self.next().await {
                return (from, frame, budget);
            }
        }
    }

    fn refused(&self, reason: &str) -> u64 {
        self.metrics.refused_connections.with_label_values(&["9001", reason]).get()
    }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(15), "{what} did not happen within 15 s");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_exchange_frames_of_all_classes_and_sizes() {
    let addresses = ports::<3>();
    let mut nodes =
        [start(0, &addresses).await, start(1, &addresses).await, start(2, &addresses).await];
    for (i, node) in nodes.iter_mut().enumerate() {
        let mut missing: Vec<u32> = (0..3).filter(|p| *p != i as u32).collect();
        while !missing.is_empty() {
            if let Inbound::Connected(NodeId(id)) = node.next().await {
                missing.retain(|p| *p != id);
            }
        }
    }
    for node in &nodes {
        eventually("connections in both directions", || {
            node.transport.connected().iter().all(|(_, both)| *both)
        })
        .await;
        assert_eq!(node.transport.connected().len(), 2);
        assert_eq!(node.metrics.quic_connections.get(), 4);
    }
    let sizes = [1, 100, 65_536, MAX_FRAME_BYTES];
    for class in Class::ALL {
        for (n, &size) in sizes.iter().enumerate() {
            nodes[0]
                .transport
                .broadcast(class, Bytes::from(vec![class as u8 * 16 + n as u8; size]));
        }
    }
    for node in &mut nodes[1..] {
        let mut got: Vec<(u8, usize)> = vec![];
        while got.len() < 12 {
            let (from, frame, _budget) = node.frame().await;
            assert_eq!(from, NodeId(0));
            assert!(frame.iter().all(|byte| *byte == frame[0]));
            got.push((frame[0], frame.len()));
        }
        for class in 0..3 {
            let of_class: Vec<usize> =
                got.iter().filter(|(byte, _)| byte / 16 == class).map(|(_, size)| *size).collect();
            assert_eq!(of_class, sizes, "frames of one class keep their order");
        }
    }
    // What is too large is not sent and does not break anything.
    nodes[0].transport.send(NodeId(1), Class::Bulk, Bytes::from(vec![0; MAX_FRAME_BYTES + 1]));
    assert_eq!(nodes[0].metrics.dropped_frames.with_label_values(&["bulk"]).get(), 1);
    nodes[0].transport.send(NodeId(1), Class::Vote, Bytes::from_static(b"still here"));
    assert_eq!(nodes[1].frame().await.1, "still here");
    for node in &nodes {
        node.transport.shutdown().await;
    }
}

/// The engine's timeouts follow this measurement.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_s_round_trip_is_measured_and_handed_over() {
    let addresses = ports::<2>();
    let mut first = start(0, &addresses).await;
    let second = start(1, &addresses).await;
    first.connected_to(1).await;
    let time = loop {
        if let Inbound::RoundTrip(peer, time) = first.next().await {
            assert_eq!(peer, NodeId(1));
            break time;
        }
    };
    // On loopback, however busy the machine is.
    assert!(!time.is_zero() && time < Duration::from_secs(3), "{time:?}");
    for node in [first, second] {
        node.transport.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_member_is_connected_again_in_both_directions() {
    let addresses = ports::<2>();
    let mut first = start(0, &addresses).await;
    let mut second = start(1, &addresses).await;
    first.connected_to(1).await;
    second.connected_to(0).await;
    // Away in an orderly way: the peer is told, and what is sent meanwhile is dropped and counted.
    second.transport.shutdown().await;
    while !matches!(first.next().await, Inbound::Disconnected(NodeId(1))) {}
    first.transport.send(NodeId(1), Class::Vote, Bytes::from_static(b"to nobody"));
    assert_eq!(first.metrics.dropped_frames.with_label_values(&["vote"]).get(), 1);
    drop(second);
    let restarted = Instant::now();
    let mut second = start(1, &addresses).await;
    first.connected_to(1).await;
    second.connected_to(0).await;
    println!("connected again after {:?}", restarted.elapsed());
    first.transport.send(NodeId(1), Class::Vote, Bytes::from_static(b"welcome back"));
    assert_eq!(second.frame().await.1, "welcome back");
    second.transport.send(NodeId(0), Class::Data, Bytes::from_static(b"thanks"));
    assert_eq!(first.frame().await.1, "thanks");
}

/// Passes datagrams on, between whoever sends to `listen` and `to`, until it is dropped.
fn relay(listen: SocketAddr, to: SocketAddr) -> tokio::task::JoinSet<()> {
    let bind = |address: SocketAddr| {
        let socket = UdpSocket::bind(address).unwrap();
        socket.set_nonblocking(true).unwrap();
        Arc::new(tokio::net::UdpSocket::from_std(socket).unwrap())
    };
    let (near, far) = (bind(listen), bind(SocketAddr::from(([127, 0, 0, 1], 0))));
    let caller = Arc::new(std::sync::Mutex::new(None));
    let mut pumps = tokio::task::JoinSet::new();
    pumps.spawn({
        let (near, far, caller) = (near.clone(), far.clone(), caller.clone());
        async move {
            let mut datagram = [0; 2_048];
            while let Ok((length, from)) = near.recv_from(&mut datagram).await {
                *caller.lock().unwrap() = Some(from);
                far.send_to(&datagram[..length], to).await.unwrap();
            }
        }
    });
    pumps.spawn(async move {
        let mut datagram = [0; 2_048];
        while let Ok(length) = far.recv(&mut datagram).await {
            let to = *caller.lock().unwrap();
            near.send_to(&datagram[..length], to.unwrap()).await.unwrap();
        }
    });
    pumps
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_vanished_and_comes_back_elsewhere_is_reached_before_its_old_connection_times_out()
 {
    let [own, far, other, known] = ports();
    let link = relay(known, far);
    let mut first = start_among(0, &[own], &members(2), &[known]).await;
    let old = start_among(1, &[other, far], &members(2), &[]).await;
    first.connected_to(1).await;
    // No packet of the old one ever arrives again, and nobody answers at the address that is known.
    drop(link);
    let back = Instant::now();
    let mut new = start_among(1, &[own, other], &members(2), &[own]).await;
    new.connected_to(0).await;
    while !matches!(first.next().await, Inbound::Disconnected(NodeId(1))) {}
    first.connected_to(1).await;
    assert!(
        back.elapsed() < Duration::from_millis(2_500),
        "{:?}, and the old connection times out after 3 s",
        back.elapsed()
    );
    first.transport.send(NodeId(1), Class::Vote, Bytes::from_static(b"welcome back"));
    assert_eq!(new.frame().await.1, "welcome back");
    // Now somebody answers at the known address, too: the connection that is used stays.
    let _link = relay(known, other);
    let stays = tokio::time::timeout(Duration::from_secs(6), async {
        while !matches!(first.next().await, Inbound::Disconnected(_) | Inbound::Connected(_)) {}
    });
    assert!(stays.await.is_err(), "a second connection took the place of the first");
    drop(old);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_bounded_by_the_budget_and_votes_pass_it() {
    let addresses = ports::<2>();
    let mut flooder = start(0, &addresses).await;
    let mut flooded = start(1, &addresses).await;
    flooder.connected_to(1).await;
    flooded.connected_to(0).await;
    let frame = Bytes::from(vec![7; 500 * 1024]);
    for _ in 0..200 {
        flooder.transport.send(NodeId(1), Class::Bulk, frame.clone());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(
        flooder.metrics.dropped_frames.with_label_values(&["bulk"]).get() > 0,
        "the queue never filled"
    );
    tokio::time::sleep(Duration::from_millis(500)).await;
    // The engine of the flooded node takes nothing back yet: what it was handed is bounded by 4 MiB
    // of budget.
    let mut held = vec![];
    while let Ok(event) = flooded.inbound.try_recv() {
        if let Inbound::Frame { budget, frame, .. } = event {
            held.push((budget, frame.len()));
        }
    }
    let bytes: usize = held.iter().map(|(_, length)| length).sum();
    assert!((1..=4 << 20).contains(&bytes), "{bytes} bytes were handed over");
    let before = Instant::now();
    flooder.transport.send(NodeId(1), Class::Vote, Bytes::from_static(b"vote"));
    let (_, vote, _budget) = flooded.frame().await;
    assert_eq!(vote, "vote");
    println!("a vote passed {bytes} waiting bytes in {:?}", before.elapsed());
    // Giving the budget back lets the rest through.
    drop(held);
    let (_, more, _) = flooded.frame().await;
    assert_eq!(more.len(), frame.len());
}

/// A QUIC client with a configuration of its own.
async fn connect(
    to: SocketAddr,
    config: rustls::ClientConfig,
) -> Result<quinn::Connection, quinn::ConnectionError> {
    let initial = rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256
        .tls13()
        .unwrap()
        .quic_suite()
        .unwrap();
    let config = QuicClientConfig::with_initial(Arc::new(config), initial).unwrap();
    let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(config)));
    endpoint.connect(to, "creto").unwrap().await
}

/// Whether a connection is of any use: the server refuses a TLS 1.3 client after the client thinks
/// that all is well.
async fn stays_out(to: SocketAddr, config: rustls::ClientConfig) {
    if let Ok(connection) = connect(to, config).await {
        let closed = tokio::time::timeout(Duration::from_secs(5), connection.closed())
            .await
            .expect("the connection stayed");
        assert!(
            !matches!(closed, quinn::ConnectionError::ApplicationClosed(_)),
            "refused only after the handshake: {closed}"
        );
    }
}

#[derive(Debug)]
struct Impostor(Arc<CertifiedKey>);

impl ResolvesClientCert for Impostor {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
    fn only_raw_public_keys(&self) -> bool {
        true
    }
    fn has_certs(&self) -> bool {
        true
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_thieves_and_classical_clients_stay_out_and_are_counted() {
    let addresses = ports::<2>();
    let mut node = start(0, &addresses).await;
    let target = addresses[0];
    let server = || Expect::Key(key(0).public_key().clone());

    stays_out(target, tls::client_config(&key(99), server(), ALPN).unwrap()).await;
    eventually("the stranger is counted", || node.refused("unknown_key") == 1).await;

    // Shows member 1's public key, signs with another private key.
    let thief = tls::client_config(&key(99), server(), ALPN).unwrap();
    let own = thief.client_auth_cert_resolver.resolve(&[], &[SignatureScheme::ML_DSA_87]).unwrap();
    let stolen = CertificateDer::from(tls::subject_public_key_info(key(1).public_key()));
    let mut thief = tls::client_config(&key(99), server(), ALPN).unwrap();
    thief.client_auth_cert_resolver =
        Arc::new(Impostor(Arc::new(CertifiedKey::new(vec![stolen], own.key.clone()))));
    stays_out(target, thief).await;
    eventually("the thief is counted", || node.refused("bad_signature") == 1).await;

    stays_out(target, tls::client_config(&key(1), server(), b"other/1").unwrap()).await;
    eventually("the other protocol is counted", || node.refused("other_protocol") == 1).await;

    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519];
    let mut classical = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    classical.alpn_protocols = vec![ALPN.to_vec()];
    stays_out(target, classical).await;
    eventually("the classical client is counted", || node.refused("incompatible") == 1).await;

    assert_eq!(node.metrics.quic_connections.get(), 0);
    assert!(node.inbound.try_recv().is_err(), "nothing reached the engine");
    let mut member = start(1, &addresses).await;
    node.connected_to(1).await;
    member.connected_to(0).await;
}

/// Connects as member 1 and does `misbehave`; what the node closes the connection with.
async fn violation(misbehave: impl AsyncFnOnce(&quinn::Connection)) -> (String, Node) {
    let addresses = ports::<2>();
    let node = start(0, &addresses).await;
    let config =
        tls::client_config(&key(1), Expect::AnyOf(Arc::new(|_: &PublicKey| true)), ALPN).unwrap();
    let connection = connect(addresses[0], config).await.unwrap();
    misbehave(&connection).await;
    let closed = tokio::time::timeout(Duration::from_secs(5), connection.closed())
        .await
        .expect("the connection stayed");
    match closed {
        quinn::ConnectionError::ApplicationClosed(close) => {
            (String::from_utf8_lossy(&close.reason).into_owned(), node)
        }
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_oversized_frame_closes_the_connection_with_a_reason() {
    for length in [0, MAX_FRAME_BYTES as u32 + 1, u32::MAX] {
        let (reason, mut node) = violation(async |connection| {
            let mut stream = connection.open_uni().await.unwrap();
            stream.write_all(&[Class::Data as u8]).await.unwrap();
            stream.write_all(&length.to_be_bytes()).await.unwrap();
        })
        .await;
        assert!(
            reason.contains(&length.to_string()) && reason.contains(&MAX_FRAME_BYTES.to_string()),
            "{reason}"
        );
        eventually("it is counted", || node.refused("frame_size") == 1).await;
        assert!(!matches!(node.inbound.try_recv(), Ok(Inbound::Frame { .. })));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_and_doubled_streams_close_the_connection() {
    let (reason, node) = violation(async |connection| {
        let mut stream = connection.open_uni().await.unwrap();
        stream.write_all(&[9]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
    })
    .await;
    assert!(reason.contains("unknown class 9"), "{reason}");
    drop(node);
    let (reason, node) = violation(async |connection| {
        let mut streams = vec![];
        for _ in 0..2 {
            let mut stream = connection.open_uni().await.unwrap();
            stream.write_all(&[Class::Vote as u8]).await.unwrap();
            streams.push(stream);
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    })
    .await;
    assert!(reason.contains("second stream for vote"), "{reason}");
    eventually("it is counted", || node.refused("stream") == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_handshakes_than_the_node_bears_are_turned_away_and_members_still_get_in() {
    let addresses = ports::<2>();
    let mut node = start(0, &addresses).await;
    // Each opens a handshake and never goes on with it: an Initial packet of a client that is then
    // dropped.
    let stranger =
        tls::client_config(&key(99), Expect::Key(key(0).public_key().clone()), ALPN).unwrap();
    let attempts: Vec<_> = (0..150)
        .map(|_| {
            let stranger = stranger.clone();
            tokio::spawn(tokio::time::timeout(Duration::from_millis(200), async move {
                drop(connect(addresses[0], stranger).await)
            }))
        })
        .collect();
    for attempt in attempts {
        drop(attempt.await);
    }
    let mut member = start(1, &addresses).await;
    node.connected_to(1).await;
    member.connected_to(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_may_ask_and_is_answered_on_its_own_connection() {
    let addresses = ports::<3>();
    // Node 2 knows the two members and dials them; they do not know where it is.
    let mut nodes = [
        start_among(0, &addresses, &members(2), &addresses[..2]).await,
        start_among(1, &addresses, &members(2), &addresses[..2]).await,
    ];
    let mut learner = start_among(2, &addresses, &members(2), &addresses[..2]).await;
    eventually("it is refused as long as nobody named it", || nodes[0].refused("unknown_key") > 0)
        .await;
    nodes[0].transport.admit([key(2).public_key().clone()]);
    // Who is refused learns that only after it thinks that it is connected: it asks until somebody
    // answers.
    let (guest, question, _budget) = loop {
        learner.transport.send(NodeId(0), Class::Vote, Bytes::from_static(b"what comes after 7?"));
        if let Ok(frame) = tokio::time::timeout(Duration::from_millis(300), nodes[0].frame()).await
        {
            break frame;
        }
    };
    assert!(is_guest(guest), "{guest}");
    assert_eq!(question, "what comes after 7?");
    nodes[0].transport.send(guest, Class::Bulk, Bytes::from_static(b"8"));
    let (from, answer, _budget) = learner.frame().await;
    assert_eq!((from, answer), (NodeId(0), Bytes::from_static(b"8")));
    while learner.inbound.try_recv().is_ok() {}
    // It is no member: nothing is broadcast to it, and it counts nowhere.
    nodes[0].transport.broadcast(Class::Bulk, Bytes::from_static(b"for members"));
    assert_eq!(nodes[0].transport.connected().len(), 1);
    assert_eq!(nodes[1].frame().await.1, "for members");
    tokio::time::sleep(Duration::from_millis(200)).await;
    while let Ok(event) = learner.inbound.try_recv() {
        assert!(!matches!(event, Inbound::Frame { .. }), "{event:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_member_is_reached_where_it_dials_from_and_an_old_one_becomes_a_guest() {
    let addresses = ports::<3>();
    let mut first = start_among(0, &addresses, &members(2), &addresses[..2]).await;
    let mut second = start_among(1, &addresses, &members(2), &addresses[..2]).await;
    first.connected_to(1).await;
    second.connected_to(0).await;
    // Not before the first has seen who the second is: else it meets a guest from the start.
    eventually("both directions", || first.transport.connected() == [(NodeId(1), true)]).await;
    // The next epoch: 1 goes, 2 comes. Nobody was told its address.
    let next = [member(0), member(2)];
    first.transport.set_members(&next);
    let mut third = start_among(2, &addresses, &next, &addresses[..1]).await;
    third.connected_to(0).await;
    first.connected_to(2).await;
    eventually("both directions", || first.transport.connected() == [(NodeId(2), true)]).await;
    first.transport.send(NodeId(2), Class::Vote, Bytes::from_static(b"welcome"));
    assert_eq!(third.frame().await.1, "welcome");
    // Who left still gets an answer: how its epoch ended.
    second.connected_to(0).await;
    second.transport.send(NodeId(0), Class::Vote, Bytes::from_static(b"where are you all?"));
    let (guest, _, _budget) = first.frame().await;
    assert!(is_guest(guest));
    first.transport.send(guest, Class::Bulk, Bytes::from_static(b"in the next epoch"));
    assert_eq!(second.frame().await.1, "in the next epoch");
    // And who stays keeps its connection.
    first.transport.set_members(&next);
    assert_eq!(first.transport.connected(), [(NodeId(2), true)]);
}
