//! Four whole nodes in one process, on loopback: born through their control ports, submitting
//! through their client ports, stopped and started again on the same volumes.

use cretoai_control::{
    api::{NodeStatus, Role},
    client::ControlClient,
    keys::SecretKey,
};
use cretoai_node::{
    config::Config,
    http::front::Identification,
    run::{Options, run_until},
    runtime::Creto,
};
use cretoai_types::{
    Change, Epoch, FaultModel, Genesis, GenesisMember, Parameters, PublicKey, Reconfig,
    SignedGenesis, SignedReconfig,
};
use std::{
    net::{SocketAddr, TcpListener, UdpSocket},
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
};

const NODES: usize = 4;
pub(crate) const CLUSTER: &str = "a-cluster";

#[derive(Clone, Copy)]
pub(crate) struct Addresses {
    pub(crate) control: SocketAddr,
    pub(crate) clients: SocketAddr,
    pub(crate) metrics: SocketAddr,
    pub(crate) quic: SocketAddr,
}

/// Ports below the range that the system hands out to clients, so that nobody takes one while a
/// node is away.
pub(crate) fn addresses(nodes: usize) -> Vec<Addresses> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let free = || loop {
        let next = std::process::id() * 64 + NEXT.fetch_add(1, Ordering::Relaxed);
        let address = SocketAddr::from(([127, 0, 0, 1], 10_000 + (next % 10_000) as u16));
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return address;
        }
    };
    (0..nodes)
        .map(|_| Addresses { control: free(), clients: free(), metrics: free(), quic: free() })
        .collect()
}

struct Running {
    stop: oneshot::Sender<()>,
    ended: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    /// Stops as SIGTERM does; how long it took.
    async fn stop(self) -> Duration {
        let started = Instant::now();
        self.stop.send(()).unwrap();
        self.ended.await.unwrap().unwrap();
        started.elapsed()
    }
}

fn start(n: usize, volume: &Path, all: &[Addresses], admin: &SecretKey) -> Running {
    start_at(n, all[n], volume, all, admin)
}

/// The node.toml of a node that knows where these others are.
pub(crate) fn node_toml(n: usize, own: Addresses, volume: &Path, all: &[Addresses]) -> String {
    let peers: Vec<String> =
        all.iter().map(|a| format!("'/ip4/127.0.0.1/udp/{}/quic'", a.quic.port())).collect();
    format!(
        "[node]\nid = 'node-{n}'\ndata_dir = {:?}\n[network]\nlisten_addr = '{}'\nquic_port = {}\nbootstrap_peers = [{}]\n\
         [storage]\ncache_size_mb = 8\nwrite_buffer_mb = 8\n[metrics]\nport = {}\n",
        volume.join(format!("node-{n}")),
        own.control,
        own.quic.port(),
        peers.join(", "),
        own.metrics.port()
    )
}

