//! The three HTTP ports over real sockets, with a ledger that does what it is told: each status,
//! and who stays out.

use cretoai_control::{
    api::{Accused, EvidenceItem, EvidenceList, NodeStatus, Problem, Role},
    client::{ControlClient, ControlError},
    keys::{MlDsa87, SecretKey},
};
use cretoai_node::{
    config::Config,
    handle::{Birth, GenesisRefused, Ledger, Lookup, Place, SubmitError, SubmitTicket},
    http::{Front, Listening, client_api, control, front::Identification, probes},
    metrics::{Metrics, Port},
    storage::{Decided, Receipted},
};
use cretoai_serve::Limits;
use cretoai_types::{
    Change, CheckpointCertificate, CheckpointState, Epoch, FaultModel, Genesis, GenesisMember,
    Hash, MerklePath, NodeId, Outcome, OutcomeLeaf, Parameters, Payload, PublicKey, Ready, Receipt,
    ReceiptProof, Reconfig, RecordLink, Sequence, SignedGenesis, SignedReconfig, Verifier,
};
use serde_json::Value;
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{oneshot, watch},
};

pub const CHAIN: Hash = Hash([3; 32]);
/// How much evidence the fake ledger has.
const EVIDENCE: usize = 70;

fn key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32]).unwrap()
}

pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

pub fn place(outcome: Outcome) -> Place {
    Place { sequence: Sequence(7), index: 2, chain_hash: Hash([9; 32]), time_ms: 1_234, outcome }
}

/// What the fake ledger does with the next payload.
#[derive(Clone, Copy, Default)]
pub enum Answer {
    #[default]
    Execute,
    Duplicate,
    /// Ordered with this outcome, and nothing else is known.
    Ordered(Outcome),
    /// A copy came too late, after the first had executed at sequence 5.
    LateCopy,
    Never,
    GiveUp,
    Full,
}

#[derive(Default)]
pub struct Fake {
    answer: Mutex<Answer>,
    pub taken: Mutex<HashMap<Hash, Payload>>,
    waiting: Mutex<Vec<oneshot::Sender<Place>>>,
    ready: AtomicBool,
    learners: Mutex<Vec<PublicKey>>,
    /// How long a lookup takes, how many go on, and how many went on at most.
    pub lookup_takes: Mutex<Duration>,
    lookups: AtomicUsize,
    pub most_lookups: AtomicUsize,
    chain: Mutex<Vec<Decided>>,
    newest: Newest,
    /// The newest sequence that was read in order.
    most_decided: AtomicUsize,
}

struct Newest(watch::Sender<Option<Sequence>>);

impl Default for Newest {
    fn default() -> Self {
        Self(watch::Sender::new(Some(Sequence(0))))
    }
}

impl Fake {
    /// Drops the clients that wait.
    pub fn give_up(&self) {
        self.waiting.lock().unwrap().clear();
    }

    /// The chain grows by a record.
    pub fn decide(&self, decided: Decided) {
        let sequence = decided.sequence;
        self.chain.lock().unwrap().push(decided);
        self.newest.0.send_replace(Some(sequence));
    }

    /// The newest sequence that was read in order.
    pub fn most_decided(&self) -> usize {
        self.most_decided.load(Ordering::SeqCst)
    }

    /// The node stops.
    pub fn stop(&self) {
        self.newest.0.send_replace(None);
    }

    pub fn answers(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }
}

impl Ledger for Fake {
    fn submit(&self, payload: Payload) -> Result<SubmitTicket, SubmitError> {
        let id = payload.id(CHAIN);
        let (sender, outcome) = oneshot::channel();
        match *self.answer.lock().unwrap() {
            Answer::Execute => sender.send(place(Outcome::Executed)).unwrap(),
            Answer::Duplicate => {
                sender.send(place(Outcome::Duplicate { executed_at: Sequence(5) })).unwrap()
            }
            Answer::Ordered(outcome) => sender.send(place(outcome)).unwrap(),
            Answer::LateCopy => sender.send(place(Outcome::Expired)).unwrap(),
            Answer::Never => self.waiting.lock().unwrap().push(sender),
            Answer::GiveUp => drop(sender),
            Answer::Full => return Err(SubmitError::Full { retry_after_ms: 1_500 }),
        }
        self.taken.lock().unwrap().insert(id, payload);
        Ok(SubmitTicket { id, outcome })
    }

