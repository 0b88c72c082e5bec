//! The chain in order: pages of records, and streams that lose nothing.

use crate::{
    cluster::{addresses, birth, http},
    http::{Fake, Ports, get, ports},
    process::{admin, start},
};
use cretoai_control::client::ControlClient;
use cretoai_node::storage::Decided;
use cretoai_types::{Epoch, Hash, Outcome, OutcomeLeaf, Sequence, Topic};
use serde_json::Value;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A record with one payload, every third one filed under a topic.
fn record(sequence: u64) -> Decided {
    let topic = sequence.is_multiple_of(3).then(|| Topic::new("orders").unwrap());
    let payload = Hash::of_bytes(&sequence.to_be_bytes());
    Decided {
        sequence: Sequence(sequence),
        epoch: Epoch(0),
        chain_hash: Hash::of_bytes(&payload.0),
        time_ms: 1_000 + sequence,
        outcomes: vec![OutcomeLeaf { index: 0, topic, payload, outcome: Outcome::Executed }],
    }
}

fn decide(ledger: &Fake, sequences: impl Iterator<Item = u64>) {
    sequences.for_each(|sequence| ledger.decide(record(sequence)));
}

async fn with_records(count: u64) -> (Arc<Fake>, Ports) {
    let ledger = Arc::new(Fake::default());
    decide(&ledger, 1..=count);
    let ports = ports(Some(Arc::clone(&ledger))).await;
    (ledger, ports)
}

/// A reader of one stream. HTTP/1.0, so that the body is not cut into chunks.
struct Reader {
    socket: TcpStream,
    text: String,
}

/// An event: its id, its name, its data.
type Event = (Option<u64>, Option<String>, Value);

impl Reader {
    async fn open(to: SocketAddr, path: &str, headers: &str) -> Self {
        let mut socket = TcpStream::connect(to).await.unwrap();
        let head = format!("GET {path} HTTP/1.0\r\nHost: x\r\n{headers}\r\n");
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut reader = Self { socket, text: String::new() };
        let head = reader.until("\r\n\r\n").await.expect("a head");
        assert!(head.starts_with("HTTP/1.0 200"), "{head}");
        assert!(head.to_lowercase().contains("content-type: text/event-stream"), "{head}");
        reader
    }

    /// What comes before the next `end`; nothing at the end of the stream.
    async fn until(&mut self, end: &str) -> Option<String> {
        loop {
            if let Some((first, rest)) = self.text.split_once(end) {
                let (first, rest) = (first.to_owned(), rest.to_owned());
                self.text = rest;
                return Some(first);
            }
            let mut buffer = [0; 16 * 1024];
            let read = tokio::time::timeout(Duration::from_secs(20), self.socket.read(&mut buffer));
            match read.await.expect("something comes within 20 s").unwrap() {
                0 => return None,
                read => self.text.push_str(std::str::from_utf8(&buffer[..read]).unwrap()),
            }
        }
    }

    async fn event(&mut self) -> Option<Event> {
        loop {
            let block = self.until("\n\n").await?;
            if block.starts_with(':') {
                continue;
            }
            let field =
                |name: &str| block.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
            let data =
                field("data").map_or(Value::Null, |data| serde_json::from_str(data).unwrap());
            let id = field("id").map(|id| id.parse().unwrap());
            return Some((id, field("event").map(ToOwned::to_owned), data));
        }
    }

    /// The records with these sequences come next, whole and in order.
    async fn expect(&mut self, sequences: impl Iterator<Item = u64>) {
        for sequence in sequences {
            let (id, name, data) = self.event().await.expect("an event");
            assert_eq!((id, name.as_deref()), (Some(sequence), Some("record")), "{data}");
            let wanted = record(sequence);
            assert_eq!(data["sequence"], sequence);
            assert_eq!(data["chainHash"], wanted.chain_hash.to_string());
            assert_eq!(data["payloads"][0]["id"], wanted.outcomes[0].payload.to_string());
            assert_eq!(data["payloads"][0]["outcome"], "executed");
        }
    }
}

#[tokio::test]
async fn pages_go_on_where_the_last_one_ended() {
    let (_, ports) = with_records(600).await;
    let mut next = 1;
    let mut seen = Vec::new();
    for length in [256, 256, 88, 0] {
        let answer = get(ports.clients, &format!("/v1/records?from={next}"), "").await;
        assert_eq!(answer.status, 200, "{}", answer.head);
        let page = answer.json();
        let records = page["records"].as_array().unwrap();
        assert_eq!(records.len(), length);
        seen.extend(records.iter().map(|record| record["sequence"].as_u64().unwrap()));
        next = page["next"].as_u64().unwrap();
    }
    assert_eq!(seen, (1..=600).collect::<Vec<u64>>());
    let few = get(ports.clients, "/v1/records?from=599&limit=1", "").await.json();
    assert_eq!((&few["next"], few["records"].as_array().unwrap().len()), (&600.into(), 1));
    for (query, field) in [
        ("from=0", "from"),
        ("from=-1", "from"),
        ("from=18446744073709551615", "from"),
        ("limit=0", "limit"),
        ("limit=257", "limit"),
        ("limit=x", "limit"),
    ] {
        let answer = get(ports.clients, &format!("/v1/records?{query}"), "").await;
        let (status, code, message) = answer.error();
        assert_eq!((status, code.as_str()), (400, "bad_parameter"), "{query}");
        assert_eq!(answer.json()["field"], field, "{message}");
    }
}

