//! `CretoCluster.spec`: the state that a user asks for.

use crate::status::CretoClusterStatus;
use k8s_openapi::{
    api::core::v1::{Affinity, Toleration, TopologySpreadConstraint},
    apimachinery::pkg::api::resource::Quantity,
};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The specification of one chain of CretoAI nodes.
#[derive(CustomResource, KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "cretoai.io",
    version = "v1alpha1",
    kind = "CretoCluster",
    plural = "cretoclusters",
    shortname = "creto",
    category = "cretoai",
    namespaced,
    status = "CretoClusterStatus",
    derive = "PartialEq",
    doc = "A chain of CretoAI nodes: validators that order payloads and tolerate faults in fewer than a third of their number.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Nodes", type_ = "string", json_path = ".status.summary.nodes", description = "Nodes that take part / all nodes"),
    printcolumn(name = "Quorum", type_ = "string", json_path = ".status.summary.quorum", description = "Nodes that take part of the number that a decision needs"),
    printcolumn(name = "Tolerates", type_ = "string", json_path = ".status.summary.tolerates"),
    printcolumn(name = "Leader", type_ = "string", json_path = ".status.leader"),
    printcolumn(name = "Sequence", type_ = "integer", format = "int64", json_path = ".status.sequence"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "View", type_ = "integer", format = "int64", json_path = ".status.view", priority = 1),
    printcolumn(name = "Epoch", type_ = "integer", format = "int64", json_path = ".status.epoch", priority = 1),
    printcolumn(name = "Suspected", type_ = "string", json_path = ".status.summary.suspected", priority = 1, description = "Members against which the chain holds proof of a violation"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.summary.status", priority = 1),
    validation = Rule::new("self.metadata.name.size() <= 40")
        .message("metadata.name must have at most 40 characters, so that the names of its pods and labels fit; choose a shorter name"),
    validation = Rule::new("self.metadata.name.size() > 40 || self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name must begin with a letter and hold only lower-case letters, digits and '-', since Services are named after it"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.bootstrapped) || !oldSelf.status.bootstrapped || self.spec.replicas == oldSelf.spec.replicas")
        .message("spec.replicas is immutable once the chain is born, since this version does not add or remove validators; set it back to the number of status.members")
        .field_path(".spec.replicas"),
)]
#[serde(rename_all = "camelCase")]
pub struct CretoClusterSpec {
    /// Number of validators: 1 for development, or 3 to 31. n validators tolerate (n-1)/3 faulty
    /// ones, rounded down: 3 tolerate none, 4 tolerate one. A number that is not 3f+1 adds cost and
    /// no tolerance. Immutable once the chain is born.
    #[x_kube(validation = Rule::new("self == 1 || (self >= 3 && self <= 31)").message(
        "spec.replicas must be 1 (development) or 3 to 31; set 4, the least that tolerates one faulty node"
    ))]
    pub replicas: i32,

    /// Image of the nodes. If it is left out, the cluster uses the default image that the operator
    /// had when the cluster was created, and an upgrade of the operator does not change it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,

    /// When the kubelet pulls the image.
    #[serde(default)]
    pub image_pull_policy: ImagePullPolicy,

    /// CPU and memory of each node.
    #[serde(default)]
    pub resources: Resources,

    /// Affinity of the pods. The default is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,

    /// Constraints on how the pods spread. If they are left out, the pods spread over hosts and
    /// zones where there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,

    /// Additions to the pods of the nodes.
    #[serde(default)]
    pub pod_template: PodTemplate,

    /// The volume of each node.
    #[serde(default)]
    pub storage: Storage,

    /// Settings of consensus, as in `node.toml`.
    #[serde(default)]
    pub consensus: Consensus,

    /// Settings of caches and logs, as in `node.toml`.
    #[serde(default)]
    pub tuning: Tuning,

    /// Whether the operator only reports and changes nothing. The nodes keep running.
    #[serde(default)]
    pub paused: bool,
}

/// When the kubelet pulls the image.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
pub enum ImagePullPolicy {
    /// Pull the image at each start.
    Always,
    /// Never pull: the image is on the host.
    Never,
    /// Pull the image when the host lacks it.
    #[default]
    IfNotPresent,
}

impl ImagePullPolicy {
    /// The word that Kubernetes uses.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::Never => "Never",
            Self::IfNotPresent => "IfNotPresent",
        }
    }
}

/// CPU and memory of each node.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// Amounts that the scheduler reserves.
    #[serde(default = "default_requests")]
    #[schemars(extend("maxProperties" = 16))]
    pub requests: BTreeMap<String, Quantity>,
    /// Amounts that a node may use at most. Set memory to at least twice the sum of
    /// `tuning.cacheSizeMb` and `tuning.writeBufferMb`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub limits: BTreeMap<String, Quantity>,
}

impl Default for Resources {
    fn default() -> Self {
        Self { requests: default_requests(), limits: BTreeMap::new() }
    }
}

