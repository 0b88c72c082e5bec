//! One of four nodes attacks with the program of an attacker, in a pod and with a key that belong
//! to the chain.
//!
//! Its image holds the node built with the feature `byzantine`, and says in its environment which
//! attacks it makes. The cluster is one of its own: whom the chain suspects it suspects for good.

use super::{
    Skipped, check,
    lab::{Known, Lab},
    traffic::{Traffic, Way},
};
use crate::{
    api::Client,
    figures::{milliseconds, seconds},
    k8s::{Cluster, kubectl, program, until},
    process,
};
use anyhow::{Context, Result, bail, ensure};
use cretoai_control::api::{EvidenceItem, EvidenceList};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{
    ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};
use tokio::process::Command;

/// How long the chain is watched with all honest nodes and the attacker.
const WATCHED: Duration = Duration::from_secs(10);
/// Two honest nodes decide with the attacker or not at all: until the third is back it may stop
/// them.
const RETURN: Duration = Duration::from_secs(120);

/// From the last evidence to the alert: rules are evaluated twice a minute.
const ALERTED: Duration = Duration::from_secs(75);

/// Tolerated, proven, named.
pub async fn tolerated(lab: &mut Lab) -> Result<String> {
    let image = lab.settings.byzantine_image.as_ref().ok_or_else(|| {
        Skipped("CRETO_BYZANTINE_IMAGE is not set: the attacker's image is only made by make e2e and scripts/images byzantine".into())
    })?;
    let cluster = Cluster::new(&lab.client, &lab.cluster.namespace, "attacked");
    cluster
        .apply(&json!({
            "replicas": 4,
            "storage": { "size": "1Gi", "retentionPolicy": "Delete" },
            "resources": { "requests": { "cpu": "10m", "memory": "64Mi" } },
            "tuning": { "cacheSizeMb": 16, "writeBufferMb": 8 },
        }))
        .await?;
    cluster.whole(Duration::from_secs(120)).await?;
    if let Some(prometheus) = &lab.prometheus {
        prometheus.watch(&cluster).await?;
    }
    let (_, leader) = check::leader(&cluster).await?;
    let names = check::names(&cluster).await?;
    // The next to lead, so that it does when the leader is killed.
    let attacker = names
        .iter()
        .cycle()
        .skip_while(|name| **name != leader)
        .nth(1)
        .context("the leader is none of the pods")?
        .clone();
    let honest: Vec<String> = names.into_iter().filter(|name| *name != attacker).collect();
    let ways: Vec<Way> = honest.iter().cloned().map(Way::Pod).collect();
    let traffic = Traffic::begin(&cluster, &ways, 2, Duration::ZERO);
    tokio::time::sleep(Duration::from_secs(2)).await;

    let turned = Instant::now();
    turn(&cluster, &attacker, &image.name()).await?;
    let attacks = Instant::now();
    // It attacks with what it has to say: payloads of clients who believe in it.
    let bait =
        Traffic::begin(&cluster, &[Way::Pod(attacker.clone())], 2, Duration::from_millis(100));
    let proven = proven(lab, &cluster, &attacker, &honest).await?;
    let found = attacks.elapsed();
    let named = named(lab, &cluster, &attacker).await?;
    drop(bait);
    let found_out = Instant::now();
    let before = {
        let seen = traffic.seen();
        (seen.count(attacks, found_out, |_| true), seen.longest_pause(attacks, found_out, |_| true))
    };
    ensure!(
        before.0 > 0,
        "nothing became final under attack; the first error: {}",
        traffic.seen().error()
    );

    let caught_up = under_lies(&cluster, &attacker, &honest, &traffic).await?;
    let back = Instant::now();
    tokio::time::sleep(WATCHED).await;
    let end = Instant::now();
    let counted = evidence(&cluster, honest.first().context("no honest node")?).await?;
    let seen = traffic.end().await?;
    let after = (seen.count(back, end, |_| true), seen.longest_pause(back, end, |_| true));
    ensure!(
        after.0 > 0,
        "nothing became final under attack with all honest nodes back; the first error: {}",
        seen.error()
    );
    let (sequence, _) = check::agree_among(&cluster, &honest, Duration::from_secs(60)).await?;
    let known: Vec<Known> = seen.known();
    check::each_holds(&cluster, &honest, &known).await?;
    let alerted = match &lab.prometheus {
        Some(prometheus) => {
            let since = prometheus.raises(&cluster, "ByzantineNodeDetected", ALERTED).await?;
            format!("Prometheus raised ByzantineNodeDetected, waited for {}", seconds(since))
        }
        None => "no Prometheus was there to raise an alert".into(),
    };
    cluster.delete().await?;
    Ok(format!(
        "{attacker} ran the attacker's program {} after the patch; {proven}, {} later; SUSPECTED named it after {}; {} payloads final until then, longest pause {}; {caught_up}; {} payloads final in the {} after that, longest pause {}; {counted} pieces of evidence in all; {alerted}; all {} acknowledged payloads are on the 3 honest nodes, one chain at sequence {sequence}",
        seconds(attacks.duration_since(turned)),
        seconds(found),
        seconds(named.duration_since(attacks)),
        before.0,
        pause(before.1),
        after.0,
        seconds(end.duration_since(back)),
        pause(after.1),
        known.len()
    ))
}