    fn lookup(&self, id: &Hash) -> Result<Option<Lookup>, String> {
        let now = self.lookups.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_lookups.fetch_max(now, Ordering::SeqCst);
        std::thread::sleep(*self.lookup_takes.lock().unwrap());
        self.lookups.fetch_sub(1, Ordering::SeqCst);
        let taken = self.taken.lock().unwrap();
        let Some(payload) = taken.get(id).cloned() else { return Ok(None) };
        let first = Place { sequence: Sequence(5), ..place(Outcome::Executed) };
        let place = match *self.answer.lock().unwrap() {
            Answer::GiveUp => return Ok(None),
            Answer::Never => return Ok(Some(Lookup::Pending)),
            Answer::Duplicate | Answer::LateCopy => first,
            Answer::Ordered(outcome) => place(outcome),
            Answer::Execute | Answer::Full => place(Outcome::Executed),
        };
        Ok(Some(Lookup::Final { place, payload }))
    }

    fn receipt(&self, id: &Hash) -> Result<Receipted, String> {
        if !self.taken.lock().unwrap().contains_key(id) {
            return Ok(Receipted::Unknown);
        }
        if matches!(*self.answer.lock().unwrap(), Answer::Never) {
            return Ok(Receipted::NotYet(Sequence(7)));
        }
        Ok(Receipted::Ready(Box::new(a_receipt(*id))))
    }

    fn decided(&self, sequence: Sequence) -> Result<Option<Decided>, String> {
        let number = usize::try_from(sequence.0).unwrap_or(usize::MAX);
        self.most_decided.fetch_max(number, Ordering::SeqCst);
        Ok(self.chain.lock().unwrap().get(number - 1).cloned())
    }

    fn newest(&self) -> watch::Receiver<Option<Sequence>> {
        self.newest.0.subscribe()
    }

    fn evidence(&self, first: usize, count: usize) -> Result<EvidenceList, String> {
        let item = |number: usize| EvidenceItem {
            chain_id: CHAIN.to_string(),
            number: number as u64,
            sequence: 40,
            epoch: 0,
            accused: Accused { id: 2, name: "prod-2".into(), key: "00".into() },
            kind: "vertex_fork".into(),
            view: None,
            voted_sequence: None,
            height: Some(9),
            evidence: "AA==".into(),
        };
        let items: Vec<EvidenceItem> = (first..EVIDENCE).take(count).map(item).collect();
        let end = first + items.len();
        Ok(EvidenceList {
            chain_id: CHAIN.to_string(),
            total: EVIDENCE as u64,
            items,
            next: (end < EVIDENCE).then_some(end as u64),
        })
    }

    fn reconfigure(&self, order: SignedReconfig) -> Result<(), String> {
        if order.reconfig.epoch == Epoch(0) {
            Ok(())
        } else {
            Err("it is not of this epoch, or too late".into())
        }
    }

    fn knows(&self) -> Result<(Epoch, Ready), String> {
        Ok((Epoch(0), Ready { sequence: Sequence(64), chain_hash: Hash([8; 32]) }))
    }

    fn admit_learners(&self, keys: Vec<PublicKey>) {
        self.learners.lock().unwrap().extend(keys);
    }

    fn status(&self) -> NodeStatus {
        let ready = self.ready.load(Ordering::Relaxed);
        NodeStatus {
            name: "prod-0".into(),
            node_id: Some(0),
            key_fingerprint: String::new(),
            role: Role::Validator,
            chain_id: Some(CHAIN.to_string()),
            epoch: 0,
            view: 0,
            active: true,
            want: 0,
            leader: None,
            sequence: 7,
            chain_hash: String::new(),
            time_ms: 0,
            stable: 0,
            quorum: None,
            members: vec![],
            suspected: vec![],
            peers: vec![],
            recent: vec![],
            finality_p99_ms: None,
            version: String::new(),
            ready,
            waiting_for: if ready { "nothing".into() } else { "hears 1 of 4 validators".into() },
        }
    }

    fn newest_time_ms(&self) -> u64 {
        0
    }
}

#[derive(Default)]
struct Volume(Mutex<Option<SignedGenesis>>);

