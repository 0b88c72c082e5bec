//! Names, labels, annotations and ports. One place, because the node, the charts and the
//! documentation rely on them.

use std::collections::BTreeMap;

/// Who we are towards server-side apply, in events and in the label `app.kubernetes.io/managed-by`.
pub const MANAGER: &str = "creto-operator";
/// The label `app.kubernetes.io/name` of the node's pods.
pub const NODE: &str = "cretoai-node";
/// Label on volumes and annotation on the admin key: the UID of the chain's first CretoCluster.
pub const CLUSTER_UID: &str = "cretoai.io/cluster-uid";
/// Label on everything of a cluster, also on what outlives it: the name of the CretoCluster.
pub const CLUSTER: &str = "cretoai.io/cluster";
/// Annotation on every object that we apply: hash of what the API server made of it, so that any
/// later change of it is seen.
pub const ADMITTED: &str = "cretoai.io/admitted";
/// Annotation on every object that we apply: hash of what we want, so that an edit by hand is told
/// from our own update.
pub const WANTED: &str = "cretoai.io/wanted";
/// Annotation on the StatefulSet: when its controller was last asked to create pods again, in
/// milliseconds since 1970.
pub const RETRY: &str = "cretoai.io/retry";
/// Annotation on the pod template: hash of `node.toml`, so that a change of it rolls the pods.
pub const CONFIG_HASH: &str = "cretoai.io/config";

/// Port of the control interface (TCP, TLS with raw public keys).
pub const CONTROL_PORT: u16 = 9000;
/// Port between validators (UDP, QUIC).
pub const PEER_PORT: u16 = 9001;
/// Port for clients (TCP, HTTP).
pub const API_PORT: u16 = 8080;
/// Port of metrics and probes (TCP, HTTP).
pub const METRICS_PORT: u16 = 9090;

/// User and group of the node's process.
pub const NODE_USER: i64 = 65_532;

/// Key of the admin key's seed in its Secret.
pub const SEED_KEY: &str = "seed";
/// Key of the signed genesis in its ConfigMap.
pub const GENESIS_KEY: &str = "genesis";

/// The names of one cluster's objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// Namespace of all of them.
    pub namespace: String,
    /// Name of the CretoCluster, the StatefulSet and the PodDisruptionBudget.
    pub cluster: String,
}

impl Names {
    /// Of the cluster `cluster` in `namespace`.
    #[must_use]
    pub fn new(namespace: impl Into<String>, cluster: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), cluster: cluster.into() }
    }

    fn with(&self, suffix: &str) -> String {
        format!("{}-{suffix}", self.cluster)
    }

    /// Pod and validator `ordinal`.
    #[must_use]
    pub fn pod(&self, ordinal: usize) -> String {
        self.with(&ordinal.to_string())
    }

    /// Ordinal of a pod of this cluster.
    #[must_use]
    pub fn ordinal(&self, pod: &str) -> Option<usize> {
        let digits = pod.strip_prefix(&self.cluster)?.strip_prefix('-')?;
        let ordinal = digits.parse().ok()?;
        (self.pod(ordinal) == pod).then_some(ordinal)
    }

    /// Volume claim of pod `ordinal`.
    #[must_use]
    pub fn volume(&self, ordinal: usize) -> String {
        format!("data-{}", self.pod(ordinal))
    }

    /// Ordinal of a volume claim of this cluster.
    #[must_use]
    pub fn volume_ordinal(&self, claim: &str) -> Option<usize> {
        self.ordinal(claim.strip_prefix("data-")?)
    }

    /// Headless Service that gives the pods their names.
    #[must_use]
    pub fn headless(&self) -> String {
        self.with("nodes")
    }

    /// Service for clients.
    #[must_use]
    pub fn api(&self) -> String {
        self.with("api")
    }

    /// ConfigMap with `node.toml`.
    #[must_use]
    pub fn config(&self) -> String {
        self.with("config")
    }

    /// ConfigMap with the signed genesis.
    #[must_use]
    pub fn genesis(&self) -> String {
        self.with("genesis")
    }

    /// Secret with the admin key's seed.
    #[must_use]
    pub fn admin_key(&self) -> String {
        self.with("admin-key")
    }

    /// ServiceAccount of the pods.
    #[must_use]
    pub fn service_account(&self) -> String {
        self.with("node")
    }

    /// The user that the API server sees behind a token of that ServiceAccount.
    #[must_use]
    pub fn service_account_user(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.service_account())
    }

    /// NetworkPolicy for one of the ports.
    #[must_use]
    pub fn network_policy(&self, port: &str) -> String {
        self.with(port)
    }

    /// What selects the pods. Part of the StatefulSet's identity: never changes. The StatefulSet
    /// controller puts it on volume claims too, so that it holds no label that a GitOps tool tracks
    /// its own resources by.
    #[must_use]
    pub fn selector(&self) -> BTreeMap<String, String> {
        [("app.kubernetes.io/name", NODE), (CLUSTER, self.cluster.as_str())]
            .into_iter()
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect()
    }

    /// What objects carry that may outlive the CretoCluster: admin key, genesis and volume claims.
    #[must_use]
    pub fn retained_labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.selector();
        labels.insert("app.kubernetes.io/managed-by".into(), MANAGER.into());
        labels
    }

    /// What objects carry that go with the CretoCluster.
    #[must_use]
    pub fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.retained_labels();
        labels.insert("app.kubernetes.io/instance".into(), self.cluster.clone());
        labels
    }
}

/// Annotations on what may outlive the CretoCluster: Argo CD neither prunes nor deletes it, and does
/// not call its application out of sync for it.
#[must_use]
pub fn retained_annotations() -> BTreeMap<String, String> {
    [
        ("argocd.argoproj.io/compare-options", "IgnoreExtraneous"),
        ("argocd.argoproj.io/sync-options", "Prune=false,Delete=false"),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_string(), value.to_string()))
    .collect()
}

/// The audience of the token by which a pod proves who it is.
#[must_use]
pub fn token_audience(cluster_uid: &str) -> String {
    format!("creto.cretoai.io/{cluster_uid}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinal_is_read_from_exactly_the_names_that_we_give() {
        let names = Names::new("ns", "a-1");
        assert_eq!(names.pod(10), "a-1-10");
        assert_eq!(names.ordinal("a-1-10"), Some(10));
        assert_eq!(names.volume_ordinal("data-a-1-0"), Some(0));
        for other in ["a-1", "a-1-", "a-1-01", "a-1-+1", "a-1-x", "a-2", "b-1-0", "data-a-1-0"] {
            assert_eq!(names.ordinal(other), None, "{other}");
        }
    }
}
