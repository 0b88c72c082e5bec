//! Silent, dripping and never-reading callers hold no place of others, and every place comes back.

use crate::support::{ask, connect, honest, serve, until};
use cretoai_serve::Limits;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Quick limits; what they bound is the same.
fn limits(places: usize) -> Limits {
    Limits { head: Duration::from_secs(30), stall: Duration::from_secs(1), ..Limits::new(places) }
}

/// Raises the soft limit of open files; how many connections this process may then open.
fn room_for(wanted: usize) -> usize {
    let text = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = text.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let soft: usize = line.split_whitespace().nth(3).unwrap().parse().unwrap();
    // Both ends are in this process.
    wanted.min(soft.saturating_sub(200) / 2)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_callers_of_many_addresses_do_not_keep_an_honest_one_out() {
    let places = room_for(4_096);
    let served = serve(limits(places)).await;
    let mut silent = Vec::new();
    for n in 0..places + 200 {
        let from = 2 + (n % 8) as u8;
        silent.push(connect(from, served.at, None).await);
        if n % 500 == 0 || n > places {
            honest(1, served.at).await;
        }
    }
    until("an eviction", || served.counts.of("evicted") >= 200).await;
    honest(1, served.at).await;
    drop(silent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dripping_callers_do_not_keep_an_honest_one_out() {
    let served = serve(limits(64)).await;
    let mut dripping = Vec::new();
    for n in 0..200_u8 {
        let mut stream = connect(2 + n % 8, served.at, None).await;
        let head = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n";
        // Half of them drip their head, half their body.
        let part = if n % 2 == 0 { head.to_owned() } else { format!("{head}\r\nx") };
        stream.write_all(part.as_bytes()).await.unwrap();
        dripping.push(stream);
        honest(1, served.at).await;
    }
    for stream in &mut dripping {
        // A closed one may refuse the byte.
        drop(stream.write_all(b"x").await);
    }
    honest(1, served.at).await;
    assert!(served.counts.of("evicted") >= 100, "{}", served.counts.of("evicted"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_never_read_lose_their_places_and_their_memory_is_given_back() {
    let served = serve(limits(64)).await;
    let mut stuck: Vec<TcpStream> = Vec::new();
    for n in 0..64_u8 {
        let mut stream = connect(2 + n % 8, served.at, Some(4_096)).await;
        stream.write_all(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        stuck.push(stream);
    }
    honest(1, served.at).await;
    until("the end of every stuck answer", || {
        served.counts.of("stalled") + served.counts.of("evicted") >= 64
    })
    .await;
    // The system gave up what it held, too: the reader finds a reset, not the rest of the answer.
    let mut read = Vec::new();
    let error = stuck[0].read_to_end(&mut read).await.expect_err("the answer was kept");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    honest(1, served.at).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_drips_is_cut_off_and_a_slow_one_is_served() {
    let served = serve(Limits { least: 64 * 1024, ..limits(64) }).await;
    let mut stream = connect(2, served.at, Some(4_096)).await;
    stream.write_all(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut byte = [0; 512];
    for _ in 0..1_000 {
        match stream.read(&mut byte).await {
            Ok(0) | Err(_) => break,
            Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    assert_eq!(served.counts.of("stalled"), 1);

    let served = serve(Limits { least: 1_024, ..limits(64) }).await;
    let mut stream = connect(2, served.at, Some(4_096)).await;
    let request = b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let (mut piece, mut total) = ([0; 8_192], 0);
    loop {
        match stream.read(&mut piece).await.unwrap() {
            0 => break,
            got => total += got,
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    assert!(total > crate::support::LARGE, "{total}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_answer_while_their_port_is_flooded() {
    let served = serve(Limits { keep_alive: false, ..limits(128) }).await;
    let to = served.at;
    let flood = tokio::spawn(async move {
        let mut held = std::collections::VecDeque::new();
        let mut from = 2;
        loop {
            held.push_back(connect(from, to, None).await);
            from = if from == 250 { 2 } else { from + 1 };
            if held.len() > 300 {
                held.pop_front();
            }
            tokio::task::yield_now().await;
        }
    });
    for _ in 0..50 {
        honest(1, to).await;
    }
    flood.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_at_work_from_one_address_leave_places_for_another() {
    let served = serve(limits(16)).await;
    let mut at_work = Vec::new();
    for _ in 0..4 {
        let mut stream = connect(2, served.at, None).await;
        stream.write_all(b"GET /sleep HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        at_work.push(stream);
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let refused = ask(2, served.at, b"").await;
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    assert!(refused.contains("Retry-After: 1") && refused.contains("too_many_connections"));
    honest(1, served.at).await;
    for stream in &mut at_work {
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
    }
    honest(2, served.at).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_callers_than_places_wait_and_are_served_in_turn() {
    let served = serve(Limits { share: 8, ..limits(8) }).await;
    let to = served.at;
    let callers: Vec<_> = (0..40)
        .map(|_| {
            tokio::spawn(async move {
                let request = b"GET /sleep HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
                ask(1, to, request).await
            })
        })
        .collect();
    for caller in callers {
        assert!(caller.await.unwrap().ends_with("slept"));
    }
}

#[tokio::test]
async fn a_connection_that_is_too_old_ends_after_its_request() {
    let served = serve(Limits { age: Duration::from_millis(100), ..limits(8) }).await;
    let mut stream = connect(1, served.at, None).await;
    stream.write_all(b"GET /sleep HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("slept"), "{answer}");
}

#[tokio::test]
async fn closing_lets_requests_at_work_finish() {
    let served = serve(limits(8)).await;
    let mut stream = connect(1, served.at, None).await;
    stream.write_all(b"GET /sleep HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    served.close.send_replace(true);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("slept"), "{answer}");
    served.ended.await.unwrap();
    assert!(TcpStream::connect(served.at).await.is_err());
}