impl Birth for Volume {
    fn chain_id(&self) -> Option<Hash> {
        self.genesis().map(|g| g.genesis.chain_id())
    }
    fn genesis(&self) -> Option<SignedGenesis> {
        self.0.lock().unwrap().clone()
    }
    fn accept_genesis(&self, genesis: SignedGenesis) -> Result<(), GenesisRefused> {
        let offered = genesis.genesis.chain_id();
        match self.chain_id() {
            Some(held) if held != offered => Err(GenesisRefused::OtherChain { held, offered }),
            _ => {
                *self.0.lock().unwrap() = Some(genesis);
                Ok(())
            }
        }
    }
}

pub struct Ports {
    front: Arc<Front>,
    pub clients: SocketAddr,
    control: SocketAddr,
    pub probes: SocketAddr,
    close: watch::Sender<bool>,
    served: Vec<tokio::task::JoinHandle<()>>,
}

pub async fn ports(ledger: Option<Arc<Fake>>) -> Ports {
    // All callers have the same address here.
    ports_with(ledger, Limits { share: 64, ..Limits::new(64) }).await
}

pub async fn ports_with(ledger: Option<Arc<Fake>>, limits: Limits) -> Ports {
    let identification = Identification {
        name: "prod-0".into(),
        pod_uid: "uid-0".into(),
        cluster_uid: "cluster".into(),
        admin: Some(key(200).public_key().fingerprint()),
        token_path: None,
    };
    let metrics = Arc::new(Metrics::new().unwrap());
    let front = Front::new(identification, key(0), metrics.clone(), Arc::new(Volume::default()));
    if let Some(ledger) = ledger {
        front.set_ledger(ledger);
    }
    let config = Config::parse("", Some("prod-0")).unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    let (close, closing) = watch::channel(false);
    let clients = Listening::bind_with(any, "--api-listen", Port::Client, limits).await.unwrap();
    let controls = Listening::bind(any, "network.listen_addr", Port::Control, 8)
        .await
        .unwrap()
        .with_tls(control::tls(&front).unwrap());
    let probe = Listening::bind(any, "metrics.port", Port::Metrics, 8).await.unwrap();
    let addresses = [
        clients.local_addr().unwrap(),
        controls.local_addr().unwrap(),
        probe.local_addr().unwrap(),
    ];
    let served = vec![
        tokio::spawn(clients.serve(
            client_api::router(front.clone(), 300),
            metrics.clone(),
            closing.clone(),
        )),
        tokio::spawn(controls.serve(
            control::router(front.clone()),
            metrics.clone(),
            closing.clone(),
        )),
        tokio::spawn(probe.serve(probes::router(front.clone(), &config.metrics), metrics, closing)),
    ];
    Ports {
        front,
        clients: addresses[0],
        control: addresses[1],
        probes: addresses[2],
        close,
        served,
    }
}

pub struct Answered {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answered {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub fn header(&self, name: &str) -> Option<String> {
        let line =
            self.head.lines().find(|line| line.to_lowercase().starts_with(&format!("{name}:")))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    }

    pub fn error(&self) -> (u16, String, String) {
        assert_eq!(self.header("content-type").as_deref(), Some("application/problem+json"));
        let problem: Problem = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(problem.status, self.status);
        assert_eq!(problem.kind, format!("urn:cretoai:problem:{}", problem.code));
        let sentence = problem.sentence();
        assert!(sentence.len() > 20 && !problem.title.is_empty(), "{sentence}");
        (self.status, problem.code, sentence)
    }
}

/// Sends bytes as they are and reads until the server closes.
pub async fn raw(to: SocketAddr, bytes: &[u8], half_close: bool) -> Answered {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    if half_close {
        stream.shutdown().await.unwrap();
    }
    let mut answer = vec![];
    tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer))
        .await
        .expect("no answer within 10 s")
        .unwrap();
    let split = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or(answer.len());
    let head = String::from_utf8_lossy(&answer[..split]).into_owned();
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    Answered { status, head, body: answer.get(split + 4..).unwrap_or_default().to_vec() }
}

pub async fn post(to: SocketAddr, path: &str, headers: &str, body: &[u8]) -> Answered {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
        body.len()
    );
    raw(to, &[head.as_bytes(), body].concat(), false).await
}

