//! The client that people type, with its own program: what one submits, another follows, reads and
//! verifies without any node.

use super::{
    attacker::{Folder, genesis},
    lab::{Known, Lab},
};
use crate::{
    api::{API_PORT, Receipt},
    k8s::program,
    load::random_payload,
};
use anyhow::{Context, Result, ensure};
use cretoai_types::Hash;
use kube::ResourceExt;
use std::{path::Path, time::Duration};
use tokio::process::Command;

/// Payloads that are submitted, each by a process of its own.
const PAYLOADS: usize = 5;
const TOPIC: &str = "typed by people";
/// One run of the program.
const RUN: Duration = Duration::from_secs(60);

/// `cretoai` with these arguments; what it printed.
async fn cretoai(lab: &Lab, server: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(&lab.settings.client_binary);
    command.args(["--server", server]).args(arguments);
    tokio::time::timeout(RUN, program(&mut command))
        .await
        .with_context(|| format!("cretoai {arguments:?} did not end within {RUN:?}"))?
}

/// Submitted, followed, read, proven.
pub async fn typed(lab: &mut Lab) -> Result<String> {
    let cluster = lab.cluster.clone();
    let folder = Folder::new()?;
    // The first address answers nobody, as that of a pod that has just gone.
    let service = cluster.service_address().await?;
    let server = format!("http://192.0.2.1:{API_PORT},http://{service}");
    let file = folder.write("payload", b"")?;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let mut submitted = Vec::new();
    for _ in 0..PAYLOADS {
        let data = random_payload(1_000);
        folder.write("payload", &data)?;
        let arguments = ["-o", "json", "submit", &text(&file), "--topic", TOPIC];
        let told = cretoai(lab, &server, &arguments).await?;
        let receipt: Receipt = serde_json::from_str(&told)
            .with_context(|| format!("submit printed no receipt: {told}"))?;
        ensure!(receipt.is_final(), "submit ended well, and the payload is not final: {told}");
        submitted.push(Known::new(&receipt, &data)?);
    }
    let first = submitted.first().context("nothing was submitted")?;
    let from = first.place.0.to_string();
    let pod = cluster.pods().await?.last().map(ResourceExt::name_any).context("no pod")?;
    let node = format!("http://{}", cluster.pod_address(&pod, API_PORT).await?);
    let count = PAYLOADS.to_string();
    let tail = ["tail", "--from", &from, "--topic", TOPIC, "--count", &count];
    let told = cretoai(lab, &node, &tail).await?;
    let followed: Vec<&str> =
        told.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    let ids: Vec<&str> = submitted.iter().map(|known| known.id.as_str()).collect();
    ensure!(followed == ids, "{pod} streamed {followed:?}, and {ids:?} were submitted");
    for known in &submitted {
        let mut command = Command::new(&lab.settings.client_binary);
        let read = command.args(["--server", &node, "get", &known.id]).output().await?;
        ensure!(Hash::of_bytes(&read.stdout) == known.content, "{} was read otherwise", known.id);
    }
    let receipt = text(&folder.write("receipt", b"")?);
    cretoai(lab, &node, &["receipt", &first.id, "--file", &receipt]).await?;
    let genesis = text(&folder.write("genesis", &genesis(&cluster).await?)?);
    let proof = cretoai(lab, &node, &["verify", &receipt, "--genesis", &genesis]).await?;
    let proven = format!("payload {} of topic {TOPIC:?} executed", first.id);
    ensure!(proof.contains(&proven), "verify said: {proof}");
    let mut changed = std::fs::read(&receipt).context("reading the receipt")?;
    if let Some(byte) = changed.last_mut() {
        *byte ^= 1;
    }
    let changed = text(&folder.write("changed", &changed)?);
    let refused = cretoai(lab, &node, &["verify", &changed, "--genesis", &genesis]).await;
    ensure!(refused.is_err(), "a receipt with another last byte was verified");
    let proof = proof.lines().next().unwrap_or_default().to_owned();
    lab.known.extend(submitted);
    Ok(format!(
        "{PAYLOADS} payloads submitted past an address that answers nobody; {pod} streamed them in order; read back equal; offline: \"{proof}\""
    ))
}