fn pause(length: Duration) -> String {
    milliseconds(Some(length.as_secs_f64() * 1000.0))
}

/// How many violations the chain holds proof of.
async fn evidence(cluster: &Cluster, name: &str) -> Result<u64> {
    let answer = cluster.node(name).await?.get("/v1/evidence").await?;
    let list: EvidenceList = serde_json::from_slice(&answer.body)
        .with_context(|| format!("GET /v1/evidence: {}", answer.message()))?;
    Ok(list.total)
}

/// Gives one pod another image and waits until it runs. The kubelet starts the container anew; the
/// volume and so the key stay, and the operator, which compares pods with their template's
/// revision, leaves it alone.
async fn turn(cluster: &Cluster, pod: &str, image: &str) -> Result<()> {
    let before = cluster.api::<Pod>().get(pod).await?;
    let container = before
        .spec
        .and_then(|spec| Some(spec.containers.first()?.name.clone()))
        .context("the pod has no container")?;
    let patch = json!({"spec": {"containers": [{"name": container, "image": image}]}});
    cluster
        .api::<Pod>()
        .patch(pod, &PatchParams::default(), &Patch::Strategic(&patch))
        .await
        .context("giving the pod another image")?;
    until(Duration::from_secs(60), &format!("{pod} to run {image}"), || async {
        let pod = cluster.api::<Pod>().get(pod).await?;
        let statuses = pod.status.and_then(|status| status.container_statuses).unwrap_or_default();
        let runs = statuses.iter().any(|status| {
            status.image == image
                && status.state.as_ref().is_some_and(|state| state.running.is_some())
        });
        Ok(if runs {
            Ok(())
        } else {
            Err(format!(
                "it runs {:?}",
                statuses.iter().map(|status| &status.image).collect::<Vec<_>>()
            ))
        })
    })
    .await
}

/// The genesis of a cluster, as its ConfigMap holds it.
pub async fn genesis(cluster: &Cluster) -> Result<Vec<u8>> {
    let map: ConfigMap = cluster
        .api::<ConfigMap>()
        .get(&format!("{}-genesis", cluster.name))
        .await
        .context("reading the genesis")?;
    let genesis = map
        .binary_data
        .and_then(|mut data| data.remove("genesis"))
        .context("the genesis ConfigMap has no key genesis")?;
    Ok(genesis.0)
}

