//! What clients of port 8080 may make a node hold, and that others are served meanwhile.

use crate::http::{Fake, OCTETS, ports_with, post};
use cretoai_serve::Limits;
use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

/// A connection from 127.0.0.`last` with a small buffer for what it reads.
async fn connect(last: u8, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, last], 0))).unwrap();
    socket.connect(to).await.unwrap()
}

async fn whole(mut stream: TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_without_bodies_hold_nothing_that_an_honest_client_needs() {
    let ledger = Arc::new(Fake::default());
    let ports = ports_with(Some(ledger), Limits { share: 600, ..Limits::new(800) }).await;
    let mut heads = Vec::new();
    for n in 0..540 {
        let mut stream = connect(2 + (n % 4) as u8, ports.clients).await;
        let head = format!(
            "POST /v1/payloads HTTP/1.1\r\nHost: x\r\nContent-Length: 131072\r\n{OCTETS}\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        heads.push(stream);
    }
    for n in 0..20 {
        let answer = post(ports.clients, "/v1/payloads", OCTETS, &vec![n; 64 * 1024]).await;
        assert_eq!(answer.status, 200, "{}", answer.head);
    }
    // A body that does not come is refused; its place was not the reason.
    let mut refusal = [0; 12];
    heads[0].read_exact(&mut refusal).await.unwrap();
    assert_eq!(&refusal, b"HTTP/1.1 408");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_one_address_does_not_read_leave_room_for_another() {
    let ledger = Arc::new(Fake::default());
    let limits = Limits { share: 300, stall: Duration::from_secs(60), ..Limits::new(400) };
    let ports = ports_with(Some(ledger), limits).await;
    let to = ports.clients;
    let posted = post(to, "/v1/payloads", OCTETS, &vec![7; 128 * 1024]).await.json();
    let request = |close: &str| {
        format!(
            "GET /v1/payloads/{} HTTP/1.1\r\nHost: x\r\nAccept: application/json\r\n{close}\r\n",
            posted["id"].as_str().unwrap()
        )
    };
    let mut stuck = Vec::new();
    for _ in 0..150 {
        let mut stream = connect(2, to).await;
        stream.write_all(request("").as_bytes()).await.unwrap();
        stuck.push(stream);
    }
    // The flood's own address is refused when its share is used up, and only it.
    let close = request("Connection: close\r\n");
    let mut refused = String::new();
    for _ in 0..200 {
        refused = whole(connect(2, to).await, &close).await;
        if !refused.starts_with("HTTP/1.1 200") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("overloaded"), "{refused}");
    // The other address is served, if need be when the flood's lookups are through.
    for round in 0.. {
        let honest = whole(connect(1, to).await, &close).await;
        if honest.starts_with("HTTP/1.1 200") {
            break;
        }
        assert!(round < 20, "{honest}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(stuck);
    for round in 0.. {
        let answer = whole(connect(2, to).await, &close).await;
        if answer.starts_with("HTTP/1.1 200") {
            break;
        }
        assert!(round < 500, "the share did not come back: {answer}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_most_four_lookups_go_on_at_one_time() {
    let ledger = Arc::new(Fake::default());
    let ports = ports_with(Some(ledger.clone()), Limits { share: 64, ..Limits::new(64) }).await;
    let to = ports.clients;
    let id = post(to, "/v1/payloads", OCTETS, b"x").await.json()["id"].as_str().unwrap().to_owned();
    *ledger.lookup_takes.lock().unwrap() = Duration::from_millis(10);
    let clients: Vec<_> = (0..40)
        .map(|_| {
            let path = format!("/v1/payloads/{id}");
            tokio::spawn(async move { crate::http::get(to, &path, "").await.status })
        })
        .collect();
    for client in clients {
        assert_eq!(client.await.unwrap(), 200);
    }
    assert_eq!(ledger.most_lookups.load(Ordering::SeqCst), 4);
}
