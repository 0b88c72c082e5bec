//! The beginning of a cluster, and its second beginning on the same volumes.

use super::{
    check::{agree, all_hold, fingerprints},
    lab::{Known, Lab},
};
use crate::{
    api::Client,
    figures::seconds,
    k8s::{kubectl, restricted_namespace},
    load::random_payload,
};
use anyhow::{Context, Result, bail, ensure};
use std::time::{Duration, Instant};

/// helm install, the sample, 4 of 4.
pub async fn install(lab: &mut Lab) -> Result<String> {
    restricted_namespace(&lab.client, &lab.cluster.namespace).await?;
    let began = Instant::now();
    lab.installation.install(&lab.settings, &lab.client).await?;
    let installed = began.elapsed();
    let began = Instant::now();
    let sample = lab.settings.samples.join("cretocluster.yaml");
    kubectl(
        &lab.settings,
        &["apply", "-n", &lab.cluster.namespace, "-f", &sample.to_string_lossy()],
    )
    .await?;
    let message =
        lab.cluster.condition("QuorumAvailable", "True", Duration::from_secs(120)).await?;
    let quorum = began.elapsed();
    ensure!(message.contains("take part"), "QuorumAvailable=True says only: '{message}'");
    let resource = lab.cluster.whole(Duration::from_secs(60)).await?;
    ensure!(
        resource.spec.replicas == 4,
        "the sample has {} replicas, not 4",
        resource.spec.replicas
    );
    let columns = kubectl(&lab.settings, &["get", "creto", "-n", &lab.cluster.namespace]).await?;
    for column in ["READY", "NODES", "QUORUM", "TOLERATES", "LEADER", "SEQUENCE", "VERSION", "AGE"]
    {
        ensure!(columns.contains(column), "kubectl get creto has no column {column}:\n{columns}");
    }
    ensure!(columns.contains("4/4"), "kubectl get creto does not say 4/4:\n{columns}");
    agree(&lab.cluster, Duration::from_secs(20)).await?;
    Ok(format!(
        "helm install {}, apply to quorum {}, to 4/4 ready {}; \"{message}\"",
        seconds(installed),
        seconds(quorum),
        seconds(began.elapsed())
    ))
}

/// Deleted and applied again: the same chain.
pub async fn adopt(lab: &mut Lab) -> Result<String> {
    let cluster = lab.cluster.clone();
    let data = random_payload(4096);
    let receipt = Client::new(cluster.service_address().await?)
        .submit(data.clone(), Duration::from_secs(20))
        .await?;
    lab.known.push(Known::new(&receipt, &data)?);
    let before = cluster.get().await?;
    let keys = fingerprints(&cluster).await?;
    let spec = serde_json::to_value(&before.spec)?;
    let status = before.status.unwrap_or_default();
    let chain = status.chain_id.clone().context("the status has no chainId")?;
    let began = Instant::now();
    cluster.delete().await?;
    let gone = began.elapsed();
    let began = Instant::now();
    let applied = cluster.apply(&spec).await?;
    ensure!(applied.metadata.uid != before.metadata.uid, "the CretoCluster was not made anew");
    let after = cluster.whole(Duration::from_secs(120)).await?;
    let back = began.elapsed();
    let again = after.status.as_ref().and_then(|status| status.chain_id.clone());
    if again.as_deref() != Some(chain.as_str()) {
        bail!("the chain was {chain}, and is {again:?} after the resource was applied again");
    }
    ensure!(fingerprints(&cluster).await? == keys, "the nodes have other keys than before");
    let newest = lab.known.iter().map(|known| known.place.0).max().unwrap_or_default();
    let data = random_payload(4096);
    let receipt = Client::new(cluster.service_address().await?)
        .submit(data.clone(), Duration::from_secs(20))
        .await?;
    let sequence = receipt.sequence.unwrap_or_default();
    ensure!(
        sequence > newest,
        "a new payload has sequence {sequence}, and {newest} was there before"
    );
    all_hold(&cluster, &lab.known).await?;
    lab.known.push(Known::new(&receipt, &data)?);
    agree(&cluster, Duration::from_secs(20)).await?;
    Ok(format!(
        "gone in {}, whole again {} after apply; chain {}… goes on, sequence {newest} -> {sequence}; all {} payloads are there",
        seconds(gone),
        seconds(back),
        chain.get(..12).unwrap_or(&chain),
        lab.known.len()
    ))
}