pub async fn get(to: SocketAddr, path: &str, headers: &str) -> Answered {
    raw(
        to,
        format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n").as_bytes(),
        false,
    )
    .await
}

pub const OCTETS: &str = "Content-Type: application/octet-stream\r\n";

#[tokio::test]
async fn a_payload_is_final_duplicate_pending_or_given_up() {
    let ledger = Arc::new(Fake::default());
    let ports = ports(Some(ledger.clone())).await;
    let answer = post(ports.clients, "/v1/payloads", OCTETS, b"hello").await;
    let json = answer.json();
    assert_eq!(answer.status, 200, "{json}");
    assert_eq!(
        (json["status"].as_str(), json["outcome"].as_str()),
        (Some("final"), Some("executed"))
    );
    assert_eq!(
        (json["sequence"].as_u64(), json["index"].as_u64(), json["timeMs"].as_u64()),
        (Some(7), Some(2), Some(1_234))
    );
    assert_eq!(json["chainHash"], Hash([9; 32]).to_string());
    assert!(json["latencyMs"].as_f64().unwrap() < 300.0);
    let valid_until = json["validUntil"].as_u64().unwrap();
    assert!((now_ms() + 25_000..now_ms() + 31_000).contains(&valid_until));
    let named = json["idempotencyKey"].as_str().unwrap().to_owned();
    assert_eq!(hex::decode(&named).unwrap().len(), 16);

    ledger.answers(Answer::Duplicate);
    let headers = format!("{OCTETS}Idempotency-Key: {named}\r\nValid-Until: {valid_until}\r\n");
    let again = post(ports.clients, "/v1/payloads", &headers, b"hello").await.json();
    assert_eq!(again["id"], json["id"], "the same bytes are the same payload");
    assert_eq!(
        (again["outcome"].as_str(), again["executedAt"].as_u64()),
        (Some("duplicate"), Some(5))
    );

    ledger.answers(Answer::Never);
    for path in ["/v1/payloads", "/v1/payloads?wait=0"] {
        let pending = post(ports.clients, path, OCTETS, b"later").await;
        assert_eq!((pending.status, pending.json()["status"].as_str()), (202, Some("pending")));
        assert!(
            pending.json()["idempotencyKey"].is_string() && pending.json()["validUntil"].is_u64()
        );
    }
    ledger.answers(Answer::GiveUp);
    let (status, code, message) =
        post(ports.clients, "/v1/payloads", OCTETS, b"lost").await.error();
    assert_eq!((status, code.as_str()), (503, "not_kept"));
    assert!(
        message.contains("Idempotency-Key: ") && message.contains("Valid-Until: "),
        "{message}"
    );
    assert_eq!(ports.front.metrics.payloads_accepted.get(), 5);
    assert_eq!(ports.front.metrics.payloads_refused.get(), 1);
}

