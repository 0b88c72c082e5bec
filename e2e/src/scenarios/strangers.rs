//! A pod that is not a member knocks at the nodes' doors.

use super::{check::statuses, lab::Lab};
use crate::{
    api::metric,
    k8s::{restarts, until},
    stranger::{self, Attempt},
};
use anyhow::{Context, Result, ensure};
use cretoai_control::api::encode_base64;
use cretoai_types::SignedGenesis;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{
    Api,
    api::{DeleteParams, LogParams, PostParams},
};
use serde_json::json;
use std::time::Duration;

const REFUSED: &str = "cretoai_refused_connections_total";
const PORTS: [&str; 2] = ["port=\"9000\"", "port=\"9001\""];

/// Refused, counted, and nothing else.
pub async fn refused(lab: &mut Lab) -> Result<String> {
    let cluster = &lab.cluster;
    let map: ConfigMap = cluster
        .api::<ConfigMap>()
        .get(&format!("{}-genesis", cluster.name))
        .await
        .context("reading the genesis")?;
    let bytes = map
        .binary_data
        .and_then(|mut data| data.remove("genesis"))
        .context("the genesis ConfigMap has no key genesis")?;
    let genesis = SignedGenesis::decode(&bytes.0)?.genesis;
    let victim = cluster.pod(1);
    let address = cluster.pod_address(&victim, 9000).await?.ip();
    let stolen = genesis.members.first().context("the genesis has no members")?;
    let attack = stranger::Arguments {
        node: address,
        admin_key: encode_base64(genesis.admin_key.as_bytes()),
        member_key: encode_base64(stolen.key.as_bytes()),
    };
    let (before, statuses_before) = (cluster.metrics(&victim).await?, statuses(cluster).await?);
    let restarts_before: i32 = cluster.pods().await?.iter().map(restarts).sum();

    let (attempts, from) = match &lab.settings.e2e_image {
        Some(image) => {
            (from_a_pod(lab, &image.name(), &attack).await?, "from a pod in the namespace")
        }
        None => (
            stranger::attempts(&attack).await?,
            "from the pods' network, not from a pod: CRETO_E2E_IMAGE is not set",
        ),
    };
    ensure!(attempts.len() == 4, "{} of 4 attempts were made", attempts.len());
    for attempt in &attempts {
        ensure!(attempt.refused, "{} was not refused: {}", attempt.what, attempt.how);
        ensure!(
            !attempt.how.contains("cannot be reached"),
            "{} did not get as far as the node: {}",
            attempt.what,
            attempt.how
        );
    }

    let counted = until(Duration::from_secs(15), &format!("{REFUSED} to count them"), || async {
        let after = cluster.metrics(&victim).await?;
        let counts =
            PORTS.map(|port| metric(&after, REFUSED, port) - metric(&before, REFUSED, port));
        Ok(if counts.iter().all(|count| *count >= 2.0) {
            Ok(counts)
        } else {
            Err(format!("9000: {}, 9001: {}", counts[0], counts[1]))
        })
    })
    .await?;
    let after = cluster.metrics(&victim).await?;
    let connections = "cretoai_quic_connections";
    ensure!(
        metric(&after, connections, "") <= metric(&before, connections, ""),
        "{victim} has {} QUIC connections, and had {} before",
        metric(&after, connections, ""),
        metric(&before, connections, "")
    );
    for (then, now) in statuses_before.iter().zip(statuses(cluster).await?) {
        ensure!(
            now.ready
                && now.role == then.role
                && now.key_fingerprint == then.key_fingerprint
                && now.chain_id == then.chain_id,
            "{} changed: {now:?}",
            now.name
        );
        ensure!(
            now.peers.iter().all(|peer| peer.connected),
            "{} lost a member: {:?}",
            now.name,
            now.peers
        );
    }
    let restarted: i32 = cluster.pods().await?.iter().map(restarts).sum();
    ensure!(restarted == restarts_before, "a node was restarted");
    let how: Vec<String> = attempts
        .iter()
        .map(|attempt| {
            format!("{} ({})", attempt.what, attempt.how.chars().take(60).collect::<String>())
        })
        .collect();
    Ok(format!(
        "{from}; refused: {}; counted {} on 9000 and {} on 9001; the nodes did not change (NetworkPolicies, which the local Kubernetes does not enforce, were not needed)",
        how.join("; "),
        counted[0],
        counted[1]
    ))
}

async fn from_a_pod(lab: &Lab, image: &str, attack: &stranger::Arguments) -> Result<Vec<Attempt>> {
    let name = "stranger";
    let pods: Api<Pod> = lab.cluster.api();
    let pod: Pod = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
        "spec": {
            "restartPolicy": "Never", "automountServiceAccountToken": false,
            "securityContext": { "runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [{
                "name": name, "image": image, "imagePullPolicy": "IfNotPresent",
                "args": ["stranger", "--node", attack.node.to_string(), "--admin-key", attack.admin_key, "--member-key", attack.member_key],
                "securityContext": { "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] } },
            }],
        },
    }))?;
    if pods.get_opt(name).await?.is_some() {
        pods.delete(name, &DeleteParams::default().grace_period(0)).await?;
        until(Duration::from_secs(30), "an earlier stranger to be gone", || async {
            Ok(if pods.get_opt(name).await?.is_none() { Ok(()) } else { Err("it is there".into()) })
        })
        .await?;
    }
    pods.create(&PostParams::default(), &pod).await.context("making the stranger's pod")?;
    until(Duration::from_secs(90), "the stranger's pod to end", || async {
        let phase =
            pods.get(name).await?.status.and_then(|status| status.phase).unwrap_or_default();
        Ok(if matches!(phase.as_str(), "Succeeded" | "Failed") { Ok(()) } else { Err(phase) })
    })
    .await?;
    let log = pods.logs(name, &LogParams::default()).await?;
    pods.delete(name, &DeleteParams::default().grace_period(0)).await?;
    log.lines()
        .map(|line| {
            serde_json::from_str(line).with_context(|| format!("the stranger said: {line}"))
        })
        .collect()
}
