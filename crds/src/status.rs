//! `CretoCluster.status`: what is so.
//!
//! Facts about the chain stand here only if `w` nodes agreed on them (f+1 at n = 3f+1), so no
//! single node is believed. With fewer reports the last agreed facts stay, and `agreedAt` says how
//! old they are.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// What is so.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CretoClusterStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Whether the chain is born. Never turns false again.
    #[serde(default)]
    pub bootstrapped: bool,
    /// Hash of the genesis: the identity of the chain, 64 hexadecimal digits.
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
    /// When facts of the chain were last agreed on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreed_at: Option<Time>,
    /// Members of whose violations the chain holds proof, as `w` nodes agree: their reputation is
    /// below full. By pod name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 31))]
    pub suspected: Vec<String>,
    /// How many nodes there are, take part, and are needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum: Option<QuorumStatus>,
    /// Version of the nodes that answered; several are joined by commas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Each validator.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 31))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub members: Vec<MemberStatus>,
    /// What a person reads first: the columns of `kubectl get`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
    /// Conditions: Ready, QuorumAvailable, Progressing, Degraded, KeysValid, ByzantineSuspected,
    /// Paused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// How many nodes there are, take part, and are needed.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct QuorumStatus {
    /// Validators.
    pub size: i32,
    /// Validators that a decision needs.
    pub required: i32,
    /// Validators that take part now, as the operator sees it.
    pub participating: i32,
    /// Faulty validators, even malicious ones, that the chain tolerates.
    pub fault_tolerance: i32,
}

/// One validator.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// Name of its pod.
    pub name: String,
    /// Its number on the chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<i32>,
    /// BLAKE3 of its public key, 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_fingerprint: Option<String>,
    /// Validator; or CatchingUp, Learner, Waiting, Down, Silent, Unreachable, Stale (its volume is
    /// an older copy), Foreign (another key or chain than in the genesis), Dissenting.
    pub role: String,
    /// The sequence that it says it executed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<i64>,
    /// How far that is behind what `w` nodes agree on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<i64>,
    /// Its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// When it last answered; brought up to date at least each half minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Time>,
    /// What it waits for, or what is wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What a person reads first.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// "4/4": nodes that take part, of all.
    pub nodes: String,
    /// "4 of 3": nodes that take part, of those that a decision needs.
    pub quorum: String,
    /// "1 faulty".
    pub tolerates: String,
    /// "none", or the suspected members, joined by commas.
    #[serde(default)]
    pub suspected: String,
    /// One sentence, derived from the conditions.
    pub status: String,
}