#[tokio::test]
async fn bad_payloads_are_refused_each_with_its_status_and_nothing_is_taken_in() {
    let ledger = Arc::new(Fake::default());
    let ports = ports(Some(ledger.clone())).await;
    let to = ports.clients;
    let expect = async |headers: &str, body: &[u8], status: u16, code: &str, words: &str| {
        let (got, got_code, message) = post(to, "/v1/payloads", headers, body).await.error();
        assert_eq!((got, got_code.as_str()), (status, code), "{message}");
        assert!(message.contains(words), "{message}: no {words}");
    };
    expect(OCTETS, b"", 400, "empty", "at least 1 byte").await;
    expect("", b"x", 415, "content_type", "application/octet-stream").await;
    expect("Content-Type: application/json\r\n", b"{}", 415, "content_type", "application/json")
        .await;
    expect(OCTETS, &vec![0; 128 * 1024 + 1], 413, "too_large", "131072").await;
    expect(OCTETS, &vec![0; 3 << 20], 413, "too_large", "131072").await;
    let now = now_ms();
    expect(
        &format!("{OCTETS}Idempotency-Key: {}\r\n", "0".repeat(32)),
        b"x",
        400,
        "bad_header",
        "Valid-Until: ",
    )
    .await;
    expect(
        &format!("{OCTETS}Idempotency-Key: zz\r\nValid-Until: {}\r\n", now + 9_000),
        b"x",
        400,
        "bad_header",
        "zz",
    )
    .await;
    expect(&format!("{OCTETS}Valid-Until: soon\r\n"), b"x", 400, "bad_header", "soon").await;
    expect(&format!("{OCTETS}Valid-Until: {}\r\n", now - 1), b"x", 400, "bad_header", "passed")
        .await;
    expect(&format!("{OCTETS}Valid-Until: {}\r\n", now + 60_000), b"x", 400, "bad_header", "45 s")
        .await;
    for wait in ["-1", "60001", "x", ""] {
        let (status, code, _) =
            post(to, &format!("/v1/payloads?wait={wait}"), OCTETS, b"x").await.error();
        assert_eq!((status, code.as_str()), (400, "bad_parameter"));
    }
    // Chunked, so that the length is not announced.
    let chunk = format!(
        "POST /v1/payloads HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n{OCTETS}\r\n20001\r\n"
    );
    let answer =
        raw(to, &[chunk.as_bytes(), &vec![0; 0x20001], b"\r\n0\r\n\r\n"].concat(), false).await;
    assert_eq!(answer.error().0, 413);
    // Half a body, then the client goes away.
    let head = format!(
        "POST /v1/payloads HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 10\r\n{OCTETS}\r\nhalf"
    );
    let answer = raw(to, head.as_bytes(), true).await;
    assert!(answer.status == 400 || answer.head.is_empty(), "{}", answer.head);
    assert!(ledger.taken.lock().unwrap().is_empty(), "a refused payload was taken in");
    assert_eq!(ports.front.metrics.payloads_accepted.get(), 0);

    ledger.answers(Answer::Full);
    let full = post(to, "/v1/payloads", OCTETS, b"x").await;
    assert_eq!((full.status, full.header("retry-after").as_deref()), (429, Some("2")));
    assert_eq!(full.error().1, "full");
    ledger.answers(Answer::Execute);
    assert_eq!(post(to, "/v1/payloads", OCTETS, &vec![1; 128 * 1024]).await.status, 200);
}

#[tokio::test]
async fn a_payload_is_read_back_as_bytes_or_json() {
    let ledger = Arc::new(Fake::default());
    let ports = ports(Some(ledger.clone())).await;
    let data: Vec<u8> = (0..=255).collect();
    let id = post(ports.clients, "/v1/payloads", OCTETS, &data).await.json()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let bytes = get(ports.clients, &format!("/v1/payloads/{id}"), "").await;
    assert_eq!((bytes.status, &bytes.body), (200, &data));
    assert_eq!(bytes.header("content-type").as_deref(), Some("application/octet-stream"));
    assert_eq!(
        (bytes.header("x-creto-sequence").as_deref(), bytes.header("x-creto-index").as_deref()),
        (Some("7"), Some("2"))
    );
    assert_eq!(bytes.header("x-creto-chain-hash").unwrap(), Hash([9; 32]).to_string());
    let json = get(ports.clients, &format!("/v1/payloads/{id}"), "Accept: application/json\r\n")
        .await
        .json();
    assert_eq!((json["status"].as_str(), json["sequence"].as_u64()), (Some("final"), Some(7)));
    assert_eq!(cretoai_control::api::decode_base64(json["data"].as_str().unwrap()).unwrap(), data);
    ledger.answers(Answer::Never);
    assert_eq!(get(ports.clients, &format!("/v1/payloads/{id}"), "").await.status, 202);
    assert_eq!(
        get(ports.clients, &format!("/v1/payloads/{}", "0".repeat(64)), "").await.error().0,
        404
    );
    assert_eq!(get(ports.clients, "/v1/payloads/abc", "").await.error().0, 400);
    assert_eq!(get(ports.clients, "/v2", "").await.error().0, 404);
    assert_eq!(get(ports.clients, "/v1/payloads", "").await.error().0, 405);
    assert_eq!(get(ports.clients, "/v1/status", "").await.json()["sequence"], 7);
}

