//! What to look at after a failure, printed at once: the pods will be gone.

use super::lab::Lab;
use crate::k8s::{kubectl, tail};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;

/// Prints the status, pods, events, and the ends of the logs.
pub async fn print(lab: &Lab) {
    let namespace = lab.cluster.namespace.as_str();
    let looks: [&[&str]; 4] = [
        &["get", "creto", "-n", namespace, "-o", "wide"],
        &["get", "pods,pvc", "-n", namespace, "-o", "wide"],
        &["get", "events", "-n", namespace, "--sort-by=.metadata.creationTimestamp"],
        &["get", "pods", "-n", &lab.installation.namespace, "-o", "wide"],
    ];
    for look in looks {
        let text = kubectl(&lab.settings, look).await.unwrap_or_else(|error| format!("{error:#}"));
        println!("--- kubectl {}", look.join(" "));
        let lines: Vec<&str> = text.lines().collect();
        lines.iter().skip(lines.len().saturating_sub(40)).for_each(|line| println!("    {line}"));
    }
    let operators = lab.installation.pods(&lab.client).await.unwrap_or_default();
    // Of all clusters in the namespace: some scenarios have one of their own.
    let all = ListParams::default().labels("app.kubernetes.io/name=cretoai-node");
    let nodes =
        lab.cluster.api::<Pod>().list(&all).await.map(|pods| pods.items).unwrap_or_default();
    let all = operators
        .iter()
        .map(|pod| (lab.installation.namespace.as_str(), pod))
        .chain(nodes.iter().map(|pod| (namespace, pod)));
    for (namespace, pod) in all {
        println!("--- the end of the log of {}", pod.metadata.name.as_deref().unwrap_or_default());
        tail(&lab.client, namespace, pod, 25).await.lines().for_each(|line| println!("    {line}"));
    }
}
