//! A refused sender can read why, and a connection that ends says so.

use crate::support::{ask, connect, serve};
use cretoai_serve::Limits;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn what_is_not_http_is_answered_with_a_document() {
    let served = serve(Limits::new(8)).await;
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(200));
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(70_000));
    let cases: [(&[u8], &str, &str); 4] = [
        (b"nonsense\r\n\r\n", "HTTP/1.1 400", "malformed"),
        (b"GET / HTTP/1.1\r\nbroken header\r\n\r\n", "HTTP/1.1 400", "malformed"),
        (many.as_bytes(), "HTTP/1.1 431", "head_too_large"),
        (long.as_bytes(), "HTTP/1.1 4", "urn:cretoai:problem:"),
    ];
    for (request, status, code) in cases {
        let answer = ask(1, served.at, request).await;
        assert!(answer.starts_with(status), "{answer}");
        assert!(answer.contains("application/problem+json") && answer.contains(code), "{answer}");
        assert!(answer.contains("Connection: close"), "{answer}");
    }
}

#[tokio::test]
async fn a_malformed_request_after_a_good_one_gets_a_document_too() {
    let served = serve(Limits::new(8)).await;
    let mut stream = connect(1, served.at, None).await;
    stream.write_all(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut first = vec![0; crate::support::LARGE + 64];
    stream.read_exact(&mut first).await.unwrap();
    assert!(first.starts_with(b"HTTP/1.1 200"));
    stream.write_all(b"nonsense\r\n\r\n").await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert!(rest.contains("HTTP/1.1 400") && rest.contains("malformed"), "{rest}");
}

#[tokio::test]
async fn the_refusals_of_the_service_are_its_own() {
    let served = serve(Limits::new(8)).await;
    let mut stream = connect(1, served.at, None).await;
    for last in [false, true] {
        let close = if last { "Connection: close\r\n" } else { "" };
        let request = format!("GET /bad HTTP/1.1\r\nHost: x\r\n{close}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut answers = String::new();
    stream.read_to_string(&mut answers).await.unwrap();
    assert_eq!(answers.matches("HTTP/1.1 400").count(), 2, "{answers}");
    assert_eq!(answers.matches("the service says no").count(), 2, "{answers}");
    assert!(!answers.contains("malformed"), "{answers}");
}

#[tokio::test]
async fn an_answer_that_looks_like_a_refusal_is_left_alone() {
    let served = serve(Limits::new(8)).await;
    let body = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n".repeat(500);
    let request = format!(
        "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = ask(1, served.at, request.as_bytes()).await;
    assert!(answer.ends_with(&body));
}

#[tokio::test]
async fn an_early_refusal_says_close_and_reaches_a_sender_that_still_writes() {
    let served = serve(Limits::new(8)).await;
    let mut stream = connect(1, served.at, None).await;
    let head = "POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    for _ in 0..20 {
        stream.write_all(&[1; 100_000]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 415"), "{answer}");
    assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
}

#[tokio::test]
async fn no_100_continue_before_a_refusal() {
    let served = serve(Limits::new(8)).await;
    let mut stream = connect(1, served.at, None).await;
    let head =
        "POST /refuse HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 415"), "{answer}");
}
