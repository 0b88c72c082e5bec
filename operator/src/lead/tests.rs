#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::{Client, client::Body};
use serde_json::Value;
use std::sync::{Arc, Mutex, PoisonError};

/// An API server that holds one lease, and may fall silent.
#[derive(Default)]
struct Server {
    lease: Option<Value>,
    version: u64,
    silent: bool,
}

fn serve(server: &Arc<Mutex<Server>>) -> Client {
    let (service, mut handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
    let server = Arc::clone(server);
    tokio::spawn(async move {
        let mut unanswered = Vec::new();
        while let Some((request, send)) = handle.next_request().await {
            let (parts, body) = request.into_parts();
            let bytes = body.collect().await.unwrap().to_bytes();
            let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
            let mut server = server.lock().unwrap_or_else(PoisonError::into_inner);
            if server.silent {
                unanswered.push(send);
                continue;
            }
            let (status, answer) = server.handle(&parts.method, body);
            let answer = Body::from(serde_json::to_vec(&answer).unwrap());
            send.send_response(Response::builder().status(status).body(answer).unwrap());
        }
    });
    Client::new(service, "creto-system")
}

impl Server {
    fn failure(status: StatusCode, reason: &str) -> (StatusCode, Value) {
        let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
            "reason": reason, "code": status.as_u16(), "message": reason});
        (status, body)
    }

    fn handle(&mut self, method: &Method, body: Value) -> (StatusCode, Value) {
        match (method, self.lease.clone()) {
            (&Method::GET, Some(lease)) => (StatusCode::OK, lease),
            (&Method::GET, None) => Self::failure(StatusCode::NOT_FOUND, "NotFound"),
            (&Method::POST, None) => (StatusCode::CREATED, self.store(body)),
            (&Method::POST, Some(_)) => Self::failure(StatusCode::CONFLICT, "AlreadyExists"),
            (&Method::PATCH, Some(mut lease)) => {
                if lease["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"] {
                    return Self::failure(StatusCode::CONFLICT, "Conflict");
                }
                for (key, value) in body["spec"].as_object().unwrap() {
                    lease["spec"][key] = value.clone();
                }
                (StatusCode::OK, self.store(lease))
            }
            _ => Self::failure(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
        }
    }

    fn store(&mut self, mut lease: Value) -> Value {
        self.version += 1;
        lease["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.lease = Some(lease.clone());
        lease
    }
}

fn candidate(server: &Arc<Mutex<Server>>, identity: &str, terms: Terms) -> Candidate {
    Candidate::new(Api::namespaced(serve(server), "creto-system"), identity.into(), terms)
}

/// So short that a test need not wait, so long that a slow machine keeps the order.
const SHORT: Terms = Terms {
    duration: Duration::from_secs(2),
    stop_after: Duration::from_millis(400),
    renew_every: Duration::from_millis(50),
    request: Duration::from_millis(200),
};

fn holder(server: &Arc<Mutex<Server>>) -> String {
    let server = server.lock().unwrap();
    let lease = server.lease.clone().unwrap_or_default();
    lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_string()
}

fn spec(holder: &str, renewed: &str) -> LeaseSpec {
    serde_json::from_value(json!({
        "holderIdentity": holder, "leaseDurationSeconds": 15, "renewTime": renewed,
    }))
    .unwrap()
}

#[tokio::test]
async fn a_lease_of_another_counts_by_how_long_it_did_not_change_here() {
    let server = Arc::default();
    let candidate = candidate(&server, "us", Terms::OPERATOR);
    let start = Instant::now();
    let after = |seconds| start + Duration::from_secs(seconds);
    // Neither a clock that is ahead nor one that is behind decides.
    for renewed in ["2099-01-01T00:00:00.000000Z", "1999-01-01T00:00:00.000000Z"] {
        let (lease, mut seen) = (spec("other", renewed), None);
        assert!(!candidate.free(&lease, &mut seen, start), "never at first sight: {renewed}");
        assert!(!candidate.free(&lease, &mut seen, after(14)), "{renewed}");
        assert!(candidate.free(&lease, &mut seen, after(15)), "{renewed}");
    }
    // Each change begins the wait anew.
    let mut seen = None;
    assert!(!candidate.free(&spec("other", "2026-01-01T00:00:00.000000Z"), &mut seen, start));
    assert!(!candidate.free(&spec("other", "2026-01-01T00:00:01.000000Z"), &mut seen, after(14)));
    assert!(!candidate.free(&spec("other", "2026-01-01T00:00:01.000000Z"), &mut seen, after(20)));
    assert!(candidate.free(&spec("other", "2026-01-01T00:00:01.000000Z"), &mut seen, after(29)));
    // A duration without end is bounded.
    let mut endless = spec("other", "2026-01-01T00:00:00.000000Z");
    endless.lease_duration_seconds = Some(i32::MAX);
    let mut seen = None;
    assert!(!candidate.free(&endless, &mut seen, start));
    assert!(candidate.free(&endless, &mut seen, after(60)));
    // Our own and one that was given back are free at once.
    assert!(candidate.free(&spec("us", "2026-01-01T00:00:00.000000Z"), &mut None, start));
    assert!(candidate.free(&spec("", "2026-01-01T00:00:00.000000Z"), &mut None, start));
}

#[test]
fn a_leader_stops_before_another_may_begin() {
    for terms in [Terms::OPERATOR, SHORT] {
        assert!(terms.stop_after < terms.duration);
        // One lost request does not cost the lease.
        assert!(terms.renew_every + terms.request < terms.stop_after);
    }
}

#[tokio::test]
async fn a_leader_that_the_api_server_does_not_answer_steps_down_by_its_own_clock() {
    let server: Arc<Mutex<Server>> = Arc::default();
    let us = candidate(&server, "us", SHORT);
    let since = us.acquire().await;
    assert_eq!(holder(&server), "us");
    server.lock().unwrap().silent = true;
    let lost = timeout(Duration::from_secs(60), us.keep(since)).await;
    assert_eq!(lost, Ok(Lost::Unconfirmed), "although no request ever ended");
    assert_eq!(holder(&server), "us", "nobody else was there yet");
}

#[tokio::test]
async fn a_lease_that_another_took_is_lost() {
    let server: Arc<Mutex<Server>> = Arc::default();
    let us = candidate(&server, "us", Terms { stop_after: Duration::from_secs(60), ..SHORT });
    let since = us.acquire().await;
    {
        let mut server = server.lock().unwrap();
        let mut lease = server.lease.clone().unwrap();
        lease["spec"]["holderIdentity"] = json!("other");
        server.store(lease);
    }
    assert_eq!(timeout(Duration::from_secs(60), us.keep(since)).await, Ok(Lost::Taken));
    us.release().await;
    assert_eq!(holder(&server), "other", "the lease of another is not given back");
}

#[tokio::test]
async fn what_is_given_back_is_taken_at_once_and_what_is_held_is_not() {
    let server: Arc<Mutex<Server>> = Arc::default();
    let patient = Terms { duration: Duration::from_secs(3600), ..SHORT };
    let us = candidate(&server, "us", patient);
    let other = candidate(&server, "other", patient);
    us.acquire().await;
    let mut seen = None;
    assert!(!other.attempt(&mut seen).await.unwrap());
    assert!(!other.attempt(&mut seen).await.unwrap());
    us.release().await;
    timeout(Duration::from_secs(60), other.acquire()).await.unwrap();
    assert_eq!(holder(&server), "other");
    let server = server.lock().unwrap();
    assert_eq!(server.lease.as_ref().unwrap()["spec"]["leaseTransitions"], 1);
}

#[tokio::test]
async fn of_two_that_take_a_free_lease_at_once_one_gets_it() {
    let server: Arc<Mutex<Server>> = Arc::default();
    let us = candidate(&server, "us", SHORT);
    us.acquire().await;
    us.release().await;
    let lease = us.leases.get(MANAGER).await.unwrap();
    assert!(us.write(&lease, json!({ "holderIdentity": "us" })).await.unwrap());
    assert!(!us.write(&lease, json!({ "holderIdentity": "other" })).await.unwrap());
    assert_eq!(holder(&server), "us");
}
