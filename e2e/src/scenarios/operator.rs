//! The operator dies in the middle of making clusters.

use super::lab::Lab;
use crate::{
    figures::{median, seconds},
    k8s::{Cluster, is_ready, restarts, until},
    process,
};
use anyhow::{Context, Result, bail, ensure};
use cretoai_types::SignedGenesis;
use futures::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, WatchEvent, WatchParams},
};
use rand::Rng;
use serde_json::json;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

const CREATIONS: usize = 10;

/// What happened to objects, by name: "added", "modified", each as often as it happened.
type Seen = Arc<Mutex<BTreeMap<String, Vec<&'static str>>>>;

/// Ten creations, each with the operator killed in the middle.
pub async fn killed(lab: &mut Lab) -> Result<String> {
    let namespace = &lab.cluster.namespace;
    let seen = Seen::default();
    let watches = [
        tokio::spawn(watch::<ConfigMap>(
            lab.client.clone(),
            namespace.clone(),
            "ConfigMap",
            Arc::clone(&seen),
        )),
        tokio::spawn(watch::<Secret>(
            lab.client.clone(),
            namespace.clone(),
            "Secret",
            Arc::clone(&seen),
        )),
    ];
    let result = rounds(lab, &seen).await;
    watches.iter().for_each(tokio::task::JoinHandle::abort);
    let (moments, durations) = result?;
    Ok(format!(
        "{CREATIONS} creations (of 1 and 3 nodes), operator killed after {} s; each complete, in the median {}; one genesis and one admin key each, written once; no second identity",
        moments.iter().map(|moment| format!("{moment:.1}")).collect::<Vec<_>>().join(", "),
        seconds(Duration::from_secs_f64(median(&durations).unwrap_or_default()))
    ))
}

async fn rounds(lab: &Lab, seen: &Seen) -> Result<(Vec<f64>, Vec<f64>)> {
    let (mut moments, mut durations) = (Vec::new(), Vec::new());
    let mut clusters = Vec::new();
    for round in 0..CREATIONS {
        let replicas = if round % 3 == 0 { 3 } else { 1 };
        let cluster = Cluster::new(&lab.client, &lab.cluster.namespace, &format!("born-{round}"));
        let operator = fresh_operator(lab).await?;
        let began = Instant::now();
        cluster
            .apply(&json!({
                "replicas": replicas,
                "storage": { "size": "1Gi", "retentionPolicy": "Delete" },
                "resources": { "requests": { "cpu": "10m", "memory": "64Mi" } },
                "tuning": { "cacheSizeMb": 16, "writeBufferMb": 8 },
            }))
            .await?;
        let moment = Duration::from_millis(
            rand::rng().random_range(0..=if replicas == 3 { 6000 } else { 4000 }),
        );
        tokio::time::sleep(moment).await;
        let processes = process::of_pod(&operator, "cretoai-operator");
        ensure!(
            !processes.is_empty(),
            "the operator's process is not seen from here, so it cannot be killed"
        );
        for pid in processes {
            process::kill(pid).await?;
        }
        moments.push(moment.as_secs_f64());
        cluster
            .whole(Duration::from_secs(120))
            .await
            .with_context(|| format!("creation {round}, operator killed after {moment:.1?}"))?;
        durations.push(began.elapsed().as_secs_f64());
        one_identity(&cluster, replicas, seen)
            .await
            .with_context(|| format!("creation {round}, operator killed after {moment:.1?}"))?;
        cluster
            .api::<cretoai_crds::CretoCluster>()
            .delete(&cluster.name, &DeleteParams::background())
            .await?;
        clusters.push(cluster);
    }
    for cluster in clusters {
        cluster.delete().await?;
    }
    Ok((moments, durations))
}

