//! `CretoCluster.status`: the observed state.
//!
//! The rule: a fact about the chain stands here only if `w` nodes agreed on it (f+1 at n = 3f+1),
//! so no single node is believed. With fewer reports the last agreed facts stay, and `agreedAt`
//! says how old they are.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// The observed state of the cluster.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CretoClusterStatus {
    /// Generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Whether the chain is born. It never becomes false again.
    #[serde(default)]
    pub bootstrapped: bool,
    /// Hash of the genesis, which identifies the chain: 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain_id: Option<String>,
    /// Epoch that `w` nodes agree on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i64>,
    /// View that `w` nodes agree on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub view: Option<i64>,
    /// Leader of that view, by pod name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// Newest sequence whose chain hash `w` nodes agree on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<i64>,
    /// Time at which `w` nodes last agreed on facts of the chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreed_at: Option<Time>,
    /// Pod names of the members against which the chain holds proof of a violation, as `w` nodes
    /// agree. Their reputation is below full.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 31))]
    pub suspected: Vec<String>,
    /// Numbers of nodes: all, those that a decision needs, and those that take part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum: Option<QuorumStatus>,
    /// Version of the nodes that answered. Several versions are joined by commas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Image that the nodes run, once all of them do: a cluster that names none keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Pods that were made from the newest template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_replicas: Option<i32>,
    /// The validators.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 31))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub members: Vec<MemberStatus>,
    /// Summary for people: the columns of `kubectl get`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
    /// Conditions: Ready, QuorumAvailable, Progressing, Degraded, KeysValid, ByzantineSuspected,
    /// FailureDomains, Paused, and for tools Reconciling and Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// Numbers of nodes: all, those that a decision needs, and those that take part.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct QuorumStatus {
    /// Number of validators.
    pub size: i32,
    /// Number of validators that a decision needs.
    pub required: i32,
    /// Number of validators that take part now, as the operator sees it.
    pub participating: i32,
    /// Number of faulty validators, even malicious ones, that the chain tolerates.
    pub fault_tolerance: i32,
}

/// One validator.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// Name of the validator's pod.
    pub name: String,
    /// Id of the validator on the chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<i32>,
    /// BLAKE3 of the validator's public key, 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_fingerprint: Option<String>,
    /// Validator, CatchingUp, Isolated (its peers do not hear it), Learner, Waiting, Down, Silent,
    /// Unreachable, Stale (its volume is an older copy), Foreign (its key or chain is not that of
    /// the genesis) or Dissenting (it contradicts the other nodes).
    pub role: String,
    /// Newest sequence that the node says it executed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<i64>,
    /// Number of sequences by which the node is behind the sequence that `w` nodes agree on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<i64>,
    /// Version of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Time of the node's last answer, updated at least every half minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Time>,
    /// Time since which the node surely casts no vote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absent_since: Option<Time>,
    /// What the node waits for, or what is wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Summary for people.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Nodes that take part / all nodes, such as "4/4".
    pub nodes: String,
    /// Nodes that take part of the number that a decision needs, such as "4 of 3".
    pub quorum: String,
    /// Faults that the chain tolerates, such as "1 faulty".
    pub tolerates: String,
    /// "none", or the suspected members joined by commas.
    #[serde(default)]
    pub suspected: String,
    /// One sentence, derived from the conditions.
    pub status: String,
}
