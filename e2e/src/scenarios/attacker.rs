//! One of four nodes attacks with the program of an attacker, in a pod and with a key that belong to the chain.
//!
//! Its image holds the node built with the feature `byzantine`, and says in its environment which attacks it makes. The cluster
//! is one of its own: whom the chain suspects it suspects for good.

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
use anyhow::{Context, Result, ensure};
use cretoai_control::api::EvidenceItem;
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

/// How long the chain is watched after the attacker was found out.
const WATCHED: Duration = Duration::from_secs(10);
/// Two honest nodes of three that are needed decide with the attacker or not at all, until the third is back.
const RETURN: Duration = Duration::from_secs(120);

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
    let (_, attacker) = check::leader(&cluster).await?;
    let honest: Vec<String> = check::names(&cluster).await?.into_iter().filter(|name| *name != attacker).collect();
    let ways: Vec<Way> = honest.iter().cloned().map(Way::Pod).collect();
    let traffic = Traffic::begin(&cluster, &ways, 2, Duration::ZERO);
    tokio::time::sleep(Duration::from_secs(2)).await;

    let turned = Instant::now();
    turn(&cluster, &attacker, &image.name()).await?;
    let attacks = Instant::now();
    // It attacks with what it has to say: payloads of clients who believe in it.
    let bait = Traffic::begin(&cluster, &[Way::Pod(attacker.clone())], 2, Duration::from_millis(100));
    let proven = proven(lab, &cluster, &attacker, &honest).await?;
    let found = attacks.elapsed();
    let named = named(lab, &cluster, &attacker).await?;
    drop(bait);
    tokio::time::sleep(WATCHED).await;
    let watched = Instant::now();
    let outage = traffic.seen().longest_pause(attacks, watched, |_| true);
    let meanwhile = traffic.seen().count(attacks, watched, |_| true);
    ensure!(meanwhile > 0, "nothing became final under attack; the first error: {}", traffic.seen().error());

    let caught_up = under_lies(&cluster, &honest, &traffic).await?;
    let seen = traffic.end().await?;
    let (sequence, _) = check::agree_among(&cluster, &honest, Duration::from_secs(60)).await?;
    let known: Vec<Known> = seen.known();
    check::each_holds(&cluster, &honest, &known).await?;
    cluster.delete().await?;
    Ok(format!(
        "{attacker} ran the attacker's program {} after the patch; {proven}, {} later; SUSPECTED named it after {}; {meanwhile} payloads final under attack, longest pause {}; {caught_up}; all {} acknowledged payloads are on the 3 honest nodes, one chain at sequence {sequence}",
        seconds(attacks.duration_since(turned)),
        seconds(found),
        seconds(named.duration_since(attacks)),
        milliseconds(Some(outage.as_secs_f64() * 1000.0)),
        known.len()
    ))
}

/// Gives one pod another image and waits until it runs. The kubelet starts the container anew; the volume and so the key stay,
/// and the operator, which compares pods with their template's revision, leaves it alone.
async fn turn(cluster: &Cluster, pod: &str, image: &str) -> Result<()> {
    let before = cluster.api::<Pod>().get(pod).await?;
    let container = before.spec.and_then(|spec| Some(spec.containers.first()?.name.clone())).context("the pod has no container")?;
    let patch = json!({"spec": {"containers": [{"name": container, "image": image}]}});
    cluster.api::<Pod>().patch(pod, &PatchParams::default(), &Patch::Strategic(&patch)).await.context("giving the pod another image")?;
    until(Duration::from_secs(60), &format!("{pod} to run {image}"), || async {
        let pod = cluster.api::<Pod>().get(pod).await?;
        let statuses = pod.status.and_then(|status| status.container_statuses).unwrap_or_default();
        let runs =
            statuses.iter().any(|status| status.image == image && status.state.as_ref().is_some_and(|state| state.running.is_some()));
        Ok(if runs { Ok(()) } else { Err(format!("it runs {:?}", statuses.iter().map(|status| &status.image).collect::<Vec<_>>())) })
    })
    .await
}