fn start_at(
    n: usize,
    own: Addresses,
    volume: &Path,
    all: &[Addresses],
    admin: &SecretKey,
) -> Running {
    let text = node_toml(n, own, volume, all);
    let config = Config::parse(&text, None).unwrap();
    let identification = Identification {
        name: format!("node-{n}"),
        pod_uid: format!("uid-{n}"),
        cluster_uid: CLUSTER.into(),
        admin: Some(admin.public_key().fingerprint()),
        token_path: None,
    };
    let options = Options {
        api_listen: own.clients,
        identification,
        stop_grace: Duration::ZERO,
        genesis: None,
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let stopped = async move {
        drop(stopped.await);
        "the test"
    };
    let ended = tokio::spawn(async move {
        let ended = run_until::<Creto>(config, options, stopped).await;
        if let Err(error) = &ended {
            println!("node-{n}: {error:#}");
        }
        ended
    });
    Running { stop, ended }
}

pub(crate) async fn http(to: SocketAddr, head: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let head = format!(
        "{head} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
    let mut answer = vec![];
    stream.read_to_end(&mut answer).await.unwrap();
    let split = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    let status =
        String::from_utf8_lossy(&answer[..split]).split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_off(split + 4))
}

pub(crate) async fn until<T>(what: &str, mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = attempt().await {
            return value;
        }
        assert!(started.elapsed() < Duration::from_secs(30), "{what} did not happen within 30 s");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn all_ready(
    client: &ControlClient,
    all: &[Addresses],
    keys: &[PublicKey],
) -> Vec<NodeStatus> {
    let mut statuses = vec![];
    for (own, key) in all.iter().zip(keys) {
        statuses.push(
            until("readiness", async || match client.status(own.control, key).await {
                Ok(status) if status.ready => Some(status),
                _ => None,
            })
            .await,
        );
    }
    statuses
}

/// Waits until all nodes are at one sequence, and returns it with its chain hash.
async fn agreed(client: &ControlClient, all: &[Addresses], keys: &[PublicKey]) -> (u64, String) {
    until("agreement", async || {
        let mut places = vec![];
        for (own, key) in all.iter().zip(keys) {
            let status = client.status(own.control, key).await.ok()?;
            places.push((status.sequence, status.chain_hash));
        }
        places.dedup();
        if let [only] = places.as_slice() { Some(only.clone()) } else { None }
    })
    .await
}

/// Attests all, signs the genesis, hands it in.
pub(crate) async fn birth(
    client: &ControlClient,
    all: &[Addresses],
    admin: &SecretKey,
) -> (SignedGenesis, Vec<PublicKey>) {
    let mut members = vec![];
    for own in all {
        let (key, attestation) =
            until("attestation", async || client.attest(own.control, &[1; 32]).await.ok()).await;
        assert_eq!(
            (attestation.chain_id.as_ref(), attestation.cluster_uid.as_str()),
            (None, CLUSTER)
        );
        let proof = attestation.possession_signature().unwrap();
        members.push(GenesisMember { name: attestation.pod_name, key, proof });
    }
    let keys: Vec<PublicKey> = members.iter().map(|m| m.key.clone()).collect();
    assert_eq!(client.status(all[0].control, &keys[0]).await.unwrap().role, Role::Waiting);
    let genesis = Genesis {
        cluster_uid: CLUSTER.into(),
        admin_key: admin.public_key().clone(),
        members,
        fault_model: FaultModel::Byzantine,
        parameters: Parameters::default(),
        created_ms: 1_700_000_000_000,
    };
    let signature = admin.sign(&genesis.signing_message());
    let signed = SignedGenesis { genesis, signature };
    for (own, key) in all.iter().zip(&keys) {
        client.put_genesis(own.control, key, &signed).await.unwrap();
    }
    (signed, keys)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_nodes_are_born_decide_stop_and_go_on() {
    let volume = tempfile::tempdir().unwrap();
    let all = addresses(NODES);
    let admin = SecretKey::from_seed(&[42; 32]).unwrap();
    let client = ControlClient::new(&admin).unwrap();
    let mut running: Vec<Running> =
        (0..NODES).map(|n| start(n, volume.path(), &all, &admin)).collect();

    let (signed, keys) = birth(&client, &all, &admin).await;
    let born = Instant::now();
    let statuses = all_ready(&client, &all, &keys).await;
    println!("ready {:?} after the first genesis was handed in", born.elapsed());
    for status in &statuses {
        assert_eq!(status.role, Role::Validator);
        assert_eq!(
            status.chain_id.as_deref(),
            Some(signed.genesis.chain_id().to_string().as_str())
        );
        let quorum = status.quorum.unwrap();
        assert_eq!((quorum.members, quorum.required, quorum.fault_tolerance), (4, 3, 1));
    }

    // Payloads of many sizes through every node, each read back everywhere.
    let mut ids = vec![];
    for (n, size) in [1, 7, 512, 4_096, 70_000, 128 * 1024].into_iter().enumerate() {
        let data = vec![n as u8 + 1; size];
        let (status, body) =
            http(all[n % NODES].clients, "POST /v1/payloads?wait=10000", &data).await;
        let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((status, json["outcome"].as_str()), (200, Some("executed")), "{json}");
        println!("{size} bytes final in {} ms", json["latencyMs"]);
        ids.push((json["id"].as_str().unwrap().to_owned(), data));
    }
    let before = agreed(&client, &all, &keys).await;
    for (id, data) in &ids {
        for own in &all {
            assert_eq!(
                http(own.clients, &format!("GET /v1/payloads/{id}"), b"").await,
                (200, data.clone())
            );
        }
    }

    // One node away: the chain goes on; back again, it catches up.
    let last = running.pop().unwrap();
    println!("stopped in {:?}", last.stop().await);
    let (status, _) =
        http(all[0].clients, "POST /v1/payloads?wait=10000", b"with three of four").await;
    assert_eq!(status, 200);
    running.push(start(3, volume.path(), &all, &admin));
    all_ready(&client, &all, &keys).await;
    let between = agreed(&client, &all, &keys).await;
    assert!(between.0 > before.0);

    // The leader away: another one leads, and the chain goes on. Back again, the old one follows.
    let leader = client.status(all[0].control, &keys[0]).await.unwrap().leader.unwrap();
    let old: usize = leader.strip_prefix("node-").unwrap().parse().unwrap();
    let leading = running.remove(old);
    println!("stopped the leader {leader} in {:?}", leading.stop().await);
    let others: Vec<usize> = (0..NODES).filter(|n| *n != old).collect();
    let (status, body) =
        http(all[others[0]].clients, "POST /v1/payloads?wait=20000", b"without the old leader")
            .await;
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    for n in &others {
        let status = client.status(all[*n].control, &keys[*n]).await.unwrap();
        assert!(
            status.view > 0 && status.leader.is_some_and(|now| now != leader),
            "node-{n} is in view {} still",
            status.view
        );
    }
    let metrics = http(all[others[1]].metrics, "GET /metrics", b"").await.1;
    let metrics = String::from_utf8_lossy(&metrics);
    for name in [
        "cretoai_view_changes_total",
        "cretoai_reputation{node_id=\"0\"} 10",
        "cretoai_epoch 0",
        "cretoai_view_active 1",
    ] {
        assert!(metrics.contains(name), "{name} is missing in\n{metrics}");
    }
    running.insert(old, start(old, volume.path(), &all, &admin));
    let statuses = all_ready(&client, &all, &keys).await;
    let between = agreed(&client, &all, &keys).await.max(between);
    assert!(statuses.iter().all(
        |s| s.suspected.is_empty() && s.members.iter().all(|m| m.reputation == 10 && !m.banned)
    ));
    let (status, body) = http(all[0].clients, "GET /v1/evidence", b"").await;
    let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, json["total"].as_u64()), (200, Some(0)), "{json}");

    // All stopped and started on their volumes: the same chain goes on.
    for node in running {
        let took = node.stop().await;
        assert!(took < Duration::from_secs(5), "stopping took {took:?}");
    }
    let restarted = Instant::now();
    let running: Vec<Running> = (0..NODES).map(|n| start(n, volume.path(), &all, &admin)).collect();
    let statuses = all_ready(&client, &all, &keys).await;
    println!("all four restarted and ready in {:?}", restarted.elapsed());
    assert!(statuses.iter().all(|s| s.sequence >= between.0));
    let (status, body) =
        http(all[1].clients, "POST /v1/payloads?wait=10000", b"after the restart").await;
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    assert!(agreed(&client, &all, &keys).await.0 > between.0);
    let (id, data) = &ids[5];
    assert_eq!(
        http(all[2].clients, &format!("GET /v1/payloads/{id}"), b"").await,
        (200, data.clone())
    );
    for node in running {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fifth_node_learns_joins_and_votes() {
    let volume = tempfile::tempdir().unwrap();
    let mut all = addresses(NODES + 1);
    let joining = all.pop().unwrap();
    let admin = SecretKey::from_seed(&[43; 32]).unwrap();
    let client = ControlClient::new(&admin).unwrap();
    let mut running: Vec<Running> =
        (0..NODES).map(|n| start(n, volume.path(), &all, &admin)).collect();
    let (signed, mut keys) = birth(&client, &all, &admin).await;
    all_ready(&client, &all, &keys).await;
    let post = async |to: &Addresses, data: &[u8]| {
        http(to.clients, "POST /v1/payloads?wait=20000", data).await
    };
    for n in 0..5_u8 {
        assert_eq!(post(&all[0], &[n; 100]).await.0, 200);
    }

    // It is nobody's member, and knows where the others are; they do not know where it is.
    running.push(start_at(NODES, joining, volume.path(), &all, &admin));
    let (key, _) =
        until("attestation", async || client.attest(joining.control, &[2; 32]).await.ok()).await;
    client.put_genesis_to_learner(joining.control, &key, &signed).await.unwrap();
    for (own, member) in all.iter().zip(&keys) {
        client.admit_learners(own.control, member, std::slice::from_ref(&key)).await.unwrap();
    }
    let (sequence, chain_hash) = agreed(&client, &all, &keys).await;
    let learnt = until("the learner follows", async || {
        client.status(joining.control, &key).await.ok().filter(|status| status.sequence >= sequence)
    })
    .await;
    assert_eq!((learnt.role, learnt.ready), (Role::Learner, false));
    assert!(
        learnt
            .recent
            .iter()
            .any(|record| record.sequence == sequence && record.chain_hash == chain_hash)
    );
    assert_eq!(post(&joining, b"a learner takes nothing in").await.0, 503);

    let change = Change::Add { name: "node-4".into(), key: key.clone() };
    let (ready, possession) = client.ready(joining.control, &key, Epoch(0), &change).await.unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let reconfig =
        Reconfig { epoch: Epoch(0), valid_until_ms: now + 40_000, change, ready: Some(ready) };
    let order = SignedReconfig {
        admin: admin.sign(&reconfig.signing_message(signed.genesis.chain_id())),
        reconfig,
        new_key: Some(possession),
        old_key: None,
    };
    client.reconfigure(all[1].control, &keys[1], &order).await.unwrap();
    all.push(joining);
    keys.push(key);
    let statuses = until("the next epoch", async || {
        let mut statuses = vec![];
        for (own, key) in all.iter().zip(&keys) {
            statuses.push(
                client
                    .status(own.control, key)
                    .await
                    .ok()
                    .filter(|status| status.epoch == 1 && status.ready)?,
            );
        }
        Some(statuses)
    })
    .await;
    for status in &statuses {
        assert_eq!(
            (status.role, status.quorum.unwrap().required, status.members.len()),
            (Role::Validator, 4, 5)
        );
    }
    // The same order again is void, and the new one takes payloads like the others.
    assert!(client.reconfigure(all[1].control, &keys[1], &order).await.is_err());
    assert_eq!(post(&joining, b"from the fifth").await.0, 200);
    // Everybody has to be connected with it: with one of the old away, its vote is needed.
    running.remove(3).stop().await;
    assert_eq!(post(&all[0], b"with the vote of the fifth").await.0, 200);
    for node in running {
        node.stop().await;
    }
}

/// A process that ends with its test, whatever becomes of that.
#[cfg(feature = "byzantine")]
struct Ended(std::process::Child);

#[cfg(feature = "byzantine")]
impl Drop for Ended {
    fn drop(&mut self) {
        for ended in [self.0.kill(), self.0.wait().map(drop)] {
            if let Err(error) = ended {
                println!("the attacker: {error}");
            }
        }
    }
}

/// One of four is a process of its own that attacks: as the leader it proposes and commits two
/// decisions for one place, and it forks its lane.
#[cfg(feature = "byzantine")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attacker_is_proven_guilty_and_the_others_go_on() {
    use std::process::{Command, Stdio};
    let volume = tempfile::tempdir().unwrap();
    let all = addresses(NODES);
    let admin = SecretKey::from_seed(&[44; 32]).unwrap();
    let client = ControlClient::new(&admin).unwrap();
    let config = volume.path().join("attacker.toml");
    std::fs::write(&config, node_toml(0, all[0], volume.path(), &all)).unwrap();
    let binary = env!("CARGO_BIN_EXE_cretoai-node");
    let attacker = Command::new(binary)
        .args(["run", "--config"])
        .arg(&config)
        .args(["--api-listen", &all[0].clients.to_string()])
        .env("CRETO_BYZANTINE", "equivocate,lie-catch-up")
        .env("CRETO_CLUSTER_UID", CLUSTER)
        .env("CRETO_ADMIN_KEY", admin.public_key().fingerprint().to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut attacker = Ended(attacker);
    let honest: Vec<Running> = (1..NODES).map(|n| start(n, volume.path(), &all, &admin)).collect();
    let (signed, keys) = birth(&client, &all, &admin).await;
    all_ready(&client, &all[1..], &keys[1..]).await;
    // What only the attacker was given, it puts into a lane that it forks.
    http(all[0].clients, "POST /v1/payloads?wait=0", b"to the attacker").await;
    for n in 0..20_u8 {
        let (status, body) =
            http(all[1 + usize::from(n) % 3].clients, "POST /v1/payloads?wait=20000", &[n; 64])
                .await;
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    }
    for (own, key) in all[1..].iter().zip(&keys[1..]) {
        let suspected = until("suspicion", async || {
            let status = client.status(own.control, key).await.ok()?;
            (!status.suspected.is_empty()).then_some(status.suspected)
        })
        .await;
        assert_eq!(suspected, ["node-0"], "nobody else is framed");
    }
    let chain = agreed(&client, &all[1..], &keys[1..]).await;
    println!("the honest agree on {chain:?}");

    let (status, item) = http(all[2].clients, "GET /v1/evidence/0", b"").await;
    assert_eq!(status, 200);
    let (file, genesis) = (volume.path().join("evidence.json"), volume.path().join("genesis"));
    std::fs::write(&file, &item).unwrap();
    std::fs::write(&genesis, signed.encode()).unwrap();
    let verify = || {
        Command::new(binary)
            .args(["verify", "evidence"])
            .arg(&file)
            .arg("--genesis")
            .arg(&genesis)
            .output()
            .unwrap()
    };
    let proven = verify();
    println!("{}", String::from_utf8_lossy(&proven.stdout));
    assert!(
        proven.status.success()
            && String::from_utf8_lossy(&proven.stdout).contains("validator node-0 (id 0)")
    );
    std::fs::write(&file, String::from_utf8_lossy(&item).replace("\"epoch\":0", "\"epoch\":1"))
        .unwrap();
    assert_eq!(verify().status.code(), Some(1));

    attacker.0.kill().unwrap();
    let (status, _) =
        http(all[3].clients, "POST /v1/payloads?wait=20000", b"without the attacker").await;
    assert_eq!(status, 200);
    for node in honest {
        node.stop().await;
    }
}