/// The bytes of a receipt; it proves nothing.
fn a_receipt(payload: Hash) -> Receipt {
    let link = RecordLink { digest: CHAIN, vertices: CHAIN, outcomes: CHAIN };
    let state = CheckpointState {
        epoch: Epoch(0),
        sequence: Sequence(7),
        chain_hash: CHAIN,
        tips: Vec::new(),
        root: CHAIN,
        successor: None,
    };
    Receipt {
        chain_id: CHAIN,
        epochs: Vec::new(),
        sequence: Sequence(7),
        leaf: OutcomeLeaf { index: 0, topic: None, payload, outcome: Outcome::Executed },
        path: MerklePath { index: 0, leaves: 1, siblings: Vec::new() },
        previous: CHAIN,
        record: link,
        following: Vec::new(),
        proof: ReceiptProof::Checkpoint(CheckpointCertificate { state, signatures: Vec::new() }),
    }
}

#[tokio::test]
async fn a_receipt_is_handed_out_as_a_file_once_there_is_one() {
    let fake = Arc::new(Fake::default());
    let ports = ports(Some(Arc::clone(&fake))).await;
    let id = post(ports.clients, "/v1/payloads", OCTETS, b"hello").await.json()["id"].clone();
    let path = format!("/v1/receipts/{}", id.as_str().unwrap());
    let file = get(ports.clients, &path, "").await;
    assert_eq!(file.status, 200);
    assert_eq!(file.body, a_receipt(id.as_str().unwrap().parse().unwrap()).encode());
    fake.answers(Answer::Never);
    let (status, code, _) = get(ports.clients, &path, "").await.error();
    assert_eq!((status, code.as_str()), (404, "receipt_not_ready"));
    let other = format!("/v1/receipts/{}", "0".repeat(64));
    assert_eq!(get(ports.clients, &other, "").await.error().1, "unknown_payload");
    assert_eq!(get(ports.clients, "/v1/receipts/x", "").await.error().0, 400);
}

#[tokio::test]
async fn evidence_is_listed_in_pages_and_handed_out_one_by_one() {
    let ports = ports(Some(Arc::new(Fake::default()))).await;
    let first = get(ports.clients, "/v1/evidence", "").await.json();
    assert_eq!((first["total"].as_u64(), first["next"].as_u64()), (Some(70), Some(64)));
    assert_eq!(
        (first["items"].as_array().unwrap().len(), &first["chainId"]),
        (64, &Value::from(CHAIN.to_string()))
    );
    let second = get(ports.clients, "/v1/evidence?from=64", "").await.json();
    assert_eq!((second["items"].as_array().unwrap().len(), second["next"].as_u64()), (6, None));
    let one = get(ports.clients, "/v1/evidence/64", "").await;
    assert_eq!((one.status, &one.json()), (200, &second["items"][0]));
    assert_eq!(
        (one.json()["accused"]["name"].as_str(), one.json()["height"].as_u64()),
        (Some("prod-2"), Some(9))
    );
    assert!(one.json().get("view").is_none());
    let (status, code, message) = get(ports.clients, "/v1/evidence/70", "").await.error();
    assert_eq!((status, code.as_str()), (404, "unknown_evidence"), "{message}");
    assert_eq!(get(ports.clients, "/v1/evidence/x", "").await.error().0, 400);
    assert_eq!(get(ports.clients, "/v1/evidence?from=-1", "").await.error().0, 400);
}

#[tokio::test]
async fn probes_tell_life_from_readiness() {
    let ledger = Arc::new(Fake::default());
    let ports = ports(Some(ledger.clone())).await;
    assert_eq!(get(ports.probes, "/health", "").await.status, 200);
    let waiting = get(ports.probes, "/ready", "").await;
    assert_eq!(
        (waiting.status, String::from_utf8_lossy(&waiting.body).trim()),
        (503, "hears 1 of 4 validators")
    );
    ledger.ready.store(true, Ordering::Relaxed);
    assert_eq!(get(ports.probes, "/ready", "").await.status, 200);
    let metrics = get(ports.probes, "/metrics", "").await;
    assert!(
        metrics.status == 200
            && String::from_utf8_lossy(&metrics.body).contains("cretoai_sequence")
    );
    assert_eq!(get(ports.probes, "/v1/status", "").await.status, 404);
}