fn default_requests() -> BTreeMap<String, Quantity> {
    [("cpu", "100m"), ("memory", "256Mi")]
        .into_iter()
        .map(|(name, value)| (name.to_string(), Quantity(value.to_string())))
        .collect()
}

const OWN_KEYS: &str =
    "self.all(key, !key.startsWith('app.kubernetes.io/') && !key.startsWith('cretoai.io/'))";

/// Additions to the pods.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PodTemplate {
    /// Further labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    #[x_kube(validation = Rule::new(OWN_KEYS).message("spec.podTemplate.labels must not use the prefixes app.kubernetes.io/ and cretoai.io/, which the operator sets; use a prefix of your own"))]
    pub labels: BTreeMap<String, String>,
    /// Further annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    #[x_kube(validation = Rule::new(OWN_KEYS).message("spec.podTemplate.annotations must not use the prefixes app.kubernetes.io/ and cretoai.io/, which the operator sets; use a prefix of your own"))]
    pub annotations: BTreeMap<String, String>,
    /// Labels that a host must have to run the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub node_selector: BTreeMap<String, String>,
    /// Tolerations added to the pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,
    /// PriorityClass of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
    /// Names of the Secrets with which the image is pulled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 253)))]
    pub image_pull_secrets: Vec<String>,
}

/// The volume of each node.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)")
    .message("spec.storage.storageClassName is immutable: a volume cannot change its class; set it back to what it was").field_path(".storageClassName"))]
pub struct Storage {
    /// Size of each volume. It never shrinks, and it can grow if the storage class allows
    /// expansion.
    #[serde(default = "default_size")]
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))")
        .message("spec.storage.size must be a quantity above zero, such as 10Gi"))]
    #[x_kube(validation = Rule::new("!isQuantity(self) || !isQuantity(oldSelf) || quantity(self).compareTo(quantity(oldSelf)) >= 0")
        .message(Message::Expression("'spec.storage.size never shrinks: ' + self + ' is less than ' + oldSelf + '; set ' + oldSelf + ' or more'".to_string())))]
    pub size: String,
    /// Storage class of the volumes. The default is the default class of the Kubernetes cluster.
    /// Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub storage_class_name: Option<String>,
    /// Policy for volumes, genesis and admin key when the CretoCluster is deleted. With Retain they
    /// stay, and a new CretoCluster of this name adopts them. With Delete they are deleted for
    /// good.
    #[serde(default)]
    pub retention_policy: RetentionPolicy,
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            size: default_size(),
            storage_class_name: None,
            retention_policy: RetentionPolicy::Retain,
        }
    }
}

fn default_size() -> String {
    "10Gi".to_string()
}

/// Policy for volumes, genesis and admin key when the CretoCluster is deleted.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
pub enum RetentionPolicy {
    /// They stay, and a new CretoCluster of this name adopts them.
    #[default]
    Retain,
    /// They are deleted for good.
    Delete,
}

/// Consensus, as in `node.toml`.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Consensus {
    /// Expected time to finality, in milliseconds. A client's call waits ten times as long.
    #[serde(default = "default_finality_timeout_ms")]
    #[schemars(range(min = 50, max = 60000))]
    pub finality_timeout_ms: i32,
    /// Vertices that may wait for a decision before a node answers 429.
    #[serde(default = "default_max_pending_vertices")]
    #[schemars(range(min = 100, max = 1_000_000))]
    pub max_pending_vertices: i32,
}

impl Default for Consensus {
    fn default() -> Self {
        Self {
            finality_timeout_ms: default_finality_timeout_ms(),
            max_pending_vertices: default_max_pending_vertices(),
        }
    }
}

const fn default_finality_timeout_ms() -> i32 {
    500
}

const fn default_max_pending_vertices() -> i32 {
    10_000
}

/// Caches and logs, as in `node.toml`.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Tuning {
    /// Size of RocksDB's cache, in MiB.
    #[serde(default = "default_cache_size_mb")]
    #[schemars(range(min = 8, max = 65536))]
    pub cache_size_mb: i32,
    /// Size of RocksDB's write buffers, in MiB.
    #[serde(default = "default_write_buffer_mb")]
    #[schemars(range(min = 8, max = 4096))]
    pub write_buffer_mb: i32,
    /// Level of the nodes' logs.
    #[serde(default)]
    pub log_level: LogLevel,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            cache_size_mb: default_cache_size_mb(),
            write_buffer_mb: default_write_buffer_mb(),
            log_level: LogLevel::Info,
        }
    }
}

const fn default_cache_size_mb() -> i32 {
    128
}

const fn default_write_buffer_mb() -> i32 {
    32
}

/// Level of the nodes' logs.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Errors that stop a node.
    Error,
    /// Errors, and warnings for a person to look at.
    Warn,
    /// The above, and the course of events.
    #[default]
    Info,
    /// The above, and its details.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The word that `node.toml` uses.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}
