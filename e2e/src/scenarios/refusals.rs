//! Bad payloads, and more payloads than the nodes can carry.

use super::{
    check::{agree, all_hold},
    lab::{Known, Lab},
};
use crate::{
    api::{API_PORT, Answer, Client, OCTETS},
    figures::{bytes, seconds},
    k8s::restarts,
    process,
};
use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use hyper::{Method, StatusCode};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use rand::RngCore;
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const LARGEST: usize = 128 * 1024;
const STORMERS: usize = 96;
const STORM: Duration = Duration::from_secs(8);
/// Enough refusals to have seen the limit.
const ENOUGH: u64 = 300;
/// The sample's memory limit of a node.
const MEMORY_LIMIT: u64 = 1 << 30;

/// Refused with the right status; the storm bounded.
pub async fn bounded(lab: &mut Lab) -> Result<String> {
    let victim = lab.cluster.pod(0);
    let address = lab.cluster.pod_address(&victim, API_PORT).await?;
    bad_payloads(address).await?;
    let storm = storm(lab, &victim, address).await?;
    Ok(format!("400 empty, 413 over the limit, 415 wrong type, 400 truncated; {storm}"))
}

async fn bad_payloads(address: SocketAddr) -> Result<()> {
    let mut client = Client::new(address).with_limit(Duration::from_secs(20));
    for (what, content_type, size, status) in [
        ("an empty payload", OCTETS, 0, StatusCode::BAD_REQUEST),
        ("a payload over the limit", OCTETS, LARGEST + 1, StatusCode::PAYLOAD_TOO_LARGE),
        ("a payload of 4 MiB", OCTETS, 4 << 20, StatusCode::PAYLOAD_TOO_LARGE),
        ("another content type", "text/html", 10, StatusCode::UNSUPPORTED_MEDIA_TYPE),
    ] {
        let request = client.request(
            Method::POST,
            "/v1/payloads",
            Some(content_type),
            vec![7; size].into(),
        )?;
        let answer: Answer = match client.call(request).await {
            Ok(answer) => answer,
            // A server may close the connection while the client still sends what it will not take.
            Err(_) if size > LARGEST + 1 => continue,
            Err(error) => return Err(error.context(what)),
        };
        ensure!(
            answer.status == status,
            "{what} was answered with {}, not {status}: {}",
            answer.status,
            answer.message()
        );
        let problem: cretoai_control::api::Problem = serde_json::from_slice(&answer.body)
            .with_context(|| format!("{what}: the error is not the documented JSON"))?;
        ensure!(
            problem.sentence().len() > 20,
            "{what}: the message is only '{}'",
            problem.sentence()
        );
    }
    let mut stream = TcpStream::connect(address).await?;
    stream
        .write_all(
            format!("POST /v1/payloads HTTP/1.1\r\nHost: node\r\nContent-Type: {OCTETS}\r\nContent-Length: 100\r\n\r\n0123456789")
                .as_bytes(),
        )
        .await?;
    stream.shutdown().await?;
    let mut answer = Vec::new();
    tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer))
        .await
        .context("a truncated payload got no answer within 20 s")??;
    let answer = String::from_utf8_lossy(&answer);
    ensure!(
        answer.starts_with("HTTP/1.1 400"),
        "a truncated payload was answered with: {}",
        answer.lines().next().unwrap_or("nothing")
    );
    Ok(())
}

#[derive(Default)]
struct Tally {
    accepted: Mutex<Vec<(String, Bytes)>>,
    refused: AtomicU64,
    without_hint: AtomicU64,
    other: Mutex<Option<String>>,
    stop: AtomicBool,
}

