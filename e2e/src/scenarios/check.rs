//! What must be so on all nodes, asked of each.

use super::lab::Known;
use crate::{
    api::Client,
    k8s::{Cluster, until},
};
use anyhow::{Context, Result, ensure};
use cretoai_control::api::NodeStatus;
use cretoai_types::{FaultModel, Hash, Quorum};
use kube::ResourceExt;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// The names of all of its pods.
///
/// # Errors
/// The API server does not answer.
pub async fn names(cluster: &Cluster) -> Result<Vec<String>> {
    Ok(cluster.pods().await?.iter().map(ResourceExt::name_any).collect())
}

/// The account of each node.
///
/// # Errors
/// One does not answer.
pub async fn statuses(cluster: &Cluster) -> Result<Vec<NodeStatus>> {
    statuses_of(cluster, &names(cluster).await?).await
}

async fn statuses_of(cluster: &Cluster, names: &[String]) -> Result<Vec<NodeStatus>> {
    let mut all = Vec::new();
    for name in names {
        let status = cluster
            .node(name)
            .await?
            .status()
            .await
            .with_context(|| format!("status of {name}"))?;
        ensure!(status.name == *name, "{name} calls itself {}", status.name);
        all.push(status);
    }
    Ok(all)
}

/// View and leader that `w` of the nodes name, those that answer; the newest view, if there are
/// several.
///
/// # Errors
/// No `w` nodes agree.
pub async fn leader(cluster: &Cluster) -> Result<(u64, String)> {
    let names = names(cluster).await?;
    let answers = names.iter().map(|name| async move {
        let mut client = cluster.node(name).await?.with_limit(Duration::from_secs(2));
        client.status().await
    });
    let mut votes: BTreeMap<(u64, String), usize> = BTreeMap::new();
    for status in futures::future::join_all(answers).await.into_iter().flatten() {
        if let Some(leader) = status.leader {
            *votes.entry((status.view, leader)).or_default() += 1;
        }
    }
    let w = Quorum::new(names.len(), FaultModel::Byzantine).w;
    let agreed = votes.iter().rev().find(|(_, count)| **count >= w).map(|(term, _)| term.clone());
    agreed.with_context(|| format!("no {w} nodes name the same leader: {votes:?}"))
}

/// The key fingerprint of each node, as it says.
///
/// # Errors
/// One does not answer.
pub async fn fingerprints(cluster: &Cluster) -> Result<BTreeMap<String, String>> {
    Ok(statuses(cluster)
        .await?
        .into_iter()
        .map(|status| (status.name, status.key_fingerprint))
        .collect())
}

/// Waits until all nodes are at one sequence, and demands one chain hash for each sequence that two
/// of them name.
///
/// # Errors
/// They contradict each other, or do not meet in time.
pub async fn agree(cluster: &Cluster, limit: Duration) -> Result<(u64, String)> {
    agree_among(cluster, &names(cluster).await?, limit).await
}

/// The same of some nodes.
///
/// # Errors
/// As [`agree`].
pub async fn agree_among(
    cluster: &Cluster,
    names: &[String],
    limit: Duration,
) -> Result<(u64, String)> {
    until(limit, &format!("{} to be at one sequence", names.join(", ")), || async {
        let statuses = statuses_of(cluster, names).await?;
        contradiction(&statuses)?;
        let heads: BTreeSet<(u64, String)> =
            statuses.iter().map(|status| (status.sequence, status.chain_hash.clone())).collect();
        Ok(match heads.first() {
            Some(head) if heads.len() == 1 => Ok(head.clone()),
            _ => Err(format!(
                "sequences {:?}",
                heads.iter().map(|(sequence, _)| sequence).collect::<Vec<_>>()
            )),
        })
    })
    .await
}

