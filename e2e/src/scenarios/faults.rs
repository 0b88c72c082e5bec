//! Nodes that go away.

use super::{
    check::{agree, all_hold, fingerprints},
    lab::{Known, Lab},
};
use crate::{
    api::{API_PORT, Client},
    figures::seconds,
    k8s::{condition, is_ready, until},
    load::random_payload,
    process,
};
use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt, api::DeleteParams};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// How long two nodes are kept away, at least.
const OUTAGE: Duration = Duration::from_secs(12);

/// The followers, last first. This version has a fixed leader, so losing it is another matter.
async fn followers(lab: &Lab) -> Result<Vec<String>> {
    let leader = lab.cluster.get().await?.status.and_then(|status| status.leader).context("the status names no leader")?;
    Ok((0..4).rev().map(|ordinal| lab.cluster.pod(ordinal)).filter(|pod| *pod != leader).collect())
}

/// One client that goes on until told to stop: what became final and when, and the errors on the way.
async fn keep_submitting(service: SocketAddr, stop: Arc<AtomicBool>) -> Result<(Vec<(Known, Instant)>, Vec<String>)> {
    let (mut done, mut errors) = (Vec::new(), Vec::new());
    while !stop.load(Ordering::Relaxed) {
        // A new connection each, as short-lived clients make them; the Service may lead to the pod that is going.
        let data = random_payload(4096);
        match Client::new(service).with_limit(Duration::from_secs(20)).submit(data.clone(), Duration::from_secs(15)).await {
            Ok(receipt) => done.push((Known::new(&receipt, &data)?, Instant::now())),
            Err(error) => {
                errors.push(format!("{error:#}"));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    Ok((done, errors))
}

/// A follower's pod is deleted under load.
pub async fn follower(lab: &mut Lab) -> Result<String> {
    let cluster = lab.cluster.clone();
    let victim = followers(lab).await?.first().cloned().context("no follower")?;
    let service = cluster.service_address().await?;
    let keys = fingerprints(&cluster).await?;
    let before = cluster.api::<Pod>().get(&victim).await?.uid();
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..3).map(|_| tokio::spawn(keep_submitting(service, Arc::clone(&stop)))).collect();
    tokio::time::sleep(Duration::from_secs(2)).await;

    let deleted = Instant::now();
    cluster.api::<Pod>().delete(&victim, &DeleteParams::default()).await.context("deleting the pod")?;
    let back = until(Duration::from_secs(120), &format!("{victim} to be back"), || async {
        let pod = cluster.api::<Pod>().get_opt(&victim).await?;
        Ok(match pod {
            Some(pod) if pod.uid() != before && is_ready(&pod) => Ok(deleted.elapsed()),
            _ => Err("it is not ready".into()),
        })
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.store(true, Ordering::Relaxed);
    let (mut known, mut times, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    for client in clients {
        let (done, failed) = client.await??;
        errors.extend(failed);
        for (payload, at) in done {
            known.push(payload);
            times.push(at);
        }
    }
    let back = back?;
    times.sort();
    let meanwhile = times.iter().filter(|at| **at > deleted && **at < deleted + back).count();
    let pause = times.windows(2).filter_map(|pair| Some(pair.get(1)?.duration_since(*pair.first()?))).max().unwrap_or_default();
    ensure!(
        meanwhile > 0,
        "nothing became final while {victim} was away; {} errors, such as: {}",
        errors.len(),
        errors.first().map_or("none", String::as_str)
    );
    ensure!(pause < Duration::from_secs(10), "nothing became final for {} while {victim} was away", seconds(pause));
    cluster.whole(Duration::from_secs(60)).await?;
    ensure!(fingerprints(&cluster).await? == keys, "{victim} came back with another key");
    let (sequence, _) = agree(&cluster, Duration::from_secs(60)).await?;
    all_hold(&cluster, &known).await?;
    lab.known.extend(known);
    Ok(format!(
        "{victim} back after {}; {meanwhile} payloads final meanwhile, longest pause {}; {} attempts had to be repeated; same key, same chain at sequence {sequence}",
        seconds(back),
        seconds(pause),
        errors.len()
    ))
}

/// kill -9 of two nodes, again as often as the kubelet starts them, until told to stop. Returns how often it killed.
async fn keep_dead(pods: Vec<String>, stop: Arc<AtomicBool>, count: Arc<AtomicU64>) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        for uid in &pods {
            for pid in process::of_pod(uid, "cretoai-node") {
                process::kill(pid).await?;
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// kill -9 of two nodes of four.
pub async fn two_nodes(lab: &mut Lab) -> Result<String> {
    let cluster = lab.cluster.clone();
    let victims: Vec<String> = followers(lab).await?.into_iter().take(2).collect();
    let mut survivors = Vec::new();
    let mut uids = Vec::new();
    for pod in cluster.pods().await? {
        if victims.contains(&pod.name_any()) {
            uids.push(pod.uid().context("a pod without UID")?);
        } else {
            survivors.push(cluster.pod_address(&pod.name_any(), API_PORT).await?);
        }
    }
    for uid in &uids {
        ensure!(
            !process::of_pod(uid, "cretoai-node").is_empty(),
            "the processes of the pods are not seen from here, so they cannot be killed"
        );
    }
    let keys = fingerprints(&cluster).await?;
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let began = Instant::now();
    let killer = tokio::spawn(keep_dead(uids, Arc::clone(&stop), Arc::clone(&count)));
    let outage = outage(lab, &victims, &survivors, began).await;
    stop.store(true, Ordering::Relaxed);
    killer.await??;
    let lasted = began.elapsed();
    let (pending, message, noticed) = outage?;

    let back = Instant::now();
    cluster.whole(Duration::from_secs(150)).await?;
    let back = back.elapsed();
    ensure!(fingerprints(&cluster).await? == keys, "a node came back with another key");
    let mut known = Vec::new();
    let mut client = Client::new(*survivors.first().context("no survivor")?).with_limit(Duration::from_secs(20));
    for (id, data) in &pending {
        let stored = until(Duration::from_secs(60), &format!("payload {id}, taken in during the outage, to be final"), || {
            let mut client = Client::new(survivors.first().copied().unwrap_or(([127, 0, 0, 1], 1).into()));
            async move { Ok(client.read(id).await?.ok_or_else(|| "it is not".to_owned())) }
        })
        .await?;
        known.push(Known { id: id.clone(), place: stored.place, content: cretoai_consensus::Hash::of_bytes(data) });
    }
    let data = random_payload(4096);
    let receipt = client.submit(data.clone(), Duration::from_secs(20)).await.context("after the nodes were back")?;
    known.push(Known::new(&receipt, &data)?);
    lab.known.extend(known);
    all_hold(&cluster, &lab.known).await?;
    agree(&cluster, Duration::from_secs(30)).await?;
    Ok(format!(
        "{} killed {} times over {}; status after {}: \"{message}\"; nothing final meanwhile, {} taken in became final later; whole again {} after the last kill; all {} payloads are there",
        victims.join(" and "),
        count.load(Ordering::Relaxed),
        seconds(lasted),
        seconds(noticed),
        pending.len(),
        seconds(back),
        lab.known.len()
    ))
}

type Pending = Vec<(String, Bytes)>;

/// What is so while two nodes are away: payloads that were taken in, the status, and how soon it said so.
async fn outage(lab: &Lab, victims: &[String], survivors: &[SocketAddr], began: Instant) -> Result<(Pending, String, Duration)> {
    // What was on its way when the nodes died may still have been decided; what comes from now on cannot be.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut pending = Pending::new();
    let mut told = None;
    let mut round = 0_usize;
    while began.elapsed() < OUTAGE || told.is_none() {
        let survivor = survivors.get(round % survivors.len().max(1)).copied().context("no survivor")?;
        round += 1;
        let data = random_payload(1024);
        let answer = Client::new(survivor).with_limit(Duration::from_secs(10)).post(data.clone(), Duration::from_millis(700)).await?;
        // 503 is an honest answer too: then nothing was taken in.
        if answer.status.as_u16() != 503 {
            let receipt = answer.receipt()?;
            if receipt.status == "final" {
                bail!(
                    "payload {} was told to be final {} after {} were killed",
                    receipt.id,
                    seconds(began.elapsed()),
                    victims.join(" and ")
                );
            }
            pending.push((receipt.id, data));
        }
        if told.is_none() {
            let resource = lab.cluster.get().await?;
            told = condition(&resource, "QuorumAvailable")
                .filter(|(status, message)| status == "False" && victims.iter().all(|victim| message.contains(victim)))
                .map(|(_, message)| (message, began.elapsed()));
        }
        if began.elapsed() > Duration::from_secs(40) {
            let resource = lab.cluster.get().await?;
            bail!("40 s after the kill QuorumAvailable is still {:?}", condition(&resource, "QuorumAvailable"));
        }
    }
    let mut client = Client::new(*survivors.first().context("no survivor")?);
    for (id, _) in &pending {
        ensure!(client.read(id).await?.is_none(), "payload {id} is final without a quorum");
    }
    let (message, noticed) = told.context("the status did not say that the quorum is lost")?;
    Ok((pending, message, noticed))
}