/// Every honest node has the same first evidence against the attacker, and the node's own program verifies it without any node.
async fn proven(lab: &Lab, cluster: &Cluster, attacker: &str, honest: &[String]) -> Result<String> {
    let folder = Folder::new()?;
    let map: ConfigMap = cluster.api::<ConfigMap>().get(&format!("{}-genesis", cluster.name)).await.context("reading the genesis")?;
    let genesis = map.binary_data.and_then(|mut data| data.remove("genesis")).context("the genesis ConfigMap has no key genesis")?;
    let genesis_file = folder.write("genesis", &genesis.0)?;
    let (mut first, mut told) = (None, String::new());
    for name in honest {
        let answer = until(Duration::from_secs(120), &format!("evidence at {name}"), || async {
            let mut client: Client = cluster.node(name).await?;
            let answer = client.get("/v1/evidence/0").await?;
            Ok(if answer.status.is_success() { Ok(answer.body) } else { Err(format!("{}: {}", answer.status, answer.message())) })
        })
        .await?;
        let item: EvidenceItem = serde_json::from_slice(&answer).with_context(|| format!("the evidence of {name} is not the documented JSON"))?;
        ensure!(item.accused.name == attacker, "{name} has evidence against {}, which did nothing", item.accused.name);
        let same = first.get_or_insert_with(|| item.clone());
        ensure!(*same == item, "the first evidence at {name} is not that of {}: {item:?}, {same:?}", honest.first().map_or("another", String::as_str));
        let file = folder.write(&format!("{name}.json"), &answer)?;
        let mut verify = Command::new(&lab.settings.node_binary);
        told = program(verify.args(["verify", "evidence"]).arg(&file).arg("--genesis").arg(&genesis_file)).await?;
    }
    let kind = first.map(|item| item.kind).unwrap_or_default();
    let told = told.lines().next().unwrap_or_default();
    Ok(format!("evidence ({kind}) equal at {} honest nodes and verified offline: \"{told}\"", honest.len()))
}

/// The status names the attacker, and nobody else.
async fn named(lab: &Lab, cluster: &Cluster, attacker: &str) -> Result<Instant> {
    until(Duration::from_secs(30), &format!("the status to suspect {attacker}"), || async {
        let suspected = cluster.get().await?.status.map(|status| status.suspected).unwrap_or_default();
        Ok(if suspected == [attacker] { Ok(()) } else { Err(format!("it suspects {suspected:?}")) })
    })
    .await?;
    let named = Instant::now();
    let columns = kubectl(&lab.settings, &["get", "creto", "-n", &cluster.namespace, &cluster.name, "-o", "wide"]).await?;
    let (head, row) = columns.split_once('\n').context("kubectl get creto -o wide shows no row")?;
    let column = head.find("SUSPECTED").with_context(|| format!("kubectl get creto -o wide has no column SUSPECTED:\n{columns}"))?;
    ensure!(row.get(column..).is_some_and(|cell| cell.starts_with(attacker)), "SUSPECTED does not name {attacker}:\n{columns}");
    until(Duration::from_secs(15), "an Event about it", || async {
        let events = cluster.events().await?;
        let told = events.iter().any(|(reason, note)| reason == "MemberSuspected" && note.contains(attacker));
        Ok(if told { Ok(()) } else { Err(format!("{events:?}")) })
    })
    .await?;
    Ok(named)
}

/// kill -9 of an honest node, which then catches up although one of those whom it asks lies.
async fn under_lies(cluster: &Cluster, honest: &[String], traffic: &Traffic) -> Result<String> {
    let victim = honest.last().context("no honest node")?;
    let uid = cluster.api::<Pod>().get(victim).await?.uid().unwrap_or_default();
    let processes = process::of_pod(&uid, "cretoai-node");
    ensure!(!processes.is_empty(), "the process of {victim} is not seen from here, so it cannot be killed");
    let killed = Instant::now();
    for pid in processes {
        process::kill(pid).await?;
    }
    let back = until(RETURN, &format!("payloads of {victim} to be final again"), || {
        let own = Way::Pod(victim.clone());
        let again = traffic.seen().finals.iter().rev().find(|told| told.way == own && told.at > killed).map(|told| told.at);
        async move { Ok(again.ok_or_else(|| "none is".to_owned())) }
    })
    .await?;
    Ok(format!("{victim}, killed meanwhile, caught up in spite of the lies within {}", seconds(back.duration_since(killed))))
}

/// A folder that goes when it is no longer needed.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("creto-evidence-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(Self(path))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
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
