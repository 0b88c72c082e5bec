//! Nodes that go away.

use super::{
    check::{self, agree, all_hold, fingerprints, names},
    lab::{Known, Lab},
    partition::{self, Partition},
    traffic::{Pending, Traffic, Way},
};
use crate::{
    api::{API_PORT, Client},
    figures::{milliseconds, seconds},
    k8s::{Cluster, condition, is_ready, restarts, until},
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

/// How long the leader is cut off.
const ISOLATION: Duration = Duration::from_secs(10);
/// No pause is longer while a quorum is up: an election takes under a second, on a loaded machine a
/// few.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// What is on its way when a node is cut off may still arrive at it.
const IN_FLIGHT: Duration = Duration::from_secs(1);

fn pod_of(way: &Way) -> &str {
    match way {
        Way::Pod(name) => name,
        Way::Service(_) => "",
    }
}

/// A follower's pod is deleted under load.
pub async fn follower(lab: &mut Lab) -> Result<String> {
    let cluster = lab.cluster.clone();
    let (_, leader) = check::leader(&cluster).await?;
    let victim = (0..4)
        .rev()
        .map(|ordinal| cluster.pod(ordinal))
        .find(|pod| *pod != leader)
        .context("no follower")?;
    let keys = fingerprints(&cluster).await?;
    let before = cluster.api::<Pod>().get(&victim).await?.uid();
    let traffic = Traffic::begin(
        &cluster,
        &[Way::Service(cluster.service_address().await?)],
        3,
        Duration::ZERO,
    );
    tokio::time::sleep(Duration::from_secs(2)).await;

    let deleted = Instant::now();
    cluster
        .api::<Pod>()
        .delete(&victim, &DeleteParams::default())
        .await
        .context("deleting the pod")?;
    let back = until(Duration::from_secs(120), &format!("{victim} to be back"), || async {
        let pod = cluster.api::<Pod>().get_opt(&victim).await?;
        Ok(match pod {
            Some(pod) if pod.uid() != before && is_ready(&pod) => Ok(Instant::now()),
            _ => Err("it is not ready".into()),
        })
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let seen = traffic.end().await?;
    let back = back?;
    let meanwhile = seen.count(deleted, back, |_| true);
    let pause = seen.longest_pause(deleted, back, |_| true);
    ensure!(
        meanwhile > 0,
        "nothing became final while {victim} was away; {} attempts failed, the first: {}",
        seen.failed,
        seen.error()
    );
    ensure!(
        pause < LONGEST_PAUSE,
        "nothing became final for {} while {victim} was away",
        seconds(pause)
    );
    cluster.whole(Duration::from_secs(60)).await?;
    ensure!(fingerprints(&cluster).await? == keys, "{victim} came back with another key");
    let (sequence, _) = agree(&cluster, Duration::from_secs(60)).await?;
    let known = seen.known();
    all_hold(&cluster, &known).await?;
    lab.known.extend(known);
    Ok(format!(
        "{victim} back after {}; {meanwhile} payloads final meanwhile, longest pause {}; {} attempts had to be repeated; same key, same chain at sequence {sequence}",
        seconds(back.duration_since(deleted)),
        milliseconds(Some(pause.as_secs_f64() * 1000.0)),
        seen.failed
    ))
}

/// Another node leads than `before`, in a newer view; how long after `since` that was so, and who.
async fn elected(
    cluster: &Cluster,
    before: &(u64, String),
    since: Instant,
) -> Result<(u64, String, Duration)> {
    until(Duration::from_secs(30), &format!("another leader than {}", before.1), || async {
        let (view, name) = check::leader(cluster).await?;
        Ok(if view > before.0 && name != before.1 {
            Ok((view, name, since.elapsed()))
        } else {
            Err(format!("{name} leads view {view}"))
        })
    })
    .await
}

/// The status names another leader than `before`.
async fn shown(cluster: &Cluster, before: &str) -> Result<String> {
    until(Duration::from_secs(30), "LEADER to name another node", || async {
        let leader = cluster.get().await?.status.and_then(|status| status.leader);
        Ok(leader.filter(|leader| leader != before).ok_or_else(|| format!("it names {before}")))
    })
    .await
}

/// kill -9 of the leader under load.
pub async fn leader(lab: &mut Lab) -> Result<String> {
    let cluster = lab.cluster.clone();
    let before = check::leader(&cluster).await?;
    let victim = before.1.as_str();
    let pod = cluster.api::<Pod>().get(victim).await?;
    let processes = process::of_pod(&pod.uid().unwrap_or_default(), "cretoai-node");
    ensure!(
        !processes.is_empty(),
        "the process of {victim} is not seen from here, so it cannot be killed"
    );
    let keys = fingerprints(&cluster).await?;
    let ways: Vec<Way> = names(&cluster).await?.into_iter().map(Way::Pod).collect();
    let traffic = Traffic::begin(&cluster, &ways, 2, Duration::ZERO);
    tokio::time::sleep(Duration::from_secs(2)).await;

    let killed = Instant::now();
    for pid in processes {
        process::kill(pid).await?;
    }
    let (view, heir, _) = elected(&cluster, &before, killed).await?;
    shown(&cluster, victim).await?;
    let back = until(Duration::from_secs(90), &format!("{victim} to be back"), || async {
        let now = cluster.api::<Pod>().get(victim).await?;
        Ok(if restarts(&now) > restarts(&pod) && is_ready(&now) {
            Ok(Instant::now())
        } else {
            Err("it is not ready".into())
        })
    })
    .await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let end = Instant::now();
    let seen = traffic.end().await?;

    let others = |way: &Way| pod_of(way) != victim;
    let outage = seen.longest_pause(killed, end, others);
    let meanwhile = seen.count(killed, back, others);
    ensure!(
        meanwhile > 0,
        "nothing became final without {victim}; {} attempts failed, the first: {}",
        seen.failed,
        seen.error()
    );
    ensure!(
        outage < LONGEST_PAUSE,
        "nothing became final for {} after {victim}, the leader, was killed",
        seconds(outage)
    );
    cluster.whole(Duration::from_secs(60)).await?;
    ensure!(fingerprints(&cluster).await? == keys, "{victim} came back with another key");
    let (sequence, _) = agree(&cluster, Duration::from_secs(60)).await?;
    let known = seen.known();
    all_hold(&cluster, &known).await?;
    let acknowledged = known.len();
    lab.known.extend(known);
    Ok(format!(
        "{victim} killed in view {}; outage {} for clients of the other pods, then {heir} led view {view}; {meanwhile} payloads final until {victim} was back after {}; all {acknowledged} acknowledged ones are on all nodes, one chain at sequence {sequence}",
        before.0,
        milliseconds(Some(outage.as_secs_f64() * 1000.0)),
        seconds(back.duration_since(killed))
    ))
}

/// The leader is cut off from the others and let back.
pub async fn partition(lab: &mut Lab) -> Result<String> {
    let cluster = lab.cluster.clone();
    partition::possible(&cluster).await?;
    let before = check::leader(&cluster).await?;
    let victim = before.1.as_str();
    let ways: Vec<Way> = names(&cluster).await?.into_iter().map(Way::Pod).collect();
    let traffic = Traffic::begin(&cluster, &ways, 2, Duration::ZERO);
    tokio::time::sleep(Duration::from_secs(2)).await;

    let cut = Instant::now();
    let filter = Partition::cut(&cluster, victim).await?;
    let apart = apart(&cluster, &before, cut).await;
    filter.heal().await?;
    let healed = Instant::now();
    let (view, heir) = apart?;
    let isolated = |way: &Way| pod_of(way) == victim;
    let again =
        until(Duration::from_secs(60), &format!("payloads of {victim} to be final again"), || {
            let again = traffic
                .seen()
                .finals
                .iter()
                .find(|told| isolated(&told.way) && told.at > healed)
                .map(|told| told.at);
            async move { Ok(again.ok_or_else(|| "none is".to_owned())) }
        })
        .await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let end = Instant::now();
    let seen = traffic.end().await?;

    let others = |way: &Way| !isolated(way);
    let alone = seen.count(cut + IN_FLIGHT, healed, isolated);
    ensure!(
        alone == 0,
        "{victim} told {alone} payloads to be final while it was cut off from a quorum"
    );
    let outage = seen.longest_pause(cut, end, others);
    let meanwhile = seen.count(cut, healed, others);
    ensure!(
        meanwhile > 0,
        "nothing became final without {victim}; {} attempts failed, the first: {}",
        seen.failed,
        seen.error()
    );
    ensure!(
        outage < LONGEST_PAUSE,
        "nothing became final for {} after {victim}, the leader, was cut off",
        seconds(outage)
    );
    cluster.whole(Duration::from_secs(60)).await?;
    let (sequence, _) = agree(&cluster, Duration::from_secs(60)).await?;
    let mut known = seen.known();
    known.extend(decided(&cluster, &seen.pending).await?);
    all_hold(&cluster, &known).await?;
    let acknowledged = known.len();
    lab.known.extend(known);
    Ok(format!(
        "{victim} cut off in view {} for {}; outage {} for clients of the other pods, then {heir} led view {view}; {meanwhile} payloads final meanwhile, none told by {victim}; its own were final again {} after the heal; all {acknowledged} acknowledged ones are on all nodes, one chain hash at sequence {sequence}",
        before.0,
        seconds(healed.duration_since(cut)),
        milliseconds(Some(outage.as_secs_f64() * 1000.0)),
        milliseconds(Some(again.duration_since(healed).as_secs_f64() * 1000.0))
    ))
}

/// While the old leader is cut off: another one leads, the status says so, and time goes by.
async fn apart(cluster: &Cluster, before: &(u64, String), cut: Instant) -> Result<(u64, String)> {
    let (view, heir, _) = elected(cluster, before, cut).await?;
    shown(cluster, &before.1).await?;
    tokio::time::sleep(ISOLATION.saturating_sub(cut.elapsed())).await;
    Ok((view, heir))
}

/// Where payloads are that a node took in and did not tell to be final in time.
async fn decided(cluster: &Cluster, pending: &[Pending]) -> Result<Vec<Known>> {
    let mut known = Vec::new();
    for payload in pending {
        let stored = until(
            Duration::from_secs(60),
            &format!("payload {}, taken in by {}, to be final", payload.id, pod_of(&payload.way)),
            || async {
                Ok(cluster
                    .node(pod_of(&payload.way))
                    .await?
                    .read(&payload.id)
                    .await?
                    .ok_or_else(|| "it is not".to_owned()))
            },
        )
        .await?;
        known.push(Known { id: payload.id.clone(), place: stored.place, content: payload.content });
    }
    Ok(known)
}

/// kill -9 of two nodes, again as often as the kubelet starts them, until told to stop. Returns how
/// often it killed.
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

/// kill -9 of two nodes of four, the leader among them.
pub async fn two_nodes(lab: &mut Lab) -> Result<String> {
    let cluster = lab.cluster.clone();
    let (_, leader) = check::leader(&cluster).await?;
    let another = (0..4)
        .rev()
        .map(|ordinal| cluster.pod(ordinal))
        .find(|pod| *pod != leader)
        .context("no follower")?;
    let victims = [leader, another];
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
    let mut client =
        Client::new(*survivors.first().context("no survivor")?).with_limit(Duration::from_secs(20));
    for (id, data) in &pending {
        let stored = until(
            Duration::from_secs(60),
            &format!("payload {id}, taken in during the outage, to be final"),
            || {
                let mut client =
                    Client::new(survivors.first().copied().unwrap_or(([127, 0, 0, 1], 1).into()));
                async move { Ok(client.read(id).await?.ok_or_else(|| "it is not".to_owned())) }
            },
        )
        .await?;
        known.push(Known {
            id: id.clone(),
            place: stored.place,
            content: cretoai_types::Hash::of_bytes(data),
        });
    }
    let data = random_payload(4096);
    let receipt = client
        .submit(data.clone(), Duration::from_secs(20))
        .await
        .context("after the nodes were back")?;
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

type TakenIn = Vec<(String, Bytes)>;

/// What is so while two nodes are away: payloads that were taken in, the status, and how soon it
/// said so.
async fn outage(
    lab: &Lab,
    victims: &[String],
    survivors: &[SocketAddr],
    began: Instant,
) -> Result<(TakenIn, String, Duration)> {
    // What was on its way when the nodes died may still have been decided; what comes from now on
    // cannot be.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut pending = TakenIn::new();
    let mut told = None;
    let mut round = 0_usize;
    while began.elapsed() < OUTAGE || told.is_none() {
        let survivor =
            survivors.get(round % survivors.len().max(1)).copied().context("no survivor")?;
        round += 1;
        let data = random_payload(1024);
        let answer = Client::new(survivor)
            .with_limit(Duration::from_secs(10))
            .post(data.clone(), Duration::from_millis(700))
            .await?;
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
                .filter(|(status, message)| {
                    status == "False" && victims.iter().all(|victim| message.contains(victim))
                })
                .map(|(_, message)| (message, began.elapsed()));
        }
        if began.elapsed() > Duration::from_secs(40) {
            let resource = lab.cluster.get().await?;
            bail!(
                "40 s after the kill QuorumAvailable is still {:?}",
                condition(&resource, "QuorumAvailable")
            );
        }
    }
    let mut client = Client::new(*survivors.first().context("no survivor")?);
    for (id, _) in &pending {
        ensure!(client.read(id).await?.is_none(), "payload {id} is final without a quorum");
    }
    let (message, noticed) = told.context("the status did not say that the quorum is lost")?;
    Ok((pending, message, noticed))
}
