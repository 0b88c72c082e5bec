//! Payloads in number, and at a rate.

use super::{
    check::{agree, all_hold},
    lab::{Known, Lab},
};
use crate::{
    api::Client,
    figures::{bytes, milliseconds, percentile, seconds},
    load::{self, random_payload},
    process,
};
use anyhow::{Result, ensure};
use kube::ResourceExt;
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

const CLIENTS: usize = 4;
const EACH: usize = 250;
const LONGEST: usize = 128 * 1024;

/// 1,000 payloads of random size from 4 clients.
pub async fn thousand(lab: &mut Lab) -> Result<String> {
    let service = lab.cluster.service_address().await?;
    let began = Instant::now();
    let clients = (0..CLIENTS).map(|client| tokio::spawn(one_client(service, client)));
    let mut known = Vec::new();
    let mut latencies = Vec::new();
    let mut size = 0;
    for client in futures::future::join_all(clients).await {
        for (payload, length, latency) in client?? {
            known.push(payload);
            latencies.push(latency);
            size += length as u64;
        }
    }
    let submitted = began.elapsed();
    ensure!(known.len() == CLIENTS * EACH, "only {} payloads became final", known.len());
    let began = Instant::now();
    all_hold(&lab.cluster, &known).await?;
    let read = began.elapsed();
    let (sequence, hash) = agree(&lab.cluster, Duration::from_secs(30)).await?;
    latencies.sort_by(f64::total_cmp);
    lab.known.extend(known);
    Ok(format!(
        "{} payloads, {} final in {} (p50 {}, p99 {}); read back equal from 4 nodes in {}; sequence {sequence}, one chain hash {}…",
        CLIENTS * EACH,
        bytes(size),
        seconds(submitted),
        milliseconds(percentile(&latencies, 50.0)),
        milliseconds(percentile(&latencies, 99.0)),
        seconds(read),
        hash.get(..12).unwrap_or(&hash)
    ))
}

async fn one_client(service: SocketAddr, number: usize) -> Result<Vec<(Known, usize, f64)>> {
    let mut results = Vec::new();
    let mut client = Client::new(service);
    for round in 0..EACH {
        // A new connection now and then, so that the Service spreads a client over the nodes.
        if round % 25 == 0 {
            client = Client::new(service);
        }
        // The smallest and the largest are among them for certain.
        let data = match (number, round) {
            (0, 0) => bytes::Bytes::from_static(b"c"),
            (1, 0) => vec![0xA5; LONGEST].into(),
            _ => random_payload(LONGEST),
        };
        let began = Instant::now();
        let receipt = client.submit(data.clone(), Duration::from_secs(30)).await?;
        results.push((
            Known::new(&receipt, &data)?,
            data.len(),
            began.elapsed().as_secs_f64() * 1000.0,
        ));
    }
    Ok(results)
}

/// 100 payloads/s of 512 B through the Service.
pub async fn latency(lab: &mut Lab) -> Result<String> {
    let plan = load::Arguments {
        targets: vec![lab.cluster.service_address().await?],
        rate: 100,
        warmup: 3,
        seconds: 15,
        size: 512,
        connections: 24,
        patience: 10,
    };
    let outcome = load::drive(&plan, |_| {}).await?;
    let why = outcome.first_error.clone().unwrap_or_default();
    ensure!(
        outcome.finalized == outcome.due,
        "of {} payloads {} became final, {} were refused ({why})",
        outcome.due,
        outcome.finalized,
        outcome.refused
    );
    let mut memory = Vec::new();
    for (pods, program) in [
        (lab.cluster.pods().await?, "cretoai-node"),
        (lab.installation.pods(&lab.client).await?, "cretoai-operator"),
    ] {
        let of_pod = |uid: Option<String>| {
            process::of_pod(&uid.unwrap_or_default(), program)
                .into_iter()
                .filter_map(process::usage)
                .map(|usage| usage.resident)
        };
        let largest = pods.iter().flat_map(|pod| of_pod(pod.uid())).max();
        memory.push(format!("{program} {}", largest.map_or_else(|| "unknown".into(), bytes)));
    }
    Ok(format!(
        "{} payloads at 100/s: p50 {}, p99 {}; memory: {}",
        outcome.due,
        milliseconds(outcome.p50_ms),
        milliseconds(outcome.p99_ms),
        memory.join(", ")
    ))
}