fn genesis(
    admin: &SecretKey,
    cluster: &str,
    members: &[(&str, &SecretKey)],
    created_ms: u64,
) -> SignedGenesis {
    let members = members
        .iter()
        .map(|(name, key)| GenesisMember {
            name: (*name).into(),
            key: key.public_key().clone(),
            proof: key.sign(&Genesis::possession_message(cluster, name)),
        })
        .collect();
    let admin_key = admin.public_key().clone();
    let genesis = Genesis {
        cluster_uid: cluster.into(),
        admin_key,
        members,
        fault_model: FaultModel::Byzantine,
        parameters: Parameters::default(),
        created_ms,
    };
    let signature = admin.sign(&genesis.signing_message());
    SignedGenesis { genesis, signature }
}

#[tokio::test]
async fn a_node_is_attested_and_takes_one_genesis_and_never_another() {
    let ports = ports(None).await;
    let (node, admin) = (key(0), key(200));
    let client = ControlClient::new(&admin).unwrap();
    let (public, attestation) = client.attest(ports.control, &[4; 32]).await.unwrap();
    assert_eq!(public, *node.public_key());
    assert_eq!(
        (attestation.pod_name.as_str(), attestation.pod_uid.as_str(), attestation.chain_id),
        ("prod-0", "uid-0", None)
    );
    let status = client.status(ports.control, &public).await.unwrap();
    assert_eq!((status.role, status.ready), (Role::Waiting, false));
    let unborn = post(ports.clients, "/v1/payloads", OCTETS, b"x").await;
    assert_eq!(unborn.error().0, 503);
    assert!(unborn.header("retry-after").is_some());
    assert_eq!(get(ports.probes, "/ready", "").await.status, 503);
    assert_eq!(get(ports.probes, "/health", "").await.status, 200);

    let refuse = async |genesis: &SignedGenesis, status: u16, code: &str, words: &str| match client
        .put_genesis(ports.control, &public, genesis)
        .await
    {
        Err(ControlError::Refused { status: got, code: got_code, message, .. }) => {
            assert_eq!((got.as_u16(), got_code.as_str()), (status, code), "{message}");
            assert!(message.contains(words), "{message}: no {words}");
        }
        other => panic!("{code}: {other:?}"),
    };
    let other = key(201);
    refuse(
        &genesis(&other, "cluster", &[("prod-0", &node)], 1),
        403,
        "other_admin",
        &other.public_key().fingerprint().to_string(),
    )
    .await;
    refuse(&genesis(&admin, "clustr", &[("prod-0", &node)], 1), 409, "other_cluster", "clustr")
        .await;
    refuse(&genesis(&admin, "cluster", &[("prod-0", &other)], 1), 409, "not_a_member", "prod-0")
        .await;
    refuse(&genesis(&admin, "cluster", &[("prod-1", &node)], 1), 409, "not_a_member", "prod-0")
        .await;
    refuse(
        &genesis(&admin, "cluster", &[("prod-0", &node), ("prod-1", &other)], 1),
        400,
        "bad_genesis",
        "validators",
    )
    .await;
    let mut forged = genesis(&admin, "cluster", &[("prod-0", &node)], 1);
    forged.genesis.created_ms = 2;
    refuse(&forged, 400, "bad_genesis", "signature").await;
    assert_eq!(ports.front.chain_id(), None);

    let right = genesis(&admin, "cluster", &[("prod-0", &node)], 1);
    client.put_genesis(ports.control, &public, &right).await.unwrap();
    client.put_genesis(ports.control, &public, &right).await.unwrap();
    tokio::time::timeout(Duration::from_secs(1), ports.front.genesis_arrived()).await.unwrap();
    let another = genesis(&admin, "cluster", &[("prod-0", &node)], 2);
    refuse(&another, 409, "other_chain", &right.genesis.chain_id().to_string()).await;
    refuse(&another, 409, "other_chain", &another.genesis.chain_id().to_string()).await;
    let held = client.attest(ports.control, &[5; 32]).await.unwrap().1.chain_id;
    assert_eq!(held, Some(right.genesis.chain_id().to_string()));
}