async fn storm(lab: &mut Lab, victim: &str, address: SocketAddr) -> Result<String> {
    let pod: Pod = lab.cluster.api::<Pod>().get(victim).await?;
    let process = process::of_pod(&pod.uid().unwrap_or_default(), "cretoai-node")
        .first()
        .copied()
        .with_context(|| format!("the process of {victim} is not seen from here"))?;
    let restarts_before: i32 = lab.cluster.pods().await?.iter().map(restarts).sum();
    let tally = Arc::new(Tally::default());
    let began = Instant::now();
    let stormers: Vec<_> =
        (0..STORMERS).map(|_| tokio::spawn(stormer(address, Arc::clone(&tally)))).collect();
    let mut peak = 0;
    while began.elapsed() < STORM
        && (tally.refused.load(Ordering::Relaxed) < ENOUGH
            || began.elapsed() < Duration::from_secs(2))
    {
        peak = peak.max(process::usage(process).map_or(0, |usage| usage.resident));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tally.stop.store(true, Ordering::Relaxed);
    for stormer in stormers {
        stormer.await?;
    }
    let lasted = began.elapsed();
    let refused = tally.refused.load(Ordering::Relaxed);
    let accepted =
        std::mem::take(&mut *tally.accepted.lock().unwrap_or_else(PoisonError::into_inner));
    if let Some(other) = tally.other.lock().unwrap_or_else(PoisonError::into_inner).take() {
        bail!("in the storm a payload was neither taken in nor refused with 429: {other}");
    }
    ensure!(
        refused > 0,
        "{} payloads of 128 KiB were taken in within {} and none was refused",
        accepted.len(),
        seconds(lasted)
    );
    ensure!(tally.without_hint.load(Ordering::Relaxed) == 0, "a 429 had no Retry-After");

    let drained = Instant::now();
    let mut known = Vec::new();
    let mut client = Client::new(address).with_limit(Duration::from_secs(30));
    for (id, data) in &accepted {
        let end = drained + Duration::from_secs(150);
        let stored = loop {
            peak = peak.max(process::usage(process).map_or(0, |usage| usage.resident));
            match client.read(id).await? {
                Some(stored) => break stored,
                None if Instant::now() < end => {
                    tokio::time::sleep(Duration::from_millis(100)).await
                }
                None => bail!("payload {id} was taken in and is not final 150 s after the storm"),
            }
        };
        known.push(Known {
            id: id.clone(),
            place: stored.place,
            content: cretoai_types::Hash::of_bytes(data),
        });
    }
    let drained = drained.elapsed();
    agree(&lab.cluster, Duration::from_secs(60)).await?;
    // All of them here; a part of them on all nodes, for the time that it takes.
    for payload in &known {
        let stored = client.read(&payload.id).await?.context("it was there a moment ago")?;
        ensure!(
            cretoai_types::Hash::of_bytes(&stored.data) == payload.content,
            "payload {} has other bytes than were sent",
            payload.id
        );
    }
    let part: Vec<Known> =
        known.iter().step_by(known.len().div_ceil(100).max(1)).cloned().collect();
    all_hold(&lab.cluster, &part).await?;
    let restarted: i32 = lab.cluster.pods().await?.iter().map(restarts).sum();
    ensure!(restarted == restarts_before, "a node was restarted by the storm");
    ensure!(
        peak < MEMORY_LIMIT * 9 / 10,
        "{victim} used {} of memory, of a limit of {}",
        bytes(peak),
        bytes(MEMORY_LIMIT)
    );
    Ok(format!(
        "storm of {} over {STORMERS} connections: {} taken in, {refused} refused with 429 and Retry-After; all taken in final {} later; memory at most {}",
        seconds(lasted),
        accepted.len(),
        seconds(drained),
        bytes(peak)
    ))
}

async fn stormer(address: SocketAddr, tally: Arc<Tally>) {
    let mut client = Client::new(address).with_limit(Duration::from_secs(30));
    while !tally.stop.load(Ordering::Relaxed) {
        let mut data = vec![0; LARGEST];
        rand::rng().fill_bytes(&mut data);
        let data = Bytes::from(data);
        let complain = |what: String| {
            tally.other.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(what);
        };
        match client.post(data.clone(), Duration::ZERO).await {
            Ok(answer) if answer.status == StatusCode::TOO_MANY_REQUESTS => {
                tally.refused.fetch_add(1, Ordering::Relaxed);
                if !answer.headers.contains_key(hyper::header::RETRY_AFTER) {
                    tally.without_hint.fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok(answer) => match answer.receipt() {
                Ok(receipt) => tally
                    .accepted
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push((receipt.id, data)),
                Err(error) => complain(format!("{error:#}")),
            },
            Err(error) => complain(format!("{error:#}")),
        }
    }
}