/// Every honest node has the same first evidence against the attacker, and the node's own program
/// verifies it without any node.
async fn proven(lab: &Lab, cluster: &Cluster, attacker: &str, honest: &[String]) -> Result<String> {
    let folder = Folder::new()?;
    let genesis_file = folder.write("genesis", &genesis(cluster).await?)?;
    let (mut first, mut told) = (None, String::new());
    for name in honest {
        let answer = until(Duration::from_secs(120), &format!("evidence at {name}"), || async {
            let mut client: Client = cluster.node(name).await?;
            let answer = client.get("/v1/evidence/0").await?;
            Ok(if answer.status.is_success() {
                Ok(answer.body)
            } else {
                Err(format!("{}: {}", answer.status, answer.message()))
            })
        })
        .await?;
        let item: EvidenceItem = serde_json::from_slice(&answer)
            .with_context(|| format!("the evidence of {name} is not the documented JSON"))?;
        ensure!(
            item.accused.name == attacker,
            "{name} has evidence against {}, which did nothing",
            item.accused.name
        );
        let same = first.get_or_insert_with(|| item.clone());
        ensure!(
            *same == item,
            "the first evidence at {name} is not that of {}: {item:?}, {same:?}",
            honest.first().map_or("another", String::as_str)
        );
        let file = folder.write(&format!("{name}.json"), &answer)?;
        let mut verify = Command::new(&lab.settings.node_binary);
        told = program(
            verify.args(["verify", "evidence"]).arg(&file).arg("--genesis").arg(&genesis_file),
        )
        .await?;
    }
    let kind = first.map(|item| item.kind).unwrap_or_default();
    let told = told.lines().next().unwrap_or_default();
    Ok(format!(
        "evidence ({kind}) equal at {} honest nodes and verified offline: \"{told}\"",
        honest.len()
    ))
}

/// The status names the attacker, and nobody else.
async fn named(lab: &Lab, cluster: &Cluster, attacker: &str) -> Result<Instant> {
    until(Duration::from_secs(30), &format!("the status to suspect {attacker}"), || async {
        let suspected =
            cluster.get().await?.status.map(|status| status.suspected).unwrap_or_default();
        Ok(if suspected == [attacker] { Ok(()) } else { Err(format!("it suspects {suspected:?}")) })
    })
    .await?;
    let named = Instant::now();
    let columns = kubectl(
        &lab.settings,
        &["get", "creto", "-n", &cluster.namespace, &cluster.name, "-o", "wide"],
    )
    .await?;
    let (head, row) = columns.split_once('\n').context("kubectl get creto -o wide shows no row")?;
    let column = head.find("SUSPECTED").with_context(|| {
        format!("kubectl get creto -o wide has no column SUSPECTED:\n{columns}")
    })?;
    ensure!(
        row.get(column..).is_some_and(|cell| cell.starts_with(attacker)),
        "SUSPECTED does not name {attacker}:\n{columns}"
    );
    until(Duration::from_secs(15), "an Event about it", || async {
        let events = cluster.events().await?;
        let told = events
            .iter()
            .any(|(reason, note)| reason == "MemberSuspected" && note.contains(attacker));
        Ok(if told { Ok(()) } else { Err(format!("{events:?}")) })
    })
    .await?;
    Ok(named)
}

/// kill -9 of the leader, so that the attacker's turn comes; the killed one catches up although one
/// of those whom it asks lies.
async fn under_lies(
    cluster: &Cluster,
    attacker: &str,
    honest: &[String],
    traffic: &Traffic,
) -> Result<String> {
    let (_, leader) = check::leader(cluster).await?;
    let victim = honest
        .iter()
        .find(|name| **name == leader)
        .or_else(|| honest.last())
        .context("no honest node")?;
    let uid = cluster.api::<Pod>().get(victim).await?.uid().unwrap_or_default();
    let processes = process::of_pod(&uid, "cretoai-node");
    ensure!(
        !processes.is_empty(),
        "the process of {victim} is not seen from here, so it cannot be killed"
    );
    let killed = Instant::now();
    for pid in processes {
        process::kill(pid).await?;
    }
    let own = Way::Pod(victim.clone());
    let mut led = false;
    let back = loop {
        led |= check::leader(cluster).await.is_ok_and(|(_, leader)| leader == attacker);
        let again = traffic
            .seen()
            .finals
            .iter()
            .rev()
            .take_while(|told| told.at > killed)
            .find(|told| told.way == own)
            .map(|told| told.at);
        match again {
            Some(again) => break again,
            None if killed.elapsed() > RETURN => bail!(
                "{} s after {victim} was killed none of its payloads is final",
                RETURN.as_secs()
            ),
            None => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    };
    Ok(format!(
        "{victim} was killed, {attacker} {}, and {victim} caught up in spite of its lies within {} (longest pause for the others {})",
        if led { "led" } else { "did not come to lead" },
        seconds(back.duration_since(killed)),
        pause(traffic.seen().longest_pause(killed, back, |way| *way != own))
    ))
}

/// A folder that goes when it is no longer needed.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("creto-evidence-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(Self(path))
    }

    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("{} could not be removed: {error}", self.0.display());
        }
    }
}
