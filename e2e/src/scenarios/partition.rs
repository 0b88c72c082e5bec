//! One node cut off from the others by packet filters in the pods' own network namespaces.
//!
//! What it sends to them and what they send to it is dropped where it arrives, without a word to
//! the sender, as a broken switch does it; clients, the operator and the kubelet reach it as
//! before. The filters go with the pods at the latest.

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
    /// In which namespace packets from which address are dropped. An open file keeps a namespace
    /// reachable, also when the node's process in it ends.
    drops: Vec<(File, IpAddr)>,
}

impl Partition {
    /// Cuts pod `victim` off from the other pods of `cluster`.
    ///
    /// # Errors
    /// A pod's namespace cannot be entered from here, or a filter is refused.
    pub async fn cut(cluster: &Cluster, victim: &str) -> Result<Self> {
        let pods = cluster.pods().await?;
        let (inside, outside): (Vec<&Pod>, Vec<&Pod>) =
            pods.iter().partition(|pod| pod.name_any() == victim);
        let inside = *inside.first().with_context(|| format!("there is no pod {victim}"))?;
        let mut drops = Vec::new();
        for other in outside {
            for (at, from) in [(inside, other), (other, inside)] {
                let address = pod_ip(from)
                    .with_context(|| format!("pod {} has no address", from.name_any()))?;
                drops.push((open(at)?, address));
            }
        }
        let cut = Self { drops };
        if let Err(error) = cut.filter("-I").await {
            // The rules before the refused one are in place; taking them back ends at the same one.
            let ended = cut.filter("-D").await;
            return Err(
                error.context(format!("cutting {victim} off (taken back: {})", ended.is_err()))
            );
        }
        Ok(cut)
    }

    /// Lets everything through again.
    ///
    /// # Errors
    /// A filter cannot be removed.
    pub async fn heal(self) -> Result<()> {
        self.filter("-D").await.context("healing the partition")
    }

    async fn filter(&self, verb: &str) -> Result<()> {
        for (namespace, from) in &self.drops {
            let tool = if from.is_ipv4() { "iptables" } else { "ip6tables" };
            let namespace =
                format!("--net=/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
            let rule =
                [verb, "INPUT", "-s", &from.to_string(), "-j", "DROP"].map(ToOwned::to_owned);
            program(Command::new("nsenter").args([&namespace, tool, "-w", "5"]).args(rule)).await?;
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