/// The UID of an operator's pod that was never restarted, so that the kubelet starts it again at
/// once. A pod that is deleted in order frees the lease.
async fn fresh_operator(lab: &Lab) -> Result<String> {
    let pods: Api<Pod> = Api::namespaced(lab.client.clone(), &lab.installation.namespace);
    for pod in lab.installation.pods(&lab.client).await?.iter().filter(|pod| restarts(pod) > 0) {
        pods.delete(&pod.name_any(), &DeleteParams::default()).await?;
    }
    until(Duration::from_secs(60), "a fresh operator", || async {
        let fresh = lab
            .installation
            .pods(&lab.client)
            .await?
            .into_iter()
            .find(|pod| restarts(pod) == 0 && is_ready(pod));
        Ok(fresh.and_then(|pod| pod.uid()).ok_or_else(|| "there is none".to_owned()))
    })
    .await
}

/// The genesis and the admin key were written once; members, nodes and volumes are one to one.
async fn one_identity(cluster: &Cluster, replicas: usize, seen: &Seen) -> Result<()> {
    let map = cluster.api::<ConfigMap>().get(&format!("{}-genesis", cluster.name)).await?;
    ensure!(map.immutable == Some(true), "the genesis ConfigMap is not immutable");
    let bytes = map
        .binary_data
        .and_then(|mut data| data.remove("genesis"))
        .context("the genesis ConfigMap has no key genesis")?;
    let genesis = SignedGenesis::decode(&bytes.0)?.genesis;
    ensure!(
        genesis.members.len() == replicas,
        "the genesis has {} members, not {replicas}",
        genesis.members.len()
    );
    for member in &genesis.members {
        let status = cluster.node(&member.name).await?.status().await?;
        let expected = member.key.fingerprint().to_string();
        ensure!(
            status.key_fingerprint == expected,
            "{} has key {}, and the genesis names {expected}",
            member.name,
            status.key_fingerprint
        );
        ensure!(
            status.chain_id.as_deref() == Some(genesis.chain_id().to_string().as_str()),
            "{} is on chain {:?}",
            member.name,
            status.chain_id
        );
    }
    let claims = cluster.api::<PersistentVolumeClaim>().list(&ListParams::default()).await?;
    let prefix = format!("data-{}-", cluster.name);
    let ours = claims.items.iter().filter(|claim| claim.name_any().starts_with(&prefix)).count();
    ensure!(ours == replicas, "there are {ours} volumes for {replicas} nodes");
    for object in [
        format!("ConfigMap {}-genesis", cluster.name),
        format!("Secret {}-admin-key", cluster.name),
    ] {
        let events =
            until(Duration::from_secs(5), &format!("the watch to tell of {object}"), || async {
                let events =
                    seen.lock().unwrap_or_else(PoisonError::into_inner).get(&object).cloned();
                Ok(events.ok_or_else(|| "nothing".to_owned()))
            })
            .await?;
        ensure!(events == ["added"], "{object} was written more than once: {events:?}");
    }
    Ok(())
}

/// Notes every write of objects of a kind.
async fn watch<K>(client: Client, namespace: String, kind: &'static str, seen: Seen) -> Result<()>
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + 'static,
    K::DynamicType: Default,
{
    let api: Api<K> = Api::namespaced(client, &namespace);
    let mut version = api
        .list_metadata(&ListParams::default())
        .await?
        .metadata
        .resource_version
        .unwrap_or_default();
    loop {
        let stream = api.watch(&WatchParams::default(), &version).await?;
        pin_mut!(stream);
        while let Some(event) = stream.next().await {
            let (object, what) = match event {
                Ok(WatchEvent::Added(object)) => (object, "added"),
                Ok(WatchEvent::Modified(object)) => (object, "modified"),
                Ok(WatchEvent::Deleted(object)) => {
                    version = object.resource_version().unwrap_or_default();
                    continue;
                }
                Ok(WatchEvent::Bookmark(bookmark)) => {
                    version = bookmark.metadata.resource_version;
                    continue;
                }
                Ok(WatchEvent::Error(status)) => bail!("watching {kind}s: {}", status.message),
                // The connection ended; the watch goes on from the same version, so nothing is
                // missed.
                Err(_) => break,
            };
            version = object.resource_version().unwrap_or_default();
            seen.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .entry(format!("{kind} {}", object.name_any()))
                .or_default()
                .push(what);
        }
    }
}
