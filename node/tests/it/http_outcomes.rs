//! What port 8080 says of a payload's outcome, and that it says the same in every form; problem
//! documents on every path; caching; the OpenAPI document.

use crate::http::{Answer, Fake, OCTETS, Ports, get, now_ms, ports, post, raw};
use cretoai_types::Outcome;
use serde_json::Value;
use std::sync::Arc;

async fn submitted(ports: &Ports, ledger: &Fake, data: &[u8]) -> String {
    ledger.answers(Answer::Execute);
    let json = post(ports.clients, "/v1/payloads", OCTETS, data).await.json();
    json["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn only_what_executed_is_200_in_bytes_and_in_json() {
    let ledger = Arc::new(Fake::default());
    let ports = ports(Some(ledger.clone())).await;
    let id = submitted(&ports, &ledger, b"hello").await;
    let path = format!("/v1/payloads/{id}");
    for (outcome, status, word) in [
        (Outcome::Executed, 200, "executed"),
        (Outcome::Expired, 410, "expired"),
        (Outcome::Crowded, 202, "crowded"),
        (Outcome::Early, 404, "early"),
    ] {
        ledger.answers(Answer::Ordered(outcome));
        for accept in ["", "Accept: application/json\r\n", "Accept: application/octet-stream\r\n"] {
            let answer = get(ports.clients, &path, accept).await;
            assert_eq!(answer.status, status, "{word}: {}", answer.head);
            assert_eq!(answer.header("x-creto-outcome").as_deref(), Some(word));
            if status >= 400 {
                assert_eq!(answer.error().1, word);
            }
            assert_eq!(answer.body == b"hello", word == "executed" && !accept.contains("json"));
        }
        let again = post(ports.clients, "/v1/payloads", OCTETS, b"x").await;
        let posted = if outcome == Outcome::Early { 503 } else { status };
        assert_eq!(again.status, posted, "{word}: {}", again.head);
        match status {
            202 => assert_eq!(again.json()["status"], "pending"),
            200 => assert_eq!(again.json()["status"], "final"),
            _ => assert_eq!(again.error().1, word),
        }
    }
}

#[tokio::test]
async fn a_submission_is_told_the_first_outcome_of_its_payload() {
    let ledger = Arc::new(Fake::default());
    let ports = ports(Some(ledger.clone())).await;
    for answer in [Answer::LateCopy, Answer::Duplicate] {
        ledger.answers(answer);
        let told = post(ports.clients, "/v1/payloads", OCTETS, b"hello").await;
        assert_eq!(told.status, 200, "{}", told.head);
        let told = told.json();
        assert_eq!((&told["status"], &told["outcome"]), (&"final".into(), &"duplicate".into()));
        let path = format!("/v1/payloads/{}", told["id"].as_str().unwrap());
        let read = get(ports.clients, &path, "Accept: application/json\r\n").await.json();
        assert_eq!(told["executedAt"], 5);
        for field in ["sequence", "index", "chainHash", "timeMs"] {
            assert_eq!(told[field], read[field], "{field}");
        }
    }
}

#[tokio::test]
async fn a_payload_that_ends_within_a_second_is_refused_before_it_is_taken() {
    let ledger = Arc::new(Fake::default());
    let ports = ports(Some(ledger.clone())).await;
    let headers = format!("{OCTETS}Valid-Until: {}\r\n", now_ms() + 700);
    let (status, code, message) = post(ports.clients, "/v1/payloads", &headers, b"x").await.error();
    assert_eq!((status, code.as_str()), (400, "bad_header"));
    assert!(message.contains("less than 1 s"), "{message}");
    assert!(ledger.taken.lock().unwrap().is_empty());
    let headers = format!("{OCTETS}Valid-Until: {}\r\n", now_ms() + 20_000);
    assert_eq!(post(ports.clients, "/v1/payloads", &headers, b"x").await.status, 200);
}

#[tokio::test]
async fn a_payload_given_up_after_its_time_is_not_to_be_sent_again_under_its_name() {
    let ledger = Arc::new(Fake::default());
    let ports = ports(Some(ledger.clone())).await;
    ledger.answers(Answer::GiveUp);
    let (_, code, message) = post(ports.clients, "/v1/payloads", OCTETS, b"x").await.error();
    assert!(code == "not_kept" && message.contains("send the same bytes again"), "{message}");
    ledger.answers(Answer::Never);
    let to = ports.clients;
    let headers = format!("{OCTETS}Valid-Until: {}\r\n", now_ms() + 1_500);
    let waiting =
        tokio::spawn(async move { post(to, "/v1/payloads?wait=9000", &headers, b"y").await });
    tokio::time::sleep(std::time::Duration::from_millis(1_600)).await;
    ledger.answers(Answer::GiveUp);
    ledger.give_up();
    let (_, code, message) = waiting.await.unwrap().error();
    assert_eq!(code, "not_kept");
    assert!(message.contains("new Idempotency-Key"), "{message}");
}

#[tokio::test]
async fn every_refusal_is_a_problem_document() {
    let ledger = Arc::new(Fake::default());
    let ports = ports(Some(ledger)).await;
    let unknown = format!("/v1/payloads/{}", "0".repeat(64));
    for (path, status, code) in [
        ("/", 404, "no_such_path"),
        ("/v2/payloads", 404, "no_such_path"),
        ("/docs/nothing.js", 404, "no_such_path"),
        ("/v1/payloads", 405, "wrong_method"),
        ("/v1/payloads/%FF", 400, "bad_path"),
        ("/v1/payloads/abc", 400, "bad_id"),
        (unknown.as_str(), 404, "unknown_payload"),
        ("/v1/evidence?from=1&from=2", 400, "bad_query"),
        ("/v1/evidence?from=%FF", 400, "bad_parameter"),
        ("/v1/evidence/%FF", 400, "bad_path"),
    ] {
        let answer = get(ports.clients, path, "").await;
        let (got, got_code, message) = answer.error();
        assert_eq!((got, got_code.as_str()), (status, code), "{path}: {message}");
        assert_eq!(answer.header("cache-control").as_deref(), Some("no-store"), "{path}");
        if status == 405 {
            assert_eq!(answer.header("allow").as_deref(), Some("POST"));
        }
    }
    let (status, code, _) = raw(ports.clients, b"nonsense\r\n\r\n", false).await.error();
    assert_eq!((status, code.as_str()), (400, "malformed"));
    let (status, code, _) = get(ports.probes, "/nothing", "").await.error();
    assert_eq!((status, code.as_str()), (404, "no_such_path"));
}

#[tokio::test]
async fn an_early_refusal_is_the_last_answer_of_its_connection_and_says_so() {
    let ledger = Arc::new(Fake::default());
    let ports = ports(Some(ledger)).await;
    for (path, headers, status) in [
        ("/v1/payloads", "Content-Type: text/html\r\n", 415),
        ("/v1/payloads?wait=x", OCTETS, 400),
        ("/nothing", OCTETS, 404),
        ("/v1/status", OCTETS, 405),
        ("/v1/payloads", OCTETS, 413),
    ] {
        let length = if status == 413 { 200_000 } else { 10 };
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n{headers}\r\n"
        );
        let answer = raw(ports.clients, head.as_bytes(), false).await;
        assert_eq!(answer.error().0, status, "{}", answer.head);
        assert_eq!(answer.header("connection").as_deref(), Some("close"), "{}", answer.head);
    }
}