#[tokio::test]
async fn the_admin_makes_a_learner_a_validator_step_by_step() {
    let ledger = Arc::new(Fake::default());
    let ports = ports(Some(ledger.clone())).await;
    let (node, admin) = (key(0), key(200));
    let client = ControlClient::new(&admin).unwrap();
    let public = node.public_key();
    let refused = |result: Result<(), ControlError>, status: u16, code: &str| match result {
        Err(ControlError::Refused { status: got, code: got_code, .. }) => {
            assert_eq!((got.as_u16(), got_code.as_str()), (status, code))
        }
        other => panic!("{code}: {other:?}"),
    };
    client.admit_learners(ports.control, public, &[key(5).public_key().clone()]).await.unwrap();
    assert_eq!(*ledger.learners.lock().unwrap(), [key(5).public_key().clone()]);
    let many = vec![key(5).public_key().clone(); 32];
    refused(client.admit_learners(ports.control, public, &many).await, 400, "bad_key");

    // A genesis that does not name it makes it a learner only if that is meant.
    let signed = genesis(&admin, "cluster", &[("prod-9", &key(9))], 1);
    refused(client.put_genesis(ports.control, public, &signed).await, 409, "not_a_member");
    client.put_genesis_to_learner(ports.control, public, &signed).await.unwrap();

    let change = Change::Replace { id: NodeId(0), key: public.clone() };
    let (ready, signature) = client.ready(ports.control, public, Epoch(0), &change).await.unwrap();
    assert_eq!(ready, Ready { sequence: Sequence(64), chain_hash: Hash([8; 32]) });
    let reconfig =
        Reconfig { epoch: Epoch(0), valid_until_ms: 5, change: change.clone(), ready: Some(ready) };
    let message = reconfig.possession_message(ports.front.chain_id().unwrap());
    assert!(MlDsa87.verify(public, &message, &signature));
    refused(
        client.ready(ports.control, public, Epoch(1), &change).await.map(drop),
        409,
        "not_ready_for_it",
    );
    let of_another = Change::Replace { id: NodeId(0), key: key(8).public_key().clone() };
    refused(
        client.ready(ports.control, public, Epoch(0), &of_another).await.map(drop),
        409,
        "not_ready_for_it",
    );

    let mut order = SignedReconfig {
        reconfig,
        admin: admin.sign(b"order"),
        new_key: Some(signature),
        old_key: None,
    };
    client.reconfigure(ports.control, public, &order).await.unwrap();
    order.reconfig.epoch = Epoch(7);
    refused(client.reconfigure(ports.control, public, &order).await, 409, "void");
}

#[tokio::test]
async fn the_control_port_admits_only_the_admin_key_and_counts_the_others() {
    let ports = ports(None).await;
    let refused = |reason: &str| {
        ports.front.metrics.refused_connections.with_label_values(&["9000", reason]).get()
    };
    let stranger =
        ControlClient::new(&key(77)).unwrap().attest(ports.control, &[0; 32]).await.unwrap_err();
    assert!(matches!(stranger, ControlError::Handshake { .. }), "{stranger}");
    assert_eq!(refused("unknown_key"), 1);
    // Plain HTTP on the TLS port.
    let plain = get(ports.control, "/v1/status", "").await;
    assert_ne!(plain.status, 200);
    assert_eq!(refused("handshake"), 1);
}

#[tokio::test]
async fn stopping_lets_requests_at_work_finish_and_takes_no_new_ones() {
    let ledger = Arc::new(Fake::default());
    let ports = ports(Some(ledger.clone())).await;
    ledger.answers(Answer::Never);
    let to = ports.clients;
    let waiting =
        tokio::spawn(async move { post(to, "/v1/payloads?wait=5000", OCTETS, b"x").await });
    while ledger.waiting.lock().unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    ports.close.send_replace(true);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(TcpStream::connect(to).await.is_err(), "a new connection was taken");
    let client = ledger.waiting.lock().unwrap().pop().unwrap();
    client.send(place(Outcome::Executed)).unwrap();
    assert_eq!(waiting.await.unwrap().status, 200);
    for served in ports.served {
        tokio::time::timeout(Duration::from_secs(3), served).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn more_connections_than_places_wait_and_are_served_in_turn() {
    let ledger = Arc::new(Fake::default());
    let ports = ports(Some(ledger)).await;
    let to = ports.clients;
    let clients: Vec<_> = (0..300_u32)
        .map(|n| {
            tokio::spawn(
                async move { post(to, "/v1/payloads", OCTETS, &n.to_be_bytes()).await.status },
            )
        })
        .collect();
    for client in clients {
        assert_eq!(client.await.unwrap(), 200);
    }
}