#[tokio::test]
async fn a_stream_brings_every_record_once_in_order_and_goes_on() {
    let (ledger, ports) = with_records(300).await;
    let mut all = Reader::open(ports.clients, "/v1/stream?from=1", "").await;
    let mut new = Reader::open(ports.clients, "/v1/stream", "").await;
    all.expect(1..=300).await;
    decide(&ledger, 301..=320);
    all.expect(301..=320).await;
    new.expect(301..=320).await;
    // Who was away goes on after what it has; the header counts before the parameter.
    drop(new);
    let mut back = Reader::open(ports.clients, "/v1/stream?from=1", "Last-Event-ID: 310\r\n").await;
    back.expect(311..=320).await;
    let bad = get(ports.clients, "/v1/stream", "Last-Event-ID: x\r\n").await;
    assert_eq!((bad.status, bad.json()["field"].as_str()), (400, Some("Last-Event-ID")));
}

#[tokio::test]
async fn a_stream_of_one_topic_names_the_other_records_by_their_id_alone() {
    let (_, ports) = with_records(9).await;
    let mut orders = Reader::open(ports.clients, "/v1/stream?from=1&topic=orders", "").await;
    for sequence in 1..=9 {
        let (id, name, data) = orders.event().await.expect("an event");
        assert_eq!(id, Some(sequence));
        if sequence.is_multiple_of(3) {
            assert_eq!(name.as_deref(), Some("record"));
            assert_eq!(data["payloads"][0]["topic"], "orders");
        } else {
            assert_eq!((name, data), (None, Value::Null));
        }
    }
    let long = format!("/v1/stream?topic={}", "x".repeat(65));
    let (status, code, message) = get(ports.clients, &long, "").await.error();
    assert_eq!((status, code.as_str()), (400, "bad_parameter"));
    assert!(message.contains("topic"), "{message}");
}

#[tokio::test]
async fn a_reader_that_is_slow_gets_all_and_holds_little() {
    let (ledger, ports) = with_records(1).await;
    // 4 MiB of events, far more than the sockets between them hold.
    let big = |sequence: u64| {
        let leaf = record(sequence).outcomes.remove(0);
        let outcomes = (0..200).map(|index| OutcomeLeaf { index, ..leaf.clone() });
        Decided { outcomes: outcomes.collect(), ..record(sequence) }
    };
    (2..=200).for_each(|sequence| ledger.decide(big(sequence)));
    let mut slow = Reader::open(ports.clients, "/v1/stream?from=1", "").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let read_ahead = ledger.most_decided();
    assert!(read_ahead < 150, "record {read_ahead} was read for a reader that reads nothing");
    slow.expect(1..=200).await;
}

#[tokio::test]
async fn a_stream_that_the_node_ends_says_where_to_go_on() {
    let (ledger, ports) = with_records(5).await;
    let mut reader = Reader::open(ports.clients, "/v1/stream?from=3", "").await;
    reader.expect(3..=5).await;
    ledger.stop();
    let (id, name, data) = reader.event().await.expect("the last event");
    assert_eq!((id, name.as_deref()), (None, Some("end")));
    assert_eq!(data["from"], 6);
    assert!(data["reason"].as_str().unwrap().contains("stopping"), "{data}");
    assert!(reader.event().await.is_none(), "nothing comes after the end");
    let (status, _, message) = get(ports.clients, "/v1/stream", "").await.error();
    assert_eq!(status, 503, "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_node_streams_what_it_decides_and_ends_its_streams_when_it_stops() {
    let volume = tempfile::tempdir().unwrap();
    let [own] = addresses(1)[..] else { unreachable!() };
    let mut process = start(volume.path(), own, &admin(), 0);
    birth(&ControlClient::new(&admin()).unwrap(), &[own], &admin()).await;
    process.ready().await;
    let mut ids = Vec::new();
    for number in 0..12_u32 {
        let topic = if number % 2 == 0 { "&topic=even%20ones" } else { "" };
        let line = format!("POST /v1/payloads?wait=10000{topic}");
        let (status, body) = http(own.clients, &line, &number.to_be_bytes()).await;
        let told: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(status, 200, "{told}");
        ids.push((told["sequence"].as_u64().unwrap(), told["id"].as_str().unwrap().to_owned()));
    }
    let mut reader = Reader::open(own.clients, "/v1/stream?from=1", "").await;
    let mut seen = Vec::new();
    let mut expected = 1;
    while seen.len() < ids.len() {
        let (id, _, data) = reader.event().await.expect("an event");
        assert_eq!(id, Some(expected));
        expected += 1;
        for payload in data["payloads"].as_array().unwrap() {
            assert_eq!(payload["outcome"], "executed");
            assert_eq!(payload["topic"] == "even ones", seen.len() % 2 == 0, "{payload}");
            seen.push((id.unwrap(), payload["id"].as_str().unwrap().to_owned()));
        }
    }
    assert_eq!(seen, ids);
    let line = format!("GET /v1/payloads/{}", ids[0].1);
    let (status, body) = http(own.clients, &line, b"").await;
    assert_eq!((status, &body[..]), (200, &0_u32.to_be_bytes()[..]));
    process.signal(rustix::process::Signal::TERM);
    let last = loop {
        let (_, name, data) = reader.event().await.expect("an end");
        if name.as_deref() == Some("end") {
            break data;
        }
    };
    assert!(last["from"].as_u64().unwrap() >= expected, "{last}");
    assert_eq!(process.ended().await.code(), Some(0));
}