#[tokio::test]
async fn what_executed_may_be_kept_and_is_not_sent_twice() {
    let ledger = Arc::new(Fake::default());
    let ports = ports(Some(ledger.clone())).await;
    let id = submitted(&ports, &ledger, b"hello").await;
    for path in [format!("/v1/payloads/{id}"), "/v1/evidence/3".to_owned()] {
        let full = get(ports.clients, &path, "").await;
        let tag = full.header("etag").unwrap();
        assert!(full.header("cache-control").unwrap().contains("immutable"), "{}", full.head);
        let again = get(ports.clients, &path, &format!("If-None-Match: {tag}\r\n")).await;
        assert_eq!((again.status, again.body.len()), (304, 0), "{}", again.head);
        assert_eq!(again.header("etag"), Some(tag));
        let head = format!("HEAD {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let head = raw(ports.clients, head.as_bytes(), false).await;
        assert_eq!((head.status, head.body.len()), (200, 0));
        assert_eq!(head.header("content-length"), Some(full.body.len().to_string()));
    }
    let path = format!("/v1/payloads/{id}");
    let json = get(ports.clients, &path, "Accept: application/json\r\n").await;
    let bytes = get(ports.clients, &path, "").await;
    assert_ne!(json.header("etag"), bytes.header("etag"));
    assert_eq!(bytes.header("vary").as_deref(), Some("Accept"));
    let status = get(ports.clients, "/v1/status", "").await;
    assert_eq!(status.header("cache-control").as_deref(), Some("no-store"));
}

#[tokio::test]
async fn the_served_openapi_document_is_the_one_in_the_docs() {
    let ports = ports(Some(Arc::new(Fake::default()))).await;
    let served = get(ports.clients, "/openapi.json", "").await;
    let document: Value = served.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{document}");
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
    if std::env::var_os("CRETO_WRITE_OPENAPI").is_some() {
        std::fs::write(file, &served.body).unwrap();
    }
    let kept: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert!(
        kept == document,
        "docs/openapi.json is not what the node serves; run this test with CRETO_WRITE_OPENAPI=1"
    );
    for path in ["/v1/payloads", "/v1/payloads/{id}", "/v1/evidence", "/v1/status"] {
        assert!(document["paths"][path].is_object(), "{path}");
    }
}

#[tokio::test]
async fn swagger_ui_is_served_by_the_node_itself() {
    let ports = ports(Some(Arc::new(Fake::default()))).await;
    let moved = get(ports.clients, "/docs", "").await;
    assert_eq!((moved.status, moved.header("location").as_deref()), (308, Some("/docs/")));
    let page = get(ports.clients, "/docs/", "").await;
    let text = String::from_utf8_lossy(&page.body).into_owned();
    assert!(page.status == 200 && text.contains("swagger-ui"), "{text}");
    assert!(!text.contains("https://") && !text.contains("//cdn"), "{text}");
    let script = get(ports.clients, "/docs/swagger-initializer.js", "").await;
    let script = String::from_utf8_lossy(&script.body).into_owned();
    assert!(script.contains("/openapi.json"), "{script}");
    assert!(
        script.contains("\"validatorUrl\": \"none\"") && !script.contains("https://"),
        "{script}"
    );
    assert_eq!(get(ports.clients, "/docs/swagger-ui-bundle.js", "").await.status, 200);
}