/// One chain, and one hash for each sequence.
fn contradiction(statuses: &[NodeStatus]) -> Result<()> {
    let mut hashes: BTreeMap<u64, (&str, &str)> = BTreeMap::new();
    let chains: BTreeSet<_> = statuses.iter().map(|status| &status.chain_id).collect();
    ensure!(chains.len() == 1, "the nodes are on several chains: {chains:?}");
    for status in statuses {
        let newest = std::iter::once((status.sequence, status.chain_hash.as_str()));
        let recent =
            status.recent.iter().map(|record| (record.sequence, record.chain_hash.as_str()));
        for (sequence, hash) in recent.chain(newest) {
            let (first, by) = *hashes.entry(sequence).or_insert((hash, &status.name));
            ensure!(
                first == hash,
                "sequence {sequence} has chain hash {first} on {by} and {hash} on {}",
                status.name
            );
        }
    }
    Ok(())
}

/// Every node holds every payload, with the same bytes, at the same place; each sequence has one
/// chain hash, each place one payload.
///
/// # Errors
/// The first thing that is not so.
pub async fn all_hold(cluster: &Cluster, known: &[Known]) -> Result<()> {
    each_holds(cluster, &names(cluster).await?, known).await
}

/// The same of some nodes.
///
/// # Errors
/// As [`all_hold`].
pub async fn each_holds(cluster: &Cluster, names: &[String], known: &[Known]) -> Result<()> {
    ordered(known)?;
    let each = names.iter().map(|name| async move {
        let mut client = cluster.node(name).await?;
        for payload in known {
            holds(&mut client, name, payload).await?;
        }
        anyhow::Ok(())
    });
    futures::future::try_join_all(each).await.map(|_| ())
}

async fn holds(client: &mut Client, name: &str, payload: &Known) -> Result<()> {
    // A follower learns of a decision a moment after the node that told it.
    let end = Instant::now() + Duration::from_secs(30);
    let stored = loop {
        match client.read(&payload.id).await {
            Ok(Some(stored)) => break stored,
            Ok(None) if Instant::now() < end => tokio::time::sleep(Duration::from_millis(50)).await,
            Ok(None) => anyhow::bail!(
                "{name} does not have payload {}, which was told to be final at {:?}",
                payload.id,
                payload.place
            ),
            Err(error) if Instant::now() >= end => {
                return Err(error.context(format!("reading from {name}")));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    };
    ensure!(
        stored.place == payload.place,
        "payload {} is at {:?} on {name}, and was told to be at {:?}",
        payload.id,
        stored.place,
        payload.place
    );
    ensure!(
        Hash::of_bytes(&stored.data) == payload.content,
        "payload {} has other bytes on {name} ({} of them)",
        payload.id,
        stored.data.len()
    );
    Ok(())
}

fn ordered(known: &[Known]) -> Result<()> {
    let (mut places, mut hashes) = (BTreeMap::new(), BTreeMap::new());
    for payload in known {
        let (sequence, index, hash) = &payload.place;
        if let Some(other) = places.insert((*sequence, *index), &payload.id) {
            anyhow::ensure!(
                *other == payload.id,
                "payloads {other} and {} are both at sequence {sequence}, index {index}",
                payload.id
            );
        }
        let first = *hashes.entry(*sequence).or_insert(hash);
        anyhow::ensure!(
            first == hash,
            "sequence {sequence} was told with chain hashes {first} and {hash}"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(id: &str, sequence: u64, index: u32, hash: &str) -> Known {
        Known { id: id.into(), place: (sequence, index, hash.into()), content: Hash::ZERO }
    }

    #[test]
    fn one_place_holds_one_payload_and_one_sequence_has_one_hash() {
        assert!(
            ordered(&[
                known("a", 1, 0, "x"),
                known("b", 1, 1, "x"),
                known("c", 2, 0, "y"),
                known("c", 2, 0, "y")
            ])
            .is_ok()
        );
        assert!(ordered(&[known("a", 1, 0, "x"), known("b", 1, 0, "x")]).is_err());
        assert!(ordered(&[known("a", 1, 0, "x"), known("b", 1, 1, "y")]).is_err());
    }
}
