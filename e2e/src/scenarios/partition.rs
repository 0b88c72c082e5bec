//! One node cut off from the others by a packet filter in its own network namespace.
//!
//! What it sends to them and what they send to it is dropped without a word, as a broken switch does it; clients, the operator
//! and the kubelet reach it as before. The filter is in the pod's namespace, so it goes with the pod at the latest.

use super::Skipped;
use crate::{
    k8s::{Cluster, pod_ip, program},
    process,
};
use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use std::{fs::File, net::IpAddr, os::fd::AsRawFd};
use tokio::process::Command;

/// A cut that holds until it is healed.
pub struct Partition {
    /// Keeps the namespace reachable, also when the node's process in it ends.
    namespace: File,
    others: Vec<IpAddr>,
}

impl Partition {
    /// Cuts pod `victim` off from the other pods of `cluster`.
    ///
    /// # Errors
    /// The pod's namespace cannot be entered from here, or the filter is refused.
    pub async fn cut(cluster: &Cluster, victim: &str) -> Result<Self> {
        let pods = cluster.pods().await?;
        let pod = pods.iter().find(|pod| pod.name_any() == victim).with_context(|| format!("there is no pod {victim}"))?;
        let namespace = open(pod)?;
        let others: Vec<IpAddr> = pods.iter().filter(|pod| pod.name_any() != victim).filter_map(pod_ip).collect();
        let cut = Self { namespace, others };
        if let Err(error) = cut.filter("-I").await {
            // A part of the rules may be in place.
            if cut.filter("-D").await.is_err() {}
            return Err(error.context(format!("cutting {victim} off")));
        }
        Ok(cut)
    }

    /// Lets everything through again.
    ///
    /// # Errors
    /// The filter cannot be removed.
    pub async fn heal(self) -> Result<()> {
        self.filter("-D").await.context("healing the partition")
    }

    async fn filter(&self, verb: &str) -> Result<()> {
        let namespace = format!("--net=/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd());
        for other in &self.others {
            let tool = if other.is_ipv4() { "iptables" } else { "ip6tables" };
            for (chain, end) in [("INPUT", "-s"), ("OUTPUT", "-d")] {
                let rule = ["-w", "5", verb, chain, end, &other.to_string(), "-j", "DROP"].map(ToOwned::to_owned);
                program(Command::new("nsenter").arg(&namespace).arg(tool).args(rule)).await?;
            }
        }
        Ok(())
    }
}

/// Whether pods of `cluster` can be cut off from here at all.
///
/// # Errors
/// [`Skipped`], with the reason.
pub async fn possible(cluster: &Cluster) -> Result<()> {
    let pods = cluster.pods().await?;
    open(pods.first().context("the cluster has no pods")?).map(|_| ())
}

fn open(pod: &Pod) -> Result<File> {
    let uid = pod.uid().unwrap_or_default();
    let process = process::of_pod(&uid, "cretoai-node").first().copied().ok_or_else(|| {
        Skipped("a partition needs the network namespaces of the pods, which are not seen from here: unset CRETO_KUBECONFIG to use the local Kubernetes".into())
    })?;
    let path = format!("/proc/{process}/ns/net");
    File::open(&path).with_context(|| format!("opening {path}"))
}
